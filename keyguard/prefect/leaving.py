"""How a process hears that its flow runs end before Prefect says so: by the runner's intent, the main thread's error, a body that is left.

The places are Prefect's own and may move: each is looked for, and what is not found is said in one log line.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("keyguard")
# Errors that were being handled when another came, which are looked at from the last one on.
_CHAIN = 10


@dataclass(slots=True)
class _State:
    """Who is told of flows that end, and what was said of this version of Prefect."""

    left: Callable[[Any, str], None] | None = None
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
    handled = None if look is None or main is None else look().get(main)
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


def _termination_signals() -> tuple[type[BaseException], ...]:
    found = getattr(sys.modules.get("prefect.exceptions"), "TerminationSignal", None)
    return (found,) if isinstance(found, type) else ()


def tell(left: Callable[[Any, str], None] | None) -> None:
    """
    Let somebody know of each flow run whose body has ended, and by what exception that no code of it raised; None = nobody.

    A flow leaves its `FlowRunContext` before it waits for the tasks that it has submitted, and only after them Prefect says
    that it crashed.
    """
    _state.left = left
    if left is None:
        return
    from prefect.context import FlowRunContext

    original = FlowRunContext.__exit__
    if getattr(original, "_is_keyguards", False):
        return

    def leave(self: Any, kind: type[BaseException] | None = None, *more: Any) -> Any:
        """Leave the context, and say so; nothing is said any more when nobody wants to know."""
        try:
            if _state.left is not None and self.flow_run is not None:
                _state.left(self.flow_run, _ended_by(kind))
        except Exception:
            _log.debug("a flow's end was not understood", exc_info=True)
        return original(self, kind, *more)

    leave._is_keyguards = True  # type: ignore[attr-defined]  # noqa: SLF001 -- a mark on a function of ours
    FlowRunContext.__exit__ = leave  # type: ignore[method-assign]  # -- the one place where every flow passes, sync or async


def _ended_by(kind: type[BaseException] | None) -> str:
    """Name what ended a flow's body from outside; "" where it has ended by itself, or is paused."""
    signals = getattr(sys.modules.get("prefect.exceptions"), "PrefectSignal", ())
    if kind is None or issubclass(kind, (Exception, GeneratorExit, signals)):
        return ""
    return kind.__name__
