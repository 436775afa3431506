"""Child budgets under a real Prefect: subflows in flows and tasks, nested, at once, retried, elsewhere. The double is the judge."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard.ledgers import open_ledger
from tests.support_prefect import flow_run, in_flow, in_task, task_run
from tests.test_prefect_charges import resumed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.testing.double import VendorDouble

USD = 1_000_000
# Whoever asks first waits for the session's server to start.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def flows(prefect_server: str) -> Iterator[Any]:
    """The flows, with nothing failed so far."""
    from tests import support_flows, support_subflows

    support_flows.begin_anew()
    yield support_subflows
    keyguard.uninstall()


def budgets(url: str) -> dict[str, int]:
    """Return what each budget of the ledger's run has spent, in dollars, by its name behind the run's id; books must be in order."""
    ledger = open_ledger(url)
    found = {(key.run_id or "")[36:]: usage.spent // USD for key, usage in ledger.runs()}

    assert ledger.verify() == []
    ledger.shut()
    return found


def named(scope: str) -> str:
    """Return a refusal's budget by its name behind the run's id."""
    return scope[len("run:") + 36 :]


def test_a_subflows_tasks_stop_at_its_cap_and_the_rest_is_the_runs(flows: Any, double: VendorDouble, url: str) -> None:
    """Two subflows with budgets, one without, then the flow itself: each stops at its own, all together at the run's."""
    found = flows.billing(double.url, url, 10, [3, 2, None], 4)

    assert [(count, named(scope)) for count, scope in found] == [(3, "/reminders-1"), (2, "/reminders-2"), (4, ""), (1, "")]
    assert budgets(url) == {"": 10, "/reminders-1": 3, "/reminders-2": 2}
    assert double.truth.charged() == 10 * USD


@pytest.mark.ci
def test_a_budget_within_a_budget_within_the_run(flows: Any, double: VendorDouble, url: str) -> None:
    """A nested subflow is charged to three, one without a budget of its own to its caller's two."""
    found = flows.outer(double.url, url, 10, 6, 2)

    assert [(count, named(scope)) for count, scope in found] == [(2, "/nested-1/reminders-1"), (4, "/nested-1"), (4, "")]
    assert budgets(url) == {"": 10, "/nested-1": 6, "/nested-1/reminders-1": 2}


@pytest.mark.parametrize("in_task", [False, pytest.param(True, marks=pytest.mark.ci)], ids=["in-flow", "in-task"])
def test_a_retried_flow_finds_its_subflows_budgets(flows: Any, double: VendorDouble, url: str, *, in_task: bool) -> None:
    """Of three subflows, two of them alike, one fails once and the flow is tried again: no charge twice, no fresh cap, no shared one."""
    state = flows.retried(double.url, url, in_task=in_task, return_state=True)

    assert (state.type.value, double.truth.charged()) == ("COMPLETED", 6 * USD)
    assert budgets(url) == {"": 6, "/failing-1": 2, "/failing-2": 2, "/failing-3": 2}


@pytest.mark.ci
def test_a_subflow_that_retries_itself_has_one_cap(flows: Any, double: VendorDouble, url: str) -> None:
    """Prefect's retry of the subflow is the same budget: two dollars at the first try leave one of three for the second."""
    assert flows.patient(double.url, url)[0] == 1
    assert budgets(url) == {"": 3, "/self-retrying-1": 3}


@pytest.mark.ci
def test_two_subflows_at_once_have_a_budget_each(flows: Any, double: VendorDouble, url: str) -> None:
    """Async subflows under one run: each its own cap, and where the run's is smaller than both, exactly the run's."""
    apart = asyncio.run(flows.concurrent(double.url, url, 10, [3, 4]))
    keyguard.uninstall()
    together = asyncio.run(flows.concurrent(double.url, url + "2", 5, [3, 4]))

    assert [count for count, _ in apart] == [3, 4]
    assert sum(count for count, _ in together) == 5
    assert budgets(url + "2")[""] == 5
    assert double.truth.charged() == 12 * USD


