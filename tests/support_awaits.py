"""For sweeps over the awaits of a call: drives a coroutine and strikes at its n-th suspension. Knows no client and no keyguard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator


class Abandoned(BaseException):
    """What a struck coroutine's awaiter gets where the coroutine was closed and not cancelled."""


class Struck:
    """
    Awaits a coroutine; when it is suspended for the n-th time, something happens to it.

    Args:
        coroutine: What is awaited.
        at: The suspension, from 1; a number above the last one never strikes.
        again: Strike at each suspension after it as well.

    Attributes:
        strike: What happens, called while the coroutine is suspended; set before awaiting.
        count: Suspensions seen.
        place: The innermost function at the first strike; "" while nothing happened.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, *, again: bool = False) -> None:
        self._coroutine, self._at, self._again = coroutine, at, again
        self.strike: Callable[[], Any] = self.abandon
        self.count = 0
        self.place = ""

    def abandon(self) -> None:
        """Close the coroutine where it stands, as happens to a task whose event loop is gone."""
        self._coroutine.close()
        raise Abandoned

    def __await__(self) -> Generator[Any, Any, Any]:
        """Pass on what the coroutine waits for, and what it is told."""
        resume: Callable[[Any], Any] = self._coroutine.send
        told: Any = None
        while True:
            try:
                waits_for = resume(told)
            except StopIteration as stop:
                return stop.value
            self.count += 1
            if self.count == self._at or (self._again and self.count > self._at):
                self.place = self.place or _innermost(self._coroutine)
                self.strike()
            try:
                resume, told = self._coroutine.send, (yield waits_for)
            except BaseException as error:
                resume, told = self._coroutine.throw, error


def _innermost(awaited: Any) -> str:
    """Name the functions in which a suspended coroutine stands: the last one of keyguard, and the last of all."""
    ours = last = ""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            last = frame.f_code.co_name
            module = str(frame.f_globals.get("__name__", ""))
            ours = f"{module.removeprefix('keyguard.')}.{last}" if module.startswith("keyguard") else ours
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None) or getattr(awaited, "ag_await", None)
    return f"{ours} > {last}"
