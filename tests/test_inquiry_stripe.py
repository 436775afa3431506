"""What Stripe is asked about a call in doubt, and what is read out of its answers; the rules of what follows are tested elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard.identity import key_for, payee_of, request_of_key
from keyguard.model import Outcome
from keyguard.vendors import _stripe_inquiry as inquiry
from tests.support_inquiries import HOUR, NOW, Script, doubt_of, page

CREATE = "payment_intents.create"


def intent(name: str = "pi_1", **fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "id": name, "object": "payment_intent", "amount": 500, "amount_received": 500, "currency": "usd", "customer": "cus_1",
        "status": "succeeded", "latest_charge": "ch_1", "created": int(NOW - 2 * HOUR),
    }  # fmt: skip
    return {**known, **fields}


def event(thing: dict[str, Any], key: str | None = "k1", kind: str = "payment_intent.created") -> dict[str, Any]:
    return {
        "id": f"evt_{kind}",
        "object": "event",
        "type": kind,
        "request": {"id": "req_1", "idempotency_key": key},
        "data": {"object": thing},
    }


OF_KEY = doubt_of("stripe", CREATE, identity=request_of_key("run:a", "c", "stripe", "", "k1"))
DERIVED = doubt_of("stripe", CREATE, identity="ab" * 16, n=2, generation=1)


# -- by the key ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("doubt", "key"), [(OF_KEY, "k1"), (DERIVED, key_for("ab" * 16, 2, 1))], ids=["caller's", "derived"])
def test_the_key_in_an_event_settles(doubt: Any, key: str) -> None:
    """The event that carries the call's key, the caller's own or the derived one, names what it made; that is read as it is now."""
    script = Script({"/v1/events": page(event(intent(status="requires_action"), key)), "/v1/payment_intents/pi_1": intent()})

    found = script.play(inquiry.inquire(doubt, NOW))

    assert found.outcome is not None
    assert [(fact.object_id, fact.spent, fact.held) for fact in found.outcome.facts] == [("pi_1", 5_000_000, 0)]
    assert found.objects == ("pi_1", "ch_1")
    assert found.needs_owner is (key == "k1")
    assert found.words == "this call made pi_1, which is succeeded"


@pytest.mark.parametrize("key", [None, "", "other", key_for("ab" * 16, 2, 0), key_for("ab" * 16, 1, 1)])
def test_other_keys_are_other_calls(key: str | None) -> None:
    """No key, another one, that of a declined try or of another identical charge: none of them is this call."""
    found = Script({"/v1/events": page(event(intent(), key))}).play(inquiry.inquire(DERIVED, NOW))

    assert found.outcome is None
    assert found.is_whole


def test_events_are_asked_for_from_before_the_first_send() -> None:
    """Every page is read, from a day before the call was first sent (our clock may have been ahead) until its key is forgotten."""
    script = Script({"/v1/events": [page(event(intent("pi_9"), "x"), more=True), page(event(intent("pi_8"), "y"))]})

    found = script.play(inquiry.inquire(OF_KEY, NOW))

    assert found.is_whole
    (_, first), (_, second) = script.asked
    assert int(first["created[gte]"][0]) <= OF_KEY.at - 24 * HOUR
    assert int(first["created[lte]"][0]) >= OF_KEY.sent_at + 48 * HOUR
    assert first["types[0]"] == ["payment_intent.created"]
    assert second == {**first, "starting_after": ["evt_payment_intent.created"]}


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, 0, 404])
def test_a_page_that_cannot_be_read_proves_nothing(status: int) -> None:
    """Any answer but the page leaves the list without its end, and says why."""
    found = Script({"/v1/events": [page(event(intent("pi_9"), "x"), more=True), status]}).play(inquiry.inquire(OF_KEY, NOW))

    assert found.outcome is None
    assert not found.is_whole
    assert found.words


@pytest.mark.parametrize("body", [b"<html>", b"[]", {"data": None}, {"data": ["x"]}, {}])
def test_an_answer_that_is_no_list_proves_nothing(body: Any) -> None:
    """What a proxy or an outage puts in the place of a list is not read as an empty one."""
    assert not Script({"/v1/events": body}).play(inquiry.inquire(OF_KEY, NOW)).is_whole


def test_a_list_without_an_end_proves_nothing() -> None:
    """After a hundred pages the reading stops, and nothing is concluded."""
    script = Script({"/v1/events": page(event(intent("pi_9"), "x"), more=True)})

    assert not script.play(inquiry.inquire(OF_KEY, NOW)).is_whole
    assert len(script.asked) == 100


def test_events_of_old_api_versions_prove_nothing() -> None:
    """Where events name only the request, the call's key cannot be seen in them."""
    old = {**event(intent()), "request": "req_1"}

    found = Script({"/v1/events": page(old)}).play(inquiry.inquire(OF_KEY, NOW))

    assert not found.is_whole
    assert "API version" in found.words


