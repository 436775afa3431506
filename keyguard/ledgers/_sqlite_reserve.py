"""What a reserve does inside one transaction of a SQLite ledger: hold anew, adopt, or be one more attempt of what is held already."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import apsw

from keyguard.identity import verdict
from keyguard.model import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyguard.ledgers._sqlite_budgets import Budgets
    from keyguard.ledgers._sqlite_charges import Charges, Place, Slot
    from keyguard.ledgers._sqlite_holds import Hold, Holds
    from keyguard.ledgers._sqlite_keys import Keys
    from keyguard.ledgers._sqlite_log import Log
    from keyguard.ledgers._sqlite_objects import Objects
    from keyguard.model import Identity, Money, Order, Reason, Unit

_STATES = {"R": "open", "U": "doubt", "S": "settled", "O": "settled", "A": "settled", "X": "released"}
# The state of a reservation as that of its only attempt so far.
_FIRST = {"R": "R", "U": "U"}


class _ChargedBefore(Exception):
    """A charge has a reservation of this generation already."""


class Reserves:
    """Reserves orders. Not thread-safe: the queue runs one batch at a time."""

    def __init__(self, log: Log, budgets: Budgets, keys: Keys, holds: Holds, objects: Objects, charges: Charges) -> None:
        self._log, self._budgets, self._keys = log, budgets, keys
        self._holds, self._objects, self._charges = holds, objects, charges

    def reserve(self, order: Order) -> Decision:
        """Hold on all legs or on none, or grant one more attempt; a refusal leaves everything as it was."""
        if order.enforce and not order.is_capped:
            # The schema's triggers look at a key only where they look at caps.
            reason = self._keys.why(order)
            if reason:
                return self._logged(order, Decision(granted=False, reason=reason, requested=order.quote.amount))
        identity = order.identity
        if identity is None or not identity.is_kept:
            return self._hold(order)
        if identity.attempt == 1:
            try:
                # As the first request of its charge, which most are; the schema says where it is not.
                return self._hold(order, n=identity.n)
            except _ChargedBefore:
                pass
        place = self._charges.place(identity)
        if place.slot is None:
            return self._first(order, place)
        return self._further(order, identity, place, place.slot)

    # -- logical charges --------------------------------------------------------------------------

    def _first(self, order: Order, place: Place) -> Decision:
        like = self._charges.lookalike(order)
        if like is not None and order.enforce:
            return self._stopped(order, "doubt_pending", *like, n=place.n)
        return self._hold(order, n=place.n)

    def _further(self, order: Order, identity: Identity, place: Place, slot: Slot) -> Decision:
        """Answer a request of a charge that was asked for before."""
        hold = self._holds.find(slot.hold) if slot.hold is not None else None
        if hold is not None and hold.id == order.reservation_id:
            return self._again(order, hold)
        state = "released" if hold is None else _STATES[hold.state]
        at = 0.0 if hold is None else hold.at
        found = verdict(identity, slot.fingerprint, state, at, self._log.at)
        if hold is not None and state == "settled" and self._charges.is_ambiguous(identity, place):
            return self._stopped(order, "ambiguous", hold.id, at, n=place.n)
        if found == "next":
            return self._taken(self._hold(order, n=place.n, generation=slot.generation + 1), order, identity)
        assert hold is not None
        if found == "attempt" and state == "settled" and self._charges.is_unanswered(hold):
            return self._stopped(order, "unanswerable", hold.id, at, n=place.n)
        if found == "attempt":
            return self._attempted(order, identity, hold, place)
        return self._stopped(order, found, hold.id, at, n=place.n)

    def _taken(self, decision: Decision, order: Order, identity: Identity) -> Decision:
        if decision.granted:
            self._charges.take(identity, decision.n, order.reservation_id, decision.generation)
        return decision

    def _attempted(self, order: Order, identity: Identity, hold: Hold, place: Place) -> Decision:
        """Let a request leave under the reservation that its charge has."""
        reason = self._keys.why(order)
        if reason:
            # An attempt holds nothing, so that no trigger of the schema looks at its key.
            return self._logged(order, Decision(granted=False, reason=reason, requested=order.quote.amount))
        is_held = hold.state in {"R", "U"}
        moved = self._moved(order, hold) if is_held else None
        if isinstance(moved, Decision):
            return moved
        target = moved or hold
        known = self._charges.attempt(order.reservation_id)
        if known is None:
            if moved is None:
                self._charges.add_attempt(order.reservation_id, target, _FIRST.get(hold.state, "S"))
                self._holds.share(target)
            self._holds.attempts.add(order.reservation_id)
            self._holds.log_change(target, "attempt", {"attempt": order.reservation_id})
        self._charges.take(identity, place.n, target.id, target.generation)
        limit, remaining = self._left(order)
        amount = target.amount if is_held else 0
        return Decision(
            granted=True, held_amount=amount, adopted=amount, requested=order.quote.amount, limit=limit, remaining=remaining, n=target.n,
            generation=target.generation, hold=target.id, at=target.at,
        )  # fmt: skip

    def _moved(self, order: Order, hold: Hold) -> Hold | Decision | None:
        """Move a hold of an earlier day to today, where its charge may be executed now; the whole must fit, else nothing moves."""
        is_childs = bool(order.budgets) or hold.above is not None
        days = (
            self._budgets.todays(hold.rows, "usd", "email")
            if is_childs
            else [self._budgets.row(leg) for leg in order.legs if leg.per == "day"]
        )
        if not set(days).difference({hold.leg0, hold.leg1, hold.leg2} if not is_childs else hold.rows):
            return None
        also = self._also(hold, order, "usd", "email", "call")
        mark = self._log.mark()
        self._log.execute("SAVEPOINT moving")
        try:
            first = _FIRST.get(hold.state, "S")
            self._charges.add_attempt(order.reservation_id, hold, first)
            self._holds.share(hold)
            self._holds.change(hold, "adopt", "A", hold.spent, 0, 0, {"by": order.reservation_id, "moved": True}, units=0)
            self._charges.leave(hold)
            decision = self._booked(order, hold.amount, hold.adopted, n=hold.n, generation=hold.generation, also=also)
            self._charges.move(hold, order.reservation_id)
        except apsw.ConstraintError as error:
            self._log.execute("ROLLBACK TO moving")
            self._log.back_to(mark)
            decision = self._refused(order, hold.amount, str(error), also)
        self._log.execute("RELEASE moving")
        if not decision.granted:
            return decision
        found = self._holds.find(order.reservation_id)
        assert found is not None
        self._holds.share(found)
        return found

    def _also(self, earlier: Hold, order: Order, *units: Unit) -> list[int]:
        """
        Return on which more budgets than its own an order is booked that takes over an earlier reservation's money.

        What a child's call has held is the child's money too, whoever goes on with it; its budgets of a day are today's.
        """
        if earlier.above is None:
            # Of a run's own call, whose budgets are those of every order of the run.
            return []
        own = {self._budgets.row(leg) for leg in order.legs}
        return [row for row in self._budgets.todays(earlier.rows, *units) if row not in own]

    def _stopped(self, order: Order, reason: Reason, hold_id: str, at: float, *, n: int) -> Decision:
        return self._logged(
            order, Decision(granted=False, reason=reason, requested=order.quote.amount, n=n, hold=hold_id, at=at), {"hold": hold_id}
        )

    def _logged(self, order: Order, decision: Decision, detail: dict[str, Any] | None = None) -> Decision:
        if decision.reason != "stale":
            self._log.refuse(order, decision.reason, detail or {})
        return decision

    # -- money ------------------------------------------------------------------------------------

    def _hold(self, order: Order, *, n: int = -1, generation: int = 0) -> Decision:
        if order.quote.adopts:
            return self._adopting(order, n, generation)
        try:
            return self._booked(order, order.quote.amount, 0, n=n, generation=generation)
        except apsw.ConstraintError as error:
            return self._refused(order, order.quote.amount, str(error))

    def _booked(self, order: Order, amount: Money, adopted: Money, *, n: int, generation: int, also: Sequence[int] = ()) -> Decision:
        hold = self._holds.add(order, amount, adopted, self._budgets.rows(order.legs, also), n=n, generation=generation)
        detail: dict[str, Any] = {}
        if n > 0:
            detail["n"] = n
        if generation:
            detail["generation"] = generation
        if not (order.enforce and order.is_capped):
            detail["observe"] = True
        if order.quote.recurring:
            detail["recurring"] = True
        self._holds.log_change(hold, "reserve", detail)
        return self._granted(order, amount, adopted, n, generation)

    def _granted(self, order: Order, amount: Money, adopted: Money, n: int, generation: int) -> Decision:
        limit, remaining = self._left(order)
        return Decision(
            granted=True, held_amount=amount, adopted=adopted, requested=amount, limit=limit, remaining=remaining, n=max(0, n),
            generation=generation,
        )  # fmt: skip

    def _left(self, order: Order) -> tuple[Money | None, Money | None]:
        """Return the run's cap and what is left of it; of a child's call those of its budget with the least left."""
        if not order.budgets:
            return self._budgets.left(order.scope)
        capped = [(cap, left) for cap, left in map(self._budgets.left, order.budgets) if cap is not None and left is not None]
        return min(capped, key=itemgetter(1), default=(None, None))

    def _again(self, order: Order, known: Hold) -> Decision:
        """Answer a reserve whose answer was lost: granted as before, unless it is over or is another order."""
        amount = max(order.quote.amount, known.adopted)
        same = (known.key_id, known.operation, known.amount) == (order.key_id, order.operation, amount)
        if known.state != "R" or not same:
            return Decision(granted=False, reason="duplicate", requested=order.quote.amount)
        return self._granted(order, known.amount, known.adopted, known.n, known.generation)

    def _adopting(self, order: Order, n: int, generation: int) -> Decision:
        """Move the object's open hold to the new reservation; if the whole does not fit, nothing moves."""
        known = self._holds.find(order.reservation_id)
        if known is not None:
            return self._again(order, known)
        place, quote = (order.scope, order.vendor, order.account), order.quote
        found = self._objects.find(place, quote.object_id or "")
        open_hold = self._holds.find(found.open_id) if found is not None and found.open_id else None
        for leg in order.legs:
            # Outside the savepoint: a day's row that its undoing took away would still be remembered.
            self._budgets.row(leg)
        # Also where nothing is left to adopt, because an earlier try of it is in doubt: the object is still its maker's.
        maker = open_hold or (self._holds.find(found.last_id) if found is not None and found.last_id else None)
        also = self._also(maker, order, "usd", "email") if maker is not None else []
        mark, amount, adopted = self._log.mark(), quote.amount, 0
        self._log.execute("SAVEPOINT adopting")
        try:
            if found is not None and open_hold is not None and open_hold.state == "O":
                adopted = open_hold.held
                amount = max(amount, adopted)
                self._holds.change(open_hold, "adopt", "A", open_hold.spent, 0, open_hold.doubt, {"by": order.reservation_id})
                self._objects.reopen(place, found.object_id, None)
            decision = self._booked(order, amount, adopted, n=n, generation=generation, also=also)
        except apsw.ConstraintError as error:
            self._log.execute("ROLLBACK TO adopting")
            self._log.back_to(mark)
            try:
                decision = self._refused(order, amount, str(error), also)
            finally:
                self._log.execute("RELEASE adopting")
            return decision
        self._log.execute("RELEASE adopting")
        return decision

    def _refused(self, order: Order, amount: Money, message: str, also: Sequence[int] = ()) -> Decision:
        """Say why the schema's triggers refused."""
        if "kg:" in message:
            # Triggers run in no promised order: a key's end is the reason also where nothing fits.
            reason = self._keys.why(order)
            decision = Decision(granted=False, reason=reason, requested=amount) if reason else self._budgets.why(order, amount, also)
        elif "holds.identity" in message:
            raise _ChargedBefore
        elif "holds.id" in message and (known := self._holds.find(order.reservation_id)) is not None:
            return self._again(order, known)
        else:
            raise apsw.ConstraintError(message)
        return self._logged(order, decision, {"scope": decision.scope} if decision.scope else {})

    def is_worth_a_sync(self, order: Order, decision: Decision) -> bool:
        """Say whether losing this reserve with the power would lose money, or a place of a call cap."""
        if not decision.granted or decision.hold not in {"", order.reservation_id}:
            # Of an attempt the money is held already.
            return False
        if decision.held_amount:
            return True
        return any(self._budgets.is_capped(leg) for leg in order.legs if leg.unit != "usd")
