"""Subscriptions, their items and schedules, and quotes: the first charge is bounded, and what a change may charge at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support_stripe_money import Case, prove
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
from tests.support_stripe_spec import synthesized

OLD = {f"{SUBS}/sub_1": subscription()}
PLAN = synthesized("plan", id="gold", amount=700, amount_decimal="700", currency="usd", billing_scheme="per_unit", usage_type="licensed")
TWO = subscription(item(), item("si_2", priced("price_2", 400), quantity=5))
QUOTED = {"id": "qt_1", "amount_total": 1500, "currency": "usd", "customer": "cus_1", "status": "open"}


def computed(upfront: int, *, recurring: int = 0) -> dict[str, Any]:
    """Return what a quote says of its parts."""
    parts = {"total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0}}
    again = {"amount_subtotal": recurring, "amount_total": recurring, "interval": "month", "interval_count": 1, **parts}
    return {"upfront": {"amount_subtotal": upfront, "amount_total": upfront, **parts}, "recurring": again if recurring else None}


ACCEPT = Case("quotes.accept", "POST /v1/quotes/qt_1/accept", {},
              {**QUOTED, "status": "accepted", "computed": computed(1500), "invoice": "in_9"}, quoted=1500, held=1500,
              reads={"/v1/quotes/qt_1": {**QUOTED, "computed": computed(1500)}})  # fmt: skip
QUOTES = [
    ACCEPT,
    replace(ACCEPT, quoted=1950, held=1950, recurring=True,
            answer={**QUOTED, "status": "accepted", "computed": computed(1900, recurring=900)},
            reads={"/v1/quotes/qt_1": {**QUOTED, "computed": computed(1900, recurring=900)}, **NOBODY, PENDING: {"data": [waiting(50)]}},
            note="of a subscription"),
    replace(ACCEPT, recurring=True, answer={**QUOTED, "status": "accepted", "computed": computed(0, recurring=900)},
            reads={"/v1/quotes/qt_1": {**QUOTED, "customer": None, "computed": computed(0, recurring=900)}}, note="of nobody yet"),
]  # fmt: skip

CASES = [
    *QUOTES,
    SUBSCRIBE,
    replace(SUBSCRIBE, answer=subscription(latest_invoice=invoice()), spent=2000, held=0, note="its invoice expanded"),
    replace(SUBSCRIBE, answer=subscription(latest_invoice=unpaid(2000), status="incomplete"),
            note="its open invoice expanded"),
    replace(SUBSCRIBE, answer=subscription(status="incomplete_expired"), held=0, note="ended at once"),
    replace(SUBSCRIBE, answer=subscription(latest_invoice=None, status="trialing"), note="without an invoice yet"),
    replace(SUBSCRIBE, quoted=2900, held=2900, reads={"/v1/prices/price_1": priced(), PENDING: {"data": [waiting(500), waiting(-50)]},
            CUSTOMER: {"id": "cus_1", "balance": 400, "currency": "usd"}}, note="for a customer who owes"),
    replace(SUBSCRIBE, quoted=2900, held=2900, form={**FORM, "add_invoice_items": [INLINE]}, note="with a setup fee"),
    replace(SUBSCRIBE, quoted=900, held=900, form={"customer": "cus_1", "items": [INLINE]}, reads=NOBODY, note="with prices of its own"),
    replace(SUBSCRIBE, quoted=0, held=0, reads={"/v1/prices/price_1": priced(recurring=METERED), **NOBODY}, note="by usage"),
    replace(SUBSCRIBE, quoted=3, held=3, reads={"/v1/prices/price_1": priced(unit=None, unit_amount_decimal="1.25"), **NOBODY},
            note="in parts of a cent, rounded up"),
    replace(SUBSCRIBE, quoted=1400, held=1400, form={"customer": "cus_1", "plan": "gold", "quantity": 2},
            reads={"/v1/plans/gold": PLAN, **NOBODY}, note="by plan"),
    Case("customers.subscriptions.create", "POST /v1/customers/cus_1/subscriptions", {"items": FORM["items"]}, subscription(), quoted=2000,
         held=2000, recurring=True, reads=SUBSCRIBE.reads),
    Case("subscriptions.update", f"POST {SUBS}/sub_1", {"metadata": {"a": "b"}, "cancel_at_period_end": True}, subscription(),
         note="that charges nothing"),
    Case("subscriptions.update", f"POST {SUBS}/sub_1", {"items": [{"id": "si_1", "quantity": 4}]}, subscription(), quoted=4000, held=4000,
         recurring=True, reads={**OLD, "/v1/prices/price_1": priced()}, note="of the quantity"),
    Case("subscriptions.update", f"POST {SUBS}/sub_1", {"items": [{"id": "si_1", "price": "price_2"}]}, subscription(), quoted=2400,
         held=2400, recurring=True, reads={f"{SUBS}/sub_1": TWO, "/v1/prices/price_2": priced("price_2", 400), **NOBODY},
         note="of a price"),
    Case("subscriptions.update", f"POST {SUBS}/sub_1", {"billing_cycle_anchor": "now"}, subscription(), quoted=3000, held=3000,
         recurring=True, reads={f"{SUBS}/sub_1": TWO, **NOBODY}, note="of the period"),
    Case("subscriptions.update", f"POST {SUBS}/sub_1", {"proration_behavior": "always_invoice", "quantity": 3}, subscription(), quoted=3300,
         held=3300, recurring=True, reads={**OLD, "/v1/prices/price_1": priced(), **NOBODY, PENDING: {"data": [waiting(300)]}},
         note="invoiced at once"),
    Case("subscriptions.update", f"POST {SUBS}/sub_1", {"items": [{"id": "si_1", "deleted": True}]}, subscription(), quoted=2000, held=2000,
         recurring=True, reads={f"{SUBS}/sub_1": TWO}, note="without an item"),
    Case("customers.subscriptions.update", "POST /v1/customers/cus_1/subscriptions/sub_1", {"plan": "gold"}, subscription(), quoted=700,
         held=700, recurring=True, reads={"/v1/customers/cus_1/subscriptions/sub_1": subscription(), "/v1/plans/gold": PLAN, **NOBODY}),
    Case("subscriptions.delete", f"DELETE {SUBS}/sub_1", {}, subscription(status="canceled")),
    Case("subscriptions.delete", f"DELETE {SUBS}/sub_1", {"invoice_now": True}, subscription(status="canceled"), quoted=800, held=800,
         reads={**OLD, PENDING: {"data": [waiting(800)]}, CUSTOMER: NOBODY[CUSTOMER]}, note="with a last invoice"),
    Case("subscriptions.delete", f"DELETE {SUBS}/sub_1", {"prorate": True}, subscription(status="canceled"), quoted=1000, held=1000,
         reads=OLD, note="with a credit"),
    Case("customers.subscriptions.delete", "DELETE /v1/customers/cus_1/subscriptions/sub_1", {"invoice_now": False}, subscription()),
    Case("subscriptions.resume", f"POST {SUBS}/sub_1/resume", {"billing_cycle_anchor": "now"}, subscription(), quoted=1000, held=1000,
         recurring=True, reads={**OLD, **NOBODY}),
    Case("subscriptions.pause", f"POST {SUBS}/sub_1/pause", {"type": "subscription"}, subscription(status="paused")),
    Case("subscription_items.create", f"POST {ITEMS}", {"subscription": "sub_1", "price": "price_1", "quantity": 3}, item("si_2"),
         quoted=3000, held=3000, recurring=True, reads={"/v1/prices/price_1": priced()}),
    Case("subscription_items.create", f"POST {ITEMS}", {"subscription": "sub_1", "proration_behavior": "always_invoice", **INLINE},
         item("si_2"), quoted=1200, held=1200, recurring=True, reads={**OLD, **NOBODY, PENDING: {"data": [waiting(300)]}},
         note="invoiced at once"),
    Case("subscription_items.update", f"POST {ITEMS}/si_1", {"quantity": 5}, item(), quoted=5000, held=5000, recurring=True,
         reads={f"{ITEMS}/si_1": item()}),
    Case("subscription_items.update", f"POST {ITEMS}/si_1", {"price": "price_2"}, item(), quoted=1600, held=1600, recurring=True,
         reads={f"{ITEMS}/si_1": item(quantity=4), "/v1/prices/price_2": priced("price_2", 400), **OLD, **NOBODY}, note="of the price"),
    Case("subscription_items.update", f"POST {ITEMS}/si_1", {"metadata": {"a": "b"}}, item(), note="that charges nothing"),
    Case("subscription_items.delete", f"DELETE {ITEMS}/si_1", {}, {"id": "si_1", "deleted": True}),
    Case("subscription_schedules.create", f"POST {SCHEDULES}", {"customer": "cus_1", "start_date": "now",
         "phases": [{"items": [INLINE]}, {"items": [{"price": "price_1"}], "add_invoice_items": [INLINE]}]},
         {"id": "sub_sched_1", "status": "active"}, quoted=2800, held=2800, recurring=True,
         reads={"/v1/prices/price_1": priced(), **NOBODY}),
    Case("subscription_schedules.create", f"POST {SCHEDULES}", {"from_subscription": "sub_1"}, {"id": "sub_sched_1", "status": "active"},
         recurring=True, note="of a subscription"),
    Case("subscription_schedules.update", f"POST {SCHEDULES}/sub_sched_1", {"phases": [{"plans": [{"plan": "gold"}]}]},
         {"id": "sub_sched_1", "status": "active"}, quoted=700, held=700, recurring=True, reads={"/v1/plans/gold": PLAN}),
    Case("subscription_schedules.update", f"POST {SCHEDULES}/sub_sched_1", {"metadata": {"a": "b"}}, {"id": "sub_sched_1"},
         note="that charges nothing"),
    Case("subscription_schedules.cancel", f"POST {SCHEDULES}/sub_sched_1/cancel", {"invoice_now": False, "prorate": False},
         {"id": "sub_sched_1", "status": "canceled"}),
    Case("subscription_schedules.cancel", f"POST {SCHEDULES}/sub_sched_1/cancel", {}, {"id": "sub_sched_1", "status": "canceled"},
         reads={f"{SCHEDULES}/sub_sched_1": {"id": "sub_sched_1", "subscription": None}}, note="before it began"),
    Case("subscription_schedules.cancel", f"POST {SCHEDULES}/sub_sched_1/cancel", {}, {"id": "sub_sched_1", "status": "canceled"},
         quoted=1000, held=1000, reads={f"{SCHEDULES}/sub_sched_1": {"id": "sub_sched_1", "subscription": "sub_1"}, **OLD, **NOBODY},
         note="that invoices and credits by default"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quote_and_settle(case: Case) -> None:
    """Held before the send, and until it is known; freed by a refusal, kept when nobody knows."""
    prove(case)
