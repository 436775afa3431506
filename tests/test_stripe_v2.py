"""Money of Stripe's v2 API: JSON with an amount of its own currency, and statuses that move on after the answer."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any, get_args, get_type_hints

import pytest
from stripe.v2.money_management import OutboundPayment, PayoutIntent

from keyguard.errors import MalformedCall, SpendCapExceeded, UnpricedCall
from keyguard.model import Call, Reply
from tests.support_guard import CENT
from tests.support_stripe_money import Case, Till, begun, prove

PATH, NAME = "/v2/money_management", "v2.money_management"
USD = {"value": 500, "currency": "usd"}
TO = {"recipient": "acct_1", "currency": "usd"}


def payment(status: str = "processing", kind: str = "outbound_payment", amount: int = 500, **fields: Any) -> dict[str, Any]:
    """Return a payment, or an intent to make one."""
    known = {"id": "obp_1" if kind == "outbound_payment" else "pi_1", "object": f"{NAME}.{kind}", "status": status}
    return {**known, "amount": {"value": amount, "currency": "usd"}, **fields}


def intent(status: str = "pending", amount: int = 500, **fields: Any) -> dict[str, Any]:
    """Return an intent to pay out."""
    return payment(status, "payout_intent", amount, **fields)


INTENT, OWN = f"{PATH}/payout_intents/pi_1", f"{NAME}.payout_intents"
CREATE = Case(f"{OWN}.create", f"POST {PATH}/payout_intents", {"amount": USD, "to": TO}, intent(), quoted=500, held=500)
PAY = Case(
    f"{NAME}.outbound_payments.create", f"POST {PATH}/outbound_payments", {"amount": USD, "to": TO}, payment(), quoted=500, spent=500
)
PULL = Case(f"{NAME}.inbound_transfers.create", f"POST {PATH}/inbound_transfers", {"amount": USD, "from": {"currency": "usd"}},
            {"id": "ibt_1", "object": f"{NAME}.inbound_transfer", "amount": USD}, quoted=500, spent=500)  # fmt: skip
CASES = [
    PAY, PULL, CREATE,
    replace(CREATE, form={"amount": {"value": "500", "currency": "USD"}}, note="in words"),
    Case(f"{OWN}.update", f"POST {INTENT}", {"amount": {"value": 700, "currency": "usd"}}, intent(amount=700), quoted=700, held=700,
         before=(CREATE,)),
    Case(f"{OWN}.update", f"POST {INTENT}", {"description": "x"}, intent(), quoted=500, held=500, before=(CREATE,), note="of words"),
    Case(f"{OWN}.update", f"POST {INTENT}", {"amount": {"value": 300, "currency": "usd"}}, intent(amount=300), quoted=500, held=300,
         reads={INTENT: intent()}, note="of another's, to less"),
    Case(f"{OWN}.confirm", f"POST {INTENT}/confirm", {}, intent("processing"), quoted=500, spent=500, before=(CREATE,)),
    Case(f"{OWN}.confirm", f"POST {INTENT}/confirm", {}, intent("requires_action"), quoted=500, held=500, reads={INTENT: intent()},
         note="of another's"),
    Case(f"{OWN}.cancel", f"POST {INTENT}/cancel", {}, intent("canceled"), before=(CREATE,)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quote_and_settle(case: Case) -> None:
    """Held before the send, fixed by the answer, freed by a refusal, kept when nobody knows."""
    prove(case)


# status → (spent, held) in cents of 500.
PAYMENTS = {"processing": (500, 0), "posted": (500, 0), "failed": (0, 0), "canceled": (0, 0), "returned": (0, 0)}
INTENTS = {"pending": (0, 500), "requires_action": (0, 500), "processing": (500, 0), "posted": (500, 0), "canceled": (0, 0)}


def test_every_status_of_the_sdk_is_read() -> None:
    """A status that Stripe adds fails here until somebody decides what it means."""
    words = get_args(get_type_hints(PayoutIntent)["status"])

    assert set(PAYMENTS) == set(get_args(get_type_hints(OutboundPayment)["status"]))
    assert set(INTENTS) == {word for option in words for word in get_args(option)}


@pytest.mark.parametrize("status", sorted(PAYMENTS))
def test_a_payment_is_spent_or_comes_back(status: str) -> None:
    """What failed, was canceled or returned costs nothing; the rest has left."""
    spent, held = PAYMENTS[status]
    prove(replace(PAY, answer=payment(status), spent=spent, held=held))


@pytest.mark.parametrize("status", sorted(INTENTS))
@pytest.mark.parametrize("is_read", [False, True], ids=["answered", "read later"])
def test_an_intent_is_held_until_it_is_sent(status: str, is_read: bool) -> None:
    """In the answer, or in a later read of it."""
    spent, held = INTENTS[status]
    made = replace(CREATE, answer=intent(status), spent=spent, held=held)
    read = Case(f"{OWN}.retrieve", f"GET {INTENT}", {}, intent(status), spent=spent, held=held, before=(CREATE,))
    prove(read if is_read else made)


@pytest.mark.parametrize(("status", "spent", "held"), [("posted", 500, 0), ("failed", 0, 500)])
def test_the_payment_of_an_intent_is_the_same_money(status: str, spent: int, held: int) -> None:
    """Sent, it settles the intent; a try that failed leaves it open for the next one."""
    read = {"data": [payment(status, payout_intent="pi_1")]}
    world = begun(replace(CREATE, before=(CREATE,)))
    listing = Case(f"{NAME}.outbound_payments.list", f"GET {PATH}/outbound_payments", {}, read)
    world.run(listing, Reply(200, {}, json.dumps(read).encode()))

    assert world.whole == (spent * CENT, held * CENT, 0, 0)


@pytest.mark.parametrize("path", ["outbound_payments", "payout_intents", "inbound_transfers"])
@pytest.mark.parametrize(
    ("form", "kind", "message"),
    [
        ({}, UnpricedCall, "without an 'amount'"), ({"amount": None}, UnpricedCall, "without an 'amount'"),
        ({"amount": 500}, MalformedCall, "must be an object such as"), ({"amount": {"value": 5}}, MalformedCall, "must be an object"),
        ({"amount": {"currency": "usd"}}, MalformedCall, "must be an object"),
        ({"amount": {"value": -5, "currency": "usd"}}, MalformedCall, "must be an object"),
        ({"amount": {"value": Decimal("1.5"), "currency": "usd"}}, MalformedCall, "a whole number"),
        ({"amount": {"value": True, "currency": "usd"}}, MalformedCall, "a whole number"),
        ({"amount": {"value": [5], "currency": "usd"}}, MalformedCall, "must be one value"),
        ({"amount": {"value": 10**13, "currency": "usd"}}, MalformedCall, "a whole number"),
        ({"amount": {"value": 5, "currency": "gold"}}, MalformedCall, "is unknown"),
        ({"amount": {"value": 5, "currency": "eur"}}, UnpricedCall, "no exchange rate is pinned for 'eur'"),
    ],
)  # fmt: skip
def test_what_cannot_be_bounded_is_refused(path: str, form: dict[str, Any], kind: type[Exception], message: str) -> None:
    """Nothing is sent or counted."""
    world = Till()
    with pytest.raises(kind, match=message):
        world.run(Case("x", f"POST {PATH}/{path}", form, {}))

    assert (world.sent, world.whole) == (0, (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ({INTENT: 404}, "depends on pi_1"), ({INTENT: payment()}, "depends on pi_1"),
        ({INTENT: intent() | {"amount": {"value": 5, "currency": "eur"}}}, "depends on pi_1"),
    ],
)  # fmt: skip
def test_an_intent_that_nobody_can_read_is_refused(reads: dict[str, Any], message: str) -> None:
    """Without its amount, a confirmation has no bound."""
    with pytest.raises(UnpricedCall, match=message):
        Till().run(Case(f"{OWN}.confirm", f"POST {INTENT}/confirm", {}, {}, reads=reads))


@pytest.mark.parametrize(
    "made",
    [
        Call("stripe", "POST", "https", "api.stripe.com", f"{PATH}/outbound_payments", body=(("amount[value]", "5"),)),
        Call("stripe", "POST", "https", "api.stripe.com", f"{PATH}/outbound_payments", body=None),
        Call("stripe", "POST", "https", "api.stripe.com", f"{PATH}/outbound_payments", document=[USD]),
    ],
    ids=["a form", "unreadable", "a list"],
)
def test_only_json_can_be_read(made: Call) -> None:
    """A body of another kind is refused unsent."""
    world = Till()
    with pytest.raises(MalformedCall, match=r"must be JSON|could not be read"):
        world.call(call=made)
    assert world.sent == 0


@pytest.mark.parametrize("path", ["/v1/billing/meter_events", "/v2/billing/meter_events", "/v2/billing/meter_event_stream"])
def test_an_event_of_usage_counts_the_flat_amount(path: str) -> None:
    """It is charged later at a price that nobody tells: refused, or the policy's amount for each."""
    case = Case("x", f"POST {path}", {"event_name": "used"}, 0)
    with pytest.raises(UnpricedCall, match="reports usage, which a later invoice charges"):
        Till().run(case)
    world = Till({"run_usd_cap": 1, "unpriced": "0.4"})
    for _ in range(2):
        world.run(case, Reply(200, {}, b"{}"))
    with pytest.raises(SpendCapExceeded):
        world.run(case, Reply(200, {}, b"{}"))

    assert world.whole == (80 * CENT, 0, 0, 0)
