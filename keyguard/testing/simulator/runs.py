"""What really happened to each run, as the judge keeps it, and the two figures that follow from it. Asks no ledger.

For a run and for each of its days, in micro-USD: `least` is what the vendor has charged and may still charge of what was asked of it;
whatever a ledger counts must be at least that. `most` is what can be explained: what answers have told, and the holds of calls whose end
nobody has told; whatever a ledger counts above it would cause false refusals.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keyguard.testing.simulator.exchange import CENT, Request
from keyguard.testing.simulator.truth import Charge, Thing

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Policy


@dataclass(slots=True, eq=False)
class ChildRun:
    """A child of a run: its limits."""

    policy: Policy
    cap: int


@dataclass(slots=True, eq=False)
class Run:
    """
    One run: its limits as people set them, and what its calls did.

    Attributes:
        cap, top: The run's cap in force, and the largest it ever was.
        things, active: Its vendor objects, and those of them that are not over.
        live: Its reservations whose end nobody has told.
        pending: Its requests at the vendor that may still have an effect.
        charged, refunded: What the vendor really charged, and gave back of it. Refunds of other runs' charges are in `foreign`.
        overrun: What was charged above what was asked for here: somebody elsewhere had raised it.
        wanted: How many charges of a kind its flow means to make; `made`, how many were.
        children: Its children, by their budgets.
    """

    run_id: str
    policy: Policy
    cap: int
    top: int
    version: int = 1
    expires_at: float | None = None
    is_revoked: bool = False
    may_be_revoked: bool = False
    things: dict[tuple[str, str], Thing] = field(default_factory=dict[tuple[str, str], "Thing"])
    active: dict[tuple[str, str], Thing] = field(default_factory=dict[tuple[str, str], "Thing"])
    live: dict[str, Charge] = field(default_factory=dict[str, "Charge"])
    named: dict[str, list[Charge]] = field(default_factory=dict[str, "list[Charge]"])
    pending: list[Request] = field(default_factory=list[Request])
    charged: int = 0
    overrun: int = 0
    refunded: int = 0
    foreign: list[tuple[Charge, int]] = field(default_factory=list[tuple[Charge, int]])
    told_refunds: dict[str, int] = field(default_factory=dict[str, int])
    told_foreign: dict[str, tuple[Charge, int]] = field(default_factory=dict[str, tuple[Charge, int]])
    sent: int = 0
    granted: int = 0
    wanted: Counter[object] = field(default_factory=Counter[object])
    made: Counter[object] = field(default_factory=Counter[object])
    # Of things that are over, by day: what was charged, and what may be counted of it.
    past: Counter[str] = field(default_factory=Counter[str])
    past_told: int = 0
    past_open: int = 0
    past_days: Counter[str] = field(default_factory=Counter[str])
    children: dict[str, ChildRun] = field(default_factory=dict[str, ChildRun])
    past_in: Counter[str] = field(default_factory=Counter[str])

    @property
    def scope(self) -> str:
        """The run's budget."""
        return f"run:{self.run_id}"

    def touch(self, thing: Thing) -> None:
        """Look at a thing again from now on."""
        name = (thing.intent.account, thing.intent.id)
        if name not in self.active:
            self.active[name] = thing
            self._fold(thing, -1)

    def retire(self) -> None:
        """Fold what is over into sums, so that looking at a run costs no more for what it did long ago."""
        for name in [name for name, thing in self.active.items() if thing.is_over]:
            self._fold(self.active.pop(name), 1)

    def _fold(self, thing: Thing, sign: int) -> None:
        told = sign * (thing.told_spent + thing.told_open)
        self.past_told += told
        self.past_open += sign * thing.told_open
        self.past[thing.day] += sign * thing.intent.received
        for budget in thing.maker.budgets:
            self.past_in[budget] += sign * thing.intent.received
        for day in thing.days:
            self.past_days[day] += told

    def least(self, may_execute: Callable[[Request], bool]) -> tuple[int, int, Counter[str]]:
        """Return what was and may still be charged, the same of refunds, and the first by day; "" = on no day that could be told."""
        days = self.past.copy()
        for charge, amount in self.foreign:
            days[charge.day] += amount
        refunds, extra = self.refunded, dict[int, int]()
        if self.pending:
            self.pending = [request for request in self.pending if may_execute(request)]
        # Those that share a key are executed once.
        for request in {(request.account, request.key): request for request in self.pending}.values():
            charge = request.by
            amount = int(dict(request.params).get("amount", "0")) * CENT
            if request.words[0] == "refunds" and charge.pot == "refund":
                refunds += _refundable(charge, amount)
            elif request.words[0] == "refunds":
                days[charge.day] += _refundable(charge, amount)
            elif len(request.words) == 1:
                days[charge.day] += amount
            elif charge.thing is not None:
                extra[id(charge.thing)] = max(extra.get(id(charge.thing), 0), amount - charge.thing.intent.amount)
        for thing in self.active.values():
            _add(days, thing, extra.get(id(thing), 0))
        return sum(days.values()), refunds, days

    def least_in(self, budget: str) -> int:
        """Return what was surely charged of what a child has made, or what lies in it: whoever goes on with it, it is the child's money."""
        made = [thing for thing in self.active.values() if budget in thing.maker.budgets]
        return self.past_in[budget] + sum(min(thing.intent.received, thing.known) for thing in made)

    def most(self) -> tuple[int, int, Counter[str]]:
        """Return what can be explained, the same of refunds, and the first by day; "" = on any day."""
        days, total, refunds = self.past_days.copy(), self.past_told, sum(self.told_refunds.values())
        for charge, amount in self.told_foreign.values():
            total, days[charge.day] = total + amount, days[charge.day] + amount
        for charge in self.live.values():
            if charge.pot == "refund":
                refunds += charge.hold
            else:
                total, days[charge.day] = total + charge.hold, days[charge.day] + charge.hold
        for thing in self.active.values():
            told = thing.told_spent + thing.told_open
            total += told
            for day in thing.days:
                days[day] += told
        return total, refunds, days


def _refundable(charge: Charge, amount: int) -> int:
    return 0 if charge.thing is None else max(0, min(amount, charge.thing.intent.received - charge.thing.intent.refunded))


def _add(days: Counter[str], thing: Thing, extra: int) -> None:
    """Add what a thing was charged, and what it may still be; not what somebody elsewhere added, before it is told."""
    intent = thing.intent
    may_come = 0 if intent.is_loose else intent.open + (max(0, extra) if intent.status != "succeeded" else 0)
    known = thing.known
    charged = min(intent.received, known)
    # Whether a call has moved the hold to its own day nobody knows before its reserve is answered.
    is_torn = any(claim.calls[0].state == "maybe" for claim in thing.claims)
    days[thing.spent_day if thing.day or not is_torn else ""] += charged
    days["" if is_torn else thing.holder.day] += max(0, min(may_come, known - charged))
