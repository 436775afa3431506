"""Twilio's cassettes, replayed through the guard without Node: what was held, spent and answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import keyguard
from tests.support_twilio_cassettes import PRISM_TWILIO
from tests.test_cassettes import bodies
from tests.test_twilio_counts import MINUTE, NUMBER, SAYING, SEGMENT, WHATSAPP, booked

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from tests.support_cassettes import Scenario

EXPECTED = {
    "message": [("messages.create", SEGMENT, "settle", SEGMENT), ("messages.fetch", 0, "settle", 0)],
    # By example every message has one segment: what the vendor has counted is what is spent.
    "long": [("messages.create", 2 * SEGMENT, "settle", SEGMENT)],
    "whatsapp": [("messages.create", WHATSAPP, "settle", WHATSAPP)],
    "scheduled": [("messages.create", WHATSAPP, "settle", 0), ("messages.update", 0, "settle", 0)],
    "call": [("calls.create", 2 * MINUTE + SAYING, "settle", 2 * MINUTE + SAYING), ("calls.update", 0, "settle", 0)],
    "number": [("incoming_phone_numbers.create", NUMBER, "settle", NUMBER)],
    # Without TimeLimit four hours are held, until it is refused.
    "refused": [("calls.create", 240 * MINUTE, "release", 0)],
}


@pytest.mark.parametrize("scenario", PRISM_TWILIO.scenarios, ids=lambda scenario: scenario.name)
def test_each_replayed_call_is_booked_as_the_vendor_answered(scenario: Scenario, keyguard_ledger: Ledger) -> None:
    """Operation, quote, ending and cost of each call; the SDK's answers are the cassette's, each asked for once."""
    with keyguard.run("run-1"):
        keyguard.install(run_usd_cap=50)
        answers, cassette = PRISM_TWILIO.play(scenario)

    assert booked(keyguard_ledger) == EXPECTED[scenario.name]
    assert answers == bodies(cassette)
    assert (cassette.all_played, set(cassette.play_counts.values())) == (True, {1})
    assert keyguard_ledger.verify() == []
