"""The Prefect integration: fabricated contexts for the provider's rules, a real server for what Prefect really does."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import inspect
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest

import keyguard
from keyguard import context
from keyguard.demo.truth import charged
from keyguard.errors import KeyRevoked, LedgerUnavailable, Refused, SpendCapExceeded
from keyguard.prefect import activate, find_refusal, mark_root, provider, retry_unless_refused, retry_unless_refused_and
from tests.support_forks import Gate, figures, untraced
from tests.support_forks import charge as charge_at
from tests.support_prefect import API_KEY, flow_run, in_flow, in_task, make_customers, task_run
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keyguard.context import RunRef

pytestmark = pytest.mark.usefixtures("prefect_home")
marking = sys.modules["keyguard.prefect.marking"]
provider_module = sys.modules["keyguard.prefect.provider"]
marking = sys.modules["keyguard.prefect.marking"]


def seen() -> RunRef:
    """Return what the provider says here, where it must say something."""
    ref = provider()
    assert ref is not None
    return ref


# -- the provider, with fabricated contexts ----------------------------------------------------------


def test_importing_the_integration_does_not_import_prefect() -> None:
    """`import keyguard.prefect` loads no Prefect, and the provider answers None without it."""
    script = "import sys, keyguard.prefect as p; assert p.provider() is None; p.mark_root(); assert 'prefect' not in sys.modules"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_half_imported_prefect_names_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another thread is importing Prefect, the provider answers None."""
    monkeypatch.setitem(sys.modules, "prefect.context", SimpleNamespace())

    assert provider() is None


def test_outside_any_run_there_is_none() -> None:
    """Prefect imported, no run going on: None, and mark_root() does nothing."""
    import prefect.context

    mark_root()

    assert prefect.context.FlowRunContext.get() is None
    assert provider() is None


def test_a_root_run_is_its_own_flow_run() -> None:
    """A root run's id is its flow run's, with Prefect's ids as span attributes."""
    run = flow_run(name="silent-bittern", deployment_id=uuid4())
    with in_flow(run, SimpleNamespace(name="billing-flow")):
        ref = seen()

    assert (ref.run_id, ref.engine, ref.name, ref.flow_name, ref.is_root) == (
        str(run.id),
        "prefect",
        "silent-bittern",
        "billing-flow",
        True,
    )
    assert dict(ref.attributes) == {
        "prefect.flow_run.id": str(run.id),
        "prefect.flow_run.name": "silent-bittern",
        "prefect.flow.name": "billing-flow",
        "prefect.deployment.id": str(run.deployment_id),
    }


def test_a_task_of_a_flow_is_a_unit_of_its_run() -> None:
    """In a task the run is the flow's; unit and attempt are the task run's."""
    run = flow_run()
    task = task_run(run.id, run_count=3)
    with in_flow(run), in_task(task):
        ref = seen()

    assert (ref.run_id, ref.unit, ref.attempt, ref.is_root) == (str(run.id), str(task.id), 3, True)
    assert dict(ref.attributes)["prefect.task_run.id"] == str(task.id)


def test_a_subflow_shares_the_roots_id() -> None:
    """A subflow, and a subflow of it, belong to the root; the attributes name the subflow itself."""
    root, child, grandchild = flow_run(), flow_run(is_child=True), flow_run(is_child=True)
    with in_flow(root):
        top = seen()
        with in_task(task_run(root.id)), in_flow(child), in_flow(grandchild):
            ref = seen()

    assert (ref.run_id, ref.is_root, ref.execution) == (str(root.id), False, top.execution)
    assert dict(ref.attributes)["prefect.flow_run.id"] == str(grandchild.id)


def test_a_subflow_in_a_copied_context_finds_its_root() -> None:
    """A thread that runs in a copy of the context sees the same root."""
    root, found = flow_run(), list[Any]()
    with in_flow(root), in_flow(flow_run(is_child=True)):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(lambda: found.append(provider()),))
        thread.start()
        thread.join()

    assert found[0].run_id == str(root.id)


