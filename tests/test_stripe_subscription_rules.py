"""What follows a subscription's first call: reads that settle it, changes that add to it, what is refused, and the flag that it recurs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from keyguard import telemetry
from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Reply
from tests.support_guard import CENT
from tests.support_stripe_money import Case, Till, begun, prove
from tests.support_stripe_objects import (
    CUSTOMER,
    FORM,
    INLINE,
    ITEMS,
    METERED,
    NOBODY,
    PENDING,
    SCHEDULES,
    SUBS,
    SUBSCRIBE,
    invoice,
    item,
    priced,
    subscription,
    unpaid,
    waiting,
)  # fmt: skip

CANCEL = Case("subscriptions.delete", f"DELETE {SUBS}/sub_1", {}, subscription(status="canceled"))
READ = Case("subscriptions.retrieve", f"GET {SUBS}/sub_1", {}, subscription(latest_invoice=invoice()), spent=2000, before=(SUBSCRIBE,))


@pytest.mark.parametrize(
    ("answer", "spent", "held"),
    [
        (invoice(), 2000, 0), (unpaid(2000), 0, 2000),
        (unpaid(2000, "void"), 0, 0), (invoice(amount_due=0, amount_paid=0), 0, 0),
        (invoice(amount_due=1500, amount_paid=1500), 1500, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["invoices.retrieve", "subscriptions.retrieve", "subscriptions.list"])
def test_a_later_read_tells_what_the_first_invoice_cost(name: str, answer: dict[str, Any], spent: int, held: int) -> None:
    """Paid settles, void releases, open stays held; of the invoice itself, or of the subscription with it expanded."""
    of_subscription = subscription(latest_invoice=answer)
    path, body = {
        "invoices.retrieve": ("/v1/invoices/in_1", answer), "subscriptions.retrieve": (f"{SUBS}/sub_1", of_subscription),
        "subscriptions.list": (SUBS, {"data": [of_subscription]}),
    }[name]  # fmt: skip
    prove(replace(READ, name=name, request=f"GET {path}", answer=body, spent=spent, held=held))


def test_a_read_without_the_invoice_changes_nothing() -> None:
    """An id says nothing of money."""
    prove(replace(READ, answer=subscription(), spent=0, held=2000))


OLD = {f"{SUBS}/sub_1": subscription()}
CHANGE = Case("subscriptions.update", f"POST {SUBS}/sub_1", {"items": [{"id": "si_1", "quantity": 4}]}, subscription(), quoted=4000,
              held=6000, recurring=True, reads={**OLD, "/v1/prices/price_1": priced()}, before=(SUBSCRIBE,))  # fmt: skip


def test_changes_add_to_what_is_held() -> None:
    """Stripe may invoice each of them, which their answers do not show; the subscription's own hold grows."""
    prove(CHANGE)
    prove(replace(CHANGE, quoted=8000, held=10000, before=(SUBSCRIBE, CHANGE)))


def test_what_waited_for_the_customer_is_collected() -> None:
    """An item of this run, held under its customer, is taken over by the first invoice, and not counted twice."""
    waits = Case("invoiceitems.create", "POST /v1/invoiceitems", {"customer": "cus_1", "amount": 500, "currency": "usd"}, waiting(500),
                 quoted=500, held=500)  # fmt: skip
    collected = replace(SUBSCRIBE, quoted=2500, held=2500, before=(waits,))
    prove(replace(collected, reads={**SUBSCRIBE.reads, PENDING: {"data": [waiting(500)]}}))
    prove(replace(collected, quoted=2700, held=2700, reads={**SUBSCRIBE.reads, PENDING: {"data": [waiting(500), waiting(200, "ii_2")]}}))


def refused(name: str, request: str, form: dict[str, Any], message: str, reads: Any = None) -> Case:
    """Return a case that must be refused."""
    return Case(name, request, form, {}, reads=reads or {}, note=message)


