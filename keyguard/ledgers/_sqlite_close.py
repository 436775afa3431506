"""What a close does inside one transaction of a SQLite ledger: settle, release, doubt; and what vendors and people say later."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keyguard.errors import ConfigurationError
from keyguard.ledgers._sqlite_holds import HoldMoved
from keyguard.model import Fact, Outcome, Receipt

if TYPE_CHECKING:
    from keyguard.ledgers._sqlite_charges import Charges, Ended
    from keyguard.ledgers._sqlite_holds import Hold, Holds
    from keyguard.ledgers._sqlite_log import Log
    from keyguard.ledgers._sqlite_objects import Known, Objects, Place
    from keyguard.ledgers._sqlite_owners import Owners
    from keyguard.model import Closing, Ending, Money

READS = frozenset({"GET", "HEAD", "OPTIONS"})
# How long what was presumed absent is asked for once more.
_PRESUMED_SECONDS = 172_800
_ENDED: dict[Ending, Ended] = {"settled": "S", "released": "X", "doubt": "U"}


class Closes:
    """Closes reservations. Not thread-safe: the queue runs one batch at a time."""

    def __init__(self, log: Log, holds: Holds, objects: Objects, charges: Charges) -> None:
        self._log, self._execute, self._holds, self._objects, self._charges = log, log.execute, holds, objects, charges
        self._buried: list[str] = []

    def close(self, closing: Closing) -> Receipt:
        """Book how a call ended; what is already settled or released stays."""
        name, outcome = closing.reservation_id, closing.outcome
        if outcome.is_final and outcome.ending == "doubt":
            self._leave_unanswered(name)
        self._holds.attempts.discard(name)
        hold = self._holds.taken(name)
        if hold is not None and hold.tries == 1:
            try:
                return self._closed(hold, closing)
            except HoldMoved:
                # Closed by another process, or a person, or shared with another call: read what it is now.
                pass
        hold = self._holds.find(name)
        if hold is not None and hold.tries == 1:
            return self._closed(hold, closing)
        attempt = self._charges.attempt(name)
        if attempt is None:
            return Receipt(name, found=False)
        found = self._holds.find(attempt[0])
        assert found is not None
        return self._attempt_closed(name, attempt[1], found, closing)

    def _leave_unanswered(self, name: str) -> None:
        attempt = self._charges.attempt(name)
        hold = self._holds.find(attempt[0] if attempt is not None else name)
        if hold is not None:
            self._charges.leave_unanswered(hold)

    def _closed(self, hold: Hold, closing: Closing) -> Receipt:
        outcome = closing.outcome
        if hold.state == "R" or (hold.state == "U" and outcome.ending != "doubt"):
            self._end(hold, outcome, {"unsent": True} if closing.unsent else {})
        elif hold.state == "X" and outcome.ending == "settled":
            # Given back from outside while its call was on the way.
            return self._late(hold, outcome, {})
        return _receipt(hold)

    def _attempt_closed(self, name: str, state: str, hold: Hold, closing: Closing) -> Receipt:
        """End one attempt of a reservation that has several."""
        outcome, was_over = closing.outcome, hold.state not in {"R", "U"}
        if state in {"S", "X"} or (state == "U" and outcome.ending == "doubt"):
            return _receipt(hold)
        self._charges.end_attempt(name, _ENDED[outcome.ending])
        if was_over:
            return self._after_the_end(hold, outcome)
        others = self._charges.others(hold, name)
        if outcome.ending == "settled" or (outcome.ending == "released" and (outcome.is_final or not others)):
            self._end(hold, outcome, {"attempt": name})
            if outcome.ending == "released":
                self._charges.end_doubts(hold, "X")
        elif hold.state == "R" and "R" not in others:
            self._end(hold, Outcome("doubt", source="local", request_id=outcome.request_id), {"attempt": name})
        else:
            self._holds.log_change(hold, "attempt", {"attempt": name, "ended": outcome.ending})
        return _receipt(hold)

    def _after_the_end(self, hold: Hold, outcome: Outcome) -> Receipt:
        """Let an attempt end whose reservation is over: it has learned what the first one bought, or that it was bought after all."""
        if outcome.ending == "settled" and hold.state == "X":
            return self._late(hold, outcome, {})
        made = None if hold.adopts else _bought(hold, outcome)
        for fact in outcome.facts if outcome.ending == "settled" else ():
            self._observe(hold, fact, is_made=fact is made)
        return Receipt(hold.id, replayed=True)

    # -- endings ----------------------------------------------------------------------------------

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
        self._charges.end_generation(hold)

    def _settle(self, hold: Hold, outcome: Outcome, detail: dict[str, Any]) -> None:
        bought = _bought(hold, outcome)
        if outcome.refund_id is not None:
            self._give_back(hold, outcome, outcome.refund_id, detail)
        elif bought is None:
            self._holds.change(hold, "settle", "S", outcome.cost, 0, 0, detail, units=outcome.units)
        else:
            self._buy(hold, bought, outcome.units, detail)
        for fact in outcome.facts:
            if fact is not bought:
                self._observe(hold, fact)
        if outcome.refund_of is not None:
            self._objects.refund(_place(hold), outcome.refund_of, hold.spent)
        if outcome.is_estimate and bought is not None and hold.spent:
            self._execute("INSERT OR IGNORE INTO estimates VALUES (?,?)", (hold.id, bought.object_id))

    def _give_back(self, hold: Hold, outcome: Outcome, refund_id: str, detail: dict[str, Any]) -> None:
        """Count a refund, unless it is a replay of one that another reservation has made."""
        known = self._objects.find(_place(hold), refund_id)
        cost = outcome.cost if known is None else max(0, outcome.cost - known.total)
        self._holds.change(hold, "settle", "S", cost, 0, 0, {**detail, "object": refund_id}, units=outcome.units)
        self._learn_refund(hold, refund_id, known, cost)

    def _learn_refund(self, hold: Hold, refund_id: str, known: Known | None, cost: Money) -> None:
        total = cost + (known.total if known is not None else 0)
        last_id = known.last_id if known is not None else hold.id
        fact = Fact(refund_id, total, 0, total, status="refund")
        self._objects.learn(_place(hold), fact, known, own=cost, total=total, open_id=None, last_id=last_id)

    def _buy(self, hold: Hold, fact: Fact, units: int | None, detail: dict[str, Any]) -> None:
        known = self._objects.find(_place(hold), fact.object_id, *fact.aliases)
        if known is not None and known.open_id not in {None, hold.id}:
            # A replay of a create: its object is open under the first reservation, which learns of it instead.
            self._holds.change(hold, "settle", "S", 0, 0, 0, detail, units=0)
            self._observe(hold, fact, is_made=not hold.adopts)
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

    def _observe(self, hold: Hold, fact: Fact, said: dict[str, Any] | None = None, *, is_made: bool = False) -> None:
        """
        Let a reply about an object of this scope update the reservation that holds its money.

        Args:
            hold: Whose call was answered.
            fact: What the answer says of the object.
            said: By whom, and why, where it was no call's answer.
            is_made: The call has made the object, and shows it as it was then: whatever else is known of it is newer.
        """
        known = self._objects.find(_place(hold), fact.object_id, *fact.aliases)
        if known is None or not (known.open_id or known.last_id):
            return
        target = self._holds.find(known.open_id or known.last_id or "")
        spent = max(0, fact.spent - known.total)
        if target is None or target.state not in {"O", "S"} or (known.open_id is None and not spent):
            return
        held = fact.held if known.open_id is not None else target.held
        if not spent and ((0 < held < target.held and fact.amount < known.amount) or (is_made and held > target.held)):
            # A replay, or a slow answer, shows the object as it was before it was raised, or lowered; it may still cost what it does now.
            fact, held = replace(fact, amount=known.amount), target.held
        if spent or held != target.held:
            detail: dict[str, Any] = {"object": known.object_id, "status": fact.status, "by": hold.id, **(said or {})}
            # What was cancelled before it was bought counts no more.
            units = None if target.spent + spent + held else 0
            self._holds.change(target, "observe", "O" if held else "S", target.spent + spent, held, 0, detail, bought=spent, units=units)
        open_id, total = known.open_id if held else None, max(known.total, fact.spent)
        self._objects.learn(_place(hold), fact, known, own=spent, total=total, open_id=open_id, last_id=known.last_id)

    # -- what is said later -------------------------------------------------------------------------

    def resolve(self, name: str, outcome: Outcome, by: str, reason: str, attempts: int | None) -> Receipt:
        """End a reservation in doubt by what a vendor or a person said."""
        hold = self._resolvable(name, outcome, attempts)
        detail: dict[str, Any] = {"by": by, "reason": reason}
        if outcome.ending == "settled" and self._is_elses(hold, outcome):
            return replace(_receipt(hold), replayed=True)
        if hold.state == "U":
            if outcome.is_presumed:
                self.forget_presumed()
                # Before its end, with which its payee goes: the vendor may be asked once more.
                self._execute("INSERT OR IGNORE INTO presumed SELECT id, ?, payee FROM holds WHERE id = ?", (self._log.at, hold.id))
            self._charges.end_doubts(hold, _ENDED[outcome.ending])
            self._end(hold, outcome, detail)
            return _receipt(hold)
        if outcome.ending == "released":
            return _receipt(hold)
        if hold.state == "O" and outcome.facts:
            return self._learned(hold, outcome, detail)
        if hold.state == "S" and outcome.facts and self._execute("SELECT 1 FROM estimates WHERE hold = ?", (hold.id,)).fetchone():
            return self._corrected(hold, outcome, detail)
        return self._late(hold, outcome, detail)

    def forget_presumed(self) -> None:
        """Forget what was presumed absent so long ago that it is asked for no more, and whom it was to pay."""
        self._execute("DELETE FROM presumed WHERE at <= ?", (self._log.at - _PRESUMED_SECONDS,))

    def _resolvable(self, name: str, outcome: Outcome, attempts: int | None) -> Hold:
        """Return a reservation that may be ended from outside."""
        attempt = self._charges.attempt(name)
        hold = self._holds.find(attempt[0] if attempt is not None else name)
        if hold is None:
            raise ConfigurationError(f"no reservation {name!r} in this ledger; `keyguard doubts` lists those in doubt")
        if outcome.ending == "doubt":
            raise ConfigurationError("a doubt is ended by settling or releasing it")
        if hold.state == "R" or (hold.tries > 1 and "R" in self._charges.others(hold, "")):
            raise ConfigurationError(f"the call of reservation {name} is still open, in a process that lives: it ends by itself")
        if attempts is not None and hold.tries != attempts:
            raise ConfigurationError(f"reservation {name} has had another attempt since the vendor was asked about it; ask again")
        return hold

    def _is_elses(self, hold: Hold, outcome: Outcome) -> bool:
        """Say whether what a reservation is said to have bought is another one's: each object is counted once."""
        bought = _bought(hold, outcome)
        if (bought is None and outcome.refund_id is None) or hold.adopts:
            return False
        names = (outcome.refund_id or "",) if bought is None else (bought.object_id, *bought.aliases)
        buyers = {buyer for name in names for buyer in self._objects.buyers(hold.vendor, hold.account, name)}
        return any(buyer.partition("+")[0] != hold.id for buyer in buyers)

    def _learned(self, hold: Hold, outcome: Outcome, detail: dict[str, Any]) -> Receipt:
        """Let an open intent learn from what was read of its object."""
        for fact in outcome.facts:
            self._observe(hold, fact, detail)
        return _receipt(self._again(hold))

    def _corrected(self, hold: Hold, outcome: Outcome, detail: dict[str, Any]) -> Receipt:
        """Put the vendor's price in the place of an estimate, in the reservation's own windows."""
        fact = outcome.facts[0]
        known = self._objects.find(_place(hold), fact.object_id, *fact.aliases)
        change = fact.spent - (known.total if known is not None else hold.spent)
        if change:
            detail = {**detail, "object": fact.object_id, "status": fact.status}
            self._holds.change(hold, "correct", "S", max(0, hold.spent + change), 0, 0, detail, bought=change)
        self._objects.learn(_place(hold), fact, known, own=change, total=fact.spent, open_id=None, last_id=hold.id)
        if not outcome.is_estimate:
            self._execute("DELETE FROM estimates WHERE hold = ?", (hold.id,))
        return _receipt(hold)

    def _again(self, hold: Hold) -> Hold:
        found = self._holds.find(hold.id)
        assert found is not None
        return found

    def _late(self, hold: Hold, outcome: Outcome, detail: dict[str, Any]) -> Receipt:
        """Book what a call that is over did cost above what is known of it."""
        bought, known = _bought(hold, outcome), None
        if outcome.refund_id is not None:
            known = self._objects.find(_place(hold), outcome.refund_id)
            spent, held = max(0, outcome.cost - (known.total if known is not None else hold.spent + self._holds.late(hold)[1])), 0
        elif bought is None:
            spent, held = max(0, outcome.cost - hold.spent - self._holds.late(hold)[1]), 0
        else:
            known = self._objects.find(_place(hold), bought.object_id, *bought.aliases)
            spent = max(0, bought.spent - (known.total if known is not None else hold.prior))
            held = bought.held if known is None or known.open_id is None else 0
        if not spent + held:
            return Receipt(hold.id, replayed=True)
        self._execute("DELETE FROM presumed WHERE hold = ?", (hold.id,))
        found = self._holds.add_late(hold, spent, held, {**detail, "of": hold.id})
        if bought is not None:
            total = max(bought.spent, known.total if known is not None else 0)
            open_id = found.id if held else known.open_id if known is not None else None
            self._objects.learn(_place(hold), bought, known, own=spent, total=total, open_id=open_id, last_id=found.id)
        if outcome.refund_id is not None:
            self._learn_refund(found, outcome.refund_id, known, spent)
        if outcome.refund_of is not None:
            self._objects.refund(_place(hold), outcome.refund_of, spent)
        return _receipt(found)

    # -- processes that ended -----------------------------------------------------------------------

    def doubt_the_dead(self, owners: Owners) -> None:
        """Put in doubt what ended processes had reserved and not closed: nobody is left who knows how their calls ended."""
        for owner, since in owners.dead():
            said = {"ended": owners.whereabouts(owner) or owner}
            for hold in self._holds.left_by(owner, since):
                if hold.tries > 1:
                    self._lose(hold.id, said)
                    continue
                # As of a living process: a free read that got no answer leaves nothing to doubt.
                is_free = hold.method in READS and not hold.amount
                self._end(hold, Outcome("settled" if is_free else "doubt", source="local"), {**said})
            for attempt in self._charges.left_by(owner):
                self._lose(attempt, said)
            self._buried.append(owner)

    def _lose(self, attempt: str, said: dict[str, Any]) -> None:
        found = self._charges.attempt(attempt)
        hold = self._holds.find(found[0]) if found is not None else None
        if found is not None and hold is not None:
            self._charges.end_attempt(attempt, "U")
            if hold.state == "R" and "R" not in self._charges.others(hold, attempt):
                self._end(hold, Outcome("doubt", source="local"), {"attempt": attempt, **said})

    def forget_the_dead(self, owners: Owners) -> None:
        """Remove the marks of ended processes, once what they left is committed."""
        while self._buried:
            owners.forget(self._buried.pop())

    def forget(self) -> None:
        """Drop what is remembered of an undone batch."""
        self._buried.clear()


def _receipt(hold: Hold) -> Receipt:
    return Receipt(hold.id, spent=hold.spent, held=hold.held, doubt=hold.doubt, overrun=hold.overrun, recurring=hold.is_repeated)


def _place(hold: Hold) -> Place:
    return hold.scope, hold.vendor, hold.account


def _bought(hold: Hold, outcome: Outcome) -> Fact | None:
    """Return the fact about what this write bought: the object it made, or whose hold it adopted."""
    if hold.method in READS or not outcome.facts or (hold.object_id is not None and not hold.adopts):
        return None
    return outcome.facts[0]
