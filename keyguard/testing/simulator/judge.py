"""The judge: takes note of what really happened, and after each step lets the checks compare the ledger with it.

It reads the ledger's balances as they are stored, and knows the vendor's truth from the vendor. It decides nothing of the simulation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.testing.simulator.bookings import Bookings
from keyguard.testing.simulator.runs import ChildRun, Run
from keyguard.testing.simulator.truth import Charge, Thing

if TYPE_CHECKING:
    from keyguard.context import Ticket
    from keyguard.model import Policy, VaultKey
    from keyguard.testing.simulator.exchange import Answer, Intent, Request


class Judge(Bookings):
    """What really happened: each method takes note of one thing that did."""

    # -- what people do -----------------------------------------------------------------------------

    def issued(self, key: VaultKey, asked: Policy) -> Run:
        """A run got its key."""
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

    def issued_child(self, run: Run, key: VaultKey, asked: Policy) -> None:
        """A child of a run got its key."""
        assert asked.run_usd_cap is not None
        if run.children.setdefault(key.budget, ChildRun(asked, asked.run_usd_cap)).policy != asked:
            raise self.broken("I5", f"{key.run_id} has the budget of another child of {run.run_id}")

    def changed(self, run: Run, key: VaultKey) -> None:
        """A key was narrowed, raised or lowered."""
        assert key.policy.run_usd_cap is not None
        run.policy, run.cap, run.version, run.expires_at = key.policy, key.policy.run_usd_cap, key.version, key.expires_at
        run.top = max(run.top, run.cap)

    # -- what the vendor does -----------------------------------------------------------------------

    def made(self, request: Request, intent: Intent) -> None:
        """An intent came to be: a thing of the run whose request it was."""
        charge: Charge = request.by
        run, name = charge.run, (intent.account, intent.id)
        charge.thing = run.things[name] = run.active[name] = Thing(intent, charge, [charge.day], [] if charge.is_over else [charge], charge)
        self.owners[name] = run

    def created(self, request: Request, intent: Intent) -> None:
        """A charge was made that was not refused: of each that a flow means to make there is one."""
        run: Run = request.by.run
        kind = (request.account, request.params)
        if intent.is_loose or kind not in run.wanted:
            return
        run.made[kind] += 1
        if run.made[kind] > run.wanted[kind]:
            raise self.broken("once", f"{run.run_id} made {run.made[kind]} charges like {kind}; its flow has {run.wanted[kind]}")

    def charged(self, request: Request | None, intent: Intent, amount: int) -> None:
        """Money moved."""
        name = (intent.account, intent.id)
        run = self.owners[name]
        thing = run.things[name]
        run.touch(thing)
        run.charged += amount
        thing.charger = request.by if request is not None else None
        run.overrun += min(amount, intent.raised)
        if run.charged - run.overrun > run.top:
            over = f"{run.overrun} of it unforeseeable"
            raise self.broken("I1", f"{run.run_id} was charged {run.charged}, {over}, on a cap of at most {run.top}")

    def refunded(self, request: Request, intent: Intent, amount: int, refund_id: str) -> None:
        """Money was given back."""
        charge: Charge = request.by
        charge.gave_back, charge.refund_id = charge.gave_back + amount, refund_id
        if charge.pot == "run":
            charge.run.foreign.append((charge, amount))
            return
        if self.owners[intent.account, intent.id] is not charge.run:
            raise self.broken("I1", f"{charge.run.run_id} gave back {amount} of another run's {intent.id} as if it were its own")
        charge.run.refunded += amount

    # -- what clients do ----------------------------------------------------------------------------

    def sends(self, run: Run, ticket: Ticket | None) -> Charge:
        """Say whose a request is that is about to leave."""
        record = self.records.get(ticket.reservation_id or "") if ticket is not None else None
        if record is None:
            # Nothing is held for it: whatever it may cost is missing from now on.
            return Charge("", run, self.date(), "run", 0, is_over=True)
        charge = record.charge
        if not charge.was_sent:
            charge.was_sent = True
            run.sent += charge.is_counted
        return charge

    def attempt_ended(self, ticket: Ticket, request: Request | None, answer: Answer | None) -> None:
        """A client's try on the wire ended."""
        record = self.records.get(ticket.reservation_id or "")
        if record is not None:
            record.said.append(answer if request is not None else "unsent")

    def lost(self, ticket: Ticket) -> None:
        """A call ended where nobody could say any more what its tries had come to."""
        record = self.records.get(ticket.reservation_id or "")
        if record is not None:
            record.is_lost = True
