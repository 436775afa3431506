"""The run-context provider: which Prefect run the calling code belongs to, read from context objects in memory only.

It sits on the hot path of every guarded call. It never imports Prefect and never asks its API:
`prefect.runtime.flow_run.root_flow_run_id` does HTTP, and hangs for ever on Prefect's own event loop.

A root flow run is its own `flow_run.id`, a task run outside any flow is its own `task_run.id`, a
subflow belongs to the root that it was entered under (`marking.py`). What was read of a run object is
remembered while it lives: a task's calls learn their run in two microseconds.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

from keyguard.context import Place, RunRef
from keyguard.prefect.labels import EXECUTION_LABEL, LEDGER_LABEL, ROOT_LABEL
from keyguard.prefect.marking import ancestors, is_root, marks_of, outer
from keyguard.prefect.subflows import BUDGET_LABEL, budget_of, changes, place_of


@dataclass(slots=True)
class _Read:
    """
    What was read of a run object of Prefect's, for as long as that object lives; a retry of a flow has another object.

    Attributes:
        of: The flow run, or the task run where there is no flow.
        shared: What holds in the run itself, and in every task of it.
        changes: What `subflows.changes` was before: since another number, an outer subflow may have got a budget.
        last: The id of the task run that was last asked for, the very object, and what was told of its attempt. One, because most tasks
            make one call.
    """

    of: weakref.ref[Any]
    shared: RunRef
    changes: int
    last: tuple[object, RunRef] | None = None


class Watcher(Protocol):
    """Who wants to know of each flow run whose context calls are made in (keyguard.prefect.cancellation); `entered` has those it knows."""

    entered: dict[int, Any]

    def meet(self, flow_contexts: list[Any], root_id: str | None) -> None:
        """Learn of a context with a flow run, the innermost first, and of those it was entered under."""
        ...


@dataclass(slots=True)
class _State:
    """Who watches the runs that are seen."""

    watcher: Watcher | None = None


_state = _State()
# By the identity of the run object, which is told by the weak reference: contexts and runs of Prefect's are not hashable.
_reads: dict[int, _Read] = {}


def set_watcher(watcher: Watcher | None) -> None:
    """Let somebody know of each flow run that is seen here; None = nobody."""
    _state.watcher = watcher


def provider() -> RunRef | None:
    """Return the Prefect run of the calling code; `run_id=None` where a subflow's root cannot be told."""
    module = sys.modules.get("prefect.context")
    # Prefect may be half imported by another thread; then no run of it can be going on in this one.
    flow_context_type = getattr(module, "FlowRunContext", None)
    task_context_type = getattr(module, "TaskRunContext", None)
    if flow_context_type is None or task_context_type is None:
        return None
    flow_context, task_context = flow_context_type.get(), task_context_type.get()
    if flow_context is not None and flow_context.flow_run is not None:
        return _in_flow(flow_context, task_context)
    return None if task_context is None or task_context.task_run is None else _in_task(task_context)


def subflow() -> Place | None:
    """Return the subflow that the calling code is in; None in a root run, outside any, and where its caller's context is not here."""
    module = sys.modules.get("prefect.context")
    found = provider()
    if module is None or found is None or found.is_root or (entered := module.FlowRunContext.get()) is None:
        return None
    task_context = module.TaskRunContext.get()
    return place_of(ancestors(entered), [] if task_context is None else ancestors(task_context), found.execution)


def _in_flow(flow_context: Any, task_context: Any) -> RunRef:
    flow_run = flow_context.flow_run
    read = _reads.get(id(flow_run))
    # A root pays from its own budget, which does not move.
    if (
        read is None
        or read.of() is not flow_run
        or not _is_labelled(flow_run, read.shared)
        or (not read.shared.is_root and _has_moved(flow_context, read))
    ):
        before = changes()
        read = _remembered(flow_run, _flow_ref(flow_context), before)
    # Not before its root is known: until then nothing is sent, and what it belongs to could not be watched.
    if _state.watcher is not None and id(flow_run) not in _state.watcher.entered and read.shared.run_id is not None:
        _state.watcher.meet([entered for entered in ancestors(flow_context) if entered.flow_run is not None], read.shared.run_id)
    task_run = None if task_context is None else task_context.task_run
    return read.shared if task_run is None else _of_task(read, task_context, task_run)


def _flow_ref(flow_context: Any) -> RunRef:
    flow_run, flow, marks = flow_context.flow_run, flow_context.flow, marks_of(flow_context)
    return RunRef(
        run_id=None if marks is None else marks.root,
        engine="prefect",
        name=flow_run.name or "",
        flow_name=flow.name if flow is not None else "",
        is_root=is_root(flow_run),
        execution="" if marks is None else marks.execution,
        attributes=_attributes(flow_run, flow),
        ledger="" if marks is None else marks.ledger,
        budget="" if is_root(flow_run) else budget_of(ancestors(flow_context)),
        passes=_tries([one.flow_run for one in ancestors(flow_context) if one.flow_run is not None and not is_root(one.flow_run)]),
    )


