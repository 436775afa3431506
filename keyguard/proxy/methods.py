"""What is said to a method that one of the proxy's own paths does not have. Knows no path by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from keyguard.proxy.denials import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Receive, Scope, Send


def others(routes: Iterable[Route]) -> list[Route]:
    """Return a route for each path that some routes have, which answers every method that none of them has: to be put behind them."""
    methods: dict[str, set[str]] = {}
    for route in routes:
        methods.setdefault(route.path, set()).update(route.methods or ())
    return [Route(path, _Other(", ".join(sorted(found)))) for path, found in methods.items()]


class _Other:
    """An ASGI application: 405, with the methods that there are (RFC 9110, 15.5.6)."""

    def __init__(self, allowed: str) -> None:
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = plain(405, "method_not_allowed", f"this path has the methods {self._allowed}")
        response.headers["allow"] = self._allowed
        # A body may follow, which nobody reads.
        response.headers["connection"] = "close"
        await response(scope, receive, send)