PAID = {"/v1/prices/price_1": priced()}
USED = {f"{SUBS}/sub_1": subscription(item(price=priced(recurring=METERED)))}
MANY = {"data": [], "has_more": True}
REFUSED = [
    refused("taxes", f"POST {SUBS}", {**FORM, "automatic_tax": {"enabled": True}}, "adds taxes", {**PAID, **NOBODY}),
    refused("tax rates", f"POST {SUBS}", {**FORM, "default_tax_rates": ["txr_1"]}, "adds taxes", {**PAID, **NOBODY}),
    refused("tax percent", f"POST {SUBS}", {**FORM, "tax_percent": "19"}, "adds taxes", {**PAID, **NOBODY}),
    refused("backdated", f"POST {SUBS}", {**FORM, "backdate_start_date": 1}, "since 'backdate_start_date'", {**PAID, **NOBODY}),
    refused("billed ahead", f"POST {SUBS}", {**FORM, "billing_schedules": [{"bill_until": {"type": "duration"}}]}, "several periods",
            {**PAID, **NOBODY}),
    refused("no such price", f"POST {SUBS}", FORM, "whose price cannot be read", {"/v1/prices/price_1": 404, **NOBODY}),
    refused("no price", f"POST {SUBS}", {"items": [{"quantity": 1}]}, "whose price cannot be read"),
    refused("tiers", f"POST {SUBS}", FORM, "a price by tiers",
            {"/v1/prices/price_1": priced(unit=None, unit_amount_decimal=None, billing_scheme="tiered"), **NOBODY}),
    refused("hidden items", f"POST {SUBS}", FORM, "items that cannot be read", {**PAID, **NOBODY, PENDING: 403}),
    refused("many items", f"POST {SUBS}", FORM, "items that cannot be read",
            {**PAID, **NOBODY, PENDING: MANY, f"{PENDING}&pending=true": MANY}),
    refused("hidden customer", f"POST {SUBS}", FORM, "what the customer owes", {**PAID, **NOBODY, CUSTOMER: 403}),
    refused("another currency", f"POST {SUBS}", {**FORM, "currency": "eur"}, "no exchange rate"),
    refused("hidden", f"POST {SUBS}/sub_1", {"quantity": 2}, "depends on sub_1", {f"{SUBS}/sub_1": 404}),
    refused("usage", f"POST {SUBS}/sub_1", {"billing_cycle_anchor": "now"}, "what was used", {**USED, **NOBODY}),
    refused("usage at the end", f"DELETE {SUBS}/sub_1", {"invoice_now": True}, "without invoice_now it does not", {**USED, **NOBODY}),
    refused("usage of a pause", f"POST {SUBS}/sub_1/pause", {"invoicing_behavior": "invoice"}, "what was used"),
    refused("unknown item", f"POST {SUBS}/sub_1", {"items": [{"id": "si_9", "quantity": 2}]}, "whose price cannot be read", OLD),
    refused("nobody's", f"POST {ITEMS}", {"proration_behavior": "always_invoice", **INLINE}, "a customer that the request does not name"),
    refused("taxed item", f"POST {ITEMS}/si_1", {"tax_rates": ["txr_1"]}, "adds taxes", {f"{ITEMS}/si_1": item()}),
    refused("deleted and invoiced", f"DELETE {ITEMS}/si_1", {"proration_behavior": "always_invoice"}, "with another proration_behavior"),
    refused("past", f"POST {SCHEDULES}", {"customer": "cus_1", "start_date": 1, "phases": [{"items": [INLINE]}]}, "send start_date=now",
            NOBODY),
    refused("hidden schedule", f"POST {SCHEDULES}/sub_sched_1/cancel", {}, "depends on sub_sched_1", {f"{SCHEDULES}/sub_sched_1": 404}),
    refused("hidden quote", "POST /v1/quotes/qt_1/accept", {}, "depends on qt_1", {"/v1/quotes/qt_1": 404}),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name.replace(" ", "-"))
def test_what_has_no_bound_is_refused_or_counts_the_flat_amount(case: Case) -> None:
    """Nothing is sent, and the message says what is missing; a policy's flat amount is held on top of what can be told."""
    world = Till()
    with pytest.raises((UnpricedCall, MalformedCall), match=case.note):
        world.run(case)

    assert (world.sent, world.whole) == (0, (0, 0, 0, 0))


def test_a_flat_amount_is_held_on_top() -> None:
    """For the taxes, say: what is in the request plus what the policy says."""
    case = next(case for case in REFUSED if case.name == "taxes")
    world = Till({"run_usd_cap": 100, "unpriced": 5})
    world.run(replace(case, answer=subscription()))

    assert world.whole == (0, 2500 * CENT, 0, 0)


@pytest.mark.parametrize("form", [{"backdate_start_date": 1, "proration_behavior": "none"}, {"default_tax_rates": ""}])
def test_what_only_looks_like_more_is_not_refused(form: dict[str, Any]) -> None:
    """A past that is not charged, and an empty list of taxes."""
    prove(replace(SUBSCRIBE, form={**FORM, **form}))


# -- it comes again ------------------------------------------------------------------------------------


def test_the_run_says_what_comes_again() -> None:
    """The receipt, the figures and the log name a charge that Stripe will repeat by itself; a plan's end and a decline do not count."""
    world = begun(SUBSCRIBE)
    ticket = world.run(SUBSCRIBE)
    usage = world.backend.usage("run:run-1")
    (reserved,) = [row for row in world.ledger.entries() if row["kind"] == "reserve" and row["operation"] == SUBSCRIBE.name]

    assert ticket.receipt is not None
    assert usage is not None
    assert (ticket.receipt.recurring, usage.recurring, reserved["detail"]) == (True, 1, {"recurring": True})
    world.run(SUBSCRIBE, Reply(402, {}, b"{}"))
    world.run(CANCEL)
    after = world.backend.usage("run:run-1")
    assert after is not None
    assert after.recurring == 1


@pytest.mark.parametrize(("case", "expected"), [(SUBSCRIBE, True), (CANCEL, None)], ids=["create", "cancel"])
def test_the_span_says_what_comes_again(case: Case, expected: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`keyguard.cost.recurring` is on the span of such a call, and on no other."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))
    world = begun(case)
    with telemetry.span(world.run(case)):
        pass
    (span,) = exporter.get_finished_spans()
    provider.shutdown()

    assert dict(span.attributes or {}).get("keyguard.cost.recurring") is expected
