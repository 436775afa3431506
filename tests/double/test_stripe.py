"""The pure Stripe: states, amounts and refusals as Stripe documents them, each answer held against Stripe's specification."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard.testing.double.messages import Answer
from tests.double.support import CHARGE, PAY, USD, Till


def test_an_intent_is_paid_when_it_is_confirmed() -> None:
    """Made alone it moves nothing; confirmed it is one charge, which the intent names."""
    till = Till()
    made = till.post("/v1/payment_intents", {"amount": 250, "currency": "usd", "customer": "cus_1", "metadata[order]": "42"})
    paid = till.post(f"/v1/payment_intents/{made['id']}/confirm", {"payment_method": "pm_card_visa"})

    assert (made["status"], made["metadata"], made["amount_received"]) == ("requires_payment_method", {"order": "42"}, 0)
    assert (paid["status"], paid["amount_received"], paid["customer"]) == ("succeeded", 250, "cus_1")
    assert till.get(f"/v1/charges/{paid['latest_charge']}")["payment_intent"] == made["id"]
    assert till.rows == [("object", 0), ("charge", 250 * 10_000)]
    assert (till.executions[1].parent, till.executions[1].customer) == (made["id"], "cus_1")


def test_an_intent_made_and_confirmed_in_one_is_one_execution() -> None:
    """`confirm=true` charges at once."""
    till = Till()
    paid = till.post("/v1/payment_intents", PAY, key="k")

    assert (paid["status"], paid["amount_received"]) == ("succeeded", 100)
    assert [(row.kind, row.micros, row.key, row.operation) for row in till.executions] == [("charge", USD, "k", "payment_intents.create")]


@pytest.mark.parametrize(("asked", "taken"), [({}, 100), ({"amount_to_capture": 70}, 70)])
def test_a_held_intent_moves_money_when_it_is_captured(asked: dict[str, int], taken: int) -> None:
    """The authorization moves nothing; the capture moves what it takes, and the rest is let go."""
    till = Till()
    held = till.post("/v1/payment_intents", {**PAY, "capture_method": "manual"})
    captured = till.post(f"/v1/payment_intents/{held['id']}/capture", asked)

    assert (held["status"], held["amount_capturable"], held["amount_received"]) == ("requires_capture", 100, 0)
    assert (captured["status"], captured["amount_capturable"], captured["amount_received"]) == ("succeeded", 0, taken)
    assert till.rows == [("hold", USD), ("charge", taken * 10_000)]
    assert till.get(f"/v1/charges/{held['latest_charge']}")["amount_captured"] == taken


def test_an_intent_has_another_amount_until_it_is_confirmed() -> None:
    """An update moves nothing; the confirmation takes what the intent says then, and after it nothing can be changed."""
    till = Till()
    made = till.post("/v1/payment_intents", {"amount": 100, "currency": "usd"})
    raised = till.post(f"/v1/payment_intents/{made['id']}", {"amount": 300, "payment_method": "pm_card_visa", "metadata[order]": "7"})

    assert (raised["amount"], raised["status"], raised["metadata"]) == (300, "requires_confirmation", {"order": "7"})
    assert till.rows == [("object", 0), ("object", 0)]
    till.post(f"/v1/payment_intents/{made['id']}/confirm", {})
    assert till.rows[2:] == [("charge", 3 * USD)]
    assert till.ask("POST", f"/v1/payment_intents/{made['id']}", {"amount": 100}).status == 400


def test_a_cancelled_intent_can_do_no_more() -> None:
    """Its hold is let go, and neither confirm, capture nor cancel begin again."""
    till = Till()
    held = till.post("/v1/payment_intents", {**PAY, "capture_method": "manual"})
    path = f"/v1/payment_intents/{held['id']}"
    assert till.post(f"{path}/cancel", {"cancellation_reason": "abandoned"})["status"] == "canceled"

    refused = [till.ask("POST", f"{path}/{action}", {"payment_method": "pm_card_visa"}) for action in ("confirm", "capture", "cancel")]
    assert [(answer.status, answer.body["error"]["code"]) for answer in refused] == [(400, "payment_intent_unexpected_state")] * 3
    assert till.rows == [("hold", USD), ("release", 0)]
    assert till.get("/v1/balance")["available"] == [{"amount": 0, "currency": "usd", "source_types": {"card": 0}}]


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/payment_intents", {**PAY, "payment_method": "pm_card_chargeDeclinedInsufficientFunds"}),
        ("/v1/charges", {**CHARGE, "source": "tok_chargeDeclinedInsufficientFunds"}),
    ],
)
def test_a_decline_moves_nothing_and_leaves_a_failed_charge(path: str, form: dict[str, Any]) -> None:
    """402 with the decline's code and the charge; a PaymentIntent goes back to wanting a payment method."""
    till = Till()
    declined = till.ask("POST", path, form)
    error = declined.body["error"]

    assert (declined.status, error["code"], error["decline_code"]) == (402, "card_declined", "insufficient_funds")
    assert till.get(f"/v1/charges/{error['charge']}")["status"] == "failed"
    assert till.rows == [("declined", 0)]
    if "intents" in path:
        intent = error["payment_intent"]
        assert (intent["status"], intent["payment_method"]) == ("requires_payment_method", None)
        again = till.post(f"{path}/{intent['id']}/confirm", {"payment_method": "pm_card_visa"})
        assert (again["status"], again["last_payment_error"], till.rows[1]) == ("succeeded", None, ("charge", USD))


