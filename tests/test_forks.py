"""Forks with a hold open, and pools of workers by every start method: whose hold is whose, and one cap over all."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import stripe

import keyguard
from keyguard import patches
from keyguard.ledgers import open_ledger, sqlite
from keyguard.ledgers._sqlite_file import LedgerFile
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.testing._till import Till, open_till
from tests.support_forks import PATIENCE, Forked, Gate, charge, figures, fork, watched
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Since 3.12 a fork beside threads warns; that it works all the same is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning")


@pytest.fixture
def server() -> Iterator[StripeServer]:
    """A loopback Stripe; only charges of this process's children and its own reach it."""
    with StripeServer() as started:
        yield started


def _at_the_end(url: str) -> tuple[int, int, int]:
    """Return the books as a later process finds them: spent, held and in doubt in cents."""
    ledger = open_ledger(url)

    assert ledger.verify() == []
    return figures(ledger.usage("run:run-1"))


# -- a fork with a hold open -----------------------------------------------------------------------


def test_a_child_forked_beside_a_call_leaves_its_hold_alone(server: StripeServer, url: str) -> None:
    """The child reserves for itself, is charged to the same run, and its usage() and uninstall() touch nothing of the parent's."""
    gate = server.delay = Gate()
    with keyguard.run("run-1"), ThreadPoolExecutor(1) as pool:
        installed = keyguard.install(url, run_usd_cap=100)
        calling = pool.submit(keyguard.wrap(charge), server.url, 1000)
        gate.await_request()

        def child() -> Any:
            seen = [figures(installed.usage())]
            charge(server.url, 2000)
            seen.append(figures(installed.usage()))
            keyguard.uninstall()
            return seen

        seen = fork(child).result()
        beside = figures(installed.usage())
        gate.set()
        calling.result(PATIENCE)
        after = figures(installed.usage())

    assert seen == [[0, 1000, 0], [2000, 1000, 0]]
    assert beside == (2000, 1000, 0)
    assert after == (3000, 0, 0) == _at_the_end(url)
    assert server.total == 3000


@dataclass
class _Branch:
    """Forks in the middle of a send: the child charges on its own, then leaves the call in one of the ways a program may."""

    base: str
    how: str
    parent: int = field(default_factory=os.getpid)
    children: list[int] = field(default_factory=list[int])

    def __call__(self) -> None:
        child = os.fork()
        if child:
            self.children.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            return
        watched()
        charge(self.base, 2000)
        if self.how == "ends":
            keyguard.uninstall()
            os._exit(0)
        if self.how == "raises":
            raise SystemExit


def _by_stripe(base: str, branch: _Branch) -> None:
    """Charge by a client of the user's own, which forks behind its send."""

    class Forking(stripe.RequestsClient):
        def request(self, *args: Any, **more: Any) -> Any:
            answer = super().request(*args, **more)
            branch()
            return answer

    charge(base, 1000, Forking())


