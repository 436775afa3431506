"""The async driver behind real clients, under asyncio and trio: hops, one cap for many tasks, cancellation at every stage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx
import pytest

import keyguard
from keyguard import drivers
from keyguard.errors import SpendCapExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

USD = 1_000_000  # micro-USD
BACKENDS = ("asyncio", "trio")
_FORM = {"amount": "100", "currency": "usd", "confirm": "true"}
_URL = "https://api.stripe.com/v1/payment_intents"


class Vendor(httpx.AsyncBaseTransport):
    """A vendor in memory that counts what it executed, and can keep a caller waiting before or after."""

    def __init__(self) -> None:
        self.executed = 0
        self.reached: anyio.Event | None = None
        self.holds_answer = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Execute one charge; then answer, or never."""
        self.executed += 1
        number = self.executed
        if self.reached is not None:
            self.reached.set()
        if self.holds_answer:
            await anyio.sleep_forever()
        # Where others may run, as on any network.
        await anyio.lowlevel.checkpoint()
        intent = {
            "id": f"pi_{number}", "object": "payment_intent", "amount": 100, "amount_received": 100, "amount_capturable": 0,
            "currency": "usd", "status": "succeeded", "latest_charge": f"ch_{number}",
        }  # fmt: skip
        return httpx.Response(200, content=json.dumps(intent).encode(), headers={"request-id": f"req_{number}"})


class Stage:
    """Stops a ledger's operation inside its transaction until it is let go."""

    def __init__(self, ledger: Any, operation: int) -> None:
        self._left, self._open = operation, threading.Event()
        self.reached = anyio.Event()
        ledger._step = self._step

    def _step(self, name: str) -> None:
        if name != "begun":
            return
        self._left -= 1
        if self._left == 0:
            anyio.from_thread.run_sync(self.reached.set)
            assert self._open.wait(30)

    def let_go(self) -> None:
        """Let the operation end."""
        self._open.set()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A ledger file, closed afterwards."""
    yield f"sqlite:///{tmp_path}/ledger.db"
    keyguard.uninstall()


def _ledger() -> Any:
    module: Any = sys.modules["keyguard.install"]
    return next(iter(module._armed.backends.values())).ledger


async def _charge(client: httpx.AsyncClient) -> int:
    with keyguard.run("run-1"):
        return (await client.post(_URL, data=_FORM)).status_code


def _run(backend: str, main: Callable[[httpx.AsyncClient, Vendor], Any]) -> Any:
    async def whole() -> Any:
        vendor = Vendor()
        async with httpx.AsyncClient(transport=vendor) as client:
            return await main(client, vendor)

    return anyio.run(whole, backend=backend)


def _install(url: str, cap: float = 10) -> keyguard.Installation:
    with keyguard.run("run-1"):
        return keyguard.install(url, run_usd_cap=cap)


# -- hops ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_guarded_call_makes_two_hops(url: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread to reserve, one to close; whose key pays is known without."""
    installed, hops, run_sync = _install(url), [], anyio.to_thread.run_sync

    async def counted(work: Any, *args: Any, **options: Any) -> Any:
        hops.append(options["limiter"])
        return await run_sync(work, *args, **options)

    monkeypatch.setattr(anyio.to_thread, "run_sync", counted)

    assert _run(backend, lambda client, _: _charge(client)) == 200
    assert len(hops) == 2
    assert hops[0] is hops[1]
    assert installed.usage().spent == USD


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_key_that_must_be_made_first_waits_in_a_thread(url: str, backend: str) -> None:
    """A run that this process meets for the first time gets its key from the default policy, off the event loop."""
    keyguard.install(url, run_usd_cap=10)

    assert _run(backend, lambda client, _: _charge(client)) == 200
    assert _ledger().usage("run:run-1").spent == USD


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_application_that_uses_all_its_threads_does_not_stop_the_guard(url: str, backend: str) -> None:
    """The guard's threads are its own."""
    _install(url)

    async def main(client: httpx.AsyncClient, _: Vendor) -> int:
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = 1
        busy = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, partial(busy.wait, 30))
            while not limiter.borrowed_tokens:
                await anyio.lowlevel.checkpoint()
            status = await _charge(client)
            busy.set()
        return status

    assert _run(backend, main) == 200


# -- many at once -------------------------------------------------------------------------------------


