"""The cassettes, replayed through the guard: what was held, spent and answered for each call; and that the files stay true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import stripe
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import keyguard
from keyguard import telemetry
from keyguard.errors import UnpricedCall
from tests.record_cassettes import put
from tests.support_cassettes import FOLDER, HOST, SCENARIOS, Readable, Scenario, client, player

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from keyguard.ledgers import Ledger
    from keyguard.model import Usage
    from tests.support_cassettes import Answer

USD = 1_000_000
CREATE, CONFIRM, CAPTURE, REFUND = "payment_intents.create", "payment_intents.confirm", "payment_intents.capture", "refunds.create"


@dataclass(frozen=True, slots=True)
class Booked:
    """What the ledger wrote down of one call, in dollars; `held` is left open behind it, `adopts` an earlier call's hold."""

    operation: str
    quote: float
    ending: str
    spent: float = 0
    held: float = 0
    adopts: bool = False


@dataclass(frozen=True, slots=True)
class Books:
    """What a replay leaves behind: each call, then the run's figures in dollars."""

    calls: tuple[Booked, ...]
    spent: float = 0
    held: float = 0
    refunded: float = 0
    open_intents: int = 0


EXPECTED = {
    "success": Books((Booked(CREATE, 20, "settle", spent=20),), spent=20),
    "decline": Books((Booked(CREATE, 20, "release"),)),
    "manual_capture": Books(
        (
            Booked(CREATE, 30, "settle", held=30),
            Booked(CONFIRM, 30, "settle", held=30, adopts=True),
            Booked(CAPTURE, 30, "settle", spent=30, adopts=True),
        ),
        spent=30,
    ),
    # A refund has a pot of its own and gives no cap back.
    "partial_refund": Books((Booked(CREATE, 20, "settle", spent=20), Booked(REFUND, 5, "settle", spent=5)), spent=20, refunded=5),
    "requires_action": Books((Booked(CREATE, 20, "settle", held=20),), held=20, open_intents=1),
}
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
each_file = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Keep the spans of this test's calls."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))
    yield found
    provider.shutdown()


def play(scenario: Scenario) -> tuple[list[Answer], Any]:
    """Make a scenario's calls with nothing behind them but its cassette; returns what the SDK answered, and the cassette."""
    with player().use_cassette(scenario.path, record_mode="none") as cassette:
        return scenario.play(client(f"http://{HOST}"), scenario.card), cassette


def guarded(scenario: Scenario, **policy: Any) -> tuple[list[Answer], Any, Usage]:
    """Make them in a guarded run; returns the run's usage as well."""
    with keyguard.run("replay"):
        installed = keyguard.install(**{"run_usd_cap": 100, **policy})
        return *play(scenario), installed.usage()


def said(answer: Answer) -> Any:
    """Return the JSON that an answer of the SDK was made from."""
    return answer.json_body if isinstance(answer, stripe.StripeError) else answer.to_dict()


def bodies(cassette: Any) -> list[Any]:
    """Return the JSON of a cassette's replies."""
    return [json.loads(reply["body"]["string"]) for reply in cassette.responses]


def booked(entries: Iterable[dict[str, Any]]) -> tuple[Booked, ...]:
    """Read each call out of the log: its reserve, and the last entry that ended it."""
    rows = list(entries)
    ends = {row["hold"]: row for row in rows if row["kind"] in {"settle", "release", "doubt"}}
    adopters = {row["detail"]["by"] for row in rows if row["kind"] == "adopt"}
    return tuple(
        Booked(row["operation"], row["amount"] / USD, end["kind"], end["spent"] / USD, end["held"] / USD, row["hold"] in adopters)
        for row, end in ((row, ends[row["hold"]]) for row in rows if row["kind"] == "reserve")
    )


def interactions(path: Path) -> list[dict[str, Any]]:
    """Return a file's interactions as they are written."""
    found: list[dict[str, Any]] = Readable.deserialize(path.read_text(encoding="utf-8"))["interactions"]
    return found


# -- replayed through the guard --------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_each_replayed_call_is_held_and_booked_as_the_vendor_answered(name: str, keyguard_ledger: Ledger) -> None:
    """Operation, quote, cost and ending of each call, the run's figures after the last one, and books that are in order."""
    _, _, usage = guarded(BY_NAME[name])
    figures = (usage.spent / USD, usage.held / USD, usage.refunded / USD, len(usage.intents))

    assert Books(booked(keyguard_ledger.entries("run:replay")), *figures) == EXPECTED[name]
    assert (usage.doubt, usage.calls) == (0, len(EXPECTED[name].calls))
    assert keyguard_ledger.verify() == []