def test_what_is_older_than_the_events_is_not_asked_for() -> None:
    """Stripe keeps events for thirty days: of an older call they say nothing."""
    script = Script({})

    found = script.play(inquiry.inquire(doubt_of("stripe", CREATE, identity="ab" * 16, at=NOW - 30 * 86_400), NOW))

    assert not found.is_whole
    assert script.asked == []


@pytest.mark.parametrize(
    ("made", "kind", "outcome"),
    [
        (intent(status="requires_payment_method", amount_received=0), "payment_intent.payment_failed", Outcome("released", is_final=True)),
        (intent(status="canceled", amount_received=0), "payment_intent.payment_failed", Outcome("released", is_final=True)),
    ],
)
def test_a_declined_payment_is_released(made: dict[str, Any], kind: str, outcome: Outcome) -> None:
    """The vendor's own word that this call was declined ends the doubt for good, as its answer would have."""
    events = page(event(made), event(made, kind=kind))

    found = Script({"/v1/events": events, "/v1/payment_intents/pi_1": made}).play(inquiry.inquire(OF_KEY, NOW))

    assert found.outcome == outcome
    assert "declined" in found.words


def test_what_was_paid_after_all_is_not_declined() -> None:
    """An intent whose first try failed and that was paid since is counted."""
    events = page(event(intent(), kind="payment_intent.payment_failed"))

    found = Script({"/v1/events": events, "/v1/payment_intents/pi_1": intent()}).play(inquiry.inquire(OF_KEY, NOW))

    assert found.outcome is not None
    assert found.outcome.facts[0].spent == 5_000_000


def test_an_unpaid_intent_stays_held() -> None:
    """An intent that was made and not confirmed can still be paid with its client secret: it is an open intent, not a doubt."""
    open_one = intent(status="requires_payment_method", amount_received=0, latest_charge=None)

    found = Script({"/v1/events": page(event(open_one)), "/v1/payment_intents/pi_1": open_one}).play(inquiry.inquire(OF_KEY, NOW))

    assert found.outcome is not None
    assert (found.outcome.facts[0].spent, found.outcome.facts[0].held) == (0, 5_000_000)


@pytest.mark.parametrize("second", [404, 500, intent(currency="xxx"), {"id": "pi_1", "object": "charge"}])
def test_a_known_key_without_a_readable_object_stays(second: Any) -> None:
    """Stripe shows the key but not what it made: nothing is guessed, and nothing is taken for absent."""
    found = Script({"/v1/events": page(event(intent())), "/v1/payment_intents/pi_1": second}).play(inquiry.inquire(OF_KEY, NOW))

    assert (found.outcome, found.is_whole, found.candidates) == (None, False, ())


def test_two_objects_of_one_key_stay() -> None:
    """A key can make two objects only where Stripe forgot it in between: a person looks at both."""
    events = page(event(intent("pi_1")), event(intent("pi_2")))

    found = Script({"/v1/events": events}).play(inquiry.inquire(OF_KEY, NOW))

    assert (found.outcome, found.is_whole) == (None, False)
    assert "2 objects" in found.words


