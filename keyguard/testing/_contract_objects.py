"""Ledger contract: vendor objects (open intents, adoption, facts, refunds) and day windows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest

from keyguard.model import Closing, Fact, Outcome, Quote
from keyguard.testing._contract_base import DAY, NOON, ContractBase
from keyguard.testing._till import open_till, parts, today

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from keyguard.testing._contract_base import Clock
    from keyguard.testing._till import Till

PI = "pi_12345"


def succeeded(spent: int, held: int = 0, amount: int = 60) -> Fact:
    """Say that the intent has cost so much in total."""
    return Fact(PI, spent, held, amount, status="succeeded")


class IntentContract(ContractBase):
    """Open holds on vendor objects, and calls that adopt them."""

    def test_open_intent_stays_held_and_is_listed(self, till: Till) -> None:
        """A settled create of something that can still cost money keeps its hold."""
        till.open_intent(PI, 60)
        usage, memory = till.usage, till.recall(PI)

        assert parts(usage) == (0, 60, 0)
        assert [(intent.object_id, intent.held) for intent in usage.intents] == [(PI, 60)]
        assert memory is not None
        assert (memory.own, memory.spent, memory.held, memory.amount) == (0, 0, 60, 60)
        assert (till.ask(41).granted, till.recall("pi_unknown")) == (False, None)

    def test_many_open_intents_stop_at_the_cap(self, till: Till) -> None:
        """Objects that nobody confirmed count like charges."""
        for number in range(5):
            till.open_intent(f"pi_{number}", 20)

        assert not till.ask(20).granted

    def test_confirm_adopts_the_hold(self, till: Till) -> None:
        """One charge made in two calls is held once and spent once."""
        till.open_intent(PI, 60)
        decision = till.ledger.reserve(order := till.order(Quote(60, object_id=PI, adopts=True)))

        assert (decision.granted, decision.held_amount, decision.adopted) == (True, 60, 60)
        assert parts(till.usage) == (0, 60, 0)
        assert parts(till.settle(order.reservation_id, 0, succeeded(60))) == (60, 0, 0)
        assert (parts(till.usage), till.usage.intents) == ((60, 0, 0), ())

    def test_a_replayed_create_raises_nothing(self, till: Till) -> None:
        """It shows the object as it was made, which is older than all else that is known of it: what was lowered since stays lowered."""
        till.open_intent(PI, 60)
        till.settle(till.hold(60, object_id=PI), 0, Fact(PI, 0, 25, 25, status="requires_confirmation"))
        again = till.hold(60)
        receipt = till.settle(again, 0, Fact(PI, 0, 60, 60, status="requires_confirmation"))

        assert (parts(receipt), parts(till.usage)) == ((0, 0, 0), (0, 25, 0))

    def test_a_read_may_raise_what_is_open(self, till: Till) -> None:
        """Somebody has raised it in the dashboard; of a read nobody can say that it is old."""
        till.open_intent(PI, 60)
        till.read(Fact(PI, 0, 80, 80, status="requires_confirmation"))

        assert parts(till.usage) == (0, 80, 0)

    def test_adopting_less_keeps_the_whole_hold(self, till: Till) -> None:
        """The vendor may still take what was open, so the greater of the two is held."""
        till.open_intent(PI, 60)
        till.hold(25, object_id=PI)

        assert parts(till.usage) == (0, 60, 0)

    def test_adopting_more_must_fit_by_the_difference(self, till: Till) -> None:
        """An increment to the cap is granted, one micro more is refused and moves nothing."""
        till.open_intent(PI, 60)
        refused = till.ask(101, object_id=PI)

        assert (refused.granted, refused.reason) == (False, "cap_exceeded")
        assert (parts(till.usage), [intent.held for intent in till.usage.intents]) == ((0, 60, 0), [60])
        assert till.ask(100, object_id=PI).granted
        assert parts(till.usage) == (0, 100, 0)

    def test_without_an_open_hold_there_is_nothing_to_adopt(self, till: Till) -> None:
        """A call on an object this run does not hold pays for itself."""
        till.hold(60)
        decision = till.ask(40, object_id="pi_of_somebody")

        assert (decision.granted, decision.adopted, decision.held_amount) == (True, 0, 40)

    def test_release_gives_the_adopted_hold_back_as_an_open_intent(self, till: Till) -> None:
        """A declined confirm frees only what it reserved itself; the intent can be confirmed again."""
        till.open_intent(PI, 60)
        receipt = till.release(till.hold(80, object_id=PI))

        assert (parts(receipt), parts(till.usage)) == ((0, 60, 0), (0, 60, 0))
        assert [(intent.object_id, intent.held) for intent in till.usage.intents] == [(PI, 60)]
        assert till.ask(60, object_id=PI).adopted == 60

    def test_doubt_over_an_adopted_hold_counts_all_of_it(self, till: Till) -> None:
        """A confirm without an answer doubts its own part and the adopted one, once."""
        till.open_intent(PI, 60)
        reservation = till.hold(80, object_id=PI)
        till.doubt(reservation)

        assert parts(till.usage) == (0, 0, 80)
        till.release(reservation)
        assert parts(till.usage) == (0, 60, 0)

    def test_late_truth_settles_a_doubtful_confirm(self, till: Till) -> None:
        """What was in doubt becomes spent, once, with its object."""
        till.open_intent(PI, 60)
        reservation = till.hold(60, object_id=PI)
        till.doubt(reservation)
        till.settle(reservation, 0, succeeded(60))

        assert (parts(till.usage), till.usage.intents) == ((60, 0, 0), ())

    def test_capturing_a_part_frees_the_rest(self, till: Till) -> None:
        """A capture of 30 of 60 spends 30 and frees 30."""
        till.open_intent(PI, 60)
        receipt = till.settle(till.hold(30, object_id=PI), 0, succeeded(30))

        assert (parts(receipt), parts(till.usage)) == ((30, 0, 0), (30, 0, 0))

    def test_captures_in_several_parts_add_up(self, till: Till) -> None:
        """Facts are totals of the object: each capture books the difference to the one before."""
        till.open_intent(PI, 90)
        till.settle(till.hold(20, object_id=PI), 0, succeeded(20, held=70, amount=90))
        after_one = parts(till.usage)
        till.settle(till.hold(30, object_id=PI), 0, succeeded(50, held=40, amount=90))
        after_two = parts(till.usage)
        till.settle(till.hold(10, object_id=PI), 0, succeeded(60, amount=90))

        assert (after_one, after_two, parts(till.usage)) == ((20, 70, 0), (50, 40, 0), (60, 0, 0))

    def test_capture_of_a_foreign_object_books_the_difference_to_its_prior(self, till: Till) -> None:
        """What an object of another run had cost before this call is not charged again."""
        order = till.order(Quote(20, object_id=PI, adopts=True, prior=30))

        assert till.ledger.reserve(order).granted
        assert parts(till.settle(order.reservation_id, 0, succeeded(50))) == (20, 0, 0)

    def test_one_object_id_in_two_accounts_is_two_objects(self, till: Till) -> None:
        """A connected account's object is not the platform's."""
        till.open_intent(PI, 60)
        decision = replace(till, account="acct_12345", prefix="other-").ask(40, object_id=PI)

        assert (decision.granted, decision.adopted) == (True, 0)

    def test_truth_of_an_object_above_its_hold_is_an_overrun(self, till: Till) -> None:
        """More than was held, seen in the reply, is booked whole."""
        till.open_intent(PI, 60)
        receipt = till.settle(till.hold(60, object_id=PI), 0, succeeded(75))

        assert (parts(receipt), receipt.overrun, till.usage.overrun) == ((75, 0, 0), 15, 15)


class FactContract(ContractBase):
    """What replies to other calls say about objects, and refunds."""

    @pytest.mark.parametrize(
        ("fact", "expected"),
        [
            (succeeded(60), (60, 0, 0)),
            (succeeded(25, held=35), (25, 35, 0)),
            (Fact(PI, 0, 0, 60, status="canceled"), (0, 0, 0)),
            (Fact(PI, 0, 60, 60, status="requires_confirmation"), (0, 60, 0)),
        ],
    )
    def test_read_updates_an_open_intent(self, till: Till, fact: Fact, expected: tuple[int, int, int]) -> None:
        """A free read that shows an object's state settles, cuts or frees its hold; the read itself costs nothing."""
        till.open_intent(PI, 60)
        receipt = till.read(fact)

        assert (parts(receipt), parts(till.usage)) == ((0, 0, 0), expected)
        assert sum(intent.held for intent in till.usage.intents) == expected[1]

    def test_same_fact_twice_counts_once(self, till: Till) -> None:
        """Polling an object does not add up."""
        till.open_intent(PI, 60)
        for _ in range(3):
            till.read(succeeded(60))

        assert parts(till.usage) == (60, 0, 0)

    def test_list_of_objects_updates_each(self, till: Till) -> None:
        """A list read may settle one intent and cancel another."""
        till.open_intent("pi_1", 30)
        till.open_intent("pi_2", 40)
        till.read(Fact("pi_1", 30, 0, 30), Fact("pi_2", 0, 0, 40, status="canceled"))

        assert parts(till.usage) == (30, 0, 0)

    def test_facts_about_foreign_objects_change_nothing(self, till: Till) -> None:
        """A list of everybody's charges does not become this run's spending, nor the neighbour's hold its own."""
        neighbour = open_till(till.ledger, "run-2", run_usd_cap=100)
        neighbour.open_intent(PI, 60)
        till.read(succeeded(60), Fact("ch_of_nobody", 1000, 0, 1000))

        assert (parts(till.usage), parts(neighbour.usage)) == ((0, 0, 0), (0, 60, 0))

    def test_refund_within_what_was_charged_is_allowed(self, till: Till) -> None:
        """At a full cap a refund of own money is granted, and gives no cap back."""
        till.charge(PI, 100)
        till.settle(till.hold(40, object_id=PI, pot="refund"), 40, refund_of=PI)

        assert (parts(till.usage), till.usage.refunded, till.usage.remaining) == ((100, 0, 0), 40, 0)
        assert not till.ask(1).granted

    def test_refunds_stop_at_what_was_charged(self, till: Till) -> None:
        """Without a refund cap of its own a run refunds no more than it spent."""
        till.charge(PI, 60)
        till.settle(till.hold(40, object_id=PI, pot="refund"), 40, refund_of=PI)
        decision = till.ask(21, object_id=PI, pot="refund")

        assert (decision.granted, decision.scope, decision.cap, decision.spent) == (False, "refund:run:run-1", 60, 40)
        assert till.ask(20, object_id=PI, pot="refund").granted

    def test_refunds_need_a_charge(self, till: Till) -> None:
        """A run that spent nothing refunds nothing; open and doubtful money is not charged yet."""
        till.doubt(till.hold(30))
        till.open_intent(PI, 30)

        assert not till.ask(1, object_id=PI, pot="refund").granted

    def test_refund_in_flight_or_in_doubt_counts(self, till: Till) -> None:
        """Refunds hold, doubt and release like any money."""
        till.charge(PI, 60)
        till.doubt(till.hold(20, object_id=PI, pot="refund"))
        flying = till.hold(40, object_id=PI, pot="refund")

        assert not till.ask(1, object_id=PI, pot="refund").granted
        till.release(flying)
        assert till.ask(40, object_id=PI, pot="refund").granted

    @pytest.mark.parametrize(("cap", "allowed"), [(0, 0), (25, 25)])
    def test_explicit_refund_cap_holds(self, ledger: Ledger, cap: int, allowed: int) -> None:
        """A refund cap below the charges is the limit; 0 allows none."""
        till = open_till(ledger, run_usd_cap=100, refund_usd_cap=cap)
        till.charge(PI, 60)

        assert not till.ask(allowed + 1, object_id=PI, pot="refund").granted
        assert not allowed or till.ask(allowed, object_id=PI, pot="refund").granted

    def test_refund_is_remembered_with_its_object(self, till: Till) -> None:
        """Recall says what is left to refund, by the object's id and by the ids of the same money."""
        till.charge(PI, 60, "ch_12345")
        till.settle(till.hold(40, object_id="ch_12345", pot="refund"), 40, refund_of="ch_12345")
        by_id, by_alias = till.recall(PI), till.recall("ch_12345")

        assert by_id is not None
        assert (by_id.own, by_id.spent, by_id.refunded) == (60, 60, 40)
        assert by_alias is not None
        assert (by_alias.own, by_alias.refunded) == (60, 40)

    @pytest.mark.parametrize("pot", ["refund", "run"])
    def test_a_refund_is_counted_once(self, till: Till, pot: Literal["refund", "run"]) -> None:
        """A second reservation is told of the same refund, as a key of the caller's own is after its window: it has made none itself."""
        till.charge(PI, 60)
        names = [till.hold(10, object_id=PI, pot=pot) if pot == "refund" else till.hold(10) for _ in range(3)]
        given = [
            till.ledger.close(Closing(name, Outcome("settled", 10, refund_of=PI, refund_id=refund))).spent
            for name, refund in zip(names, ("re_1", "re_1", "re_2"), strict=True)
        ]
        known = till.recall(PI)

        assert given == [10, 0, 10]
        assert known is not None
        assert (till.usage.refunded if pot == "refund" else till.usage.spent - 60, known.refunded) == (20, 20)
        assert till.ledger.claimed("stripe", "", ["re_1", "re_3"]) == {"re_1"}
        assert till.ledger.verify() == []

    def test_a_refund_of_a_call_in_doubt_is_one_that_no_other_has_made(self, till: Till) -> None:
        """What another reservation has counted settles nothing; the doubt's own refund does, and late truth about it is booked once."""
        till.charge(PI, 60)
        mine, doubtful = (till.hold(20, object_id=PI, pot="refund") for _ in range(2))
        till.ledger.close(Closing(mine, Outcome("settled", 20, refund_of=PI, refund_id="re_1")))
        till.doubt(doubtful)
        told = Outcome("settled", 20, refund_of=PI, refund_id="re_1")
        taken = till.ledger.resolve(doubtful, told, by="reconcile", reason="re_1")
        till.ledger.resolve(doubtful, Outcome("released"), by="reconcile", reason="presumed absent")
        late = [
            till.ledger.resolve(doubtful, replace(told, refund_id="re_2"), by="reconcile", reason="re_2 after all").spent for _ in range(2)
        ]

        assert (taken.replayed, late, till.usage.refunded) == (True, [20, 0], 40)
        assert till.ledger.verify() == []