@pytest.mark.parametrize("name", EXPECTED)
def test_the_guard_plays_each_request_once_and_hands_on_what_was_recorded(name: str) -> None:
    """The SDK's answers are the cassette's, call by call, and nothing was asked that it does not hold."""
    answers, cassette, _ = guarded(BY_NAME[name])

    assert [said(answer) for answer in answers] == bodies(cassette)
    assert (cassette.all_played, set(cassette.play_counts.values())) == (True, {1})


@pytest.mark.parametrize("name", EXPECTED)
def test_the_spans_say_what_the_ledger_says(name: str, spans: InMemorySpanExporter) -> None:
    """One span a call, with the same operation, quote, cost and ending, and the vendor's status."""
    _, cassette, _ = guarded(BY_NAME[name])
    endings = {"settle": "settled", "release": "released"}
    keys = ("operation", "reservation.amount", "cost.amount", "settlement.outcome", "decision")
    found = [dict(span.attributes or {}) for span in spans.get_finished_spans()]

    assert [tuple(span[f"keyguard.{key}"] for key in keys) for span in found] == [
        (call.operation, call.quote, call.spent, endings[call.ending], "allowed") for call in EXPECTED[name].calls
    ]
    assert [span["http.response.status_code"] for span in found] == [reply["status"]["code"] for reply in cassette.responses]


def test_a_replayed_decline_is_stripes_own_card_error() -> None:
    """The caller gets the SDK's exception with the vendor's code, not one of keyguard's."""
    (declined,), _, _ = guarded(BY_NAME["decline"])

    assert isinstance(declined, stripe.CardError)
    assert (declined.http_status, declined.code) == (402, "card_declined")


def test_an_intent_that_waits_for_its_customer_stays_open(keyguard_ledger: Ledger) -> None:
    """3D Secure can still be passed elsewhere, so the hold of `requires_action` stays listed until a final state is seen."""
    (waiting,), _, usage = guarded(BY_NAME["requires_action"])
    memory = keyguard_ledger.recall("run:replay", "stripe", "", "pi_00000000000001")

    assert isinstance(waiting, stripe.PaymentIntent)
    assert [(intent.object_id, intent.operation) for intent in usage.intents] == [(waiting.id, CREATE)]
    assert memory is not None
    assert memory.status == waiting.status == "requires_action"


def test_yen_are_refused_before_anything_is_sent(keyguard_ledger: Ledger) -> None:
    """Without an exchange rate there is no bound: refused, no request of the cassette is used up, and nothing is held."""
    scenario = BY_NAME["jpy"]
    with player().use_cassette(scenario.path, record_mode="none") as cassette, keyguard.run("replay"):
        installed = keyguard.install(run_usd_cap=100)
        with pytest.raises(UnpricedCall, match="'jpy'"):
            scenario.play(client(f"http://{HOST}"), scenario.card)
        usage = installed.usage()
    kinds = [entry["kind"] for entry in keyguard_ledger.entries("run:replay")]

    assert (len(cassette), cassette.play_count) == (1, 0)
    assert (usage.spent, usage.held, usage.doubt, usage.calls) == (0, 0, 0, 0)
    assert kinds == ["issue", "refuse"]


def test_observed_yen_pass_and_end_in_doubt(keyguard_ledger: Ledger) -> None:
    """An observing guard hands on the recorded answer; since nobody can tell its cost in dollars, the call is doubted, at nothing."""
    answers, cassette, usage = guarded(BY_NAME["jpy"], mode="observe")

    assert ([said(answer) for answer in answers], cassette.all_played) == (bodies(cassette), True)
    assert booked(keyguard_ledger.entries("run:replay")) == (Booked(CREATE, 0, "doubt"),)
    assert (usage.spent, usage.held, usage.doubt, usage.calls) == (0, 0, 0, 1)


