"""The run-context provider: which Prefect run the calling code belongs to, read from context objects in memory only.

It sits on the hot path of every guarded call. It never imports Prefect and never asks its API:
`prefect.runtime.flow_run.root_flow_run_id` does HTTP, and hangs for ever on Prefect's own event loop.

A root flow run is its own `flow_run.id`, a task run outside any flow is its own `task_run.id`, a
subflow belongs to the root that it was entered under (`marking.py`).
"""

from __future__ import annotations

import sys
from typing import Any

from keyguard import context
from keyguard.context import RunRef
from keyguard.prefect import carrying, roots
from keyguard.prefect.marking import ancestors, entered_flow, is_root, mark, marks_of


def activate() -> None:
    """Make Prefect's runs known to keyguard; calling it again changes nothing."""
    context.register_provider("prefect", provider, roots.resolve)
    carrying.watch()


def deactivate() -> None:
    """Take away what `activate()` hooked into Prefect; runs stay known."""
    carrying.unwatch()


def tell(ledger: str) -> None:
    """Mark the running flow run with the ledger where its key is, and the server's record of it where it is a root."""
    entered = entered_flow()
    marks = mark(entered, ledger)
    # A context that was made by hand has no flow, and belongs to no server.
    if entered is not None and marks is not None and is_root(entered.flow_run) and entered.flow is not None:
        roots.record(marks)


def provider() -> RunRef | None:
    """Return the Prefect run of the calling code; `run_id=None` where a subflow's root cannot be told."""
    module = sys.modules.get("prefect.context")
    # Prefect may be half imported by another thread; then no run of it can be going on in this one.
    flow_context_type = getattr(module, "FlowRunContext", None)
    task_context_type = getattr(module, "TaskRunContext", None)
    if flow_context_type is None or task_context_type is None:
        return None
    flow_context, task_context = flow_context_type.get(), task_context_type.get()
    task_run = None if task_context is None else task_context.task_run
    if flow_context is not None and flow_context.flow_run is not None:
        return _in_flow(flow_context, task_context, task_run)
    return None if task_run is None else _in_task(task_context, task_run)


def mark_root() -> None:
    """Write the root's id to the labels of the running flow run, so that contexts sent to other processes carry it."""
    mark(entered_flow())


def _in_flow(flow_context: Any, task_context: Any, task_run: Any) -> RunRef:
    flow_run = flow_context.flow_run
    marks = marks_of(flow_context)
    flow = flow_context.flow
    return RunRef(
        run_id=None if marks is None else marks.root,
        engine="prefect",
        name=flow_run.name or "",
        flow_name=flow.name if flow is not None else "",
        is_root=is_root(flow_run),
        execution="" if marks is None else marks.execution,
        unit="" if task_run is None else str(task_run.id),
        attempt=1 if task_run is None else max(1, task_run.run_count),
        task="" if task_run is None else _task_key(task_context),
        persists=task_run is not None and _persists(task_context),
        attributes=_attributes(flow_run, flow, task_run),
        ledger="" if marks is None else marks.ledger,
    )


def _in_task(task_context: Any, task_run: Any) -> RunRef:
    """Describe a task run that has no flow context here; its run is the outermost task, unless a flow elsewhere owns it."""
    *_, outermost = ancestors(task_context)
    owner = outermost.task_run
    return RunRef(
        # A task run of a flow whose context did not travel: the flow may be a subflow, so its id is no answer.
        run_id=str(owner.id) if getattr(owner, "flow_run_id", None) is None else None,
        engine="prefect",
        name=owner.name or "",
        is_root=owner is task_run,
        execution=str(owner.id),
        unit=str(task_run.id),
        attempt=max(1, task_run.run_count),
        task=_task_key(task_context),
        persists=_persists(task_context),
        attributes=(("prefect.task_run.id", str(task_run.id)),),
    )


def _task_key(task_context: Any) -> str:
    """Return what Prefect calls a task in every run: its name and a hash of its source."""
    return str(getattr(getattr(task_context, "task", None), "task_key", ""))


def _persists(task_context: Any) -> bool:
    """Say whether a later execution may find this task's result and skip it."""
    if not getattr(task_context, "persist_result", False):
        return False
    task = getattr(task_context, "task", None)
    policy = getattr(task, "cache_policy", None)
    # Without a policy there is no key under which it would be found, unless the task names one itself.
    has_policy = policy is not None and type(policy).__name__ != "_None"
    return has_policy or getattr(task, "cache_key_fn", None) is not None or getattr(task, "result_storage_key", None) is not None


def _attributes(flow_run: Any, flow: Any, task_run: Any) -> tuple[tuple[str, str], ...]:
    """Return the span attributes; their names are documented in the attribute table of telemetry."""
    deployment = getattr(flow_run, "deployment_id", None)
    pairs = [("prefect.flow_run.id", str(flow_run.id)), ("prefect.flow_run.name", flow_run.name or "")]
    if flow is not None:
        pairs.append(("prefect.flow.name", flow.name))
    if task_run is not None:
        pairs.append(("prefect.task_run.id", str(task_run.id)))
    if deployment is not None:
        pairs.append(("prefect.deployment.id", str(deployment)))
    return tuple(pairs)
