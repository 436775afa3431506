"""
The numbers of identical requests within an execution of a run: which of them a request is. Kept in this process.

Two identical charges that one execution means to make are two, and one that is tried again is still one: the number tells which. Another
process has numbers of its own; where both have given the same, the ledger says which holds (`Slot.moved`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyguard.context import RunRef

_EXECUTIONS_KEPT = 256
# No turn of a unit: nobody has taken the number.
_FREE = 0


class Slots:
    """
    Counts identical requests of an execution, so that the n-th one has a number. Thread-safe.

    A retry of a task run replays the numbers that its first attempt took, in order: identical requests
    are interchangeable, so which of them gets which number does not matter. So does a further try of what task runs lie in (a subflow, a
    task that calls tasks), though all of its task runs are new. A request that ended without a known charge gives its
    number back to its unit: whoever sends the same again has lost an answer, or was refused.
    """

    def __init__(self) -> None:
        self.renew_lock()
        # (scope, execution) → its numbers; the one that was asked last is the last one.
        self._executions: OrderedDict[tuple[str, str], _Execution] = OrderedDict()

    def renew_lock(self) -> None:
        """Take a new lock: in a forked child nobody is left to release the old one."""
        self._lock = threading.Lock()

    def number(self, scope: str, request: str, run: RunRef) -> int:
        """Return n for one request of a run's execution, from 0."""
        with self._lock:
            execution = self._execution(scope, run)
            unit = execution.unit(run)
            held = unit.held.get(request)
            if held is None:
                held = unit.held[request] = {}
            free = next((n for n, taken_in in held.items() if taken_in != unit.turn), None) if held else None
            passes = [execution.pass_(name, number) for name, number in run.passes] if run.passes else []
            if free is None and passes:
                free = _replayed(passes, request)
            if free is None:
                free = execution.given.get(request, 0)
                execution.given[request] = free + 1
            held[free] = unit.turn
            for one in passes:
                one.take(request, free)
            return free

    def moved(self, scope: str, request: str, run: RunRef, n: int, to: int) -> None:
        """Learn that a number belongs to a unit of another process, and which one the ledger gave instead."""
        with self._lock:
            execution = self._execution(scope, run)
            unit = execution.unit(run)
            execution.given[request] = max(execution.given.get(request, 0), to + 1)
            held = unit.held.setdefault(request, {})
            for one in (n, to):
                held.pop(one, None)
            held[to] = unit.turn
            for name, number in run.passes:
                execution.pass_(name, number).move(request, n, to)

    def give_back(self, scope: str, request: str, run: RunRef, n: int) -> None:
        """Let the unit's next identical request have this number."""
        with self._lock:
            execution = self._executions.get((scope, run.execution))
            unit = None if execution is None else execution.units.get(run.unit)
            if unit is not None and unit.attempt == run.attempt and n in unit.held.get(request, ()):
                unit.held[request][n] = _FREE

    def _execution(self, scope: str, run: RunRef) -> _Execution:
        name = (scope, run.execution)
        found = self._executions.get(name)
        if found is not None:
            self._executions.move_to_end(name)
            return found
        found = self._executions[name] = _Execution()
        # A long-lived worker sees many executions; the oldest cannot be retried in this process any more.
        while len(self._executions) > _EXECUTIONS_KEPT:
            self._executions.popitem(last=False)
        return found


class Slot:
    """
    A number that a call has taken among identical ones.

    Attributes:
        n: The number, from 0.
    """

    __slots__ = ("_request", "_run", "_scope", "_slots", "n")

    def __init__(self, slots: Slots, scope: str, request: str, run: RunRef) -> None:
        self._slots, self._scope, self._request, self._run = slots, scope, request, run
        self.n = slots.number(scope, request, run)

    def moved(self, to: int) -> None:
        """Learn that the ledger gave another number: another process has this one."""
        self._slots.moved(self._scope, self._request, self._run, self.n, to)
        self.n = to

    def give_back(self) -> None:
        """Let the next identical request of the same unit have it: this one came to no known charge."""
        self._slots.give_back(self._scope, self._request, self._run, self.n)


class _Execution:
    """
    The numbers of one execution.

    Attributes:
        given: Request → how many numbers were given out.
        units: What each unit holds.
        passes: What the tries of what units lie in have taken.
    """

    __slots__ = ("given", "passes", "units")

    def __init__(self) -> None:
        self.given: dict[str, int] = {}
        self.units: dict[str, _Unit] = {}
        self.passes: dict[str, _Pass] = {}

    def unit(self, run: RunRef) -> _Unit:
        """Return what the running unit holds, in the attempt that runs."""
        found = self.units.get(run.unit)
        if found is None:
            found = self.units[run.unit] = _Unit(run.attempt)
        elif found.attempt != run.attempt:
            found.attempt, found.turn = run.attempt, found.turn + 1
        return found

    def pass_(self, name: str, number: int) -> _Pass:
        """Return what the tries of a subflow, or of a task, have taken, in the try that runs."""
        found = self.passes.get(name)
        if found is None:
            found = self.passes[name] = _Pass(number)
        found.begin(number)
        return found


class _Unit:
    """
    What a unit holds.

    Attributes:
        attempt: The one that runs; `turn` grows when another one comes.
        held: Request → the numbers that the unit holds, and for each the turn that has taken it.
    """

    __slots__ = ("attempt", "held", "turn")

    def __init__(self, attempt: int) -> None:
        self.attempt, self.turn = attempt, _FREE + 1
        self.held: dict[str, dict[int, int]] = {}


class _Pass:
    """
    What the tries of a subflow, or of a task that calls tasks, have taken.

    Attributes:
        held: Request → the numbers of all tries.
        left: Those of earlier tries that nobody has asked for in this one.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.held: dict[str, list[int]] = {}
        self.left: dict[str, list[int]] = {}

    def begin(self, number: int) -> None:
        """Begin a further try, if this is one."""
        if number != self._number:
            self._number, self.left = number, {request: [*numbers] for request, numbers in self.held.items()}

    def take(self, request: str, n: int) -> None:
        """Learn that a number is taken in this try."""
        held, left = self.held.setdefault(request, []), self.left.get(request, ())
        if n not in held:
            held.append(n)
        if n in left:
            self.left[request].remove(n)

    def move(self, request: str, n: int, to: int) -> None:
        """Learn which number the ledger gave instead."""
        held = self.held.setdefault(request, [])
        held[:] = [*(one for one in held if one not in {n, to}), to]


def _replayed(passes: list[_Pass], request: str) -> int | None:
    """Return a number that an earlier try took and this one has not yet; of the innermost, which has taken no more than those round it."""
    left = [one for one in passes if one.left.get(request)]
    return min(left, key=lambda one: len(one.held[request])).left[request][0] if left else None
