"""What the run-context provider remembers of Prefect's runs, so that a call costs little: never longer than it is true."""

from __future__ import annotations

import gc
import sys
import timeit
from typing import TYPE_CHECKING

import pytest

from keyguard.prefect import provider
from keyguard.prefect import provider as provider_function
from keyguard.prefect.labels import EXECUTION_LABEL, ROOT_LABEL
from tests.support_prefect import flow_run, in_flow, in_task, task_run

if TYPE_CHECKING:
    from keyguard.context import RunRef

pytestmark = pytest.mark.usefixtures("prefect_home")
provider_module = sys.modules["keyguard.prefect.provider"]


def seen() -> RunRef:
    """Return what the provider says here, where it must say something."""
    ref = provider()
    assert ref is not None
    return ref


@pytest.mark.parametrize("is_in_flow", [True, False])
def test_a_retried_task_is_told_as_another_attempt(*, is_in_flow: bool) -> None:
    """Prefect counts the attempts in the same object: what was told of the first is not told of the second."""
    root = flow_run()
    run = task_run(root.id if is_in_flow else None)
    with in_flow(root if is_in_flow else None):
        with in_task(run):
            first, again = seen(), seen()
        run.run_count = 2
        with in_task(run):
            second = seen()

    assert first is again
    assert [(ref.unit, ref.attempt) for ref in (first, second)] == [(str(run.id), 1), (str(run.id), 2)]


def test_tasks_side_by_side_are_told_apart() -> None:
    """Two tasks of one run that take turns, as in threads, are each told as itself; between them the flow's body is no task."""
    root = flow_run()
    tasks = [task_run(root.id), task_run(root.id)]
    units: list[str] = []
    with in_flow(root):
        for task in tasks * 2:
            with in_task(task):
                units.append(seen().unit)
            units.append(seen().unit)

    assert units == [str(tasks[0].id), "", str(tasks[1].id), ""] * 2


@pytest.mark.parametrize("label", [ROOT_LABEL, EXECUTION_LABEL])
def test_labels_that_are_written_anew_are_read_anew(label: str) -> None:
    """A subflow whose labels name another root, or another execution of it, is told by those."""
    root, child = flow_run(), flow_run(is_child=True)
    with in_flow(root), in_flow(child):
        before = seen()
        child.labels = {**child.labels, label: "another"}
        after = seen()

    assert before.run_id == str(root.id)
    assert (after.run_id, after.execution) == (
        ("another", before.execution) if label == ROOT_LABEL else (before.run_id, "another")
    )  # fmt: skip


def test_a_root_whose_labels_were_lost_begins_another_execution() -> None:
    """A run that is read anew is another execution, though its id, and perhaps its place in memory, is the same."""
    root = flow_run()
    with in_flow(root):
        before = seen()
        root.labels = {}
        after = seen()

    assert (after.run_id, after.execution == before.execution) == (before.run_id, False)
    assert root.labels[EXECUTION_LABEL] == after.execution


def test_without_labels_a_run_is_one_execution() -> None:
    """Where there is no place for the token, it lives as long as the run's object."""
    root = flow_run(labels=None)
    with in_flow(root):
        assert seen().execution == seen().execution != ""


def test_an_unknown_root_is_asked_for_again() -> None:
    """A subflow whose root was not known may be told of it later, by a label."""
    child = flow_run(is_child=True)
    with in_flow(child):
        before = seen().run_id
        child.labels = {ROOT_LABEL: "root", EXECUTION_LABEL: "first"}
        after = seen().run_id

    assert (before, after) == (None, "root")


def test_what_was_read_goes_with_the_run() -> None:
    """A thousand flow runs and lone task runs that have ended leave nothing behind."""
    gc.collect()
    before = len(provider_module._reads)

    def runs() -> None:
        root = flow_run()
        with in_flow(root), in_task(task_run(root.id)):
            seen()
        with in_task(task_run()):
            seen()

    for _ in range(500):
        runs()
    gc.collect()

    assert len(provider_module._reads) <= before


def test_what_a_task_lies_in_is_never_itself() -> None:
    """A second attempt's context is entered within the first's: it is that task's own retry, and no further try of anything round it."""
    run = flow_run()
    outer, inner = task_run(run.id), task_run(run.id)
    with in_flow(run), in_task(outer), in_task(inner), in_task(inner):
        inner.run_count, outer.run_count = 2, 3
        found = provider_function()

    assert found is not None
    assert (found.unit, found.attempt, found.passes) == (str(inner.id), 2, ((str(outer.id), 3),))


def test_a_read_costs_a_few_microseconds() -> None:
    """In a subflow's task, beneath twenty others, a read takes little more than in a flow: nothing is walked twice, and no API is asked."""
    run, entered = flow_run(), []
    for _ in range(20):
        child = flow_run(is_child=True)
        entered += [in_flow(child), in_task(task_run(child.id))]
    with in_flow(run):
        for one in entered:
            one.__enter__()
        try:
            seconds = min(timeit.repeat(provider_function, number=200, repeat=20)) / 200
        finally:
            for one in reversed(entered):
                one.__exit__()

    # The bench asks for 5 µs (tests/bench/bench_context.py); other processes may take half of this one's time.
    assert seconds < 10e-6
