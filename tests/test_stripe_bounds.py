"""Quotes are upper bounds: whatever Stripe charges within a request, it is never more than was held, and nothing is lost on the way."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support_guard import CENT
from tests.support_stripe_money import Case, Till
from tests.support_stripe_objects import DRAFT, IN_1, NOBODY, SUBS, invoice, priced, subscription, unpaid, waiting
from tests.support_stripe_rooms import CASES

CENTS = st.integers(0, 99_999_999)
UNITS = st.integers(0, 10_000).map(str) | st.decimals(0, 1000, places=4).map(str)
LINES = st.lists(st.tuples(UNITS, st.integers(0, 50)), min_size=1, max_size=5)
SENT = [
    case for case in CASES
    if {"amount", "currency"} <= set(case.form) and not case.reads and not case.before and 0 < case.spent == case.quoted
]  # fmt: skip


def rounded(unit: str, quantity: int) -> int:
    """Return what Stripe charges for a line: to the nearest cent, halves up."""
    return math.floor(Fraction(unit) * quantity + Fraction(1, 2))


def overrun(world: Till) -> int:
    """Return how far the truth went above what was held."""
    usage = world.backend.usage("run:run-1")

    assert usage is not None
    return usage.overrun


def test_the_ways_to_send_money_are_all_here() -> None:
    """Transfers, payouts, top-ups and treasury's, and payments that say their amount."""
    assert {"transfers.create", "payouts.create", "topups.create", "charges.create"} <= {case.name for case in SENT}
    assert len({case.name for case in SENT}) >= 8


@given(st.sampled_from(SENT), CENTS, st.data())
def test_what_is_sent_is_never_more_than_was_asked_for(case: Case, amount: int, data: st.DataObject) -> None:
    """All of it or a part, it fits what was held, and is spent."""
    answer: Any = case.answer
    truth, sign = data.draw(st.integers(0, amount)), 1 if case.form["amount"] > 0 else -1
    names = {"amount", "amount_received", "amount_captured", "amount_total"} & set(answer)
    world = Till({"run_usd_cap": 2_000_000})
    world.run(replace(case, form={**case.form, "amount": sign * amount}, answer={**answer, **dict.fromkeys(names, sign * truth)}))

    assert overrun(world) == 0
    assert world.whole[0] in {truth * CENT, amount * CENT}


