"""Where one event happens: its run, its customers, its processes, and the two figures that are compared all the time."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from keyguard.crashtest.contract import Shop, Terms
from keyguard.crashtest.nursery import WorkerFailed
from keyguard.crashtest.tallies import Spending, Till
from keyguard.model import show

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from keyguard.crashtest.judge import Promise, Row
    from keyguard.crashtest.nursery import Hand, Nursery
    from keyguard.model import Money
    from keyguard.testing.double import Controls

USD = 1_000_000
# How often the figures are compared while workers work, seconds.
_GLANCE = 0.05
# What is not shown by the vendor is presumed absent an hour after the last send (keyguard.vendors, `absence_margin`).
_LATER = 2 * 3600.0


@dataclass(slots=True)
class Stage:
    """
    One event's surroundings.

    Attributes:
        row: What it comes to; events add to it.
        double, nursery: The vendor, and where workers are born.
        guard: The guard's spec; `extras`, what it can do besides; `is_shared`, see `Guard`.
        run, url, folder: As of `Terms`.
        is_own: Whether the ledger is this event's alone, so that its clock may be moved.
        is_quick: The short form.
        rng: Of the event's randomness.
        is_daily: As of `Terms`; `is_faulty`, as of `Event`.
        kills: How many workers were killed in a call.
        justified: Names of refusals that the event gives reason for, beside the cap.
    """

    row: Row
    double: Controls
    nursery: Nursery
    guard: str
    extras: frozenset[str]
    is_shared: bool
    run: str
    url: str
    folder: Path
    is_own: bool
    is_quick: bool
    rng: random.Random
    is_daily: bool = False
    is_faulty: bool = False
    kills: int = 0
    justified: frozenset[str] = frozenset()
    till: Till = field(init=False)
    _prefix: str = field(init=False)
    _clerk: Hand | None = None
    _figures: dict[int, Money] = field(default_factory=dict[int, "Money"])
    _hands: list[Hand] = field(default_factory=list["Hand"])
    _worst_truth: Money = 0
    _worst_gap: tuple[Money, Money, Money] = (0, 0, 0)

    def __post_init__(self) -> None:
        self._prefix = f"cus_{self.run.replace('-', '_')}_"
        self.till = Till(self.double.truth.path, self._prefix)

    # -- words for events ---------------------------------------------------------------------------

    def of(self, full: int, quick: int) -> int:
        """Choose a size."""
        return quick if self.is_quick else full

    def cap(self, dollars: int) -> None:
        """Say how much may be spent."""
        self.row.cap = dollars * USD

    def names(self, count: int, kind: str = "c") -> list[str]:
        """Name customers of this event."""
        return [f"{self._prefix}{kind}{number}" for number in range(count)]

    def worker(self, *, offset: float = 0.0, timeout: float = 20.0, retries: int = 0) -> Hand:
        """Start a process that has opened the guard, with its clock so many seconds from the true time."""
        return self.workers(1, offset=offset, timeout=timeout, retries=retries)[0]

    def workers(self, count: int, *, offset: float = 0.0, timeout: float = 20.0, retries: int = 0) -> list[Hand]:
        """Start some, side by side."""
        terms = Terms(self.row.cap, self.run, self.url, str(self.folder), is_daily=self.is_daily)
        shop = Shop(f"sk_test_{self.run.replace('-', '_')}", self.double.url, timeout, retries)
        hands = [self.nursery.born() for _ in range(count)]
        self._hands += hands
        for hand in hands:
            hand.tell("open", guard=self.guard, terms=asdict(terms), shop=asdict(shop), offset=offset)
        for hand in hands:
            hand.answer()
        return hands

    @property
    def clerk(self) -> Hand:
        """A process that only looks."""
        if self._clerk is None:
            self._clerk = self.worker()
        return self._clerk

    def figure(self) -> Money:
        """Return what the guard counts now."""
        if self.is_shared:
            return int(self.clerk.ask("figure")["figure"])
        return sum(self._figures.values())

    def check(self) -> None:
        """Compare: what the vendor had charged before is counted now. And it is no more than the cap."""
        truth = self.till.look()
        self._worst_truth = max(self._worst_truth, truth)
        if self.is_shared:
            figure = self.figure()
            self._worst_gap = max(self._worst_gap, (truth - figure, truth, figure))

    def gather(self, hands: Iterable[Hand]) -> Spending:
        """Wait until workers have spent what they were told to, comparing the figures meanwhile; counts their refusals."""
        spending, pending = Spending(), list(hands)
        before = self.row.false_refusals
        while pending:
            for hand in list(pending):
                if hand.is_ready(_GLANCE / len(pending)):
                    told = hand.answer()
                    self._figures[hand.pid] = told["figure"] or 0
                    spending.add(told)
                    pending.remove(hand)
            self.check()
        self.row.calls += spending.charged + sum(spending.refused.values())
        self.row.refused += sum(spending.refused.values())
        for name, count in spending.failed.items():
            self.row.failed[name] = self.row.failed.get(name, 0) + count
        self.row.false_refusals += spending.wrong
        unjustified = {name: count for name, count in spending.refused.items() if name not in self.justified}
        self.row.false_refusals += max(0, sum(unjustified.values()) - spending.capped)
        if self.row.false_refusals > before:
            names = ", ".join(f"{name} ×{count}" for name, count in unjustified.items())
            self.row.broke("I4", f"{self.row.false_refusals - before} false refusals ({names})")
        return spending

    def spend(self, hand: Hand, names: Sequence[str], dollars: int, **how: Any) -> Spending:
        """Let one worker charge customers."""
        hand.tell("spend", names=list(names), amount=dollars * USD, **how)
        return self.gather([hand])

    def fills(self, dollars: int, spending: Spending) -> None:
        """Say that nothing was given back since: whoever was refused by the cap had no room, which the figure shows still."""
        room = self.row.cap - self.figure()
        if spending.capped:
            self.row.tested |= {"I4"}
        if spending.capped and room >= dollars * USD:
            self.row.false_refusals += spending.capped
            self.row.broke("I4", f"{spending.capped} calls of {show(dollars * USD)} were refused with {show(room)} left")

    def all_fit(self, spending: Spending) -> None:
        """Say that no more was wanted than there was: every refusal is a false one."""
        self.row.tested |= {"I4"}
        if spending.capped:
            self.row.false_refusals += spending.capped
            self.row.broke("I4", f"{spending.capped} calls were refused, though all of them fitted")

    def spends_the_rest(self, hand: Hand, dollars: int) -> None:
        """See that what the vendor turned out not to have charged can be spent now; where nobody was asked, it cannot."""
        if "reconcile" not in self.extras:
            return
        many = self.row.cap // (dollars * USD) + 1
        self.fills(dollars, self.spend(hand, self.names(many, "rest"), dollars))
        if self.till.look() < self.row.cap:
            self.row.broke("I4", f"{show(self.row.cap - self.till.look())} could not be spent, though every doubt is resolved")

    def was_struck(self) -> None:
        """See that what was scripted has happened: without it the event would show nothing."""
        if not self.double.struck():
            self.broke("run", "none of the faults struck")

    def broke(self, promise: Promise, words: str) -> None:
        """Note a broken promise."""
        self.row.broke(promise, words)

    def calm(self) -> None:
        """Let the vendor be as it should, and finish what it has."""
        self.double.clear()
        self.double.release()
        self.double.wait_until_quiet()

    # -- its end ------------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Let the guard ask the vendor what became of the calls in doubt, some hours later where that may be."""
        if "reconcile" not in self.extras:
            return
        self.calm()
        asker = self.worker(offset=_LATER if self.is_own else 0.0)
        self.row.doubts = int(asker.ask("reconcile")["left"])
        if self.row.doubts and not self.is_own:
            # The hours are not ours to let pass there.
            self.row.note = f"{self.row.doubts} released by hand: never made, which may be presumed in an hour"
            asker.ask("release_rest", reason="the crash test's vendor has not made it, and is gone")
        elif self.row.doubts:
            self.row.broke("I3", f"{self.row.doubts} calls are in doubt still after the vendor was asked")
        asker.end()

    def finish(self) -> None:
        """Compare everything for the last time."""
        row = self.row
        self.calm()
        self.check()
        if row.doubts is None and "reconcile" in self.extras:
            row.doubts = int(self.clerk.ask("reconcile")["left"])
        row.vendor, row.ledger = self.till.look(), self.figure()
        self._worst_gap = max(self._worst_gap, (row.vendor - row.ledger, row.vendor, row.ledger))
        row.tested |= {"I1", "I2", "once"}
        if self._worst_truth > row.cap:
            row.broke("I1", f"{show(self._worst_truth)} were charged on a cap of {show(row.cap)}")
        gap, truth, figure = self._worst_gap
        if gap > 0:
            row.broke("I2", f"{show(truth)} were charged when {show(figure)} were counted")
        self._compare_refused()
        if not row.vendor or (row.failed and not self.is_faulty):
            row.broke("run", f"{show(row.vendor)} were charged, and calls failed: {row.failed}")
        twice = sum(count > 1 for count in self.till.by_customer.values())
        if twice:
            row.broke("once", f"customers charged more than once: {twice}")
        if "verify" in self.extras:
            row.tested |= {"books"}
            for wrong in self.clerk.ask("verify")["wrong"]:
                row.broke("books", wrong)

    def _compare_refused(self) -> None:
        """Compare to the cent where nothing is unknown: what a refused call left behind would be too much."""
        row = self.row
        if not row.refused:
            return
        row.tested |= {"I4"}
        if "reconcile" in self.extras or not (row.failed or self.kills):
            row.tested |= {"I3"}
            if row.ledger > row.vendor:
                row.broke("I3", f"{show(row.ledger)} are counted for {show(row.vendor)} that were charged")

    def close(self) -> None:
        """Let all processes end; on a ledger that others use, no key of ours stays behind."""
        if not self.is_own and "revoke" in self.extras:
            with suppress(WorkerFailed):
                self.clerk.ask("revoke")
        for hand in self._hands:
            hand.let_go()
        for hand in self._hands:
            hand.end()
