"""Resend's cassettes, replayed through the guard without Node: what was held, spent and answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import keyguard
from tests.support_resend_cassettes import RESEND_LOCAL
from tests.test_cassettes import bodies, said

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from tests.support_cassettes import Scenario

UNIT = 900  # micro-USD
# Of each scenario: operation, quote in units, ending, cost in units.
EXPECTED = {
    "send": [("emails.send", 4, "settle", 4), ("emails.get", 0, "settle", 0)],
    "batch": [("emails.batch", 3, "settle", 3)],
    "refused": [("emails.send", 2, "release", 0)],
}


@pytest.mark.parametrize("scenario", RESEND_LOCAL.scenarios, ids=lambda scenario: scenario.name)
def test_each_replayed_call_is_booked_as_the_vendor_answered(scenario: Scenario, keyguard_ledger: Ledger) -> None:
    """Operation, quote, ending and cost of each call; the SDK's answers are the cassette's, each asked for once."""
    with keyguard.run("replay"):
        keyguard.install(run_usd_cap=1)
        answers, cassette = RESEND_LOCAL.play(scenario)
    rows = list(keyguard_ledger.entries("run:replay"))
    ends = {row["hold"]: row for row in rows if row["kind"] in {"settle", "release", "doubt"}}
    found = [(row["operation"], row["amount"] / UNIT, ends[row["hold"]]["kind"], ends[row["hold"]]["spent"] / UNIT)
             for row in rows if row["kind"] == "reserve"]  # fmt: skip

    assert found == EXPECTED[scenario.name]
    assert [said(answer) for answer in answers] == bodies(cassette)
    assert (cassette.all_played, set(cassette.play_counts.values())) == (True, {1})
    assert keyguard_ledger.verify() == []
