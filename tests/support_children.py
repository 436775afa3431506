"""An orchestrator of the tests' own whose subflows have budgets: contexts on a stack, as an engine's provider would read them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from keyguard import context
from keyguard.context import Place, RunRef
from keyguard.model import Subflow

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Entered:
    """One entry of a flow's body: what it is, and the budget that it pays from; None = its caller's."""

    name: str
    run: str
    call: str
    token: str
    budget: str | None = None


_stack: ContextVar[tuple[Entered, ...]] = ContextVar("the flows that are entered", default=())


@dataclass(slots=True)
class Engine:
    """A run of nested flows; `keyguard.wrap` carries what is entered into threads."""

    run_id: str = "root"
    execution: str = "x1"
    numbers: Iterator[int] = field(default_factory=count)

    def current(self) -> RunRef | None:
        """Return the run of the calling code."""
        stack = _stack.get()
        if not stack:
            return None
        is_root = len(stack) == 1
        return RunRef(self.run_id, "test", "", stack[-1].name, is_root, self.execution, budget=_budget(stack))

    def place(self) -> Place | None:
        """Return the subflow of the calling code."""
        stack = _stack.get()
        if len(stack) < 2:
            return None
        caller, mine = stack[-2:]
        subflow = Subflow(mine.name, "", mine.run, mine.call, caller.run, caller.token, self.execution)
        return Place(subflow, _budget(stack[:-1]), lambda budget: setattr(mine, "budget", budget))

    @contextmanager
    def flow(self, name: str, *, call: str | None = None) -> Iterator[Entered]:
        """Enter a flow; `call` names the place of the call, each call another one by default, "" = nothing names it."""
        number, stack = next(self.numbers), _stack.get()
        entered = Entered(name, f"{name}-run-{number}", f"call-{number}" if call is None else call, f"token-{number}")
        token = _stack.set((*stack, entered))
        try:
            yield entered
        finally:
            _stack.reset(token)

    def again(self) -> None:
        """Begin another execution of the run."""
        self.execution = f"x{next(self.numbers)}"

    @contextmanager
    def named(self) -> Iterator[Engine]:
        """Let keyguard ask this engine."""
        context.register_provider("test-engine", self.current, subflows=self.place)
        try:
            yield self
        finally:
            context._state.providers.pop("test-engine")
            context._state.subflows.pop("test-engine")


def _budget(stack: tuple[Entered, ...]) -> str:
    return next((one.budget for one in reversed(stack) if one.budget is not None), "")
