"""Carries the current run into threads: `wrap()` for one function, and, where `KEYGUARD_COPY_CONTEXT` asks for it, for all of them.

Only where the code that starts or submits is in a run (or in a block that names a payer): elsewhere nothing is copied. Threads of
pools live longer than the run they were first used in; so of a pool each piece of work is carried, never the thread.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from keyguard import context

if TYPE_CHECKING:
    from collections.abc import Callable

_F = TypeVar("_F", bound="Callable[..., Any]")
# Packages whose threads serve whoever comes.
_POOLS = frozenset({"anyio", "asyncio", "concurrent", "keyguard", "multiprocessing", "opentelemetry", "prefect"})


@dataclass(slots=True)
class _State:
    """What was put in place: (owner, name) → (ours, what was there)."""

    placed: dict[tuple[Any, str], tuple[Any, Any]] = field(default_factory=dict[tuple[Any, str], "tuple[Any, Any]"])


_state = _State()


def wrap(fn: _F) -> _F:
    """Carry the current run, key and ticket context into a thread or executor: `pool.submit(keyguard.wrap(fn), …)`."""
    carried = contextvars.copy_context()

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        # A context can be entered once at a time, so each call gets a copy.
        return carried.copy().run(fn, *args, **kwargs)

    return wrapped  # type: ignore[return-value] # pyright: ignore[reportReturnType] -- same signature by construction


def copy_contexts() -> None:
    """Make every `threading.Thread` that is started, and all work submitted to a ThreadPoolExecutor, part of the run that does so."""
    _place(ThreadPoolExecutor, "submit", _submitting)
    _place(threading.Thread, "start", _starting)


def leave_contexts() -> None:
    """Undo `copy_contexts()`; where somebody wrapped over it, it stays and does nothing while keyguard is not armed."""
    for (owner, name), (ours, before) in tuple(_state.placed.items()):
        if vars(owner).get(name) is ours:
            setattr(owner, name, before)
            del _state.placed[owner, name]


def _place(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    if (owner, name) not in _state.placed:
        before = vars(owner)[name]
        ours = functools.wraps(before)(make(before))
        _state.placed[owner, name] = (ours, before)
        setattr(owner, name, ours)


def _submitting(before: Any) -> Any:
    def submit(pool: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return before(pool, wrap(fn) if _is_in_run() else fn, *args, **kwargs)

    return submit


def _starting(before: Any) -> Any:
    def start(thread: threading.Thread) -> Any:
        if _is_in_run() and not _is_of_pool(thread):
            # On the object, so that subclasses with a `run` of their own are carried too.
            thread.run = wrap(thread.run)  # type: ignore[method-assign]  # -- see above
        return before(thread)

    return start


def _is_in_run() -> bool:
    return context.handler() is not None and (context.key_in_use() is not None or context.current_run() is not None)


def _is_of_pool(thread: Any) -> bool:
    target = getattr(thread, "_target", None)
    modules = (type(thread).__module__, getattr(target, "__module__", None) or "")
    return any(module.partition(".")[0] in _POOLS for module in modules)
