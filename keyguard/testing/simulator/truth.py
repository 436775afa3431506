"""What really happened, as the judge keeps it: of each run its vendor objects, its reservations, and what may still come. Asks no ledger.

Two figures follow from it, for a run and for each of its days, in micro-USD. `least` is what the vendor has charged and may still charge of
what was asked of it; whatever a ledger counts must be at least that. `most` is what can be explained: what answers have told, and the holds
of calls whose end nobody has told; whatever a ledger counts above it would cause false refusals.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from keyguard.testing.simulator.vendor import CENT, Answer, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Identity, Policy
    from keyguard.testing.simulator.vendor import Intent

# Of Stripe's answers, those that say that the request was not executed.
NOT_EXECUTED = frozenset({400, 401, 402, 403, 404, 429})
# How an attempt ended for its client: an answer, None = nobody knows.
Said: TypeAlias = "Answer | Literal['unsent'] | None"


@dataclass(slots=True, eq=False)
class Charge:
    """
    One reservation; a call, and the further calls that the ledger took for attempts of the same.

    Attributes:
        day: The UTC date whose window it counts on; "" where it may have been moved to another one.
        hold: What it holds, an adopted part included.
        adopted: That part, which is open again where nothing of this was executed.
        claim: What its thing may cost in all, as its call was quoted.
        thing: The vendor object that it is about; `adopts` = it takes that one's open hold over.
        buys: What it made, or took over, counts on its own day.
        is_counted: It counts as one of the run's calls.
        identity, n: Of the logical charge.
        at: The ledger's time when it was made.
        is_over: How it ended was told to the ledger.
        is_free: Surely nothing of it was executed.
        gave_back: What it refunded.
        torn: Where its reserve raised: the earlier ones that it may have taken over.
    """

    id: str
    run: Run
    day: str
    pot: Literal["run", "refund"]
    hold: int
    adopted: int = 0
    claim: int = 0
    thing: Thing | None = None
    adopts: bool = False
    buys: bool = False
    is_counted: bool = True
    identity: Identity | None = None
    n: int = 0
    operation: str = ""
    at: float = 0.0
    calls: list[Record] = field(default_factory=list["Record"])
    was_sent: bool = False
    is_over: bool = False
    is_free: bool = False
    gave_back: int = 0
    torn: list[Charge] = field(default_factory=list["Charge"])
    day_before: str = ""

    def tear(self) -> None:
        """Wait for the answer to a reserve that may have moved it to another day."""
        self.day_before, self.day = self.day or self.day_before, ""

    def mend(self, day: str | None) -> None:
        """Learn where it counts; None = where it did."""
        self.day = day or self.day or self.day_before
        if self.thing is not None:
            self.thing.days.append(self.day)


@dataclass(slots=True, eq=False)
class Record:
    """
    One call.

    Attributes:
        charge: Its reservation.
        said: How each of its tries on the wire ended for the client.
        state: `open`: it runs, or its process died in it; `maybe`: its reserve raised, and may have been committed; `unknown`: closed,
            and nobody could tell how it ended; `known`: everything was told to the ledger.
        is_lost: An exception struck where nobody could say any more what its tries had come to.
        may_be_closed: A close of it raised, and may have been booked.
        ledger: The handle through which it was made.
    """

    id: str
    charge: Charge
    state: Literal["open", "maybe", "unknown", "known"] = "open"
    said: list[Said] = field(default_factory=list["Said"])
    is_lost: bool = False
    may_be_closed: bool = False
    ledger: object = None

    @property
    def told(self) -> Answer | None:
        """The answer that says what was bought, if one came."""
        for one in self.said:
            if isinstance(one, Answer) and one.status < 300:
                return one
        return None

    @property
    def is_final(self) -> bool:
        """Whether an answer came that the vendor gives to every request with the same key: none of them was executed."""
        return any(isinstance(one, Answer) and one.status in NOT_EXECUTED and (one.status == 402 or one.is_replay) for one in self.said)

    @property
    def is_free(self) -> bool:
        """Whether surely no try of it was executed."""
        if self.is_lost and self.said:
            return False
        return self.is_final or all(one == "unsent" or (isinstance(one, Answer) and one.status in NOT_EXECUTED) for one in self.said)


@dataclass(slots=True, eq=False)
class Thing:
    """
    One vendor object of a run, as the judge sees it.

    Attributes:
        holder: The reservation that holds what it may still cost: its maker's, or the last one that adopted it.
        days: Every day on which something of it may be counted.
        told_spent, told_open: What the ledger was told last; `told_version` says how old that was.
        charger: Whose request made the vendor charge it; None = somebody elsewhere did.
        day: Where the charge counts since it was told; "" before.
        claims: The reservations that hold money for it, while their end is not told; `maker`, the one that made it.
        is_blurred: Answers came in another order than their causes, so that only bounds can be said.
    """

    intent: Intent
    holder: Charge
    days: list[str]
    claims: list[Charge]
    maker: Charge
    told_spent: int = 0
    told_open: int = 0
    told_version: int = -1
    charger: Charge | None = None
    day: str = ""
    is_blurred: bool = False

    @property
    def known(self) -> int:
        """What anybody on this side could know that it may cost; somebody elsewhere may have raised it since."""
        return max([self.told_spent + self.told_open, *[claim.claim for claim in self.claims]])

    @property
    def spent_day(self) -> str:
        """The day on which what was charged counts; "" = nobody can say."""
        return self.day or (self.charger or self.holder).day

    def is_taken_from(self, charge: Charge) -> bool:
        """Say whether a call has the open hold, so that another's answer about the same thing opens nothing beside it."""
        return not (charge.adopts and not charge.is_over) and any(one.adopted for one in self.claims if one is not charge)

    def hear_again(self, still_open: int, charge: Charge) -> None:
        """Take note of an answer that is older than what was told before."""
        self.is_blurred = True
        if not self.is_taken_from(charge):
            self.told_open = max(self.told_open, still_open)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it can change any more without another call."""
        if self.claims or (self.intent.received and not self.day):
            return False
        return self.intent.is_loose or (not self.intent.open and self.told_version == self.intent.version)


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
        overrun: How far charges went above what anybody here could know.
        wanted: How many charges of a kind its flow means to make; `made`, how many were.
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
