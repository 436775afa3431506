"""Prefect's engine, changed where it retries and names what keyguard refused. On from `activate()` to `uninstall()`.

Two private methods are wrapped: `can_retry` of the task engines, so that no refusal is retried whatever `retry_condition_fn` says or
is, and `set_state` of task and flow engines, which every final state passes before it is proposed. There a refused run gets its name,
and a flow run out of whose body the refusal came gets `retries=0` by the public client: whether a flow is retried the server decides.

A Prefect whose engine is not as known is left alone, with one log line. Nothing here may break a run: what fails is logged.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import wrapt

from keyguard._values import frozen
from keyguard.prefect import downstream
from keyguard.prefect.naming import name_after, name_refused
from keyguard.prefect.retry import find_refusal, say_not_retried

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keyguard.errors import Refused

_log = logging.getLogger("keyguard")


@frozen
class _Seam:
    """One method of Prefect's, with the names that its parameters may have, by which it is known."""

    module: str
    owner: str
    method: str
    parameters: tuple[tuple[str, ...], ...]
    is_async: bool
    wrapper: Callable[[Any, Any, Any, Any], Any]


@frozen
class _Placed:
    """A wrapper of ours, where it was put, and what belongs there without it."""

    owner: type
    method: str
    original: Any
    wrapper: Any


@dataclass(slots=True)
class _State:
    """What is in place in this process."""

    is_active: bool = False
    is_told: bool = False
    hooked: set[str] = field(default_factory=set[str])
    placed: list[_Placed] = field(default_factory=list[_Placed])


_state = _State()


def patch() -> None:
    """Change the engine: now where it is imported, else at its import. Doing it again changes nothing."""
    _state.is_active = True
    for module in dict.fromkeys(seam.module for seam in _SEAMS):
        if module in sys.modules:
            # Waits while another thread imports it: half a module has no engine yet.
            _patch_module(importlib.import_module(module))
        elif module not in _state.hooked:
            _state.hooked.add(module)
            wrapt.register_post_import_hook(_patch_module, module)


def unpatch() -> None:
    """Put Prefect's own methods back; a wrapper that somebody wrapped over stays, and passes everything through."""
    _state.is_active = False
    for placed in reversed(_state.placed.copy()):
        if vars(placed.owner).get(placed.method) is placed.wrapper:
            setattr(placed.owner, placed.method, placed.original)
            _state.placed.remove(placed)


def is_patched() -> bool:
    """Say whether every method is in place now; methods of modules that are not imported are none yet."""
    return all(_is_live(seam) for seam in _SEAMS if seam.module in sys.modules)


def _patch_module(module: Any) -> None:
    if not _state.is_active:
        # Imported after `uninstall()`: `patch()` finds it when it is wanted again.
        return
    seams = [seam for seam in _SEAMS if seam.module == module.__name__]
    for seam in seams:
        if _is_known(seam, module) and not _is_live(seam):
            _place(seam, module)
    missing = [f"{seam.owner}.{seam.method}" for seam in seams if not _is_known(seam, module)]
    if missing and not _state.is_told:
        _state.is_told = True
        _log.warning(
            "this version of Prefect has an engine that keyguard does not know (%s), so it is not changed: give tasks "
            "`retry_condition_fn=keyguard.prefect.retry_unless_refused`, flows `on_failure=[keyguard.prefect.name_refused_state]`; "
            "retries of a flow are not switched off when a refusal ends it",
            ", ".join(missing),
        )


def _is_known(seam: _Seam, module: Any) -> bool:
    method = getattr(getattr(module, seam.owner, None), seam.method, None)
    if not callable(method):
        return False
    # Of a wrapper, ours or somebody else's, the signature of what it wraps.
    return tuple(inspect.signature(method).parameters) in seam.parameters and inspect.iscoroutinefunction(method) == seam.is_async


def _is_live(seam: _Seam) -> bool:
    owner: Any = getattr(sys.modules[seam.module], seam.owner, None)
    current = vars(owner).get(seam.method) if owner is not None else None
    ours = [placed.wrapper for placed in _state.placed if (placed.owner, placed.method) == (owner, seam.method)]
    while current is not None:
        if any(current is wrapper for wrapper in ours):
            return True
        current = getattr(current, "__wrapped__", None)
    return False


