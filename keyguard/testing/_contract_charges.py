"""Ledger contract: logical charges. Which requests are attempts of one reservation, which hold anew, and which are stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keyguard.errors import ConfigurationError
from keyguard.model import Closing, Fact, Identity, Leg, Outcome, Quote
from keyguard.testing._contract_base import DAY, NOON, Clock, ContractBase
from keyguard.testing._till import NAME, Till, figures, open_till, parts, today

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from keyguard.model import Decision, Order

HOUR = 3600.0
WINDOW = 23 * HOUR
# The first task run of the first execution; a retry of it, and what other executions ask for, are made from it.
FIRST = Identity("a" * 32, execution="e1", unit="t1", task="charge-1", window=WINDOW)
_DECLINED = Outcome("released", is_final=True)


def ordered(till: Till, identity: Identity, amount: int = 60, *, payee: str = "") -> Order:
    """Build the order of one request of a charge."""
    return replace(till.order(Quote(amount)), identity=identity, payee=payee)


def ask(till: Till, identity: Identity, amount: int = 60) -> tuple[str, Decision]:
    """Reserve one request of a charge."""
    order = ordered(till, identity, amount)
    return order.reservation_id, till.ledger.reserve(order)


def held(till: Till, identity: Identity, amount: int = 60) -> str:
    """Reserve what must be granted; returns the attempt's id."""
    name, decision = ask(till, identity, amount)

    assert decision.granted, decision
    return name


