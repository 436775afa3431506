"""The lock between processes: who waits, who is woken, who flushes for whom."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from keyguard.errors import LedgerUnavailable
from keyguard.ledgers import _sqlite_lock
from keyguard.ledgers._sqlite_lock import ProcessLock
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.testing._till import Till
from tests.support_sqlite import opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PATIENCE = 20  # seconds for a thread on a busy machine
_HOLDER = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"

_FORKER = """
import os, sys
from keyguard.ledgers._sqlite_lock import ProcessLock
lock = ProcessLock(sys.argv[1], seconds=5)
lock.__enter__()
if not os.fork():
    lock.close()
    print("child lives", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def open_lock(tmp_path: Path) -> Callable[..., ProcessLock]:
    """Open one more lock on the same file; two of them exclude each other as those of two processes do."""

    def opener(seconds: float = _PATIENCE) -> ProcessLock:
        return ProcessLock(str(tmp_path / "ledger.db.lock"), seconds=seconds)

    return opener


@pytest.fixture
def endless_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who waits looks again by himself within the test's time: he is woken, or the test fails."""
    monkeypatch.setattr(_sqlite_lock, "_NAP_SECONDS", 10 * _PATIENCE)


def test_a_lock_that_stays_taken_is_reported(open_lock: Callable[..., ProcessLock]) -> None:
    """Waiting has an end, and the message says what to look for."""
    first, second = open_lock(), open_lock(seconds=0.01)
    with first, pytest.raises(LedgerUnavailable, match=r"busy: another process has held its lock .*ledger\.db\.lock for 0\.01 s"):
        second.__enter__()
    with second:
        assert not first._try()


@pytest.mark.usefixtures("endless_naps")
def test_all_who_wait_are_woken_in_turn(open_lock: Callable[..., ProcessLock]) -> None:
    """One wake-up is passed on from each waiter to the next."""
    inside: list[int] = []

    def enter(number: int) -> None:
        with open_lock():
            inside.append(number)

    with ThreadPoolExecutor(6) as pool:
        with open_lock() as _:
            waiting = [pool.submit(enter, number) for number in range(6)]
        for future in waiting:
            future.result(_PATIENCE)

    assert sorted(inside) == list(range(6))


def test_who_takes_it_again_and_again_lets_others_pass(open_lock: Callable[..., ProcessLock]) -> None:
    """A busy process sleeps once it went on so often past those whom it woke: they would always come too late."""
    busy, slept = open_lock(), _Recorder()
    busy._turn = slept  # type: ignore[assignment] # -- counts instead of sleeping
    for _ in range(_sqlite_lock._IN_A_ROW):
        with busy:
            busy._words[_sqlite_lock._WAITING] = 1

    assert (slept.waits, slept.wakes) == (0, _sqlite_lock._IN_A_ROW)
    with busy:
        assert slept.waits == 1
    with busy:
        assert slept.waits == 1


class _Recorder:
    """Stands where processes sleep, and counts."""

    value = waits = wakes = 0

    def wait(self, seen: int) -> None:
        """Return at once, as if woken."""
        self.waits += 1

    def wake(self, count: int) -> None:
        """Wake nobody."""
        self.wakes += count


def test_without_futexes_waiters_look_again(open_lock: Callable[..., ProcessLock], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose system call nobody wrote down, the lock is slower and as safe."""
    monkeypatch.setattr(_sqlite_lock, "_FUTEX", {})
    first, second = open_lock(), open_lock()
    with ThreadPoolExecutor(1) as pool:
        with first:
            waiting = pool.submit(second.__enter__)
        waiting.result(_PATIENCE)

    assert not first._try()
    second.__exit__()


def test_one_flush_covers_the_commits_of_all(open_lock: Callable[..., ProcessLock]) -> None:
    """Who committed before a flush began need not flush; who committed during it must."""
    mine, theirs, flushes = open_lock(), open_lock(), []
    first, second = mine.count_commit(), theirs.count_commit()

    def flush() -> None:
        flushes.append(theirs.count_commit())

    mine.flushed(first, flush)
    theirs.flushed(second, flush)

    assert flushes == [3]
    theirs.flushed(flushes[0], flush)
    assert flushes == [3, 4]


def test_a_failed_flush_covers_nothing(open_lock: Callable[..., ProcessLock]) -> None:
    """Its error is its caller's, and the next one flushes again."""
    mine, theirs, flushes = open_lock(), open_lock(), []
    number = mine.count_commit()

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        mine.flushed(number, fail)
    theirs.flushed(number, lambda: flushes.append(number))

    assert flushes == [number]


def test_a_stopped_flusher_keeps_nobody_from_the_disk(open_lock: Callable[..., ProcessLock], tmp_path: Path) -> None:
    """After the time one waits for a lock, everybody flushes for himself."""
    lock, flushes = open_lock(seconds=0.01), []
    number = lock.count_commit()
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "ledger.db.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock.flushed(number, lambda: flushes.append(number))
        holder.communicate("")

    assert flushes == [number]


def test_a_forked_child_does_not_hold_its_dead_parents_lock(open_lock: Callable[..., ProcessLock], tmp_path: Path) -> None:
    """The parent is killed inside the lock while its child lives on: the lock is free."""
    command = [sys.executable, "-c", _FORKER, str(tmp_path / "ledger.db.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == "child lives\n"
        parent.kill()
        parent.wait()
        with open_lock():
            is_taken = True
        parent.stdin.close()

    assert is_taken


def test_where_no_flush_turn_can_be_had_everybody_flushes(open_lock: Callable[..., ProcessLock], monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn only saves work: a system without record locks is slower, and as durable."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    lock, flushes = open_lock(), []
    monkeypatch.setattr(fcntl, "lockf", unsupported)
    number = lock.count_commit()
    lock.flushed(number, lambda: flushes.append(number))

    assert flushes == [number]


def test_a_commit_that_nobody_counted_is_found(tmp_path: Path) -> None:
    """A process killed between its commit and its count leaves a log that is longer than others believe; they read it again."""
    path = tmp_path / "ledger.db"
    till = opened(path, durability="process")
    other = Till(SqliteLedger(path, durability="process"), "run-1", prefix="other-")
    till.hold(1)
    other.hold(2)
    ledger: Any = till.ledger
    ledger._file.lock._words[_sqlite_lock._COMMITTED] = ledger._committed
    till.hold(4)

    assert till.usage.held == 7
    assert till.ledger.verify() == []
