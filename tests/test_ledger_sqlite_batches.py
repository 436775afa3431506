"""Group commit and durability of a SQLite ledger: who waits for whom, what an interrupt or a failing disk does to the others."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from keyguard.errors import LedgerUnavailable
from keyguard.model import Closing, Outcome, Quote
from tests.support_ledgers import STEPS
from tests.support_sqlite import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keyguard.testing._till import Till

_PATIENCE = 30  # seconds for a thread on a busy machine


class Struck(BaseException):
    """What a test throws into a caller, as Ctrl-C does."""


@dataclass(slots=True)
class Steps:
    """
    The `on_step` of a ledger under test.

    Attributes:
        seen: How often each step was passed.
        does: What happens at a step, once each.
    """

    seen: Counter[str] = field(default_factory=Counter[str])
    does: dict[str, Callable[[], None]] = field(default_factory=dict[str, "Callable[[], None]"])

    def __call__(self, name: str) -> None:
        """Count, and do what is planned."""
        self.seen[name] += 1
        action = self.does.pop(name, None)
        if action is not None:
            action()


@dataclass(slots=True)
class Gate:
    """Holds a leader inside its batch until the others stand in the queue."""

    arrived: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """Say that it is reached, and wait until it is opened."""
        self.arrived.set()
        assert self.opened.wait(_PATIENCE)


@pytest.fixture
def steps() -> Steps:
    """What the ledger's steps do in this test."""
    return Steps()


@pytest.fixture
def till(tmp_path: Path, steps: Steps) -> Till:
    """A run on a file whose reserves are synced."""
    return opened(tmp_path / "ledger.db", durability="power", on_step=steps)


def _strike() -> None:
    raise Struck


def _until(is_true: Callable[[], bool]) -> None:
    """Give other threads their turn until something is true."""
    pause = threading.Event()
    for _ in range(_PATIENCE * 1000):
        if is_true():
            return
        pause.wait(0.001)
    raise AssertionError("it never became true")


def _waiting(till: Till) -> int:
    queue: Any = getattr(till.ledger, "_queue")  # noqa: B009 -- the queue's length has no public name
    return len(queue._waiting)


def _is_waiting(till: Till, count: int) -> bool:
    return _waiting(till) == count


# -- group commit -------------------------------------------------------------------------------------


