"""
A Prefect flow that charges through Stripe and cannot spend past its budget.

Run it against a test account or a stand-in: it charges every customer of the account $20.

    STRIPE_SECRET_KEY=sk_test_… python examples/01_cap_a_prefect_flow.py 500
"""

from __future__ import annotations

import os
import sys

import stripe
from prefect import flow, task

import keyguard
from keyguard.prefect import retry_unless_refused


@task(retries=3, retry_delay_seconds=10, retry_condition_fn=retry_unless_refused)
def charge_customer(customer_id: str, amount_cents: int, payment_method: str) -> str:
    """Charge one customer; knows nothing of budgets."""
    return stripe.PaymentIntent.create(
        amount=amount_cents, currency="usd", customer=customer_id, payment_method=payment_method, confirm=True, off_session=True
    ).id


@flow(name="billing-flow")
def billing_flow(customers: list[tuple[str, str]], amount_cents: int, budget_usd: float = 500.0) -> None:
    """Charge all customers, as far as the budget goes."""
    keyguard.install(run_usd_cap=budget_usd, expires_in="4h", allowed_endpoints=["POST /v1/payment_intents", "GET /v1/customers/*"])
    for customer_id, payment_method in customers:
        charge_customer(customer_id, amount_cents, payment_method)


def main() -> None:
    """Charge every customer of the account; the first argument is the budget in dollars."""
    stripe.api_key = os.environ["STRIPE_SECRET_KEY"]
    stripe.api_base = os.environ.get("STRIPE_API_BASE", stripe.api_base)
    customers = [(customer.id, "pm_card_visa") for customer in stripe.Customer.list(limit=100).auto_paging_iter()]
    try:
        billing_flow(customers, amount_cents=2000, budget_usd=float(sys.argv[1]) if len(sys.argv) > 1 else 500.0)
    except keyguard.SpendCapExceeded as refusal:
        sys.exit(f"stopped: {refusal}")


if __name__ == "__main__":
    main()
