"""What keyguard adds to an awaited call: two hops to worker threads; and how long a busy event loop then stands still."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from typing import TYPE_CHECKING

import httpx

import keyguard
from keyguard import context
from tests.bench.answers import Answers
from tests.bench.measure import Row, medians

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

_URL = "https://api.stripe.com/v1/payment_intents"
_FORM = {"amount": "2000", "currency": "usd", "confirm": "true"}
_AT_ONCE = 1000


def run(short: bool) -> list[Row]:
    """Measure everything; raw httpx over a canned transport, so that little but the guard is measured."""
    rounds = 10 if short else 40
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KEYGUARD_DURABILITY"] = "process"
        with keyguard.run("a"):
            keyguard.install(f"sqlite:///{folder}/a.db", run_usd_cap=1_000_000)
        del os.environ["KEYGUARD_DURABILITY"]
        rows = asyncio.run(_measured(rounds))
        keyguard.uninstall()
    return rows


async def _measured(rounds: int) -> list[Row]:
    answers = Answers()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=answers.next()))
    async with httpx.AsyncClient(transport=transport) as client:

        async def call() -> None:
            with keyguard.run("a"):
                await client.post(_URL, data=_FORM)

        middle = medians(await _in_turns(call, rounds))
        stalls = {name: await _stall(name, call) for name in ("bare", "guarded")}
    return [
        Row("raw async httpx, canned transport: bare, p50", middle["bare"], "µs"),
        Row(
            "raw async httpx: guarded ÷ bare, process ledger, p50",
            middle["guarded"] / middle["bare"],
            "×",
            note=f"{middle['guarded']:.0f} µs",
        ),
        Row(f"{_AT_ONCE:,} awaited calls at once: the loop's longest stall, bare", stalls["bare"] * 1000, "ms"),
        Row(f"{_AT_ONCE:,} awaited calls at once: the loop's longest stall, guarded", stalls["guarded"] * 1000, "ms"),
    ]


async def _as(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run with the seams guarding, or passing everything."""
    handler = context.handler()
    if name == "bare":
        context.set_handler(None)
    try:
        await work()
    finally:
        context.set_handler(handler)


async def _in_turns(call: Callable[[], Coroutine[Any, Any, None]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"bare": [], "guarded": []}

    async def block(name: str) -> None:
        for _ in range(25):
            begun = time.perf_counter()
            await call()
            found[name].append((time.perf_counter() - begun) * 1e6)

    for _ in range(rounds):
        for name in found:
            await _as(name, lambda name=name: block(name))  # type: ignore[misc]  # -- bound for the moment
    return found


async def _stall(name: str, call: Callable[[], Coroutine[Any, Any, None]]) -> float:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    async def all_at_once() -> None:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(call() for _ in range(_AT_ONCE)))
        watching.cancel()

    await _as(name, all_at_once)
    return longest
