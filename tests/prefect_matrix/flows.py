"""The flows of the cells, one function a room: each gets the tasks of its way and makes its calls. Imports Prefect; for stages only."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from prefect import flow, task
from prefect.context import FlowRunContext, with_context

import keyguard
import keyguard.prefect
from tests.prefect_matrix.bare import acharge, bare_acharge, bare_charge, charge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

guarded_charge: Any = task(name="charge-guarded")(keyguard.guarded(charge))
guarded_acharge: Any = task(name="acharge-guarded")(keyguard.guarded(acharge))
our_charge: Any = keyguard.prefect.task(name="charge-ours", retries=2, retry_delay_seconds=0)(charge)
our_acharge: Any = keyguard.prefect.task(name="acharge-ours")(acharge)
CHARGES = {"@task": bare_charge, "plugin": bare_charge, "no install": bare_charge, "@guarded": guarded_charge, "keyguard": our_charge}
ACHARGES = {"@task": bare_acharge, "plugin": bare_acharge, "no install": bare_acharge, "@guarded": guarded_acharge, "keyguard": our_acharge}


def charge_and_yield(base: str, customer: str) -> Iterator[str]:
    """Charge twice, and yield between."""
    yield charge(base, customer)
    yield charge(base, customer)


_bare_generator: Any = task(charge_and_yield)
GENERATORS = {"@task": _bare_generator, "no install": _bare_generator, "keyguard": keyguard.prefect.task(charge_and_yield)}


@dataclass(frozen=True, slots=True)
class Act:
    """What a room is played with: the way, where Stripe is, whom to charge, and the ledger."""

    way: str
    base: str
    customer: str
    ledger: str

    @property
    def task(self) -> Any:
        """The way's task."""
        return CHARGES[self.way]

    @property
    def atask(self) -> Any:
        """The way's async task."""
        return ACHARGES[self.way]

    @property
    def to(self) -> tuple[str, str]:
        """What the tasks are called with."""
        return self.base, self.customer


def current_id() -> str:
    """Return the id of the flow run that goes on here."""
    entered = FlowRunContext.get()
    assert entered is not None
    assert entered.flow_run is not None
    return str(entered.flow_run.id)


@flow(name="cell", log_prints=False)
def cell(room: str, way: str, base: str, customer: str, ledger: str) -> str:
    """Be a root run: arm, but for the way without, and play a room; returns the id of the root run that is to pay."""
    if way != "no install":
        keyguard.install(ledger, run_usd_cap=100)
    return globals()[room](Act(way, base, customer, ledger)) or current_id()


@flow(name="acell")
async def acell(room: str, way: str, base: str, customer: str, ledger: str) -> str:
    """Be an async root run."""
    if way != "no install":
        keyguard.install(ledger, run_usd_cap=100)
    await globals()[room](Act(way, base, customer, ledger))
    return current_id()


# -- in the flow's process ---------------------------------------------------------------------------


def body(act: Act) -> None:
    """In the flow's own body."""
    act.task.fn(*act.to)


def called(act: Act) -> None:
    """A task that is called."""
    act.task(*act.to)


def submitted(act: Act) -> None:
    """A task that is submitted to the flow's runner."""
    act.task.submit(*act.to).result()


def mapped(act: Act) -> None:
    """A task that is mapped."""
    act.task.map([act.base, act.base], act.customer).result()


def submitted_async(act: Act) -> None:
    """An async task that a sync flow submits."""
    act.atask.submit(*act.to).result()


@task
def _outer(way: str, base: str, customer: str) -> None:
    CHARGES[way](base, customer)


@task
def _outer_submitting(way: str, base: str, customer: str) -> None:
    CHARGES[way].submit(base, customer).result()


def nested(act: Act) -> None:
    """A task that calls a task."""
    _outer(act.way, *act.to)


def nested_in_runner(act: Act) -> None:
    """A submitted task that calls a task."""
    _outer.submit(act.way, *act.to).result()


def generated(act: Act) -> None:
    """A task that yields, and charges between."""
    for _ in GENERATORS[act.way](*act.to):
        pass


def nested_submitted(act: Act) -> None:
    """A submitted task that submits a task."""
    _outer_submitting.submit(act.way, *act.to).result()


@flow(name="child")
def _child(way: str, base: str, customer: str) -> None:
    CHARGES[way].submit(base, customer).result()


@task
def _calls_a_flow(way: str, base: str, customer: str) -> None:
    _child(way, base, customer)


