"""The books of a SQLite ledger: what its proof finds, what its schema forbids, refusals in the log, time, day caps and tokens."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import apsw
import pytest

from keyguard.errors import ConfigurationError
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.model import Closing, Outcome, Quote
from keyguard.testing._contract_base import DAY, NOON, Clock, forged
from keyguard.testing._till import Till, figures, limits, open_till, today
from tests.support_sqlite import CAP, tamper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SWAPPED = "UPDATE entries SET seq = -4 WHERE seq = 3; UPDATE entries SET seq = 3 WHERE seq = 4; UPDATE entries SET seq = 4 WHERE seq = -4"
_FREE = "DROP TRIGGER entries_fixed", "DROP TRIGGER entries_keep", "DROP TRIGGER holds_keep", "DROP TRIGGER holds_change"


@pytest.fixture
def clock() -> Clock:
    """The test's clock, at noon."""
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's ledger is."""
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[SqliteLedger]:
    """A handle on the file."""
    ledger = SqliteLedger(path, durability="process", clock=clock)
    yield ledger
    ledger.shut()


@pytest.fixture
def till(ledger: SqliteLedger) -> Till:
    """A run with caps, one settled, one held and one doubtful call."""
    till = open_till(ledger, run_usd_cap=CAP, daily_usd_cap=CAP, max_calls=100)
    till.settle(till.hold(10), 7)
    till.hold(20)
    till.doubt(till.hold(30))
    return till


# -- the proof ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("UPDATE entries SET amount = 11 WHERE seq = 3", "entry 3"),
        ("UPDATE entries SET detail = '{\"calls\": 9}' WHERE seq = 3", "entry 3"),
        ("UPDATE entries SET detail = 'not json' WHERE seq = 3", "entry 3"),
        ("UPDATE entries SET hash = randomblob(32) WHERE seq = 4", "entry 4"),
        ("DELETE FROM entries WHERE seq = 3", "entry 3 is missing"),
        ("DELETE FROM entries WHERE seq = 1", "entry 1 is missing"),
        (_SWAPPED, "entry 3"),
        ("UPDATE bucket SET spent = 0 WHERE scope = 'run:run-1'", "budget run:run-1"),
        ("UPDATE bucket SET doubt = 0 WHERE scope LIKE 'policy:%'", "budget policy:"),
        ("UPDATE bucket SET spent = 0 WHERE scope LIKE 'calls:%'", "budget calls:"),
        ("UPDATE bucket SET peak = 2000000 WHERE scope = 'run:run-1'", "counted at its peak"),
        ("UPDATE bucket SET cap = 2000000 WHERE scope = 'run:run-1'", "cap"),
        ("UPDATE budget SET cap = 2000000 WHERE scope LIKE 'policy:%'", "cap"),
        ("UPDATE holds SET spent = 0 WHERE spent = 7", "reservation "),
        ("DELETE FROM holds WHERE spent = 7", "reservation "),
    ],
)  # fmt: skip
def test_the_proof_finds_what_was_changed_by_hand(till: Till, path: Path, change: str, finding: str) -> None:
    """Each change to log, reservations, budgets or caps is named."""
    before = till.ledger.verify()
    till.ledger.shut()
    tamper(path, *_FREE, change)
    after = till.ledger.verify()

    assert before == []
    assert [line for line in after if finding in line] != [], after


@pytest.mark.parametrize("change", ["UPDATE entries SET amount = 1", "DELETE FROM entries", "DELETE FROM holds"])
def test_the_file_itself_keeps_log_and_reservations(till: Till, path: Path, change: str) -> None:
    """Also another program cannot change or remove a row without taking the triggers away."""
    till.ledger.shut()

    with pytest.raises(apsw.ConstraintError, match="append-only"):
        tamper(path, change)
    assert till.ledger.verify() == []


def test_another_program_can_read_the_books(till: Till, path: Path) -> None:
    """They are plain tables, for an auditor with any SQLite."""
    till.ledger.shut()
    db = sqlite3.connect(path)
    found = db.execute("SELECT spent, held, doubt FROM bucket WHERE scope = 'run:run-1' AND win = ''").fetchall()
    db.close()

    assert found == [(7, 20, 30)]


