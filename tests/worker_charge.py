"""A process of a run: charges $1 through the Stripe SDK until it is refused; prints what it did as JSON."""

from __future__ import annotations

import json
import sys

import stripe

import keyguard


def main(base: str, url: str, worker: str, identical: str, wanted: str) -> None:
    """Charge `wanted` times at most and print {charged, refused}."""
    stripe.api_base, stripe.api_key, stripe.max_network_retries = base, "sk_test_12345", 0
    charged = refused = 0
    with keyguard.run("shared-run"):
        keyguard.install(url, run_usd_cap=100)
        # Tell the parent that this worker is ready, then start with all the others.
        print("ready", flush=True)
        sys.stdin.readline()
        for n in range(int(wanted)):
            try:
                stripe.PaymentIntent.create(
                    amount=100, currency="usd", confirm=True, customer="cus_1" if identical == "yes" else f"cus_{worker}_{n}"
                )
                charged += 1
            except keyguard.SpendCapExceeded:
                refused += 1
    print(json.dumps({"charged": charged, "refused": refused}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
