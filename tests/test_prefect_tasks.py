"""`keyguard.prefect.task`, runs that a deployment started, and process pools: a real Prefect, the real Stripe SDK, a vendor's truth."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import cloudpickle
import pytest

import keyguard
from keyguard.errors import SpendCapExceeded
from keyguard.prefect import labels
from tests.support_alike import alike
from tests.support_forks import charge
from tests.support_prefect import in_flow
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.usefixtures("prefect_server")
USD = 1_000_000


@pytest.fixture
def vendor() -> Iterator[StripeServer]:
    """A Stripe that executes everything."""
    with StripeServer() as started:
        yield started


# -- the drop-in -----------------------------------------------------------------------------------------


def plain(number: int) -> int:
    """Add one."""
    return number + 1


def test_it_takes_every_form_and_keyword_of_prefects() -> None:
    """Bare, called, with a function; and each keyword of Prefect's own decorator gives the same attribute."""
    from prefect import task as prefects
    from prefect.cache_policies import NO_CACHE

    task: Any = keyguard.prefect.task
    given: dict[str, Any] = {
        "name": "n", "description": "d", "tags": ["a"], "version": "1", "cache_policy": NO_CACHE, "retries": 2,
        "retry_delay_seconds": [1, 2],
        "retry_jitter_factor": 0.5, "persist_result": True, "timeout_seconds": 5, "log_prints": True, "task_run_name": "{number}",
        "refresh_cache": True, "cache_result_in_memory": False, "result_storage_key": "k", "on_completion": [print], "on_failure": [print],
        "on_running": [print], "viz_return_value": 3, "asset_deps": ["s3://b/k"], "cache_expiration": None, "cache_key_fn": None,
        "result_storage": None, "result_serializer": "json",
    }  # fmt: skip
    known = set(inspect.signature(prefects).parameters) - {"__fn", "retry_condition_fn"}
    ours, theirs = task(**given)(plain), prefects(**given)(plain)
    short: list[dict[str, Any]] = [vars(one(plain)) for one in (task, prefects)]
    apart = {"fn", "retry_condition_fn", "task_key", "_keyguard_guards", "__wrapped__"}

    assert set(given) == known
    assert {name: value for name, value in vars(ours).items() if name not in apart} == {
        name: value for name, value in vars(theirs).items() if name not in apart
    }
    assert [type(one).__name__ for one in (task(plain), task()(plain), task(name="x")(plain))] == ["GuardedTask"] * 3
    assert {name: short[0][name] for name in ("log_prints", "retries", "tags")} == {"log_prints": None, "retries": 0, "tags": set()}
    assert short[0].keys() - {"_keyguard_guards"} == short[1].keys() | {"__wrapped__"}
    assert isinstance(task(plain), type(prefects(plain)))
    with pytest.raises(TypeError, match="no_such"):
        task(no_such=1)(plain)


def test_two_tasks_of_one_name_keep_different_keys() -> None:
    """Task workers find a task by its name and code: two guarded functions of one name are two."""
    task = keyguard.prefect.task

    assert task(alike(1)).task_key == task(alike(1)).task_key
    assert task(alike(1)).task_key != task(alike(2)).task_key


def test_a_task_can_be_pickled_and_keeps_its_class() -> None:
    """Closures too, with the class by its name: where it is unpickled, keyguard is there."""
    base = 5

    @keyguard.prefect.task(retries=1)
    def closure(number: int) -> int:
        return base + number

    sent = cloudpickle.loads(cloudpickle.dumps(closure))

    assert type(sent) is type(closure)
    assert (sent.name, sent.retries, sent.task_key) == (closure.name, 1, closure.task_key)


def runs_of(task: Any) -> int:
    """Run a task in a flow; returns how often its body ran."""
    from prefect import flow

    @flow
    def root() -> None:
        keyguard.install("sqlite://", run_usd_cap=5)
        task.submit().wait()

    _counts.clear()
    root(return_state=True)
    return len(_counts)


