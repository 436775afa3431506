"""Flows that go on charging until somebody stops them, and what the processes do that run them."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner

import keyguard
from keyguard.errors import KeyRevoked
from keyguard.prefect import revoke_on_cancellation
from tests.support_flows import create

# What a task sends its charges at, seconds.
STEP = 0.5
_pause = threading.Event()


def charge_on(url: str, name: str, seconds: float) -> str:
    """Charge a customer every step for so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        create(url, f"cus_{name}")
        _pause.wait(STEP)
    return name


@task(cache_policy=NO_CACHE)
def keep_charging(url: str, name: str, seconds: float) -> str:
    """Charge on."""
    return charge_on(url, name, seconds)


@task(cache_policy=NO_CACHE)
async def keep_charging_awaited(url: str, name: str, seconds: float) -> str:
    """Charge on, in a coroutine that Prefect runs in a thread of its own."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.to_thread(create, url, f"cus_{name}")
        await asyncio.sleep(STEP)
    return name


@task(cache_policy=NO_CACHE)
def keep_charging_elsewhere(url: str, ledger: str, name: str, seconds: float) -> str:
    """Charge on in a process of a pool, which arms itself."""
    if ledger:
        keyguard.install(ledger, run_usd_cap=100_000)
    return charge_on(url, name, seconds)


def _arm(ledger: str) -> None:
    if ledger:
        keyguard.install(ledger, run_usd_cap=100_000)


@flow(name="charging", on_cancellation=[revoke_on_cancellation])
def charging(url: str, ledger: str, seconds: float) -> None:
    """Two submitted tasks charge on; without a ledger, unguarded."""
    _arm(ledger)
    for future in [keep_charging.submit(url, name, seconds) for name in "ab"]:
        future.wait()


@flow(name="charging-awaited")
async def charging_awaited(url: str, ledger: str, seconds: float) -> None:
    """Two submitted coroutines charge on."""
    _arm(ledger)
    for future in [keep_charging_awaited.submit(url, name, seconds) for name in "ab"]:
        await asyncio.to_thread(future.wait)


@flow(name="charging-pool", task_runner=ProcessPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]  # -- Prefect's own runner
def charging_pool(url: str, ledger: str, seconds: float) -> None:
    """Two tasks charge on in processes of a pool."""
    _arm(ledger)
    for future in [keep_charging_elsewhere.submit(url, ledger, name, seconds) for name in "ab"]:
        future.wait()


FLOWS: dict[str, Any] = {one.name: one for one in (charging, charging_awaited, charging_pool)}


def main(how: str, name: str, url: str, ledger: str, seconds: str) -> None:
    """Run a flow as a script, or serve it."""
    # A shell that starts a job in the background lets it ignore Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = FLOWS[name]
    if how == "serve":
        chosen.serve(name="served", print_starting_message=False)
        return
    parameters = (url, ledger, float(seconds))
    try:
        asyncio.run(chosen(*parameters)) if chosen.isasync else chosen(*parameters)
    except KeyRevoked as refusal:
        print(refusal, flush=True)
