"""Ledger contract: a child's budget lies in its parent's, both are charged, and a later try of the child finds its own again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keyguard.errors import ConfigurationError
from keyguard.model import Child, Fact, Identity, Outcome, Policy, Quote
from keyguard.testing._contract_base import DAY, Clock, ContractBase
from keyguard.testing._crash import race_until_refused
from keyguard.testing._till import NAME, Till, figures, limits, open_child, open_till, parts, subflow, today

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from keyguard.model import Order


def both(child: Till, parent: Till) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return spent, held, doubt of a child's budget and of the one it lies in."""
    return parts(child.usage), parts(parent.usage)


def same(parts: tuple[int, int, int]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the figures of a child and its parent that count the same."""
    return parts, parts


def charged(till: Till, amount: int, *, execution: str = "x1", window: float = 60.0) -> Order:
    """Return the order of a charge whose retry can be told."""
    order = till.order(Quote(amount))
    return replace(order, identity=Identity("charge", execution=execution, unit=f"u of {execution}", fingerprint="f", window=window))


class ChildrenContract(ContractBase):
    """What a child's calls are booked on."""

    def test_a_childs_call_is_booked_on_it_and_on_its_parent(self, till: Till) -> None:
        """Held, settled, released and in doubt: always on both, or on none."""
        child = open_child(till, run_usd_cap=50)
        spent, free, unknown = child.hold(10), child.hold(11), child.hold(12)
        held = both(child, till)
        child.settle(spent, 9)
        child.release(free)
        child.doubt(unknown)

        assert held == same((0, 33, 0))
        assert both(child, till) == same((9, 0, 12))
        assert (child.usage.calls, till.usage.calls, child.usage.cap) == (3, 3, 50)

    def test_a_parents_own_call_is_not_the_childs(self, till: Till) -> None:
        """What the run does outside of the child counts on the run only."""
        child = open_child(till, run_usd_cap=50)
        till.settle(till.hold(60), 60)

        assert both(child, till) == ((0, 0, 0), (60, 0, 0))

    def test_the_full_one_refuses_and_is_named(self, till: Till) -> None:
        """A child stops at its own cap, and at its parent's; the refusal says which, with that one's figures, and changes none."""
        child, sibling = open_child(till, run_usd_cap=50), open_child(till, subflow("try-2", "texts"), run_usd_cap=90)
        child.settle(child.hold(50), 50)
        own = child.ask(1)
        sibling.settle(sibling.hold(40), 40)
        parents = sibling.ask(11)

        assert (own.granted, own.scope, own.cap, own.spent) == (False, f"run:{child.run_id}", 50, 50)
        assert (parents.granted, parents.scope, parents.cap, parents.spent) == (False, f"run:{till.run_id}", 100, 90)
        assert (parts(sibling.usage), parts(till.usage)) == ((40, 0, 0), (90, 0, 0))
        assert sibling.ask(10).granted

    def test_a_childs_cap_above_its_parents_is_no_way_to_more(self, till: Till) -> None:
        """A wider wish is warned of; the narrower of both holds."""
        key, warnings = till.ledger.issue(limits(name="child", run_usd_cap=500), None, Child(till.key.key_id, subflow()))
        child = Till(till.ledger, key.run_id or "")
        child.settle(child.hold(100), 100)

        assert any("run_usd_cap" in one and "the narrower holds" in one for one in warnings)
        assert child.ask(1).scope == f"run:{till.run_id}"

    def test_a_child_of_a_child_is_booked_on_three(self, till: Till) -> None:
        """Each budget within another: all three are charged, and each can be the full one."""
        middle = open_child(till, run_usd_cap=60)
        inner = open_child(middle, subflow("try-2", "inner"), run_usd_cap=20)
        inner.settle(inner.hold(20), 20)
        full = inner.ask(1)
        middle.settle(middle.hold(40), 40)

        assert (full.scope, middle.ask(1).scope) == (f"run:{inner.run_id}", f"run:{middle.run_id}")
        assert [parts(one.usage)[0] for one in (inner, middle, till)] == [20, 60, 60]
        assert [one.run_id for one in inner.key.chain] == [inner.run_id, middle.run_id, till.run_id]

    def test_calls_mails_and_days_have_a_budget_each(self, ledger: Ledger) -> None:
        """`max_calls`, `max_emails` and `daily_usd_cap` of both hold; a policy's day that both have is charged once."""
        till = open_till(ledger, run_usd_cap=1000, daily_usd_cap=30, max_calls=9, max_emails=9)
        child = open_child(till, daily_usd_cap=20, max_calls=2, max_emails=3, name="own")
        shared = open_child(till, subflow("try-2", "shared"), daily_usd_cap=30, name=NAME)
        order = child.order(Quote(10, units=3))

        assert ledger.reserve(order).granted
        assert ledger.reserve(child.order(Quote(1, units=1))).scope == f"emails:run:{child.run_id}"
        assert child.ask(11).scope == "policy:own"
        child.settle(child.hold(10), 10)
        assert child.ask(0).scope == f"calls:run:{child.run_id}"
        assert (child.usage.calls, till.usage.calls, child.usage.emails, till.usage.emails) == (2, 2, 3, 3)
        shared.settle(shared.hold(5), 5)
        assert (today(ledger, "own"), today(ledger)) == ((10, 10, 0), (15, 10, 0))

    def test_the_least_that_is_left_is_what_a_decision_says(self, till: Till) -> None:
        """`limit` and `remaining` are those of the budget that will be full first."""
        child = open_child(till, run_usd_cap=50)
        first = child.ask(10)
        till.hold(60)
        second = child.ask(10)

        assert (first.limit, first.remaining) == (50, 40)
        assert (second.limit, second.remaining) == (100, 20)

    def test_truth_above_the_hold_is_booked_on_both(self, till: Till) -> None:
        """An overrun, and truth that comes after a release, are the child's money as well."""
        child = open_child(till, run_usd_cap=50)
        child.settle(child.hold(10), 25)
        gone = child.hold(5)
        child.release(gone)
        child.settle(gone, 7)

        assert both(child, till) == same((32, 0, 0))
        assert (child.usage.overrun, till.usage.overrun) == (22, 22)

    def test_late_truth_of_a_childs_child_is_booked_on_all_and_their_days(self, ledger: Ledger) -> None:
        """However many budgets a call has: what comes to light after its release is on each of them."""
        till = open_till(ledger, run_usd_cap=100, daily_usd_cap=90)
        middle = open_child(till, run_usd_cap=60, daily_usd_cap=50, name="middle")
        inner = open_child(middle, subflow("try-2", "inner"), run_usd_cap=20, daily_usd_cap=15, name="inner")
        gone = inner.hold(5)
        inner.release(gone)
        inner.settle(gone, 7)

        assert [parts(one.usage) for one in (inner, middle, till)] == [(7, 0, 0)] * 3
        assert [today(ledger, name) for name in ("inner", "middle", NAME)] == [(7, 0, 0)] * 3

    def test_a_person_ends_a_doubt_on_both(self, till: Till) -> None:
        """By hand or by the vendor's word, settled or released."""
        child = open_child(till, run_usd_cap=50)
        known, gone = child.hold(10), child.hold(20)
        child.doubt(known)
        child.doubt(gone)
        shown = [one.reservation_id for one in till.ledger.doubts(f"run:{till.run_id}")]
        childs = [(one.reservation_id, one.run_id) for one in till.ledger.doubts(f"run:{child.run_id}")]
        till.ledger.resolve(known, Outcome("settled", 10), by="ada", reason="seen")
        till.ledger.resolve(gone, Outcome("released"), by="ada", reason="not there")

        assert shown == [known, gone]
        assert childs == [(known, child.run_id), (gone, child.run_id)]
        assert both(child, till) == same((10, 0, 0))

    def test_what_a_child_has_opened_stays_its_money(self, till: Till) -> None:
        """An intent of the child's call that the run captures is found there, counted once, and charged to both; nothing is freed."""
        child = open_child(till, run_usd_cap=20)
        child.open_intent("pi_1", 20)
        open_before = [intent.object_id for intent in child.usage.intents]
        remembered = till.recall("pi_1")
        capture = till.hold(20, object_id="pi_1")
        moved = both(child, till)
        till.settle(capture, 0, Fact("pi_1", 20, 0, 20, status="succeeded"))

        assert open_before == ["pi_1"]
        assert remembered is not None
        assert moved == same((0, 20, 0))
        assert both(child, till) == same((20, 0, 0))
        assert child.ask(1).scope == f"run:{child.run_id}"

    def test_what_the_run_has_opened_and_a_child_captures_is_the_childs_too(self, till: Till) -> None:
        """The child's budget must hold all of it, else nothing moves."""
        till.open_intent("pi_1", 30)
        narrow, wide = open_child(till, run_usd_cap=29), open_child(till, subflow("try-2", "wide"), run_usd_cap=30)
        refused = narrow.ask(30, object_id="pi_1")
        capture = wide.hold(30, object_id="pi_1")

        assert (refused.granted, refused.scope) == (False, f"run:{narrow.run_id}")
        assert (parts(narrow.usage), parts(wide.usage), parts(till.usage)) == ((0, 0, 0), (0, 30, 0), (0, 30, 0))
        wide.release(capture)
        assert (parts(wide.usage), parts(till.usage)) == same((0, 30, 0))

    def test_a_capture_of_more_than_the_childs_rest_is_refused_by_the_child(self, till: Till) -> None:
        """Whoever goes on with a child's intent, its cap holds: the refusal names it."""
        child = open_child(till, run_usd_cap=20)
        child.open_intent("pi_1", 20)
        refused = till.ask(21, object_id="pi_1")

        assert (refused.granted, refused.scope, refused.cap, refused.held) == (False, f"run:{child.run_id}", 20, 20)
        assert both(child, till) == same((0, 20, 0))

    def test_a_further_try_of_a_capture_in_doubt_is_on_its_maker_too(self, till: Till) -> None:
        """The run's first try has taken the child's hold with it, and nobody knows what became of it: the next one is counted as far."""
        child = open_child(till, run_usd_cap=40)
        child.open_intent("pi_1", 20)
        till.doubt(till.hold(20, object_id="pi_1"))
        again = till.hold(20, object_id="pi_1")
        refused = till.ask(1, object_id="pi_1")

        assert both(child, till) == same((0, 20, 20))
        assert (refused.granted, refused.scope) == (False, f"run:{child.run_id}")
        till.settle(again, 0, Fact("pi_1", 20, 0, 20, status="succeeded"))
        assert both(child, till) == same((20, 0, 20))

    def test_refunds_of_a_child_are_the_runs(self, ledger: Ledger) -> None:
        """What the run charged may be refunded in a child and the other way about; a child's own refund cap holds besides."""
        till = open_till(ledger, run_usd_cap=100)
        till.charge("pi_1", 30)
        free, none = open_child(till, run_usd_cap=10), open_child(till, subflow("try-2", "none"), refund_usd_cap=0)
        refund = free.hold(20, object_id="pi_1", pot="refund")
        free.settle(refund, 20, refund_of="pi_1")

        assert none.ask(1, object_id="pi_1", pot="refund").scope == f"refund:run:{none.run_id}"
        assert (till.usage.refunded, free.usage.refunded, parts(free.usage)) == (20, 20, (0, 0, 0))
        assert free.ask(11, object_id="pi_1", pot="refund").scope == f"refund:run:{till.run_id}"

    def test_a_retry_within_and_without_is_one_charge(self, till: Till) -> None:
        """A charge whose answer was lost in the child is another attempt outside of it: held once, settled on both, under one key."""
        child = open_child(till, run_usd_cap=20)
        first = charged(child, 20)
        asked = till.ledger.reserve(first)
        child.doubt(first.reservation_id)
        again = charged(till, 20, execution="x2")
        retried = till.ledger.reserve(again)
        till.settle(again.reservation_id, 20)

        assert (asked.granted, retried.granted, retried.hold, retried.generation) == (True, True, first.reservation_id, 0)
        assert both(child, till) == same((20, 0, 0))

    def test_a_charge_that_moves_to_another_day_stays_on_its_child(self, ledger: Ledger, clock: Clock) -> None:
        """In doubt since yesterday, sent again today from outside: today's windows, and the child's budget all the same."""
        till = open_till(ledger, run_usd_cap=100, daily_usd_cap=50)
        child = open_child(till, run_usd_cap=20, daily_usd_cap=40, name="own")
        first = charged(child, 20, window=9 * DAY)
        ledger.reserve(first)
        child.doubt(first.reservation_id)
        clock.now += DAY
        again = charged(till, 20, window=9 * DAY, execution="x2")
        retried = ledger.reserve(again)
        till.settle(again.reservation_id, 20)

        assert (retried.granted, retried.hold) == (True, again.reservation_id)
        assert both(child, till) == same((20, 0, 0))
        assert (today(ledger, "own"), today(ledger)) == ((20, 0, 0), (20, 0, 0))
        assert (child.usage.calls, till.usage.calls) == (1, 1)

    def test_a_next_try_is_charged_to_whoever_makes_it(self, till: Till) -> None:
        """After a final refusal the next generation holds anew: in the child on both, outside of it on the run."""
        child = open_child(till, run_usd_cap=20)
        first, second = charged(child, 20), charged(till, 20, execution="x2")
        till.ledger.reserve(first)
        child.release(first.reservation_id)
        decision = till.ledger.reserve(second)

        assert (decision.granted, decision.generation) == (True, 1)
        assert both(child, till) == ((0, 0, 0), (0, 20, 0))

    def test_a_revoked_parent_stops_its_children_and_not_the_other_way_about(self, till: Till) -> None:
        """Revoking a child stops that one, and what lies in it; revoking the run stops all, in any order of issue."""
        child, sibling = open_child(till, run_usd_cap=50), open_child(till, subflow("try-2", "texts"), run_usd_cap=50)
        inner = open_child(child, subflow("try-3", "inner"), run_usd_cap=50)
        stale = sibling.order(Quote(1))
        till.ledger.revoke(run_id=child.run_id)
        after = [one.ask(1).reason for one in (child, inner, sibling, till)]
        till.ledger.revoke(run_id=till.run_id)
        late = open_child(till, subflow("try-4", "late"), run_usd_cap=50)

        assert after == ["revoked", "revoked", "", ""]
        assert [one.ask(1).reason for one in (sibling, till, late)] == ["revoked"] * 3
        assert till.ledger.reserve(stale).reason == "revoked"

    def test_a_child_expires_with_its_parent_at_the_latest(self, ledger: Ledger, clock: Clock) -> None:
        """The earlier of both ends it; a raise of the run renews what was the run's, a raise of the child its own."""
        till = open_till(ledger, run_usd_cap=100, expires_in=100.0)
        short, long = open_child(till, expires_in=50.0), open_child(till, subflow("try-2", "long"), expires_in=500.0)
        clock.now += 60
        half = [one.ask(1).reason for one in (short, long, till)]
        clock.now += 60
        over = [one.ask(1).reason for one in (short, long, till)]
        ledger.raise_cap(till.run_id, 100, by="ada")
        renewed = [one.ask(1).reason for one in (short, long, till)]
        ledger.raise_cap(short.run_id, 100, by="ada")

        assert (half, over, renewed) == (["expired", "", ""], ["expired"] * 3, ["expired", "", ""])
        assert short.ask(1).granted

    def test_a_narrower_parent_makes_a_childs_order_stale(self, till: Till) -> None:
        """An order that was decided under what the parent said before is redone; a raise of the child is its own."""
        child = open_child(till, run_usd_cap=50)
        old = child.order(Quote(1))
        till.ledger.issue(limits(run_usd_cap=100, allowed_endpoints=("GET /**",)), till.run_id)
        redone = till.ledger.reserve(old)
        raised = till.ledger.raise_cap(child.run_id, 70, by="ada")

        assert redone.reason == "stale"
        assert (raised.policy.run_usd_cap, child.usage.cap, till.usage.cap) == (70, 70, 100)
        assert raised.parent is not None
        assert raised.parent.policy.allowed_endpoints == ("GET /**",)

    @pytest.mark.parametrize(("cap", "amount"), [(400, 5), (1000, 7)])
    def test_children_racing_are_within_their_own_and_their_parents(self, ledger: Ledger, cap: int, amount: int) -> None:
        """Threads of three children and of their run: no child passes its cap, all together not the run's, and nobody is stopped early."""
        till = open_till(ledger, run_usd_cap=1000)
        children = [open_child(till, subflow(f"try-{name}", name), run_usd_cap=cap) for name in ("a", "b", "c")]
        barrier = threading.Barrier(16)

        def race(number: int) -> dict[str, object]:
            barrier.wait(timeout=30)
            return race_until_refused(replace([*children, till][number % 4], prefix=f"{number}/"), amount, amount)

        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(race, range(16)))
        spent = [one.usage.spent for one in children]

        assert {result["reason"] for result in results} == {"cap_exceeded"}
        assert all(one <= cap for one in spent)
        assert sum(spent) <= till.usage.spent <= 1000
        assert till.usage.spent > 1000 - amount

    def test_the_log_alone_reproduces_a_childs_figures(self, till: Till) -> None:
        """Whose child it is stands in the log, and `verify` compares it."""
        child = open_child(till, run_usd_cap=50)
        child.settle(child.hold(10), 9)
        issued = [row["detail"].get("parent") for row in till.ledger.entries() if row["kind"] == "issue"]

        assert issued == [None, till.run_id]
        assert till.ledger.verify() == []

    def test_runs_are_listed_with_their_children(self, ledger: Ledger, clock: Clock) -> None:
        """Newest run first, behind each its children, the deeper behind what they lie in; the limit counts runs."""
        first = open_till(ledger, "run-a", run_usd_cap=100)
        clock.now += 1
        second = open_till(ledger, "run-b", run_usd_cap=100)
        child = open_child(first, run_usd_cap=50)
        inner = open_child(child, subflow("try-2", "inner"), run_usd_cap=40)
        other = open_child(first, subflow("try-3", "other"), run_usd_cap=30)

        assert [key.run_id for key, _ in ledger.runs()] == [one.run_id for one in (second, first, child, inner, other)]
        assert [key.run_id for key, _ in ledger.runs(1)] == ["run-b"]