@pytest.mark.parametrize(
    ("operation", "kind", "place", "thing", "spent"),
    [
        ("charges.create", "charge.succeeded", "/v1/charges", {"object": "charge", "status": "succeeded", "captured": True}, 5_000_000),
        ("charges.create", "charge.failed", "/v1/charges", {"object": "charge", "status": "failed", "captured": False}, None),
        ("refunds.create", "refund.created", "/v1/refunds", {"object": "refund", "status": "succeeded", "charge": "ch_7"}, 5_000_000),
        ("refunds.create", "refund.created", "/v1/refunds", {"object": "refund", "status": "failed", "charge": "ch_7"}, None),
        ("transfers.create", "transfer.created", "/v1/transfers", {"object": "transfer"}, 5_000_000),
        ("payouts.create", "payout.created", "/v1/payouts", {"object": "payout", "status": "paid"}, 5_000_000),
        ("payouts.create", "payout.created", "/v1/payouts", {"object": "payout", "status": "failed"}, None),
        ("topups.create", "topup.created", "/v1/topups", {"object": "topup", "status": "pending"}, 5_000_000),
    ],
)
def test_each_kind_of_object_settles_as_its_own_answer(
    operation: str, kind: str, place: str, thing: dict[str, Any], spent: int | None
) -> None:
    """What a call made is read by the rules of that call's own answer; None = released."""
    whole = {"id": "xx_1", "amount": 500, "currency": "usd", **thing}
    doubt = doubt_of("stripe", operation, identity=OF_KEY.identity)

    found = Script({"/v1/events": page(event(whole, kind=kind)), f"{place}/xx_1": whole}).play(inquiry.inquire(doubt, NOW))

    assert found.outcome is not None
    assert found.outcome.ending == ("released" if spent is None else "settled")
    assert sum(fact.spent for fact in found.outcome.facts) + found.outcome.cost == (spent or 0)


def test_operations_without_a_sure_event_are_not_taken_for_absent() -> None:
    """Of an object whose making no event is sure to tell, no event proves nothing."""
    doubt = doubt_of("stripe", "checkout.sessions.create", identity=OF_KEY.identity)

    assert not Script({"/v1/events": page()}).play(inquiry.inquire(doubt, NOW)).is_whole


# -- objects that were there before ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "body", "parts"),
    [
        ("payment_intents.confirm", intent(), (5_000_000, 0)),
        ("payment_intents.confirm", intent(status="requires_capture", amount_received=0, amount_capturable=500), (0, 5_000_000)),
        ("payment_intents.confirm", intent(status="processing", amount_received=0), (0, 5_000_000)),
        ("payment_intents.confirm", intent(status="requires_payment_method", amount_received=0), None),
        ("payment_intents.confirm", intent(status="requires_confirmation", amount_received=0), None),
        ("payment_intents.capture", intent(amount_received=300), (3_000_000, 0)),
        ("payment_intents.capture", intent(status="requires_capture", amount_received=0, amount_capturable=500), None),
        ("payment_intents.capture", intent(status="canceled", amount_received=0), (0, 0)),
        ("payment_intents.increment_authorization", intent(status="requires_capture", amount_received=0), (0, 5_000_000)),
        ("payment_intents.increment_authorization", intent(status="requires_capture", amount_received=0, amount=300), None),
    ],
)
def test_the_state_of_a_known_object_tells(operation: str, body: dict[str, Any], parts: tuple[int, int] | None) -> None:
    """A call about an object shows in that object: settled by what it is now, or (None) not executed yet."""
    doubt = doubt_of("stripe", operation, object_id="pi_1")

    found = Script({"/v1/payment_intents/pi_1": body}).play(inquiry.inquire(doubt, NOW))

    facts = found.outcome.facts if found.outcome is not None else ()
    assert [(fact.spent, fact.held) for fact in facts] == ([] if parts is None else [parts])
    assert found.is_whole is (parts is None)


@pytest.mark.parametrize("answer", [401, 404, 500, intent("pi_2"), intent(currency="eur")])
def test_a_known_object_that_cannot_be_read_stays(answer: Any) -> None:
    """Not shown, another one, or in a currency without a rate: neither presence nor absence."""
    found = Script({"/v1/payment_intents/pi_1": answer}).play(
        inquiry.inquire(doubt_of("stripe", "payment_intents.confirm", object_id="pi_1"), NOW)
    )

    assert (found.outcome, found.is_whole) == (None, False)


# -- without a key ---------------------------------------------------------------------------------

ALONE = doubt_of("stripe", CREATE, payee=payee_of("run:a", "/v1/payment_intents customer=cus_1"))


def test_without_a_key_amount_customer_and_time_tell() -> None:
    """Of the objects of that time those with the amount and the customer are candidates; others are not."""
    others = [intent("pi_2", amount=501), intent("pi_3", customer="cus_2"), intent("pi_4", customer="cus_2", currency="eur")]
    script = Script({"/v1/payment_intents": page(intent(), *others)})

    found = script.play(inquiry.inquire(ALONE, NOW))

    assert [one.object_id for one in found.candidates] == ["pi_1"]
    assert found.is_whole
    ((_, query),) = script.asked
    assert int(query["created[gte]"][0]) <= ALONE.at < int(query["created[lte]"][0])