def test_a_request_with_another_body_is_not_answered_from_the_cassette(keyguard_ledger: Ledger) -> None:
    """Another amount is another request: the recording stays unplayed, and the guard doubts what it saw no answer to."""
    path = BY_NAME["success"].path
    with player().use_cassette(path, record_mode="none") as cassette, keyguard.run("replay"):
        keyguard.install(run_usd_cap=100)
        with pytest.raises(stripe.APIConnectionError):
            client(f"http://{HOST}").v1.payment_intents.create(
                {"amount": 1900, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
            )

    assert cassette.play_count == 0
    assert booked(keyguard_ledger.entries("run:replay")) == (Booked(CREATE, 19, "doubt"),)


# -- the files -------------------------------------------------------------------------------------


@each_scenario
def test_each_cassette_plays_without_the_guard(scenario: Scenario) -> None:
    """The same calls, unguarded, get the same answers: what the guard changed in the tests above is nothing."""
    answers, cassette = play(scenario)

    assert [said(answer) for answer in answers] == bodies(cassette)
    assert (cassette.all_played, set(cassette.play_counts.values())) == (True, {1})


def test_every_file_is_a_scenarios_and_every_scenario_is_judged() -> None:
    """No file lies in the folder that no test replays, and each scenario has its expected books, or its refusal."""
    assert {path.name for path in FOLDER.glob("*.yaml")} == {scenario.path.name for scenario in SCENARIOS}
    assert {*EXPECTED, "jpy"} == set(BY_NAME)


@each_file
def test_no_cassette_holds_a_secret(path: Path) -> None:
    """No key, no token, no card number, no client secret but its placeholder, no header that was not listed, no real host."""
    text, recorded = path.read_text(encoding="utf-8"), interactions(path)
    secrets = re.findall(r"(?i)\b[sprw]k_|vault_key_|bearer|basic |\b\d{13,19}\b|_secret_(?!0{16}\b)|api\.stripe\.com|127\.0\.0\.1", text)

    assert secrets == []
    assert {name for each in recorded for name in each["request"]["headers"]} == {"Authorization", "Content-Type", "Stripe-Version"}
    assert {name for each in recorded for name in each["response"]["headers"]} == {"Content-Length", "Content-Type"}
    assert {value for each in recorded for value in each["request"]["headers"]["Authorization"]} == {"REDACTED"}


@each_file
def test_each_cassette_says_what_it_was_recorded_against(path: Path) -> None:
    """The first lines name the stand-in, the SDK and the day; and all requests went to a host that cannot exist."""
    text = path.read_text(encoding="utf-8")
    found = Readable.deserialize(text)
    hosts = {each["request"]["uri"].split("/")[2] for each in found["interactions"]}

    assert text.startswith("metadata:\n  recorded_against: localstripe ")
    assert "no live Stripe" in found["metadata"]["recorded_against"]
    assert re.fullmatch(r"stripe \d+\.\S+, vcrpy \d+\.\S+", found["metadata"]["recorded_with"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", found["metadata"]["recorded_on"])
    assert hosts == {HOST}


@each_file
def test_renaming_kept_the_length_of_each_reply(path: Path) -> None:
    """Each body is as long as the recorded Content-Length says."""
    replies = [each["response"] for each in interactions(path)]

    assert [len(reply["body"]["string"]) for reply in replies] == [int(reply["headers"]["Content-Length"][0]) for reply in replies]


@pytest.mark.timeout(90)
def test_a_new_recording_is_the_committed_one(tmp_path: Path) -> None:
    """The script, run against a real localstripe, records the same interactions; run on its own output it changes nothing."""
    command = [sys.executable, "-m", "tests.record_cassettes", str(tmp_path)]
    first, second = (
        subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, timeout=40, check=True).stdout for _ in range(2)
    )

    for committed in sorted(FOLDER.glob("*.yaml")):
        assert interactions(tmp_path / committed.name) == interactions(committed)
    assert (first.count(": written"), second.count(": unchanged")) == (len(SCENARIOS), len(SCENARIOS))


@pytest.mark.parametrize(
    ("pattern", "text", "done"),
    [(r"recorded_on: .*", "recorded_on: '2020-01-01'", "unchanged"), ('"succeeded"', '"processing"', "written")],
    ids=["date", "traffic"],
)
def test_a_new_date_alone_rewrites_nothing(tmp_path: Path, pattern: str, text: str, done: str) -> None:
    """The same traffic recorded on another day leaves the file as it is, its date too; other traffic replaces it."""
    new = BY_NAME["success"].path.read_text(encoding="utf-8")
    kept = re.sub(pattern, text, new)
    paths = tmp_path / "new.yaml", tmp_path / "old.yaml"
    for path, written in zip(paths, (new, kept), strict=True):
        path.write_text(written, encoding="utf-8")

    assert new != kept
    assert put(*paths) == done
    assert paths[1].read_text(encoding="utf-8") == (kept if done == "unchanged" else new)
