"""ddtrace's aiohttp, httpx and requests integrations: one `http.request` span per request, dropped after being counted."""

from __future__ import annotations

import os
from typing import Any

from tests.neighbours import Neighbour


class DDTrace(Neighbour):
    """`patch()`, and each integration's own `unpatch()`. There is no agent: every trace is counted and dropped."""

    hooks = frozenset({"aiohttp", "httpx", "requests"})

    def __init__(self) -> None:
        self._spans: list[Any] = []

    def install(self) -> None:
        """Patch the libraries; ddtrace's own background traffic is off."""
        os.environ |= {f"DD_{name}_ENABLED": "false" for name in ("INSTRUMENTATION_TELEMETRY", "REMOTE_CONFIGURATION", "CRASHTRACKING")}
        from ddtrace import patch
        from ddtrace.trace import TraceFilter, tracer

        spans = self._spans

        class Counting(TraceFilter):
            def process_trace(self, trace: Any) -> None:
                """Keep the spans, and send none."""
                spans.extend(trace)

        tracer.configure(trace_processors=[Counting()])
        patch(aiohttp=True, httpx=True, requests=True)

    def remove(self) -> None:
        """Unpatch them."""
        from ddtrace.contrib.internal.aiohttp.patch import unpatch as unpatch_aiohttp
        from ddtrace.contrib.internal.httpx.patch import unpatch as unpatch_httpx
        from ddtrace.contrib.internal.requests.patch import unpatch as unpatch_requests

        unpatch_aiohttp()  # type: ignore[no-untyped-call]  # -- ddtrace's own
        unpatch_httpx()
        unpatch_requests()  # type: ignore[no-untyped-call]  # -- ddtrace's own

    def seen(self) -> int:
        """Count the spans of requests; aiohttp's connector has one of its own."""
        return sum(span.span_type == "http" for span in self._spans)


neighbour = DDTrace()