def test_a_long_log_is_read_page_by_page(ledger: SqliteLedger) -> None:
    """More rows than one page, each once and in order; of one scope only its own."""
    till, other = open_till(ledger, "long", run_usd_cap=CAP), open_till(ledger, "short", run_usd_cap=CAP)
    key, total = till.key, 1100
    for _ in range(total):
        ledger.reserve(till.order(Quote(1), key=key))
    other.hold(1)

    assert [row["seq"] for row in ledger.entries()] == list(range(1, total + 4))
    assert [row["kind"] for row in ledger.entries("run:long")] == ["issue", *["reserve"] * total]
    assert [row["kind"] for row in ledger.entries("run:short")] == ["issue", "reserve"]


# -- refusals and time --------------------------------------------------------------------------------


def test_a_loop_of_refusals_is_one_row_a_second(ledger: SqliteLedger, clock: Clock) -> None:
    """The next row after the second says how many were not written."""
    till = open_till(ledger, run_usd_cap=5)
    for _ in range(10):
        assert not till.ask(6).granted
    clock.now += 2
    till.ask(6)
    rows = [row for row in ledger.entries() if row["kind"] == "refuse"]

    assert [row["detail"].get("suppressed") for row in rows] == [None, 9]
    assert {row["detail"]["reason"] for row in rows} == {"cap_exceeded"}


def test_many_keys_that_are_refused_do_not_fill_the_memory(ledger: SqliteLedger) -> None:
    """What is remembered of suppressed refusals has an end, and each key's first refusal is in the log."""
    till = open_till(ledger, run_usd_cap=5)
    order = till.order(Quote(6))
    for number in range(1005):
        ledger.refuse(order, f"reason {number}")
    rows = [row for row in ledger.entries() if row["kind"] == "refuse"]

    assert len(rows) == 1005


