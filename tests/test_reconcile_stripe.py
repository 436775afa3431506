"""Calls to Stripe whose answer was lost, asked about at the vendor double, whose truth file judges what the ledger books."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import requests
import stripe

import keyguard
from keyguard.testing.double import Fault
from tests.support_doubts import HOUR, SECRET, USD, Place, charge, lost, parts, placed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A double and a ledger of their own."""
    with placed(tmp_path, monkeypatch) as found:
        yield found


def raw(place: Place, key: str = "", timeout: float = 5) -> requests.Response:
    """Charge five dollars without the SDK, which would give the request a key of its own."""
    form = {"amount": 500, "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
    headers = {"Idempotency-Key": key} if key else {}
    return requests.post(f"{place.double.url}/v1/payment_intents", data=form, headers=headers, auth=(SECRET, ""), timeout=timeout)


@pytest.mark.parametrize("kind", ["close_after", "reset_after", "truncate", "error_after"])
def test_a_charge_whose_answer_was_lost_is_settled_to_the_cent(place: Place, kind: Any) -> None:
    """The vendor executed and the answer was lost: at once after reconcile the ledger says what the vendor's truth says."""
    with place.run():
        lost(place, 1234, kind)
    before = place.usage()

    done = place.reconcile()

    assert parts(before) == (0, 0, 12_340_000)
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (12_340_000, 0, 0)
    assert [(answer.ending, answer.cost) for answer in done.answers] == [("settled", 12_340_000)]
    assert (done.before, done.after, done.left) == (12_340_000, 0, ())


@pytest.mark.parametrize("kind", ["close_before", "error_before", "unavailable"])
def test_a_charge_that_was_never_made_is_released_after_the_margin(place: Place, kind: Any) -> None:
    """Nothing was executed: within the margin it stays counted, after it the money is free again."""
    with place.run():
        lost(place, 500, kind)
    early = place.reconcile()
    place.advance(HOUR + 60)

    late = place.reconcile()

    assert [answer.ending for answer in early.answers] == ["doubt"]
    assert "ask again after" in early.answers[0].words
    assert early.after == 5 * USD
    assert [answer.ending for answer in late.answers] == ["released"]
    assert "presumed absent" in late.answers[0].words
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (0, 0, 0)


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_was_wrong_hides_nothing(place: Place, hours: int) -> None:
    """Three hours apart, our clock and the vendor's still mean the same charge: it is found by its key, and not taken for absent."""
    place.double.advance(hours * HOUR)
    with place.run():
        lost(place)
    place.advance(2 * HOUR)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["settled"]
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0)


def test_age_frees_nothing(place: Place) -> None:
    """Years later nobody shows any more what was executed: it stays counted."""
    with place.run():
        lost(place)
    place.advance(9 * 365 * 24 * HOUR)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["doubt"]
    assert place.usage().doubt == place.double.truth.charged() == 5 * USD


def test_another_account_s_secret_releases_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential that sees another account's events finds nothing there, and that proves nothing."""
    with place.run():
        lost(place)
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_of_b")
    place.advance(2 * HOUR)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["doubt"]
    assert "another credential" in done.answers[0].words
    assert place.usage().doubt == place.double.truth.charged() == 5 * USD


@pytest.mark.parametrize("own_key", [None, "mine"])
@pytest.mark.parametrize(("secret", "ending"), [(SECRET, "settled"), ("sk_test_of_b", "doubt")])
def test_a_vault_token_s_call_is_asked_about_with_the_secret_it_left_with(
    place: Place, monkeypatch: pytest.MonkeyPatch, own_key: str | None, secret: str, ending: str
) -> None:
    """The variable that the token stood for may hold another account's secret by now: that one proves nothing, under the same name."""
    with place.run():
        monkeypatch.setattr(stripe, "api_key", keyguard.install(place.url, run_usd_cap=100).key.token)
        lost(place, idempotency_key=own_key)
    monkeypatch.setenv("STRIPE_SECRET_KEY", secret)
    place.advance(2 * HOUR)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == [ending]
    assert place.usage().spent + place.usage().doubt == place.double.truth.charged() == 5 * USD