class WindowContract(ContractBase):
    """UTC days by the ledger's clock; money posts to the window of its reservation."""

    @pytest.fixture
    def day_till(self, ledger: Ledger) -> Till:
        """A run with a wide cap under a day cap of 100 micro-USD."""
        return open_till(ledger, run_usd_cap=1000, daily_usd_cap=100)

    def test_new_day_opens_a_new_window(self, day_till: Till, clock: Clock) -> None:
        """At midnight UTC the day cap is whole again; the run's is not."""
        day_till.hold(100)
        refused = day_till.ask(1)
        clock.now = NOON + DAY / 2 - 1
        one_second_before = day_till.ask(1).granted
        clock.now += 1

        assert (refused.granted, refused.resets_at, one_second_before) == (False, NOON + DAY / 2, False)
        assert day_till.ask(100).granted
        assert (today(day_till.ledger), parts(day_till.usage)) == ((0, 100, 0), (0, 200, 0))

    def test_late_close_posts_to_the_day_of_the_reservation(self, day_till: Till, clock: Clock) -> None:
        """What was held before midnight is settled, doubted and overrun on that day, not on the next."""
        reservations = [day_till.hold(amount) for amount in (50, 30, 20)]
        clock.now += DAY
        day_till.settle(reservations[0], 45)
        day_till.settle(reservations[1], 90)
        day_till.doubt(reservations[2])

        assert (today(day_till.ledger), parts(day_till.usage)) == ((0, 0, 0), (135, 0, 20))
        assert day_till.ask(100).granted

    def test_late_truth_of_an_intent_posts_to_its_day(self, day_till: Till, clock: Clock) -> None:
        """A read after midnight settles the intent on the day it was held."""
        day_till.open_intent(PI, 60)
        clock.now += DAY
        day_till.read(succeeded(60))

        assert (today(day_till.ledger), parts(day_till.usage)) == ((0, 0, 0), (60, 0, 0))

    def test_clock_stepping_back_stays_in_the_latest_window(self, day_till: Till, clock: Clock, other: Ledger) -> None:
        """An old day is never opened again, on no handle."""
        day_till.hold(40)
        clock.now += DAY
        day_till.hold(30)
        clock.now -= DAY

        assert today(day_till.ledger) == today(other) == (0, 30, 0)
        assert not day_till.ask(71).granted
        assert replace(day_till, ledger=other, prefix="other-").ask(70).granted

    def test_ledger_clock_never_goes_back(self, day_till: Till, clock: Clock, other: Ledger) -> None:
        """`now()` follows the clock forward, and never falls behind what was booked, on any handle."""
        first = day_till.ledger.now()
        clock.now += 100
        second = day_till.ledger.now()
        day_till.hold(1)
        clock.now -= 50

        assert (first, second) == (NOON, NOON + 100)
        assert day_till.ledger.now() >= second
        assert other.now() >= second

    def test_same_day_confirm_counts_once_on_the_day(self, day_till: Till) -> None:
        """Create and confirm of one charge are one amount of the day."""
        day_till.open_intent(PI, 60)
        reservation = day_till.hold(60, object_id=PI)
        held = today(day_till.ledger)
        day_till.settle(reservation, 0, succeeded(60))

        assert (held, today(day_till.ledger)) == ((0, 60, 0), (60, 0, 0))

    def test_confirm_on_the_next_day_moves_the_hold(self, day_till: Till, clock: Clock) -> None:
        """The day of the confirm pays for the charge; the run counts it once."""
        day_till.open_intent(PI, 60)
        clock.now += DAY
        before = today(day_till.ledger)
        reservation = day_till.hold(60, object_id=PI)
        held = today(day_till.ledger)
        day_till.settle(reservation, 0, succeeded(60))

        assert (before, held, today(day_till.ledger)) == ((0, 0, 0), (0, 60, 0), (60, 0, 0))
        assert parts(day_till.usage) == (60, 0, 0)

    def test_confirm_on_a_full_day_moves_nothing(self, day_till: Till, clock: Clock) -> None:
        """Where the adopted hold does not fit the new day it stays where it was, and can be adopted later."""
        day_till.open_intent(PI, 60)
        clock.now += DAY
        filler = day_till.hold(41)
        refused = day_till.ask(60, object_id=PI)

        assert (refused.granted, refused.reason) == (False, "cap_exceeded")
        assert (today(day_till.ledger), parts(day_till.usage)) == ((0, 41, 0), (0, 101, 0))
        day_till.release(filler)
        assert day_till.ask(60, object_id=PI).granted
        assert (today(day_till.ledger), parts(day_till.usage)) == ((0, 60, 0), (0, 60, 0))

    def test_refused_confirm_as_the_first_call_of_a_day_leaves_the_day_usable(self, day_till: Till, clock: Clock) -> None:
        """A refused adoption undoes nothing but itself: what fits afterwards is granted, adopted or new."""
        day_till.open_intent(PI, 60)
        clock.now += DAY

        assert not day_till.ask(101, object_id=PI).granted
        assert day_till.ask(40).granted
        assert day_till.ask(60, object_id=PI).granted
        assert today(day_till.ledger) == (0, 100, 0)

    def test_months_end_is_a_day_like_any(self, ledger: Ledger, clock: Clock) -> None:
        """The windows of 31 December and 1 January are two."""
        clock.now = 1_735_689_599.0  # 2024-12-31T23:59:59Z
        till = open_till(ledger, daily_usd_cap=100)
        till.hold(100)
        clock.now += 1

        assert till.ask(100).granted
