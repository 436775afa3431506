"""Real Prefect flows whose subflows have budgets of their own; imports Prefect, so imported within tests, after its home is set."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.task_runners import ProcessPoolTaskRunner

import keyguard
from keyguard.errors import Refused
from keyguard.prefect import retry_unless_refused
from tests.support_flows import create, execute, fails

_TOGETHER = threading.Barrier(2, timeout=60)


@task(retry_condition_fn=retry_unless_refused, cache_policy=NO_CACHE)
def charge(url: str, customer: str) -> str:
    """Charge one customer a dollar."""
    return create(url, f"cus_{customer}")


def until_refused(url: str, name: str, most: int = 20) -> tuple[int, str]:
    """Charge one after the other by tasks; returns how many it was, and which budget was full."""
    for number in range(most):
        try:
            charge(url, f"{name}_{number}")
        except Refused as error:
            return number, getattr(error, "scope", "") or type(error).__name__
    return most, ""


@flow(name="reminders")
def reminders(url: str, name: str, cap: float | None, most: int = 20) -> tuple[int, str]:
    """Spend what a budget of its own lets through; without a cap it shares its caller's."""
    if cap is not None:
        keyguard.install(run_usd_cap=cap)
    return until_refused(url, name, most)


@flow(name="billing")
def billing(url: str, ledger: str, cap: float, children: list[float | None], most: int) -> list[Any]:
    """Call a subflow for each cap, then spend what is left."""
    keyguard.install(ledger, run_usd_cap=cap)
    found: list[Any] = [reminders(url, f"child{place}", one, most) for place, one in enumerate(children)]
    return [*found, until_refused(url, "root")]


@flow(name="nested")
def nested(url: str, cap: float, inner: float) -> list[Any]:
    """A subflow with a budget, a subflow of it with another, and one without."""
    keyguard.install(run_usd_cap=cap)
    return [reminders(url, "inner", inner), reminders(url, "shared", None)]


@flow(name="outer")
def outer(url: str, ledger: str, cap: float, middle: float, inner: float) -> list[Any]:
    """Three budgets, each within another; then the root's rest."""
    keyguard.install(ledger, run_usd_cap=cap)
    return [*nested(url, middle, inner), until_refused(url, "root")]


@flow(name="failing", retries=0)
def failing(url: str, name: str, cap: float, failure: str, times: int, most: int) -> tuple[int, str]:
    """Spend some of a budget, and fail the first so many times."""
    keyguard.install(run_usd_cap=cap)
    found = until_refused(url, f"{name}_{failure}", most)
    fails(failure, times)
    return found


@task(cache_policy=NO_CACHE)
def failing_in_task(url: str, name: str, cap: float, failure: str, times: int, most: int) -> tuple[int, str]:
    """Call the subflow out of a task, where Prefect has no stable name for it."""
    found: tuple[int, str] = failing(url, name, cap, failure, times, most)
    return found


@flow(name="retried", retries=1, retry_delay_seconds=0)
def retried(url: str, ledger: str, *, in_task: bool) -> list[Any]:
    """The same subflow twice, alike; the second one fails once, and so does the whole."""
    keyguard.install(ledger, run_usd_cap=100)
    call = failing_in_task if in_task else failing
    return [call(url, "a", 3, "first", 0, 2), call(url, "a", 3, "second", 1, 2), call(url, "a", 3, "first", 0, 2)]


@flow(name="self-retrying", retries=1, retry_delay_seconds=0)
def self_retrying(url: str, cap: float) -> tuple[int, str]:
    """Spend two dollars at each try, and fail at the first."""
    keyguard.install(run_usd_cap=cap)
    found = until_refused(url, f"try{len(_TRIES)}", 2)
    _TRIES.append(1)
    fails("the subflow itself", 1)
    return found


_TRIES: list[int] = []


@flow(name="patient")
def patient(url: str, ledger: str) -> tuple[int, str]:
    """Call a subflow that retries itself."""
    keyguard.install(ledger, run_usd_cap=100)
    _TRIES.clear()
    found: tuple[int, str] = self_retrying(url, 3)
    return found


