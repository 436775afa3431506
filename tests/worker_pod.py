"""One of several processes of one run: `python -m tests.worker_pod BASE LEDGER CAP REPLAY CUSTOMER …` charges each customer $1, in order.

It says that it is ready, waits for a line, and prints what it did as JSON: how many charges were made, and how many were refused.
"""

from __future__ import annotations

import contextlib
import json
import sys

import stripe

import keyguard


def _charge(client: stripe.StripeClient, customer: str) -> None:
    """Charge, and charge again where the card was declined, as a task's retry does."""
    for _ in range(2):
        with contextlib.suppress(stripe.CardError):
            client.v1.payment_intents.create(
                {"amount": 100, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa", "customer": customer}
            )
            return
    raise RuntimeError(f"{customer} was declined twice")


def main(base: str, ledger: str, cap: str, replay: str, *customers: str) -> None:
    """Charge them all; a refusal ends one charge, not the others."""
    client = stripe.StripeClient("sk_test_12345", base_addresses={"api": base}, max_network_retries=2)
    made = refused = 0
    with keyguard.run("run-1", replay=replay == "replay"):
        keyguard.install(ledger, run_usd_cap=float(cap))
        print("ready", flush=True)
        sys.stdin.readline()
        for customer in customers:
            try:
                _charge(client, customer)
                made += 1
            except keyguard.SpendCapExceeded:
                refused += 1
    print(json.dumps({"made": made, "refused": refused}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