def subflow(act: Act) -> None:
    """A subflow's task."""
    _child(act.way, *act.to)


def subflow_in_task(act: Act) -> None:
    """A task's subflow's task."""
    _calls_a_flow.submit(act.way, *act.to).result()


async def awaited(act: Act) -> None:
    """An async task that an async flow awaits."""
    await act.atask(*act.to)


async def gathered(act: Act) -> None:
    """Two of them at once."""
    await asyncio.gather(act.atask(*act.to), act.atask(*act.to))


async def to_thread(act: Act) -> None:
    """The function in a thread of asyncio's, and in one of anyio's."""
    await asyncio.to_thread(act.task.fn, *act.to)
    await anyio.to_thread.run_sync(act.task.fn, *act.to)


async def in_executor(act: Act) -> None:
    """The function by `loop.run_in_executor`."""
    await asyncio.get_running_loop().run_in_executor(None, act.task.fn, *act.to)


def _joined(run: Callable[[], Any]) -> None:
    """Run in a thread, and raise here what it raised there."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def thread(act: Act) -> None:
    """A thread of the user's."""
    _joined(lambda: act.task.fn(*act.to))


def wrapped_thread(act: Act) -> None:
    """A thread of the user's, with `keyguard.wrap`."""
    _joined(keyguard.wrap(lambda: act.task.fn(*act.to)))


_POOL = ThreadPoolExecutor(max_workers=1)


def executor(act: Act) -> None:
    """An executor of the user's, whose thread was there before the run."""
    _POOL.submit(act.task.fn, *act.to).result()


def wrapped_executor(act: Act) -> None:
    """The same, with `keyguard.wrap`."""
    _POOL.submit(keyguard.wrap(act.task.fn), *act.to).result()


# -- other processes -----------------------------------------------------------------------------------


def with_prefects_context(act: Act) -> None:
    """A multiprocessing pool of the user's, with Prefect's `with_context`."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        # By a name that the child finds: the body of a decorated task is not what its module has under that name.
        pool.apply(with_context(_named), (act.way, *act.to))


def forked(act: Act) -> None:
    """A forked child of the user's."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(_named, (act.way, *act.to))


def spawned(act: Act) -> None:
    """A spawned child of the user's, that nothing was sent to but the arguments."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(_named, (act.way, *act.to))


def _named(way: str, base: str, customer: str) -> Any:
    return CHARGES[way].fn(base, customer)


def spawned_with_key(act: Act) -> None:
    """The same, where the environment names the key that pays."""
    key = keyguard.install(act.ledger, run_usd_cap=100).key
    os.environ |= {"KEYGUARD_KEY": key.token, "KEYGUARD_URL": act.ledger}
    try:
        spawned(act)
    finally:
        del os.environ["KEYGUARD_KEY"], os.environ["KEYGUARD_URL"]


def delayed_async(act: Act) -> None:
    """An async task for a task worker."""
    act.atask.delay(*act.to).result(timeout=120)


def delayed(act: Act) -> None:
    """A task for a task worker."""
    act.task.delay(*act.to).result(timeout=120)


def deployed(act: Act) -> None:
    """A flow of another process, that a deployment starts as a subflow."""
    _run_deployment(f"started/{act.way.strip('@')}", act, installs=False)


def deployed_installing(act: Act) -> None:
    """The same, and it calls `install()` itself, without arguments of its own."""
    _run_deployment(f"started/{act.way.strip('@')}", act, installs=True)


def deployed_apart(act: Act) -> str:
    """The same, as a run of its own: returns its id, because it is the one that pays."""
    return _run_deployment(f"started/{act.way.strip('@')}", act, installs=True, as_subflow=False)


def _run_deployment(name: str, act: Act, *, installs: bool, as_subflow: bool = True) -> str:
    from prefect.deployments import run_deployment

    parameters = {"way": act.way, "base": act.base, "customer": act.customer, "installs": act.ledger if installs else ""}
    ended: Any = run_deployment(name, parameters=parameters, poll_interval=0.5, timeout=150, as_subflow=as_subflow)
    if not ended.state.is_completed():
        ended.state.result()
    return str(ended.id)


@flow(name="started")
def started(way: str, base: str, customer: str, installs: str) -> None:
    """Be what a deployment starts: arms only where told; charges in a submitted task."""
    if installs:
        keyguard.install(installs, run_usd_cap=100)
    CHARGES[way].submit(base, customer).result()
