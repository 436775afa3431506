"""The run-context provider: which Prefect run the calling code belongs to, read from context objects in memory only.

It sits on the hot path of every guarded call. It never imports Prefect and never asks its API:
`prefect.runtime.flow_run.root_flow_run_id` does HTTP, and hangs for ever on Prefect's own event loop.

A root flow run is its own `flow_run.id`, a task run outside any flow is its own `task_run.id`, a
subflow belongs to the root that it was entered under. Contexts are followed upwards by the token
that Prefect keeps while a context is entered; what was found is written to the in-memory labels of
the flow run, which travel with it into worker processes.
"""

from __future__ import annotations

import logging
import sys
from contextvars import Token
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from keyguard import context
from keyguard.context import Place, RunRef
from keyguard.prefect.subflows import budget_of, place_of

ROOT_LABEL = "keyguard.root"
EXECUTION_LABEL = "keyguard.execution"

_log = logging.getLogger("keyguard")


@dataclass(slots=True)
class _State:
    """Whether the log line about a Prefect that hides its tokens was written."""

    warned: bool = False


_state = _State()


def activate() -> None:
    """Make Prefect's runs known to keyguard; calling it again changes nothing."""
    context.register_provider("prefect", provider, subflow)


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


def subflow() -> Place | None:
    """Return the subflow that the calling code is in; None in a root run, outside any, and where its caller's context is not here."""
    module = sys.modules.get("prefect.context")
    found = provider()
    if module is None or found is None or found.is_root or (entered := module.FlowRunContext.get()) is None:
        return None
    task_context = module.TaskRunContext.get()
    return place_of(_ancestors(entered), [] if task_context is None else _ancestors(task_context), found.execution)


def mark_root() -> None:
    """Write the root's id to the labels of the running flow run, so that contexts sent to other processes carry it."""
    provider()


def _in_flow(flow_context: Any, task_context: Any, task_run: Any) -> RunRef:
    flow_run = flow_context.flow_run
    is_root = _is_root(flow_run)
    run_id, execution = _root_labels(flow_run) if is_root else _child_labels(flow_context)
    flow = flow_context.flow
    return RunRef(
        run_id=run_id,
        engine="prefect",
        name=flow_run.name or "",
        flow_name=flow.name if flow is not None else "",
        is_root=is_root,
        execution=execution,
        unit="" if task_run is None else str(task_run.id),
        attempt=1 if task_run is None else max(1, task_run.run_count),
        task="" if task_run is None else _task_key(task_context),
        persists=task_run is not None and _persists(task_context),
        attributes=_attributes(flow_run, flow, task_run),
        budget="" if is_root else budget_of([one for one in _ancestors(flow_context) if one.flow_run is not None]),
    )


def _in_task(task_context: Any, task_run: Any) -> RunRef:
    """Describe a task run that has no flow context here; its run is the outermost task, unless a flow elsewhere owns it."""
    *_, outermost = _ancestors(task_context)
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


def _is_root(flow_run: Any) -> bool:
    return getattr(flow_run, "parent_task_run_id", None) is None


def _root_labels(flow_run: Any) -> tuple[str, str]:
    """Return a root's id and execution token, both written to its labels; Prefect reads the run anew for each attempt."""
    run_id, labels = str(flow_run.id), _labels(flow_run)
    labels[ROOT_LABEL] = run_id
    # setdefault is atomic: threads that race for the first call of an attempt agree on one token.
    execution = labels.get(EXECUTION_LABEL) or labels.setdefault(EXECUTION_LABEL, uuid4().hex)
    return run_id, str(execution)


def _child_labels(flow_context: Any) -> tuple[str | None, str]:
    labels = _labels(flow_context.flow_run)
    if ROOT_LABEL not in labels:
        roots = [ancestor.flow_run for ancestor in _ancestors(flow_context) if ancestor.flow_run is not None]
        if not _is_root(roots[-1]):
            inherited = _labels(roots[-1])
            if ROOT_LABEL not in inherited:
                return None, ""
            labels |= {ROOT_LABEL: inherited[ROOT_LABEL], EXECUTION_LABEL: inherited.get(EXECUTION_LABEL, "")}
        else:
            labels[ROOT_LABEL], labels[EXECUTION_LABEL] = _root_labels(roots[-1])
    return str(labels[ROOT_LABEL]), str(labels.get(EXECUTION_LABEL, ""))


def _labels(flow_run: Any) -> dict[str, Any]:
    labels: dict[str, Any] | None = getattr(flow_run, "labels", None)
    return {} if labels is None else labels


def _ancestors(entered: Any) -> list[Any]:
    """
    Return a context and those it was entered under, innermost first.

    Prefect keeps the token of `ContextVar.set` while a context is entered and drops it at the exit,
    so the chain ends at a context that is not entered any more.
    """
    chain = [entered]
    while (above := _above(chain[-1])) is not None:
        chain.append(above)
    return chain


def _above(entered: Any) -> Any:
    try:
        token = entered._token  # noqa: SLF001 -- Prefect shows the outer context nowhere else
    except AttributeError:
        _warn_once()
        return None
    above = token.old_value if isinstance(token, Token) else None
    return None if above is Token.MISSING else above


def _warn_once() -> None:
    if not _state.warned:
        _state.warned = True
        _log.warning("this version of Prefect hides which run a subflow belongs to; guarded calls in subflows will be refused")


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
