"""Which child budget a subflow pays from, and which subflow it is over its retries; read from context objects in memory.

The subflow that asked for a budget has it in the in-memory labels of its flow run, and every subflow within it finds it there. What
was found is written to those labels too: they travel into worker processes, where no outer context does.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from keyguard.context import Place
from keyguard.model import Subflow

if TYPE_CHECKING:
    from collections.abc import Sequence

# The budget that a flow run pays from, and the flow run that asked for it: itself, or one that it was called in.
BUDGET_LABEL = "keyguard.budget"
BUDGET_OF_LABEL = "keyguard.budget_of"
# Of a run that a deployment started: the budget that it was started in, whatever it asks for itself.
_ABOVE_LABEL = "keyguard.budget_above"
# Token of one entry of a flow's body; never sent anywhere that outlives it.
_ENTRY_LABEL = "keyguard.entry"


@dataclass(slots=True)
class _State:
    """How often a subflow of this process has got a budget of its own."""

    changes: int = 0


_state = _State()


def changes() -> int:
    """Return how often any subflow here has got a budget of its own: while it is the same, what `budget_of` returned still holds."""
    return _state.changes


def budget_of(chain: Sequence[Any]) -> str:
    """
    Return the budget that a subflow pays from, by the key's run id; "" = its run's own.

    Args:
        chain: Its flow context and those it was entered under, innermost first; the last one is a root, or came without its callers.
    """
    labels = _labels(chain[0])
    if not _has_own(chain[0], labels):
        # At each look: an outer subflow may have asked for one since.
        found = _above([context for context in chain[1:] if context.flow_run is not None])
        if found is not None:
            labels[BUDGET_LABEL], labels[BUDGET_OF_LABEL] = found
    return str(labels.get(BUDGET_LABEL, ""))


def inherit(labels: dict[str, Any], budget: str) -> None:
    """Let a run that a deployment started pay from the budget that it was started in, unless it has asked for one of its own."""
    if budget:
        labels[_ABOVE_LABEL] = budget
        labels.setdefault(BUDGET_LABEL, budget)


def own_budget(flow_run: Any) -> str:
    """Return the budget that a subflow has asked for itself; "" = none."""
    labels: dict[str, Any] = getattr(flow_run, "labels", None) or {}
    return str(labels.get(BUDGET_LABEL, "")) if labels.get(BUDGET_OF_LABEL) == str(flow_run.id) else ""


def _above(outer: Sequence[Any]) -> tuple[str, str] | None:
    """Return the budget of the nearest subflow above that has one of its own, and whose it is; None where nothing says."""
    for context in outer:
        labels = _labels(context)
        if _has_own(context, labels) or context is outer[-1]:
            return str(labels.get(BUDGET_LABEL, "")), str(labels.get(BUDGET_OF_LABEL, ""))
    return None


def _has_own(context: Any, labels: dict[str, Any]) -> bool:
    return BUDGET_OF_LABEL in labels and labels[BUDGET_OF_LABEL] == str(context.flow_run.id)


def place_of(chain: Sequence[Any], tasks: Sequence[Any], execution: str) -> Place | None:
    """
    Describe the subflow whose context is the first of a chain; None in a task of it that runs in another process.

    One that a deployment started has no caller here, and the task run that stands for its call says which it is.

    Args:
        chain: As of `budget_of`.
        tasks: The task contexts that the calling code runs under.
        execution: Of the root run.
    """
    contexts = [context for context in chain if context.flow_run is not None]
    if getattr(contexts[0], "detached", False):
        # A task of it in another process: what it would ask for, the subflow's other tasks would not know of.
        return None
    flow_run, above = contexts[0].flow_run, contexts[1:]
    # Prefect counts the calls of a flow's body, so that the n-th has the same task run in each of its executions; for a call out of a
    # task it makes a new one each time ("sibling call order is not a reliable identity", prefect/tasks.py 3.8, `create_run`).
    is_counted = not above or all(task.task_run is None or task.task_run.flow_run_id != above[0].flow_run.id for task in tasks)
    subflow = Subflow(
        name=contexts[0].flow.name if contexts[0].flow is not None else flow_run.name or "",
        parameters=_hashed(flow_run.parameters),
        run=str(flow_run.id),
        call=str(flow_run.parent_task_run_id) if is_counted else "",
        caller=str(above[0].flow_run.id) if above else "",
        entry=str(_labels(above[0]).setdefault(_ENTRY_LABEL, uuid4().hex)) if above else "",
        execution=execution,
    )
    outer = budget_of(above) if above else str(_labels(contexts[0]).get(_ABOVE_LABEL, ""))
    return Place(subflow, outer, partial(_pays_from, contexts[0]))


def _pays_from(context: Any, budget: str) -> None:
    labels = _labels(context)
    labels[BUDGET_LABEL], labels[BUDGET_OF_LABEL] = budget, str(context.flow_run.id)
    # Last: who sees the new number sees the budget. Two threads that come to one number at once have both changed it.
    _state.changes += 1


def _labels(context: Any) -> dict[str, Any]:
    labels: dict[str, Any] | None = getattr(context.flow_run, "labels", None)
    return {} if labels is None else labels


def _hashed(parameters: Any) -> str:
    written = json.dumps(parameters or {}, sort_keys=True, default=repr)
    return hashlib.blake2b(written.encode("utf-8", "surrogatepass"), digest_size=8, key=b"keyguard subflow").hexdigest()
