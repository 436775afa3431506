"""What really happened, as the judge keeps it: reservations, calls under them, and what they are about at the vendor. Asks no ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from keyguard.testing.simulator.exchange import Answer

if TYPE_CHECKING:
    from keyguard.model import Identity
    from keyguard.testing.simulator.exchange import Intent
    from keyguard.testing.simulator.runs import Run

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
        gave_back: What it refunded; `refund_id`, under which name.
        torn: Where its reserve raised: the earlier ones that it may have taken over.
        budgets: The children's budgets that it counts on besides the run's.
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
    refund_id: str = ""
    torn: list[Charge] = field(default_factory=list["Charge"])
    day_before: str = ""
    budgets: frozenset[str] = frozenset()

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
        return (
            not (charge.adopts and not charge.is_over)
            and self.holder is not charge
            and self.holder.adopted > 0
            and self.holder in self.claims
        )

    def hear_again(self, still_open: int, charge: Charge) -> None:
        """Take note of an answer that is older than what was told before."""
        self.is_blurred = True
        is_made = charge.buys and not charge.adopts
        # What a create shows again is as it was made: the ledger raises nothing by it.
        if not self.is_taken_from(charge) and not is_made:
            self.told_open = max(self.told_open, still_open)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it can change any more without another call."""
        if self.claims or (self.intent.received and not self.day):
            return False
        return self.intent.is_loose or (not self.intent.open and self.told_version == self.intent.version)