def test_a_subflow_sent_elsewhere_finds_its_root_by_the_label() -> None:
    """A child context without its parents (a worker process) is found by the label, as is a subflow entered there."""
    root, child = flow_run(), flow_run(is_child=True)
    with in_flow(root), in_flow(child):
        mark_root()
    sent = flow_run(is_child=True, labels=dict(child.labels))
    with in_flow(sent), in_flow(flow_run(is_child=True)):
        ref = seen()

    assert (ref.run_id, ref.is_root) == (str(root.id), False)


def test_a_subflow_whose_root_is_unknown_is_named_without_one() -> None:
    """A child run that was started elsewhere names a run without a root, which means: refuse."""
    with in_flow(flow_run(is_child=True)):
        ref = seen()

    assert (ref.run_id, ref.is_root) == (None, False)


def test_a_flow_after_another_is_not_taken_for_its_child() -> None:
    """An exited flow leaves nothing behind: a child run after it does not find it."""
    with in_flow(flow_run()):
        assert seen().run_id is not None
    with in_flow(flow_run(is_child=True)):
        assert seen().run_id is None


def test_a_context_without_a_flow_run_is_passed_over() -> None:
    """A flow context that Prefect has not given a run yet names none."""
    with in_flow(None):
        mark_root()

        assert provider() is None


def test_each_execution_of_a_root_has_its_own_token() -> None:
    """Prefect reads the run anew for a retry: the same run id, another execution."""
    first = flow_run()
    with in_flow(first):
        before, again = seen(), seen()
    with in_flow(first.model_copy(update={"labels": {}})):
        after = seen()

    assert before.execution == again.execution != after.execution
    assert before.run_id == after.run_id


def test_a_task_without_a_flow_is_its_own_run() -> None:
    """`.delay()` without a flow: the task run is the run, and a task inside it is part of it."""
    outer, inner = task_run(), task_run()
    with in_task(outer):
        alone = seen()
        with in_task(inner):
            nested = seen()

    assert (alone.run_id, alone.is_root, alone.unit) == (str(outer.id), True, str(outer.id))
    assert (nested.run_id, nested.is_root, nested.unit) == (str(outer.id), False, str(inner.id))


def test_a_task_of_a_flow_that_did_not_travel_has_no_known_root() -> None:
    """A task run that names a flow run which is not here may belong to a subflow: no root, so refuse."""
    with in_task(task_run(uuid4())):
        assert seen().run_id is None


def test_a_flow_run_without_labels_still_names_its_root() -> None:
    """Labels are a help, not a need."""
    root = flow_run(labels=None)
    with in_flow(root), in_flow(flow_run(is_child=True, labels=None)):
        assert seen().run_id == str(root.id)


def test_a_prefect_that_hides_its_tokens_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without the private token a subflow has no known root, and one warning says so."""
    monkeypatch.setattr(marking._state, "warned", False)
    tokenless = SimpleNamespace(flow_run=flow_run(is_child=True), flow=None)
    with caplog.at_level(logging.WARNING, logger="keyguard"):
        refs = [provider_module._in_flow(tokenless, None) for _ in range(2)]

    assert [ref.run_id for ref in refs] == [None, None]
    assert len(caplog.records) == 1


def test_prefect_still_keeps_the_token_of_an_entered_context() -> None:
    """The private link from a context to the one above it is there while entered and gone after; if this fails, Prefect changed."""
    outer, inner = in_flow(flow_run()), in_flow(flow_run(is_child=True))
    with outer, inner:
        entered = inner._token

        assert isinstance(entered, contextvars.Token)
        assert entered.old_value is outer
    assert inner._token is None


def test_the_token_is_found_wherever_pydantic_keeps_it() -> None:
    """Among its private attributes, which is quick, or as the attribute of an object that has none; both lead to the same context."""
    outer, inner = in_flow(flow_run()), in_flow(flow_run(is_child=True))
    with outer, inner:
        plain = SimpleNamespace(_token=inner._token)

        assert isinstance(inner.__pydantic_private__["_token"], contextvars.Token)
        assert marking.outer(inner) is marking.outer(plain) is outer
        assert marking.outer(outer) is None


def test_activating_twice_registers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """activate() makes Prefect's runs known to keyguard, and is idempotent."""
    providers = dict(context._state.providers)
    monkeypatch.setattr(context._state, "providers", providers)
    activate()
    activate()
    run = flow_run()
    with in_flow(run):
        current = context.current_run()

    assert list(providers).count("prefect") == 1
    assert current is not None
    assert current.run_id == str(run.id)


