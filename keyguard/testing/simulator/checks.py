"""The judge's checks: each compares what the ledger says with what really happened. The names I1 to I7 are those of DESIGN §8.

`once` is the promise of DESIGN §6: whatever is tried again, each charge that a flow means to make is made once.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Decision, Leg, Order, Usage
    from keyguard.testing.simulator.machine import SimulatedLedger
    from keyguard.testing.simulator.runs import Run
    from keyguard.testing.simulator.truth import Charge, Record
    from keyguard.testing.simulator.vendor import Vendor

    Legs = list[tuple[Leg, tuple[str, str]]]

_FIGURES = "SELECT scope, win, cap, spent, held, doubt FROM bucket WHERE scope IN (SELECT value FROM json_each(?))"
_NOTHING = (None, 0, 0, 0)
# What is counted above what is right, and is not reported.
TOLERATED = frozenset({
    # An answer that comes late, or again under a caller's own key, may raise what is held for an open intent to what it once was, until
    # the next answer about it, or its end. Nothing in two answers says which of them is the older one. A PaymentIntent has `created`, and
    # no time or number of its last change (docs.stripe.com/api/payment_intents/object, read 2026-11-26). `Date` says when an answer was
    # written, not when its request was executed, and of two requests that overlap the one that was executed first may be answered
    # last. `Idempotent-Replayed` says that an answer is not new, but not that what is known is newer: where the first answer was lost, it
    # is the only one that tells of a raise. A read in between would tell, and costs a request for each answer. So the larger amount
    # holds: the cap may refuse too early by the difference, and is never passed; a lower one that were wrong would be spent twice.
    "stale answer",
})  # fmt: skip


class Violation(AssertionError):
    """A promise is broken."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