def test_a_customer_may_have_to_act() -> None:
    """The intent waits, nothing is moved."""
    till = Till()
    waiting = till.post("/v1/payment_intents", {**PAY, "payment_method": "pm_card_authenticationRequired"})

    assert (waiting["status"], till.rows) == ("requires_action", [("object", 0)])


def test_a_charge_is_captured_at_once_or_later() -> None:
    """`capture=false` holds; a partial capture counts the rest as refunded, as Stripe shows it."""
    till = Till()
    whole = till.post("/v1/charges", CHARGE)
    held = till.post("/v1/charges", {**CHARGE, "amount": 200, "capture": "false"})
    captured = till.post(f"/v1/charges/{held['id']}/capture", {"amount": 70})

    assert (whole["captured"], held["captured"]) == (True, False)
    assert (captured["amount_captured"], captured["amount_refunded"], captured["refunded"]) == (70, 130, False)
    assert till.rows == [("charge", USD), ("hold", 2 * USD), ("charge", 700_000)]
    again = till.ask("POST", f"/v1/charges/{held['id']}/capture", {})
    assert (again.status, again.body["error"]["code"]) == (400, "charge_already_captured")


@pytest.mark.parametrize("by", ["charge", "payment_intent"])
def test_no_more_goes_back_than_was_paid(by: str) -> None:
    """In part, then the rest; more than that, or anything after that, is refused."""
    till = Till()
    paid = till.post("/v1/payment_intents", PAY)
    form = {by: paid["latest_charge"] if by == "charge" else paid["id"]}
    part = till.post("/v1/refunds", {**form, "amount": 30})
    over = till.ask("POST", "/v1/refunds", {**form, "amount": 71})
    rest = till.post("/v1/refunds", form)
    after = till.ask("POST", "/v1/refunds", form)

    assert (part["amount"], rest["amount"], rest["payment_intent"], rest["status"]) == (30, 70, paid["id"], "succeeded")
    assert (over.status, over.body["error"]["param"]) == (400, "amount")
    assert (after.status, after.body["error"]["code"]) == (400, "charge_already_refunded")
    assert till.rows == [("charge", USD), ("refund", -300_000), ("refund", -700_000)]
    assert till.get(f"/v1/charges/{paid['latest_charge']}")["refunded"] is True


def test_a_held_charge_that_is_refunded_is_let_go() -> None:
    """No money goes back, because none came."""
    till = Till()
    held = till.post("/v1/charges", {**CHARGE, "capture": "false"})
    partly = till.ask("POST", "/v1/refunds", {"charge": held["id"], "amount": 10})
    till.post("/v1/refunds", {"charge": held["id"]})

    assert (partly.status, till.rows) == (400, [("hold", USD), ("release", 0)])
    assert till.ask("POST", f"/v1/charges/{held['id']}/capture", {}).status == 400


def test_an_intent_can_be_changed_until_it_is_paid() -> None:
    """Another amount, a payment method, more metadata; nothing moves until it is confirmed, and nothing changes after."""
    till = Till()
    path = f"/v1/payment_intents/{till.post('/v1/payment_intents', {'amount': 100, 'currency': 'usd', 'metadata[a]': '1'})['id']}"
    changed = till.post(path, {"amount": 250, "payment_method": "pm_card_visa", "metadata[b]": "2"})
    paid = till.post(f"{path}/confirm", {})
    late = till.ask("POST", path, {"amount": 300})

    assert (changed["amount"], changed["status"], changed["metadata"]) == (250, "requires_confirmation", {"a": "1", "b": "2"})
    assert (paid["amount_received"], late.status, till.rows) == (250, 400, [("object", 0), ("object", 0), ("charge", 2_500_000)])


