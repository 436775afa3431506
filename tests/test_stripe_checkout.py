"""Pages on which a customer pays later: Checkout sessions and payment links, held from the day they are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keyguard.errors import MalformedCall, UnpricedCall
from tests.support_guard import CENT
from tests.support_stripe_money import Case, Till, begun, prove
from tests.support_stripe_objects import priced
from tests.support_stripe_spec import statuses

SESSIONS, LINKS, CS_1 = "/v1/checkout/sessions", "/v1/payment_links", "/v1/checkout/sessions/cs_1"
ITEM: dict[str, Any] = {"price_data": {"currency": "usd", "product": "prod_1", "unit_amount": 1000}, "quantity": 2}
SHIPPED = {"shipping_rate_data": {"fixed_amount": {"amount": 150, "currency": "usd"}, "type": "fixed_amount"}}
RATE = {"id": "shr_1", "fixed_amount": {"amount": 400, "currency": "usd"}}


def session(amount: int | None = 2000, status: str = "open", paid: str = "unpaid", **fields: Any) -> dict[str, Any]:
    """Return a session."""
    return {"id": "cs_1", "amount_total": amount, "currency": "usd", "status": status, "payment_status": paid, "mode": "payment", **fields}


CREATE = Case("checkout.sessions.create", f"POST {SESSIONS}", {"mode": "payment", "line_items": [ITEM]}, session(), quoted=2000, held=2000)


def bought(note: str, quoted: int, reads: Any = None, *, recurring: bool = False, **form: Any) -> Case:
    """Return a case of a session that sells this."""
    return replace(
        CREATE, form={**CREATE.form, **form}, quoted=quoted, held=max(quoted, 2000), reads=reads or {}, recurring=recurring, note=note
    )


CASES = [
    CREATE,
    bought("at a price by its id", 3000, {"/v1/prices/price_1": priced()}, line_items=[{"price": "price_1", "quantity": 3}]),
    bought("the same twice", 5000, {"/v1/prices/price_1": priced()}, line_items=[{"price": "price_1", "quantity": 3},
                                                                                 {"price": "price_1", "quantity": 2}]),
    bought("what the customer chooses up to", 5000, {"/v1/prices/price_1": priced(unit=None, custom_unit_amount={
        "minimum": 500, "maximum": 5000, "preset": None})}, line_items=[{"price": "price_1", "quantity": 1}]),
    bought("as many as they like", 99_000, line_items=[{**ITEM, "adjustable_quantity": {"enabled": True}}]),
    bought("as many as they may", 7000, line_items=[{**ITEM, "adjustable_quantity": {"enabled": True, "maximum": 7}}]),
    bought("with more on offer", 4000, line_items=[ITEM], optional_items=[ITEM]),
    bought("shipped the dearest way", 2400, {"/v1/shipping_rates/shr_1": RATE}, shipping_options=[SHIPPED, {"shipping_rate": "shr_1"}]),
    bought("in an older form", 2000, line_items=[{"amount": 1000, "currency": "usd", "quantity": 2, "name": "x"}]),
    bought("by subscription", 6000, recurring=True, mode="subscription", line_items=[ITEM, ITEM, ITEM]),
    bought("by subscription, in an older form", 3000, {"/v1/plans/gold": {"id": "gold", "amount": 1000, "amount_decimal": "1000",
           "currency": "usd"}}, recurring=True, line_items=[], subscription_data={"items": [{"plan": "gold", "quantity": 3}]}),
    replace(CREATE, form={"mode": "setup"}, answer=session(None, mode="setup", currency=None), quoted=0, held=0,
            note="that only saves a card"),
    replace(CREATE, answer=session(1500), note="with a discount, which may still change"),
    Case("checkout.sessions.update", f"POST {CS_1}", {"metadata": {"a": "b"}}, session(), held=2000, before=(CREATE,), note="of words"),
    Case("checkout.sessions.update", f"POST {CS_1}", {"shipping_options": [SHIPPED]}, session(2150), quoted=2150, held=2150,
         reads={CS_1: session()}, before=(CREATE,)),
    Case("checkout.sessions.update", f"POST {CS_1}", {"line_items": [ITEM]}, session(2500), quoted=2700, held=2700,
         reads={CS_1: session(700)}, note="of another's"),
    Case("checkout.sessions.expire", f"POST {CS_1}/expire", {}, session(status="expired"), before=(CREATE,)),
    Case("payment_links.create", f"POST {LINKS}", {"line_items": [ITEM], "restrictions": {"completed_sessions": {"limit": 3}}},
         {"id": "plink_1", "currency": "usd", "active": True}, quoted=6000, held=6000),
    Case("payment_links.create", f"POST {LINKS}", {"line_items": [{"price": "price_1", "quantity": 1}], "subscription_data":
         {"trial_period_days": 7}, "restrictions": {"completed_sessions": {"limit": 1}}}, {"id": "plink_1", "currency": "usd"}, quoted=1000,
         held=1000, recurring=True, reads={"/v1/prices/price_1": priced()}, note="by subscription"),
    Case("payment_links.update", f"POST {LINKS}/plink_1", {"active": False, "metadata": {"a": "b"}}, {"id": "plink_1"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quote_and_settle(case: Case) -> None:
    """Held before the send, and for as long as a customer may pay; freed by a refusal, kept when nobody knows."""
    prove(case)


# (status, payment status) → (spent, held) of a session over 2000 cents.
LATER = {
    ("open", "unpaid"): (0, 2000), ("complete", "paid"): (2000, 0), ("complete", "no_payment_required"): (2000, 0),
    ("complete", "unpaid"): (0, 2000), ("expired", "unpaid"): (0, 0), ("open", "no_payment_required"): (0, 2000),
    ("open", "paid"): (0, 2000), ("expired", "paid"): (0, 0), ("expired", "no_payment_required"): (0, 0),
}  # fmt: skip


def test_every_status_of_a_session_is_read() -> None:
    """A status that Stripe adds fails here until somebody decides what it means."""
    assert {status for status, _ in LATER} == statuses("checkout.session")


@pytest.mark.parametrize(("status", "paid"), sorted(LATER))
def test_a_later_read_tells_what_became_of_it(status: str, paid: str) -> None:
    """Paid settles, expired releases; open, or complete with a payment that takes days, stays held."""
    spent, held = LATER[status, paid]
    prove(
        Case("checkout.sessions.retrieve", f"GET {CS_1}", {}, session(status=status, paid=paid), spent=spent, held=held, before=(CREATE,))
    )


def test_what_a_session_made_is_the_same_money() -> None:
    """Its PaymentIntent, once it is named, adds nothing."""
    paid = Case(
        "checkout.sessions.retrieve", f"GET {CS_1}", {}, session(status="complete", paid="paid", payment_intent="pi_1"), before=(CREATE,)
    )
    intent = Case("payment_intents.retrieve", "GET /v1/payment_intents/pi_1", {}, {"id": "pi_1", "amount": 2000, "amount_received": 2000,
                  "currency": "usd", "status": "succeeded"}, spent=2000, before=(CREATE, paid))  # fmt: skip
    prove(intent)


def test_a_link_that_is_switched_off_stays_counted() -> None:
    """It may have been paid before, which its answer does not say."""
    link = next(case for case in CASES if case.name == "payment_links.create")
    prove(replace(CASES[-1], before=(link,), held=6000))


def refused(name: str, request: str, form: dict[str, Any], message: str, reads: Any = None) -> Case:
    """Return a case that must be refused."""
    return Case(name, request, form, {}, reads=reads or {}, note=message)


LIMIT = {"restrictions": {"completed_sessions": {"limit": 1}}}
EUR = {"/v1/prices/price_1": priced(currency="eur")}
REFUSED = [
    refused("no price", f"POST {SESSIONS}", {"line_items": [{"quantity": 1}]}, "whose price cannot be read"),
    refused("a hidden price", f"POST {SESSIONS}", {"line_items": [{"price": "price_1"}]}, "whose price cannot be read",
            {"/v1/prices/price_1": 404}),
    refused("another currency", f"POST {SESSIONS}", {"line_items": [{"price": "price_1"}]}, "whose price cannot be read", EUR),
    refused("two currencies", f"POST {SESSIONS}", {"currency": "usd", "line_items": [{"price": "price_1"}]}, "whose price cannot be read",
            EUR),
    refused("what the customer likes", f"POST {SESSIONS}", {"line_items": [{"price": "price_1"}]}, "by the customer's choice",
            {"/v1/prices/price_1": priced(unit=None, custom_unit_amount={"minimum": 500, "maximum": None, "preset": None})}),
    refused("taxes", f"POST {SESSIONS}", {"line_items": [ITEM], "automatic_tax": {"enabled": True}}, "adds taxes"),
    refused("taxes on an item", f"POST {SESSIONS}", {"line_items": [{**ITEM, "tax_rates": ["txr_1"]}]}, "adds taxes"),
    refused("later taxes", f"POST {SESSIONS}", {"line_items": [ITEM], "subscription_data": {"default_tax_rates": ["txr_1"]}}, "adds taxes"),
    refused("taxes by place", f"POST {SESSIONS}", {"line_items": [{**ITEM, "dynamic_tax_rates": ["txr_1"]}]}, "adds taxes"),
    refused("hidden shipping", f"POST {SESSIONS}", {"line_items": [ITEM], "shipping_options": [{"shipping_rate": "shr_1"}]},
            "ships at a rate",
            {"/v1/shipping_rates/shr_1": 404}),
    refused("a list of words", f"POST {SESSIONS}", {"line_items": ["price_1"]}, "a list of objects"),
    refused("a word", f"POST {SESSIONS}", {"line_items": "price_1"}, "a list of objects"),
    refused("a hidden session", f"POST {CS_1}", {"line_items": [ITEM]}, "depends on cs_1", {CS_1: 404}),
    refused("a quantity", f"POST {CS_1}", {"line_items": [{"id": "li_1", "quantity": 9}]}, "whose price", {CS_1: session()}),
    refused("without end", f"POST {LINKS}", {"line_items": [ITEM]}, r"send restrictions\[completed_sessions\]\[limit\]"),
    refused("more often", f"POST {LINKS}/plink_1", {"restrictions": {"completed_sessions": {"limit": 9}}}, "make another link"),
    refused("something else", f"POST {LINKS}/plink_1", {"line_items": [{"id": "li_1", "quantity": 9}]}, "make another link"),
    refused("again", f"POST {LINKS}/plink_1", {"active": True}, "lets a link be paid again"),
    refused("a link's taxes", f"POST {LINKS}", {"line_items": [ITEM], "automatic_tax": {"enabled": "true"}, **LIMIT}, "adds taxes"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name.replace(" ", "-"))
def test_what_has_no_bound_is_refused(case: Case) -> None:
    """Nothing is sent or counted, and the message says what is missing."""
    world = Till()
    with pytest.raises((UnpricedCall, MalformedCall), match=case.note):
        world.run(case)

    assert (world.sent, world.whole) == (0, (0, 0, 0, 0))


def test_a_link_without_an_end_counts_the_flat_amount_of_the_policy() -> None:
    """For somebody who knows how often it is paid: what one payment costs, and what the policy says for the rest."""
    world = Till({"run_usd_cap": 100, "unpriced": 30})
    world.run(Case("payment_links.create", f"POST {LINKS}", {"line_items": [ITEM]}, {"id": "plink_1", "currency": "usd"}))

    assert world.whole == (0, 5000 * CENT, 0, 0)


def test_a_session_dearer_than_its_quote_is_booked_in_full() -> None:
    """What Stripe says is the truth, also above what was held."""
    world = begun(CREATE)
    ticket = world.run(replace(CREATE, answer=session(3000)))

    assert ticket.receipt is not None
    assert (ticket.receipt.held, ticket.receipt.overrun) == (3000 * CENT, 1000 * CENT)
