"""What waits for a customer's next invoice: an answer that cannot be read leaves no bound, and is never taken for nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyguard.model import Reply
from keyguard.vendors import _stripe_waiting as waiting
from keyguard.vendors._stripe_prices import Cost, Costing


def told(costing: Costing, *answers: Any) -> Cost:
    """Answer a bound's questions in their order."""
    left = list(answers)
    next(costing)
    while True:
        answer = left.pop(0)
        reply = answer if isinstance(answer, Reply) else Reply(200, {}, json.dumps(answer).encode())
        try:
            costing.send(reply)
        except StopIteration as stop:
            assert not left
            found: Cost = stop.value
            return found


@pytest.mark.parametrize(
    "answer",
    [Reply(403, {}, b"{}"), Reply(200, {}, None), Reply(200, {}, b"["), {"data": {}}, {"data": ["ii_1"]}, {"data": [{"amount": None}]}, {},
     {"data": [{"amount": 5, "currency": "gbp"}]}],
)  # fmt: skip
def test_items_that_cannot_be_read_leave_no_bound(answer: Any) -> None:
    """And the reason says so."""
    assert told(waiting.items("cus_1", 0), answer) == Cost(0, "collects items that cannot be read")


@pytest.mark.parametrize(
    "answer",
    [Reply(404, {}, b"{}"), Reply(200, {}, None), {"object": "customer", "id": "cus_2", "balance": 0}, {"object": "account", "id": "cus_1"},
     {"object": "customer", "id": "cus_1", "balance": "x"}, {"object": "customer", "id": "cus_1", "balance": 5, "currency": "gbp"}],
)  # fmt: skip
def test_a_customer_who_cannot_be_read_leaves_no_bound(answer: Any) -> None:
    """Another customer's balance is not theirs."""
    assert told(waiting.owed("cus_1"), answer) == Cost(0, "collects what the customer owes, which cannot be read")


def test_what_is_known_is_not_counted_again() -> None:
    """Items of this run are held already; what was invoiced, and credits, are not added."""
    listed = {"data": [{"amount": 500, "currency": "usd"}, {"amount": 300, "currency": "usd", "invoice": "in_0"}, {"amount": -50}]}

    assert told(waiting.items("cus_1", 2_000_000), listed) == Cost(3_000_000)
    assert told(waiting.items("cus_1", 9_000_000), listed) == Cost()


@pytest.mark.parametrize(
    ("customer", "cost"), [({"balance": 400, "currency": "usd"}, 4_000_000), ({"balance": -400}, 0), ({"account_balance": 5}, 50_000)]
)
def test_only_a_debt_is_added(customer: dict[str, Any], cost: int) -> None:
    """A credit lowers what is charged, but is not read so; older API versions have another name for it."""
    assert told(waiting.owed("cus_1"), {"object": "customer", "id": "cus_1", **customer}) == Cost(cost)


def test_an_account_as_a_customer_has_items_only() -> None:
    """It has no balance of this kind."""
    assert told(waiting.collected("acct_1", 0, "customer_account"), {"data": [{"amount": 5, "currency": "usd"}]}) == Cost(50_000)
