"""One SERVER span for each request, joined to the caller's trace; the span of the vendor call is below it. Never breaks a request.

On a span: method, route and status. Never a path, a query, a header or a body (keyguard.telemetry says why). The `traceparent` that
came ends here: no vendor is told of it (keyguard.proxy.headers).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from keyguard.model import METHODS
from keyguard.telemetry import METHOD, STATUS
from keyguard.vendors import known_vendors

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What the propagator would warn of in the log is left out: anybody can send it.
_TRACESTATE = re.compile(
    rb"[a-z0-9][a-z0-9_\-*/@]{0,255}=[ -+\--<>-~]{1,256}(?:[ \t]*,[ \t]*[a-z0-9][a-z0-9_\-*/@]{0,255}=[ -+\--<>-~]{1,256}){0,31}"
)
# Asked for every few seconds by whoever looks after the process.
_SILENT = frozenset({"/healthz", "/readyz"})
_OWN = frozenset({"audit", "openapi.json", "v1", "vault"})
_tracer = trace.get_tracer("keyguard.proxy")
_propagator = TraceContextTextMapPropagator()


class Traced:
    """An ASGI application, with a span round each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request under its span."""
        if scope["type"] != "http" or scope["path"] in _SILENT:
            await self._app(scope, receive, send)
            return
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if _is_carried(name, value)}
        method, route = scope["method"] if scope["method"] in METHODS else "_OTHER", _route(scope["path"])
        with _tracer.start_as_current_span(
            f"{method} {route}", context=_propagator.extract(carrier) if carrier else None, kind=SpanKind.SERVER, record_exception=False,
            set_status_on_exception=False, attributes={METHOD: method, "http.route": route},
        ) as span:  # fmt: skip

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start" and span.is_recording():
                    span.set_attribute(STATUS, message["status"])
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, sending)


def _is_carried(name: bytes, value: bytes) -> bool:
    return name == b"traceparent" or (name == b"tracestate" and _TRACESTATE.fullmatch(value) is not None)


def _route(path: str) -> str:
    """Return what of a path there are few of: its first segment, where it is one of ours or a vendor's name."""
    first = path.split("/")[1] if "/" in path else ""
    return f"/{first}" if first in _OWN or first in known_vendors() else "/{unknown}"
