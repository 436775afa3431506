"""The judge on what a ledger was asked and what it did: each reserve, close and late word is noted, and judged. Decides nothing."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from keyguard.model import Leg
from keyguard.testing.simulator.checks import Checks
from keyguard.testing.simulator.truth import Charge, Record, Thing

if TYPE_CHECKING:
    from keyguard.errors import LedgerUnavailable
    from keyguard.model import Closing, Decision, Order, Receipt
    from keyguard.testing.simulator.exchange import Answer, Intent
    from keyguard.testing.simulator.machine import SimulatedLedger
    from keyguard.testing.simulator.runs import Run


class Bookings(Checks):
    """What the ledger was told, and what it has to know since."""

    def reserved(self, ledger: SimulatedLedger, order: Order, decision: Decision | None) -> None:
        """A reserve was decided; without a decision it raised, and may have been committed."""
        run, legs = self.runs[order.scope.removeprefix("run:")], self.legs(ledger, order)
        before = [self.counted(*name) for _, name in legs]
        self.look(ledger, run)
        if decision is None:
            self._book(ledger, run, order, None)
        elif decision.granted:
            self.grants += 1
            self.kinds[_kind(order, decision)] += 1
            self.check_grant(ledger, run, order, decision, legs)
            earlier = self._charge_of(run, order, decision)
            if earlier is None:
                self._book(ledger, run, order, decision)
            else:
                self._share(ledger, earlier, order, decision)
        else:
            self.refusals += 1
            self.kinds[decision.reason] += 1
            if [self.counted(*name) for _, name in legs] != before:
                raise self.broken("I3", f"the refused {order.operation} of {run.run_id} changed a balance: {legs}")
            self.check_refusal(ledger, run, order, decision, legs)
        self.check(run)

    def legs(self, ledger: SimulatedLedger, order: Order) -> list[tuple[Leg, tuple[str, str]]]:
        """Return the budgets of an order, each with its window now, and those that what it takes over stays on."""
        day = self.day(ledger)
        taken = [Leg(budget) for budget in sorted(self._taken_budgets(order)) if budget not in order.budgets]
        return [(leg, (leg.scope, day if leg.per == "day" else "")) for leg in (*order.legs, *taken)]

    def _taken_budgets(self, order: Order) -> frozenset[str]:
        """Return the children's budgets of what an order adopts, or may be another attempt of."""
        run = self.runs[order.scope.removeprefix("run:")]
        thing = run.things.get((order.account, order.quote.object_id or "")) if order.quote.adopts else None
        adopted = thing.holder.budgets if thing is not None else frozenset[str]()
        earlier = run.named.get(order.identity.request, ()) if order.identity is not None else ()
        return adopted.union(*(charge.budgets for charge in earlier if not charge.is_free))

    def day(self, ledger: SimulatedLedger) -> str:
        """Return the day of a ledger's clock, as of its last batch."""
        return ledger.books.log.day if ledger.books is not None else self.date()

    def date(self) -> str:
        """Return the UTC date of the machine's clock."""
        return datetime.fromtimestamp(self.now(), timezone.utc).strftime("%Y-%m-%d")

    def _charge_of(self, run: Run, order: Order, decision: Decision) -> Charge | None:
        """Return the reservation that a granted call is another attempt of."""
        if not decision.hold:
            return None
        found = self.records.get(decision.hold)
        if found is None and order.identity is not None:
            # It was moved to today, and has this call's id now.
            return [one for one in run.named[order.identity.request] if one.n == decision.n and not one.is_free][-1]
        return found.charge if found is not None else None

    def _share(self, ledger: SimulatedLedger, charge: Charge, order: Order, decision: Decision) -> None:
        record = Record(order.reservation_id, charge, ledger=ledger)
        self.records[record.id] = record
        charge.calls.append(record)
        charge.run.granted += charge.is_counted
        if decision.hold == order.reservation_id:
            charge.budgets |= frozenset(order.budgets[:-1])
            charge.day = self.day(ledger)
            if charge.thing is not None:
                charge.thing.days.append(charge.day)

    def _book(self, ledger: SimulatedLedger, run: Run, order: Order, decision: Decision | None) -> None:
        is_counted, hold = any(leg.unit == "call" for leg in order.legs), order.quote.amount
        charge = Charge(order.reservation_id, run, self.day(ledger), order.quote.pot, hold, is_counted=is_counted)
        if decision is not None:
            hold = charge.hold = decision.held_amount
            charge.adopted, charge.n = decision.adopted, decision.n
        charge.identity, charge.operation, charge.at = order.identity, order.operation, ledger.books.log.at if ledger.books else self.now()
        charge.budgets = frozenset(order.budgets[:-1])
        charge.buys = order.method == "POST" and (order.quote.object_id is None or order.quote.adopts)
        record = Record(order.reservation_id, charge, "open" if decision is not None else "maybe", ledger=ledger)
        charge.calls.append(record)
        self.records[record.id], run.live[charge.id] = record, charge
        if order.identity is not None:
            named = run.named.setdefault(order.identity.request, [])
            if decision is None:
                charge.torn = [one for one in named if not one.is_over]
                for one in charge.torn:
                    one.tear()
            named.append(charge)
        run.granted += is_counted
        name = (order.account, order.quote.object_id or "")
        owner = self.owners.get(name)
        if owner is None:
            charge.claim = hold
        else:
            self._claim(charge, owner.things[name], adopts=order.quote.adopts and owner is run)

    def _claim(self, charge: Charge, thing: Thing, *, adopts: bool) -> None:
        charge.thing = thing
        if not adopts:
            return
        charge.adopts = True
        charge.run.touch(thing)
        if charge.calls[0].state == "maybe":
            charge.hold = max(charge.hold, thing.told_open)
        charge.claim = charge.hold + thing.told_spent
        thing.claims.append(charge)
        thing.days.append(charge.day)
        charge.budgets |= thing.holder.budgets
        if charge.adopted:
            thing.told_open, thing.holder = max(0, thing.told_open - charge.adopted), charge

    def closed(self, ledger: SimulatedLedger, closing: Closing, receipt: Receipt | None) -> None:
        """A close was booked; without a receipt it raised, and may have been."""
        record = self.records.get(closing.reservation_id)
        if record is None:
            return
        self.look(ledger, record.charge.run)
        if receipt is None:
            self._suspect(record)
        elif record.state not in {"known", "unknown"}:
            self._learn(record, receipt)
        self.check(record.charge.run)

    def _suspect(self, record: Record) -> None:
        """A close may have been booked: then with more than anybody knew when it was held, or with what was true before."""
        record.may_be_closed = True
        seen = record.told.seen if record.told is not None else None
        if seen is None:
            return
        if not record.charge.is_over:
            record.charge.hold = max(record.charge.hold, seen.spent + seen.open)
        thing = record.charge.run.things.get((seen.intent.account, seen.intent.id))
        if thing is not None and seen.version < thing.told_version:
            record.charge.run.touch(thing)
            thing.hear_again(seen.open, record.charge)

    def resolved(self, ledger: SimulatedLedger, charge: Charge, answer: Answer | None, receipt: Receipt) -> None:
        """An operator has said what a doubt has come to; without an answer, nothing."""
        self.look(ledger, charge.run)
        if receipt.replayed:
            # Another reservation has bought it: this one stays as it was.
            return
        for record in charge.calls:
            record.state = "known"
        if answer is not None:
            self._tell(charge.calls[0], answer)
        elif charge.adopted and charge.thing is not None:
            charge.thing.told_open += charge.adopted
        charge.is_free = answer is None
        self._end(charge)
        self.check(charge.run)

    def asked(self, ledger: SimulatedLedger, intent: Intent, answer: Answer, receipt: Receipt) -> None:
        """An operator has told the ledger what an open intent has come to."""
        run = self.owners[intent.account, intent.id]
        self.look(ledger, run)
        if not receipt.replayed:
            self._tell(run.things[intent.account, intent.id].holder.calls[0], answer)
        self.check(run)

    def failed(self, error: LedgerUnavailable) -> None:
        """The ledger failed by itself."""
        raise self.broken("unexpected", f"the ledger failed: {error}") from error

    def _learn(self, record: Record, receipt: Receipt) -> None:
        charge, told, was_lost = record.charge, record.told, record.state == "maybe"
        if was_lost:
            self._find(record, receipt)
            charge = record.charge
        if not receipt.found:
            if not was_lost:
                raise self.broken("I2", f"reservation {record.id} was granted, and is not there")
            charge.run.granted -= charge.is_counted
            charge.calls.remove(record)
            record.state = "known"
            if not charge.calls:
                charge.is_free = True
                self._end(charge)
            return
        if told is None and not record.is_free:
            record.state = "unknown"
            if not charge.hold:
                self._end(charge)
            return
        record.state = "known"
        if told is not None:
            self._tell(record, told)
            self._end(charge)
        elif not charge.is_over and (record.is_final or all(one.state == "known" for one in charge.calls)):
            charge.run.granted -= charge.is_counted and not charge.was_sent and not was_lost
            if charge.adopted and charge.thing is not None:
                charge.thing.told_open += charge.adopted
            charge.is_free = True
            self._end(charge)

    def _find(self, record: Record, receipt: Receipt) -> None:
        """Learn whether a reserve that raised was committed, and as what."""
        charge, earlier = record.charge, record.charge.torn
        counted = receipt.held + receipt.doubt + receipt.spent
        target = self.records[receipt.reservation_id].charge if receipt.reservation_id in self.records else charge
        if receipt.found and receipt.reservation_id == record.id and earlier and counted:
            # It has taken the hold of an earlier day over.
            target = earlier[-1]
        for one in earlier:
            one.mend(charge.day if one is target and receipt.reservation_id == record.id else None)
        if receipt.found and target is not charge:
            charge.calls.remove(record)
            charge.is_free = True
            self._end(charge)
            record.charge = target
            target.calls.append(record)
        elif charge.adopts and charge.thing is not None and counted:
            charge.thing.holder = charge

    def _end(self, charge: Charge) -> None:
        """What a reservation has come to is told."""
        charge.is_over = True
        charge.run.live.pop(charge.id, None)
        thing = charge.thing
        if thing is not None and charge in thing.claims:
            charge.run.touch(thing)
            thing.claims.remove(charge)

    def _tell(self, record: Record, told: Answer) -> None:
        """Take note of what an answer has told the ledger."""
        charge = record.charge
        run, seen = charge.run, told.seen
        if told.refund_id:
            # A replay of it, under a key of the caller's own, is another charge's; it is counted where it was told first.
            if charge.pot == "refund":
                run.told_refunds.setdefault(told.refund_id, told.refund)
            else:
                run.told_foreign.setdefault(told.refund_id, (charge, told.refund))
        thing = run.things.get((seen.intent.account, seen.intent.id)) if seen is not None else None
        if thing is None or seen is None:
            return
        run.touch(thing)
        thing.days.append(charge.day)
        if seen.version < thing.told_version:
            thing.hear_again(seen.open, charge)
            return
        if seen.spent > thing.told_spent:
            # It counts where it was told: of several calls with one key, the first that was answered; or with what is open under another.
            is_elses = thing.told_open > 0 and thing.holder is not charge
            thing.day = charge.day if charge.buys and not is_elses else thing.holder.day
        is_first = charge.adopts or (charge.buys and thing.told_version < 0)
        if is_first and not charge.is_over and not thing.told_open:
            # Nothing else was open: it has what is open from now on.
            thing.holder = charge
        # Whether a call that may have been closed has let the open hold go already, nobody can say.
        is_unsure = any(one.may_be_closed for claim in thing.claims if claim is not charge for one in claim.calls)
        thing.is_blurred = thing.is_blurred or is_unsure
        still_open = min(thing.told_open, seen.open) if thing.is_taken_from(charge) and not is_unsure else seen.open
        if thing.is_blurred and still_open and self.tolerates("stale answer"):
            still_open = max(thing.told_open, still_open)
        thing.told_open, thing.told_spent, thing.told_version = still_open, max(seen.spent, thing.told_spent), seen.version


def _kind(order: Order, decision: Decision) -> str:
    """Say how a call was granted."""
    if decision.hold:
        return "moved to today" if decision.hold == order.reservation_id else "attempt"
    return "adopting" if decision.adopted else "next generation" if decision.generation else "new"
