"""Payments through the whole guard: intents and charges in every step of their life, refunds, disputes, card readers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keyguard.errors import MalformedCall, SpendCapExceeded, UnpricedCall
from keyguard.model import Reply
from tests.support_guard import CENT
from tests.support_stripe_money import Case, Till, begun, prove

PI, CH, READER = "/v1/payment_intents", "/v1/charges", "/v1/terminal/readers/tmr_1"
USD: dict[str, Any] = {"amount": 2000, "currency": "usd"}


def intent(status: str = "succeeded", received: int = 0, capturable: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a PaymentIntent."""
    known = {"id": "pi_1", "status": status, "amount_received": received, "amount_capturable": capturable, **USD}
    return {**known, "object": "payment_intent", **fields}


def charge(captured: int | None = 2000, **fields: Any) -> dict[str, Any]:
    """Return a charge; None = only authorized."""
    known = {"id": "ch_1", "status": "succeeded", "captured": captured is not None, "amount_captured": captured or 0, **USD}
    return {**known, "object": "charge", **fields}


def on_intent(step: str, form: dict[str, Any], answer: Any, **expected: Any) -> Case:
    """Return a case of a step in an intent's life."""
    path = f"{PI}/pi_1/{step}" if step != "update" else f"{PI}/pi_1"
    return Case(f"payment_intents.{step}", f"POST {path}", form, answer, **expected)


PAID = intent(received=2000)
CREATE = Case("payment_intents.create", f"POST {PI}", USD, intent("requires_confirmation"), quoted=2000, held=2000)
CONFIRM = on_intent("confirm", {}, PAID, quoted=2000, spent=2000, before=(CREATE,))
HELD = on_intent(
    "confirm", {}, intent("requires_capture", capturable=2000), quoted=2000, held=2000, before=(CREATE,), note="that is only held"
)
CAPTURE = on_intent("capture", {}, PAID, quoted=2000, spent=2000, before=(CREATE, HELD))
PARTLY = on_intent("capture", {"amount_to_capture": 500, "final_capture": False}, intent("requires_capture", 500, 1500), quoted=2000,
                   spent=500, held=1500, before=(CREATE, HELD), note="of a part, and more to come")  # fmt: skip
CHARGE = Case("charges.create", f"POST {CH}", {**USD, "source": "tok_visa"}, charge(), quoted=2000, spent=2000)
AUTHORIZED = replace(CHARGE, form={**USD, "capture": False}, answer=charge(None), spent=0, held=2000, note="that is only authorized")
REFUND = {"id": "re_1", "object": "refund", "status": "succeeded", "currency": "usd", "payment_intent": "pi_1"}
BACK = Case("refunds.create", "POST /v1/refunds", {"payment_intent": "pi_1"}, {**REFUND, "amount": 2000}, quoted=2000, spent=2000,
            refunded=2000, before=(CREATE, CONFIRM), note="of all this run charged")  # fmt: skip
DISPUTE = {"id": "dp_1", "charge": "ch_1", "status": "lost", **USD}
WAITING = {f"{PI}/pi_1": intent("requires_payment_method")}
ON_READER = {"id": "tmr_1", "object": "terminal.reader"}

