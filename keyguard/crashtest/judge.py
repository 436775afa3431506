"""What is found out: rows, what was wrong in them, and what follows for the promises. Pure; prints nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from keyguard.model import show

if TYPE_CHECKING:
    from keyguard.model import Money

Promise: TypeAlias = Literal["I1", "I2", "I3", "I4", "I6", "once", "books", "run"]
PROMISES: dict[Promise, str] = {
    "I1": "the vendor never charged more than the cap",
    "I2": "the ledger never counted less than the vendor had charged",
    "I3": "a refused call changed no balance",
    "I4": "no call was refused that fitted",
    "I6": "nothing was begun after a revoke was acknowledged",
    "once": "no charge was made twice",
    "books": "balances can be refolded from the log",
    "run": "every event ran to its end",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken promise, in words."""

    promise: Promise
    words: str


@dataclass(slots=True)
class Row:
    """
    What one event came to; amounts in micro-USD.

    Attributes:
        event, words: Its name, and what happens in it.
        cap: What could be spent in it at most.
        vendor: What the vendor's truth file says was charged.
        ledger: What the guard counted at the end: spent, held and in doubt.
        calls: How often a charge was asked for that came to an end.
        refused: How many of them were refused; `false_refusals`, although they fitted, or for a reason that the event does not give.
        failed: Errors that were no refusals, by their names; each try by itself.
        doubts: Calls still in doubt after the vendor was asked; None = the guard cannot ask.
        seconds: How long it took.
        tested: Which promises it put to the test.
        skipped: Why it was not run.
        note: What else is worth knowing.
    """

    event: str
    words: str
    cap: Money = 0
    vendor: Money = 0
    ledger: Money = 0
    calls: int = 0
    refused: int = 0
    false_refusals: int = 0
    doubts: int | None = None
    seconds: float = 0.0
    failed: dict[str, int] = field(default_factory=dict[str, int])
    problems: list[Problem] = field(default_factory=list[Problem])
    tested: set[Promise] = field(default_factory=set["Promise"])
    skipped: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """One phrase: `held`, `n/a`, or what was worst."""
        if self.skipped:
            return "n/a"
        if self.vendor > self.cap:
            return f"{show(self.vendor - self.cap)} over the cap"
        return self.problems[0].words if self.problems else "held"

    def broke(self, promise: Promise, words: str) -> None:
        """Note a broken promise."""
        self.problems.append(Problem(promise, words))


@dataclass(frozen=True, slots=True)
class Findings:
    """
    All rows of a run.

    Attributes:
        guard, ledger: Which guard, and on which ledger; "" = its own for each event.
        rows: In the order of the events.
        seconds: In all.
    """

    guard: str
    ledger: str
    seed: int
    is_quick: bool
    rows: tuple[Row, ...]
    seconds: float

    @property
    def promises(self) -> dict[Promise, bool | None]:
        """Which promises held; None = nothing that ran puts it to the test."""
        tested = {promise for row in self.rows for promise in row.tested}
        broken = {problem.promise for row in self.rows for problem in row.problems}
        return {promise: False if promise in broken else True if promise in tested else None for promise in PROMISES}

    @property
    def exit_code(self) -> int:
        """0 where nothing was broken, and something was put to the test."""
        held = self.promises.values()
        return int(False in held or True not in held)
