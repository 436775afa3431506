"""What a user writes who never thought of other processes: it does not import keyguard. Imports Prefect; for stages only."""

from __future__ import annotations

from typing import Any

import stripe
from prefect import task


def charge(base: str, customer: str) -> str:
    """Charge a customer a dollar, at once."""
    client = stripe.StripeClient("sk_test_1", base_addresses={"api": base}, max_network_retries=0)
    made: Any = client.v1.payment_intents.create(_params(customer))
    return str(made.id)


async def acharge(base: str, customer: str) -> str:
    """Charge a customer a dollar, awaited."""
    http = stripe.HTTPXClient()
    client = stripe.StripeClient("sk_test_1", base_addresses={"api": base}, max_network_retries=0, http_client=http)
    made: Any = await client.v1.payment_intents.create_async(_params(customer))
    return str(made.id)


def _params(customer: str) -> Any:
    return {"amount": 100, "currency": "usd", "customer": customer, "payment_method": "pm_card_visa", "confirm": True}


bare_charge: Any = task(name="charge-bare")(charge)
bare_acharge: Any = task(name="acharge-bare")(acharge)
