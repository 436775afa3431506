"""Threads and executors of the user's: with `KEYGUARD_COPY_CONTEXT` they are part of the run that starts them; two runs never swap."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard import context
from keyguard.errors import Unattributed
from tests.support_forks import charge
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAIN = (threading.Thread.start, ThreadPoolExecutor.submit)


@pytest.fixture
def vendor() -> Iterator[StripeServer]:
    """A Stripe that executes everything."""
    with StripeServer() as started:
        yield started


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, keyguard.Installation]:
    """Two runs with keys of their own, where contexts are copied."""
    monkeypatch.setenv("KEYGUARD_COPY_CONTEXT", "1")
    found: dict[str, keyguard.Installation] = {}
    for name in ("run-a", "run-b"):
        with keyguard.run(name):
            found[name] = keyguard.install(f"sqlite:///{tmp_path / 'ledger.db'}", run_usd_cap=50)
    return found


def spent(installed: dict[str, keyguard.Installation]) -> list[int]:
    """Return what each run has spent, in dollars."""
    return [one.usage().spent // 1_000_000 for one in installed.values()]


class Own(threading.Thread):
    """A thread with a `run` of its own."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base

    def run(self) -> None:
        """Charge three dollars."""
        charge(self._base, 300)


def test_a_thread_is_of_the_run_that_starts_it(vendor: StripeServer, installed: dict[str, keyguard.Installation]) -> None:
    """Plain threads, timers and subclasses: each is charged to the run that it was started in."""
    for name, cents in (("run-a", 100), ("run-b", 200)):
        with keyguard.run(name):
            threads: list[threading.Thread] = [threading.Thread(target=charge, args=(vendor.url, cents)), Own(vendor.url)]
            threads.append(threading.Timer(0, charge, (vendor.url, cents)))
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()

    assert spent(installed) == [5, 7]


def test_work_of_a_pool_is_of_the_run_that_submits_it(vendor: StripeServer, installed: dict[str, keyguard.Installation]) -> None:
    """One thread serves two runs, the first of which made it: each piece of work is its submitter's, also by `map` and an event loop."""

    async def on_loop() -> None:
        await asyncio.get_running_loop().run_in_executor(pool, charge, vendor.url, 300)

    with ThreadPoolExecutor(1) as pool:
        for name, cents in (("run-a", 100), ("run-b", 200)):
            with keyguard.run(name):
                pool.submit(charge, vendor.url, cents).result()
                assert len(list(pool.map(charge, [vendor.url] * 2, [cents] * 2))) == 2
                asyncio.run(on_loop())
        with pytest.raises(Unattributed):
            pool.submit(charge, vendor.url, 100).result()

    assert spent(installed) == [6, 9]


def test_a_pools_thread_does_not_keep_the_run_that_made_it(installed: dict[str, keyguard.Installation]) -> None:
    """What an executor does by itself is nobody's: its thread has no context of a run."""
    seen: list[Any] = []
    with keyguard.run("run-a"):
        pool = ThreadPoolExecutor(1, initializer=lambda: seen.append(context.current_run()))
        pool.submit(int).result()
    pool.shutdown()

    assert seen == [None]


def test_outside_of_a_run_nothing_is_copied(installed: dict[str, keyguard.Installation]) -> None:
    """A thread that is started outside of any run keeps its own `run`."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()

    assert "run" not in vars(thread)
    assert spent(installed) == [0, 0]


def test_uninstalling_puts_the_methods_back(installed: dict[str, keyguard.Installation]) -> None:
    """While armed the two methods are ours, with their names; `uninstall()` leaves Python's own."""
    during = (threading.Thread.start, ThreadPoolExecutor.submit)
    keyguard.uninstall()

    assert [one.__name__ for one in during] == ["start", "submit"]
    assert during != PLAIN
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == PLAIN


def test_without_the_setting_threads_are_as_they_were(tmp_path: Path) -> None:
    """Copying is asked for, never assumed."""
    with keyguard.run("run-a"):
        keyguard.install(f"sqlite:///{tmp_path / 'ledger.db'}", run_usd_cap=50)

        assert (threading.Thread.start, ThreadPoolExecutor.submit) == PLAIN
