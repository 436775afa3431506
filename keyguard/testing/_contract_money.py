"""Ledger contract: holding, fixing, freeing and doubting money against caps, and what a refusal leaves behind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keyguard.model import Closing, Fact, Outcome, Quote
from keyguard.testing._contract_base import ContractBase
from keyguard.testing._till import NAME, figures, folded, open_till, parts, today

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from keyguard.model import Ending
    from keyguard.testing._contract_base import Clock
    from keyguard.testing._till import Till


class MoneyContract(ContractBase):
    """Caps and the four things that can happen to a hold."""

    def test_what_recurs_is_told(self, till: Till) -> None:
        """The receipt, the figures and the log say that the vendor will charge again by itself; a call that never was does not."""
        orders = [till.order(Quote(10, recurring=recurring)) for recurring in (True, True, True, False)]
        for order in orders:
            assert till.ledger.reserve(order).granted
        names = [order.reservation_id for order in orders]
        receipts = [till.settle(names[0], 10), till.doubt(names[1]), till.release(names[2]), till.settle(names[3], 10)]

        assert [receipt.recurring for receipt in receipts] == [True, True, False, False]
        assert till.usage.recurring == 2
        rows = [row for row in till.ledger.entries(till.key.scope) if row["kind"] == "reserve"]
        assert [row["detail"].get("recurring", False) for row in rows] == [True, True, True, False]
        assert till.ledger.verify() == []

    def test_what_recurs_is_told_once_for_an_object(self, till: Till) -> None:
        """A call that takes over the hold of an earlier one on the same object recurs in its place."""
        for amount in (10, 20):
            order = till.order(Quote(amount, object_id="sub_1", adopts=True, recurring=True))
            assert till.ledger.reserve(order).granted
            till.settle(order.reservation_id, 0, Fact("sub_1", 0, amount, amount))

        assert (till.usage.recurring, parts(till.usage)) == (1, (0, 20, 0))

    def test_all_legs_or_none(self, ledger: Ledger) -> None:
        """A call that fits the run but not the day holds nothing on either."""
        till = open_till(ledger, run_usd_cap=100, daily_usd_cap=50)
        decision = till.ask(60)

        assert (decision.granted, decision.reason, decision.scope) == (False, "cap_exceeded", f"policy:{NAME}")
        assert (parts(till.usage), today(ledger)) == ((0, 0, 0), (0, 0, 0))

    def test_run_leg_refuses_before_the_day_leg_holds(self, ledger: Ledger) -> None:
        """A call that fits the day but not the run holds nothing on either."""
        till = open_till(ledger, run_usd_cap=50, daily_usd_cap=100)
        decision = till.ask(60)

        assert (decision.granted, decision.scope) == (False, "run:run-1")
        assert (parts(till.usage), today(ledger)) == ((0, 0, 0), (0, 0, 0))

    def test_cap_can_be_reached_exactly(self, till: Till) -> None:
        """The cap itself is granted, in one call or in two."""
        till.hold(40)
        decision = till.ask(60)

        assert (decision.granted, decision.held_amount, decision.adopted) == (True, 60, 0)
        assert (decision.limit, decision.remaining) == (100, 0)

    def test_one_micro_over_is_refused(self, till: Till) -> None:
        """One micro-dollar over the cap is refused, with the numbers that say why."""
        till.settle(till.hold(30), 30)
        till.doubt(till.hold(20))
        till.hold(10)
        decision = till.ask(41)

        assert (decision.granted, decision.reason, decision.scope, decision.unit) == (False, "cap_exceeded", "run:run-1", "usd")
        assert (decision.cap, decision.spent, decision.held, decision.doubt, decision.requested) == (100, 30, 10, 20, 41)

    def test_refusal_changes_no_balance(self, ledger: Ledger) -> None:
        """A refused call leaves every figure as it was, the call count included."""
        till = open_till(ledger, run_usd_cap=100, daily_usd_cap=100, max_calls=9)
        till.hold(70)
        before = till.usage, today(ledger)
        refused = till.order(Quote(31))

        assert not ledger.reserve(refused).granted
        assert (till.usage, today(ledger)) == before
        assert not ledger.close(Closing(refused.reservation_id, Outcome("doubt"))).found

    def test_refused_huge_call_leaves_small_one_allowed(self, till: Till) -> None:
        """A thousand times the cap is refused and the whole cap is granted next."""
        assert not till.ask(100_000).granted
        assert till.ask(100).granted

    def test_granted_exactly_when_it_fits(self, till: Till) -> None:
        """Whatever was booked before, the remainder is granted and one micro more is not."""
        for hold, cost in ((7, 7), (11, 3), (13, 0), (17, 21)):
            till.settle(till.hold(hold), cost)
        till.release(till.hold(19))
        remaining = till.usage.remaining

        assert remaining == 100 - 7 - 3 - 21
        assert not till.ask(remaining + 1).granted
        assert till.ask(remaining).granted

    def test_settling_below_the_hold_frees_the_rest(self, till: Till) -> None:
        """The cost stays, the difference can be held again."""
        receipt = till.settle(till.hold(100), 30)

        assert (receipt.found, parts(receipt), receipt.overrun) == (True, (30, 0, 0), 0)
        assert not till.ask(71).granted
        assert till.ask(70).granted

    def test_truth_above_the_hold_is_booked_in_full(self, till: Till) -> None:
        """An overrun counts whole; what still fits is granted, what does not is refused."""
        receipt = till.settle(till.hold(10), 95)

        assert (parts(receipt), receipt.overrun, till.usage.remaining) == ((95, 0, 0), 85, 5)
        assert not till.ask(6).granted
        assert till.ask(5).granted
        assert (till.usage.spent, till.usage.overrun) == (95, 85)

    def test_truth_above_the_cap_stops_the_run(self, till: Till) -> None:
        """When the vendor took more than the cap, nothing fits any more and nothing is hidden."""
        receipt = till.settle(till.hold(100), 150)

        assert (parts(receipt), parts(till.usage), till.usage.remaining) == ((150, 0, 0), (150, 0, 0), 0)
        assert not till.ask(1).granted

    def test_release_gives_all_back(self, till: Till) -> None:
        """A released hold counts nowhere."""
        receipt = till.release(till.hold(100))

        assert (parts(receipt), parts(till.usage)) == ((0, 0, 0), (0, 0, 0))
        assert till.ask(100).granted

    def test_doubt_keeps_counting(self, till: Till) -> None:
        """Money in doubt is as gone as spent money until somebody knows."""
        receipt = till.doubt(till.hold(60))

        assert (parts(receipt), parts(till.usage)) == ((0, 0, 60), (0, 0, 60))
        assert not till.ask(41).granted
        assert till.ask(40).granted

    @pytest.mark.parametrize(
        ("ending", "cost", "expected"), [("settled", 25, (25, 0, 0)), ("released", 0, (0, 0, 0)), ("doubt", 0, (0, 0, 60))]
    )
    def test_doubt_can_be_resolved_later(self, till: Till, ending: Ending, cost: int, expected: tuple[int, int, int]) -> None:
        """A late close turns doubt into knowledge; more doubt adds nothing."""
        reservation = till.hold(60)
        till.doubt(reservation)
        receipt = till.ledger.close(Closing(reservation, Outcome(ending, cost)))

        assert (receipt.found, parts(receipt), parts(till.usage)) == (True, expected, expected)

    @pytest.mark.parametrize(
        ("first", "again"),
        [
            *((("settled", 20), again) for again in (("settled", 55), ("released", 0), ("doubt", 0))),
            *((("released", 0), again) for again in (("released", 0), ("doubt", 0))),
        ],
    )
    def test_second_close_is_a_no_op(self, till: Till, first: tuple[Ending, int], again: tuple[Ending, int]) -> None:
        """What was settled or released stays so, and the receipt says where the money is."""
        reservation = till.hold(60)
        receipt = till.ledger.close(Closing(reservation, Outcome(*first)))
        before = till.usage
        second = till.ledger.close(Closing(reservation, Outcome(*again)))

        assert (second.found, parts(second), till.usage) == (True, parts(receipt), before)

    def test_truth_after_a_release_is_booked_as_overrun(self, till: Till) -> None:
        """A call that was given up and did cost something is counted in full, though nothing is held for it any more."""
        reservation = till.hold(60)
        till.release(reservation)
        receipt = till.settle(reservation, 55)

        assert (parts(receipt), receipt.overrun, parts(till.usage), till.usage.overrun) == ((55, 0, 0), 55, (55, 0, 0), 55)
        assert till.ledger.verify() == []

    def test_unknown_reservation_is_not_found(self, till: Till) -> None:
        """Closing what was never reserved says so and books nothing."""
        receipt = till.settle("never-reserved", 50)

        assert (receipt.found, parts(till.usage)) == (False, (0, 0, 0))

    def test_same_reservation_counts_once(self, till: Till) -> None:
        """A reserve that is repeated, because its answer was lost, does not hold twice."""
        order = till.order(Quote(60))

        assert till.ledger.reserve(order).granted
        till.ledger.reserve(order)
        assert parts(till.usage) == (0, 60, 0)

    def test_free_call_is_counted_as_a_call(self, ledger: Ledger) -> None:
        """A call of amount 0 is granted at a full cap and counted."""
        till = open_till(ledger, run_usd_cap=100, max_calls=9)
        till.hold(100)
        till.settle(till.hold(0))

        assert (till.usage.calls, parts(till.usage)) == (2, (0, 100, 0))

    def test_without_a_cap_money_is_counted_and_never_refused(self, ledger: Ledger) -> None:
        """No cap means no limit, not no books."""
        till = open_till(ledger)
        till.settle(till.hold(10**15), 10**15)

        assert (till.usage.cap, till.usage.remaining, till.usage.spent) == (None, None, 10**15)

    def test_run_without_calls_has_empty_figures(self, till: Till) -> None:
        """A run is known from its key on; a scope nobody knows is None."""
        assert (till.usage.cap, parts(till.usage), till.usage.calls, till.usage.intents) == (100, (0, 0, 0), 0, ())
        assert till.ledger.usage("run:nobody") is None

    def test_any_handle_closes_what_another_reserved(self, till: Till, other: Ledger) -> None:
        """Reservations belong to the ledger, not to the handle that made them."""
        receipt = replace(till, ledger=other).settle(till.hold(60), 60)

        assert (receipt.found, parts(till.usage), parts(figures(other, "run:run-1"))) == (True, (60, 0, 0), (60, 0, 0))

    def test_handle_works_again_after_shut(self, till: Till) -> None:
        """A ledger that was shut opens again on its next use, with nothing lost but what lived in memory alone."""
        reservation = till.hold(60)
        till.ledger.shut()

        assert parts(till.settle(reservation, 60)) == (60, 0, 0)


class CallsAndDaysContract(ContractBase):
    """Counting calls, sharing a day cap, observing, and the audit of refusals."""

    def test_max_calls_counts_calls_sent(self, ledger: Ledger) -> None:
        """The call after the last allowed one is refused, in calls."""
        till = open_till(ledger, max_calls=2)
        till.settle(till.hold(5), 5)
        till.doubt(till.hold(0))
        decision = till.ask(0)

        assert (decision.granted, decision.reason, decision.scope, decision.unit) == (False, "cap_exceeded", "calls:run:run-1", "call")
        assert (decision.cap, decision.spent + decision.held + decision.doubt, decision.requested) == (2, 2, 1)

    def test_unsent_call_gives_its_count_back(self, ledger: Ledger) -> None:
        """A call of which no byte left does not count against max_calls."""
        till = open_till(ledger, max_calls=1)
        till.release(till.hold(5), unsent=True)

        assert till.usage.calls == 0
        assert till.ask(5).granted

    def test_sent_and_declined_call_stays_counted(self, ledger: Ledger) -> None:
        """A call that the vendor refused was sent, and counts."""
        till = open_till(ledger, max_calls=1)
        till.release(till.hold(5))

        assert till.usage.calls == 1
        assert not till.ask(5).granted

    def test_runs_of_one_policy_share_its_day(self, ledger: Ledger) -> None:
        """Two runs draw on one day cap; a run of another policy name does not."""
        first = open_till(ledger, "run-1", daily_usd_cap=100)
        second = open_till(ledger, "run-2", daily_usd_cap=100)
        stranger = open_till(ledger, "run-3", name="another", daily_usd_cap=100)
        first.hold(60)

        assert not second.ask(41).granted
        assert second.ask(40).granted
        assert stranger.ask(100).granted
        assert (today(ledger), today(ledger, "another")) == ((0, 100, 0), (0, 100, 0))

    def test_observe_mode_books_and_never_refuses(self, ledger: Ledger) -> None:
        """Orders that are not enforced are granted past every cap, and counted."""
        till = open_till(ledger, run_usd_cap=10, daily_usd_cap=10, max_calls=1, mode="observe")
        orders = [till.order(Quote(50), enforce=False) for _ in range(2)]

        assert [ledger.reserve(order).granted for order in orders] == [True, True]
        till.settle(orders[0].reservation_id, 70)
        assert (parts(till.usage), till.usage.calls, till.usage.overrun) == ((70, 50, 0), 2, 20)

    def test_refusals_are_audited_at_most_once_a_second(self, till: Till, clock: Clock) -> None:
        """A loop of refused calls leaves one row, a later second another, and no balance moves."""
        till.hold(10)
        before = till.usage, len(list(till.ledger.entries()))
        for _ in range(20):
            till.ledger.refuse(till.order(Quote(5)), "not_allowed")
        in_one_second = len(list(till.ledger.entries()))
        clock.now += 2
        till.ledger.refuse(till.order(Quote(5)), "not_allowed")

        assert in_one_second == before[1] + 1
        assert len(list(till.ledger.entries())) == in_one_second + 1
        assert till.usage == before[0]

    def test_refused_reserves_are_audited_and_limited(self, till: Till) -> None:
        """A ledger's own refusals are in the log too, without filling it."""
        before = len(list(till.ledger.entries()))
        for _ in range(20):
            till.ask(101)

        assert 1 <= len(list(till.ledger.entries())) - before <= 2

    def test_log_alone_gives_the_balances(self, ledger: Ledger) -> None:
        """The last row of each reservation says where its money is; their sums are the run's figures."""
        till = open_till(ledger, run_usd_cap=200)
        till.settle(till.hold(30), 45)
        till.release(till.hold(20))
        till.doubt(till.hold(10))
        till.open_intent("pi_1", 25)
        till.open_intent("pi_2", 15)
        till.doubt(till.hold(35, object_id="pi_1"))
        till.read(Fact("pi_2", 5, 10, 15))
        till.ask(1000)

        assert folded(ledger, "run:run-1") == parts(till.usage) == (50, 10, 45)

    def test_log_can_be_read_by_scope(self, ledger: Ledger) -> None:
        """The entries of one run are a part of all entries."""
        first, second = open_till(ledger, "run-1"), open_till(ledger, "run-2")
        first.settle(first.hold(5), 5)
        second.hold(5)
        every, of_first = list(ledger.entries()), list(ledger.entries("run:run-1"))

        assert 2 <= len(of_first) < len(every)
        assert all(row in every for row in of_first)

    def test_runs_come_newest_first(self, ledger: Ledger, clock: Clock) -> None:
        """The list of runs shows the latest key first, each with its figures."""
        for number in range(4):
            clock.now += 1
            open_till(ledger, f"run-{number}", run_usd_cap=100).hold(number)
        listed = [(key.run_id, usage.held) for key, usage in ledger.runs(limit=3)]

        assert listed == [("run-3", 3), ("run-2", 2), ("run-1", 1)]
