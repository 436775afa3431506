"""
A Prefect flow that asks a proxy for a vault key over HTTP and gives it to the SDK: the recipe of Keybrake's own page for Prefect.

Nothing of keyguard's is installed in the flow's process; whoever serves the contract decides. With one on this machine:

    KEYBRAKE_API_KEY=$(openssl rand -hex 32) STRIPE_SECRET_KEY=sk_test_… keyguard proxy
    KEYBRAKE_API_KEY=… KEYBRAKE_PROXY=http://127.0.0.1:8420 python examples/07_vault_key_over_http.py 500 cus_1 cus_2 cus_3

Each customer is charged $20; the first argument is the budget in dollars. Four things to know of this way:

- A capped call arrives as the SDK's own error. `keyguard.refusal_of` finds the refusal behind it, with its figures, and so does
  `retry_unless_refused`; without it Prefect sends a refused call three times more.
- `daily_usd_cap` opens again at midnight UTC, for a run that goes on as well. `keyguard proxy` knows `run_usd_cap` too, which does not.
- Prefect keeps the parameters of a subflow in its database, and with them the key. It buys what is left of its cap, at two endpoints.
- Prefect calls `on_cancellation` when it has ended the run's process: at once here, up to 30 s later where tasks are submitted to threads.
  Under `keyguard.install()` no call starts in that time.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import httpx
import stripe
from prefect import flow, task
from prefect.runtime import flow_run

import keyguard
from keyguard.prefect import retry_unless_refused

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas import FlowRun, State

PROXY = os.environ["KEYBRAKE_PROXY"]
ADMIN = {"Authorization": f"Bearer {os.environ['KEYBRAKE_API_KEY']}"}


@task
def issue_vault_key(run_id: str, daily_usd_cap: float) -> str:
    """Ask for the run's key. Asked again for the same label, by a flow that is retried, the proxy counts on from what was spent."""
    r = httpx.post(
        f"{PROXY}/vault/keys",
        headers=ADMIN,
        json={
            "vendor": "stripe",
            "daily_usd_cap": daily_usd_cap,
            "allowed_endpoints": ["POST /v1/payment_intents", "GET /v1/customers/*"],
            "expires_in": "4h",
            "agent_run_label": f"prefect-billing/{run_id}",
        },
        timeout=30,
    )
    r.raise_for_status()
    vault_key: str = r.json()["vault_key"]
    return vault_key


@task(retries=3, retry_delay_seconds=10, retry_condition_fn=retry_unless_refused)
def charge_customer(vault_key: str, run_id: str, customer_id: str, amount_cents: int) -> str:
    """Charge one customer; a retry, or a flow that is run again, has the same idempotency key, and is the same charge."""
    stripe.api_key = vault_key
    stripe.api_base = f"{PROXY}/stripe"
    return stripe.PaymentIntent.create(
        amount=amount_cents,
        currency="usd",
        customer=customer_id,
        payment_method="pm_card_visa",
        confirm=True,
        off_session=True,
        idempotency_key=f"{run_id}-{customer_id}-{amount_cents}",
    ).id


@flow(name="charge-batch")
def charge_batch(vault_key: str, run_id: str, customer_ids: list[str], amount_cents: int) -> None:
    """Charge some customers from the budget of the run that has called; its id, because a subflow's own is another in each try."""
    for customer_id in customer_ids:
        charge_customer(vault_key, run_id, customer_id, amount_cents)


def revoke_vault_key(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """End the keys of a cancelled run. By its label (`keyguard proxy` can): the process that knew the key is gone."""
    r = httpx.delete(f"{PROXY}/vault/keys", headers=ADMIN, params={"label": f"prefect-billing/{flow_run.id}"}, timeout=30)
    r.raise_for_status()


@flow(name="billing-flow", on_cancellation=[revoke_vault_key])
def billing_flow(customer_ids: list[str], amount_cents: int, budget_usd: float = 500.0) -> None:
    """Charge the first customer here and the others in a subflow, all with one key."""
    run_id = flow_run.id
    assert run_id is not None  # -- Prefect runs each flow with one
    vault_key = issue_vault_key(run_id, budget_usd)
    charge_customer(vault_key, run_id, customer_ids[0], amount_cents)
    charge_batch(vault_key, run_id, customer_ids[1:], amount_cents)


def main() -> None:
    """Charge the customers that are named; the first argument is the budget in dollars."""
    budget, *customer_ids = sys.argv[1:]
    try:
        billing_flow(customer_ids, amount_cents=2000, budget_usd=float(budget))
    except stripe.StripeError as error:
        refusal = keyguard.refusal_of(error)
        if refusal is None:
            raise
        sys.exit(f"stopped: {refusal}\n(which Stripe's SDK has raised as {type(error).__name__})")


if __name__ == "__main__":
    main()
