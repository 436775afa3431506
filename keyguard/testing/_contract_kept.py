"""Ledger contract: what is kept of a charge, and for how long: errors of the vendor's, and whom a call pays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from keyguard.model import Closing, Outcome
from keyguard.testing._contract_base import DAY, NOON, Clock, ContractBase
from keyguard.testing._contract_charges import FIRST, HOUR, ask, held, ordered
from keyguard.testing._till import open_till, parts

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from keyguard.testing._till import Till


class KeptContract(ContractBase):
    """Kept errors, and payees."""

    # -- errors that the vendor keeps ---------------------------------------------------------------

    def test_a_charge_behind_a_kept_error_is_sent_again_until_it_is_known(self, till: Till) -> None:
        """In doubt, a further request does no harm, and is an attempt; known to be made, it can bring nothing but the error."""
        first, kept = held(till, FIRST), Outcome("doubt", is_final=True)
        till.ledger.close(Closing(first, kept))
        second = held(till, replace(FIRST, attempt=2))
        till.ledger.close(Closing(second, kept))
        till.ledger.resolve(first, Outcome("settled", 55), by="reconcile", reason="event evt_1")
        decision = ask(till, replace(FIRST, attempt=3))[1]

        assert (decision.granted, decision.reason, decision.hold) == (False, "unanswerable", first)
        assert parts(till.usage) == (55, 0, 0)

    def test_a_charge_behind_a_kept_error_that_was_not_made_is_tried_anew(self, till: Till) -> None:
        """Released, it has the next generation, to whose key the vendor has no error yet."""
        first = held(till, FIRST)
        till.ledger.close(Closing(first, Outcome("doubt", is_final=True)))
        till.ledger.resolve(first, Outcome("released"), by="reconcile", reason="presumed absent")
        second, decision = ask(till, replace(FIRST, attempt=2))
        till.settle(second, 60)

        assert (decision.granted, decision.generation) == (True, 1)
        assert ask(till, replace(FIRST, attempt=3))[1].granted

    def test_a_kept_error_is_remembered_where_its_charge_moves(self, ledger: Ledger, clock: Clock) -> None:
        """On the next day the charge has another reservation, and the vendor the same error."""
        till = open_till(ledger, run_usd_cap=100, daily_usd_cap=80)
        clock.now = (NOON // DAY + 1) * DAY - HOUR
        till.ledger.close(Closing(held(till, FIRST), Outcome("doubt", is_final=True)))
        clock.now += 2 * HOUR
        second = held(till, replace(FIRST, execution="e2"))
        till.settle(second, 60)

        assert ask(till, replace(FIRST, execution="e3"))[1].reason == "unanswerable"

    def test_whom_a_call_pays_is_known_while_it_may_be_asked(self, till: Till, clock: Clock) -> None:
        """While in doubt, and for two days after the vendor did not show it."""
        order = ordered(till, FIRST, payee="p1")
        till.ledger.reserve(order)
        till.doubt(order.reservation_id)
        (doubt,) = till.ledger.doubts()
        till.ledger.resolve(order.reservation_id, Outcome("released", is_presumed=True), by="reconcile", reason="presumed absent")
        (presumed,) = till.ledger.doubts(kind="presumed")
        clock.now += 2 * DAY + 1

        assert (doubt.payee, presumed.payee, till.ledger.doubts(kind="presumed")) == ("p1", "p1", [])
