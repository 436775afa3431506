"""Resend's cassettes, replayed through the guard without Node: what was held, spent and answered; and that the files stay true."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import resend
from resend.exceptions import ResendError

import keyguard
from tests.support_cassettes import Readable
from tests.support_resend_cassettes import HOST, RESEND_FOLDER, SCENARIOS, Scenario, player

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keyguard.ledgers import Ledger

UNIT = 900  # micro-USD
# Of each scenario: operation, quote in units, ending, cost in units.
EXPECTED = {
    "send": [("emails.send", 4, "settle", 4), ("emails.get", 0, "settle", 0)],
    "batch": [("emails.batch", 3, "settle", 3)],
    "refused": [("emails.send", 2, "release", 0)],
}
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
each_file = pytest.mark.parametrize("path", sorted(RESEND_FOLDER.glob("*")), ids=lambda path: path.name)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], tuple[list[Any], Any]]:
    """Make a scenario's calls with nothing behind them but its cassette; returns the SDK's answers, and the cassette."""
    monkeypatch.setattr(resend, "api_url", f"http://{HOST}")
    monkeypatch.setattr(resend, "api_key", "re_12345")

    def played(scenario: Scenario) -> tuple[list[Any], Any]:
        with player().use_cassette(scenario.path, record_mode="none") as cassette:
            return scenario.play(), cassette

    return played


def said(answer: Any) -> Any:
    """Return what tells an answer of the SDK apart: its status and message, or its body."""
    if isinstance(answer, ResendError):
        return answer.code, answer.message
    return {name: value for name, value in answer.items() if name != "http_headers"}


def recorded(cassette: Any) -> list[Any]:
    """Return the same of a cassette's replies."""
    bodies = [json.loads(reply["body"]["string"]) for reply in cassette.responses]
    return [(body["statusCode"], body["message"]) if "statusCode" in body else body for body in bodies]


@each_scenario
def test_each_replayed_call_is_booked_as_the_vendor_answered(play: Any, scenario: Scenario, keyguard_ledger: Ledger) -> None:
    """Operation, quote, ending and cost of each call; the SDK's answers are the cassette's, each asked for once."""
    with keyguard.run("replay"):
        keyguard.install(run_usd_cap=1)
        answers, cassette = play(scenario)
    rows = list(keyguard_ledger.entries("run:replay"))
    ends = {row["hold"]: row for row in rows if row["kind"] in {"settle", "release", "doubt"}}
    found = [(row["operation"], row["amount"] / UNIT, ends[row["hold"]]["kind"], ends[row["hold"]]["spent"] / UNIT)
             for row in rows if row["kind"] == "reserve"]  # fmt: skip

    assert found == EXPECTED[scenario.name]
    assert [said(answer) for answer in answers] == recorded(cassette)
    assert (cassette.all_played, set(cassette.play_counts.values())) == (True, {1})
    assert keyguard_ledger.verify() == []


@each_scenario
def test_each_cassette_plays_without_the_guard(play: Any, scenario: Scenario) -> None:
    """The same calls, unguarded, get the same answers."""
    answers, cassette = play(scenario)

    assert [said(answer) for answer in answers] == recorded(cassette)


def test_every_file_is_a_scenarios() -> None:
    """No file lies in the folder that no test replays."""
    assert {path.name for path in RESEND_FOLDER.iterdir()} == {scenario.path.name for scenario in SCENARIOS}
    assert set(EXPECTED) == {scenario.name for scenario in SCENARIOS}


@each_file
def test_no_cassette_holds_a_secret_or_anybodys_address(path: Path) -> None:
    """No key, no header that was not listed, no real host, and addresses of example.com alone."""
    text = path.read_text(encoding="utf-8")
    found = Readable.deserialize(text)["interactions"]

    assert re.findall(r"(?i)\bre_\w+|vault_key_|bearer|api\.resend\.com|127\.0\.0\.1", text) == []
    assert set(re.findall(r"@[\w.-]+", text)) <= {"@example.com"}
    assert {name for each in found for name in each["request"]["headers"]} == {"Authorization", "Content-Type"}
    assert {name for each in found for name in each["response"]["headers"]} == {"Content-Type"}


@each_file
def test_each_cassette_says_what_it_was_recorded_against(path: Path) -> None:
    """The first lines name the stand-in, the SDK and the day; and all requests went to a host that cannot exist."""
    text = path.read_text(encoding="utf-8")
    found = Readable.deserialize(text)

    assert text.startswith("metadata:\n  recorded_against: resend-local ")
    assert "no live Resend" in found["metadata"]["recorded_against"]
    assert re.fullmatch(r"resend \d+\.\S+, vcrpy \d+\.\S+", found["metadata"]["recorded_with"])
    assert {each["request"]["uri"].split("/")[2] for each in found["interactions"]} == {HOST}