def test_without_a_secret_the_doubt_stays_and_says_what_to_set(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody to ask with: the words name the variable."""
    with place.run():
        lost(place)
    monkeypatch.delenv("STRIPE_SECRET_KEY")

    done = place.reconcile()

    assert "STRIPE_SECRET_KEY" in done.left[0].words


@pytest.mark.parametrize("kind", ["unavailable", "close_before", "truncate"])
def test_a_page_that_is_missing_releases_nothing(place: Place, kind: Any) -> None:
    """With one page of the events unread, a charge that may be on it is not taken for absent."""
    with place.run():
        lost(place)
        for _ in range(60):
            # Two events each: the lost charge's own are on the second page, because the newest come first.
            charge(50)
    place.advance(2 * HOUR)
    place.double.script(Fault(kind, method="GET", path="/v1/events", after=1, times=0))

    missing = place.reconcile()
    place.double.clear()
    whole = place.reconcile()

    assert [answer.ending for answer in missing.answers] == ["doubt"]
    assert [answer.ending for answer in whole.answers] == ["settled"]
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0)


def test_a_declined_charge_is_released_at_once(place: Place) -> None:
    """The issuer declined and the answer was lost: no margin is waited for."""
    with place.run():
        lost(place, payment_method="pm_card_chargeDeclined")

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["released"]
    assert "declined" in done.answers[0].words
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (0, 0, 0)


def test_a_replayed_500_is_found_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 500 after the execution is kept and replayed under its key; the events tell that it was executed."""
    with place.run(replay=True):
        lost(place, 500, "error_after")
    with place.run(replay=True), monkeypatch.context() as patch, pytest.raises(stripe.APIError):
        # Without it nobody can be asked at once.
        patch.delenv("STRIPE_SECRET_KEY")
        charge()
    before = place.usage()

    done = place.reconcile()

    assert before.doubt == 5 * USD
    assert [(answer.ending, answer.doubt.attempts) for answer in done.answers] == [("settled", 2)]
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (5 * USD, 0, 0)


def test_after_a_release_the_next_try_has_another_key(place: Place) -> None:
    """What was presumed absent is tried again as the next generation, under a key that Stripe has not seen."""
    with place.run(replay=True):
        lost(place, 500, "close_before")
    place.advance(2 * HOUR)
    assert [answer.ending for answer in place.reconcile().answers] == ["released"]

    with place.run(replay=True):
        charge()

    keys = {request["headers"].get("idempotency-key") for request in place.double.requests() if request["method"] == "POST"}
    assert len(keys) == 2
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (5 * USD, 0, 0)


def test_truth_after_a_release_is_booked_as_overrun(place: Place) -> None:
    """A person who finds the charge after all settles it: it is counted in full, though nothing is held for it any more."""
    with place.run():
        lost(place, 500, "close_before")
    place.advance(2 * HOUR)
    (answer,) = place.reconcile().answers

    receipt = keyguard.doubts.settle(answer.doubt.reservation_id, cost_usd=5, reason="found in the Dashboard", by="ada", ledger=place.url)

    assert (receipt.spent, receipt.overrun) == (5 * USD, 5 * USD)
    assert parts(place.usage()) == (5 * USD, 0, 0)
    assert place.usage().overrun == 5 * USD


def test_what_is_executed_after_a_release_is_found_and_booked_as_overrun(place: Place) -> None:
    """A request that the vendor executed hours later, after its money was given back: the next pass finds its key, and counts it."""
    place.double.script(Fault("hold_before", method="POST", seconds=60))
    with place.run(), pytest.raises(requests.Timeout):
        raw(place, "k1", timeout=0.3)
    place.double.wait_until_held()
    place.advance(2 * HOUR)
    assert [answer.ending for answer in place.reconcile().answers] == ["released"]
    assert parts(place.usage()) == (0, 0, 0)
    place.double.release()
    place.double.wait_until_quiet()
    assert place.double.truth.charged() == 5 * USD

    dry, done = place.reconcile(dry_run=True), place.reconcile()

    assert [answer.cost for answer in dry.late] == [answer.cost for answer in done.late] == [5 * USD]
    assert "executed after all" in done.late[0].words
    assert (parts(place.usage()), place.usage().overrun) == ((5 * USD, 0, 0), 5 * USD)
    assert place.reconcile().late == ()


def test_what_another_run_bought_with_the_same_key_is_not_booked_again(place: Place) -> None:
    """A caller's own key that a later run used again: what Stripe made for that run is counted there, and nowhere else."""
    place.double.script(Fault("close_before", method="POST"))
    with place.run(), pytest.raises(requests.ConnectionError):
        raw(place, "k1")
    place.advance(2 * HOUR)
    assert [answer.ending for answer in place.reconcile().answers] == ["released"]
    with place.run("b"):
        raw(place, "k1")

    done = place.reconcile()

    assert done.late == ()
    assert (parts(place.usage("a")), parts(place.usage("b"))) == ((0, 0, 0), (5 * USD, 0, 0))


def test_a_call_without_a_key_is_told_by_what_it_looks_like(place: Place) -> None:
    """A raw request without an Idempotency-Key: settled if the only charge of its kind is there, in another run's pass too."""
    place.double.script(Fault("close_after", method="POST"), Fault("close_before", method="POST"))
    for name in ("a", "b"):
        with place.run(name), pytest.raises(requests.ConnectionError):
            raw(place)

    done = place.reconcile("a")

    # The one charge may be run b's, which nobody asked about: a pass over one run looks at the others all the same.
    assert [answer.ending for answer in done.answers] == ["doubt"]
    assert "2 calls in doubt" in done.answers[0].words
    keyguard.doubts.release(keyguard.doubts.listed("b", ledger=place.url)[0].reservation_id, reason="seen", by="ada", ledger=place.url)
    assert [answer.ending for answer in place.reconcile("a").answers] == ["settled"]
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0)