def _place(seam: _Seam, module: Any) -> None:
    owner: type = getattr(module, seam.owner)
    original = vars(owner).get(seam.method)
    wrapper: Any = wrapt.FunctionWrapper(getattr(owner, seam.method), seam.wrapper, enabled=_is_active)
    _state.placed.append(_Placed(owner, seam.method, original, wrapper))
    setattr(owner, seam.method, wrapper)


def _is_active() -> bool:
    return _state.is_active


# -- what the methods do besides -------------------------------------------------------------------


def _can_retry(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
    """Say no where keyguard refused, before the user's condition is asked; Prefect's own answer for any other failure."""
    refusal = _safely(find_refusal, _argument(args, kwargs, "exc_or_state", "exc"))
    if refusal is None:
        return wrapped(*args, **kwargs)
    _safely(_say, engine, engine.task_run, refusal)
    return _no() if inspect.iscoroutinefunction(wrapped) else False


async def _no() -> bool:
    return False


def _set_task_state(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
    """Name the failed state of a refused task run, and remember it for what needs its result."""
    state = _argument(args, kwargs, "state")
    _safely(downstream.note, engine.task_run, state, _safely(name_refused, state))
    return wrapped(*args, **kwargs)


def _set_flow_state(wrapped: Any, engine: Any, args: Any, kwargs: Any) -> Any:
    """Name the failed state of a refused flow run, and take its retries away before the server is asked whether there are any."""
    refusal = _safely(_refusal_of_flow, engine.flow_run, _argument(args, kwargs, "state"))
    if refusal is None or not _safely(_has_retries, engine):
        return wrapped(*args, **kwargs)
    _safely(_say, engine, engine.flow_run, refusal)
    asked = _safely(_without_retries, engine)
    return _after(asked, partial(wrapped, *args, **kwargs)) if inspect.iscoroutine(asked) else wrapped(*args, **kwargs)


def _refusal_of_flow(flow_run: Any, state: Any) -> Refused | None:
    refusal = name_refused(state) or name_after(downstream.behind(flow_run, state), state)
    if state.is_running():
        downstream.begin(flow_run)
    elif refusal is None:
        downstream.note(flow_run, state, None)
    return refusal


def _has_retries(engine: Any) -> bool:
    # As the server counts (RetryFailedFlows): the first run is number one.
    return bool(engine.flow_run.run_count <= (engine.flow_run.empirical_policy.retries or 0))


def _without_retries(engine: Any) -> Any:
    flow_run = engine.flow_run
    flow_run.empirical_policy = flow_run.empirical_policy.model_copy(update={"retries": 0})
    return engine.client.update_flow_run(flow_run.id, empirical_policy=flow_run.empirical_policy)


async def _after(asked: Awaitable[Any], propose: Callable[[], Awaitable[Any]]) -> Any:
    try:
        await asked
    except Exception as error:
        _tell(error)
    return await propose()


def _say(engine: Any, run: Any, refusal: Refused) -> None:
    say_not_retried(engine.logger, run.name, refusal)


def _safely(act: Callable[..., Any], *arguments: Any) -> Any:
    """Return what an act of ours gives; None where it fails, because the run must come to its end."""
    try:
        return act(*arguments)
    except Exception as error:
        _tell(error)
        return None


def _tell(error: Exception) -> None:
    _log.warning("keyguard could not see to it that a refused run is named and not retried: %s: %s", type(error).__name__, error)


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> Any:
    return args[0] if args else next((kwargs[name] for name in names if name in kwargs), None)


# In Prefect 3.4.0 it is not asked of returned states, and takes an `exc`.
_RETRY, _STATE = (("self", "exc_or_state"), ("self", "exc")), (("self", "state", "force"),)
_SEAMS = (
    _Seam("prefect.task_engine", "SyncTaskRunEngine", "can_retry", _RETRY, False, _can_retry),
    _Seam("prefect.task_engine", "AsyncTaskRunEngine", "can_retry", _RETRY, True, _can_retry),
    _Seam("prefect.task_engine", "SyncTaskRunEngine", "set_state", _STATE, False, _set_task_state),
    _Seam("prefect.task_engine", "AsyncTaskRunEngine", "set_state", _STATE, True, _set_task_state),
    _Seam("prefect.flow_engine", "FlowRunEngine", "set_state", _STATE, False, _set_flow_state),
    _Seam("prefect.flow_engine", "AsyncFlowRunEngine", "set_state", _STATE, True, _set_flow_state),
)