# -- the retry condition -----------------------------------------------------------------------------


def failed(data: object) -> Any:
    """Return what Prefect passes as the state."""
    return SimpleNamespace(data=data)


def wrapped_by(error: Exception, *, explicit: bool) -> BaseException:
    """Return the error of user code that failed while it handled another."""
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("wrapped") from (cause if explicit else None)
    except RuntimeError as wrapper:
        return wrapper


def circular() -> BaseException:
    """Return an error in whose chain it is itself, without a refusal."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    return first


def test_the_conditions_are_plain_functions() -> None:
    """Prefect only calls what `inspect.isfunction` or `iscoroutinefunction` accepts."""

    def quick(*_: Any) -> bool:
        return True

    async def patient(*_: Any) -> bool:
        return True

    assert inspect.isfunction(retry_unless_refused)
    assert not inspect.iscoroutinefunction(retry_unless_refused)
    assert inspect.isfunction(retry_unless_refused_and(quick))
    assert inspect.iscoroutinefunction(retry_unless_refused_and(patient))


@pytest.mark.parametrize(
    "data",
    [
        SpendCapExceeded("cap"),
        KeyRevoked("gone"),
        wrapped_by(SpendCapExceeded("cap"), explicit=True),
        wrapped_by(SpendCapExceeded("cap"), explicit=False),
        SimpleNamespace(result=SpendCapExceeded("in a result record")),
    ],
)
def test_a_refusal_is_found_and_not_retried(data: object) -> None:
    """A refusal is never retried, whatever it is wrapped in."""
    assert isinstance(find_refusal(data), SpendCapExceeded | KeyRevoked)
    assert retry_unless_refused(None, None, failed(data)) is False


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_a_refusal_in_an_exception_group_is_not_retried() -> None:
    """TaskGroups raise groups, and groups nest."""
    group = builtins.BaseExceptionGroup("outer", [ValueError("x"), builtins.ExceptionGroup("inner", [SpendCapExceeded("cap")])])  # type: ignore[attr-defined]  # -- 3.11

    assert retry_unless_refused(None, None, failed(group)) is False


@pytest.mark.parametrize("data", [ValueError("x"), LedgerUnavailable("busy"), circular(), None, "text", SimpleNamespace(result="text")])
def test_any_other_failure_may_be_retried(data: object) -> None:
    """Only refusals are excluded: a ledger that was away may be back."""
    assert find_refusal(data) is None
    assert retry_unless_refused(None, None, failed(data)) is True


def test_an_odd_exceptions_attribute_is_ignored() -> None:
    """Some libraries put other things into `.exceptions`."""
    odd = ValueError("x")
    odd.exceptions = 7  # type: ignore[attr-defined]  # -- what a foreign library does

    assert find_refusal(odd) is None


def test_stopping_a_retry_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Prefect says nothing when a condition stops retries, so keyguard does; outside a run to its own logger."""
    with caplog.at_level(logging.ERROR, logger="keyguard"):
        retry_unless_refused(None, SimpleNamespace(name="charge-3b2"), failed(SpendCapExceeded("cap of $500.00 reached")))

    assert caplog.messages == ["charge-3b2 is not retried: SpendCapExceeded: cap of $500.00 reached"]


@pytest.mark.parametrize("wish", [True, False])
def test_a_users_condition_decides_what_keyguard_did_not_refuse(*, wish: bool) -> None:
    """Composed with a sync or async condition: refusals are out, the rest is the user's."""

    def at_once(*_: Any) -> bool:
        return wish

    async def later(*_: Any) -> bool:
        return wish

    now, then = retry_unless_refused_and(at_once), retry_unless_refused_and(later)
    other, refused = failed(ValueError("x")), failed(SpendCapExceeded("cap"))

    async def answers() -> list[bool]:
        return [await cast("Any", then(None, None, state)) for state in (other, refused)]

    assert [now(None, None, other), now(None, None, refused)] == [wish, False]
    assert asyncio.run(answers()) == [wish, False]