def test_equal_charges_of_two_runs_settle_by_their_own_keys(place: Place) -> None:
    """Two runs lost the answer to the same request: each charge settles its own run, to the cent."""
    for name in ("a", "b"):
        with place.run(name, replay=True):
            lost(place)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["settled", "settled"]
    assert parts(place.usage("a")) == parts(place.usage("b")) == (5 * USD, 0, 0)
    assert place.double.truth.charged() == 10 * USD


@pytest.mark.parametrize(("kind", "charged"), [("hold_before", 0), ("hold_after", 5 * USD)])
def test_what_a_killed_process_left_is_reconciled(place: Place, kind: Any, charged: int) -> None:
    """A process that is killed while its request is out leaves a doubt that names its run and its end; the vendor says how it ended."""
    place.double.script(Fault(kind, method="POST"))
    child = subprocess.Popen([sys.executable, "-m", "tests.worker_lost", place.url, place.double.url])
    place.double.wait_until_held()
    child.kill()
    child.wait(30)
    if kind == "hold_after":
        place.double.release()
    (doubt,) = keyguard.doubts.listed("a", ledger=place.url)
    early = place.reconcile()
    place.advance(2 * HOUR)

    late = place.reconcile()

    assert (doubt.run_id, doubt.amount, bool(doubt.ended)) == ("a", 5 * USD, True)
    assert [answer.ending for answer in (*early.answers, *late.answers)] == (["settled"] if charged else ["doubt", "released"])
    assert parts(place.usage()) == (charged, 0, 0)
    assert place.double.truth.charged() == charged


