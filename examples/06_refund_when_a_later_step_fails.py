"""
An order in a Prefect transaction: the customer is charged, and gets the money back when a later step fails.

Run it against a test account or a stand-in: it charges $20 for each item, and what is called "sold-out" cannot be shipped. The second
argument is what may be given back in all, in dollars.

    STRIPE_SECRET_KEY=sk_test_… python examples/06_refund_when_a_later_step_fails.py 100 40 book sold-out lamp

Three things to know of Prefect's rollbacks:

- A hook that raises is only logged. So this one keeps what it could not give back, and the flow fails with it.
- They happen at the first failure of a later task, before it is retried: so what comes after the charge has no retries.
- They do not happen when the process is killed. The charge stays in the ledger, and is made once when the flow is run again.
"""

from __future__ import annotations

import os
import sys

import stripe
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.transactions import Transaction, get_transaction, transaction

import keyguard

NOT_GIVEN_BACK: list[keyguard.Refused] = []


@task(retries=3, retry_delay_seconds=1, cache_policy=NO_CACHE)
def charge(order: str, amount_cents: int) -> str:
    """Charge for an order; what it was charged with is kept for the rollback."""
    intent = stripe.PaymentIntent.create(
        amount=amount_cents, currency="usd", payment_method="pm_card_visa", confirm=True, metadata={"order": order}
    )
    current = get_transaction()
    assert current is not None  # -- Prefect runs each task in one
    current.set("charged", (intent.id, amount_cents))
    return intent.id


@charge.on_rollback
def give_back(rolled_back: Transaction) -> None:
    """Refund what was charged, once, however often the rollback is repeated."""
    intent, amount_cents = rolled_back.get("charged")
    try:
        # The same refund at each entry: it leaves with the same Idempotency-Key, and is counted once. With its amount, because
        # "the rest" of a charge that was refunded is nothing, and another request.
        with keyguard.idempotency_scope(f"refund of {intent}"):
            stripe.Refund.create(payment_intent=intent, amount=amount_cents)
    except keyguard.Refused as refusal:
        NOT_GIVEN_BACK.append(refusal)


@task(cache_policy=NO_CACHE)
def ship(item: str) -> None:
    """Send an item off, if there is one."""
    if item == "sold-out":
        raise LookupError(f"there is no {item} left")


@flow(name="orders")
def place_orders(items: list[str], budget_usd: float, refunds_usd: float) -> None:
    """Charge for each item and ship it; what cannot be shipped is paid back."""
    keyguard.install(run_usd_cap=budget_usd, refund_usd_cap=refunds_usd, allowed_endpoints=["POST /v1/payment_intents", "POST /v1/refunds"])
    for number, item in enumerate(items, 1):
        try:
            with transaction():
                charge(f"order-{number}", 2000)
                ship(item)
            print(f"shipped {item}")
        except LookupError as error:
            print(f"not shipped: {error}")
    if NOT_GIVEN_BACK:
        # The run is called after the refusal, and says how much of the refund budget there was.
        raise RuntimeError(f"{len(NOT_GIVEN_BACK)} orders are paid and neither shipped nor refunded") from NOT_GIVEN_BACK[0]


def main() -> None:
    """Place an order for each item; the first arguments are the budgets for charges and for refunds, in dollars."""
    stripe.api_key = os.environ["STRIPE_SECRET_KEY"]
    stripe.api_base = os.environ.get("STRIPE_API_BASE", stripe.api_base)
    budget, refunds, *items = sys.argv[1:]
    try:
        place_orders(items, float(budget), float(refunds))
    except keyguard.SpendCapExceeded as refusal:
        sys.exit(f"stopped: {refusal}")
    except RuntimeError as error:
        sys.exit(f"{error}: {error.__cause__}")


if __name__ == "__main__":
    main()
