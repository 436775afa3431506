"""How a process hears that its flow runs end before Prefect says so: by the runner's intent, the main thread's error, a body that is left.

The places are Prefect's own and may move: each is looked for, and what is not found is said in one log line.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keyguard.prefect import halting

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("keyguard")
# Errors that were being handled when another came, which are looked at from the last one on.
_CHAIN = 10


@dataclass(slots=True)
class _State:
    """What was said of this version of Prefect."""

    said: set[str] = field(default_factory=set[str])


_state = _State()


def say_once(what: str) -> None:
    """Say what this version of Prefect does not show."""
    if what not in _state.said:
        _state.said.add(what)
        _log.warning("this version of Prefect %s; `keyguard revoke` stops a run all the same", what)


class NoListener:
    """Stands in the place of Prefect's control listener where it has no word for us."""

    _intent: str | None = None


class _Asked(NoListener):
    """A control listener that shows its intent only by a function, which takes a lock."""

    def __init__(self, get_intent: Callable[[], str | None]) -> None:
        self._get = get_intent

    @property
    def _intent(self) -> str | None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride] -- read only
        return self._get()


def control_listener() -> Any:
    """
    Return what has the runner's intent as its `_intent`: "cancel", "reschedule", "relinquish", or None where it has none.

    Prefect's own function for it takes a lock, which is longer than all else that a call pays here.
    """
    try:
        from prefect._internal import control_listener as listener
    except ImportError:
        listener = None  # type: ignore[assignment]  # -- a module or nothing
    if hasattr(listener, "_intent"):
        return listener
    get_intent = getattr(listener, "get_intent", None)
    if get_intent is not None:
        return _Asked(get_intent)
    say_once("hides what its runner says to a process before it kills it, so that a cancellation is seen a second later")
    return NoListener()


def interruption() -> str:
    """Say what the main thread is being ended by while it waits for others: "Ctrl-C", "SIGTERM" (Prefect's own handler); "" = nothing."""
    main = threading.main_thread().ident
    look: Callable[[], dict[int, Any]] | None = getattr(sys, "_current_exceptions", None)
    handled = None if look is None or main is None else _uncollected(look).get(main)
    # Until Python 3.12 it is what `sys.exc_info()` gives.
    error: BaseException | None = handled[1] if isinstance(handled, tuple) else handled
    signals = _termination_signals()
    for _ in range(_CHAIN):
        if error is None:
            return ""
        if isinstance(error, KeyboardInterrupt):
            return "Ctrl-C"
        if isinstance(error, signals):
            return "SIGTERM"
        error = error.__context__
    return ""


def _uncollected(look: Callable[[], dict[int, Any]]) -> dict[int, Any]:
    """
    Call a function that holds the interpreter's list of threads, with the garbage collector off.

    A collection within it may run code that gives the interpreter's lock up, and a thread that starts or ends then waits for the list
    with that lock: the process stands still (CPython gh-106883; 3.11.7 did, once in a whole run of the tests, November 2026).
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        return look()
    finally:
        if was_on:
            gc.enable()


def _termination_signals() -> tuple[type[BaseException], ...]:
    found = getattr(sys.modules.get("prefect.exceptions"), "TerminationSignal", None)
    return (found,) if isinstance(found, type) else ()


def tell(flow_context: Any, left: Callable[[Any, str], str]) -> None:
    """
    Let somebody know when a flow's body has ended, and by what exception that no code of it raised.

    A flow ends its task runner after its body, its hooks and its context, and before Prefect says that it crashed: the runner waits there
    for the tasks that were submitted. Only a runner that can cancel them (threads, process pools) has the method that is called then. What
    `left` returns, how the run ends, other processes of this machine can hear while the runner waits (keyguard.prefect.halting).
    """
    runner = getattr(flow_context, "task_runner", None)
    original = getattr(runner, "cancel_all", None)
    if runner is None or original is None or "cancel_all" in vars(runner):
        return
    ended = weakref.ref(flow_context.flow_run)

    def cancel_all() -> Any:
        """Say so, and cancel them."""
        flow_run, how = ended(), ""
        try:
            if flow_run is not None:
                how = left(flow_run, _ended_by(sys.exc_info()[0]))
        except Exception:
            _log.debug("a flow's end was not understood", exc_info=True)
        with halting.said(flow_run, how):
            return original()

    # Of this very runner, which Prefect has made for this execution: contexts are left by methods that were looked up at their beginning.
    runner.cancel_all = cancel_all


def _ended_by(kind: type[BaseException] | None) -> str:
    """Name what ended a flow's body from outside; "" where it has ended by itself, or is paused."""
    signals = getattr(sys.modules.get("prefect.exceptions"), "PrefectSignal", ())
    if kind is None or issubclass(kind, (Exception, GeneratorExit, signals)):
        return ""
    return kind.__name__