def test_without_a_key_a_list_without_its_end_gives_no_candidates() -> None:
    """One of two objects could be on the page that is missing."""
    found = Script({"/v1/payment_intents": [page(intent(), more=True), 500]}).play(inquiry.inquire(ALONE, NOW))

    assert (found.candidates, found.is_whole) == ((), False)


@pytest.mark.parametrize(
    ("payee", "made", "candidates", "is_whole"),
    [
        ("", intent(customer=None), ["pi_1"], True),
        ("", intent(), [], True),
        ("payment_method=pm_9", intent(customer=None, payment_method="pm_9"), ["pi_1"], True),
        ("payment_method=pm_card_visa", intent(customer=None, payment_method="pm_1"), [], False),
        ("payment_method=pm_card_visa", intent(customer="cus_1", payment_method="pm_1"), [], True),
    ],
)
def test_a_card_may_be_written_otherwise_in_what_it_paid(payee: str, made: dict[str, Any], candidates: list[str], is_whole: bool) -> None:
    """Without a customer an object of the amount may be the call's, however its card is written: it settles nothing and is not absent."""
    doubt = doubt_of("stripe", CREATE, payee=payee_of("run:a", f"/v1/payment_intents {payee}" if payee else ""))

    found = Script({"/v1/payment_intents": page(made)}).play(inquiry.inquire(doubt, NOW))

    assert ([one.object_id for one in found.candidates], found.is_whole) == (candidates, is_whole)


@pytest.mark.parametrize(
    "made", [intent(currency="eur"), intent(amount="x"), intent(customer=None, currency="eur"), {"object": "payment_intent"}]
)
def test_what_cannot_be_counted_now_is_not_taken_for_absent(made: dict[str, Any]) -> None:
    """In another currency, whose rate may be another by now, or unreadable: it may be the call's, so nothing is released."""
    found = Script({"/v1/payment_intents": page(made)}).play(inquiry.inquire(ALONE, NOW))

    assert (found.candidates, found.is_whole) == ((), False)


def test_refunds_are_looked_for_at_their_charge() -> None:
    """A refund without a key is looked for among those of what it gives back; one that may be it is shown to a person."""
    doubt = doubt_of("stripe", "refunds.create", object_id="pi_1", payee=payee_of("run:a", "/v1/refunds payment_intent=pi_1"))
    refund = {"id": "re_1", "object": "refund", "amount": 500, "currency": "usd", "status": "succeeded", "payment_intent": "pi_1"}
    script = Script({"/v1/refunds": page(refund)})

    found = script.play(inquiry.inquire(doubt, NOW))

    assert (found.candidates, found.is_whole) == ((), False)
    assert "re_1 was made then" in found.words
    assert script.asked[0][1]["payment_intent"] == ["pi_1"]
    assert Script({"/v1/refunds": page({**refund, "amount": 300})}).play(inquiry.inquire(doubt, NOW)).is_whole


def test_what_nobody_can_find_is_said() -> None:
    """Of an operation that leaves nothing to look for, a person is told to look."""
    found = Script({}).play(inquiry.inquire(doubt_of("stripe", "billing.credit_grants.create"), NOW))

    assert (found.outcome, found.is_whole) == (None, False)
    assert "Dashboard" in found.words


# -- whose, and where ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("account", "header"), [("", {}), ("acct_1", {"Stripe-Account": "acct_1"}), ("acct_1/acct_2", {"Stripe-Context": "acct_1/acct_2"})]
)
def test_questions_are_about_the_account_of_the_call(account: str, header: dict[str, str]) -> None:
    """A connected account or context is asked for as the call named it."""
    headers, owner = inquiry.signed(doubt_of("stripe", CREATE, account=account), "sk_1", {})

    assert headers == {"Authorization": "Bearer sk_1", **header}
    assert owner == "sk_1"


@pytest.mark.parametrize(
    ("object_id", "place"), [("pi_1", "/v1/payment_intents/pi_1"), ("py_1", "/v1/charges/py_1"), ("xx_1", None), (None, None)]
)
def test_open_intents_are_read_by_their_id(object_id: str | None, place: str | None) -> None:
    """The prefix of an id says where its object can be read."""
    assert inquiry.place(doubt_of("stripe", CREATE, object_id=object_id)) == place