_counts: list[int] = []


def fails(error: type[Exception]) -> Any:
    """Return a function that counts, and fails so."""

    def failing() -> None:
        _counts.append(1)
        raise error("as planned")

    return failing


def never(*_: Any) -> bool:
    """Retry nothing."""
    return False


class Never:
    """A condition that Prefect itself would never call."""

    def __call__(self, *_: Any) -> bool:
        """Retry nothing."""
        return False


@pytest.mark.ci
def test_a_refusal_is_not_retried_whatever_the_user_says() -> None:
    """Three retries: a refusal runs once, another failure four times, or as often as the user's own condition wants, by options too."""
    task: Any = keyguard.prefect.task
    of = task(retries=3, retry_delay_seconds=0)
    ruled = task(retries=3, retry_delay_seconds=0, retry_condition_fn=never)

    assert runs_of(of(fails(SpendCapExceeded))) == 1
    assert runs_of(of(fails(ValueError))) == 4
    assert runs_of(ruled(fails(ValueError))) == 1
    assert runs_of(of(fails(ValueError)).with_options(retry_condition_fn=Never())) == 1
    assert runs_of(of(fails(SpendCapExceeded)).with_options(retry_condition_fn=lambda *_: True, name="other")) == 1


def test_options_leave_it_guarded() -> None:
    """`with_options` returns a task of the same class over the same guarded function, with what Prefect changes."""
    first: Any = keyguard.prefect.task(plain)
    other = first.with_options(name="other", retries=4)

    assert type(other) is type(first)
    assert (other.fn is first.fn, other.name, other.retries, first.name) == (True, "other", 4, "plain")
    assert other.retry_condition_fn is first.retry_condition_fn


def test_every_kind_of_body_returns_what_it_did(url: str) -> None:
    """Sync, async, generators of both kinds, and methods, called and submitted, in sync and async flows."""
    from prefect import flow

    task: Any = keyguard.prefect.task

    @keyguard.prefect.task
    async def awaited(number: int) -> int:
        return number + 1

    @keyguard.prefect.task
    def yields(number: int) -> Iterator[int]:
        yield from range(number)

    @keyguard.prefect.task
    async def ayields(number: int) -> AsyncIterator[int]:
        for found in range(number):
            yield found

    class Shop:
        @keyguard.prefect.task
        def method(self, number: int) -> int:
            return number + 1

        @keyguard.prefect.task
        @staticmethod
        def static(number: int) -> int:
            return number + 1

        @keyguard.prefect.task
        @classmethod
        def of_class(cls, number: int) -> int:
            return number + 1

    ours, shop = task(plain), cast("Any", Shop)

    @flow
    def root() -> list[Any]:
        keyguard.install(url, run_usd_cap=5)
        return [
            ours(1), ours.submit(1).result(), ours.map([1, 2]).result(), awaited.submit(1).result(), list(yields(3)),
            shop().method(1), shop.static(1), shop.of_class(1), ours(1, return_state=True).result(),
        ]  # fmt: skip

    @flow
    async def aroot() -> list[Any]:
        keyguard.install(url, run_usd_cap=5)
        return [await awaited(1), ours(1), [found async for found in ayields(3)]]

    assert root() == [2, 2, [2, 3], 2, [0, 1, 2], 2, 2, 2, 2]
    assert asyncio.run(aroot()) == [2, 2, [0, 1, 2]]


def test_nothing_of_a_task_runs_in_a_flow_without_a_key() -> None:
    """A flow that never called install(): the task fails with the refusal, and is not retried."""
    from prefect import flow

    task: Any = keyguard.prefect.task(retries=3, retry_delay_seconds=0)

    @flow
    def root() -> Any:
        return task(fails(ValueError))(return_state=True)

    _counts.clear()
    with pytest.raises(keyguard.Refused, match=r"keyguard\.install"):
        root()
    assert _counts == []