class Checks:
    """
    What is known of what really happened, and the checks.

    Args:
        now: The machine's clock.
        latest: The latest that this clock ever said.

    Attributes:
        figures: What the ledger counts on each budget and window, as last seen: cap, spent, held, doubt.
        kinds: How often what was decided: why a call was refused, or how it was granted.
        violation: The first one; it is kept, because the code under test may catch what is raised.
    """

    vendor: Vendor

    def __init__(self, now: Callable[[], float], latest: Callable[[], float]) -> None:
        self.now, self._latest = now, latest
        self.runs: dict[str, Run] = {}
        self.records: dict[str, Record] = {}
        self.owners: dict[tuple[str, str], Run] = {}
        self.figures: dict[tuple[str, str], tuple[int | None, int, int, int]] = {}
        self.day_caps: dict[str, int] = {}
        self.refusals = self.grants = 0
        self.kinds: Counter[str] = Counter()
        self.violation: Violation | None = None
        self._last_at = 0.0
        # By policy and day, over all of its runs; and what each run has given to them.
        self._least: dict[str, Counter[str]] = {}
        self._most: dict[str, Counter[str]] = {}
        self._parts: dict[str, tuple[Counter[str], Counter[str]]] = {}

    def broken(self, promise: str, what: str) -> Violation:
        """Return a violation to raise."""
        self.violation = self.violation or Violation(promise, what)
        return self.violation

    @staticmethod
    def tolerates(what: str) -> bool:
        """Say whether something is known to be counted above what is right."""
        return what in TOLERATED

    # -- what the ledger counts ---------------------------------------------------------------------

    def look(self, ledger: SimulatedLedger, run: Run) -> None:
        """Read what the ledger counts for a run and its policy now."""
        books = ledger.books
        if books is None:
            return
        scope = run.scope
        names = [f"policy:{run.policy.name}"]
        for one in (scope, *run.children):
            names += [one, f"refund:{one}", f"calls:{one}"]
        rows: list[Any] = books.log.execute(_FIGURES, (json.dumps(names),)).fetchall()
        for budget, win, *figures in rows:
            self.figures[budget, win] = (figures[0], figures[1], figures[2], figures[3])
        if books.log.at > self._latest():
            raise self.broken("clock", f"the ledger's time is {books.log.at}, where the machine's clock never was")

    def counted(self, scope: str, win: str = "") -> int:
        """Return what the ledger counts on a budget, as it was last seen."""
        return sum(self.figures.get((scope, win), _NOTHING)[1:])

    # -- decisions ----------------------------------------------------------------------------------

    def check_grant(self, ledger: SimulatedLedger, run: Run, order: Order, decision: Decision, legs: Legs) -> None:
        """A call may leave: its key lives, its hold is what was asked, and it fits."""
        at, who = ledger.books.log.at if ledger.books is not None else self.now(), f"{order.operation} of {run.run_id}"
        if at < self._last_at:
            raise self.broken("clock", f"the ledger's time went back from {self._last_at} to {at}")
        self._last_at = at
        if run.is_revoked:
            raise self.broken("I6", f"{who} was granted after its revoke was acknowledged")
        if run.expires_at is not None and run.expires_at <= at:
            raise self.broken("I6", f"{who} was granted at {at}, after its end at {run.expires_at}")
        if decision.hold and decision.hold != order.reservation_id:
            # Another attempt of what is held already.
            return
        if not decision.hold and decision.held_amount != max(order.quote.amount, decision.adopted):
            raise self.broken("I2", f"{decision.held_amount} is held for a quote of {order.quote.amount}, {decision.adopted} of it adopted")
        for leg, name in legs:
            cap = self._cap(run, leg, name)
            if cap is not None and self.counted(*name) > cap:
                raise self.broken("I1", f"{who} was granted: {self.counted(*name)} are counted on {name}, whose cap is {cap}")

    def _cap(self, run: Run, leg: Leg, name: tuple[str, str]) -> int | None:
        """Return the cap of a budget, as people set it."""
        kind = leg.scope.partition(":")[0]
        child = run.children.get(leg.scope[leg.scope.find("run:") :])
        if child is not None:
            return {"run": child.cap, "calls": child.policy.max_calls, "refund": child.policy.refund_usd_cap}[kind]
        if kind == "run":
            return run.cap
        if kind == "policy":
            return self.day_caps[leg.scope.removeprefix("policy:")]
        if kind == "calls":
            return run.policy.max_calls
        # What may be refunded is what was charged, where nobody said less.
        return run.policy.refund_usd_cap if run.policy.refund_usd_cap is not None else self.figures.get(name, _NOTHING)[0]

    def check_refusal(self, ledger: SimulatedLedger, run: Run, order: Order, decision: Decision, legs: Legs) -> None:
        """A call was stopped: for the reason that was given, and with the right figures."""
        at, who = ledger.books.log.at if ledger.books is not None else self.now(), f"{order.operation} of {run.run_id}"
        if decision.reason != "cap_exceeded":
            if not self._is_right(run, order, decision.reason, at, self._version(ledger, run, order)):
                raise self.broken("I4", f"{who} was refused as {decision.reason} ({decision.hold})")
            return
        named = next((name for leg, name in legs if leg.scope == decision.scope), ("", ""))
        shown = (decision.cap, decision.spent, decision.held, decision.doubt)
        if self.figures.get(named) != shown:
            raise self.broken("I4", f"{who} was refused with the figures {shown} of {decision.scope}, which has {self.figures.get(named)}")
        if all(self._fits(run, order, leg, name) for leg, name in legs):
            raise self.broken("I4", f"{who} for {decision.requested} was refused, although every budget has room: {shown} of {named}")

    @staticmethod
    def _version(ledger: SimulatedLedger, run: Run, order: Order) -> int:
        """Return the version that an order of now must be of; a child's key has its own, and a newer one whenever its run's has."""
        if not order.budgets or ledger.books is None:
            return run.version
        row: Any = ledger.books.log.execute("SELECT version FROM keys WHERE key_id = ?", (order.key_id,)).fetchone()
        return int(row[0])

    def _is_right(self, run: Run, order: Order, reason: str, at: float, version: int) -> bool:
        identity = order.identity
        if reason in {"revoked", "expired", "stale"}:
            return {
                "revoked": run.is_revoked or run.may_be_revoked,
                "expired": run.expires_at is not None and run.expires_at <= at,
                "stale": order.version != version or run.may_be_revoked,
            }[reason]
        if identity is None:
            return False
        known = [charge for charge in run.named.get(identity.request, ()) if not charge.is_free and charge.identity is not None]
        if reason == "conflict":
            return any(charge.identity is not None and charge.identity.fingerprint != identity.fingerprint for charge in known)
        if reason == "already_charged":
            return any(at - charge.at >= identity.window for charge in known)
        if reason in {"ambiguous", "unanswerable"}:
            return any(charge.is_over for charge in known)
        is_late = any(at - charge.at >= identity.window and not charge.is_over for charge in known)
        return reason == "doubt_pending" and (
            is_late or (identity.attempt > 1 and any(self._alike(charge, order) for charge in run.live.values()))
        )

    @staticmethod
    def _alike(charge: Charge, order: Order) -> bool:
        return charge.operation == order.operation and charge.hold == order.quote.amount

    def _fits(self, run: Run, order: Order, leg: Leg, name: tuple[str, str]) -> bool:
        """Say whether a budget has room for an order, once what it adopts has moved."""
        cap = self._cap(run, leg, name)
        if cap is None:
            return True
        if leg.unit != "usd":
            return self.counted(*name) + 1 <= cap
        leaves, amount = 0, order.quote.amount
        thing = run.things.get((order.account, order.quote.object_id or "")) if order.quote.adopts else None
        if thing is not None:
            if thing.is_blurred:
                return False
            amount = max(amount, thing.told_open)
            is_on = leg.scope not in run.children or leg.scope in thing.holder.budgets
            leaves = thing.told_open if is_on and (leg.per == "run" or thing.holder.day == name[1]) else 0
        earlier = run.named.get(order.identity.request, ()) if order.identity is not None else ()
        if any(not charge.is_over for charge in earlier):
            # What an earlier day holds for the same charge would move with it; which of them it is, is not known here.
            return False
        return self.counted(*name) - leaves + amount <= cap

    # -- balances -----------------------------------------------------------------------------------

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
        truth = run.charged + sum(amount for _, amount in run.foreign)
        if spent > truth:
            raise self.broken("I4", f"{run.run_id} has spent {spent} by the ledger, and {truth} at the vendor")
        given = self.counted(f"refund:{run.scope}")
        if not refunds <= given <= most_refunds:
            raise self.broken("I2", f"refunds of {run.run_id} are counted at {given}: at least {refunds}, at most {most_refunds} is right")
        calls = self.counted(f"calls:{run.scope}")
        if not run.sent <= calls <= run.granted:
            raise self.broken("I2", f"{calls} calls of {run.run_id} are counted: {run.sent} were sent, {run.granted} granted")
        for budget in run.children:
            self._check_child(run, budget, counted)
        if run.policy.daily_usd_cap is not None:
            self._check_days(run.policy.name or "default", run, least_days, most_days)

    def _check_child(self, run: Run, budget: str, of_run: int) -> None:
        counted, least = self.counted(budget), run.least_in(budget)
        if counted < least:
            raise self.broken("I2", f"{budget} is counted at {counted}, but {least} was charged of what it has made")
        if counted > of_run:
            raise self.broken("I5", f"{budget} is counted at {counted}, its run {run.run_id} at {of_run}")

    def _check_days(self, name: str, run: Run, least: Counter[str], most: Counter[str]) -> None:
        sums, tops = self._least.setdefault(name, Counter()), self._most.setdefault(name, Counter())
        old_least, old_most = self._parts.get(run.run_id, (Counter(), Counter()))
        sums.subtract(old_least)
        sums.update(least)
        tops.subtract(old_most)
        tops.update(most)
        self._parts[run.run_id] = (least, most)
        for day in (least.keys() | most.keys()) - {""}:
            counted = self.counted(f"policy:{name}", day)
            if not sums[day] <= counted <= tops[day] + tops[""]:
                promise = "I2" if counted < sums[day] else "I4"
                raise self.broken(promise, f"{day} of {name} is counted at {counted}: at least {sums[day]}, at most {tops[day]} is right")

    # -- at the end ---------------------------------------------------------------------------------

    def check_all_closed(self, living: list[SimulatedLedger]) -> None:
        """Look for a hold that a living process keeps although nothing of it runs any more."""
        for record in self.records.values():
            if record.state in {"open", "maybe"} and record.ledger in living:
                raise self.broken("I4", f"{record.id} of {record.charge.run.run_id} is over, its process lives, and nobody told the ledger")

    def check_end(self, run: Run, usage: Usage | None) -> None:
        """Check that what is in doubt is what nobody could know, and that nothing else is left over."""
        assert usage is not None
        self.check(run)
        live = [charge for charge in run.live.values() if charge.pot == "run"]
        unknown = sum(charge.hold for charge in live)
        if usage.doubt > unknown:
            raise self.broken("I4", f"{usage.doubt} of {run.run_id} are in doubt at the end, of which only {unknown} were really unknown")
        left_open = run.past_open + sum(thing.told_open for thing in run.active.values())
        # A close that was booked, and of which its process died before it heard, may have left an intent open.
        left_open += sum(charge.hold for charge in live if any(one.may_be_closed for one in charge.calls))
        if usage.held > left_open:
            raise self.broken("I4", f"{usage.held} of {run.run_id} are held at the end, of which only {left_open} are of open intents")

    def check_resolved(self, run: Run) -> None:
        """Check that nothing is in doubt once the vendor was asked about everything, and that what is counted is what was charged."""
        run.pending.clear()
        least, refunds, _ = run.least(self.vendor.may_execute)
        _, spent, held, doubt = self.figures[run.scope, ""]
        if doubt and not any(charge.hold for charge in run.live.values()):
            raise self.broken("I4", f"{doubt} of {run.run_id} are in doubt, although the vendor was asked about everything")
        is_told_twice = sum(run.told_refunds.values()) != run.refunded or len(run.told_foreign) != len(run.foreign)
        is_exact = not run.live and not is_told_twice and not any(thing.is_blurred for thing in run.things.values())
        given = self.counted(f"refund:{run.scope}")
        if is_exact and (spent + held, given) != (least, refunds):
            raise self.broken("I4", f"{run.run_id} ends at {spent} + {held}, of which {least} is right, and {given} refunded of {refunds}")