def test_callers_that_wait_share_one_commit_and_one_sync(till: Till, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty reserves that arrive during one batch are the next batch."""
    gate, syncs = Gate(), Counter[str]()
    real = os.fdatasync

    def sync(fd: int) -> None:
        syncs["sync"] += 1
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    orders = [till.order(Quote(1)) for _ in range(21)]
    steps.seen.clear()
    steps.does["begun"] = gate.wait
    with ThreadPoolExecutor(21) as pool:
        first = pool.submit(till.ledger.reserve, orders[0])
        assert gate.arrived.wait(_PATIENCE)
        others = [pool.submit(till.ledger.reserve, order) for order in orders[1:]]
        _until(lambda: _waiting(till) == 20)
        gate.opened.set()
        answers = [future.result(_PATIENCE) for future in (first, *others)]

    assert all(answer.granted for answer in answers)
    assert (steps.seen["committed"], steps.seen["answered"]) == (2, 21)
    # One, where the first leader begins its own when the second has committed already.
    assert syncs["sync"] in {1, 2}
    assert till.ledger.verify() == []


def test_a_refusal_hurts_nobody_else_in_its_batch(till: Till, steps: Steps) -> None:
    """In one batch, each gets the answer to its own order."""
    answers = _one_batch(till, steps, [1, 2_000_000, 2, 999_999, 3])

    assert answers == [True, False, True, False, True]
    assert till.usage.held == 6 + 1
    assert till.ledger.verify() == []


def test_a_fault_hurts_nobody_else_in_its_batch(till: Till, steps: Steps) -> None:
    """A job that cannot be written is refused, the others of its batch are booked on their own."""
    answers = _one_batch(till, steps, [1, 2**70, 2, 3])

    assert [answers[0], answers[2], answers[3]] == [True, True, True]
    assert isinstance(answers[1], Exception)
    assert till.usage.held == 6 + 1
    assert till.ledger.verify() == []


def _one_batch(till: Till, steps: Steps, amounts: list[int]) -> list[bool | BaseException]:
    """Reserve in one batch, behind a first reserve of one micro-USD; returns granted, or the error."""
    gate = Gate()
    orders = [till.order(Quote(amount)) for amount in (1, *amounts)]
    steps.does["begun"] = gate.wait

    def ask(index: int) -> bool | BaseException:
        try:
            return till.ledger.reserve(orders[index]).granted
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(orders)) as pool:
        first = pool.submit(ask, 0)
        assert gate.arrived.wait(_PATIENCE)
        others = []
        for index in range(1, len(orders)):
            others.append(pool.submit(ask, index))
            _until(partial(_is_waiting, till, index))
        gate.opened.set()
        assert first.result(_PATIENCE) is True
        return [future.result(_PATIENCE) for future in others]


# -- interrupts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_at_any_step_leaves_the_ledger_usable(till: Till, steps: Steps, step: str) -> None:
    """The interrupted caller sees its interrupt; what it asked is booked wholly or not at all; the next caller is served."""
    order = till.order(Quote(5))
    steps.does[step] = _strike
    with pytest.raises(Struck):
        till.ledger.reserve(order)
    receipt = till.ledger.close(Closing(order.reservation_id, Outcome("settled", 5)))

    assert receipt.found == (step in {"committed", "unlocked", "synced", "answered"})
    assert (till.usage.spent, till.usage.held) == (5 if receipt.found else 0, 0)
    till.hold(1)
    assert till.ledger.verify() == []


class SoftLimit(Exception):
    """What a worker's soft time limit raises from a signal handler: an ordinary error, of nobody here."""


@pytest.mark.parametrize("step", ["locked", "begun", "written", "committed"])
@pytest.mark.parametrize("error", [SoftLimit, TimeoutError])
def test_what_an_alarm_raises_is_the_callers_own(till: Till, steps: Steps, step: str, error: type[Exception]) -> None:
    """Where it strikes in the ledger's work, it is not taken for a failure of the ledger, which a retry would follow."""
    order = till.order(Quote(5))
    steps.does[step] = partial(_raise, error())
    with pytest.raises(error):
        till.ledger.reserve(order)
    receipt = till.ledger.close(Closing(order.reservation_id, Outcome("released"), unsent=True))

    assert receipt.found == (step == "committed")
    assert (till.usage.spent, till.usage.held) == (0, 0)
    assert till.ledger.verify() == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), TimeoutError(errno.ETIMEDOUT, "too slow"), ValueError("not JSON")])
def test_what_the_disk_or_the_file_raises_is_the_ledgers(till: Till, steps: Steps, error: Exception) -> None:
    """A number of the operating system, or data that cannot be read: the ledger is not available."""
    steps.does["written"] = partial(_raise, error)
    with pytest.raises(LedgerUnavailable):
        till.ledger.reserve(till.order(Quote(5)))

    assert till.usage.held == 0


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("step", [step for step in STEPS if step not in {"queued", "answered"}])
def test_an_interrupted_leader_answers_or_frees_its_followers(till: Till, steps: Steps, step: str) -> None:
    """Nobody who queued behind the interrupted one waits for ever, and whoever is told "granted" is booked."""
    gate = Gate()
    orders = [till.order(Quote(1)) for _ in range(6)]
    steps.does["begun"] = gate.wait
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(till.ledger.reserve, orders[0])
        assert gate.arrived.wait(_PATIENCE)
        others = [pool.submit(till.ledger.reserve, order) for order in orders[1:]]
        _until(lambda: _waiting(till) == 5)
        # The second batch, of five, is struck; its leader is one of them.
        steps.does["unlocked"] = lambda: steps.does.update({step: _strike})
        gate.opened.set()
        assert first.exception(_PATIENCE) is None or step == "synced"
        ends = [future.exception(_PATIENCE) for future in others]

    assert {type(end) for end in ends} <= {Struck, LedgerUnavailable, type(None)}
    assert sum(isinstance(end, Struck) for end in ends) + isinstance(first.exception(), Struck) == 1
    assert till.usage.held >= sum(end is None for end in (first.exception(), *ends))
    till.hold(1)
    assert till.ledger.verify() == []


@pytest.fixture
def _struck_by_signal() -> Iterator[None]:
    """Let a signal raise in the main thread, as Ctrl-C does."""

    def raise_it(_number: int, _frame: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGUSR1, raise_it)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("_struck_by_signal")