def line_items(lines: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Return items with prices of their own."""
    return [
        {"price_data": {"currency": "usd", "product": "prod_1", "unit_amount_decimal": unit}, "quantity": count} for unit, count in lines
    ]


@given(LINES, st.data())
def test_a_basket_is_never_dearer_than_its_quote(lines: list[tuple[str, int]], data: st.DataObject) -> None:
    """However its lines are rounded and whatever is discounted."""
    total = data.draw(st.integers(0, sum(rounded(*line) for line in lines)))
    world = Till({"run_usd_cap": 2_000_000})
    body = {"id": "cs_1", "amount_total": total, "currency": "usd", "status": "open", "payment_status": "unpaid", "mode": "payment"}
    world.run(Case("x", "POST /v1/checkout/sessions", {"mode": "payment", "line_items": line_items(lines)}, body))
    assert overrun(world) == 0
    world.run(Case("x", "GET /v1/checkout/sessions/cs_1", {}, {**body, "status": "complete", "payment_status": "paid"}))

    assert (world.whole, overrun(world)) == ((total * CENT, 0, 0, 0), 0)


@given(LINES, st.integers(0, 10_000), st.integers(-10_000, 10_000), st.data())
def test_a_first_invoice_is_never_dearer_than_its_quote(lines: list[tuple[str, int]], extra: int, owes: int, data: st.DataObject) -> None:
    """With what waited for the customer, and what they owe or are owed."""
    most = sum(rounded(*line) for line in lines) + extra + owes
    due = data.draw(st.integers(0, max(0, most)))
    prices = {f"/v1/prices/price_{n}": priced(f"price_{n}", None, unit_amount_decimal=unit) for n, (unit, _) in enumerate(lines)}
    pending, customer = NOBODY
    reads = {**prices, pending: {"data": [waiting(extra)]}, customer: {"id": "cus_1", "balance": owes, "currency": "usd"}}
    items = [{"price": f"price_{n}", "quantity": count} for n, (_, count) in enumerate(lines)]
    world = Till({"run_usd_cap": 2_000_000})
    body = subscription(latest_invoice=invoice(amount_due=due, amount_paid=due))
    world.run(Case("x", f"POST {SUBS}", {"customer": "cus_1", "items": items}, body, reads=reads))

    assert (world.whole, overrun(world)) == ((due * CENT, 0, 0, 0), 0)


@given(st.lists(st.tuples(UNITS, st.integers(1, 50)) | st.integers(-5000, 5000), min_size=1, max_size=6), st.data())
def test_an_invoice_is_never_dearer_than_its_lines(lines: list[tuple[str, int] | int], data: st.DataObject) -> None:
    """Item by item, finalized and paid: what is held is always enough, and in the end what was paid is spent."""
    world, due = Till({"run_usd_cap": 2_000_000}), 0
    world.run(DRAFT)
    for number, line in enumerate(lines):
        amount = line if isinstance(line, int) else rounded(*line)
        due += amount
        priced_by = {"amount": line} if isinstance(line, int) else {"unit_amount_decimal": line[0], "quantity": line[1]}
        form = {"customer": "cus_1", "invoice": "in_1", "currency": "usd", **priced_by}
        reads = {} if world.whole[1] else {IN_1: unpaid(0, "draft")}
        world.run(Case("x", "POST /v1/invoiceitems", form, waiting(amount, f"ii_{number}", invoice="in_1"), reads=reads))
        assert world.whole[1] >= max(0, due) * CENT
    due = max(0, due)
    reads = {} if world.whole[1] else {IN_1: unpaid(due, "draft")}
    world.run(Case("x", f"POST {IN_1}/finalize", {}, unpaid(due), reads=reads))
    paid = data.draw(st.sampled_from([0, due]))
    body = invoice(amount_due=due, amount_paid=paid, amount_remaining=due - paid, status="paid" if paid == due else "void")
    world.run(Case("x", f"POST {IN_1}/pay", {}, body, reads={} if due else {IN_1: unpaid(due)}))

    assert (world.whole, overrun(world)) == ((paid * CENT, 0, 0, 0), 0)


class IntentLife(RuleBasedStateMachine):
    """A PaymentIntent through every step that Stripe allows, at random, with Stripe's own figures beside the ledger's."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Till({"run_usd_cap": 2_000_000})
        self.amount = self.received = self.authorized = 0
        self.status = "requires_payment_method"

    @rule()
    def read(self) -> None:
        """Somebody looks at it."""
        self.world.run(Case("x", "GET /v1/payment_intents/pi_1", {}, self._fields()))

    def _fields(self) -> dict[str, Any]:
        amounts = {"amount": self.amount, "amount_received": self.received, "amount_capturable": self.authorized}
        return {"id": "pi_1", "status": self.status, "currency": "usd", **amounts}

    def step(self, path: str, **form: Any) -> None:
        """Let a request be executed, and answered with the intent as it is then."""
        self.world.run(Case("x", f"POST /v1/payment_intents{path}", form, self._fields()))

    @initialize(amount=st.integers(50, 10_000))
    def create(self, amount: int) -> None:
        """It begins."""
        self.amount = amount
        self.step("", amount=amount, currency="usd")

    @precondition(lambda self: self.status == "requires_payment_method")
    @rule(amount=st.integers(50, 10_000))
    def update(self, amount: int) -> None:
        """Another amount, before it is confirmed."""
        self.amount = amount
        self.step("/pi_1", amount=amount)

    @precondition(lambda self: self.status == "requires_payment_method")
    @rule(ending=st.sampled_from(["requires_payment_method", "requires_capture", "succeeded"]))
    def confirm(self, ending: str) -> None:
        """Declined softly, authorized or charged."""
        self.status = ending
        self.received, self.authorized = {"succeeded": (self.amount, 0), "requires_capture": (0, self.amount)}.get(ending, (0, 0))
        self.step("/pi_1/confirm")

    @precondition(lambda self: self.status == "requires_capture" and not self.received)
    @rule(more=st.integers(0, 5000))
    def increment(self, more: int) -> None:
        """Authorize more."""
        self.amount += more
        self.authorized = self.amount
        self.step("/pi_1/increment_authorization", amount=self.amount)

    @precondition(lambda self: self.status == "requires_capture")
    @rule(share=st.fractions(0, 1), is_final=st.booleans())
    def capture(self, share: Fraction, is_final: bool) -> None:
        """Take a part, and more later, or let go of the rest."""
        taken = max(1, int(self.authorized * share))
        self.received += taken
        self.authorized = 0 if is_final else self.authorized - taken
        self.status = "succeeded" if is_final or not self.authorized else "requires_capture"
        self.step("/pi_1/capture", amount_to_capture=taken, final_capture=is_final)

    @precondition(lambda self: self.status in {"requires_capture", "requires_payment_method"})
    @rule()
    def cancel(self) -> None:
        """Let go of it."""
        self.status, self.authorized = "canceled", 0
        self.step("/pi_1/cancel")

    @invariant()
    def the_ledger_has_the_truth(self) -> None:
        """What was received is spent, what may still come is held, and nothing was ever above its hold."""
        spent, held, doubt, _ = self.world.whole
        open_ = 0 if self.status in {"succeeded", "canceled"} else self.authorized or self.amount - self.received

        assert (spent, held, doubt) == (self.received * CENT, open_ * CENT, 0)
        assert overrun(self.world) == 0

    def teardown(self) -> None:
        """The log says the same."""
        assert self.world.ledger.verify() == []


TestIntentLife = IntentLife.TestCase
TestIntentLife.settings = settings(max_examples=50, stateful_step_count=12)