@pytest.mark.ci
def test_a_task_in_another_process_pays_from_its_subflows_budget(flows: Any, double: VendorDouble, url: str) -> None:
    """ProcessPool: the budget's name travels with the subflow's run, and the refusal there names it."""
    found = flows.pooled(double.url, url, 2, 3)

    assert [one if one == "charged" else named(one) for one in found] == ["charged", "charged", "/pooled-child-1"]
    assert budgets(url) == {"": 2, "/pooled-child-1": 2}


@pytest.mark.ci
def test_aresumed_run_in_a_second_process_finds_its_childs_budget(flows: Any, double: VendorDouble, url: str, prefect_server: str) -> None:
    """The child has failed for good; the UI's Retry executes all in a new process, where its cap is as full as it was."""
    state = flows.hopeless(double.url, url, return_state=True)
    again = resumed(str(state.state_details.flow_run_id), "hopeless", prefect_server, module="tests.support_subflows")

    assert (state.type.value, again) == ("FAILED", "FAILED")
    assert budgets(url) == {"": 3, "/spending-1": 3}
    assert double.truth.charged() == 3 * USD


# -- the labels, with fabricated contexts --------------------------------------------------------------


def test_a_budget_is_found_by_what_is_called_in_its_subflow() -> None:
    """By its tasks, by a subflow within, and by one that had begun before the budget was asked for; not by its caller."""
    from keyguard.prefect.provider import provider, subflow

    root, child, inner = flow_run(), flow_run(is_child=True), flow_run(is_child=True)
    with in_flow(root):
        with in_flow(child), in_flow(inner):
            before = provider()
        with in_flow(child):
            place = subflow()
            assert place is not None
            place.pays_from("root/child-1")
            with in_task(task_run(child.id)):
                task = provider()
            with in_flow(inner):
                within = provider()
        after = provider()

    assert [one.budget for one in (before, task, within, after) if one] == ["", "root/child-1", "root/child-1", ""]


def test_a_budget_travels_with_the_labels() -> None:
    """A subflow's context that came without its callers, as in another process, has its budget; it can ask for none there."""
    from keyguard.prefect.provider import provider, subflow

    child, inner = flow_run(is_child=True), flow_run(is_child=True)
    with in_flow(flow_run()), in_flow(child):
        place = subflow()
        assert place is not None
        place.pays_from("root/child-1")
        with in_flow(inner):
            provider()
    sent = [flow_run(is_child=True, labels=dict(one.labels)) for one in (child, inner)]
    seen: list[str] = []
    for one in sent:
        # As Prefect's own, where a task of it runs in another process.
        with in_flow(one).model_copy(update={"detached": True}):
            found = provider()
            assert found is not None
            seen.append(found.budget)
            assert subflow() is None

    assert seen == ["root/child-1"] * 2


def test_only_a_call_in_the_flows_body_has_a_place() -> None:
    """Out of a task Prefect makes another task run for a subflow each time; in the body the n-th call has the same one."""
    from keyguard.prefect.provider import subflow

    root, child = flow_run(), flow_run(is_child=True)
    with in_flow(root):
        with in_flow(child):
            body = subflow()
        with in_task(task_run(root.id)), in_flow(child):
            out_of_task = subflow()

    assert body is not None
    assert out_of_task is not None
    assert (body.subflow.call, out_of_task.subflow.call) == (str(child.parent_task_run_id), "")
    assert (body.subflow.caller, body.subflow.entry) == (str(root.id), out_of_task.subflow.entry)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("inner", "spent"),
    [
        (None, {"": 3, "/starting-1": 3}),
        (1, {"": 2, "/starting-1": 2, "/starting-1/deployed-1": 1}),
        (5, {"": 3, "/starting-1": 3, "/starting-1/deployed-1": 2}),
    ],
    ids=["shared", "narrower", "wider"],
)
def test_what_a_deployment_starts_pays_from_the_budget_it_was_started_in(
    flows: Any, double: VendorDouble, url: str, prefect_server: str, inner: float | None, spent: dict[str, int]
) -> None:
    """
    A subflow has three dollars, spends one, and a subflow of it runs a deployment, whose run is executed in another process: two are
    left for it, whatever it asks for itself, though the root has ten.
    """
    started = flows.delegating(double.url, url, 10, 3, inner)

    assert resumed(started, "deployed", prefect_server, module="tests.support_subflows") == "COMPLETED"
    assert budgets(url) == spent
    assert double.truth.charged() == spent[""] * USD
