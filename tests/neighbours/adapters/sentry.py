"""sentry-sdk's aiohttp, httpx and standard library integrations: one breadcrumb per request. Sets up once, ever; removed = passive."""

from __future__ import annotations

from typing import Any

from tests.neighbours import Neighbour


class Sentry(Neighbour):
    """`init()`; its wrappers ask the current client whether they are wanted, and a client without integrations says no."""

    hooks = frozenset({"aiohttp", "httpx", "requests"})

    def __init__(self) -> None:
        self._crumbs: list[Any] = []

    def install(self) -> None:
        """Initialise with a hook that keeps each breadcrumb and sends none."""
        import sentry_sdk
        from sentry_sdk.integrations.aiohttp import AioHttpIntegration
        from sentry_sdk.integrations.httpx import HttpxIntegration

        def keep(crumb: Any, _hint: Any) -> None:
            self._crumbs.append(crumb)

        # Named, because by itself sentry imports every library that it knows and finds; `http.client` it hooks by default.
        hooks: dict[str, Any] = {"auto_enabling_integrations": False, "integrations": [AioHttpIntegration(), HttpxIntegration()]}
        sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", before_breadcrumb=keep, **hooks)

    def remove(self) -> None:
        """Put a client without integrations in the place of ours: more than that sentry does not offer."""
        import sentry_sdk

        sentry_sdk.init(dsn=None, default_integrations=False, auto_enabling_integrations=False)

    def seen(self) -> int:
        """Count the breadcrumbs of HTTP requests."""
        return sum(crumb["category"] == "httplib" for crumb in self._crumbs)


neighbour = Sentry()
