"""What every request passes before anybody looks at what it asks for: one form of target, one of each header, a head of bounded length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.proxy.denials import plain

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# Of each of these there is one in an honest request; of two, two readers may believe different ones.
_SINGLE = frozenset({
    b"authorization", b"content-encoding", b"content-length", b"content-type", b"host", b"idempotency-key", b"stripe-account",
    b"stripe-context", b"transfer-encoding", b"x-api-key",
})  # fmt: skip


class Gate:
    """
    An ASGI application before the others.

    Args:
        app: What comes next.
        max_head_bytes: Of all names and values, and the target: h11 bounds only what does not arrive at once.
    """

    def __init__(self, app: ASGIApp, max_head_bytes: int) -> None:
        self._app, self._most = app, max_head_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or end it and its connection."""
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
            return
        response = plain(*problem)
        response.headers["connection"] = "close"
        await response(scope, receive, send)

    def _problem(self, scope: Scope) -> tuple[int, str, str] | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if not scope["raw_path"].startswith(b"/"):
            return 400, "bad_request", "the target of a request is a path: this is no proxy for other hosts"
        size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers)
        if size > self._most:
            return 431, "too_large", f"the head of a request has at most {self._most} bytes here"
        names = [name for name, _ in headers]
        double = next((name for name in _SINGLE.intersection(names) if names.count(name) > 1), None)
        if double is not None:
            return 400, "bad_request", f"the header {double.decode()} is there twice"
        if b"transfer-encoding" in names and b"content-length" in names:
            # By such a request another one can be smuggled past whoever reads the other length.
            return 400, "bad_request", "a request has a Content-Length or a Transfer-Encoding, not both"
        return None
