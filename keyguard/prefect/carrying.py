"""Hooks on Prefect's flow-run context: what it takes along when it is sent away, and what it meets where it is entered. Decides no call.

Prefect sends the context of a run to process pools, Dask, Ray and task workers, and enters it there before the task's body. So a
context is marked when it is serialised, and where a marked one is entered the seams are armed: from then on its calls are paid by
its root's key, or refused. The two methods are of Prefect's own class (3.8); without one, a log line says what is lost.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import wrapt

from keyguard import context, telemetry
from keyguard.install import has_default, paying_ledger, stand_guard
from keyguard.prefect import labels, roots
from keyguard.prefect.marking import carried_trace, mark

if TYPE_CHECKING:
    from collections.abc import Callable

_MODULE = "prefect.context"
_log = logging.getLogger("keyguard")


@dataclass(slots=True)
class _State:
    """
    What was hooked.

    Attributes:
        placed: Name of a method → (ours, what stood in the class itself before, None = it was inherited).
        is_awaited: `prefect.context` will be hooked when it is imported.
        joins: This process arms keyguard where it meets a guarded run, though nobody has called `install()` in it.
    """

    placed: dict[str, tuple[Any, Any]] = field(default_factory=dict[str, "tuple[Any, Any]"])
    is_awaited: bool = False
    joins: bool = False
    lock: Any = field(default_factory=threading.RLock)


_state = _State()


def join_guarded_runs() -> None:
    """Let this process arm keyguard wherever it meets a guarded run, or at once where the environment names who pays."""
    _state.joins = True
    watch()
    if labels.names_a_payer():
        stand_guard()


def watch() -> None:
    """Hook the contexts of Prefect, now or when they are imported; calling it again changes nothing."""
    if _MODULE in sys.modules:
        _hook(importlib.import_module(_MODULE))
    elif not _state.is_awaited:
        _state.is_awaited = True
        wrapt.register_post_import_hook(_hook, _MODULE)


def unwatch() -> None:
    """Take the hooks away that are still ours, unless this process joins guarded runs unasked."""
    if _state.joins:
        return
    context.register_carried_trace(None)
    owner = getattr(sys.modules.get(_MODULE), "FlowRunContext", None)
    with _state.lock:
        for name, (ours, before) in tuple(_state.placed.items()):
            if owner is not None and vars(owner).get(name) is ours:
                del _state.placed[name]
                if before is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, before)


def _hook(module: Any) -> None:
    owner = getattr(module, "FlowRunContext", None)
    lost = [
        said
        for name, before, said in (
            (
                "serialize",
                _before_leaving,
                "runs are not marked when they are sent to other processes; call keyguard.install() before that",
            ),
            ("__enter__", _before_entering, "other processes do not arm keyguard by themselves; guard tasks with keyguard.prefect.task"),
        )
        if not _place(owner, name, before)
    ]
    if lost:
        _log.warning("this version of Prefect has other contexts than keyguard knows: %s", "; ".join(lost))


def _place(owner: Any, name: str, before: Callable[[Any], None]) -> bool:
    method = getattr(owner, name, None)
    if method is None:
        return False
    with _state.lock:
        if name in _state.placed and vars(owner).get(name) is _state.placed[name][0]:
            return True

        @functools.wraps(method)
        def hooked(entered: Any, *args: Any, **kwargs: Any) -> Any:
            before(entered)
            return method(entered, *args, **kwargs)

        _state.placed[name] = (hooked, vars(owner).get(name))
        setattr(owner, name, hooked)
    return True


def _before_leaving(leaving: Any) -> None:
    """Mark a context that is about to be sent: with its root and its key's ledger; without a ledger it is refused wherever it comes."""
    if context.handler() is None:
        return
    try:
        mark(leaving, paying_ledger())
        trace = telemetry.traceparent()
        if trace and leaving.flow_run is not None and leaving.flow_run.labels is not None:
            leaving.flow_run.labels[labels.TRACE_LABEL] = trace
    except Exception:
        # Prefect's own business goes on; what is not marked is refused where a guarded function or a plugin asks.
        _log.exception("a flow run could not be marked for other processes")


def _before_entering(entering: Any) -> None:
    """Meet a flow run: learn its root where a deployment started it, arm where it is guarded, tell the server of a root of our own."""
    flow_run = entering.flow_run
    is_armed = context.handler() is not None
    if flow_run is None or flow_run.labels is None or not (is_armed or _state.joins):
        return
    if labels.trace_of(flow_run.labels):
        context.register_carried_trace(carried_trace)
    marks = labels.read(flow_run.labels)
    is_child = flow_run.parent_task_run_id is not None
    if marks is None and is_child and type(entering).get() is None:
        marks = roots.root_of(flow_run)
        if marks is not None and marks.root:
            roots.write(flow_run, marks)
        elif marks is not None:
            return
        # Else the API did not say: whoever pays for it is not known, so nobody does.
        _arm(is_armed)
    elif marks is not None:
        _arm(is_armed)
    elif is_armed and not is_child and has_default():
        own = mark(entering)
        if own is not None:
            roots.record(own)


def _arm(is_armed: bool) -> None:  # noqa: FBT001 -- what its one caller knows
    if not is_armed:
        stand_guard()
