"""Which root a flow's context belongs to, found in memory only, and its marks on the labels. Never imports Prefect, never asks its API.

Contexts are followed upwards by the token that Prefect keeps while a context is entered; what was found is written to
the in-memory labels of the flow run, which travel with it into worker processes.
"""

from __future__ import annotations

import logging
import sys
from contextvars import Token
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from keyguard.prefect import labels
from keyguard.prefect.labels import EXECUTION_LABEL, LEDGER_LABEL, ROOT_LABEL, Marks
from keyguard.prefect.subflows import budget_of

_log = logging.getLogger("keyguard")


@dataclass(slots=True)
class _State:
    """Whether the log line about a Prefect that hides its tokens was written."""

    warned: bool = False


_state = _State()


def mark(flow_context: Any, ledger: str = "") -> Marks | None:
    """
    Write to the labels of a flow's context what other processes must know of its run: root, execution, and the ledger's URL where given.

    Returns:
        What they say now; None where the root is not known, or there is no flow run.
    """
    if flow_context is None or flow_context.flow_run is None:
        return None
    marks = marks_of(flow_context)
    if marks is not None and not is_root(flow_context.flow_run):
        # The budget that a subflow pays from travels with its labels, too.
        budget_of(ancestors(flow_context))
    if marks is not None and ledger:
        marks = Marks(marks.root, marks.execution, labels.travelling(ledger))
        labels.write(_labels(flow_context.flow_run), marks)
    return marks


def entered_flow() -> Any:
    """Return Prefect's innermost flow context that has a run; None outside of any, or where Prefect is not imported."""
    kind = getattr(sys.modules.get("prefect.context"), "FlowRunContext", None)
    found = None if kind is None else kind.get()
    return None if found is None or found.flow_run is None else found


def carried_trace() -> str:
    """Return where in a trace the calling code belongs whose run was sent to this process; "" where nothing came along."""
    entered = entered_flow()
    return "" if entered is None else labels.trace_of(entered.flow_run.labels)


def is_root(flow_run: Any) -> bool:
    """Say whether a flow run is a root."""
    # A run that somebody else's run started is a root too, where nothing above it is guarded: then it is marked with itself.
    return getattr(flow_run, "parent_task_run_id", None) is None or _labels(flow_run).get(ROOT_LABEL) == str(flow_run.id)


def marks_of(flow_context: Any) -> Marks | None:
    """Return what the labels of a flow's context say of its root, which are written where nobody has yet; None where it is not known."""
    flow_run = flow_context.flow_run
    return _root_marks(flow_run) if is_root(flow_run) else _child_marks(flow_context)


def _root_marks(flow_run: Any) -> Marks:
    """Return a root's id and execution token, both written to its labels; Prefect reads the run anew for each attempt."""
    run_id, known = str(flow_run.id), _labels(flow_run)
    known[ROOT_LABEL] = run_id
    # setdefault is atomic: threads that race for the first call of an attempt agree on one token.
    execution = known.get(EXECUTION_LABEL) or known.setdefault(EXECUTION_LABEL, uuid4().hex)
    return Marks(run_id, str(execution), str(known.get(LEDGER_LABEL, "")))


def _child_marks(flow_context: Any) -> Marks | None:
    own = _labels(flow_context.flow_run)
    if ROOT_LABEL not in own:
        above = [ancestor.flow_run for ancestor in ancestors(flow_context) if ancestor.flow_run is not None]
        inherited = _root_marks(above[-1]) if is_root(above[-1]) else labels.read(_labels(above[-1]))
        if inherited is None:
            return None
        labels.write(own, inherited)
        return inherited
    return labels.read(own)


def _labels(flow_run: Any) -> dict[str, Any]:
    labels: dict[str, Any] | None = getattr(flow_run, "labels", None)
    return {} if labels is None else labels


def ancestors(entered: Any) -> list[Any]:
    """
    Return a context and those it was entered under, innermost first.

    Prefect keeps the token of `ContextVar.set` while a context is entered and drops it at the exit,
    so the chain ends at a context that is not entered any more.
    """
    chain = [entered]
    while (further := outer(chain[-1])) is not None:
        chain.append(further)
    return chain


def outer(entered: Any) -> Any:
    """Return the context that a context was entered under; None where it is the outermost, or not entered any more."""
    # Looked up where pydantic keeps it: the attribute itself goes through a function of pydantic's, which takes two microseconds.
    private: Any = getattr(entered, "__pydantic_private__", None)
    try:
        token = private["_token"] if private else entered._token  # noqa: SLF001 -- Prefect shows the outer context nowhere else
    except (AttributeError, KeyError):
        _warn_once()
        return None
    found = token.old_value if isinstance(token, Token) else None
    return None if found is Token.MISSING else found


def _warn_once() -> None:
    if not _state.warned:
        _state.warned = True
        _log.warning("this version of Prefect hides which run a subflow belongs to; guarded calls in subflows will be refused")
