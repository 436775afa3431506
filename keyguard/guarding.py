"""`@guarded`: the body of a function runs only where its calls are guarded. Knows no orchestrator; decides nothing.

Patches do not travel to other processes, but a function does. cloudpickle may send it by value, so its wrappers refer to
functions of importable modules only: a context variable among what they refer to could not be sent.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from keyguard.errors import ConfigurationError
from keyguard.install import arequire_payer, require_payer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

_F = TypeVar("_F", bound="Callable[..., Any]")


def guarded(fn: _F) -> _F:
    """
    Let a function run only where what it calls is guarded; wherever it was sent, it arms keyguard there first.

    >>> @keyguard.guarded
    ... def charge(customer: str) -> None: ...

    In the process of the flow that called `install()` it changes nothing. In another one (a process pool, Dask, Ray, a task worker, a
    deployment's flow) it arms keyguard by what came along with the run, or by `KEYGUARD_KEY` or `KEYGUARD_RUN_ID`. For functions,
    coroutine functions, generators of both kinds, and what `@classmethod` and `@staticmethod` return; below an orchestrator's decorator.

    Raises:
        ConfigurationError: of a task, not of its function.
        Refused: when the function is called, and nobody pays for it there; nothing of it runs.
        LedgerUnavailable: when the function is called, and its run's ledger cannot be asked.
    """
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(guarded(fn.__func__))  # pyright: ignore[reportReturnType] -- the same descriptor
    if getattr(fn, "_keyguard_guards", False):
        return fn
    if hasattr(fn, "submit"):
        raise ConfigurationError(f"{fn!r} is a task already, and @guarded goes below its decorator: on the function")
    wrapper: Any = functools.wraps(fn)(_wrapped(fn))
    wrapper._keyguard_guards = True  # noqa: SLF001 -- a mark on a function of ours
    code = getattr(fn, "__code__", None)
    if code is not None:
        # Prefect names a task by its code; that of two functions of one name must differ where theirs does.
        wrapper.__code__ = wrapper.__code__.replace(co_consts=(*wrapper.__code__.co_consts, code))
    return wrapper  # type: ignore[no-any-return]  # -- same signature by construction


def _wrapped(fn: Callable[..., Any]) -> Any:
    """Return a function of the same kind, because orchestrators ask for it."""
    if inspect.iscoroutinefunction(fn):
        return _coroutine(fn)
    if inspect.isasyncgenfunction(fn):
        return _asyncgen(fn)
    return _generator(fn) if inspect.isgeneratorfunction(fn) else _function(fn)


def _function(fn: Callable[..., Any]) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        require_payer()
        return fn(*args, **kwargs)

    return function


def _coroutine(fn: Callable[..., Any]) -> Any:
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        await arequire_payer()
        return await fn(*args, **kwargs)

    return coroutine


def _generator(fn: Callable[..., Any]) -> Any:
    def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        require_payer()
        return (yield from fn(*args, **kwargs))

    return generator


def _asyncgen(fn: Callable[..., Any]) -> Any:
    async def asyncgen(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        await arequire_payer()
        async with aclosing(fn(*args, **kwargs)) as made:
            resume, told = made.asend, None
            while True:
                try:
                    found = await resume(told)
                except StopAsyncIteration:
                    return
                try:
                    resume, told = made.asend, (yield found)
                except Exception as thrown:
                    resume, told = made.athrow, thrown

    return asyncgen
