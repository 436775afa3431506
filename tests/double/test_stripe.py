"""The pure Stripe: states, amounts and refusals as Stripe documents them, each answer held against Stripe's specification."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from keyguard.testing.double.messages import Answer
from tests.double.support import CHARGE, PAY, USD, Till, kinds


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


def test_the_balance_is_what_was_charged_and_not_given_back() -> None:
    """By currency; what was only held is not in it."""
    till = Till()
    paid = till.post("/v1/charges", CHARGE)["id"]
    till.post("/v1/charges", {**CHARGE, "currency": "eur"})
    held = till.post("/v1/charges", {**CHARGE, "capture": "false"})["id"]
    till.post("/v1/refunds", {"charge": paid, "amount": 30})
    till.post("/v1/refunds", {"charge": held})

    assert [(one["currency"], one["amount"]) for one in till.get("/v1/balance")["available"]] == [("usd", 70), ("eur", 100)]


def test_a_time_that_is_none_is_refused() -> None:
    """`created` is seconds since the epoch."""
    answer = Till().ask("GET", "/v1/events", {"created[gte]": "yesterday"})

    assert (answer.status, answer.body["error"]["param"]) == (400, "created[gte]")


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


@pytest.mark.parametrize("credentials", ["", "Bearer sk_live_1", "Bearer pk_test_1", "Basic " + base64.b64encode(b"rk:").decode()])
def test_only_test_keys_are_taken(credentials: str) -> None:
    """Anything else is 401, which no key remembers; Basic with the key as its user is as good as Bearer."""
    till = Till()
    refused = till.ask("POST", "/v1/charges", CHARGE, key="k", authorization=credentials)
    basic = "Basic " + base64.b64encode(b"sk_test_double:").decode()

    assert (refused.status, till.rows) == (401, [])
    assert till.ask("POST", "/v1/charges", CHARGE, key="k", authorization=basic).status == 200


def test_accounts_are_apart() -> None:
    """By API key, and by `Stripe-Account`: neither objects nor idempotency keys are shared."""
    till = Till()
    own = till.post("/v1/charges", CHARGE, key="k")
    connected = till.post("/v1/charges", CHARGE, key="k", **{"stripe-account": "acct_1"})
    foreign = till.post("/v1/charges", CHARGE, key="k", authorization="Bearer sk_test_other")

    assert len({own["id"], connected["id"], foreign["id"]}) == 3
    assert len({row.account for row in till.executions}) == 3
    assert [charge["id"] for charge in till.get("/v1/charges")["data"]] == [own["id"]]
    assert till.ask("GET", f"/v1/charges/{connected['id']}").status == 404


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/invoices"), ("DELETE", "/v1/charges"), ("GET", "/v1/charges/ch_1/capture"), ("PUT", "/v1/refunds")]
)
def test_what_it_does_not_do_it_says(method: str, path: str) -> None:
    """404 as Stripe words it, and no key is used."""
    till = Till()
    refused = till.ask(method, path, {}, key="k")

    assert (refused.status, refused.body["error"]["message"].startswith("Unrecognized request URL")) == (404, True)


@pytest.mark.parametrize("kind", kinds())
def test_what_is_not_there_is_missing(kind: str) -> None:
    """404 `resource_missing`, for objects and for cursors."""
    till = Till()
    gone, cursor = till.ask("GET", f"/v1/{kind}s/x_1"), till.ask("GET", f"/v1/{kind}s", {"starting_after": "x_1"})

    assert [(answer.status, answer.body["error"]["code"]) for answer in (gone, cursor)] == [(404, "resource_missing")] * 2


def test_lists_are_paged_from_the_newest() -> None:
    """`limit`, `starting_after` and `ending_before` walk through all of them once; `created` bounds them."""
    till, made = Till(), []
    for n in range(5):
        till.now += 10
        made.append(till.post("/v1/charges", {**CHARGE, "amount": 100 + n, "customer": f"cus_{n % 2}"}))
    newest = [charge["id"] for charge in reversed(made)]

    def ids(**params: Any) -> tuple[list[str], bool]:
        found = till.get("/v1/charges", **params)
        return [charge["id"] for charge in found["data"]], found["has_more"]

    assert ids(limit=2) == (newest[:2], True)
    assert ids(limit=2, starting_after=newest[1]) == (newest[2:4], True)
    assert ids(limit=2, starting_after=newest[3]) == (newest[4:], False)
    assert ids(limit=2, ending_before=newest[3]) == (newest[1:3], True)
    assert ids(customer="cus_1") == ([newest[1], newest[3]], False)
    assert ids(created__gte=made[3]["created"]) == (newest[:2], False)
    assert ids(created__gt=made[3]["created"], created__lte=made[4]["created"]) == (newest[:1], False)
    assert ids(created__lt=made[0]["created"]) == ([], False)
    assert ids(created=made[2]["created"]) == ([newest[2]], False)
    assert till.ask("GET", "/v1/charges", {"limit": 101}).status == 400


def test_events_carry_the_key_of_the_request_that_caused_them() -> None:
    """Which is how a lost answer is looked for: newest first, by type, for thirty days."""
    till = Till()
    paid = till.post("/v1/payment_intents", PAY, key="k-1")
    till.now += 5
    till.post("/v1/refunds", {"charge": paid["latest_charge"]}, key="k-2")

    def events(**params: Any) -> list[tuple[str, str]]:
        return [(event["type"], event["request"]["idempotency_key"]) for event in till.get("/v1/events", **params)["data"]]

    assert events() == [
        ("refund.created", "k-2"), ("charge.refunded", "k-2"), ("payment_intent.succeeded", "k-1"), ("charge.succeeded", "k-1"),
        ("payment_intent.created", "k-1"),
    ]  # fmt: skip
    assert events(type="charge.*") == [("charge.refunded", "k-2"), ("charge.succeeded", "k-1")]
    assert events(types__0="refund.created", types__1="charge.succeeded") == [("refund.created", "k-2"), ("charge.succeeded", "k-1")]
    assert events(created__gte=int(till.now)) == [("refund.created", "k-2"), ("charge.refunded", "k-2")]
    succeeded = till.get("/v1/events", type="payment_intent.succeeded")["data"][0]
    assert (succeeded["data"]["object"]["id"], succeeded["data"]["object"]["amount_received"]) == (paid["id"], 100)
    till.now += 30 * 86_400 - 2
    assert events(limit=1) == [("refund.created", "k-2")]
    till.now += 5
    assert (events(), till.ask("GET", f"/v1/events/{succeeded['id']}").status) == ([], 404)


def test_a_customer_is_made_and_read() -> None:
    """Enough of a customer for a charge to name it; one that nobody made is missing, unless it looks like an id of Stripe's."""
    till = Till()
    made = till.post("/v1/customers", {"email": "a@example.com"})

    assert till.get(f"/v1/customers/{made['id']}")["email"] == "a@example.com"
    assert till.get("/v1/customers", email="a@example.com")["data"] == [made]
    assert till.post("/v1/charges", {**CHARGE, "customer": made["id"]})["customer"] == made["id"]
    assert till.ask("POST", "/v1/charges", {**CHARGE, "customer": "nobody"}).status == 404


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