CASES = [
    CREATE, CONFIRM, HELD, CAPTURE, PARTLY, CHARGE, AUTHORIZED, BACK,
    replace(CREATE, form={**USD, "confirm": True}, answer=PAID, spent=2000, held=0, note="at once"),
    replace(CREATE, form={**USD, "confirm": True}, answer=intent("processing"), note="on its way"),
    on_intent("update", {"amount": 2600}, intent("requires_confirmation", amount=2600), quoted=2600, held=2600, before=(CREATE,)),
    on_intent("update", {"amount": 900}, intent("requires_confirmation", amount=900), quoted=2000, held=900, before=(CREATE,),
              note="to less"),
    on_intent("update", {"description": "x"}, intent("requires_confirmation"), held=2000, before=(CREATE,), note="of words"),
    replace(CONFIRM, before=(), reads=WAITING, note="of another's"),
    on_intent("confirm", {"amount_to_confirm": 700}, intent(received=700), quoted=700, spent=700, reads=WAITING, note="of a part"),
    replace(CONFIRM, answer=intent("requires_payment_method"), spent=0, held=2000, note="that failed, and may be tried again"),
    on_intent("capture", {"amount_to_capture": 1500}, intent(received=1500), quoted=2000, spent=1500, before=(CREATE, HELD),
              note="of a part, and the rest is released"),
    on_intent("capture", {"amount_to_capture": 2300}, intent(received=2300), quoted=2300, spent=2300, before=(CREATE, HELD),
              note="of more than was held"),
    on_intent("capture", {}, PAID, quoted=1500, spent=2000, before=(CREATE, HELD, PARTLY), note="of the rest"),
    on_intent("capture", {}, PAID, quoted=1500, spent=1500, reads={f"{PI}/pi_1": intent("requires_capture", 500, 1500)},
              note="of another's rest"),
    on_intent("increment_authorization", {"amount": 2600}, intent("requires_capture", capturable=2600, amount=2600), quoted=2600, held=2600,
              before=(CREATE, HELD)),
    on_intent("apply_customer_balance", {}, PAID, quoted=2000, spent=2000, before=(CREATE,)),
    on_intent("apply_customer_balance", {"amount": 700, "currency": "usd"}, intent("requires_action", 700), quoted=700, spent=700,
              held=1300, reads=WAITING, note="of a part"),
    on_intent("verify_microdeposits", {"amounts": [32, 45]}, intent("processing"), quoted=2000, held=2000, before=(CREATE,)),
    on_intent("cancel", {}, intent("canceled"), before=(CREATE, HELD)),
    replace(CHARGE, answer=charge(status="pending"), spent=0, held=2000, note="on its way"),
    replace(CHARGE, answer=charge(status="failed"), spent=0, note="that failed"),
    Case("charges.capture", f"POST {CH}/ch_1/capture", {}, charge(), quoted=2000, spent=2000, before=(AUTHORIZED,)),
    Case("charges.capture", f"POST {CH}/ch_1/capture", {"amount": 1500}, charge(1500), quoted=2000, spent=1500, before=(AUTHORIZED,),
         note="of a part, and the rest is released"),
    replace(BACK, form={"payment_intent": "pi_1", "amount": 700}, answer={**REFUND, "amount": 700}, quoted=700, refunded=700,
            note="of a part"),
    replace(BACK, before=(), spent=2000, refunded=0, reads={f"{PI}/pi_1": PAID}, note="of all that another charged"),
    replace(BACK, answer={**REFUND, "amount": 2000, "status": "failed"}, refunded=0, note="that failed"),
    replace(BACK, request=f"POST {CH}/ch_1/refund", form={"amount": 300}, answer=charge(amount_refunded=300), quoted=300, refunded=300,
            before=(CHARGE,), note="on the older path"),
    replace(BACK, request=f"POST {CH}/ch_1/refunds", form={}, answer={**REFUND, "amount": 2000, "charge": "ch_1"}, before=(CHARGE,),
            note="on the other path"),
    replace(BACK, form={**USD, "origin": "customer_balance", "customer": "cus_1"}, note="of what a customer paid in",
            answer={**REFUND, "amount": 2000, "payment_intent": None}, refunded=0, before=()),
    Case("disputes.close", "POST /v1/disputes/dp_1/close", {}, DISPUTE, quoted=2000, spent=2000,
         reads={"/v1/disputes/dp_1": {**DISPUTE, "status": "needs_response"}}),
    Case("charges.dispute.close", f"POST {CH}/ch_1/dispute/close", {}, DISPUTE, quoted=2000, spent=2000, reads={f"{CH}/ch_1": charge()}),
    *(
        Case(f"terminal.readers.{name}", f"POST {READER}/{name}", {"payment_intent": "pi_1"}, ON_READER, quoted=2000, held=2000, **made)
        for name in ("process_payment_intent", "confirm_payment_intent")
        for made in ({"before": (CREATE,)}, {"reads": WAITING, "note": "of another's"})
    ),
    Case("terminal.readers.process_payment_intent", f"POST {READER}/process_payment_intent", {"payment_intent": "pi_1"}, ON_READER,
         quoted=1500, held=1500, reads={f"{PI}/pi_1": intent("requires_payment_method", 500)}, note="of the rest"),
    Case("terminal.readers.refund_payment", f"POST {READER}/refund_payment", {"payment_intent": "pi_1"}, ON_READER, quoted=2000, spent=2000,
         refunded=2000, before=(CREATE, CONFIRM)),
    Case("terminal.readers.refund_payment", f"POST {READER}/refund_payment", {"charge": "ch_1", "amount": 300}, ON_READER, quoted=300,
         spent=2000, refunded=300, before=(CHARGE,), note="of a part"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quote_and_settle(case: Case) -> None:
    """Held before the send, fixed by the answer, freed by a refusal, kept when nobody knows."""
    prove(case)


def test_a_reader_s_payment_is_settled_by_a_later_read() -> None:
    """The reader's answer comes before its customer's."""
    started = next(case for case in CASES if case.name == "terminal.readers.process_payment_intent")
    prove(Case("payment_intents.retrieve", f"GET {PI}/pi_1", {}, PAID, spent=2000, before=(CREATE, started)))


def test_a_declined_increment_leaves_the_hold_as_it_was() -> None:
    """Only what it would have added is given back."""
    grow = on_intent("increment_authorization", {"amount": 2600}, 402, quoted=2600, held=2000, before=(CREATE, HELD))
    prove(grow)


def test_refunds_never_give_cap_back() -> None:
    """Whoever refunds everything has still spent it, and cannot refund it twice."""
    world = begun(replace(BACK, before=(CREATE, CONFIRM, BACK)))
    with pytest.raises(SpendCapExceeded):
        world.run(replace(BACK, form={"payment_intent": "pi_1", "amount": 1}))

    assert world.whole == (2000 * CENT, 0, 0, 2000 * CENT)


REFUSED = [
    ("POST /v1/refunds", {"origin": "customer_balance", "customer": "cus_1", "amount": 5}, "'currency' is required"),
    ("POST /v1/refunds", {"origin": "customer_balance", "customer": "cus_1", "currency": "usd"}, "'amount' is required"),
    (f"POST {READER}/process_payment_intent", {}, "'payment_intent' must be the id"),
    (f"POST {READER}/process_payment_intent", {"payment_intent": "pi_1", "process_config": {"tipping": {"amount_eligible": 5}}},
     "add a tip"),
    (f"POST {READER}/refund_payment", {"amount": 5}, "exactly one charge or payment_intent"),
    (f"POST {PI}/pi_1/apply_customer_balance", {"amount": "5.0"}, "'amount' must be a whole number"),
    (f"POST {PI}/pi_1", {"currency": "eur"}, "no exchange rate is pinned"),
]  # fmt: skip


@pytest.mark.parametrize(("request_of", "form", "message"), REFUSED)
def test_what_has_no_bound_is_refused(request_of: str, form: dict[str, Any], message: str) -> None:
    """Nothing more is sent or counted, and the message says what is missing."""
    case = Case("x", request_of, form, {}, before=(CREATE,))
    world = begun(case)
    with pytest.raises((MalformedCall, UnpricedCall), match=message):
        world.run(case)

    assert (world.sent, world.whole) == (1, (0, 2000 * CENT, 0, 0))


@pytest.mark.parametrize("reads", [{"/v1/disputes/dp_1": 404}, {"/v1/disputes/dp_1": {**DISPUTE, "currency": "eur"}}])
def test_a_dispute_that_nobody_can_read_is_refused(reads: dict[str, Any]) -> None:
    """What closing it gives up is not in the request."""
    with pytest.raises(UnpricedCall, match=r"depends on dp_1|no exchange rate"):
        Till().run(Case("x", "POST /v1/disputes/dp_1/close", {}, {}, reads=reads))


@pytest.mark.parametrize("name", ["process_payment_intent", "refund_payment"])
def test_a_reader_that_answers_something_else_is_doubt(name: str) -> None:
    """Nobody knows then what it did."""
    case = Case("x", f"POST {READER}/{name}", {"payment_intent": "pi_1"}, PAID, before=(CREATE, CONFIRM))
    world = begun(case)
    ticket = world.run(case, Reply(200, {}, b'{"object": "payment_intent", "id": "pi_1"}'))

    assert ticket.outcome is not None
    assert ticket.outcome.ending == "doubt"