def _by_httpx(base: str, branch: _Branch) -> None:
    """Charge by a transport of the user's own, which forks behind its send."""

    class Forking(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            # Whole: child and parent have one socket, and what the one reads of it the other misses.
            answer.read()
            branch()
            return answer

    form = {"amount": "1000", "currency": "usd", "confirm": "true"}
    with httpx.Client(transport=Forking()) as client:
        client.post(f"{base}/v1/payment_intents", data=form, headers={"Authorization": "Bearer sk_test_12345"})


@pytest.mark.parametrize("call", [_by_stripe, _by_httpx])
@pytest.mark.parametrize("how", ["ends", "raises", "returns"])
def test_a_child_forked_inside_a_send_leaves_the_calls_hold_alone(
    server: StripeServer, url: str, how: str, call: Callable[[str, _Branch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that unwinds, or returns, through the parent's own guarded call: its call is the parent's to close."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={server.host}")
    ledger = open_ledger(url)
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=100)
        branch = _Branch(server.url, how)
        try:
            call(server.url, branch)
        finally:
            if os.getpid() != branch.parent:
                # The exit code says how often the parent's hold was closed here.
                charge(server.url, 4000)
                installed.usage()
                keyguard.uninstall()
                os._exit(sum(row["kind"] in {"settle", "release", "doubt"} and row["amount"] == 10_000_000 for row in ledger.entries()))
        after = figures(installed.usage())
    kinds = [row["kind"] for row in ledger.entries() if row["hold"]]

    assert branch.children == [0]
    assert server.total == (3000 if how == "ends" else 7000)
    assert after == (server.total, 0, 0) == _at_the_end(url)
    assert kinds == ["reserve", *["reserve", "settle"] * (1 if how == "ends" else 2), "settle"]


@pytest.mark.parametrize("how", ["_exit", "exit"])
def test_a_childs_end_closes_nothing_of_its_parents(server: StripeServer, url: str, how: str) -> None:
    """By os._exit, and by sys.exit through atexit and the interpreter's own end: the parent's hold is there, then settles."""
    gate = server.delay = Gate()
    command = [sys.executable, "-m", "tests.support_forks", "leave", server.url, url, how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        gate.await_request()
        program.stdin.write("fork\n")
        program.stdin.flush()
        in_child, beside = json.loads(program.stdout.readline()), json.loads(program.stdout.readline())
        gate.set()
        after = json.loads(program.communicate("join\n", timeout=PATIENCE)[0])

    assert in_child == [2000, 1000, 0]
    assert beside == [3, 2000, 1000, 0]
    assert after == [3000, 0, 0]
    assert _at_the_end(url) == (3000, 0, 0)
    assert server.total == 3000


def test_a_child_killed_in_its_send_stays_counted(server: StripeServer, url: str) -> None:
    """SIGKILL while its call is out: its hold is in doubt, the parent's settles."""
    gate = server.delay = Gate(2)
    with keyguard.run("run-1"), ThreadPoolExecutor(1) as pool:
        installed = keyguard.install(url, run_usd_cap=100)
        calling = pool.submit(keyguard.wrap(charge), server.url, 1000)
        gate.await_request()
        child = fork(lambda: charge(server.url, 2000))
        gate.await_request()
        os.kill(child.pid, signal.SIGKILL)
        ended = child.ended()
        gate.set()
        calling.result(PATIENCE)
        after = figures(installed.usage())
    os.close(child.answers)

    assert ended == -signal.SIGKILL
    assert after == (1000, 0, 2000) == _at_the_end(url)
    assert server.total == 3000


def test_a_childs_child_is_charged_to_the_same_run(server: StripeServer, url: str) -> None:
    """Three generations, each with a hold of its own open while the next one calls."""
    gate = server.delay = Gate(2)

    def grandchild() -> Any:
        charge(server.url, 4000)
        return figures(installed.usage())

    def child() -> Any:
        with ThreadPoolExecutor(1) as own:
            calling = own.submit(keyguard.wrap(charge), server.url, 2000)
            # Its own hold is open when the parent, who sees the server, says so.
            os.read(reading, 1)
            seen = fork(grandchild).result()
            os.write(answering, b"x")
            calling.result(PATIENCE)
        return [seen, figures(installed.usage())]

    (reading, writing), (answered, answering) = os.pipe(), os.pipe()
    with keyguard.run("run-1"), ThreadPoolExecutor(1) as pool:
        installed = keyguard.install(url, run_usd_cap=100)
        calling = pool.submit(keyguard.wrap(charge), server.url, 1000)
        gate.await_request()
        forked = fork(child)
        # So that the pipe ends with the child, however it ends.
        os.close(answering)
        gate.await_request()
        os.write(writing, b"x")
        os.read(answered, 1)
        gate.set()
        seen = forked.result()
        calling.result(PATIENCE)
    for fd in (reading, writing, answered):
        os.close(fd)

    assert seen[0] == [4000, 3000, 0]
    assert seen[1][0] >= 6000
    assert _at_the_end(url) == (7000, 0, 0)
    assert server.total == 7000


# -- locks that nobody in the child can release -----------------------------------------------------------


def _locks(installed: keyguard.Installation) -> dict[str, Any]:
    armed: Any = import_module("keyguard.install")._armed
    ledger: Any = armed.backends[next(iter(armed.backends))].ledger
    return {
        "arming": armed.lock,
        "seams": patches._arming.lock,
        "numbers": armed.slots._lock,
        "queue": ledger._queue._lock,
    }


@pytest.mark.parametrize("name", ["arming", "seams", "numbers", "queue"])
def test_a_lock_held_at_the_fork_stops_nothing_in_the_child(server: StripeServer, url: str, name: str) -> None:
    """Another thread of the parent holds one of keyguard's locks: the child calls, installs, asks and disarms all the same."""
    held, done = threading.Event(), threading.Event()

    def hold(lock: Any) -> None:
        with lock:
            held.set()
            done.wait(PATIENCE)

    with keyguard.run("run-1"), ThreadPoolExecutor(1) as pool:
        installed = keyguard.install(url, run_usd_cap=100)
        holding = pool.submit(hold, _locks(installed)[name])
        assert held.wait(PATIENCE)

        def child() -> Any:
            charge(server.url, 2000)
            # The numbers of an execution are asked for only where an orchestrator has executions.
            import_module("keyguard.install")._armed.slots.number("run:run-1", b"request", keyguard.context.RunRef("run-1", "engine"))
            keyguard.install(url, run_usd_cap=100)
            seen = figures(installed.usage())
            keyguard.uninstall()
            return seen

        try:
            seen = fork(child).result()
        finally:
            done.set()
        holding.result(PATIENCE)

    assert seen == [2000, 0, 0]
    assert _at_the_end(url) == (2000, 0, 0)


class _Noticed:
    """A lock that says when somebody comes for it."""

    def __init__(self, lock: Any) -> None:
        self.lock, self.wanted = lock, threading.Event()

    def acquire(self, timeout: float = -1) -> bool:
        """Say so, and take it."""
        self.wanted.set()
        return bool(self.lock.acquire(timeout=timeout))

    def release(self) -> None:
        """Give it back."""
        self.lock.release()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_a_fork_waits_for_a_transaction_that_is_open(tmp_path: Path) -> None:
    """A thread is in the middle of a transaction: the fork comes after it, so that the child finds no lock of SQLite's taken."""
    noticed: list[_Noticed] = []

    def step(name: str) -> None:
        if name == "begun" and noticed:
            begun.set()
            noticed[0].wanted.wait(PATIENCE)

    begun = threading.Event()
    ledger: Any = SqliteLedger(tmp_path / "ledger.db", on_step=step)
    till = open_till(ledger, run_usd_cap=1_000_000)
    noticed.append(_Noticed(ledger._work_lock))
    ledger._work_lock = noticed[0]
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(till.hold, 100)
        assert begun.wait(PATIENCE)

        def child() -> Any:
            mine = Till(ledger, till.run_id, prefix="child/")
            mine.hold(10)
            return mine.usage.held

        forked = fork(child)
        noticed[0].wanted.set()
        seen = forked.result()
        holding.result(PATIENCE)

    # The parent's own is held still; the child has ended without closing its own.
    assert seen == 110
    assert (till.usage.held, till.usage.doubt) == (100, 10)
    assert ledger.verify() == []


def test_a_fork_between_a_commit_and_its_sync_hurts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread has committed and is about to sync when the fork puts the file away, synced: the thread's reserve is granted."""
    committed, forked, real = threading.Event(), threading.Event(), LedgerFile.sync

    def sync(file: LedgerFile, number: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            committed.set()
            forked.wait(PATIENCE)
        real(file, number)

    till = open_till(SqliteLedger(tmp_path / "ledger.db"), run_usd_cap=1_000_000)
    monkeypatch.setattr(LedgerFile, "sync", sync)
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(till.hold, 100)
        assert committed.wait(PATIENCE)
        child = fork(lambda: till.usage.held)
        forked.set()
        holding.result(PATIENCE)

    assert child.result() == till.usage.held == 100


def test_a_child_goes_on_counting_where_its_parent_leaves(tmp_path: Path) -> None:
    """Parent and others close the file, each as the last one that it knows of: what a child books afterwards is not lost."""
    path = tmp_path / "ledger.db"
    till = open_till(SqliteLedger(path), run_usd_cap=1_000_000)
    till.hold(1)
    (booked, booking), (reading, writing) = os.pipe(), os.pipe()

    def child() -> Any:
        mine = Till(till.ledger, till.run_id, prefix="child/")
        mine.hold(10)
        os.write(booking, b"x")
        os.read(reading, 1)
        mine.hold(100)
        return mine.usage.held

    forked = fork(child)
    # So that the pipe ends with the child, however it ends.
    os.close(booking)
    os.read(booked, 1)
    till.hold(1000)
    till.ledger.shut()
    other = SqliteLedger(path)
    other.shut()
    os.write(writing, b"x")
    seen = forked.result()
    for fd in (booked, reading, writing):
        os.close(fd)

    assert seen == 1111
    assert (till.usage.held, till.usage.doubt) == (1001, 110)
    assert till.ledger.verify() == []


def test_a_ledger_that_cannot_be_put_away_is_refused_in_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked from inside its own transaction, the child would write without a lock: it is refused, and the parent goes on."""
    monkeypatch.setattr(sqlite, "_BUSY_MS", 10)
    forked: list[Forked] = []

    def step(name: str) -> None:
        if name == "begun" and not forked and "till" in names:
            forked.append(fork(child))

    def child() -> Any:
        with pytest.raises(keyguard.LedgerUnavailable, match="forked while the ledger"):
            SqliteLedger.usage(ledger, "run:run-1")
        return "refused"

    names: dict[str, Till] = {}
    ledger = SqliteLedger(tmp_path / "ledger.db", on_step=step, lock_seconds=0.01)
    names["till"] = till = open_till(ledger, run_usd_cap=1_000_000)
    till.hold(100)

    assert forked[0].result() == "refused"
    assert till.usage.held == 100
    assert ledger.verify() == []


def test_a_ledger_whose_disk_fails_does_not_stop_a_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be put on disk cannot be put away: the process forks all the same, and neither side is granted anything."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    till = open_till(SqliteLedger(tmp_path / "ledger.db"), run_usd_cap=1_000_000)
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(keyguard.LedgerUnavailable, match="could not be written to disk"):
        till.hold(100)

    def child() -> Any:
        with pytest.raises(keyguard.LedgerUnavailable, match="forked while the ledger"):
            till.hold(10)
        return "refused"

    assert fork(child).result() == "refused"
    with pytest.raises(keyguard.LedgerUnavailable, match="an earlier write"):
        till.hold(1)


def test_forks_among_busy_threads_lose_and_hang_nothing(server: StripeServer, url: str) -> None:
    """Four threads charge without a pause while the process forks twelve times; each child charges once: the sums are the server's."""
    stop = threading.Event()

    def charge_on() -> int:
        count = 0
        while not stop.is_set():
            charge(server.url, 100)
            count += 1
        return count

    with keyguard.run("run-1"), ThreadPoolExecutor(4) as pool:
        installed = keyguard.install(url, run_usd_cap=100_000)
        # Once before: a fork during an import leaves Python's lock of that module taken, and Stripe imports late.
        charge(server.url, 100)
        charging = [pool.submit(keyguard.wrap(charge_on)) for _ in range(4)]
        try:
            children = [fork(lambda: charge(server.url, 100)) for _ in range(12)]
            for child in children:
                child.result()
        finally:
            stop.set()
        count = sum(future.result(PATIENCE) for future in charging)
        after = figures(installed.usage())

    assert len(server.charges) == 1 + count + 12
    assert after == (server.total, 0, 0) == _at_the_end(url)


# -- pools of workers ---------------------------------------------------------------------------------


def _pooled(server: StripeServer, url: str, method: str, arms: str, **environment: str) -> tuple[int, ...]:
    """Return (charged, refused) as the workers counted them, and what the server and the run's books say, in dollars."""
    each = "2" if method == "fork" else "1"
    done = subprocess.run(
        [sys.executable, "-m", "tests.support_forks", "pools", method, server.url, url, arms, each],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    charged, refused = json.loads(done.stdout)
    spent, held, doubt = _at_the_end(url)
    return charged, refused, server.total // 100, spent // 100, held + doubt


# In the plain run spawned ones have a key in the environment, below.
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.ci), "forkserver"])
def test_workers_that_install_share_the_named_runs_cap(server: StripeServer, url: str, method: str) -> None:
    """Processes, a pool and an executor at once, 60 charges wanted by the run of KEYGUARD_RUN_ID: 30 reach the server, 30 are refused."""
    assert _pooled(server, url, method, "worker", KEYGUARD_RUN_ID="run-1") == (30, 30, 30, 30, 0)


def test_forked_workers_inherit_the_run(server: StripeServer, url: str) -> None:
    """They do nothing themselves; what their parent installed holds for them."""
    assert _pooled(server, url, "fork", "parent", KEYGUARD_RUN_ID="run-1") == (30, 30, 30, 30, 0)


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.ci), "forkserver"])
def test_new_interpreters_that_do_not_install_are_not_guarded(server: StripeServer, url: str, method: str) -> None:
    """What README says is not guaranteed: neither the parent's install nor the environment reaches a process that does not."""
    assert _pooled(server, url, method, "parent", KEYGUARD_RUN_ID="run-1") == (60, 0, 60, 0, 0)


def test_a_key_in_the_environment_pays_for_workers_that_install(server: StripeServer, url: str) -> None:
    """KEYGUARD_KEY names the payer where no run is known: a budget of each process's own stays untouched."""
    with keyguard.run("run-1"):
        token = keyguard.install(url, run_usd_cap=30).key.token

    assert _pooled(server, url, "spawn", "worker", KEYGUARD_KEY=token) == (30, 30, 30, 30, 0)