def test_a_clock_far_behind_warns_once_and_time_stands(ledger: SqliteLedger, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """More than an hour back is worth a word; windows and rows stay at the ledger's time."""
    till = open_till(ledger, run_usd_cap=5)
    clock.now = NOON - 7200
    till.hold(1)
    till.hold(1)

    assert [record.levelno for record in caplog.records if "clock" in record.message] == [logging.WARNING]
    assert ledger.now() == NOON
    assert {row["at"] for row in ledger.entries()} == {NOON}


def test_a_clock_a_little_behind_is_quiet(ledger: SqliteLedger, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Small steps back are what clocks do."""
    open_till(ledger, run_usd_cap=5)
    clock.now = NOON - 3500

    assert ledger.now() == NOON
    assert caplog.records == []


def test_a_key_expires_by_the_ledgers_clock(ledger: SqliteLedger, clock: Clock) -> None:
    """At the instant itself it is over, and a clock set back does not revive it."""
    till = open_till(ledger, run_usd_cap=5, expires_in=60.0)
    clock.now = NOON + 59
    granted = till.ask(1).granted
    clock.now = NOON + 60
    reason = till.ask(1).reason
    clock.now = NOON

    assert (granted, reason, till.ask(1).reason) == (True, "expired", "expired")


def test_a_raise_renews_the_expiry(ledger: SqliteLedger, clock: Clock) -> None:
    """Who raises the cap of an expired run wants it to go on."""
    till = open_till(ledger, run_usd_cap=5, expires_in=60.0)
    clock.now = NOON + 100
    key = ledger.raise_cap("run-1", 50, by="me")

    assert key.expires_at == NOON + 160
    assert till.ask(50).granted


def test_raising_an_unknown_run_is_an_error(ledger: SqliteLedger) -> None:
    """The message names the run and where to see which there are."""
    with pytest.raises(ConfigurationError, match=r"no run 'nobody'.*keyguard status"):
        ledger.raise_cap("nobody", 5, by="me")


# -- day caps, ids, tokens ----------------------------------------------------------------------------


def test_the_least_day_cap_that_any_run_asked_for_holds(ledger: SqliteLedger, clock: Clock) -> None:
    """Two runs of one policy share the smaller day cap, today and tomorrow; the larger wish is a warning."""
    first = open_till(ledger, "first", daily_usd_cap=100)
    second = open_till(ledger, "second", daily_usd_cap=60)
    _, warnings = ledger.issue(limits(daily_usd_cap=90), "third")
    first.hold(50)

    assert not second.ask(11).granted
    assert second.ask(10).granted
    assert [("daily_usd_cap" in line, "90" in line) for line in warnings] == [(True, False)]
    clock.now += DAY
    assert today(ledger) == (0, 0, 0)
    assert not first.ask(61).granted
    assert first.ask(60).granted
    assert ledger.verify() == []


def test_a_smaller_day_cap_holds_for_what_is_open_today(ledger: SqliteLedger) -> None:
    """A cap declared below what today already counts refuses the next call, and breaks nothing."""
    first = open_till(ledger, "first", daily_usd_cap=100)
    first.hold(80)
    second = open_till(ledger, "second", daily_usd_cap=60)

    assert second.ask(1).reason == first.ask(1).reason == "cap_exceeded"
    assert ledger.verify() == []


def test_whom_a_call_pays_is_forgotten_with_its_doubt(till: Till, path: Path, clock: Clock) -> None:
    """Once nobody will ask the vendor any more, no file of the ledger says it; what was not shown is asked about for two days."""
    ends = {"settled": Outcome("settled", 5), "released": Outcome("released"), "absent": Outcome("released", is_presumed=True)}
    for number, (name, outcome) in enumerate(ends.items()):
        order = replace(till.order(Quote(5)), reservation_id=name, payee=f"payee-{number}")
        till.ledger.reserve(order)
        till.doubt(name)
        till.ledger.resolve(name, outcome, by="ann", reason="seen")
    order = replace(till.order(Quote(5)), reservation_id="never in doubt", payee="payee-3")
    till.ledger.reserve(order)
    till.settle("never in doubt", 5)
    early = _payees(path)
    clock.now += 2 * DAY + 1
    till.ledger.doubts(kind="presumed")

    assert (early, _payees(path)) == (["payee-2"], [])


def _payees(path: Path) -> list[str]:
    db = apsw.Connection(str(path))
    rows = db.execute("SELECT payee FROM holds WHERE payee <> '' UNION ALL SELECT payee FROM presumed").fetchall()
    db.close()
    return [str(payee) for (payee,) in rows]


def test_the_same_reservation_again_is_the_same_answer(till: Till) -> None:
    """A reserve whose answer was lost may be repeated: it holds once."""
    order = till.order(Quote(5))
    first, held = till.ledger.reserve(order), till.usage.held

    assert till.ledger.reserve(order) == first
    assert till.usage.held == held


def test_a_reservation_that_is_over_cannot_be_taken_again(till: Till) -> None:
    """Its id is spent."""
    order = till.order(Quote(5))
    till.ledger.reserve(order)
    till.ledger.close(Closing(order.reservation_id, Outcome("released")))

    assert till.ledger.reserve(order).reason == "duplicate"


def test_forged_tokens_find_nothing(ledger: SqliteLedger) -> None:
    """Neither a changed character, nor another ledger's token, nor words."""
    token = open_till(ledger, run_usd_cap=5).key.token
    foreign = open_till(SqliteLedger(None), run_usd_cap=5).key.token
    found = [ledger.key(token=word) for word in (*forged(token), foreign, "", "vault_key_", "vault_key_\ud800_x", token + "A")]

    assert ledger.key(token=token) is not None
    assert found == [None] * len(found)


def test_handles_say_what_they_are(ledger: SqliteLedger, path: Path) -> None:
    """One line for a person, without a secret."""
    assert repr(ledger) == f"<SqliteLedger sqlite:///{path} durability=process>"
    assert figures(open_till(ledger, run_usd_cap=5).ledger, "run:run-1").cap == 5
