"""Whose trace a call belongs to that is made elsewhere than where its run was sent from: fabricated contexts, an SDK's own spans."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import keyguard
from keyguard import context, telemetry
from keyguard.prefect import labels
from tests.support_forks import charge
from tests.support_prefect import flow_run, in_flow
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer

pytestmark = pytest.mark.usefixtures("prefect_home")
carrying = sys.modules["keyguard.prefect.carrying"]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What an SDK exports that only keyguard's tracer and the test's know of."""
    found, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))
    yield found
    keyguard.uninstall()


@pytest.fixture
def tracer() -> Tracer:
    """The application's own, of which nothing is exported."""
    return TracerProvider().get_tracer("tests")


def sent(run: Any) -> Any:
    """Do what happens when a run's context is serialised; returns it as it comes to the other process."""
    with in_flow(run) as entered:
        carrying._before_leaving(entered)
    copy = in_flow(run.model_copy(update={"labels": dict(run.labels)}))
    copy.detached = True
    return copy


def charged(exporter: InMemorySpanExporter, copy: Any) -> ReadableSpan:
    """Charge where a run has come to; returns the call's span."""
    with StripeServer() as server, copy:
        charge(server.url, 100)
    *_, last = exporter.get_finished_spans()
    return last


def test_a_call_elsewhere_belongs_under_the_span_that_sent_its_run(exporter: InMemorySpanExporter, tracer: Tracer, url: str) -> None:
    """Nothing else is open there, so its parent is the span that was current when Prefect took the run's context along."""
    run = flow_run()
    with in_flow(run):
        keyguard.install(url, run_usd_cap=5)
    with tracer.start_as_current_span("sender") as sender:
        copy = sent(run)
    found, within = charged(exporter, copy), sender.get_span_context()

    assert found.parent is not None
    assert found.context is not None
    assert (found.parent.span_id, found.context.trace_id, found.parent.is_remote) == (within.span_id, within.trace_id, True)


def test_a_span_that_is_open_there_comes_first(exporter: InMemorySpanExporter, tracer: Tracer, url: str) -> None:
    """The application's own span, or Prefect's for the task, is nearer than what came along."""
    run = flow_run()
    with in_flow(run):
        keyguard.install(url, run_usd_cap=5)
    with tracer.start_as_current_span("sender"):
        copy = sent(run)
    with tracer.start_as_current_span("task") as task:
        found = charged(exporter, copy)

    assert found.parent is not None
    assert found.parent.span_id == task.get_span_context().span_id


def test_what_was_sent_from_no_trace_begins_its_own(exporter: InMemorySpanExporter, url: str) -> None:
    """Nothing is written, so nothing is read."""
    run = flow_run()
    with in_flow(run):
        keyguard.install(url, run_usd_cap=5)
    copy = sent(run)

    assert labels.TRACE_LABEL not in run.labels
    assert charged(exporter, copy).parent is None


def test_prefects_own_label_serves_where_ours_is_not(exporter: InMemorySpanExporter, url: str) -> None:
    """Prefect's telemetry writes the flow run's span to its labels, which also a deployment's run gets."""
    run, number = flow_run(), "4bf92f3577b34da6a3ce929d0e0e4736"
    with in_flow(run):
        keyguard.install(url, run_usd_cap=5)
    run.labels["__OTEL_TRACEPARENT"] = f"00-{number}-00f067aa0ba902b7-01"
    found = charged(exporter, sent(run))

    assert found.context is not None
    assert f"{found.context.trace_id:032x}" == number


def test_nobody_is_asked_after_uninstall(exporter: InMemorySpanExporter, tracer: Tracer, url: str) -> None:
    """What was learned of carried traces goes with the hooks."""
    run = flow_run()
    with in_flow(run):
        keyguard.install(url, run_usd_cap=5)
    with tracer.start_as_current_span("sender"):
        copy = sent(run)
    charged(exporter, copy)
    keyguard.uninstall()
    with copy:
        assert context.carried_trace() == ""