# -- runs that a deployment started ------------------------------------------------------------------------


def met_elsewhere(run_id: str) -> Any:
    """Return a flow run as a process reads it from the server that executes it for a deployment: without the labels of its parents."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found: Any = client.read_flow_run(UUID(run_id))
    return found.model_copy(update={"labels": {}})


def current_id() -> str:
    """Return the id of the flow run that goes on here."""
    from prefect.context import FlowRunContext

    entered: Any = FlowRunContext.get()
    return str(entered.flow_run.id)


def test_a_run_that_a_deployment_started_spends_its_roots_budget(vendor: StripeServer, url: str) -> None:
    """Its labels do not travel: the API tells its root, once, when it is entered; the entries after that, and its calls, ask nobody."""
    from prefect import flow

    roots = sys.modules["keyguard.prefect.roots"]

    @flow
    def child() -> str:
        return current_id()

    @flow
    def between() -> str:
        return child()

    @flow
    def root() -> Any:
        return keyguard.install(url, run_usd_cap=5), between()

    installed, run_id = cast("Any", root())
    asked, really_ask = list[str](), roots._asked

    def counted(question: Any, failing: str) -> Any:
        asked.append(failing)
        return really_ask(question, failing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roots, "_asked", counted)
        for _ in range(2):
            with in_flow(met_elsewhere(run_id)):
                charge(vendor.url, 200)
        with in_flow(met_elsewhere(run_id)), pytest.raises(SpendCapExceeded):
            charge(vendor.url, 200)

    assert (installed.usage().spent, len(vendor.charges)) == (4 * USD, 2)
    assert len(asked) == 1


def test_a_run_under_which_nobody_is_guarded_is_a_root_for_whoever_guards_it(vendor: StripeServer, url: str) -> None:
    """A deployment's flow that calls install() under a parent without a key: the budget is its own, and its record says so."""
    from prefect import flow
    from prefect.client.orchestration import get_client

    @flow
    def child() -> str:
        return current_id()

    @flow
    def root() -> str:
        return child()

    run = met_elsewhere(root())
    with in_flow(run, child):
        installed = keyguard.install(url, run_usd_cap=5)
        charge(vendor.url, 200)
    with get_client(sync_client=True) as client:
        kept = client.read_flow_run(run.id).labels

    assert (installed.key.run_id, installed.usage().spent) == (str(run.id), 2 * USD)
    assert (kept[labels.ROOT_LABEL], kept[labels.LEDGER_LABEL]) == (str(run.id), url)


# -- process pools ---------------------------------------------------------------------------------------


@pytest.mark.ci
def test_a_flow_catches_a_refusal_of_a_process_pool_with_its_fields(vendor: StripeServer, url: str) -> None:
    """Nothing is installed that makes errors picklable (tblib, which comes with Dask): the error itself comes back, of a bare task."""
    from prefect import flow, task
    from prefect.task_runners import ProcessPoolTaskRunner

    assert [importlib.util.find_spec(name) for name in ("tblib", "distributed", "ray")] == [None] * 3

    @task
    def sends(base: str) -> str:
        return charge(base, 300)

    runner: Any = ProcessPoolTaskRunner(max_workers=1)

    @flow(task_runner=runner)
    def root(base: str, ledger: str) -> list[Any]:
        keyguard.install(ledger, run_usd_cap=5)
        sends.submit(base).result()
        try:
            sends.submit(base).result()
        except SpendCapExceeded as error:
            # What it is, and not itself: a flow that returns an error has failed.
            return [
                error.scope == f"run:{error.run_id}",
                error.cap,
                error.spent,
                error.held,
                error.doubt,
                error.requested,
                error.remaining,
                error.operation,
            ]
        return []

    found: Any = root(vendor.url, url)

    assert found == [True, 5 * USD, 3 * USD, 0, 0, 3 * USD, 2 * USD, "payment_intents.create"]
    assert len(vendor.charges) == 1
