"""Random histories of charges, captures and refunds with lost answers: after reconcile the ledger says what the vendor's truth says."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keyguard
from keyguard.errors import AlreadyCharged
from keyguard.testing.double import Fault
from tests.support_doubts import HOUR, SECRET, Place, placed

if TYPE_CHECKING:
    from collections.abc import Iterator

MICROS = 10_000
FAULTS = (
    None,
    "close_before",
    "close_after",
    "reset_after",
    "truncate",
    "error_before",
    "error_after",
    "unavailable",
    "conflict",
    "rate_limit",
)
KINDS = ("charge", "declined", "raw", "manual", "intent", "refund", "again")
RUNS = ("a", "b")


@dataclass(frozen=True)
class Step:
    """One call of a history: what is asked for, by which run, and what goes wrong on the way."""

    kind: str
    run: str
    cents: int
    fault: Any


steps = st.builds(Step, st.sampled_from(KINDS), st.sampled_from(RUNS), st.integers(50, 60).map(lambda n: n * 10), st.sampled_from(FAULTS))


class History:
    """Plays steps at a double under a ledger."""

    def __init__(self, place: Place) -> None:
        self.place, self.count = place, 0
        self.customers = dict.fromkeys(RUNS, "")
        self.paid: dict[str, list[str]] = {run: [] for run in RUNS}
        for run in RUNS:
            with place.run(run, run_usd_cap=10_000):
                self.customers[run] = stripe.Customer.create(name=run).id

    def play(self, step: Step) -> None:
        """Make one call; whatever Stripe's client raises is what a flow would have seen."""
        self.count += 1
        with self.place.run(step.run, replay=step.kind == "again", run_usd_cap=10_000):
            self._prepare(step)
            if step.fault is not None:
                self.place.double.script(Fault(step.fault, method="POST"))
            try:
                self._call(step)
            except (stripe.StripeError, requests.RequestException):
                pass
            except AlreadyCharged:
                # The vendor keeps an error as its answer to a charge that it has made, as reads have told: only who repeats it is refused.
                assert step.kind == "again"
            finally:
                self.place.double.clear()

    def _prepare(self, step: Step) -> None:
        """Make what a capture or a refund is about, undisturbed."""
        if step.kind == "manual":
            self.about = stripe.PaymentIntent.create(**self._form(step), confirm=True, capture_method="manual").id
        if step.kind == "refund":
            self.about = stripe.PaymentIntent.create(**self._form(step), confirm=True).id

    def _call(self, step: Step) -> None:
        form = self._form(step)
        if step.kind == "raw":
            # Without a key: told from others by its amount, which no other call has.
            data = {**form, "confirm": "true", "amount": 100_000 + self.count}
            requests.post(f"{self.place.double.url}/v1/payment_intents", data=data, auth=(SECRET, ""), timeout=5)
        elif step.kind == "manual":
            stripe.PaymentIntent.capture(self.about, amount_to_capture=step.cents - 10)
        elif step.kind == "refund":
            stripe.Refund.create(payment_intent=self.about, amount=step.cents - 10)
        elif step.kind == "declined":
            stripe.PaymentIntent.create(**{**form, "payment_method": "pm_card_chargeDeclined"}, confirm=True)
        else:
            stripe.PaymentIntent.create(**form, confirm=step.kind != "intent")

    def _form(self, step: Step) -> dict[str, Any]:
        return {"amount": step.cents, "currency": "usd", "customer": self.customers[step.run], "payment_method": "pm_card_visa"}

    def truth(self, kind: str, run: str) -> int:
        """Return what the vendor did for a run, micro-USD."""
        return sum(abs(row["micros"]) for row in self.place.double.truth.rows(kind) if row["customer"] == self.customers[run])


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    """What all examples set alike."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def _told(history: History) -> None:
    """Reconcile after the margin, and compare with the truth."""
    history.place.advance(2 * HOUR)
    done = history.place.reconcile()

    assert [answer.words for answer in done.left] == []
    for run in RUNS:
        usage = history.place.usage(run)
        charged, refunded = history.truth("charge", run), history.truth("refund", run)
        assert (usage.spent, usage.doubt) == (charged, 0), (run, usage)
        assert usage.refunded == refunded


@pytest.mark.ci
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=1, max_size=12))
def test_after_reconcile_the_ledger_is_the_vendor_s_truth(patch: pytest.MonkeyPatch, history: list[Step]) -> None:
    """Whatever was lost, declined, replayed or never sent: never less than the truth on the way, and equal to it in the end."""
    with tempfile.TemporaryDirectory() as folder, placed(Path(folder), patch) as place:
        try:
            played = History(place)
            for step in history:
                played.play(step)
                for run in RUNS:
                    usage = place.usage(run)
                    assert usage.spent + usage.held + usage.doubt >= played.truth("charge", run), (step, usage)
            _told(played)
        finally:
            keyguard.uninstall()


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=1, max_size=30))
def test_after_reconcile_the_ledger_is_the_vendor_s_truth_long(patch: pytest.MonkeyPatch, history: list[Step]) -> None:
    """The long form of the same."""
    with tempfile.TemporaryDirectory() as folder, placed(Path(folder), patch) as place:
        try:
            played = History(place)
            for step in history:
                played.play(step)
            _told(played)
        finally:
            keyguard.uninstall()
