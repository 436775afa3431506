"""logfire: OpenTelemetry's instrumentors with hooks of its own, one span per request, kept in memory."""

from __future__ import annotations

from typing import Any

from tests.neighbours import Neighbour


class Logfire(Neighbour):
    """`instrument_httpx()` and `instrument_requests()`; it offers no way back but OpenTelemetry's."""

    hooks = frozenset({"httpx", "httpx2", "requests"})

    def __init__(self) -> None:
        self._spans: Any = None

    def install(self) -> None:
        """Configure it to send nothing, and instrument the libraries."""
        import logfire
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._spans = InMemorySpanExporter()
        kept = [SimpleSpanProcessor(self._spans)]
        logfire.configure(send_to_logfire=False, console=False, inspect_arguments=False, additional_span_processors=kept)
        logfire.instrument_httpx()
        logfire.instrument_requests()

    def remove(self) -> None:
        """Uninstrument them."""
        from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
        from opentelemetry.instrumentation.requests import RequestsInstrumentor

        HTTPX2ClientInstrumentor().uninstrument()
        HTTPXClientInstrumentor().uninstrument()
        RequestsInstrumentor().uninstrument()

    def seen(self) -> int:
        """Count the clients' spans; keyguard's own are INTERNAL, and logfire is told of them too."""
        from opentelemetry.trace import SpanKind

        spans = self._spans.get_finished_spans() if self._spans else ()
        return sum(span.kind is SpanKind.CLIENT for span in spans)


neighbour = Logfire()
