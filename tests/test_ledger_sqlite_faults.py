"""What interrupts, bad orders, a failing disk and tampering do to a SQLite ledger: nobody waits for ever, no money is lost or made."""

from __future__ import annotations

import errno
import linecache
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from keyguard.errors import LedgerUnavailable
from keyguard.ledgers import _sqlite_file, _sqlite_queue
from keyguard.ledgers._sqlite_queue import Job, Queue
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.model import Closing, Outcome, Quote
from keyguard.testing._till import Till, limits, open_till, parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path
    from types import FrameType

CAP = 1_000_000  # micro-USD
STEPS = ("queued", "locked", "begun", "written", "committed", "unlocked", "synced", "answered")
_PATIENCE = 20  # seconds until a hang is a failure


@dataclass
class Gate:
    """Stops one operation at one step, and tells what passed; does nothing until `name` is set."""

    name: str = ""
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    queued: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    passed: list[str] = field(default_factory=list)
    at_queue: Callable[[], None] | None = None

    def __call__(self, step: str) -> None:
        """Be told of a step."""
        self.passed.append(step)
        if step == self.name:
            self.name = ""
            self.reached.set()
            if not self.opened.wait(_PATIENCE):
                raise AssertionError("nobody opened the gate")
        elif step == "queued":
            hook, self.at_queue = self.at_queue, None
            if hook is not None:
                hook()
            self.queued.release()

    def expect_queued(self, count: int) -> None:
        """Wait until so many more callers stand in the queue."""
        for _ in range(count):
            assert self.queued.acquire(timeout=_PATIENCE)


@pytest.fixture
def gate() -> Gate:
    """An open gate."""
    return Gate()


@pytest.fixture
def till(tmp_path: Path, gate: Gate) -> Till:
    """A run with a cap of a dollar on a file that survives kill -9."""
    return open_till(SqliteLedger(tmp_path / "ledger.db", durability="process", on_step=gate), run_usd_cap=CAP)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Callers beside the test's own thread."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


def halted(till: Till, gate: Gate, pool: ThreadPoolExecutor, name: str, amount: int) -> Future[Any]:
    """Start a reserve that leads a batch of its own and stands at a step."""
    order = till.order(Quote(amount))
    gate.name = name
    leader = pool.submit(till.ledger.reserve, order)

    assert gate.reached.wait(_PATIENCE)
    while gate.queued.acquire(blocking=False):
        pass
    return leader


def tamper(till: Till, *statements: str) -> list[str]:
    """Change the closed file as somebody with a SQLite shell would, and verify it."""
    assert isinstance(till.ledger, SqliteLedger)
    assert till.ledger.verify() == []
    till.ledger.shut()
    db = apsw.Connection(till.ledger.url.removeprefix("sqlite:///"))
    for statement in ("DROP TRIGGER entries_keep", "DROP TRIGGER entries_fixed", *statements):
        db.execute(statement)
    db.close()
    return till.ledger.verify()


# -- interrupts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_leader_leaves_a_ledger_that_works(tmp_path: Path, step: str) -> None:
    """At each step: the interrupt reaches the caller, the reserve is booked in whole or not at all, and the next caller is served."""
    armed: list[str] = []

    def interrupt(found: str) -> None:
        if found in armed:
            armed.clear()
            raise KeyboardInterrupt

    till = open_till(SqliteLedger(tmp_path / "ledger.db", on_step=interrupt), run_usd_cap=CAP)
    order = till.order(Quote(10))
    armed.append(step)
    with pytest.raises(KeyboardInterrupt):
        till.ledger.reserve(order)
    is_booked = STEPS.index(step) >= STEPS.index("committed")

    assert till.usage.held == (10 if is_booked else 0)
    assert till.ledger.close(Closing(order.reservation_id, Outcome("released"))).found is is_booked
    assert till.ask(CAP).granted
    assert till.ledger.verify() == []


def test_an_interrupt_just_after_begin_leaves_the_file_free(tmp_path: Path) -> None:
    """The transaction is open before the clock is read: nobody else may stay locked out when that is interrupted."""
    armed: list[bool] = []

    def clock() -> float:
        if armed:
            armed.clear()
            raise KeyboardInterrupt
        return 1_800_000_000.0

    till = open_till(SqliteLedger(tmp_path / "ledger.db", durability="process", clock=clock), run_usd_cap=CAP)
    armed.append(True)
    with pytest.raises(KeyboardInterrupt):
        till.ledger.usage(till.key.scope)
    other = Till(SqliteLedger(tmp_path / "ledger.db", durability="process", lock_seconds=0.5), "run-1", prefix="other-")

    assert other.ask(CAP - 1).granted
    assert till.ask(1).granted


