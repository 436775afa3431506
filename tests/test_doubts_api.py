"""`keyguard.doubts` as programs use it: which ledger it means, what it refuses, and what it leaves to others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import stripe

import keyguard
from keyguard.errors import ConfigurationError
from keyguard.ledgers import open_ledger
from keyguard.model import Identity, Order, Quote
from keyguard.testing.double import Fault
from tests.support_doubts import HOUR, USD, Place, charge, lost, parts, placed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A double and a ledger of their own."""
    with placed(tmp_path, monkeypatch) as found:
        yield found


# -- which ledger ----------------------------------------------------------------------------------


def test_an_installed_process_means_its_own_ledger(place: Place) -> None:
    """Without an argument it is the ledger by which this process decides, in memory too."""
    with keyguard.run("a"):
        keyguard.install("sqlite://", run_usd_cap=100)
        lost(place)

        assert [doubt.amount for doubt in keyguard.doubts.listed()] == [5 * USD]
        assert keyguard.doubts.reconcile().left == ()


def test_what_an_ended_call_left_is_seen(place: Place) -> None:
    """A call that an injected exception ended in this process is in doubt as soon as somebody looks."""
    with place.run():
        lost(place)

        assert len(keyguard.doubts.listed("a")) == 1


def test_two_ledgers_in_use_are_not_confused(place: Place, tmp_path: Path) -> None:
    """Where this process uses several, it is said which there are, and none is picked."""
    with place.run("a"):
        charge()
    with keyguard.run("b"):
        keyguard.install(f"sqlite:///{tmp_path / 'other.db'}", run_usd_cap=100)

    with pytest.raises(ConfigurationError, match=r"other\.db"):
        keyguard.doubts.listed()


def test_without_a_ledger_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that installed nothing means KEYGUARD_URL; looking makes no file."""
    missing = tmp_path / "ledger.db"
    monkeypatch.setenv("KEYGUARD_URL", f"sqlite:///{missing}")

    with pytest.raises(ConfigurationError, match="there is no ledger"):
        keyguard.doubts.reconcile()

    assert not missing.exists()


# -- by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", ["x", -1, float("nan"), "0.0000001"])
def test_a_cost_that_is_no_amount_is_refused(place: Place, cost: Any) -> None:
    """Nothing is settled at what cannot be read as dollars."""
    with place.run():
        lost(place, 500, "close_before")
    (doubt,) = keyguard.doubts.listed(ledger=place.url)

    with pytest.raises(ConfigurationError, match="the cost"):
        keyguard.doubts.settle(doubt.reservation_id, cost_usd=cost, reason="seen", ledger=place.url)

    assert parts(place.usage()) == (0, 0, 5 * USD)


def test_who_releases_is_the_user_of_the_process(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `by` the audit has the login name; a whole id is enough where another begins with it."""
    monkeypatch.setenv("LOGNAME", "grace")
    with place.run():
        lost(place, 500, "close_before")
    (doubt,) = keyguard.doubts.listed(ledger=place.url)

    keyguard.doubts.release(doubt.reservation_id, reason="never sent", ledger=place.url)

    (row,) = [row for row in place.entries("release") if row["hold"] == doubt.reservation_id]
    assert row["detail"]["by"] == "grace"


# -- what it leaves to others ----------------------------------------------------------------------


def test_a_retry_on_its_way_is_left_to_its_process(place: Place) -> None:
    """While another attempt of the same charge is open, what the vendor shows is not booked over its head."""
    with place.run(replay=True):
        lost(place)
    ledger = open_ledger(place.url, durability="process")
    (doubt,) = ledger.doubts()
    key = ledger.key(run_id="a")
    assert key is not None
    identity = Identity(doubt.identity, doubt.n, "e2", window=23 * HOUR)
    order = Order(
        "retry", key.key_id, key.version, key.scope, "stripe", "", doubt.operation, "POST", Quote(doubt.amount), (), identity=identity
    )
    assert ledger.reserve(order).granted

    (answer,) = keyguard.doubts.reconcile(ledger=ledger).answers

    assert answer.ending == "doubt"
    assert "still open" in answer.words
    ledger.shut()


def test_an_attempt_that_was_made_while_the_vendor_was_asked_is_not_released(place: Place) -> None:
    """The vendor showed nothing, then a retry was executed and its answer lost: what was read before says nothing about that one."""
    with place.run(replay=True):
        lost(place, 500, "close_before")
    place.advance(2 * HOUR)
    place.double.script(Fault("hold_after", method="GET", path="/v1/events"))
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(place.reconcile)
        place.double.wait_until_held()
        with place.run(replay=True):
            lost(place)
        place.double.release()
        (answer,) = asking.result(30).answers

    assert answer.ending == "doubt"
    assert "another attempt" in answer.words
    assert place.usage().doubt == place.double.truth.charged() == 5 * USD
    assert [one.ending for one in place.reconcile().answers] == ["settled"]


def test_a_vendor_that_cannot_be_asked_is_left_to_a_person(place: Place) -> None:
    """Of a registered vendor nobody knows how to ask; a process that never registered it lists and keeps its doubts all the same."""
    keyguard.vendors.register("acme", hosts=["api.acme.example"], operations={"POST /v1/jobs": "5"})
    try:
        with place.run(), pytest.raises(httpx.ReadTimeout):
            httpx.Client(transport=httpx.MockTransport(_times_out)).post("https://api.acme.example/v1/jobs")
        known = place.reconcile(vendor="acme")
    finally:
        keyguard.uninstall()
        keyguard.vendors.unregister("acme")

    unknown = place.reconcile(vendor="acme")

    for done in (known, unknown):
        assert [(answer.ending, answer.doubt.vendor) for answer in done.answers] == [("doubt", "acme")]
        assert "nobody knows how to ask it" in done.answers[0].words


def _times_out(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("lost", request=request)


def test_an_open_intent_that_cannot_be_read_stays_as_it_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a secret, with another account's, or while the vendor is away, nothing is learned and nothing is changed."""
    with place.run():
        stripe.PaymentIntent.create(amount=500, currency="usd")
    place.double.script(Fault("unavailable", method="GET"))
    assert place.reconcile().late == ()
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_of_b")
    assert place.reconcile().late == ()
    monkeypatch.delenv("STRIPE_SECRET_KEY")
    assert place.reconcile().late == ()

    assert parts(place.usage()) == (0, 5 * USD, 0)


def test_what_came_late_is_shown_as_it_would_be_booked(place: Place) -> None:
    """A dry run says what an open intent has come to, and books nothing."""
    with place.run():
        intent = stripe.PaymentIntent.create(amount=500, currency="usd")
    keyguard.uninstall()
    intent.confirm(payment_method="pm_card_visa")

    (answer,) = place.reconcile(dry_run=True).late

    assert (answer.cost, answer.words) == (5 * USD, f"{intent.id} is succeeded: $5.00 spent, $0.00 held; it was $5.00")
    assert parts(place.usage()) == (0, 5 * USD, 0)


def test_words_of_a_vendor_are_shown_without_what_a_terminal_obeys() -> None:
    """An escape sequence in an answer is not passed on."""
    from keyguard.doubts._pass import _shown

    assert _shown("pi_1 is \x1b[2Jpaid\n") == "pi_1 is ?[2Jpaid?"
    assert len(_shown("x" * 1000)) == 500