@flow(name="concurrent-child")
async def concurrent_child(url: str, name: str, cap: float) -> tuple[int, str]:
    """Spend a budget of its own while its sibling does."""
    keyguard.install(run_usd_cap=cap)
    await asyncio.to_thread(_TOGETHER.wait)
    return await asyncio.to_thread(until_refused, url, name)


@flow(name="concurrent")
async def concurrent(url: str, ledger: str, cap: float, caps: list[float]) -> list[Any]:
    """Two subflows at once."""
    keyguard.install(ledger, run_usd_cap=cap)
    return list(await asyncio.gather(*(concurrent_child(url, f"child{place}", one) for place, one in enumerate(caps))))


@flow(name="pooled-child", task_runner=ProcessPoolTaskRunner(max_workers=1))  # type: ignore[arg-type] # pyright: ignore[reportUnknownArgumentType] -- Prefect's own types
def pooled_child(url: str, ledger: str, cap: float, most: int) -> list[str]:
    """Charge by tasks in another process, out of a budget of its own."""
    keyguard.install(run_usd_cap=cap)
    return [charge_elsewhere.submit(url, ledger, f"pool_{number}").result() for number in range(most)]


@task(cache_policy=NO_CACHE)
def charge_elsewhere(url: str, ledger: str, customer: str) -> str:
    """Charge in a process that knows nothing but where the ledger is."""
    keyguard.install(ledger)
    try:
        create(url, f"cus_{customer}")
    except Refused as error:
        return str(getattr(error, "scope", ""))
    return "charged"


@flow(name="pooled")
def pooled(url: str, ledger: str, cap: float, most: int) -> list[str]:
    """Call a subflow whose tasks run elsewhere."""
    keyguard.install(ledger, run_usd_cap=100)
    found: list[str] = pooled_child(url, ledger, cap, most)
    return found


@flow(name="spending")
def spending(url: str, cap: float) -> None:
    """Spend all of a budget, each time on somebody else, and fail."""
    keyguard.install(run_usd_cap=cap)
    while True:
        create(url, f"cus_{threading.get_ident()}", description=str(next(_NUMBERS)))


_NUMBERS = iter(range(int.from_bytes(os.urandom(3), "big"), 1 << 60))


@flow(name="hopeless")
def hopeless(url: str, ledger: str) -> None:
    """Call a subflow that fails whenever it is called."""
    keyguard.install(ledger, run_usd_cap=100)
    spending(url, 3)


@flow(name="deployed")
def deployed(url: str, ledger: str, cap: float | None, most: int) -> tuple[int, str]:
    """Be what a deployment starts: spend from the budget that it was started in, or from one of its own within that."""
    if cap is None:
        keyguard.install(ledger)
    else:
        keyguard.install(ledger, run_usd_cap=cap)
    return until_refused(url, "deployed", most)


@flow(name="between")
def between(parameters: dict[str, Any]) -> str:
    """A subflow without a budget of its own, in which a deployment is run; returns the id of what it has started, and does not wait."""
    return str(run_deployment("deployed/here", parameters=parameters, timeout=0).id)  # type: ignore[union-attr]  # -- not awaited


@flow(name="starting")
def starting(url: str, cap: float, parameters: dict[str, Any]) -> str:
    """Ask for a budget, spend a dollar of it, and let a deployment start a run."""
    keyguard.install(run_usd_cap=cap)
    charge(url, "own")
    return between(parameters)


@flow(name="delegating")
def delegating(url: str, ledger: str, cap: float, middle: float, inner: float | None) -> str:
    """Let a subflow with a budget start a run that spends all it can get; returns that run's id."""
    keyguard.install(ledger, run_usd_cap=cap)
    with get_client(sync_client=True) as client:
        client.create_deployment(client.create_flow(deployed), "here", enforce_parameter_schema=False)
    return starting(url, middle, {"url": url, "ledger": ledger, "cap": inner, "most": 8})


if __name__ == "__main__":
    execute(globals(), *sys.argv[1:])
