"""Processes that end with money held: what the next one finds, on real processes and real files."""

from __future__ import annotations

import gc
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyguard.errors import LedgerUnavailable
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.testing._till import Till, open_till, parts

if TYPE_CHECKING:
    from collections.abc import Iterator

RESERVING = """
import os, sys
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.model import Quote
from keyguard.testing._till import Till

till = Till(SqliteLedger(sys.argv[1]), "run-1", prefix=f"{os.getpid()}/")
till.settle(till.hold(1), 1)
till.hold(20)
till.ledger.reserve(till.order(Quote(0), method="GET"))
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def till(tmp_path: Path) -> Till:
    """A ledger with one run and a cap of 1,000 micro-dollars."""
    return open_till(SqliteLedger(tmp_path / "ledger.db"), run_usd_cap=1000)


@pytest.fixture
def child(tmp_path: Path, till: Till) -> Iterator[subprocess.Popen[str]]:
    """A process that has spent 1, holds 20 and has a read open."""
    assert till.usage.cap == 1000
    command = [sys.executable, "-c", RESERVING, str(tmp_path / "ledger.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def marks(till: Till) -> list[Path]:
    """Return the marks beside the ledger file."""
    return list(Path(f"{till.ledger.url.removeprefix('sqlite:///')}.owners").iterdir())


def test_a_living_process_keeps_what_it_holds(till: Till, child: subprocess.Popen[str]) -> None:
    """Asked by others, reserving others, or shut and opened by others: held."""
    till.hold(300)
    till.ledger.shut()

    assert child.poll() is None
    assert parts(till.usage) == (1, 320, 0)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None], ids=["killed", "terminated", "returned"])
def test_what_an_ended_process_held_is_in_doubt(till: Till, child: subprocess.Popen[str], end: signal.Signals | None) -> None:
    """However it ended: what it held is in doubt, what it spent is spent, and its free read is nothing."""
    if end is None:
        child.communicate("\n")
    else:
        child.send_signal(end)
    child.wait()

    assert parts(till.usage) == (1, 0, 20)
    assert [entry["kind"] for entry in till.ledger.entries("run:run-1")][-2:] == ["doubt", "settle"]
    assert re.fullmatch(rf"process {child.pid} of host \S+, boot [0-9a-f]{{8}}", till.ledger.doubts()[0].ended)
    assert marks(till) == []
    assert till.ledger.verify() == []


def test_the_next_reserve_finds_it_too(till: Till, child: subprocess.Popen[str], tmp_path: Path) -> None:
    """A process that never asks for figures books the doubt before its own first reservation."""
    child.kill()
    child.wait()
    other = Till(SqliteLedger(tmp_path / "ledger.db"), "run-1", prefix="other/")
    other.hold(3)

    assert [entry["kind"] for entry in other.ledger.entries("run:run-1")][-3:] == ["doubt", "settle", "reserve"]


def test_doubt_of_the_dead_is_settled_by_who_knows_better(till: Till, child: subprocess.Popen[str]) -> None:
    """Nothing of it is freed by itself; a settlement that comes later is booked where it was held."""
    child.kill()
    child.wait()
    usage = till.usage
    (hold,) = [entry["hold"] for entry in till.ledger.entries("run:run-1") if entry["kind"] == "doubt"]
    till.settle(hold, 20)

    assert parts(usage) == (1, 0, 20)
    assert parts(till.usage) == (21, 0, 0)


def test_a_crash_before_the_commit_leaves_the_mark(till: Till, child: subprocess.Popen[str], tmp_path: Path) -> None:
    """Who finds the dead and dies itself before that is committed leaves them to be found by the next."""
    child.kill()
    child.wait()
    finder = (
        "import os, sys; from keyguard.ledgers.sqlite import SqliteLedger\n"
        "strike = lambda step: os._exit(7) if step == 'written' else None\n"
        "SqliteLedger(sys.argv[1], on_step=strike).usage('run:run-1')"
    )
    ended = subprocess.run([sys.executable, "-c", finder, str(tmp_path / "ledger.db")], check=False)

    assert ended.returncode == 7
    assert [mark.name.partition("-")[0] for mark in marks(till)] == [str(child.pid)]
    assert parts(till.usage) == (1, 0, 20)


def test_a_mark_without_its_text_hides_nothing(till: Till, child: subprocess.Popen[str]) -> None:
    """The power went before a mark's text was on disk: the whole log is searched."""
    child.kill()
    child.wait()
    marks(till)[0].write_bytes(b"")

    assert parts(till.usage) == (1, 0, 20)


def test_a_mark_moves_on_while_nothing_is_open(till: Till, tmp_path: Path) -> None:
    """After a thousand calls the mark names a later row of the log, and what is held then is still found."""
    with_open = Till(SqliteLedger(tmp_path / "ledger.db"), "run-1", prefix="busy/")
    for _ in range(1000):
        with_open.settle(with_open.hold(0))
    with_open.hold(7)
    (mark,) = marks(till)
    since = int(mark.read_text().partition(" ")[0])
    del with_open
    gc.collect()

    assert since == 2001
    assert parts(till.usage) == (0, 0, 7)


def test_a_shut_ledger_keeps_its_mark_while_something_is_open(till: Till, tmp_path: Path) -> None:
    """Idle it leaves none; with a hold open it stays, so that nobody takes it for dead."""
    other = SqliteLedger(tmp_path / "ledger.db")
    till.settle(till.hold(5), 5)
    till.ledger.shut()
    idle = marks(till)
    till.hold(7)
    till.ledger.shut()
    held = other.usage("run:run-1")

    assert idle == []
    assert held is not None
    assert parts(held) == (5, 7, 0)
    assert len(marks(till)) == 1


def test_a_folder_of_marks_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    """Before anything is reserved, and the message names the folder."""
    ledger = SqliteLedger(tmp_path / "ledger.db")
    till = open_till(ledger, run_usd_cap=10)
    (tmp_path / "ledger.db.owners").write_text("")

    with pytest.raises(LedgerUnavailable, match=r"ledger\.db\.owners"):
        till.ask(1)
    assert [entry["kind"] for entry in ledger.entries("run:run-1")] == ["issue"]