class ChargesContract(ContractBase):
    """One reservation a charge, attempts under it, generations, windows."""

    # -- attempts ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("ending", ["open", "doubt"])
    def test_a_further_request_of_a_charge_holds_nothing(self, till: Till, ending: str) -> None:
        """While the first is open or in doubt, a retry is granted under the same generation, at a cap that has no room for it."""
        first = held(till, FIRST)
        if ending == "doubt":
            till.doubt(first)
        before = till.usage
        _, decision = ask(till, replace(FIRST, attempt=2))

        assert (decision.granted, decision.generation, decision.hold) == (True, 0, first)
        assert till.usage == before

    def test_a_lost_answer_and_its_retry_are_charged_once(self, till: Till) -> None:
        """In doubt, then settled by the retry: the cost is booked once, and nothing stays in doubt."""
        till.doubt(held(till, FIRST))
        receipt = till.settle(held(till, replace(FIRST, attempt=2)), 55)

        assert (parts(receipt), parts(till.usage)) == ((55, 0, 0), (55, 0, 0))

    def test_a_replay_of_what_was_settled_costs_nothing(self, till: Till) -> None:
        """A request of a charge that was made is granted within the window, holds nothing and books nothing, whatever it answers."""
        till.settle(held(till, FIRST), 0, Fact("pi_1", 60, 0, 60))
        name, decision = ask(till, replace(FIRST, attempt=2))
        receipt = till.settle(name, 0, Fact("pi_1", 60, 0, 60))

        assert (decision.granted, decision.held_amount, receipt.replayed, parts(receipt)) == (True, 0, True, (0, 0, 0))
        assert (parts(till.usage), till.usage.calls) == ((60, 0, 0), 1)

    @pytest.mark.parametrize("first_doubts", [True, False])
    def test_an_unsent_retry_does_not_free_an_earlier_attempt(self, till: Till, *, first_doubts: bool) -> None:
        """A refused connection says nothing about the attempt before it: what is in doubt stays, what is open goes on."""
        first = held(till, FIRST)
        if first_doubts:
            till.doubt(first)
        second = held(till, replace(FIRST, attempt=2))
        till.release(second, unsent=True)

        assert parts(till.usage) == ((0, 0, 60) if first_doubts else (0, 60, 0))
        till.settle(first, 60)
        assert parts(till.usage) == (60, 0, 0)

    def test_a_reservation_is_released_by_the_last_attempt(self, till: Till) -> None:
        """When every attempt was surely not executed, the money is back, whichever ended last."""
        first, second = held(till, FIRST), held(till, replace(FIRST, attempt=2))
        till.release(first, unsent=True)

        assert parts(till.usage) == (0, 60, 0)
        till.release(second, unsent=True)
        assert parts(till.usage) == (0, 0, 0)

    def test_an_attempt_left_in_doubt_keeps_the_reservation(self, till: Till) -> None:
        """The first unsent, the second lost: in doubt."""
        first, second = held(till, FIRST), held(till, replace(FIRST, attempt=2))
        till.release(first, unsent=True)
        till.doubt(second)

        assert parts(till.usage) == (0, 0, 60)

    def test_a_final_refusal_answers_for_all_attempts(self, till: Till) -> None:
        """What the vendor answers to a key from now on, it has answered to the attempt whose answer was lost."""
        till.doubt(held(till, FIRST))
        till.ledger.close(Closing(held(till, replace(FIRST, attempt=2)), _DECLINED))

        assert parts(till.usage) == (0, 0, 0)

    def test_two_processes_share_a_charge(self, till: Till, other: Ledger) -> None:
        """Another handle's request is an attempt of the same reservation, and each closes its own."""
        there = Till(other, till.run_id, prefix="other/")
        here = held(till, FIRST)
        theirs = held(there, replace(FIRST, execution="e2", unit="t9"))

        assert parts(there.usage) == (0, 60, 0)
        there.doubt(theirs)
        assert parts(till.usage) == (0, 60, 0)
        till.settle(here, 60)
        assert (parts(there.usage), there.settle(theirs, 60).replayed) == ((60, 0, 0), True)

    def test_a_revoked_key_sends_no_further_attempt(self, till: Till) -> None:
        """An attempt holds nothing, and is refused all the same once its key is revoked."""
        till.doubt(held(till, FIRST))
        stale = ordered(till, replace(FIRST, attempt=2))
        till.ledger.revoke(run_id=till.run_id)
        fresh = ordered(till, replace(FIRST, attempt=2))

        assert [till.ledger.reserve(order).reason for order in (stale, fresh)] == ["revoked", "revoked"]
        assert parts(till.usage) == (0, 0, 60)

    def test_an_expired_key_sends_no_further_attempt(self, ledger: Ledger, clock: Clock) -> None:
        """Nor does one that has expired."""
        till = open_till(ledger, run_usd_cap=100, expires_in=10.0)
        till.doubt(held(till, FIRST))
        clock.now += 11

        assert ask(till, replace(FIRST, attempt=2))[1].reason == "expired"

    # -- generations ------------------------------------------------------------------------------

    def test_after_a_definite_refusal_a_charge_is_tried_anew(self, till: Till) -> None:
        """A decline gives the money back; the retry holds again, as the next generation."""
        till.ledger.close(Closing(held(till, FIRST), _DECLINED))
        _, decision = ask(till, replace(FIRST, attempt=2))

        assert (decision.granted, decision.generation, parts(till.usage)) == (True, 1, (0, 60, 0))

    def test_two_processes_come_to_the_same_generation(self, till: Till, other: Ledger) -> None:
        """Both saw the decline of the first try: the second to ask joins the first's new try, and a late decline changes nothing."""
        there = Till(other, till.run_id, prefix="other/")
        here, theirs = held(till, FIRST), held(there, replace(FIRST, execution="e2", unit="t9"))
        till.ledger.close(Closing(here, _DECLINED))
        again, decision = ask(till, replace(FIRST, attempt=2))
        other.close(Closing(theirs, _DECLINED))
        joined = ask(there, replace(FIRST, execution="e2", unit="t9", attempt=2))[1]

        assert [(one.granted, one.generation) for one in (decision, joined)] == [(True, 1), (True, 1)]
        assert (joined.hold, parts(till.usage)) == (again, (0, 60, 0))

    def test_a_declined_confirmation_is_tried_anew(self, till: Till) -> None:
        """The hold that it adopted is an open intent again, and the next try adopts it as the next generation."""
        till.open_intent("pi_1", 60)
        order = replace(till.order(Quote(60, object_id="pi_1", adopts=True)), identity=FIRST)
        again = replace(till.order(Quote(60, object_id="pi_1", adopts=True)), identity=replace(FIRST, attempt=2))

        assert till.ledger.reserve(order).granted
        till.ledger.close(Closing(order.reservation_id, _DECLINED))
        decision = till.ledger.reserve(again)

        assert (decision.granted, decision.generation, decision.adopted, parts(till.usage)) == (True, 1, 60, (0, 60, 0))

    # -- numbers ----------------------------------------------------------------------------------

    def test_identical_requests_of_other_units_are_other_charges(self, ledger: Ledger, other: Ledger) -> None:
        """Two task runs of an execution, in two processes that both count from 0: the second gets the next number and its own hold."""
        till = open_till(ledger, run_usd_cap=150)
        there = Till(other, till.run_id, prefix="other/")
        held(till, FIRST)
        _, decision = ask(there, replace(FIRST, unit="t2"))

        assert (decision.granted, decision.n, decision.hold, parts(till.usage)) == (True, 1, "", (0, 120, 0))

    def test_another_execution_comes_to_the_same_numbers(self, ledger: Ledger) -> None:
        """A flow retry asks for the same charges again, in any order, and holds nothing more."""
        till = open_till(ledger, run_usd_cap=120)
        for n in (0, 1):
            till.settle(held(till, replace(FIRST, unit=f"t{n}", n=n)), 60)
        again = [ask(till, replace(FIRST, execution="e2", unit=f"u{n}", n=n))[1] for n in (1, 0)]

        assert [(one.granted, one.n) for one in again] == [(True, 1), (True, 0)]
        assert parts(till.usage) == (120, 0, 0)

    def test_runs_do_not_share_charges(self, ledger: Ledger) -> None:
        """The identity has the run in it: the same request of another run has another, and another hold."""
        tills = [open_till(ledger, run, run_usd_cap=100) for run in ("run-1", "run-2")]
        for till, request in zip(tills, ("a" * 32, "b" * 32), strict=True):
            held(till, replace(FIRST, request=request))

        assert [parts(till.usage) for till in tills] == [(0, 60, 0), (0, 60, 0)]

    # -- what is stopped ----------------------------------------------------------------------------

    @pytest.mark.parametrize(("ending", "reason"), [("settled", "already_charged"), ("doubt", "doubt_pending")])
    def test_a_charge_is_not_sent_again_after_the_vendors_window(self, till: Till, clock: Clock, ending: str, reason: str) -> None:
        """A weekend later the vendor has forgotten the key: what was made is refused, and what may have been."""
        name = held(till, FIRST)
        till.settle(name, 60) if ending == "settled" else till.doubt(name)
        clock.now = NOON + WINDOW - 1
        within = ask(till, replace(FIRST, execution="e2"))[1]
        clock.now = NOON + WINDOW
        after = ask(till, replace(FIRST, execution="e3"))[1]

        assert (within.granted, after.granted, after.reason, after.hold, after.at) == (True, False, reason, name, NOON)

    def test_after_the_window_a_callers_own_key_is_a_new_charge(self, ledger: Ledger, clock: Clock) -> None:
        """He may reuse it each month: it is held again, never refused for that."""
        till, own = open_till(ledger, run_usd_cap=200), Identity("c" * 32, window=WINDOW, is_own=True)
        till.settle(held(till, own), 60)
        clock.now += 30 * DAY

        assert (ask(till, own)[1].granted, parts(till.usage)) == (True, (60, 60, 0))

    def test_after_a_release_there_is_no_window(self, till: Till, clock: Clock) -> None:
        """What was surely not made may be tried for ever."""
        till.release(held(till, FIRST))
        clock.now += 30 * DAY

        assert ask(till, replace(FIRST, execution="e2"))[1].granted

    def test_other_parameters_under_one_name_are_a_conflict(self, till: Till) -> None:
        """A scope, or a key of the caller's, stands for one request; with other parameters it is stopped, and changes nothing."""
        named = replace(FIRST, execution="", unit="", fingerprint="p1")
        first = held(till, named)
        before = till.usage
        decision = ask(till, replace(named, fingerprint="p2"), 1)[1]

        assert (decision.granted, decision.reason, decision.hold, till.usage) == (False, "conflict", first, before)

    def test_what_was_refused_may_be_mended_under_the_same_name(self, till: Till) -> None:
        """After a release the name is free for other parameters."""
        named = replace(FIRST, execution="", unit="", fingerprint="p1")
        till.release(held(till, named))
        mended = replace(named, fingerprint="p2")

        assert ask(till, mended)[1].granted
        assert ask(till, named)[1].reason == "conflict"

    @pytest.mark.parametrize("resends", [True, False])
    def test_without_a_window_each_send_holds_or_is_stopped(self, ledger: Ledger, *, resends: bool) -> None:
        """Where the vendor executes each send, a retry of what is in doubt holds once more, or is refused by `on_doubt`."""
        till = open_till(ledger, run_usd_cap=200)
        once = replace(FIRST, window=0.0, resends=False)
        till.doubt(held(till, once))
        decision = ask(till, replace(once, attempt=2, resends=resends))[1]

        assert (decision.granted, decision.reason) == ((False, "doubt_pending") if not resends else (True, ""))

    def test_a_lookalike_of_a_doubt_is_stopped_in_a_task_retry(self, ledger: Ledger) -> None:
        """The same operation, payee and amount with another note: the retry of a task may be the charge in doubt. Elsewhere it may not."""
        till = open_till(ledger, run_usd_cap=500)
        first = ordered(till, FIRST, payee="p1")
        ledger.reserve(first)
        till.doubt(first.reservation_id)
        noted = replace(FIRST, request="b" * 32, attempt=2)
        asked = [
            ordered(till, noted, payee="p1"),
            ordered(till, noted, payee="p2"),
            ordered(till, replace(noted, request="c" * 32), 61, payee="p1"),
            ordered(till, replace(noted, request="d" * 32, attempt=1), payee="p1"),
            ordered(till, replace(noted, request="e" * 32, unit="t2"), payee="p1"),
        ]  # fmt: skip

        assert [ledger.reserve(order).reason for order in asked] == ["doubt_pending", "", "", "", ""]

    def test_a_settled_charge_has_no_lookalikes(self, ledger: Ledger) -> None:
        """What is known to be made stops nobody."""
        till = open_till(ledger, run_usd_cap=500)
        till.settle(held(till, FIRST), 60)

        assert ask(till, replace(FIRST, request="b" * 32, attempt=2))[1].granted

    # -- executions whose tasks are skipped -----------------------------------------------------------

    def test_a_request_that_may_be_a_skipped_tasks_is_stopped(self, ledger: Ledger) -> None:
        """The task that was charged is skipped, because its result was kept: another one's identical request is not taken for it."""
        till, kept = open_till(ledger, run_usd_cap=500), replace(FIRST, persists=True)
        first = held(till, kept)
        till.settle(first, 60)
        decision = ask(till, replace(FIRST, execution="e2", unit="t2", task="charge-2"))[1]

        assert (decision.granted, decision.reason, decision.hold) == (False, "ambiguous", first)

    def test_one_of_two_equal_tasks_that_may_be_skipped_is_stopped(self, ledger: Ledger) -> None:
        """Two runs of one task were charged alike; in the next execution nobody can tell which of them asks."""
        till = open_till(ledger, run_usd_cap=500)
        for n, unit in enumerate(("t1", "t2")):
            till.settle(held(till, replace(FIRST, n=n, unit=unit, persists=True)), 60)

        assert ask(till, replace(FIRST, execution="e2", unit="t3", persists=True))[1].reason == "ambiguous"

    def test_the_same_task_asks_again(self, ledger: Ledger) -> None:
        """The only task that was charged failed after it: it asks again in the next execution, and is replayed."""
        till = open_till(ledger, run_usd_cap=500)
        till.settle(held(till, replace(FIRST, persists=True)), 60)
        decision = ask(till, replace(FIRST, execution="e2", unit="t2", persists=True))[1]

        assert (decision.granted, parts(till.usage)) == (True, (60, 0, 0))

    def test_without_kept_results_nothing_is_ambiguous(self, ledger: Ledger) -> None:
        """Every task runs again then."""
        till = open_till(ledger, run_usd_cap=500)
        till.settle(held(till, FIRST), 60)

        assert ask(till, replace(FIRST, execution="e2", unit="t2", task="charge-2"))[1].granted

    # -- days -------------------------------------------------------------------------------------

    def test_a_retry_on_the_next_day_moves_the_hold_there(self, ledger: Ledger, clock: Clock) -> None:
        """It may be executed today, so today's budget counts it; the run counts it once."""
        till = open_till(ledger, run_usd_cap=100, daily_usd_cap=80)
        clock.now = (NOON // DAY + 1) * DAY - HOUR
        till.doubt(held(till, FIRST))
        clock.now += 2 * HOUR
        second = held(till, replace(FIRST, execution="e2"))

        assert (today(ledger), parts(till.usage)) == ((0, 60, 0), (0, 60, 0))
        till.settle(second, 55)
        assert (today(ledger), parts(till.usage)) == ((55, 0, 0), (55, 0, 0))

    @pytest.mark.parametrize("is_doubt", [True, False])
    def test_a_hold_that_moves_to_the_next_day_is_one_call(self, ledger: Ledger, clock: Clock, *, is_doubt: bool) -> None:
        """The vendor may execute it once, whatever the day: it fits a run that may make one call, and is counted as one."""
        till = open_till(ledger, run_usd_cap=100, daily_usd_cap=80, max_calls=1)
        clock.now = (NOON // DAY + 1) * DAY - HOUR
        first = held(till, FIRST)
        if is_doubt:
            till.doubt(first)
        clock.now += 2 * HOUR
        second = held(till, replace(FIRST, execution="e2"))
        till.settle(second, 55)

        assert (till.usage.calls, parts(till.usage), today(ledger)) == (1, (55, 0, 0), (55, 0, 0))
        assert ask(till, replace(FIRST, request="b" * 32))[1].reason == "cap_exceeded"
        assert ledger.verify() == []

    def test_a_hold_that_does_not_fit_the_new_day_stays(self, ledger: Ledger, clock: Clock) -> None:
        """The retry is refused by the day's cap, and nothing moves."""
        till = open_till(ledger, run_usd_cap=500, daily_usd_cap=80)
        clock.now = (NOON // DAY + 1) * DAY - HOUR
        first = held(till, FIRST)
        till.doubt(first)
        clock.now += 2 * HOUR
        till.hold(30)
        decision = ask(till, replace(FIRST, execution="e2"))[1]

        assert (decision.reason, decision.scope, today(ledger), parts(till.usage)) == (
            "cap_exceeded", f"policy:{NAME}", (0, 30, 0), (0, 30, 60),
        )  # fmt: skip
        assert till.settle(first, 60).spent == 60

    def test_the_first_attempt_settles_where_its_hold_went(self, ledger: Ledger, clock: Clock) -> None:
        """An answer that comes after the hold was moved finds it, and is booked once."""
        till = open_till(ledger, run_usd_cap=100, daily_usd_cap=80)
        clock.now = (NOON // DAY + 1) * DAY - HOUR
        first = held(till, FIRST)
        clock.now += 2 * HOUR
        second = held(till, replace(FIRST, execution="e2"))
        till.settle(first, 60)

        assert (till.settle(second, 60).replayed, parts(till.usage), today(ledger)) == (True, (60, 0, 0), (60, 0, 0))

    # -- doubts -----------------------------------------------------------------------------------

    def test_doubts_say_what_is_known(self, till: Till, clock: Clock) -> None:
        """Of each: whose, what for, how much, since when, how often tried, and what the vendor called it."""
        order = replace(ordered(till, FIRST, payee="p1"), principal="o1")
        till.ledger.reserve(order)
        clock.now += 5
        till.ledger.close(Closing(order.reservation_id, Outcome("doubt", request_id="req_1")))
        (found,) = till.ledger.doubts()

        assert (found.reservation_id, found.run_id, found.key_id, found.amount) == (order.reservation_id, "run-1", order.key_id, 60)
        assert (found.vendor, found.operation, found.method, found.request_id) == ("stripe", "things.create", "POST", "req_1")
        assert (found.at, found.sent_at, found.attempts, found.ended) == (NOON, NOON + 5, 1, "")
        assert (found.identity, found.n, found.generation, found.payee, found.principal) == (FIRST.request, 0, 0, "p1", "o1")
        assert till.ledger.doubts("run:other") == []

    @pytest.mark.parametrize(("outcome", "expected"), [(Outcome("settled", 55), (55, 0, 0)), (Outcome("released"), (0, 0, 0))])
    def test_a_doubt_is_ended_by_a_person(self, till: Till, outcome: Outcome, expected: tuple[int, int, int]) -> None:
        """It is audited with who said so and why, and a further request is a replay, or the next try."""
        name = held(till, FIRST)
        till.doubt(name)
        receipt = till.ledger.resolve(name, outcome, by="ann", reason="seen in the dashboard")
        *_, last = till.ledger.entries(f"run:{till.run_id}")

        assert (parts(receipt), parts(till.usage), till.ledger.doubts()) == (expected, expected, [])
        assert (last["detail"]["by"], last["detail"]["reason"]) == ("ann", "seen in the dashboard")
        assert ask(till, replace(FIRST, attempt=2))[1].generation == (0 if outcome.ending == "settled" else 1)

    def test_nothing_is_freed_by_age(self, till: Till, clock: Clock) -> None:
        """Years later a doubt counts as on its first day."""
        till.doubt(held(till, FIRST))
        clock.now += 4000 * DAY
        till.read()

        assert (parts(till.usage), len(till.ledger.doubts())) == ((0, 0, 60), 1)

    def test_an_open_call_cannot_be_resolved(self, till: Till) -> None:
        """Its own process will say how it ended; nor can an unknown one, or to a doubt."""
        name = held(till, FIRST)
        for wanted, outcome in ((name, Outcome("released")), ("nobody", Outcome("released")), (name, Outcome("doubt"))):
            with pytest.raises(ConfigurationError):
                till.ledger.resolve(wanted, outcome, by="ann", reason="")

        assert parts(till.usage) == (0, 60, 0)

    def test_late_truth_is_booked_as_overrun_on_its_own_day(self, ledger: Ledger, clock: Clock) -> None:
        """Presumed absent and released, then charged after all: booked in full, where the reservation was, past any cap."""
        till = open_till(ledger, run_usd_cap=60, daily_usd_cap=60)
        name = held(till, FIRST)
        till.doubt(name)
        ledger.resolve(name, Outcome("released"), by="reconcile", reason="presumed absent")
        till.settle(till.hold(60), 60)
        clock.now += DAY
        receipt = ledger.resolve(name, Outcome("settled", facts=(Fact("pi_1", 55, 0, 55),)), by="reconcile", reason="event evt_1")
        again = ledger.resolve(name, Outcome("settled", facts=(Fact("pi_1", 55, 0, 55),)), by="reconcile", reason="event evt_1")

        assert (receipt.spent, receipt.overrun, again.replayed) == (55, 55, True)
        assert (parts(till.usage), till.usage.overrun, today(ledger)) == ((115, 0, 0), 55, (0, 0, 0))
        assert figures(ledger, f"refund:run:{till.run_id}").cap == 55

    def test_a_charge_counts_units_and_calls_once(self, ledger: Ledger) -> None:
        """Attempts of one charge are one call, and its e-mails are counted once."""
        till = open_till(ledger, max_emails=2, max_calls=1)
        order = replace(till.order(Quote(0, units=2)), identity=FIRST)
        again = replace(till.order(Quote(0, units=2)), identity=replace(FIRST, attempt=2))

        assert [ledger.reserve(one).granted for one in (order, again)] == [True, True]
        assert (till.usage.calls, till.usage.emails) == (1, 2)
        assert Leg(f"calls:run:{till.run_id}", unit="call") in order.legs