def test_an_interrupted_follower_books_nothing(till: Till, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """Ctrl-C while waiting for another thread's batch takes the job out of the queue."""
    mine, raised = till.order(Quote(10)), threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not raised.is_set():
            raised.set()
            raise KeyboardInterrupt

    def press() -> None:
        gate.expect_queued(1)
        # Again and again: a signal that comes just before the thread falls asleep is seen only when it wakes.
        while not raised.wait(0.02):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        leader = halted(till, gate, pool, "begun", 1)
        pressed = pool.submit(press)
        with pytest.raises(KeyboardInterrupt):
            till.ledger.reserve(mine)
        pressed.result(_PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)
        gate.opened.set()

    assert leader.result(_PATIENCE).granted
    assert not till.ledger.close(Closing(mine.reservation_id, Outcome("released"))).found
    assert till.usage.held == 1


class Striking:
    """A caller's wake-up that is an interrupt."""

    def __init__(self, lock: threading.Lock) -> None:
        self.locked, self.release, self._acquire = lock.locked, lock.release, lock.acquire

    def acquire(self) -> None:
        """Sleep until woken, then be struck."""
        self._acquire()
        raise KeyboardInterrupt


def test_a_follower_struck_when_it_is_to_lead_hands_on(till: Till, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """An exception that hits the next leader as it wakes does not strand those behind it."""
    struck, behind = till.order(Quote(10)), till.order(Quote(100))
    ledger = till.ledger
    assert isinstance(ledger, SqliteLedger)

    def arm() -> None:
        job: Any = ledger._queue._waiting[-1]
        job.wake = Striking(job.wake)

    leader = halted(till, gate, pool, "begun", 1)
    gate.at_queue = arm
    victim = pool.submit(ledger.reserve, struck)
    gate.expect_queued(1)
    last = pool.submit(ledger.reserve, behind)
    gate.expect_queued(1)
    gate.opened.set()

    assert leader.result(_PATIENCE).granted
    assert isinstance(victim.exception(_PATIENCE), KeyboardInterrupt)
    assert last.result(_PATIENCE).granted
    assert till.usage.held == 101


@dataclass
class Sweep:
    """A queue without a ledger, whose first caller is interrupted before the nth line that it runs of the queue's own code."""

    nth: int
    behind: int
    struck_at: str = ""
    answers: list[object] = field(default_factory=list)
    lines: int = 0

    def run(self) -> bool:
        """Interrupt one caller; returns whether everybody else was answered."""
        queued = threading.Semaphore(0)
        self.queue = Queue(self._commit, lambda number: None, lambda step: queued.release() if step == "queued" else None)
        self.threads = [threading.Thread(target=self._call, args=(number,), daemon=True) for number in range(self.behind)]
        self.queued = queued
        for thread in (threading.Thread(target=self._be_struck, daemon=True), threading.Thread(target=self._call, args=(-1,), daemon=True)):
            thread.start()
            self.threads.append(thread)
            if len(self.threads) == self.behind + 1:
                thread.join(_PATIENCE)
        started = [thread for thread in self.threads if thread.ident is not None]
        for thread in started:
            thread.join(_PATIENCE)
        return not any(thread.is_alive() for thread in started)

    def _commit(self, batch: list[Job], gather: Callable[[list[Job]], None]) -> int:
        gather(batch)
        for job in batch:
            job.result = job.run(job)
        return 1

    def _call(self, number: int) -> None:
        try:
            self.answers.append(self.queue.submit(Job(lambda _: number)))
        except LedgerUnavailable as error:
            self.answers.append(error)

    def _crowd(self, _job: Job) -> None:
        """Let the others queue up behind the one that will be struck, which leads now."""
        while self.queued.acquire(blocking=False):
            pass
        for thread in self.threads[: self.behind]:
            thread.start()
        for _ in range(self.behind):
            assert self.queued.acquire(timeout=_PATIENCE)

    def _be_struck(self) -> None:
        sys.settrace(self._trace)
        try:
            self.queue.submit(Job(self._crowd))
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != _sqlite_queue.__file__:
            return None
        # CPython raises no interrupt between the body of a `with` and its exit, where the tracer sees the line again.
        if event == "line" and not linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("with "):
            self.lines += 1
            if self.lines == self.nth:
                self.struck_at = f"{frame.f_code.co_name}:{frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize("behind", [0, 2])
def test_an_interrupt_at_any_line_of_the_queue_strands_nobody(behind: int) -> None:
    """Wherever in the queue's code the leader is struck, those behind it and those who come later are answered."""
    swept = 0
    for nth in range(1, 200):
        sweep = Sweep(nth, behind)

        assert sweep.run(), sweep.struck_at
        assert -1 in sweep.answers, sweep.struck_at
        if not sweep.struck_at:
            break
        swept += 1

    assert 25 < swept < 199


def test_followers_of_an_interrupted_leader_are_told(till: Till, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """Whoever was in the batch of an interrupted leader gets an answer, and may try again."""
    first, second = till.order(Quote(10)), till.order(Quote(100))
    ledger = till.ledger
    leader = halted(till, gate, pool, "begun", 1)
    waiting = pool.submit(ledger.reserve, first)
    gate.expect_queued(1)
    behind = pool.submit(ledger.reserve, second)
    gate.expect_queued(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_step", _interrupting("written", after=1))
        gate.opened.set()

        assert leader.result(_PATIENCE).granted
        assert isinstance(waiting.exception(_PATIENCE), KeyboardInterrupt)
        assert isinstance(behind.exception(_PATIENCE), LedgerUnavailable)
    assert ledger.reserve(second).granted
    assert till.usage.held == 101


def _interrupting(name: str, *, after: int) -> Callable[[str], None]:
    seen: list[str] = []

    def step(found: str) -> None:
        if found == name:
            seen.append(found)
            if len(seen) == after + 1:
                raise KeyboardInterrupt

    return step


# -- batches ------------------------------------------------------------------------------------------


def test_waiting_callers_share_one_transaction(till: Till, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """Twelve callers behind a busy leader are one commit."""
    orders = [till.order(Quote(1)) for _ in range(12)]
    leader = halted(till, gate, pool, "begun", 1)
    followers = [pool.submit(till.ledger.reserve, order) for order in orders]
    gate.expect_queued(12)
    gate.passed.clear()
    gate.opened.set()

    assert all(future.result(_PATIENCE).granted for future in [leader, *followers])
    assert gate.passed.count("committed") == 2
    assert till.usage.held == 13


def test_a_bad_order_does_not_hurt_its_batch(till: Till, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """One caller's unstorable order is that caller's error; a refusal and the others beside it stand."""
    bad = till.order(Quote(1, object_id="\ud800"))
    good, huge, last = (till.order(Quote(amount)) for amount in (10, CAP, 100))
    leader = halted(till, gate, pool, "begun", 1)
    futures = []
    for order in (good, bad, huge, last):
        futures.append(pool.submit(till.ledger.reserve, order))
        gate.expect_queued(1)
    gate.opened.set()

    assert leader.result(_PATIENCE).granted
    assert futures[0].result(_PATIENCE).granted
    assert isinstance(futures[1].exception(_PATIENCE), LedgerUnavailable)
    assert futures[2].result(_PATIENCE).reason == "cap_exceeded"
    assert futures[3].result(_PATIENCE).granted
    assert till.usage.held == 111
    assert till.ledger.verify() == []


@pytest.mark.parametrize("amount", [-1, 2**63])
def test_amounts_that_are_no_money_are_refused(till: Till, amount: int) -> None:
    """A negative hold would widen the cap; neither it nor what no column holds is booked."""
    with pytest.raises(LedgerUnavailable):
        till.ask(amount)

    assert till.usage.held == 0
    assert till.ask(CAP).granted


def test_a_negative_cost_frees_nothing(till: Till) -> None:
    """A vendor plug that reads a negative cost leaves the call counted in full."""
    reservation_id = till.hold(10)
    with pytest.raises(LedgerUnavailable):
        till.settle(reservation_id, -5)

    assert parts(till.usage) == (0, 10, 0)


def test_a_reservation_id_with_another_amount_is_a_duplicate(till: Till) -> None:
    """A lost answer may be asked for again, but not for more money."""
    order = till.order(Quote(10))

    assert till.ledger.reserve(order).granted
    assert till.ledger.reserve(order).granted
    assert till.ledger.reserve(replace(order, quote=Quote(11))).reason == "duplicate"
    assert till.usage.held == 10


def test_a_later_refund_cap_stays_where_it_was_set(till: Till) -> None:
    """Once a refund cap is explicit, what the run charges afterwards does not widen it."""
    till.ledger.issue(limits(run_usd_cap=CAP, refund_usd_cap=5), "run-1")
    till.charge("ch_12345", 500)

    assert not till.ask(6, object_id="ch_12345", pot="refund").granted
    assert till.ask(5, object_id="ch_12345", pot="refund").granted
    assert till.ledger.verify() == []


# -- shut, links and syncs ----------------------------------------------------------------------------


def test_shut_does_not_disturb_callers(till: Till, pool: ThreadPoolExecutor) -> None:
    """A handle that one thread shuts again and again serves the others without an error."""
    key, done = till.key, threading.Event()

    def call(number: int) -> int:
        caller, made = Till(till.ledger, "run-1", prefix=f"{number}-"), 0
        while not done.is_set():
            made += till.ledger.reserve(caller.order(Quote(1), key=key)).granted
        return made

    callers = [pool.submit(call, number) for number in range(3)]
    try:
        for _ in range(25):
            till.ledger.shut()
            till.hold(1)
    finally:
        done.set()

    made = 25 + sum(future.result(_PATIENCE) for future in callers)

    assert till.usage.held == made
    assert till.ledger.verify() == []


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors that were put on disk."""
    found: list[int] = []
    flush = _sqlite_file._flush

    def counted(fd: int) -> None:
        flush(fd)
        found.append(fd)

    monkeypatch.setattr(_sqlite_file, "_flush", counted)
    return found


def test_shut_syncs_what_a_caller_still_waits_for(tmp_path: Path, gate: Gate, pool: ThreadPoolExecutor, flushes: list[int]) -> None:
    """A reserve that stands between its commit and its sync is on disk before it is granted, also when the file was closed under it."""
    till = open_till(SqliteLedger(tmp_path / "ledger.db", durability="power", on_step=gate), run_usd_cap=CAP)
    keeper = SqliteLedger(tmp_path / "ledger.db")
    leader = halted(till, gate, pool, "unlocked", 10)
    flushes.clear()
    till.ledger.shut()

    assert len(flushes) == 1
    gate.opened.set()
    assert leader.result(_PATIENCE).granted
    assert len(flushes) == 1
    assert keeper.verify() == []


def test_only_money_is_waited_for(tmp_path: Path, flushes: list[int]) -> None:
    """With `power`, a reserve, a revoke and a cap are synced; a settle, a free read and a refusal are not."""
    till = open_till(SqliteLedger(tmp_path / "ledger.db", durability="power"), run_usd_cap=CAP)
    counts = []
    reservation_id = ""

    def hold() -> None:
        nonlocal reservation_id
        reservation_id = till.hold(10)

    for act in (
        hold,
        lambda: till.settle(reservation_id, 10),
        lambda: till.ask(0),
        lambda: till.ask(CAP),
        lambda: till.ledger.raise_cap("run-1", CAP * 2, by="test"),
        lambda: till.ledger.revoke(run_id="run-1"),
    ):
        flushes.clear()
        act()
        counts.append(len(flushes))

    assert counts == [1, 0, 0, 0, 1, 1]


def test_a_failed_sync_is_never_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the disk failed once nothing is believed durable, also when the next sync says it is fine, and after a shut."""
    till = open_till(SqliteLedger(tmp_path / "ledger.db", durability="power"), run_usd_cap=CAP)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(_sqlite_file, "_flush", fail)
        with pytest.raises(LedgerUnavailable, match="could not be written to disk"):
            till.ask(10)
    with pytest.raises(LedgerUnavailable, match="earlier write"):
        till.ask(10)
    with pytest.raises(LedgerUnavailable, match="earlier write"):
        till.ledger.shut()
    with pytest.raises(LedgerUnavailable, match="earlier write"):
        till.ask(10)


def test_a_link_to_the_file_is_the_same_ledger(tmp_path: Path) -> None:
    """Whoever comes by a link meets the same lock and the same write-ahead log."""
    folder = tmp_path / "real"
    till = open_till(SqliteLedger(folder / "ledger.db", durability="power"), run_usd_cap=CAP)
    (tmp_path / "link.db").symlink_to(folder / "ledger.db")
    linked = Till(SqliteLedger(tmp_path / "link.db", durability="power"), "run-1", prefix="linked-")

    assert linked.ask(10).granted
    assert till.usage.held == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.db", "real"]


# -- tampering ----------------------------------------------------------------------------------------

_SWAPPED = "UPDATE entries SET seq = -seq WHERE seq IN (3, 4); UPDATE entries SET seq = 7 + seq WHERE seq < 0"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE entries SET amount = 1, held = 1 WHERE seq = 3", "entry 3 (reserve) does not continue the chain"),
        ("UPDATE entries SET at = at + 1 WHERE seq = 4", "entry 4 (settle) does not continue the chain"),
        ("UPDATE entries SET detail = 'no JSON' WHERE seq = 4", "entry 4 (settle) does not continue the chain"),
        ("DELETE FROM entries WHERE seq = 3", "entry 3 is missing"),
        ("DELETE FROM entries WHERE seq = (SELECT max(seq) FROM entries)", "reservation run-1-1"),
        ("UPDATE entries SET seq = -seq WHERE seq IN (3, 4)", "entry 1 is missing"),
        (_SWAPPED, "entry 3 (settle) does not continue the chain"),
        ("UPDATE bucket SET spent = 0 WHERE scope = 'run:run-1'", "budget run:run-1: the log says"),
        ("UPDATE bucket SET cap = 9000000, top = 9000000 WHERE scope = 'run:run-1'", "budget run:run-1: the log sets the cap 1000000"),
        ("UPDATE budget SET cap = NULL WHERE scope = 'run:run-1'", "the books have None"),
        ("UPDATE bucket SET cap = cap + 1 WHERE scope = 'refund:run:run-1'", "may refund 11"),
        ("UPDATE bucket SET peak = 9000000 WHERE scope = 'run:run-1'", "at its peak"),
        ("UPDATE bucket SET cap = 9000000 WHERE scope = 'policy:contract-flow'", "above the largest it ever had"),
        ("UPDATE holds SET spent = 0 WHERE id = 'run-1-0'", "reservation run-1-0: the log says"),
        ("UPDATE holds SET recurring = 1 WHERE id = 'run-1-0'", "reservation run-1-0: whether its charge recurs differs"),
    ],
)
def test_verify_names_what_was_tampered_with(tmp_path: Path, change: str, words: str) -> None:
    """A changed, removed or reordered row, a false balance and a false cap are each found."""
    till = open_till(SqliteLedger(tmp_path / "ledger.db", durability="process"), run_usd_cap=CAP, daily_usd_cap=CAP)
    till.charge("ch_12345", 10)
    till.hold(20)

    assert any(words in line for line in tamper(till, change))


def test_the_log_cannot_be_changed_through_a_plain_connection(till: Till) -> None:
    """The file's own triggers refuse to change or remove rows of the log, and reservations."""
    till.hold(10)
    db = apsw.Connection(till.ledger.url.removeprefix("sqlite:///"))
    for statement in ("DELETE FROM entries", "UPDATE entries SET at = 0", "DELETE FROM holds"):
        with pytest.raises(apsw.ConstraintError, match="append-only"):
            db.execute(statement)
    db.close()


def test_a_token_of_another_ledger_is_unknown(till: Till, tmp_path: Path) -> None:
    """Tokens are made with a secret of the ledger: the same key id elsewhere has another one."""
    other = open_till(SqliteLedger(tmp_path / "other.db", durability="process"), run_usd_cap=CAP)
    stolen = till.key.token.replace(till.key.key_id, other.key.key_id)

    assert till.ledger.key(token=till.key.token) is not None
    assert other.ledger.key(token=stolen) is None
    assert other.ledger.key(token=till.key.token) is None


def test_a_clock_far_behind_is_a_warning_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """More than an hour back: one WARNING, and time stands still instead of going back."""
    times = [2_000_000_000.0]
    till = open_till(SqliteLedger(tmp_path / "ledger.db", durability="process", clock=lambda: times[0]), run_usd_cap=CAP)
    times[0] -= 3601
    late = SqliteLedger(tmp_path / "ledger.db", durability="process", clock=lambda: times[0])
    caplog.clear()

    assert [late.now(), late.now(), till.ledger.now()] == [2_000_000_000.0] * 3
    assert [record.levelname for record in caplog.records if "behind the ledger's last entry" in record.getMessage()] == ["WARNING"] * 2