def test_a_thousand_concurrent_calls_stop_at_one_cap(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Granted are exactly as many as fit; ledger, vendor and callers agree. The loop's longest stall is printed."""
    installed = _install(url, cap=400)

    async def main(client: httpx.AsyncClient, vendor: Vendor) -> tuple[int, int, int, float]:
        granted, refused = [], []

        async def one() -> None:
            try:
                granted.append(await _charge(client))
            except SpendCapExceeded as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            stall = Stall()
            group.start_soon(stall.watch)
            async with anyio.create_task_group() as calls:
                for _ in range(1000):
                    calls.start_soon(one)
            stall.stop()
        return len(granted), len(refused), vendor.executed, stall.longest

    guarded = _run("asyncio", main)
    usage = installed.usage()
    keyguard.uninstall()
    bare = _run("asyncio", main)
    with capsys.disabled():
        print(f"\n1,000 concurrent calls: the loop's longest stall was {guarded[3] * 1000:.0f} ms guarded, {bare[3] * 1000:.0f} ms bare")

    assert guarded[:3] == (400, 600, 400)
    assert bare[:3] == (1000, 0, 1000)
    assert (usage.spent, usage.held, usage.doubt) == (400 * USD, 0, 0)


class Stall:
    """Measures how long an event loop goes without running a task that always wants to."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._scope = anyio.CancelScope()

    async def watch(self) -> None:
        """Run until stopped."""
        before = time.perf_counter()
        with self._scope:
            while True:
                await anyio.lowlevel.checkpoint()
                now = time.perf_counter()
                self.longest, before = max(self.longest, now - before), now

    def stop(self) -> None:
        """End the watch."""
        self._scope.cancel()


# -- cancellation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "way"), [("asyncio", "scope"), ("trio", "scope"), ("asyncio", "task"), ("asyncio", "task, twice")])
@pytest.mark.parametrize(("operation", "calls"), [(1, 0), (2, 1)], ids=["reserve", "close"])
def test_cancelled_while_the_ledger_works_the_books_tell_what_happened(
    url: str, backend: str, way: str, operation: int, calls: int
) -> None:
    """A reserve is waited for and given back, nothing sent; a close is waited for, its cost booked; the cancellation goes on."""
    installed = _install(url)

    async def main(client: httpx.AsyncClient, vendor: Vendor) -> int:
        stage = Stage(_ledger(), operation)
        await (_cancelled_by_scope(client, stage) if way == "scope" else _cancelled_as_task(client, stage, 2 if "twice" in way else 1))
        return vendor.executed

    assert _run(backend, main) == calls
    usage = installed.usage()

    assert (usage.spent, usage.held, usage.doubt, usage.calls) == (calls * USD, 0, 0, calls)
    assert _ledger().verify() == []


def test_a_reserve_that_its_thread_did_not_begin_is_never_made(url: str) -> None:
    """Cancelled while the guard's threads are all busy: nothing is sent, and nothing is counted, not even afterwards."""
    installed = _install(url)

    async def main(client: httpx.AsyncClient, vendor: Vendor) -> int:
        threads = drivers._threads()
        for borrower in range(drivers._THREADS):
            threads.acquire_on_behalf_of_nowait(borrower)
        task = asyncio.ensure_future(_charge(client))
        while not threads.statistics().tasks_waiting:
            await anyio.lowlevel.checkpoint()
        task.cancel()
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        for borrower in range(drivers._THREADS):
            threads.release_on_behalf_of(borrower)
        await asyncio.wait([task])
        return vendor.executed

    assert _run("asyncio", main) == 0
    assert (installed.usage().held, installed.usage().calls) == (0, 0)


@pytest.mark.parametrize(("operation", "counted"), [(1, 0), (2, USD)], ids=["reserve", "close"])
def test_a_call_whose_loop_is_gone_awaits_nothing_more(url: str, operation: int, counted: int) -> None:
    """Its coroutine is closed while a thread works for it: Python has nothing to complain about, and the hold is found."""
    installed, client = _install(url), httpx.AsyncClient(transport=Vendor())

    async def main() -> tuple[asyncio.Task[int], Stage]:
        stage = Stage(_ledger(), operation)
        task = asyncio.ensure_future(_charge(client))
        await stage.reached.wait()
        return task, stage

    loop = asyncio.new_event_loop()
    task, stage = loop.run_until_complete(main())
    loop.close()
    # Here another loop runs: nothing of the closed call may begin to wait in it.
    asyncio.run(_close(task.get_coro()))
    stage.let_go()
    usage = installed.usage()

    assert (usage.held, usage.spent + usage.doubt) == (0, counted)


async def _close(coroutine: Any) -> None:
    """Do what Python does to a coroutine that it collects."""
    coroutine.close()


async def _cancelled_by_scope(client: httpx.AsyncClient, stage: Stage) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_charge, client)
        await stage.reached.wait()
        group.cancel_scope.cancel()
        stage.let_go()


async def _cancelled_as_task(client: httpx.AsyncClient, stage: Stage, times: int) -> None:
    """As `asyncio.timeout`, `wait_for`, asyncio's task groups and Ctrl-C cancel: no scope can shield from it."""
    task = asyncio.ensure_future(_charge(client))
    await stage.reached.wait()
    for _ in range(times):
        task.cancel()
        for _ in range(50):
            await anyio.lowlevel.checkpoint()

        assert not task.done()
    stage.let_go()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", ["cancel", "timeout", "sibling"])
def test_cancelled_after_the_vendor_has_it_the_charge_is_in_doubt(url: str, backend: str, way: str) -> None:
    """By hand, by a timeout or by a sibling's failure: nobody knows the answer, so the money stays counted."""
    installed = _install(url)

    sent: list[Vendor] = []

    async def main(client: httpx.AsyncClient, vendor: Vendor) -> None:
        sent.append(vendor)
        vendor.holds_answer, vendor.reached = True, anyio.Event()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_charge, client)
                await vendor.reached.wait()
                if way == "timeout":
                    # Not before: on a busy machine it would strike before the request has left.
                    scope.deadline = anyio.current_time() + 0.05
                if way == "sibling":
                    raise ZeroDivisionError
                if way == "cancel":
                    scope.cancel()

    # A task group raises its tasks' errors in a group.
    with pytest.raises(Exception, match=r"unhandled errors|Trio nursery") if way == "sibling" else contextlib.nullcontext():
        _run(backend, main)
    usage = installed.usage()

    assert sent[0].executed == 1
    assert (usage.spent, usage.held, usage.doubt, usage.calls) == (0, 0, USD, 1)
    assert _ledger().verify() == []
