"""Random histories of messages and e-mails with lost answers: told by recipient and time alone, and never counted below the truth."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import resend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from resend.exceptions import ResendError
from twilio.base.exceptions import TwilioException

import keyguard
from keyguard.testing.double import Fault
from tests.support_doubts import HOUR, Place, placed
from tests.support_twilio_clients import send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAULTS = (None, None, "close_before", "close_after", "truncate", "error_before", "error_after", "unavailable")
RUNS = ("a", "b")


@dataclass(frozen=True)
class Step:
    """One message: who pays, to whom it goes, and what goes wrong on the way."""

    run: str
    to: int
    fault: Any


steps = st.lists(st.builds(Step, st.sampled_from(RUNS), st.integers(0, 2), st.sampled_from(FAULTS)), min_size=1, max_size=10)


def play(place: Place, history: list[Step], ask: Callable[[int], object]) -> None:
    """Send the messages of a history; whatever the SDK raises is what a flow would have seen."""
    for step in history:
        if step.fault is not None:
            place.double.script(Fault(step.fault, method="POST"))
        with place.run(step.run):
            try:
                ask(step.to)
            except (requests.RequestException, ResendError, TwilioException):
                pass
            finally:
                place.double.clear()


def judge(place: Place, history: list[Step], margin: float) -> None:
    """Compare with the truth, before and after: equal where the vendor can tell, and never below it where it cannot."""
    runs = {step.run for step in history}
    before = sum(sum((usage.spent, usage.held, usage.doubt)) for usage in map(place.usage, runs))
    place.advance(margin)
    done = place.reconcile()
    after = sum(place.usage(run).spent + place.usage(run).doubt for run in runs)
    charged = place.double.truth.charged()

    assert before >= charged
    for answer in done.left:
        # Which of two runs an object belongs to is written nowhere at the vendor.
        assert "calls in doubt" in answer.words, answer
    assert after >= charged
    if not done.left:
        assert after == charged


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    """What all examples set alike."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(steps)
def test_messages_come_to_the_vendor_s_truth(patch: pytest.MonkeyPatch, history: list[Step]) -> None:
    """Twilio's list shows recipient and time: after the queue is empty every message is counted at its price, or left to a person."""
    with tempfile.TemporaryDirectory() as folder, placed(Path(folder), patch, "twilio") as place:
        try:
            play(place, history, lambda to: send(place.double.url, "sync", to=f"+1212555012{to}"))
            judge(place, history, 12 * HOUR)
        finally:
            keyguard.uninstall()


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(steps)
def test_emails_come_to_the_vendor_s_truth(patch: pytest.MonkeyPatch, history: list[Step]) -> None:
    """Resend's list shows recipients and time: after the margin every e-mail is counted, or left to a person."""

    def mail(to: int) -> object:
        email: Any = {"from": "a@example.com", "to": [f"b{to}@example.com"], "subject": "s", "text": "t"}
        return resend.Emails.send(email)

    with tempfile.TemporaryDirectory() as folder, placed(Path(folder), patch, "resend") as place:
        try:
            play(place, history, mail)
            judge(place, history, 2 * HOUR)
        finally:
            keyguard.uninstall()
