"""A process that charges once under run `a` and waits for the answer, to be killed meanwhile. Arguments: ledger URL, base of the double."""

from __future__ import annotations

import sys

import stripe

import keyguard


def main(url: str, base: str) -> None:
    """Charge five dollars."""
    stripe.api_base, stripe.api_key, stripe.max_network_retries = base, "sk_test_of_a", 0
    with keyguard.run("a", replay=True):
        keyguard.install(url, run_usd_cap=100)
        stripe.PaymentIntent.create(amount=500, currency="usd", payment_method="pm_card_visa", confirm=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
