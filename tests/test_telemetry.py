"""The span of a call, as an exporter sees it, and the log records."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from keyguard import context, telemetry
from keyguard.context import RunRef
from keyguard.drivers import adrive, drive
from keyguard.errors import LedgerUnavailable, SpendCapExceeded
from keyguard.guard import guarded
from keyguard.model import Attempt, Reply
from keyguard.vendors import vendor_named
from tests.support_guard import CENT, Lost, World, create_call, intent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Give the module a tracer of an SDK of its own, so that no global provider is set by a test."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))
    yield found
    provider.shutdown()


def _guarded(world: World, **call: Any) -> None:
    ticket, flow = world.flow(create_call(**call))
    ticket.run = RunRef("run-1", "prefect", attributes=(("prefect.flow_run.id", "run-1"),))
    send = world.charges(Reply(200, {"request-id": "req_1"}, intent()))
    with telemetry.span(ticket), context.under(ticket):
        drive(flow, ticket, send, None)


def _only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (found,) = exporter.get_finished_spans()
    return found


def test_an_allowed_call_has_one_internal_span_with_its_money(exporter: InMemorySpanExporter) -> None:
    """Name, kind, decision, amounts in dollars, outcome, the vendor's request id and the engine's run id."""
    _guarded(World())
    span = _only(exporter)
    expected = {
        "keyguard.vendor": "stripe", "keyguard.operation": "payment_intents.create", "keyguard.decision": "allowed",
        "keyguard.run.id": "run-1", "keyguard.policy.id": "p", "prefect.flow_run.id": "run-1",
        "keyguard.reservation.amount": 20.0, "keyguard.cost.amount": 20.0, "keyguard.cost.currency": "USD",
        "keyguard.cost.source": "provider", "keyguard.settlement.outcome": "settled", "keyguard.budget.limit": 100.0,
        "keyguard.budget.remaining": 80.0, "keyguard.vendor.request_id": "req_1", "service.peer.name": "stripe",
        "server.address": "api.stripe.com", "server.port": 443, "http.request.method": "POST", "http.response.status_code": 200,
    }  # fmt: skip
    attributes = dict(span.attributes or {})
    reservation = attributes.pop("keyguard.reservation.id")

    assert attributes == expected
    assert isinstance(reservation, str)
    assert (span.name, span.kind, span.status.status_code) == ("stripe payment_intents.create", SpanKind.INTERNAL, StatusCode.UNSET)


def test_a_refused_call_is_an_error_with_its_reason(exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture) -> None:
    """Decision `refused`, the reason as error.type, no exception text; and one WARNING that says what to type."""
    with caplog.at_level(logging.WARNING, "keyguard"), pytest.raises(SpendCapExceeded):
        _guarded(World({"run_usd_cap": 1}))
    span = _only(exporter)
    attributes = dict(span.attributes or {})

    assert attributes["keyguard.decision"] == "refused"
    assert attributes["keyguard.refusal.reason"] == attributes["error.type"] == "cap_exceeded"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "cap_exceeded")
    assert not span.events
    assert "keyguard raise --run run-1" in caplog.text


def test_a_lost_answer_is_in_doubt(exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture) -> None:
    """Outcome `in_doubt`, the amount still counted as cost, source `held`, a WARNING."""
    world = World()
    ticket, flow = world.flow(create_call())
    with caplog.at_level(logging.WARNING, "keyguard"), pytest.raises(Lost), telemetry.span(ticket), context.under(ticket):
        drive(flow, ticket, world.charges(error=Lost()), None)
    attributes = dict(_only(exporter).attributes or {})

    assert attributes["keyguard.settlement.outcome"] == "in_doubt"
    assert (attributes["keyguard.cost.amount"], attributes["keyguard.cost.source"], attributes["error.type"]) == (20.0, "held", "Lost")
    assert "in doubt" in caplog.text


def test_truth_above_the_hold_is_said(exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture) -> None:
    """A vendor that charged more than was held makes a WARNING with the difference, and the whole cost on the span."""
    world = World()
    with caplog.at_level(logging.WARNING, "keyguard"):
        ticket, flow = world.flow(create_call(2000))
        with telemetry.span(ticket), context.under(ticket):
            drive(flow, ticket, world.charges(Reply(200, {}, intent(2500))), None)

    assert dict(_only(exporter).attributes or {})["keyguard.cost.amount"] == 25.0
    assert "$5.00 more than was held" in caplog.text
    assert world.counted == (2500 * CENT, 0, 0)


@pytest.mark.parametrize(("status", "is_error"), [(200, False), (402, True), (500, True)])
def test_a_vendors_error_status_is_an_error(exporter: InMemorySpanExporter, status: int, is_error: bool) -> None:
    """4xx and 5xx make the span an error with the status as its type."""
    world = World()
    ticket, flow = world.flow(create_call())
    with telemetry.span(ticket), context.under(ticket):
        drive(flow, ticket, world.charges(Reply(status, {}, intent())), None)
    span = _only(exporter)

    assert (span.status.status_code is StatusCode.ERROR) is is_error
    assert dict(span.attributes or {}).get("error.type") == (str(status) if is_error else None)


def test_a_wanted_cancellation_is_no_error(exporter: InMemorySpanExporter) -> None:
    """A cancelled call leaves the span's status unset."""
    world = World()

    async def main() -> None:
        ticket, flow = world.flow(create_call())

        async def send(opened: context.Ticket) -> Any:
            with opened.attempt():
                await anyio.sleep_forever()

        with anyio.move_on_after(0.05), telemetry.span(ticket), context.under(ticket):
            await adrive(flow, ticket, send, None)

    anyio.run(main)
    span = _only(exporter)

    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {})["keyguard.settlement.outcome"] == "in_doubt"
    assert world.counted == (0, 0, 2000 * CENT)