def test_what_the_state_forbids_is_refused() -> None:
    """400 with Stripe's code, and nothing moves."""
    till = Till()
    open_intent = till.post("/v1/payment_intents", {"amount": 100, "currency": "usd"})["id"]
    held = till.post("/v1/payment_intents", {**PAY, "capture_method": "manual"})["id"]
    paid = till.post("/v1/payment_intents", PAY)["id"]
    failed = till.ask("POST", "/v1/charges", {**CHARGE, "source": "tok_chargeDeclined"}).body["error"]["charge"]
    held_charge = till.post("/v1/charges", {**CHARGE, "capture": "false"})["id"]
    before = till.rows[:]
    refused = [
        till.ask("POST", path, form)
        for path, form in (
            (f"/v1/payment_intents/{open_intent}/confirm", {}),
            (f"/v1/payment_intents/{paid}/confirm", {}),
            (f"/v1/payment_intents/{paid}/cancel", {}),
            (f"/v1/payment_intents/{open_intent}/capture", {}),
            (f"/v1/payment_intents/{held}/capture", {"amount_to_capture": 101}),
            (f"/v1/charges/{held_charge}/capture", {"amount": 101}),
            (f"/v1/charges/{failed}/capture", {}),
            ("/v1/refunds", {"charge": failed}),
            ("/v1/refunds", {"payment_intent": open_intent}),
            ("/v1/refunds", {}),
            ("/v1/charges", {"amount": 100, "currency": "usd"}),
        )
    ]

    state = "payment_intent_unexpected_state"
    assert [(answer.status, answer.body["error"].get("code")) for answer in refused] == [
        (400, code)
        for code in (state, state, state, state, "amount_too_large", "amount_too_large", "charge_expired_for_capture", None, None,
                     "parameter_missing", "parameter_missing")
    ]  # fmt: skip
    assert till.rows == before


@pytest.mark.parametrize(
    ("form", "code", "param"),
    [
        ({"currency": "usd"}, "parameter_missing", "amount"),
        ({"amount": 100}, "parameter_missing", "currency"),
        ({"amount": "10.5", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": "-5", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": "0", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": "", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": 49, "currency": "usd"}, "amount_too_small", "amount"),
        ({"amount": 29, "currency": "gbp"}, "amount_too_small", "amount"),
        ({"amount": 100_000_000, "currency": "usd"}, "amount_too_large", "amount"),
        ({"amount": 100, "currency": "xyz"}, None, "currency"),
        ({"amount": 100, "currency": "usd", "confirm": "yes"}, None, "confirm"),
        ({"amount": 100, "currency": "usd", "confirm": "true"}, "payment_intent_unexpected_state", None),
        ({"amount": 100, "currency": "usd", "capture_method": "never"}, None, "capture_method"),
    ],
)
def test_a_request_that_is_not_valid_does_not_begin(form: dict[str, Any], code: str | None, param: str | None) -> None:
    """400, nothing executed, and the key stays free for the corrected request."""
    till = Till()
    refused = till.ask("POST", "/v1/payment_intents", form, key="k")

    error = refused.body["error"]
    assert (refused.status, error.get("code"), error.get("param"), till.rows) == (400, code, param, [])
    assert "Idempotent-Replayed" not in till.ask("POST", "/v1/payment_intents", PAY, key="k").headers
    assert till.rows == [("charge", USD)]


def test_a_yen_has_no_cents() -> None:
    """Amounts of zero-decimal currencies are whole units; the truth is in millionths of the unit either way."""
    till = Till()
    till.post("/v1/charges", {"amount": 500, "currency": "JPY", "source": "tok_visa"})

    assert [(row.micros, row.currency) for row in till.executions] == [(500 * 1_000_000, "jpy")]


def test_a_record_that_fails_leaves_nothing() -> None:
    """What the truth did not take did not happen."""
    till = Till()

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    till.stripe._record = full
    begun = till.stripe.begin(till.request("POST", "/v1/charges", CHARGE, "k"), till.now)
    assert not isinstance(begun, Answer)
    with pytest.raises(OSError, match="No space"):
        till.stripe.execute(begun, till.now)

    assert till.get("/v1/charges")["data"] == []