def test_only_the_run_that_was_asked_for_is_reconciled(place: Place) -> None:
    """`run` leaves the others as they are."""
    for name in ("a", "b"):
        with place.run(name):
            lost(place)

    place.reconcile("a")

    assert (parts(place.usage("a")), parts(place.usage("b"))) == ((5 * USD, 0, 0), (0, 0, 5 * USD))


def test_a_dry_run_books_nothing(place: Place) -> None:
    """`dry_run` asks, says what it would do, and leaves the ledger as it was."""
    with place.run():
        lost(place)

    done = place.reconcile(dry_run=True)

    assert [(answer.ending, answer.cost) for answer in done.answers] == [("settled", 5 * USD)]
    assert (done.before, done.after) == (5 * USD, 0)
    assert place.usage().doubt == 5 * USD


@pytest.mark.parametrize("kind", ["close_after", "close_before"])
def test_a_lost_capture_is_told_by_its_intent(place: Place, kind: Any) -> None:
    """Whether a capture was executed shows in its intent: at once if it was, after the margin if not."""
    with place.run():
        intent = charge(capture_method="manual")
        place.double.script(Fault(kind, method="POST"))
        with pytest.raises(stripe.APIConnectionError):
            intent.capture(amount_to_capture=300)
    place.reconcile()
    first = parts(place.usage())
    place.advance(2 * HOUR)

    place.reconcile()

    if kind == "close_after":
        assert first == (3 * USD, 0, 0)
    else:
        assert first == (0, 0, 5 * USD)
        # Given back, the hold is the open intent's again.
        assert parts(place.usage()) == (0, 5 * USD, 0)
    assert place.usage().spent == place.double.truth.charged()


@pytest.mark.parametrize("kind", ["close_after", "close_before"])
def test_a_lost_refund_is_found_by_its_key(place: Place, kind: Any) -> None:
    """A refund draws on its own budget: settled if the vendor made it, given back if not."""
    with place.run():
        intent = charge()
        place.double.script(Fault(kind, method="POST"))
        with pytest.raises(stripe.APIConnectionError):
            stripe.Refund.create(payment_intent=intent.id, amount=200)
    place.advance(2 * HOUR)

    place.reconcile()

    usage = place.usage()
    assert usage.refunded == place.double.truth.refunded() == (2 * USD if kind == "close_after" else 0)
    assert (usage.spent, usage.doubt) == (5 * USD, 0)


def test_an_intent_paid_elsewhere_is_counted(place: Place) -> None:
    """An open intent is read again: what its customer paid since is spent, and nothing is held for it any more."""
    with place.run():
        intent = stripe.PaymentIntent.create(amount=500, currency="usd")
    keyguard.uninstall()
    intent.confirm(payment_method="pm_card_visa")
    before = parts(place.usage())

    done = place.reconcile()

    assert before == (0, 5 * USD, 0)
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0) == (5 * USD, 0, 0)
    assert [answer.doubt.object_id for answer in done.late] == [intent.id]
    assert place.reconcile().late == ()


def test_a_canceled_intent_gives_its_hold_back(place: Place) -> None:
    """An open intent that was cancelled elsewhere holds nothing any more."""
    with place.run():
        intent = stripe.PaymentIntent.create(amount=500, currency="usd")
    keyguard.uninstall()
    intent.cancel()

    place.reconcile()

    assert parts(place.usage()) == (0, 0, 0)


def test_asking_is_audited_and_not_guarded(place: Place) -> None:
    """Each question about a doubt is a row that costs nothing, counts against no call cap, and passes an armed process unrefused."""
    with place.run(max_calls=1, allowed_endpoints=["POST /v1/payment_intents"]):
        lost(place)
        place.advance(2 * HOUR)

        done = place.reconcile()

    assert done.left == ()
    assert [row["operation"] for row in place.entries("settle")].count("keyguard.inquiry") == 1
    assert place.usage().calls == 1
    (row,) = [row for row in place.entries("settle") if row["operation"] == "payment_intents.create"]
    assert row["detail"]["by"] == "reconcile"
    assert "this call made pi_" in row["detail"]["reason"]