def test_an_unavailable_ledger_is_the_spans_error(exporter: InMemorySpanExporter) -> None:
    """`ledger_unavailable` is the refusal reason when nobody could decide."""
    world = World()
    ticket, flow = world.flow(create_call())
    flow.close()

    def find(_ticket: context.Ticket, _fresh: bool) -> Any:
        raise LedgerUnavailable("gone")

    with pytest.raises(LedgerUnavailable), telemetry.span(ticket), context.under(ticket):
        drive(guarded(ticket, vendor_named("stripe"), find), ticket, world.charges(), None)
    attributes = dict(_only(exporter).attributes or {})

    assert attributes["error.type"] == "ledger_unavailable"


def test_without_an_sdk_nothing_is_put_into_the_context() -> None:
    """Where nobody records and no trace of the caller's goes on, the block runs in the caller's own context."""
    before = get_current()
    with telemetry.span(context.Ticket(create_call())):
        within = get_current()

    assert within is before


class _Broken:
    """A tracer whose spans fail at everything."""

    def __getattr__(self, _name: str) -> Any:
        raise RuntimeError("telemetry is down")


class _Spoiled:
    """A tracer that starts spans which then fail."""

    def start_span(self, *_: Any, **__: Any) -> Any:
        return _FailingSpan()


class _FailingSpan:
    """Fails at each question, but can stand in a context."""

    def is_recording(self) -> bool:
        raise RuntimeError("telemetry is down")


@pytest.mark.parametrize("tracer", [_Broken(), _Spoiled()], ids=["start", "finish"])
def test_broken_telemetry_never_breaks_a_call(monkeypatch: pytest.MonkeyPatch, tracer: Any) -> None:
    """A tracer that raises leaves the call, its reply and its money as they are."""
    monkeypatch.setattr(telemetry, "_tracer", tracer)
    world = World()
    _guarded(world)

    assert world.counted == (2000 * CENT, 0, 0)


def test_a_retried_call_counts_its_attempts(exporter: InMemorySpanExporter) -> None:
    """More than one attempt is on the span; one is not worth an attribute."""
    world = World()
    ticket, flow = world.flow(create_call())

    def send(opened: context.Ticket) -> Any:
        for attempt in (Attempt(reply=Reply(500)), Attempt(reply=Reply(200, {}, intent()))):
            with opened.attempt() as ended:
                ended(attempt)

    with telemetry.span(ticket), context.under(ticket):
        drive(flow, ticket, send, None)

    assert dict(_only(exporter).attributes or {})["keyguard.call.attempts"] == 2
