"""The judge: after each step, what the ledger counts is compared with what really happened. Decides nothing of the simulation.

It reads the ledger's balances as they are stored, and knows the vendor's truth from the vendor. The names I1 to I7 are those of the
promises (DESIGN §8).
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

from keyguard.testing.simulator.truth import Record, Run, Thing

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.context import Ticket
    from keyguard.model import Closing, Decision, Leg, Order, Policy, Receipt, Usage, VaultKey
    from keyguard.testing.simulator.machine import SimulatedLedger
    from keyguard.testing.simulator.vendor import Answer, Intent, Request, Vendor

_FIGURES = "SELECT scope, win, cap, spent, held, doubt FROM bucket WHERE scope IN (?, ?, ?, ?)"
_NOTHING = (None, 0, 0, 0)
# What is known not to hold yet, and is not reported; tests/simulator/test_findings.py has each by itself.
TOLERATED = frozenset({
    "refund replay",  # a refund that a retry with the same key repeats is counted again
    "stale answer",  # an older answer about an open intent lowers what is held for it
    "shut while open",  # of a process that put its ledger away with calls open, those are not found when it has ended
})  # fmt: skip


class Violation(AssertionError):
    """A promise is broken."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


class Judge:
    """
    What really happened, and the checks.

    Args:
        now: The machine's clock.
        latest: The latest that this clock ever said.
    """

    def __init__(self, now: Callable[[], float], latest: Callable[[], float]) -> None:
        self._now, self._latest = now, latest
        self.vendor: Vendor
        self.runs: dict[str, Run] = {}
        self.records: dict[str, Record] = {}
        self.figures: dict[tuple[str, str], tuple[int | None, int, int, int]] = {}
        self.day_caps: dict[str, int] = {}
        self.refusals = self.grants = 0
        self._owners: dict[tuple[str, str], Run] = {}
        self.violation: Violation | None = None
        self._last_at = 0.0
        # By policy and day, over all of its runs.
        self._least: dict[str, Counter[str]] = {}
        self._most: dict[str, Counter[str]] = {}
        self._parts: dict[str, tuple[Counter[str], Counter[str]]] = {}

    def broken(self, promise: str, what: str) -> Violation:
        """Return a violation to raise; the first one is kept, because the code under test may catch it."""
        self.violation = self.violation or Violation(promise, what)
        return self.violation

    # -- what people do -----------------------------------------------------------------------------

    def issued(self, key: VaultKey, asked: Policy) -> Run:
        """Take note of a run's key."""
        assert key.run_id is not None
        assert asked.run_usd_cap is not None
        name, day = key.policy_name, asked.daily_usd_cap
        if day is not None:
            self.day_caps[name] = min(day, self.day_caps.get(name, day))
        run = self.runs.get(key.run_id)
        if run is None:
            run = self.runs[key.run_id] = Run(key.run_id, asked, asked.run_usd_cap, asked.run_usd_cap)
        self.changed(run, key)
        return run

    def changed(self, run: Run, key: VaultKey) -> None:
        """Take note of a key that was narrowed, raised or lowered."""
        assert key.policy.run_usd_cap is not None
        run.policy, run.cap, run.version, run.expires_at = key.policy, key.policy.run_usd_cap, key.version, key.expires_at
        run.top = max(run.top, run.cap)

    # -- what the vendor does -----------------------------------------------------------------------

    def made(self, request: Request, intent: Intent) -> None:
        """Take note of an intent: a thing of the run whose request it was."""
        record: Record = request.by
        run, name = record.run, (intent.account, intent.id)
        record.thing = run.things[name] = run.active[name] = Thing(intent, record.day, [record.day], [record])
        self._owners[name] = run

    def charged(self, request: Request | None, intent: Intent, amount: int) -> None:
        """Take note of money that moved."""
        name = (intent.account, intent.id)
        run = self._owners[name]
        thing = run.things[name]
        run.touch(thing)
        run.charged += amount
        if request is not None:
            thing.placed[request.by.day] += amount
        over = run.overrun + sum(max(0, one.intent.received - one.known) for one in run.active.values())
        if run.charged - over > run.top:
            raise self.broken("I1", f"{run.run_id} was charged {run.charged}, {over} of it unforeseeable, on a cap of at most {run.top}")

    def refunded(self, request: Request, intent: Intent, amount: int) -> None:
        """Take note of money that was given back."""
        record: Record = request.by
        if record.pot == "run":
            record.run.foreign[record.day] += amount
            return
        if self._owners[intent.account, intent.id] is not record.run:
            raise self.broken("I1", f"{record.run.run_id} gave back {amount} of another run's {intent.id} as if it were its own")
        record.run.refunded += amount

    # -- what clients do ----------------------------------------------------------------------------

    def sends(self, run: Run, ticket: Ticket | None) -> Record:
        """Say whose a request is that is about to leave."""
        record = self.records.get(ticket.reservation_id or "") if ticket is not None else None
        if record is None:
            # Nothing is held for it: whatever it may cost is missing from now on.
            record = Record("", run, self.date(), "run", 0, state="known")
        if not record.was_sent:
            record.was_sent = True
            run.sent += record.is_counted
        return record

    def attempt_ended(self, ticket: Ticket, request: Request | None, answer: Answer | None) -> None:
        """Take note of how a client's attempt ended."""
        record = self.records.get(ticket.reservation_id or "")
        if record is not None:
            record.said.append(answer if request is not None else "unsent")

    def lost(self, ticket: Ticket) -> None:
        """Take note of a call that ended where nobody could say any more what its attempts had come to."""
        record = self.records.get(ticket.reservation_id or "")
        if record is not None:
            record.is_lost = True

    # -- what the ledger does -----------------------------------------------------------------------

    def reserved(self, ledger: SimulatedLedger, order: Order, decision: Decision | None) -> None:
        """Judge a decision."""
        run, legs = self.runs[order.scope.removeprefix("run:")], self._legs(ledger, order)
        before = [self.counted(*name) for _, name in legs]
        self.look(ledger, run)
        if decision is None:
            self._book(ledger, run, order, order.quote.amount, 0, "maybe")
        elif decision.granted:
            self.grants += 1
            self._check_grant(ledger, run, order, decision, legs)
            self._book(ledger, run, order, decision.held_amount, decision.adopted, "open")
        else:
            self.refusals += 1
            if [self.counted(*name) for _, name in legs] != before:
                raise self.broken("I3", f"the refused {order.operation} of {run.run_id} changed a balance: {legs}")
            self._check_refusal(ledger, run, order, decision, legs)
        self.check(run)

    def _legs(self, ledger: SimulatedLedger, order: Order) -> list[tuple[Leg, tuple[str, str]]]:
        day = self._day(ledger)
        return [(leg, (leg.scope, day if leg.per == "day" else "")) for leg in order.legs]

    def _day(self, ledger: SimulatedLedger) -> str:
        return ledger.books.log.day if ledger.books is not None else self.date()

    def date(self) -> str:
        """Return the UTC date of the machine's clock."""
        return datetime.fromtimestamp(self._now(), timezone.utc).strftime("%Y-%m-%d")

    def counted(self, scope: str, win: str = "") -> int:
        """Return what the ledger counts on a budget, as it was last seen."""
        return sum(self.figures.get((scope, win), _NOTHING)[1:])

    def _book(
        self, ledger: SimulatedLedger, run: Run, order: Order, hold: int, adopted: int, state: Literal["open", "maybe"]
    ) -> None:
        day, is_counted = self._day(ledger), any(leg.unit == "call" for leg in order.legs)
        record = Record(
            order.reservation_id, run, day, order.quote.pot, hold, adopted, state=state, is_counted=is_counted, ledger=ledger
        )
        self.records[record.id] = run.live[record.id] = record
        run.granted += is_counted
        record.buys = order.method == "POST" and (order.quote.object_id is None or order.quote.adopts)
        name = (order.account, order.quote.object_id or "")
        owner = self._owners.get(name)
        if owner is None:
            record.claim = hold
            return
        thing = record.thing = owner.things[name]
        if order.quote.adopts and owner is run:
            record.adopts = True
            run.touch(thing)
            if state == "maybe":
                record.hold = hold = max(hold, thing.told_open)
            record.claim = hold + thing.told_spent
            thing.records.append(record)
            thing.days.append(day)
            if adopted:
                thing.told_open, thing.day = max(0, thing.told_open - adopted), day

    def closed(self, ledger: SimulatedLedger, closing: Closing, receipt: Receipt | None) -> None:
        """Take note of a close; one that raised may have been booked."""
        record = self.records.get(closing.reservation_id)
        if record is None:
            return
        self.look(ledger, record.run)
        if receipt is None:
            record.may_be_closed = True
            seen = record.told.seen if record.told is not None else None
            if seen is not None:
                # Booked or not: if it was, then with what is more than anybody knew when it was held.
                record.hold = max(record.hold, seen.spent + seen.open)
        elif record.state != "known":
            self._learn(record, receipt)
        self.check(record.run)

    def _learn(self, record: Record, receipt: Receipt) -> None:
        told = record.told
        if record.state == "maybe" and record.adopts and record.thing is not None and receipt.held + receipt.doubt + receipt.spent:
            # It was committed, and has moved the hold.
            record.thing.day = record.day
        if not receipt.found:
            if record.state != "maybe":
                raise self.broken("I2", f"reservation {record.id} was granted, and is not there")
            record.run.granted -= record.is_counted
        elif told is not None:
            self._tell(record, told)
        elif record.is_free and not (record.is_lost and record.said):
            record.run.granted -= record.is_counted and record.is_unsent
            if record.adopted and record.thing is not None:
                record.thing.told_open += record.adopted
        elif record.hold:
            record.state = "unknown"
            return
        record.state = "known"
        del record.run.live[record.id]
        if record.thing is not None and record in record.thing.records:
            record.run.touch(record.thing)
            record.thing.records.remove(record)

    def _tell(self, record: Record, told: Answer) -> None:
        """Take note of what an answer has told the ledger."""
        run, seen = record.run, told.seen
        if told.refund_id:
            name = f"{told.refund_id} {record.id}" if "refund replay" in TOLERATED else told.refund_id
            if record.pot == "refund":
                run.told_refunds[name] = told.refund
            else:
                run.told_foreign[name] = (record.day, told.refund)
        thing = run.things.get((seen.intent.account, seen.intent.id)) if seen is not None else None
        if thing is None or seen is None:
            return
        run.touch(thing)
        thing.days.append(record.day)
        if seen.version < thing.told_version:
            if "stale answer" in TOLERATED:
                thing.lowered = min(seen.spent + seen.open, thing.told_spent + thing.told_open if thing.lowered is None else thing.lowered)
            thing.told_open, thing.is_blurred = max(thing.told_open, seen.open), True
            return
        run.overrun += max(0, seen.spent - max(thing.known, thing.told_spent))
        if seen.spent > thing.told_spent:
            # It counts where it was told: of several calls with one key, the first that was answered.
            thing.placed = Counter({record.day if record.buys else thing.day: thing.intent.received})
        # While a call has the open hold, another's answer about the same thing opens nothing beside it.
        is_taken = not record.adopts and any(one.adopted for one in thing.records)
        thing.told_open = min(thing.told_open, seen.open) if is_taken else seen.open
        thing.told_spent, thing.told_version, thing.lowered = max(seen.spent, thing.told_spent), seen.version, None

    # -- checks -------------------------------------------------------------------------------------

    def look(self, ledger: SimulatedLedger, run: Run) -> None:
        """Read what the ledger counts for a run and its policy now."""
        books = ledger.books
        if books is None:
            return
        scope = run.scope
        names = (scope, f"refund:{scope}", f"calls:{scope}", f"policy:{run.policy.name}")
        for row in books.log.execute(_FIGURES, names).fetchall():
            self.figures[row[0], row[1]] = row[2:]
        if books.log.at > self._latest():
            raise self.broken("clock", f"the ledger's time is {books.log.at}, where the machine's clock never was")

    def _check_grant(
        self, ledger: SimulatedLedger, run: Run, order: Order, decision: Decision, legs: list[tuple[Leg, tuple[str, str]]]
    ) -> None:
        at = ledger.books.log.at if ledger.books is not None else self._now()
        if at < self._last_at:
            raise self.broken("clock", f"the ledger's time went back from {self._last_at} to {at}")
        self._last_at = at
        if run.is_revoked:
            raise self.broken("I6", f"{order.operation} of {run.run_id} was granted after its revoke was acknowledged")
        if run.expires_at is not None and run.expires_at <= at:
            raise self.broken("I6", f"{order.operation} of {run.run_id} was granted at {at}, after its end at {run.expires_at}")
        if decision.held_amount != max(order.quote.amount, decision.adopted):
            raise self.broken("I2", f"{decision.held_amount} is held for a quote of {order.quote.amount}, {decision.adopted} of it adopted")
        for leg, name in legs:
            cap = self._cap(run, leg, name)
            if cap is not None and self.counted(*name) > cap:
                raise self.broken("I1", f"{order.operation} of {run.run_id} was granted: {self.counted(*name)} on {name}, whose cap is {cap}")

    def _cap(self, run: Run, leg: Leg, name: tuple[str, str]) -> int | None:
        """Return the cap of a budget, as people set it."""
        kind = leg.scope.partition(":")[0]
        if kind == "run":
            return run.cap
        if kind == "policy":
            return self.day_caps[leg.scope.removeprefix("policy:")]
        if kind == "calls":
            return run.policy.max_calls
        # What may be refunded is what was charged, where nobody said less.
        return run.policy.refund_usd_cap if run.policy.refund_usd_cap is not None else self.figures.get(name, _NOTHING)[0]

    def _check_refusal(
        self, ledger: SimulatedLedger, run: Run, order: Order, decision: Decision, legs: list[tuple[Leg, tuple[str, str]]]
    ) -> None:
        at = ledger.books.log.at if ledger.books is not None else self._now()
        who, reason = f"{order.operation} of {run.run_id}", decision.reason
        is_right = {
            "revoked": run.is_revoked or run.may_be_revoked,
            "expired": run.expires_at is not None and run.expires_at <= at,
            "stale": order.version != run.version or run.may_be_revoked,
        }
        if reason != "cap_exceeded":
            if not is_right.get(reason, False):
                raise self.broken("I4", f"{who} was refused as {reason}")
            return
        named = next((name for leg, name in legs if leg.scope == decision.scope), None)
        shown = (decision.cap, decision.spent, decision.held, decision.doubt)
        if named is None or self.figures.get(named) != shown:
            raise self.broken("I4", f"{who} was refused with the figures {shown} of {decision.scope}, which has {self.figures.get(named or ('', ''))}")
        if all(self._fits(ledger, run, order, leg, name) for leg, name in legs):
            raise self.broken("I4", f"{who} for {decision.requested} was refused, although every budget has room: {shown} on {decision.scope}")

    def _fits(self, ledger: SimulatedLedger, run: Run, order: Order, leg: Leg, name: tuple[str, str]) -> bool:
        """Say whether a budget has room for an order, once what it adopts has moved."""
        cap = self._cap(run, leg, name)
        if leg.unit != "usd":
            return cap is None or self.counted(*name) + 1 <= cap
        thing = run.things.get((order.account, order.quote.object_id or "")) if order.quote.adopts else None
        if thing is not None and thing.is_blurred:
            return False
        moved = thing.told_open if thing is not None else 0
        leaves = moved if thing is not None and (leg.per == "run" or thing.day == self._day(ledger)) else 0
        return cap is None or self.counted(*name) - leaves + max(order.quote.amount, moved) <= cap

    def check(self, run: Run) -> None:
        """Compare what the ledger counts for a run with what was charged and what can be explained."""
        run.retire()
        least, refunds, least_days = run.least(self.vendor.may_execute)
        most, most_refunds, most_days = run.most()
        _, spent, held, doubt = self.figures.get((run.scope, ""), _NOTHING)
        counted = spent + held + doubt
        if counted < least:
            raise self.broken("I2", f"{run.run_id} is counted at {counted}, but {least} was, or can still be, charged")
        if counted > most:
            raise self.broken("I4", f"{run.run_id} is counted at {counted} ({spent} + {held} + {doubt}), of which {most} can be explained")
        truth = run.charged + max(sum(run.foreign.values()), sum(amount for _, amount in run.told_foreign.values()))
        if spent > truth:
            raise self.broken("I4", f"{run.run_id} has spent {spent} by the ledger, and {truth} at the vendor")
        given = self.counted(f"refund:{run.scope}")
        if not refunds <= given <= most_refunds:
            raise self.broken("I2", f"refunds of {run.run_id} are counted at {given}: at least {refunds}, at most {most_refunds} is right")
        calls = self.counted(f"calls:{run.scope}")
        if not run.sent <= calls <= run.granted:
            raise self.broken("I2", f"{calls} calls of {run.run_id} are counted: {run.sent} were sent, {run.granted} granted")
        self._check_days(run, least_days, most_days)

    def _check_days(self, run: Run, least: Counter[str], most: Counter[str]) -> None:
        name = run.policy.name or "default"
        if run.policy.daily_usd_cap is None:
            return
        sums, tops = self._least.setdefault(name, Counter()), self._most.setdefault(name, Counter())
        old_least, old_most = self._parts.get(run.run_id, (Counter(), Counter()))
        sums.subtract(old_least)
        sums.update(least)
        tops.subtract(old_most)
        tops.update(most)
        self._parts[run.run_id] = (least, most)
        for day in least.keys() | most.keys():
            counted = self.counted(f"policy:{name}", day)
            if not sums[day] <= counted <= tops[day]:
                promise = "I2" if counted < sums[day] else "I4"
                raise self.broken(promise, f"{day} of {name} is counted at {counted}: at least {sums[day]}, at most {tops[day]} is right")

    # -- at the end ---------------------------------------------------------------------------------

    def check_all_closed(self, living: list[SimulatedLedger]) -> None:
        """
        Look for a hold that a living process keeps although nothing of it runs any more.

        Raises:
            Violation: there is one.
        """
        for run in self.runs.values():
            for record in run.live.values():
                if record.state in {"open", "maybe"} and record.ledger in living:
                    raise self.broken("I4", f"{record.id} of {run.run_id} is over, its process lives, and nobody told the ledger")

    def check_end(self, run: Run, usage: Usage | None) -> None:
        """
        Check that what is in doubt is what nobody could know, and that nothing else is left over.

        Raises:
            Violation: it is not so.
        """
        assert usage is not None
        self.check(run)
        unknown = sum(record.hold for record in run.live.values() if record.pot == "run")
        if usage.doubt > unknown:
            raise self.broken("I4", f"{usage.doubt} of {run.run_id} are in doubt at the end, of which only {unknown} were really unknown")
        left_open = run.past_open + sum(thing.told_open for thing in run.active.values())
        # A close that was booked, and of which its process died before it heard, may have left an intent open.
        left_open += sum(record.hold for record in run.live.values() if record.may_be_closed)
        if usage.held > left_open:
            raise self.broken("I4", f"{usage.held} of {run.run_id} are held at the end, of which only {left_open} are of open intents")
