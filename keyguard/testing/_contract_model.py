"""Ledger contract: a plain model of the books, and the hypothesis machine that compares a ledger with it step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from keyguard.model import Child, Fact, Quote
from keyguard.testing._contract_base import DAY, Clock, ContractBase
from keyguard.testing._till import NAME, Till, figures, folded, limits, open_child, open_till, parts, subflow

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from keyguard.ledgers import Ledger
    from keyguard.model import Receipt, Subflow
    from keyguard.testing._place import LedgerPlace

RUNS = ("run-a", "run-b")
# The budgets that lie in another one, and which one that is.
CHILDREN = {"run-a/mails-1": "run-a", "run-a/mails-1/inner-1": "run-a/mails-1"}
PAYERS = (*RUNS, *CHILDREN)
DAY_CAP = 120
RUN_CAP = 100
MANY = 10_000  # calls: counted, and never the limit
POLICY = f"policy:{NAME}"
_amounts = st.integers(1, 60)
_picks = st.integers(0, 10_000)
_runs = st.sampled_from(PAYERS)


def chain(run: str) -> tuple[str, ...]:
    """Return a budget and those that it lies in, innermost first."""
    return (run, *(chain(CHILDREN[run]) if run in CHILDREN else ()))


@dataclass(slots=True)
class Booked:
    """One reservation of the model: the rows (scope, day) it counts on, and its parts in micro-USD."""

    run: str
    rows: frozenset[tuple[str, int]]
    amount: int
    adopted: int = 0
    object_id: str | None = None
    spent: int = 0
    held: int = 0
    doubt: int = 0
    overrun: int = 0
    pending: bool = True
    is_over: bool = False  # released, with nothing left of it

    @property
    def total(self) -> int:
        """What it counts against each of its rows."""
        return self.spent + self.held + self.doubt


@dataclass(slots=True)
class PlainModel:
    """The books in dicts: every figure is a sum over all reservations, made anew at each question."""

    asked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PAYERS, RUN_CAP))
    raised: dict[str, int] = field(default_factory=dict[str, int])
    revoked: set[str] = field(default_factory=set[str])
    day: int = 0
    booked: dict[str, Booked] = field(default_factory=dict[str, Booked])
    holder: dict[str, str] = field(default_factory=dict[str, str])  # object → reservation of its open hold
    known: dict[str, int] = field(default_factory=dict[str, int])  # object → its total cost when last seen

    def cap(self, scope: str) -> int:
        """The cap in force: a human's last word, else the least asked."""
        run = scope.removeprefix("run:")
        return DAY_CAP if scope == POLICY else self.raised.get(run, self.asked.get(run, 0))

    def on(self, scope: str, day: int | None = None) -> list[Booked]:
        """All reservations that count on a row; run rows have day 0."""
        return [one for one in self.booked.values() if (scope, day or 0) in one.rows]

    def sums(self, scope: str, day: int | None = None) -> tuple[int, int, int, int]:
        """Spent, held, doubt and overrun of a row."""
        rows = self.on(scope, day)
        return sum(b.spent for b in rows), sum(b.held for b in rows), sum(b.doubt for b in rows), sum(b.overrun for b in rows)

    def rows(self, run: str, adopted: Booked | None = None) -> frozenset[tuple[str, int]]:
        """The rows that a call of the run or child made today counts on; what it adopts stays on the budgets that it was on."""
        kept = {(scope, day) for scope, day in adopted.rows if not day} if adopted is not None else set[tuple[str, int]]()
        return frozenset({*((f"run:{one}", 0) for one in chain(run)), (POLICY, self.day), *kept})

    def calls(self, run: str) -> int:
        """The calls that count on a budget: those made with its key, or with one below."""
        return len([one for one in self.booked.values() if run in chain(one.run) and (one.amount or not one.overrun)])

    def grants(self, run: str, amount: int, adopted: Booked | None = None) -> bool:
        """Say whether a call must be granted: it fits each row once what it adopts has left its own rows."""
        return self.revoked.isdisjoint(chain(run)) and amount <= self.room(run, adopted)

    def room(self, run: str, adopted: Booked | None = None) -> int:
        """The largest amount that a call of the run may hold now, what it adopts included; below 0 after an overrun."""
        rooms: list[int] = []
        for scope, day in self.rows(run, adopted):
            leaving = adopted.held if adopted is not None and (scope, day) in adopted.rows else 0
            rooms.append(self.cap(scope) - sum(self.sums(scope, day)[:3]) + leaving)
        return min(rooms)

    def reserve(self, reservation_id: str, run: str, amount: int, object_id: str | None = None) -> None:
        """Book a granted call; an open hold of its object moves over."""
        adopted, old = 0, None
        if object_id is not None:
            old = self.booked[self.holder.pop(object_id)]
            adopted, old.held = old.held, 0
        total = max(amount, adopted)
        self.booked[reservation_id] = Booked(run, self.rows(run, old), total, adopted, object_id, held=total)

    def settle(self, reservation_id: str, cost: int, keep: int = 0) -> None:
        """Book the truth; `keep` stays held for the object."""
        one = self.booked[reservation_id]
        one.spent, one.held, one.doubt, one.pending = cost, keep, 0, False
        one.overrun = max(0, cost + keep - one.amount)
        if one.object_id is not None:
            self.learn(one.object_id, reservation_id, cost, keep)

    def learn(self, object_id: str, reservation_id: str, cost: int, keep: int) -> None:
        """Remember an object's total and who holds what it may still cost."""
        self.known[object_id] = self.known.get(object_id, 0) + cost
        if keep:
            self.holder[object_id] = reservation_id

    def release(self, reservation_id: str) -> None:
        """Free what the call itself reserved; an adopted part is open again."""
        one = self.booked[reservation_id]
        one.held, one.doubt, one.pending, one.is_over = one.adopted, 0, False, not one.adopted
        if one.adopted and one.object_id is not None:
            self.holder[one.object_id] = reservation_id

    def late(self, reservation_id: str, cost: int) -> str:
        """Book what a released call did cost after all, beside it: nothing was held for it any more; "" where it is known already."""
        cost -= sum(other.spent for name, other in self.booked.items() if name.startswith(f"{reservation_id} late "))
        if cost <= 0:
            return ""
        one, name = self.booked[reservation_id], f"{reservation_id} late {len(self.booked)}"
        self.booked[name] = Booked(one.run, one.rows, 0, spent=cost, overrun=cost, pending=False)
        return name

    def doubt(self, reservation_id: str) -> None:
        """Keep all of it counted."""
        one = self.booked[reservation_id]
        one.doubt, one.held = one.doubt + one.held, 0

    def read(self, object_id: str, cost: int, keep: int) -> None:
        """Book what a read shows of an open intent on the reservation that holds it."""
        holder = self.holder.pop(object_id)
        one = self.booked[holder]
        one.spent, one.held = one.spent + cost, keep
        self.learn(object_id, holder, cost, keep)


