"""The books of a SQLite ledger: what a reserve and a close do inside one transaction. Opens and locks nothing.

Every change is a row of the log beside the cached rows it folds into. `holds` carries the three parts of
each reservation; triggers of the schema keep `bucket` equal to their sums and refuse what does not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw

from keyguard.ledgers._sqlite_budgets import Budgets
from keyguard.ledgers._sqlite_holds import HoldMoved, Holds
from keyguard.ledgers._sqlite_keys import Keys
from keyguard.ledgers._sqlite_log import Log, chained
from keyguard.ledgers._sqlite_objects import Objects
from keyguard.ledgers._sqlite_proof import refold
from keyguard.model import Decision, Memory, Outcome, Receipt, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.ledgers._sqlite_holds import Hold
    from keyguard.ledgers._sqlite_objects import Place
    from keyguard.ledgers._sqlite_owners import Owners
    from keyguard.model import Closing, Fact, Money, Order, VaultKey

_MARKED_EVERY = 1000
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Books:
    """The operations of one connection. Not thread-safe: the queue runs one batch at a time."""

    def __init__(self, db: apsw.Connection, clock: Callable[[], float], owners: Owners, *, is_idle: bool) -> None:
        self._owners, self._is_unmarked, self._reserves_unmarked = owners, True, 0
        self._buried: list[str] = []
        self.log = Log(db, clock)
        self.budgets = Budgets(self.log)
        self.keys = Keys(self.log, self.budgets)
        self._holds, self._objects = Holds(self.log, owners.mine, is_idle=is_idle), Objects(self.log)

    @property
    def is_idle(self) -> bool:
        """Whether this process surely has no reservation that it did not close."""
        return self._holds.is_idle

    def _mark(self) -> None:
        if self._is_unmarked:
            self.doubt_the_dead()
        if self._is_unmarked or self._holds.is_idle:
            self._owners.claim(self.log.mark()[0])
        self._is_unmarked, self._reserves_unmarked = False, _MARKED_EVERY

    def rollback(self) -> None:
        """Undo the batch; what was remembered of it is forgotten."""
        self.budgets.forget()
        self._holds.forget()
        self._buried.clear()
        self.log.rollback()

    # -- reserve ----------------------------------------------------------------------------------

    def reserve(self, order: Order) -> Decision:
        """Hold on all legs or on none; a refusal leaves everything as it was."""
        if self._reserves_unmarked <= 0:
            self._mark()
        self._reserves_unmarked -= 1
        if order.quote.adopts:
            return self._adopting(order)
        try:
            return self._booked(order, order.quote.amount, 0)
        except apsw.ConstraintError as error:
            return self._refused(order, order.quote.amount, str(error))

    def _booked(self, order: Order, amount: Money, adopted: Money) -> Decision:
        legs: list[int] = []
        counts: dict[str, int | None] = {"call": None, "email": None}
        for leg in order.legs:
            if leg.unit == "usd":
                legs.append(self.budgets.row(leg))
            else:
                counts[leg.unit] = self.budgets.row(leg)
        hold = self._holds.add(order, amount, adopted, legs, counts["call"], counts["email"])
        detail: dict[str, Any] = {}
        if order.identity:
            detail["identity"] = order.identity
        if not order.enforce:
            detail["observe"] = True
        if order.quote.recurring:
            detail["recurring"] = True
        self._holds.log_change(hold, "reserve", detail)
        return self._granted(order, amount, adopted)

    def _granted(self, order: Order, amount: Money, adopted: Money) -> Decision:
        limit, remaining = self.budgets.left(order.scope)
        return Decision(granted=True, held_amount=amount, adopted=adopted, requested=amount, limit=limit, remaining=remaining)

    def _again(self, order: Order, known: Hold) -> Decision:
        """Answer a reserve whose answer was lost: granted as before, unless it is over or is another order."""
        amount = max(order.quote.amount, known.adopted)
        same = (known.key_id, known.operation, known.amount) == (order.key_id, order.operation, amount)
        if known.state != "R" or not same:
            return Decision(granted=False, reason="duplicate", requested=order.quote.amount)
        return self._granted(order, known.amount, known.adopted)

    def _adopting(self, order: Order) -> Decision:
        """Move the object's open hold to the new reservation; if the whole does not fit, nothing moves."""
        known = self._holds.find(order.reservation_id)
        if known is not None:
            return self._again(order, known)
        place, quote = (order.scope, order.vendor, order.account), order.quote
        found = self._objects.find(place, quote.object_id or "")
        open_hold = self._holds.find(found.open_id) if found is not None and found.open_id else None
        for leg in order.legs:
            # Outside the savepoint: a day's row that its undoing took away would still be remembered.
            self.budgets.row(leg)
        mark, amount, adopted = self.log.mark(), quote.amount, 0
        self.log.execute("SAVEPOINT adopting")
        try:
            if found is not None and open_hold is not None and open_hold.state == "O":
                adopted = open_hold.held
                amount = max(amount, adopted)
                self._holds.change(open_hold, "adopt", "A", open_hold.spent, 0, open_hold.doubt, {"by": order.reservation_id})
                self._objects.reopen(place, found.object_id, None)
            decision = self._booked(order, amount, adopted)
        except apsw.ConstraintError as error:
            self.log.execute("ROLLBACK TO adopting")
            self.log.back_to(mark)
            decision = self._refused(order, amount, str(error))
        self.log.execute("RELEASE adopting")
        return decision

    def _refused(self, order: Order, amount: Money, message: str) -> Decision:
        """Say why the schema's triggers refused."""
        if "kg:" in message:
            # Triggers run in no promised order: a key's end is the reason also where nothing fits.
            reason = self.keys.why(order)
            decision = Decision(granted=False, reason=reason, requested=amount) if reason else self.budgets.why(order, amount)
        elif "holds.id" in message and (known := self._holds.find(order.reservation_id)) is not None:
            return self._again(order, known)
        else:
            raise apsw.ConstraintError(message)
        if decision.reason != "stale":
            self.log.refuse(order, decision.reason, {"scope": decision.scope} if decision.scope else {})
        return decision

    def is_worth_a_sync(self, order: Order, decision: Decision) -> bool:
        """Say whether losing this reserve with the power would lose money, or a place of a call cap."""
        if not decision.granted or decision.held_amount:
            return decision.granted
        return any(self.budgets.is_capped(leg) for leg in order.legs if leg.unit != "usd")

    # -- close ------------------------------------------------------------------------------------

    def close(self, closing: Closing) -> Receipt:
        """Book how a reservation ended; what is already settled or released stays."""
        hold = self._holds.taken(closing.reservation_id)
        if hold is not None:
            try:
                return self._closed(hold, closing)
            except HoldMoved:
                # Closed by another process, or a person: read what it is now.
                pass
        hold = self._holds.find(closing.reservation_id)
        return Receipt(closing.reservation_id, found=False) if hold is None else self._closed(hold, closing)

    def _closed(self, hold: Hold, closing: Closing) -> Receipt:
        outcome = closing.outcome
        if hold.state == "R" or (hold.state == "U" and outcome.ending != "doubt"):
            self._end(hold, outcome, {"unsent": True} if closing.unsent else {})
        return Receipt(hold.id, spent=hold.spent, held=hold.held, doubt=hold.doubt, overrun=hold.overrun, recurring=hold.is_repeated)

    def _end(self, hold: Hold, outcome: Outcome, detail: dict[str, Any]) -> None:
        if outcome.request_id:
            detail["request_id"] = outcome.request_id
        if outcome.ending == "doubt":
            self._holds.change(hold, "doubt", "U", 0, 0, hold.amount, detail)
        elif outcome.ending == "released":
            self._release(hold, detail)
        else:
            self._settle(hold, outcome, detail)

    def _release(self, hold: Hold, detail: dict[str, Any]) -> None:
        """Give back what this call itself reserved; an adopted hold is an open intent again."""
        self._holds.change(hold, "release", "O" if hold.adopted else "X", 0, hold.adopted, 0, detail, units=0)
        if hold.adopted:
            self._objects.reopen(_place(hold), hold.object_id or "", hold.id)

    def _settle(self, hold: Hold, outcome: Outcome, detail: dict[str, Any]) -> None:
        bought = _bought(hold, outcome)
        if bought is None:
            self._holds.change(hold, "settle", "S", outcome.cost, 0, 0, detail, units=outcome.units)
        else:
            self._buy(hold, bought, outcome.units, detail)
        for fact in outcome.facts:
            if fact is not bought:
                self._observe(hold, fact)
        if outcome.refund_of is not None:
            self._objects.refund(_place(hold), outcome.refund_of, outcome.cost)

    def _buy(self, hold: Hold, fact: Fact, units: int | None, detail: dict[str, Any]) -> None:
        known = self._objects.find(_place(hold), fact.object_id, *fact.aliases)
        if known is not None and known.open_id not in {None, hold.id}:
            # A replay of a create: its object is open under the first reservation, which learns of it instead.
            self._holds.change(hold, "settle", "S", 0, 0, 0, detail, units=0)
            self._observe(hold, fact)
            return
        before = known.total if known is not None else hold.prior
        spent, held = max(0, fact.spent - before), fact.held
        if known is not None and known.last_id not in {None, hold.id} and not hold.adopts:
            # A replay of a create whose object is final: nothing can still be open.
            held = units = 0
        detail = {**detail, "object": fact.object_id}
        self._holds.change(hold, "settle", "O" if held else "S", spent, held, 0, detail, bought=spent, units=units)
        open_id = hold.id if held else None
        self._objects.learn(_place(hold), fact, known, own=spent, total=max(before, fact.spent), open_id=open_id, last_id=hold.id)

    def _observe(self, hold: Hold, fact: Fact) -> None:
        """Let a reply about an object of this scope update the reservation that holds its money."""
        known = self._objects.find(_place(hold), fact.object_id, *fact.aliases)
        if known is None or not (known.open_id or known.last_id):
            return
        target = self._holds.find(known.open_id or known.last_id or "")
        spent = max(0, fact.spent - known.total)
        if target is None or target.state not in {"O", "S"} or (known.open_id is None and not spent):
            return
        held = fact.held if known.open_id is not None else target.held
        if spent or held != target.held:
            detail: dict[str, Any] = {"object": known.object_id, "status": fact.status, "by": hold.id}
            # What was cancelled before it was bought counts no more.
            units = None if target.spent + spent + held else 0
            self._holds.change(target, "observe", "O" if held else "S", target.spent + spent, held, 0, detail, bought=spent, units=units)
        open_id, total = known.open_id if held else None, max(known.total, fact.spent)
        self._objects.learn(_place(hold), fact, known, own=spent, total=total, open_id=open_id, last_id=known.last_id)

    # -- processes that ended -----------------------------------------------------------------------

    def doubt_the_dead(self) -> None:
        """Put in doubt what ended processes had reserved and not closed: nobody is left who knows how their calls ended."""
        for owner, since in self._owners.dead():
            for hold in self._holds.left_by(owner, since):
                # As of a living process: a free read that got no answer leaves nothing to doubt.
                is_free = hold.method in _READS and not hold.amount
                self._end(hold, Outcome("settled" if is_free else "doubt", source="local"), {"ended": owner})
            self._buried.append(owner)

    def forget_the_dead(self) -> None:
        """Remove the marks of ended processes, once what they left is committed."""
        while self._buried:
            self._owners.forget(self._buried.pop())

    # -- reading ----------------------------------------------------------------------------------

    def recall(self, scope: str, vendor: str, account: str, object_id: str) -> Memory | None:
        """Return what is remembered of an object, by any of its names."""
        found = self._objects.find((scope, vendor, account), object_id)
        if found is None:
            return None
        open_hold = self._holds.find(found.open_id) if found.open_id else None
        return Memory(
            found.object_id, own=found.own, spent=found.total, held=open_hold.held if open_hold is not None else 0,
            amount=found.amount, refunded=found.refunded, status=found.status, currency=found.currency,
        )  # fmt: skip

    def usage(self, scope: str) -> Usage | None:
        """Return a scope's figures, as they are now that some processes have ended."""
        self.doubt_the_dead()
        return self.budgets.usage(scope)

    def runs(self, limit: int) -> list[tuple[VaultKey, Usage]]:
        """Return the latest keys with their figures, newest first."""
        self.doubt_the_dead()
        return [(key, self.budgets.usage(key.scope) or Usage(key.scope)) for key in self.keys.latest(limit)]

    def verify(self) -> list[str]:
        """Refold the log and compare it with the balances."""
        return refold(self.log.db, chained)


def _place(hold: Hold) -> Place:
    return hold.scope, hold.vendor, hold.account


def _bought(hold: Hold, outcome: Outcome) -> Fact | None:
    """Return the fact about what this write bought: the object it made, or whose hold it adopted."""
    if hold.method in _READS or not outcome.facts or (hold.object_id is not None and not hold.adopts):
        return None
    return outcome.facts[0]
