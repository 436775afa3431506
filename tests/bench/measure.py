"""How a bench measures and judges: cases timed in turns of blocks, and rows that know their target. Knows nothing of keyguard."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_T = TypeVar("_T")


@dataclass(frozen=True)
class Row:
    """
    One line of the results.

    Attributes:
        value: What was measured, in `unit`; a ratio where the unit is `×`.
        target: What the design asks for; None = shown only.
        bound: Whether the target is the most or the least.
        note: Shown beside the value.
    """

    what: str
    value: float
    unit: str
    target: float | None = None
    bound: Literal["≤", "≥"] = "≤"
    note: str = ""

    def is_missed(self, factor: float = 1) -> bool:
        """Say whether the value is beyond the target by more than a factor; of a ratio, what it is above 1 counts."""
        if self.target is None:
            return False
        base = 1 if self.unit == "×" and self.bound == "≤" else 0
        value, target = self.value - base, self.target - base
        return value > target * factor if self.bound == "≤" else value < target / factor

    def cells(self) -> tuple[str, str, str]:
        """Return what is printed: what, measured, target and verdict."""
        digits = 2 if self.unit in {"×", "÷"} else 0 if self.value >= 10 else 1
        measured = f"{self.value:,.{digits}f} {self.unit}" + (f" ({self.note})" if self.note else "")
        if self.target is None:
            return self.what, measured, ""
        return self.what, measured, f"{self.bound} {self.target:,.5g} {self.unit} {'MISS' if self.is_missed() else 'ok'}"


Case = Callable[[int], Callable[[], None]]


def in_turns(cases: Mapping[str, Case], rounds: int, calls: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, list[float]]:
    """
    Time blocks of calls of every case in each round, in random order, so that a slow moment of the machine strikes all of them.

    Args:
        cases: By name; each prepares so many calls and returns the function that makes them.
        rounds: How many figures each case gets.
        calls: How many calls each figure is the mean of.
        clock: Seconds. `time.thread_time` leaves out when others had the processor, for what neither waits nor uses another thread.

    Returns:
        µs a call, one figure for each round.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for name, run in _order(cases, rounds, lambda case: case(calls)):
        begun = clock()
        run()
        found[name].append((clock() - begun) / calls * 1e6)
    return found


def one_by_one(cases: Mapping[str, Case], rounds: int, calls: int) -> dict[str, list[float]]:
    """Time every single call of such blocks: µs, for percentiles."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for name, runs in _order(cases, rounds, lambda case: [case(1) for _ in range(calls)]):
        for run in runs:
            begun = time.perf_counter()
            run()
            found[name].append((time.perf_counter() - begun) * 1e6)
    return found


def _order(cases: Mapping[str, Case], rounds: int, prepare: Callable[[Case], _T]) -> Iterator[tuple[str, _T]]:
    """Yield each case, prepared, once a round, after a round that only warms up; without the garbage collector."""
    for case in cases.values():
        case(50)()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in random.sample(sorted(cases), len(cases)):
                yield name, prepare(cases[name])
    finally:
        gc.enable()


def repeated(call: Callable[[], object]) -> Case:
    """Make a case of a function that needs no preparation."""

    def prepare(calls: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                call()

        return run

    return prepare


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    """Return each case's median."""
    return {name: statistics.median(times) for name, times in found.items()}


def added(found: Mapping[str, list[float]], name: str, base: str) -> float:
    """Return the median of what one case took more than another in the same round."""
    return statistics.median(more - less for more, less in zip(found[name], found[base], strict=True))
