"""Errors that Stripe keeps as its answer to a charge: the charge is asked about at once, and the double's truth judges what is booked."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
import stripe

from keyguard.doubts import _at_once
from keyguard.errors import AlreadyCharged
from keyguard.testing.double import Fault
from tests.support_doubts import HOUR, SECRET, USD, Place, charge, parts, placed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


WAYS = ["sync", "asyncio", "trio"]
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A double and a ledger of their own, and nothing asked yet."""
    _at_once.asker.renew()
    with placed(tmp_path, monkeypatch) as found:
        yield found


async def acharge(amount: int = 500) -> stripe.PaymentIntent:
    """Charge a card at once, awaited."""
    made: Any = stripe.HTTPXClient()
    client = stripe.StripeClient(SECRET, base_addresses={"api": stripe.api_base}, http_client=made, max_network_retries=0)
    try:
        form: Any = {"amount": amount, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
        return await client.v1.payment_intents.create_async(form)
    finally:
        await made.close_async()


def call(how: str) -> stripe.PaymentIntent:
    """Charge in one of three ways."""
    return charge() if how == "sync" else anyio.run(acharge, backend=how)


def fail(place: Place, kind: Any) -> None:
    """Have the next charge answered by an error that is kept."""
    place.double.script(Fault(kind, vendor="stripe", method="POST"))


def questions(place: Place) -> list[str]:
    """Return what was read at the vendor."""
    return [row["target"] for row in place.double.requests() if row["method"] == "GET"]


@pytest.mark.parametrize("how", WAYS)
def test_a_charge_behind_a_kept_error_is_settled_at_once(place: Place, how: str) -> None:
    """The second request is told the same 500; then the charge is found by its key, and the third request is refused, unsent."""
    fail(place, "error_after")
    with place.run(replay=True):
        with pytest.raises(stripe.APIError):
            call(how)
        first, asked = place.usage(), len(questions(place))
        with pytest.raises(stripe.APIError):
            call(how)
        second, sent = place.usage(), len(place.double.requests())
        with pytest.raises(AlreadyCharged, match="keeps an error as its answer"):
            call(how)

    assert (parts(first), asked) == ((0, 0, 5 * USD), 0)
    assert parts(second) == parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (5 * USD, 0, 0)
    assert len(place.double.requests()) == sent


@pytest.mark.parametrize("how", WAYS)
def test_a_charge_that_was_not_made_is_tried_anew_once_that_is_sure(place: Place, how: str) -> None:
    """Within the margin it may still be made, and stays in doubt; after it the next request has another key, and is executed."""
    fail(place, "error_before")
    with place.run(replay=True):
        for _ in range(2):
            with pytest.raises(stripe.APIError):
                call(how)
        early = place.usage()
        place.advance(HOUR + 60)
        _at_once.asker.renew()
        place.reconcile()
        made = call(how)

    assert parts(early) == (0, 0, 5 * USD)
    assert made.status == "succeeded"
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (5 * USD, 0, 0)


def test_the_sdk_s_own_retries_ask_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts of one call, two of them answered by the kept error: asked about when the call is over, and settled."""
    monkeypatch.setattr(stripe, "max_network_retries", 2)
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.01)
    fail(place, "error_after")
    with place.run(replay=True), pytest.raises(stripe.APIError):
        charge()
    rows = [row["operation"] for row in place.entries("reserve")]

    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (5 * USD, 0, 0)
    assert rows.count("keyguard.inquiry") == 1


def test_a_retry_loop_asks_once_in_some_seconds(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known yet: the loop goes on, and the vendor is asked by its first round alone."""
    fail(place, "error_before")
    with place.run(replay=True):
        for _ in range(6):
            with pytest.raises(stripe.APIError):
                charge()
        once = len(questions(place))
        monkeypatch.setattr(_at_once, "_PAUSE_SECONDS", 0.0)
        with pytest.raises(stripe.APIError):
            charge()

    assert once > 0
    assert len(questions(place)) == 2 * once
    assert parts(place.usage()) == (0, 0, 5 * USD)


def test_a_key_that_only_observes_asks_nothing(place: Place) -> None:
    """In observe mode a call costs its caller no question; what is in doubt is asked about by reconcile."""
    fail(place, "error_after")
    with place.run(mode="observe"):
        for _ in range(2):
            with pytest.raises(stripe.APIError):
                charge(idempotency_key="mine")

    assert questions(place) == []
    assert place.usage().doubt >= place.double.truth.charged() == 5 * USD


def test_a_caller_s_own_key_is_asked_about_too(place: Place) -> None:
    """What was charged under it is found by it; the third request would be told the error once more, and is refused."""
    fail(place, "error_after")
    with place.run():
        for _ in range(2):
            with pytest.raises(stripe.APIError):
                charge(idempotency_key="mine")
        with pytest.raises(AlreadyCharged):
            charge(idempotency_key="mine")

    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (5 * USD, 0, 0)


@pytest.mark.parametrize("how", WAYS)
def test_without_a_secret_the_caller_gets_his_500(place: Place, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Nobody can be asked then: the call ends as it would have, and stays in doubt."""
    fail(place, "error_after")
    with place.run(replay=True):
        with pytest.raises(stripe.APIError):
            call(how)
        monkeypatch.delenv("STRIPE_SECRET_KEY")
        with pytest.raises(stripe.APIError, match="unknown error"):
            call(how)

    assert questions(place) == []
    assert place.usage().doubt == place.double.truth.charged() == 5 * USD


def test_a_vendor_that_hangs_keeps_the_caller_for_some_seconds_only(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The questions are given up at their deadline; the caller gets his own 500, and the charge stays in doubt."""
    monkeypatch.setattr(_at_once, "SECONDS", 0.5)
    fail(place, "error_after")
    place.double.script(Fault("hold_before", vendor="stripe", method="GET", seconds=30))
    with place.run(replay=True):
        with pytest.raises(stripe.APIError, match="unknown error"):
            charge()
        begun = time.monotonic()
        with pytest.raises(stripe.APIError, match="unknown error"):
            charge()

    assert time.monotonic() - begun < 10
    assert place.usage().doubt == place.double.truth.charged() == 5 * USD


@pytest.mark.parametrize("backend", WAYS[1:])
def test_a_cancelled_caller_does_not_wait_for_the_answer(place: Place, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """The loop goes on while the vendor is asked, and a cancellation ends the wait; the books are true."""
    asked, go_on, given_up = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: Any) -> None:
        asked.set()
        if not go_on.wait(20):
            given_up.set()

    async def cancelled() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(acharge)
            await anyio.to_thread.run_sync(asked.wait)
            group.cancel_scope.cancel()
        go_on.set()

    fail(place, "error_after")
    with place.run(replay=True):
        with pytest.raises(stripe.APIError):
            call(backend)
        monkeypatch.setattr(_at_once.Asker, "ask", slow)
        anyio.run(cancelled, backend=backend)

    assert not given_up.is_set()
    assert place.usage().doubt == place.double.truth.charged() == 5 * USD


def test_few_are_asked_about_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """While as many questions are on their way as may be, a further charge is left to the next retry: nobody queues."""
    monkeypatch.setattr(_at_once, "_AT_ONCE", 0)
    fail(place, "error_after")
    with place.run(replay=True):
        for _ in range(2):
            with pytest.raises(stripe.APIError):
                charge()

    assert questions(place) == []
    assert place.usage().doubt == place.double.truth.charged() == 5 * USD