class LedgerMachine(RuleBasedStateMachine):
    """Two runs of one policy on one ledger, one of them with a child and a child's child, beside the plain model."""

    def __init__(self, place: LedgerPlace) -> None:
        super().__init__()
        self.place = place
        self.clock = Clock()
        self.model = PlainModel(day=int(self.clock.now // DAY))
        self.ledger: Ledger = place.open(self.clock)
        self.kept: list[Ledger] = []
        self.tills = {run: open_till(self.ledger, run, run_usd_cap=RUN_CAP, daily_usd_cap=DAY_CAP, max_calls=MANY) for run in RUNS}
        for run, parent in CHILDREN.items():
            # A child's name is not what it asks for: with the name of its run's policy it would have its day as well.
            self.tills[run] = open_child(self.tills[parent], self.subflow(run), run_usd_cap=RUN_CAP, max_calls=MANY, name=f"of {run}")
        self.ticker = open_till(self.ledger, "ticker", daily_usd_cap=DAY_CAP, name="ticker")
        self.objects = 0
        self.widest: dict[str, int] = dict.fromkeys(PAYERS, RUN_CAP)  # asked so far; what was asked before is not warned of again

    @staticmethod
    def subflow(run: str) -> Subflow:
        """What asks for a child's budget."""
        return subflow(run, run.rpartition("/")[2].partition("-")[0])

    def till_of(self, reservation_id: str) -> Till:
        """The till whose run made a reservation."""
        return self.tills[self.model.booked[reservation_id].run]

    def reserve(self, run: str, amount: int, object_id: str | None = None, method: str = "POST") -> str | None:
        """Reserve on both sides, compare the decisions; returns the id of what was granted."""
        model, till = self.model, self.tills[run]
        adopted = model.booked[model.holder[object_id]] if object_id is not None else None
        total = max(amount, adopted.held if adopted is not None else 0)
        order = till.order(Quote(amount, "run", object_id, adopts=object_id is not None), method=method)
        expected = model.grants(run, total, adopted)
        decision = self.ledger.reserve(order)

        assert decision.granted == expected, (decision, order)
        if not expected:
            assert decision.reason == ("cap_exceeded" if model.revoked.isdisjoint(chain(run)) else "revoked")
            return None
        assert (decision.held_amount, decision.adopted) == (total, adopted.held if adopted is not None else 0)
        model.reserve(order.reservation_id, run, amount, object_id)
        return order.reservation_id

    def compare(self, receipt: Receipt, reservation_id: str) -> None:
        """Compare a receipt with the model's reservation."""
        one = self.model.booked[reservation_id]

        assert receipt.found
        assert parts(receipt) == (one.spent, one.held, one.doubt)

    def pick(self, ids: Iterable[str], number: int) -> str:
        """Choose one of several by a drawn number."""
        choice = sorted(ids)
        return choice[number % len(choice)]

    def pending(self) -> list[str]:
        """Reservations that may still be closed."""
        return [name for name, one in self.model.booked.items() if one.pending]

    @rule(run=_runs, amount=_amounts)
    def reserve_some(self, run: str, amount: int) -> None:
        """Hold money."""
        self.reserve(run, amount)

    @rule(run=_runs, over=st.integers(0, 1))
    def reserve_the_rest(self, run: str, over: int) -> None:
        """Hold exactly what remains, or one micro more."""
        self.reserve(run, max(1, self.model.room(run) + over))

    @rule(run=_runs, amount=_amounts)
    def open_intent(self, run: str, amount: int) -> None:
        """Make an object that stays open."""
        reservation = self.reserve(run, amount)
        if reservation is not None:
            self.objects += 1
            self.model.booked[reservation].object_id = name = f"pi_{self.objects}"
            self.model.settle(reservation, 0, amount)
            self.compare(self.tills[run].settle(reservation, 0, Fact(name, 0, amount, amount)), reservation)

    @precondition(lambda self: self.model.holder)
    @rule(number=_picks, amount=_amounts, by=_runs)
    def adopt(self, number: int, amount: int, by: str) -> None:
        """Confirm or increment an open intent: whoever of the same run does, a child what its run has made or the other way about."""
        name = self.pick(self.model.holder, number)
        run = self.model.booked[self.model.holder[name]].run
        self.reserve(by if chain(by)[-1] == chain(run)[-1] else run, amount, name)

    @precondition(lambda self: self.model.holder)
    @rule(number=_picks, over=st.integers(0, 1))
    def adopt_to_the_rest(self, number: int, over: int) -> None:
        """Increment an open intent to exactly what fits, or to one micro more."""
        name = self.pick(self.model.holder, number)
        one = self.model.booked[self.model.holder[name]]
        self.reserve(one.run, max(1, self.model.room(one.run, one) + over), name)

    @precondition(lambda self: self.pending())
    @rule(number=_picks, cost=st.integers(0, 80), keep=st.booleans())
    def settle(self, number: int, cost: int, *, keep: bool) -> None:
        """Tell the truth about a call; an object's truth stays within its hold and may leave it open."""
        reservation = self.pick(self.pending(), number)
        till, one = self.till_of(reservation), self.model.booked[reservation]
        if one.object_id is None:
            self.model.settle(reservation, cost)
            self.compare(till.settle(reservation, cost), reservation)
            return
        cost = min(cost, one.amount)
        rest = one.amount - cost if keep else 0
        self.model.settle(reservation, cost, rest)
        fact = Fact(one.object_id, self.model.known[one.object_id], rest, one.amount)
        self.compare(till.settle(reservation, 0, fact), reservation)

    @precondition(lambda self: self.pending())
    @rule(number=_picks)
    def release(self, number: int) -> None:
        """Give a hold back."""
        reservation = self.pick(self.pending(), number)
        self.model.release(reservation)
        self.compare(self.till_of(reservation).release(reservation), reservation)

    @precondition(lambda self: self.pending())
    @rule(number=_picks)
    def doubt(self, number: int) -> None:
        """Lose the answer of a call."""
        reservation = self.pick(self.pending(), number)
        self.model.doubt(reservation)
        self.compare(self.till_of(reservation).doubt(reservation), reservation)

    @precondition(lambda self: len(self.pending()) < len(self.model.booked))
    @rule(number=_picks, cost=st.integers(0, 80))
    def close_again(self, number: int, cost: int) -> None:
        """Close what is closed: nothing changes, but that a released call's cost is booked after all."""
        reservation = self.pick({name for name in self.model.booked if " late " not in name} - set(self.pending()), number)
        receipt = self.till_of(reservation).settle(reservation, cost)
        if not self.model.booked[reservation].is_over:
            self.compare(receipt, reservation)
        elif name := self.model.late(reservation, cost):
            self.compare(receipt, name)
        else:
            assert receipt.replayed

    @precondition(lambda self: self.model.holder)
    @rule(number=_picks, cost=st.integers(0, 80), keep=st.booleans())
    def read(self, number: int, cost: int, *, keep: bool) -> None:
        """Read an open intent at the vendor, with a call that costs nothing."""
        name = self.pick(self.model.holder, number)
        one = self.model.booked[self.model.holder[name]]
        if not self.model.grants(one.run, 0):
            return
        reader = self.reserve(one.run, 0, method="GET")

        assert reader is not None
        self.model.settle(reader, 0)
        cost = min(cost, one.held)
        rest = one.held - cost if keep else 0
        self.model.read(name, cost, rest)
        self.compare(self.tills[one.run].settle(reader, 0, Fact(name, self.model.known[name], rest, one.amount)), reader)

    @rule()
    def midnight(self) -> None:
        """A day passes, and the ledger is used on the new one by somebody."""
        self.clock.now = max(self.clock.now, self.model.day * DAY) + DAY
        self.model.day = int(self.clock.now // DAY)
        self.ticker.settle(self.ticker.hold(0))

    @rule(days=st.integers(1, 3))
    def clock_steps_back(self, days: int) -> None:
        """The machine's clock is set back; the model's day stays."""
        self.clock.now -= days * DAY

    @rule(run=_runs, cap=st.integers(1, 200))
    def human_sets_cap(self, run: str, cap: int) -> None:
        """Somebody raises or lowers a run's cap."""
        self.model.raised[run] = cap

        assert self.ledger.raise_cap(run, cap, by="ada").policy.run_usd_cap == cap

    @precondition(lambda self: not self.model.raised)
    @rule(run=_runs, cap=st.integers(40, 120))
    def issue_again(self, run: str, cap: int) -> None:
        """The run installs again, narrower or wider."""
        self.model.asked[run] = min(cap, self.model.asked[run])
        if run in CHILDREN:
            child = Child(self.tills[CHILDREN[run]].key.key_id, self.subflow(run))
            key, warnings = self.ledger.issue(limits(run_usd_cap=cap, max_calls=MANY, name=f"of {run}"), None, child)
        else:
            key, warnings = self.ledger.issue(limits(run_usd_cap=cap, daily_usd_cap=DAY_CAP, max_calls=MANY), run)

        assert key.policy.run_usd_cap == self.model.asked[run]
        assert warnings or cap <= self.widest[run]
        self.widest[run] = max(cap, self.widest[run])

    @precondition(lambda self: len(self.model.booked) > 6)
    @rule(run=_runs)
    def revoke(self, run: str) -> None:
        """Stop a run; late in an example, since little happens after it."""
        self.model.revoked.add(run)

        assert self.ledger.revoke(run_id=run) == 1

    @rule()
    def reopen(self) -> None:
        """Another handle takes over."""
        opened = self.place.open(self.clock)
        if opened is not self.ledger:
            self.ledger.shut()
            # What is open is closed through the next handle; a handle that nobody has any more would leave it in doubt.
            self.kept.append(self.ledger)
        self.ledger = self.ticker.ledger = opened
        for till in self.tills.values():
            till.ledger = opened

    @invariant()
    def runs_equal_the_model(self) -> None:
        """Every figure of a run and of a child is the model's sum, open intents included."""
        for run in PAYERS:
            usage, scope = figures(self.ledger, f"run:{run}"), f"run:{run}"
            holders = {name: self.model.booked[at] for name, at in self.model.holder.items()}
            mine = {name: one.held for name, one in holders.items() if (scope, 0) in one.rows}

            assert (*parts(usage), usage.overrun) == self.model.sums(scope)
            assert (usage.cap, usage.calls) == (self.model.cap(scope), self.model.calls(run))
            assert {intent.object_id: intent.held for intent in usage.intents} == mine

    @invariant()
    def children_spend_of_their_parents(self) -> None:
        """No child has more than what it lies in, and none of them passes a cap but by what nobody could foresee (I5)."""
        for run, parent in CHILDREN.items():
            inner, outer = figures(self.ledger, f"run:{run}"), figures(self.ledger, f"run:{parent}")

            assert all(one <= other for one, other in zip(parts(inner), parts(outer), strict=True))

    @invariant()
    def day_equals_the_model(self) -> None:
        """Today's figures are the model's, and never above the cap but for booked overrun."""
        usage = self.ledger.usage(POLICY)
        expected = self.model.sums(POLICY, self.model.day)
        found = (*parts(usage), usage.overrun) if usage is not None else (0, 0, 0, 0)

        assert found == expected
        assert sum(found[:3]) <= DAY_CAP + found[3]

    def teardown(self) -> None:
        """The log folds into the balances, by the ledger's own account and by ours."""
        assert self.ledger.verify() == []
        for run in RUNS:
            assert folded(self.ledger, f"run:{run}") == self.model.sums(f"run:{run}")[:3]
        self.ledger.shut()
        self.place.clear()


class MachineContract(ContractBase):
    """The state machine, short and long."""

    def run_machine(self, folder: Path, examples: int, steps: int, phases: tuple[Phase, ...]) -> None:
        """Run the machine, each example on a fresh place."""
        number = count()
        suite = self

        class Machine(LedgerMachine):
            def __init__(self) -> None:
                (home := folder / str(next(number))).mkdir()
                super().__init__(suite.ledger_factory(home))

        run_state_machine_as_test(Machine, settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None, phases=phases,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ))  # fmt: skip

    def test_ledger_behaves_like_the_plain_model(self, tmp_path: Path) -> None:
        """Whatever happens in whatever order, decisions and figures are those of a dict."""
        # A failing example is shown as it was found: shrinking one takes minutes, which belongs to the long form.
        self.run_machine(tmp_path, 50, 40, (Phase.generate,))

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    def test_ledger_behaves_like_the_plain_model_for_long(self, tmp_path: Path) -> None:
        """The same, with twenty-five times as many steps."""
        self.run_machine(tmp_path, 500, 100, (Phase.generate, Phase.shrink))