def _in_task(task_context: Any) -> RunRef:
    """Describe a task run that has no flow context here; its run is the outermost task, unless a flow elsewhere owns it."""
    task_run = task_context.task_run
    read = _reads.get(id(task_run))
    if read is None or read.of() is not task_run:
        *_, outermost = ancestors(task_context)
        owner = outermost.task_run
        # A task run of a flow whose context did not travel: the flow may be a subflow, so its id is no answer.
        run_id = str(owner.id) if getattr(owner, "flow_run_id", None) is None else None
        shared = RunRef(run_id, "prefect", owner.name or "", is_root=owner is task_run, execution=str(owner.id))
        read = _remembered(task_run, shared, 0)
    return _of_task(read, task_context, task_run)


def _of_task(read: _Read, task_context: Any, task_run: Any) -> RunRef:
    """Return what is told of the calling attempt of a task."""
    shared, last, run_id, attempt = read.shared, read.last, task_run.id, task_run.run_count or 1
    if last is not None and last[0] is run_id and last[1].attempt == attempt:
        return last[1]
    # What `str()` gives, in half of its time: most tasks make one call, so this is paid by each. Every six bytes: two dashes are in place.
    digits = run_id.int.to_bytes(16, "big").hex("-", 6)
    unit = f"{digits[:13]}-{digits[13:17]}-{digits[17:]}"
    task = getattr(task_context, "task", None)
    told = RunRef(
        shared.run_id, shared.engine, shared.name, shared.flow_name, shared.is_root, shared.execution,
        # What Prefect calls a task in every run: its name and a hash of its source.
        unit, attempt, str(getattr(task, "task_key", "")), getattr(task_context, "persist_result", False) and _is_found_again(task),
        (*shared.attributes, ("prefect.task_run.id", unit)),
        shared.ledger, shared.budget, shared.passes if (around := outer(task_context)) is None else _within(shared, around, task_run),
    )  # fmt: skip
    read.last = (run_id, told)
    return told


def _within(shared: RunRef, around: Any, task_run: Any) -> tuple[tuple[str, int], ...]:
    """Return what a task's calls lie in: what its run does, and the tasks that called it, from the next one outwards."""
    return (*shared.passes, *_tries([one.task_run for one in ancestors(around) if _is_around(one.task_run, task_run)]))


def _is_around(other: Any, task_run: Any) -> bool:
    """Say whether a task run is another one, in which this one lies: the contexts of a task's own attempts lie in each other too."""
    return other is not None and other.id != task_run.id


def _tries(runs: list[Any]) -> tuple[tuple[str, int], ...]:
    """Say which try this is of each subflow or task that the calling code lies in; of one whose context is entered twice, the inner."""
    tries: dict[str, int] = {}
    for run in runs:
        tries.setdefault(str(run.id), max(1, run.run_count))
    return tuple(tries.items())


def _remembered(run: Any, shared: RunRef, before: int) -> _Read:
    """Keep what was read of a run while it lives; not that its root is unknown, which may come to be known."""
    if shared.run_id is None:
        return _Read(weakref.ref(run), shared, before)
    key = id(run)
    read = _reads[key] = _Read(weakref.ref(run, lambda _: _reads.pop(key, None)), shared, before)
    return read


def _is_labelled(flow_run: Any, shared: RunRef) -> bool:
    """Say whether the labels that name a run's root, execution and ledger are still those that were read."""
    own = getattr(flow_run, "labels", None)
    if own is None:
        return True
    if own.get(ROOT_LABEL) != shared.run_id or own.get(EXECUTION_LABEL, "") != shared.execution:
        return False
    is_same: bool = own.get(LEDGER_LABEL, "") == shared.ledger
    return is_same


def _has_moved(flow_context: Any, read: _Read) -> bool:
    """Say whether a subflow pays from another budget than it did: it, or one that it was called in, may have asked for one since."""
    own, now = getattr(flow_context.flow_run, "labels", None), changes()
    if own is not None and own.get(BUDGET_LABEL, "") != read.shared.budget:
        return True
    # Only then those above are looked at, one by one.
    if read.changes != now and budget_of(ancestors(flow_context)) != read.shared.budget:
        return True
    read.changes = now
    return False


def _is_found_again(task: Any) -> bool:
    """Say whether a later execution may find a task's result, where that is kept, and skip it."""
    policy = getattr(task, "cache_policy", None)
    # Without a policy there is no key under which it would be found, unless the task names one itself.
    has_policy = policy is not None and type(policy).__name__ != "_None"
    return has_policy or getattr(task, "cache_key_fn", None) is not None or getattr(task, "result_storage_key", None) is not None


def _attributes(flow_run: Any, flow: Any) -> tuple[tuple[str, str], ...]:
    """Return the span attributes; their names are documented in the attribute table of telemetry."""
    deployment = getattr(flow_run, "deployment_id", None)
    pairs = [("prefect.flow_run.id", str(flow_run.id)), ("prefect.flow_run.name", flow_run.name or "")]
    if flow is not None:
        pairs.append(("prefect.flow.name", flow.name))
    if deployment is not None:
        pairs.append(("prefect.deployment.id", str(deployment)))
    return tuple(pairs)
