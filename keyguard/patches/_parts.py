"""A coroutine run in parts, from several places: for what begins in one method of a library and ends in another. Knows no client."""

from __future__ import annotations

import types
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator


class Pause:
    """What a coroutine awaits where one part of it ends: it gets there what the next one is begun with."""

    __slots__ = ()

    def __await__(self) -> Generator[Pause, Any, Any]:
        """Wait to be gone on with."""
        return (yield self)


class Parts:
    """
    Runs a coroutine from pause to pause, each part awaited by the same task.

    It has a context of its own, a copy of its beginner's: between its parts, and after it was left for good, nothing of what it has set
    is seen. Left so, it is closed as any coroutine that is dropped, in its context.

    Args:
        whole: The coroutine, which nobody has begun.
    """

    __slots__ = ("_context", "_whole", "is_over")

    def __init__(self, whole: Coroutine[Any, Any, Any]) -> None:
        self._whole, self._context = whole, copy_context()
        self.is_over = False

    def __del__(self) -> None:
        self._context.run(self._whole.close)

    async def go_on(self, answer: Any = None) -> Any:
        """Run it to its next pause, and return None; or to its end (`is_over`), and return what it returns."""
        return await self._run(self._whole.send, answer)

    async def fail(self, error: BaseException) -> Any:
        """Go on with an exception, which its pause raises."""
        return await self._run(self._whole.throw, error)

    @types.coroutine
    def _run(self, resume: Callable[[Any], Any], told: Any) -> Generator[Any, Any, Any]:
        run = self._context.run
        try:
            while True:
                try:
                    step = run(resume, told)
                except StopIteration as end:
                    self.is_over = True
                    return end.value
                if isinstance(step, Pause):
                    return None
                try:
                    resume, told = self._whole.send, (yield step)
                except GeneratorExit:
                    # Not thrown into it: what it awaited then would be asked of a loop that is gone.
                    run(self._whole.close)
                    raise
                except BaseException as error:
                    resume, told = self._whole.throw, error
        finally:
            # An exception refers to this frame.
            del told