def test_an_interrupted_follower_is_not_booked(till: Till, steps: Steps) -> None:
    """A caller that is struck while it waits takes its order with it, and those around it are served."""
    gate, main = Gate(), threading.get_ident()
    before, order, behind = till.order(Quote(1)), till.order(Quote(7)), till.order(Quote(2))
    steps.does["begun"] = gate.wait
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(till.ledger.reserve, before)
        assert gate.arrived.wait(_PATIENCE)

        def strike() -> bool:
            _until(partial(_is_waiting, till, 1))
            last = pool.submit(till.ledger.reserve, behind)
            _until(partial(_is_waiting, till, 2))
            signal.pthread_kill(main, signal.SIGUSR1)
            _until(partial(_is_waiting, till, 1))
            gate.opened.set()
            return last.result(_PATIENCE).granted

        striker = pool.submit(strike)
        with pytest.raises(Struck):
            till.ledger.reserve(order)
        assert first.result(_PATIENCE).granted
        assert striker.result(_PATIENCE)

    assert not till.ledger.close(Closing(order.reservation_id, Outcome("released"))).found
    assert till.usage.held == 3
    assert till.ledger.verify() == []


def test_an_interrupt_before_the_wait_takes_the_job_back(till: Till, steps: Steps) -> None:
    """Struck between queueing and waiting, behind another, the job is not run for nobody."""
    gate, order, other = Gate(), till.order(Quote(7)), till.order(Quote(1))
    steps.does["begun"] = gate.wait
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(till.ledger.reserve, other)
        assert gate.arrived.wait(_PATIENCE)
        steps.does["queued"] = _strike
        with pytest.raises(Struck):
            till.ledger.reserve(order)
        gate.opened.set()
        assert leader.result(_PATIENCE).granted

    assert not till.ledger.close(Closing(order.reservation_id, Outcome("released"))).found
    assert till.usage.held == 1
    assert till.ledger.verify() == []


# -- durability ---------------------------------------------------------------------------------------


@pytest.fixture
def story(till: Till, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened in order: commits, syncs begun and ended, answers. Empty when the test begins."""
    told: list[str] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        told.append("sync begins")
        real(fd)
        told.append("sync ends")

    def tell(name: str) -> None:
        if name in {"committed", "answered"}:
            told.append(name)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(till.ledger, "_step", tell)
    return told


def test_a_reserve_is_answered_after_a_sync_that_began_after_its_commit(till: Till, story: list[str]) -> None:
    """What is granted is on disk."""
    order = till.order(Quote(1))
    story.clear()
    till.ledger.reserve(order)

    assert story == ["committed", "sync begins", "sync ends", "answered"]


def test_settling_releasing_refusing_and_reading_do_not_sync(till: Till, story: list[str]) -> None:
    """What can be lost with the power without losing money is lazy."""
    held, freed, order = till.hold(1), till.hold(1), till.order(Quote(2_000_000))
    story.clear()
    till.settle(held, 1)
    till.release(freed)

    assert not till.ledger.reserve(order).granted
    assert till.usage.spent == 1
    assert "sync begins" not in story


def test_revoking_and_raising_are_synced(till: Till, story: list[str]) -> None:
    """A human's decision is on disk when the command returns."""
    story.clear()
    till.ledger.raise_cap(till.run_id, 5, by="me")
    till.ledger.revoke(run_id=till.run_id, by="me")

    assert story == ["committed", "sync begins", "sync ends", "answered"] * 2


def test_process_durability_never_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked for less does not pay for more."""
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    till = opened(tmp_path / "ledger.db", durability="process")
    till.settle(till.hold(5), 5)

    assert calls == []


def test_a_failed_sync_is_final(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync the kernel may forget what it could not write: it is not asked again, and nothing is granted any more."""
    asked: list[int] = []

    def fail(fd: int) -> None:
        asked.append(fd)
        raise OSError(5, "Input/output error")

    orders = [till.order(Quote(1)) for _ in range(3)]
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(LedgerUnavailable, match="could not be written to disk: Input/output error"):
        till.ledger.reserve(orders[0])
    monkeypatch.undo()
    for order in orders[1:]:
        with pytest.raises(LedgerUnavailable, match="restart the process"):
            till.ledger.reserve(order)

    assert len(asked) == 1
    assert till.ledger.verify() == []
