"""Idempotency of the pure Stripe, as its documentation has it (stripe.com, "Idempotent requests", "Advanced error handling", 2026-11)."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard.testing.double.keys import DAY
from keyguard.testing.double.messages import Work
from tests.double.support import CHARGE, PAY, USD, Till, conforms


def _begun(till: Till, form: dict[str, Any], key: str = "k") -> Work:
    begun = till.stripe.begin(till.request("POST", "/v1/charges", form, key), till.now)

    assert isinstance(begun, Work)
    return begun


def test_a_replay_is_the_first_answer_to_the_byte() -> None:
    """Status and body are the first's, the request's id is new, the original's is named, nothing is executed."""
    till = Till()
    first, again = (till.ask("POST", "/v1/charges", CHARGE, key="k") for _ in range(2))

    assert (again.status, again.payload) == (first.status, first.payload)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Original-Request"] == first.headers["Request-Id"] != again.headers["Request-Id"]
    assert "Idempotent-Replayed" not in first.headers
    assert till.rows == [("charge", USD)]


def test_the_order_of_parameters_does_not_matter() -> None:
    """The same parameters in another order are the same request."""
    till = Till()
    till.post("/v1/charges", CHARGE, key="k")

    assert till.ask("POST", "/v1/charges", dict(reversed(CHARGE.items())), key="k").headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(
    ("path", "form", "words"),
    [("/v1/charges", {**CHARGE, "amount": 101}, "same parameters"), ("/v1/payment_intents", PAY, "same endpoint")],
)
def test_a_key_belongs_to_one_request(path: str, form: dict[str, Any], words: str) -> None:
    """Other parameters, or another endpoint: 400 `idempotency_error`, not executed, and the first is replayed as before."""
    till = Till()
    till.post("/v1/charges", CHARGE, key="k")
    refused = till.ask("POST", path, form, key="k")

    assert (refused.status, refused.body["error"]["type"], words in refused.body["error"]["message"]) == (400, "idempotency_error", True)
    assert till.ask("POST", "/v1/charges", CHARGE, key="k").headers["Idempotent-Replayed"] == "true"
    assert till.rows == [("charge", USD)]


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/v1/charges", {**CHARGE, "source": "tok_chargeDeclined"}, 402),
        ("/v1/refunds", {"charge": "ch_none"}, 404),
        ("/v1/payment_intents/pi_none/confirm", {}, 404),
    ],
)
def test_what_fails_while_executing_is_kept(path: str, form: dict[str, Any], status: int) -> None:
    """Stripe: "a request that returns a 400 sends back the same 400", as long as it began to execute."""
    till = Till()
    first, again = (till.ask("POST", path, form, key="k") for _ in range(2))

    assert (first.status, again.status, again.payload) == (status, status, first.payload)
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("executed", [True, False])
def test_a_500_is_kept(executed: bool) -> None:
    """Stripe: "including 500 errors"; it is replayed for as long as the key lives, whether money moved or not."""
    till = Till()
    work = _begun(till, CHARGE)
    if executed:
        till.stripe.execute(work, till.now)
    till.stripe.finish(work, till.stripe.failure(500), till.now)
    again = till.ask("POST", "/v1/charges", CHARGE, key="k")

    assert (again.status, again.headers["Idempotent-Replayed"]) == (500, "true")
    assert till.rows == [("charge", USD)] * executed


def test_while_a_request_is_in_flight_its_key_is_in_use() -> None:
    """409 before it executes and after, not kept; then the replay. With other parameters it is the error of a used key."""
    till = Till()
    work, seen = _begun(till, CHARGE), []
    seen.append(till.ask("POST", "/v1/charges", CHARGE, key="k"))
    answer = till.stripe.execute(work, till.now)
    till.now += 10 * DAY
    seen.append(till.ask("POST", "/v1/charges", CHARGE, key="k"))
    other = till.ask("POST", "/v1/charges", {**CHARGE, "amount": 101}, key="k")
    till.stripe.finish(work, answer, till.now)

    assert [(one.status, one.body["error"]["code"]) for one in seen] == [(409, "idempotency_key_in_use")] * 2
    assert (other.status, other.body["error"]["type"]) == (400, "idempotency_error")
    assert till.rows == [("charge", USD)]


def test_a_request_that_was_turned_away_leaves_its_key_free() -> None:
    """Stripe: "rate limiters run before the API's idempotency layer"; the next one with the key executes."""
    till = Till()
    till.stripe.abandon(_begun(till, CHARGE))

    assert "Idempotent-Replayed" not in till.ask("POST", "/v1/charges", CHARGE, key="k").headers
    assert till.rows == [("charge", USD)]


@pytest.mark.parametrize(("later", "times"), [(DAY - 1, 1), (DAY, 2)])
def test_a_key_is_forgotten_after_its_window(later: float, times: int) -> None:
    """Inside it is replayed, after it the same request executes again."""
    till = Till()
    till.post("/v1/charges", CHARGE, key="k")
    till.now += later
    till.post("/v1/charges", CHARGE, key="k")

    assert till.rows == [("charge", USD)] * times


def test_reads_and_requests_without_a_key_have_no_memory() -> None:
    """Keys of GETs have no effect in v1; a POST without a key executes each time."""
    till = Till()
    before = till.ask("GET", "/v1/charges", key="k")
    till.post("/v1/charges", CHARGE)
    till.post("/v1/charges", CHARGE, key="k")

    assert before.body["data"] == []
    assert len(till.ask("GET", "/v1/charges", key="k").body["data"]) == 2
    assert till.rows == [("charge", USD)] * 2


def test_a_key_of_256_characters_is_too_long() -> None:
    """Stripe: "keys are up to 255 characters long"."""
    till = Till()

    assert till.ask("POST", "/v1/charges", CHARGE, key="k" * 256).status == 400
    assert till.ask("POST", "/v1/charges", CHARGE, key="k" * 255).status == 200


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 503])
def test_failures_are_worded_as_the_specification_has_them(status: int) -> None:
    """Each is an error object with a Request-Id."""
    failure = Till().stripe.failure(status)

    conforms("POST", "/v1/charges", failure)
    assert (failure.status, failure.headers["Request-Id"][:4]) == (status, "req_")