class ChildrenNamesContract(ContractBase):
    """How a child's budget is found again."""

    def test_a_child_is_called_after_its_run_and_its_flow(self, till: Till) -> None:
        """What people type behind `--run`: the parent's id, the flow's name, and which of that name it is."""
        names = [open_child(till, subflow(f"try-{n}", "Send e-mails!", call=f"c{n}")).run_id for n in range(2)]

        assert names == [f"{till.run_id}/Send-e-mails-1", f"{till.run_id}/Send-e-mails-2"]

    def test_the_same_try_is_the_same_child(self, till: Till) -> None:
        """A second install in the child narrows it, as in a run; its figures stay."""
        child = open_child(till, run_usd_cap=50)
        child.settle(child.hold(10), 10)
        again = open_child(till, run_usd_cap=30)

        assert again.run_id == child.run_id
        assert (again.usage.cap, again.usage.spent) == (30, 10)

    def test_a_later_execution_finds_it_by_the_place_of_its_call(self, till: Till) -> None:
        """Another try of the child in another execution, called from the same place: the same budget, although a like one came first."""
        first, second = (open_child(till, subflow(f"try-{n}", call=f"call-{n}"), run_usd_cap=50) for n in (1, 2))
        again = open_child(till, subflow("try-3", call="call-2", entry="e2", execution="x2"), run_usd_cap=50)

        assert again.run_id == second.run_id != first.run_id

    def test_a_later_execution_finds_it_without_a_place(self, till: Till) -> None:
        """Where nothing names the call, the n-th of those called alike is the n-th again, and one more is a new one."""
        first, second = (open_child(till, subflow(f"try-{n}"), run_usd_cap=50) for n in (1, 2))
        later = [open_child(till, subflow(f"try-{n}", entry="e2", execution="x2"), run_usd_cap=50) for n in (3, 4, 5)]

        assert first.run_id != second.run_id
        assert [one.run_id for one in later[:2]] == [first.run_id, second.run_id]
        assert later[2].run_id not in {first.run_id, second.run_id}

    def test_a_caller_that_tries_again_finds_its_child(self, till: Till) -> None:
        """A subflow in between retries itself within one execution: its child is the same. A second such subflow has one of its own."""
        first = open_child(till, subflow("try-1", caller="m1", entry="m1.1"), run_usd_cap=50)
        again = open_child(till, subflow("try-2", caller="m1", entry="m1.2"), run_usd_cap=50)
        other = open_child(till, subflow("try-3", caller="m2", entry="m2.1"), run_usd_cap=50)

        assert first.run_id == again.run_id != other.run_id

    def test_other_parameters_are_another_child(self, till: Till) -> None:
        """A call that is none of the earlier ones never takes over what one of them has spent."""
        first = open_child(till, subflow("try-1"), run_usd_cap=50)
        other = open_child(till, subflow("try-2", parameters="q", execution="x2", entry="e2"), run_usd_cap=50)

        assert first.run_id != other.run_id

    def test_without_arguments_of_its_own_a_child_shares(self, till: Till) -> None:
        """None at all, the run's own, or those of any budget it lies in: the innermost outer key, without a warning."""
        child = open_child(till, run_usd_cap=50)
        within = [
            till.ledger.issue(asked, None, Child(parent.key.key_id, subflow("try-9", "other")))
            for parent in (till, child)
            for asked in (Policy(), limits(run_usd_cap=100), Policy.restored({"run_usd_cap": 100}))
        ]

        assert [key.run_id for key, _ in within] == [till.run_id] * 3 + [child.run_id] * 3
        assert {warnings for _, warnings in within} == {()}

    def test_a_run_may_not_be_called_as_a_child_is(self, till: Till) -> None:
        """An id that the ledger gave to a child's budget is refused for a run, and one that a run has is not given."""
        open_till(till.ledger, f"{till.run_id}/mails-1", run_usd_cap=7)
        child = open_child(till, run_usd_cap=50)
        with pytest.raises(ConfigurationError, match="name of a child's budget"):
            till.ledger.issue(limits(run_usd_cap=50), child.run_id)
        with pytest.raises(ConfigurationError, match="not in this ledger"):
            till.ledger.issue(limits(), None, Child("nobody", subflow()))

        assert child.run_id == f"{till.run_id}/mails-2"

    def test_another_handle_finds_the_same_child(self, till: Till, other: Ledger) -> None:
        """A second process that executes the run comes to the same budget."""
        child = open_child(till, subflow("try-1", call="call-1"), run_usd_cap=50)
        child.settle(child.hold(10), 10)
        again = open_child(Till(other, till.run_id), subflow("try-2", call="call-1", execution="x2"), run_usd_cap=50)

        assert (again.run_id, again.usage.spent) == (child.run_id, 10)
        assert figures(other, f"run:{till.run_id}").spent == 10
