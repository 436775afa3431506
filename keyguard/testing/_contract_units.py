"""Ledger contract: units of the vendor's own that have a cap beside the money's (e-mails)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyguard.model import Closing, Fact, Outcome, Quote
from keyguard.testing._contract_base import ContractBase
from keyguard.testing._till import limits, open_till

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger


class UnitsContract(ContractBase):
    """Counting e-mails, whatever they cost."""

    def test_max_emails_counts_what_was_not_refused(self, ledger: Ledger) -> None:
        """The e-mail after the last allowed one is refused, in e-mails, whatever it costs; in doubt they stay counted."""
        till = open_till(ledger, max_emails=5)
        first, second = till.order(Quote(0, units=2)), till.order(Quote(7, units=3))

        assert [ledger.reserve(order).granted for order in (first, second)] == [True, True]
        till.doubt(first.reservation_id)
        decision = ledger.reserve(till.order(Quote(0, units=1)))

        assert (decision.granted, decision.reason, decision.scope, decision.unit) == (False, "cap_exceeded", "emails:run:run-1", "email")
        assert (decision.cap, decision.spent + decision.held + decision.doubt, decision.requested) == (5, 5, 1)
        assert ledger.reserve(till.order(Quote(0))).granted
        assert till.usage.emails == 5
        assert ledger.verify() == []

    @pytest.mark.parametrize(("used", "left"), [(None, 0), (2, 1), (0, 3)])
    def test_units_that_were_not_used_are_given_back(self, ledger: Ledger, used: int | None, left: int) -> None:
        """Of a batch that was taken in part, what was taken counts; the vendor's word, or all."""
        till = open_till(ledger, max_emails=3)
        order = till.order(Quote(30, units=3))
        ledger.reserve(order)
        ledger.close(Closing(order.reservation_id, Outcome("settled", 30, units=used)))

        assert till.usage.emails == 3 - left
        assert ledger.reserve(till.order(Quote(0, units=left + 1))).granted is False
        assert ledger.reserve(till.order(Quote(0, units=left))).granted is True
        assert ledger.verify() == []

    def test_a_refused_or_cancelled_email_counts_no_more(self, ledger: Ledger) -> None:
        """Released by the vendor's refusal; a scheduled one by its cancellation, before it was bought."""
        till = open_till(ledger, max_emails=2)
        refused, scheduled, sent = (till.order(Quote(10, units=2)) for _ in range(3))
        ledger.reserve(refused)
        till.release(refused.reservation_id)
        ledger.reserve(scheduled)
        till.settle(scheduled.reservation_id, 0, Fact("e-1", 0, 10, 10, status="scheduled"))

        assert till.usage.emails == 2
        till.read(Fact("e-1", 0, 0, 10, status="canceled"))
        assert till.usage.emails == 0
        ledger.reserve(sent)
        till.settle(sent.reservation_id, 0, Fact("e-2", 10, 0, 10, status="sent"))
        assert till.usage.emails == 2
        assert ledger.verify() == []

    def test_a_replayed_email_counts_once(self, ledger: Ledger) -> None:
        """The vendor answered a second send with the first one's id: it was not sent again."""
        till = open_till(ledger, max_emails=4)
        for order in (till.order(Quote(10, units=2)), till.order(Quote(10, units=2))):
            ledger.reserve(order)
            till.settle(order.reservation_id, 0, Fact("e-1", 10, 0, 10, status="sent"))

        assert (till.usage.emails, till.usage.spent) == (2, 10)
        assert ledger.verify() == []

    def test_emails_are_counted_before_they_have_a_cap(self, ledger: Ledger) -> None:
        """A later install that caps them finds those that were sent."""
        till = open_till(ledger)
        ledger.reserve(till.order(Quote(0, units=4)))
        ledger.issue(limits(max_emails=5), "run-1")

        assert till.usage.emails == 4
        assert not ledger.reserve(till.order(Quote(0, units=2))).granted
        assert ledger.reserve(till.order(Quote(0, units=1))).granted