# -- real Prefect ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("prefect_server")
def test_every_context_of_a_real_flow_finds_the_root() -> None:
    """Flow, direct task, .submit, .map, async task, subflow, its task, and a subflow in a task share the root's id."""
    from prefect import flow, task

    @task
    def look(_: int = 0) -> Any:
        return provider()

    @task
    async def alook() -> Any:
        return provider()

    @flow
    def child() -> list[Any]:
        return [provider(), look(), look.submit().result()]

    @task
    def calls_a_flow() -> list[Any]:
        return child()

    @flow
    def root() -> list[Any]:
        mapped = look.map([1, 2]).result()
        return [provider(), look(), look.submit().result(), *mapped, alook.submit().result(), *child(), *calls_a_flow.submit().result()]

    refs = root()

    assert len(refs) == 12
    assert {ref.run_id for ref in refs} == {dict(refs[0].attributes)["prefect.flow_run.id"]}
    assert {ref.execution for ref in refs} == {refs[0].execution}
    assert [ref.is_root for ref in refs] == [True] * 6 + [False] * 6


@pytest.mark.usefixtures("prefect_server")
def test_flow_b_after_flow_a_is_a_run_of_its_own() -> None:
    """What flow A left in this process does not name flow B's run."""
    from prefect import flow

    @flow
    def root() -> Any:
        mark_root()
        return provider()

    refs: list[Any] = [root(), root()]

    assert refs[0].run_id != refs[1].run_id
    assert provider() is None


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_retry_keeps_the_run_and_changes_the_execution() -> None:
    """A retried flow body is the same run, with a new execution token."""
    from prefect import flow

    refs: list[Any] = []

    @flow(retries=1)
    def root() -> None:
        refs.append(provider())
        if len(refs) == 1:
            raise ValueError("again")

    root()

    assert refs[0].run_id == refs[1].run_id
    assert refs[0].execution != refs[1].execution


def raised_by(kind: str) -> BaseException:
    """Return the failure that a task of the next test raises."""
    refusal = SpendCapExceeded("run_usd_cap of $500.00 reached")
    if kind == "group":
        return builtins.ExceptionGroup("tasks", [refusal])  # type: ignore[attr-defined,no-any-return]  # -- only asked for on 3.11 and later
    if kind == "wrapped":
        return wrapped_by(refusal, explicit=True)
    return refusal if kind == "refused" else ValueError("transient")


def executions(kind: str, *, is_async: bool) -> int:
    """Run a task with three retries that always fails this way; returns how often it was executed."""
    from prefect import flow, task

    count = 0

    def fail() -> None:
        nonlocal count
        count += 1
        raise raised_by(kind)

    async def afail() -> None:
        fail()

    body: Callable[[], Any] = afail if is_async else fail
    tried = task(retries=3, retry_delay_seconds=0, retry_condition_fn=retry_unless_refused, name=f"{kind}-{is_async}")(body)

    @flow
    def root() -> None:
        tried.submit().wait()

    root(return_state=True)
    return count


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("refused", 1),
        ("wrapped", 1),
        pytest.param("group", 1, marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")),
        ("transient", 4),
    ],
)
def test_a_refused_task_is_executed_once(kind: str, expected: int, *, is_async: bool) -> None:
    """With retries=3 a refusal is tried once, another failure four times, in sync and async tasks."""
    assert executions(kind, is_async=is_async) == expected


# -- real Prefect, the real Stripe SDK, a stateful vendor --------------------------------------------


