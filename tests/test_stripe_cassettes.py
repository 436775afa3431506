"""Stripe's cassettes, replayed through the guard: what was held, spent and answered for each call."""

from __future__ import annotations

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
from tests.support_stripe_cassettes import LOCALSTRIPE, STATEFUL_MOCK, client
from tests.test_cassettes import bodies, said

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keyguard.ledgers import Ledger
    from keyguard.model import Usage
    from tests.support_cassettes import Scenario

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
BY_NAME = {scenario.name: scenario for scenario in LOCALSTRIPE.scenarios}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Keep the spans of this test's calls."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))
    yield found
    provider.shutdown()


def guarded(scenario: Scenario, **policy: Any) -> tuple[list[Any], Any, Usage]:
    """Make them in a guarded run; returns the run's usage as well."""
    with keyguard.run("replay"):
        installed = keyguard.install(**{"run_usd_cap": 100, **policy})
        return *LOCALSTRIPE.play(scenario), installed.usage()


def booked(entries: Iterable[dict[str, Any]]) -> tuple[Booked, ...]:
    """Read each call out of the log: its reserve, and the last entry that ended it."""
    rows = list(entries)
    ends = {row["hold"]: row for row in rows if row["kind"] in {"settle", "release", "doubt"}}
    adopters = {row["detail"]["by"] for row in rows if row["kind"] == "adopt"}
    return tuple(
        Booked(row["operation"], row["amount"] / USD, end["kind"], end["spent"] / USD, end["held"] / USD, row["hold"] in adopters)
        for row, end in ((row, ends[row["hold"]]) for row in rows if row["kind"] == "reserve")
    )


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
    with LOCALSTRIPE.player().use_cassette(LOCALSTRIPE.path(scenario), record_mode="none") as cassette, keyguard.run("replay"):
        installed = keyguard.install(run_usd_cap=100)
        with pytest.raises(UnpricedCall, match="'jpy'"):
            scenario.play(f"http://{LOCALSTRIPE.host}", scenario.given)
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
    path = LOCALSTRIPE.path(BY_NAME["success"])
    with LOCALSTRIPE.player().use_cassette(path, record_mode="none") as cassette, keyguard.run("replay"):
        keyguard.install(run_usd_cap=100)
        with pytest.raises(stripe.APIConnectionError):
            client(f"http://{LOCALSTRIPE.host}").v1.payment_intents.create(
                {"amount": 1900, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
            )

    assert cassette.play_count == 0
    assert booked(keyguard_ledger.entries("run:replay")) == (Booked(CREATE, 19, "doubt"),)


# -- stripe-stateful-mock: replays and failures ----------------------------------------------------

CHARGE, CAPTURE_CHARGE = "charges.create", "charges.capture"
OF_THE_MOCK = {
    # The second request has the caller's own key of the first, so it is an attempt of the same charge.
    "replay": Books((Booked(CHARGE, 20, "settle", spent=20),), spent=20),
    # A capture adopts the whole hold, and what it leaves is released.
    "capture_in_part": Books((Booked(CHARGE, 20, "settle", held=20), Booked(CAPTURE_CHARGE, 20, "settle", spent=7, adopts=True)), spent=7),
    "refund_the_rest": Books(
        (Booked(CHARGE, 20, "settle", spent=20), Booked(REFUND, 3, "settle", spent=3), Booked(REFUND, 17, "settle", spent=17)),
        spent=20,
        refunded=20,
    ),
    "decline": Books((Booked(CHARGE, 20, "release"),)),
    "failure": Books((Booked(CHARGE, 20, "doubt"),)),
}


@pytest.mark.parametrize("scenario", STATEFUL_MOCK.scenarios, ids=lambda scenario: scenario.name)
def test_a_charge_is_booked_as_it_was_answered(scenario: Scenario, keyguard_ledger: Ledger) -> None:
    """A replay under one key, a capture in part, refunds of the rest, a decline and a server's failure."""
    with keyguard.run("replay"):
        installed = keyguard.install(run_usd_cap=100)
        answers, cassette = STATEFUL_MOCK.play(scenario)
        usage = installed.usage()
    figures = (usage.spent / USD, usage.held / USD, usage.refunded / USD, len(usage.intents))

    assert Books(booked(keyguard_ledger.entries("run:replay")), *figures) == OF_THE_MOCK[scenario.name]
    assert [said(answer) for answer in answers] == bodies(cassette)
    assert usage.doubt / USD == (20 if scenario.name == "failure" else 0)
    assert keyguard_ledger.verify() == []
