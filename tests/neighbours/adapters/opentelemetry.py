"""OpenTelemetry's httpx, httpx2 and requests instrumentation: one CLIENT span per request, collected in memory."""

from __future__ import annotations

from typing import Any

from tests.neighbours import Neighbour


class OpenTelemetry(Neighbour):
    """The instrumentors, as `instrument()` and `uninstrument()` put them there and take them away."""

    hooks = frozenset({"httpx", "httpx2", "requests"})

    def __init__(self) -> None:
        self._spans: Any = None
        self._instrumentors: list[Any] = []

    def install(self) -> None:
        """Instrument the libraries with a provider of our own; the global one stays as it is."""
        from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
        from opentelemetry.instrumentation.requests import RequestsInstrumentor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        provider, self._spans = TracerProvider(), InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._instrumentors = [HTTPXClientInstrumentor(), HTTPX2ClientInstrumentor(), RequestsInstrumentor()]
        for instrumentor in self._instrumentors:
            instrumentor.instrument(tracer_provider=provider)

    def remove(self) -> None:
        """Uninstrument them."""
        for instrumentor in self._instrumentors:
            instrumentor.uninstrument()

    def seen(self) -> int:
        """Count the spans."""
        return len(self._spans.get_finished_spans()) if self._spans else 0


neighbour = OpenTelemetry()
