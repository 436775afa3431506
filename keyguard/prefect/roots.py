"""Asks Prefect's API which root a run belongs to that a deployment started, and tells the API what such runs must know. Nothing else.

Labels do not travel with `run_deployment`. So a root's marks, and the budget that a subflow asked for, are kept in the server's records
of them, and a child whose parents are not in this process is followed upwards there: task run, flow run, task run, ….
Never within a call: reading the root inside an async send waits for ever on the loop that is to answer.
Every question has a limit of time, runs in a thread of its own, and is asked once for a run.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from keyguard import context
from keyguard.prefect import labels, subflows
from keyguard.prefect.labels import Marks
from keyguard.prefect.marking import entered_flow

if TYPE_CHECKING:
    from collections.abc import Callable

    _T = TypeVar("_T")

# Seconds for all questions about one run; one takes about 10 ms.
PATIENCE = 10.0
# Flow runs above one another, each started by a deployment.
_DEEPEST = 50
UNGUARDED = Marks("")
_log = logging.getLogger("keyguard")


@dataclass(slots=True)
class _Known:
    """
    What was asked already.

    Attributes:
        roots: Flow run id → the marks of its root.
        recorded: Flow run id → what its record was told.
    """

    roots: dict[str, Marks] = field(default_factory=dict[str, Marks])
    recorded: dict[str, dict[str, str]] = field(default_factory=dict[str, "dict[str, str]"])


_known = _Known()
_KEPT = 1_000


def resolve() -> None:
    """
    Find out the root of the running flow run, where a deployment started it and its parents are not in this process; may ask the API.

    A run under which nobody has guarded anything is a root itself for whoever guards it.
    """
    entered = entered_flow()
    if entered is None or entered.flow_run.labels is None:
        return
    marks = root_of(entered.flow_run)
    if marks is not None:
        write(entered.flow_run, marks if marks.root else Marks(str(entered.flow_run.id)))


def write(flow_run: Any, marks: Marks) -> None:
    """Mark a flow run that a deployment started, in memory."""
    labels.write(flow_run.labels, marks)
    subflows.inherit(flow_run.labels, marks.budget)


def root_of(flow_run: Any) -> Marks | None:
    """Return what the root of a flow run is marked with: `UNGUARDED` where it never had a key, None where the API did not say."""
    marks = _known.roots.get(str(flow_run.id))
    if marks is None:
        marks = _asked(
            lambda client: _looked_up(client, flow_run), f"the root of flow run {flow_run.id} could not be read from Prefect's API"
        )
    if marks is not None:
        _remember(_known.roots, str(flow_run.id), marks)
    return marks


def record(marks: Marks) -> None:
    """Tell the server's record of a root what the runs must know that deployments start from it; told once for each execution."""
    _record(marks.root, labels.record(marks), "do not know that they are its, and have a budget of their own where they are guarded")


def record_budget(flow_run: Any) -> None:
    """Tell the server's record of a subflow which budget it has asked for, if any: runs that deployments start from it pay from it too."""
    budget = subflows.own_budget(flow_run)
    if budget:
        _record(str(flow_run.id), {labels.KEPT_BUDGET_LABEL: budget}, "pay from the budget that it lies in")


def _record(run_id: str, told: dict[str, str], failing: str) -> None:
    if _known.recorded.get(run_id) == told:
        return
    from uuid import UUID

    def tell(client: Any) -> bool:
        client.update_flow_run_labels(UUID(run_id), told)
        return True

    if _asked(tell, f"Prefect's record of run {run_id} could not be marked; runs that deployments start from it {failing}"):
        _remember(_known.recorded, run_id, told)


def _looked_up(client: Any, flow_run: Any) -> Marks:
    budget = ""
    for _ in range(_DEEPEST):
        if flow_run.parent_task_run_id is None:
            return UNGUARDED
        parent = client.read_task_run(flow_run.parent_task_run_id)
        if parent.flow_run_id is None:
            return UNGUARDED
        flow_run = client.read_flow_run(parent.flow_run_id)
        # The nearest one's, and whatever that lies in with it.
        budget = budget or str((flow_run.labels or {}).get(labels.KEPT_BUDGET_LABEL, ""))
        marks = labels.recorded(flow_run.labels)
        if marks is not None:
            return replace(marks, budget=budget)
    raise RecursionError(f"more than {_DEEPEST} flow runs above one another")


def _asked(question: Callable[[Any], _T], failing: str) -> _T | None:
    """Ask the API in a thread that has the caller's settings and client; after `PATIENCE` seconds, or an error, a log line and None."""
    answers: list[_T] = []
    errors: list[BaseException] = []

    def ask() -> None:
        from prefect.client.orchestration import get_client

        try:
            with context.own_traffic(), get_client(sync_client=True) as client:
                answers.append(question(client))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(ask,), name="keyguard-asks-prefect", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if answers:
        return answers[0]
    why = f"{type(errors[0]).__name__}: {errors[0]}" if errors else f"no answer in {PATIENCE:g} s"
    _log.warning("%s: %s", failing, why)
    return None


def _remember(kept: dict[str, Any], name: str, value: Any) -> None:
    if len(kept) >= _KEPT:
        # A long-lived worker meets many runs; what is forgotten is asked again.
        kept.clear()
    kept[name] = value