@pytest.fixture
def charge(standin: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A task that charges a customer $20 at the stand-in."""
    import stripe
    from prefect import task

    monkeypatch.setattr(stripe, "api_base", standin)
    monkeypatch.setattr(stripe, "api_key", API_KEY)

    @task(retries=2, retry_delay_seconds=0, retry_condition_fn=retry_unless_refused)
    def charge_customer(customer: str) -> str:
        return stripe.PaymentIntent.create(
            amount=2000, currency="usd", customer=customer, payment_method="pm_card_visa", confirm=True, off_session=True
        ).id

    return charge_customer


@pytest.mark.usefixtures("prefect_server")
def test_mapped_tasks_share_one_cap(charge: Any, standin: str) -> None:
    """Eight mapped tasks of $20 race a cap of $100: five are charged, three refused, and the vendor says the same."""
    from prefect import flow

    customers = make_customers(standin, 8)

    @flow
    def root() -> list[bool]:
        keyguard.install(run_usd_cap=100)
        futures = charge.map(customers)
        futures.wait()
        return [future.state.is_completed() for future in futures]

    assert sum(root()) == 5
    assert charged(standin, API_KEY) == (10_000, 5)


@pytest.mark.usefixtures("prefect_server")
def test_a_subflow_spends_its_roots_budget(charge: Any, standin: str) -> None:
    """Two charges in a subflow and one in its root use up $60; the next one is refused in the root."""
    from prefect import flow

    customers = make_customers(standin, 4)

    @flow
    def child() -> None:
        for customer in customers[:2]:
            charge(customer)

    @flow
    def root() -> None:
        keyguard.install(run_usd_cap=60)
        child()
        charge(customers[2])
        charge(customers[3])

    with pytest.raises(SpendCapExceeded):
        root()
    assert charged(standin, API_KEY) == (6000, 3)


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_without_a_key_spends_nothing_of_its_neighbour(charge: Any, standin: str) -> None:
    """Flow B after flow A, without install(): refused, not billed to A and not unguarded; with install() it has its own cap."""
    from prefect import flow

    customers = make_customers(standin, 3)

    @flow
    def flow_a() -> Any:
        charges = keyguard.install(run_usd_cap=40)
        charge(customers[0])
        return charges

    @flow
    def flow_b(*, installs: bool) -> Any:
        own = keyguard.install(run_usd_cap=20) if installs else None
        charge(customers[1])
        return own

    first: Any = flow_a()
    with pytest.raises(Refused):
        flow_b(installs=False)
    second: Any = flow_b(installs=True)

    assert (first.usage().spent, second.usage().spent) == (20_000_000, 20_000_000)
    assert charged(standin, API_KEY) == (4000, 2)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("how", ["submitted", "called"])
def test_a_task_timeout_during_the_send_is_a_doubt(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vendor executes and is slow to answer: Prefect's exception ends the task, its charge stays counted, the next one settles."""
    from prefect import flow, task
    from prefect._internal.concurrency import cancellation

    gate, inject, seen = Gate(), cancellation._send_exception_to_thread, list[str]()

    def inject_then_answer(*args: Any) -> None:
        untraced()
        inject(*args)
        # Python raises it when the thread comes back from its read: so the answer must come, and not before.
        gate.set()

    monkeypatch.setattr(cancellation, "_send_exception_to_thread", inject_then_answer)

    @task(timeout_seconds=0.5)
    def charge_slowly(base: str, cents: int) -> str:
        try:
            return charge_at(base, cents)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    @flow
    def root(base: str) -> tuple[str, Any, Any]:
        installed = keyguard.install(f"sqlite:///{tmp_path}/ledger.db", run_usd_cap=100)
        if how == "submitted":
            future = charge_slowly.submit(base, 1000)
            future.wait()
            state = future.state
        else:
            # In the main thread Prefect's alarm interrupts the read itself.
            state = charge_slowly(base, 1000, return_state=True)
        gate.set()
        after = installed.usage()
        charge_at(base, 2000)
        return state.name or "", after, installed.usage()

    with StripeServer(delay=gate) as server:
        name, after, at_the_end = root(server.url)
        total = server.total

    assert (name, seen) == ("TimedOut", ["CancelledError"])
    assert figures(after) == (0, 0, 1000)
    assert figures(at_the_end) == (2000, 0, 1000)
    assert total == 3000
