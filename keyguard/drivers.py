"""The two drivers: they perform the steps of a flow (keyguard.guard) and tell it what came of them. They decide nothing.

Backend steps go to the ticket's backend (in worker threads under asyncio and trio), `Send` through the seam,
`Ask` through the seam's own client. A backend step that was begun is done whole, whatever cancels the
caller meanwhile; so what the flow is told is what the ledger did.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from keyguard import context
from keyguard.guard import Find, Inquire, Send
from keyguard.model import Reply
from keyguard.vendors import Ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keyguard.context import Ticket
    from keyguard.guard import Asker, Flow, Step

# Enough callers to fill a group commit while the batch before it is synced.
_THREADS = 16
_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("keyguard_threads")
# Questions to a vendor take seconds: they must not take the threads by which others reserve.
_ASKING = 4
_askers: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("keyguard_askers")


def drive(flow: Flow, ticket: Ticket, send: Callable[[Ticket], Any], ask: Asker | None) -> Any:
    """Perform a flow's steps, blocking. What a step raises goes into the flow; what the flow raises goes to the caller."""
    resume: Callable[[Any], Step] = flow.send
    told: Any = None
    while True:
        try:
            step = resume(told)
            if isinstance(step, Send):
                answer = send(ticket)
            else:
                answer = _asked(step, ticket, ask) if isinstance(step, Ask) else step.perform(ticket)
            resume, told = flow.send, answer
        except BaseException as raised:
            if getattr(flow, "gi_frame", None) is None:
                if isinstance(raised, StopIteration):
                    return raised.value
                raise
            resume, told = flow.throw, raised


def _asked(step: Ask, ticket: Ticket, ask: Asker | None) -> Reply:
    return Reply(0) if ask is None else ask(step.path, ticket)


async def adrive(flow: Flow, ticket: Ticket, send: Callable[[Ticket], Awaitable[Any]], ask: Asker | None) -> Any:
    """Perform a flow's steps under asyncio or trio; blocking ones in worker threads, shielded from cancellation."""
    resume: Callable[[Any], Step] = flow.send
    told: Any = None
    while True:
        try:
            step = resume(told)
            resume, told = flow.send, await _aperform(step, ticket, send, ask)
        except BaseException as raised:
            if getattr(flow, "gi_frame", None) is None:
                if isinstance(raised, StopIteration):
                    return raised.value
                raise
            resume, told = flow.throw, raised


async def _aperform(step: Step, ticket: Ticket, send: Callable[[Ticket], Awaitable[Any]], ask: Asker | None) -> Any:
    if isinstance(step, Send):
        # A cancellation that waited while the reserve was shielded must strike before the first byte, not after.
        await anyio.lowlevel.checkpoint_if_cancelled()
        return await send(ticket)
    if isinstance(step, Find):
        # A key that is remembered needs no thread: so a call makes two hops, to reserve and to close.
        with contextlib.suppress(context.WouldBlock), context.without_blocking():
            return step.perform(ticket)
    if isinstance(step, Inquire):
        return await _inquired(step, ticket)
    return await whole(partial(_asked, step, ticket, ask) if isinstance(step, Ask) else partial(step.perform, ticket))


async def _inquired(step: Inquire, ticket: Ticket) -> None:
    """Let a vendor be asked in a worker thread; whoever is cancelled meanwhile does not wait for the answer."""
    handled = sys.exc_info()[1]
    try:
        await anyio.to_thread.run_sync(step.perform, ticket, abandon_on_cancel=True, limiter=_limited(_askers, _ASKING))
    except RuntimeError as error:
        if _is_closing(error, handled):
            raise GeneratorExit from None
        raise


class _Work:
    """Blocking work that one of two may claim: the thread that does it, or the caller who wants it left undone."""

    __slots__ = ("_claim", "_perform", "ended")

    def __init__(self, perform: Callable[[], Any]) -> None:
        self._perform = perform
        self._claim = threading.Lock()
        self.ended = threading.Event()

    def __call__(self) -> Any:
        """Do it, in a worker thread."""
        if not self._claim.acquire(blocking=False):
            return None
        try:
            return self._perform()
        finally:
            self.ended.set()

    def give_up(self) -> bool:
        """Say whether it was not begun; it never will be then."""
        return self._claim.acquire(blocking=False)


async def whole(perform: Callable[[], Any]) -> Any:
    """
    Perform blocking work in a worker thread: wholly or not at all, when this raises.

    A shielded scope is not enough: `asyncio.timeout`, `wait_for`, asyncio's task groups and Ctrl-C cancel the task itself,
    and anyio leaves the thread to itself then.
    """
    work, handled = _Work(perform), sys.exc_info()[1]
    try:
        with anyio.CancelScope(shield=True):
            try:
                return await anyio.to_thread.run_sync(work, limiter=_threads())
            except BaseException as error:
                if not _is_closing(error, handled):
                    await _ended(work)
                raise
    except RuntimeError as error:
        if _is_closing(error, handled):
            raise GeneratorExit from None
        raise


def _is_closing(error: BaseException, handled: BaseException | None) -> bool:
    """
    Say whether this coroutine is being closed, as Python does when it collects one whose loop is gone.

    It may not await then; the backend finds its hold by its dead ticket. anyio's scopes, left outside their task, put a
    RuntimeError in the place of the GeneratorExit. What the caller was handling already (`handled`) says nothing.
    """
    found: BaseException | None = error if isinstance(error, (GeneratorExit, RuntimeError)) else None
    while found is not None and found is not handled:
        if isinstance(found, GeneratorExit):
            return True
        found = found.__context__
    return False


async def _ended(work: _Work) -> None:
    """Wait until work that was begun has ended; other work is never begun."""
    while not (work.ended.is_set() or work.give_up()):
        # Cancelled once more: the first cancellation is on its way already.
        with contextlib.suppress(anyio.get_cancelled_exc_class()):
            # A thread of its own: the limiter's may all wait for what this one waits for.
            await anyio.to_thread.run_sync(work.ended.wait, limiter=anyio.CapacityLimiter(1))


def _threads() -> anyio.CapacityLimiter:
    """Return the running event loop's limiter for ledgers: of our own, so that guard and application do not starve each other."""
    return _limited(_limiter, _THREADS)


def _limited(kept: anyio.lowlevel.RunVar[anyio.CapacityLimiter], threads: int) -> anyio.CapacityLimiter:
    try:
        return kept.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(threads)
        kept.set(limiter)
        return limiter
