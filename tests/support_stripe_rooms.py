"""The cases of all rooms of Stripe's money, for what is said about each of them. Asserts nothing."""

from __future__ import annotations

from tests import (
    test_stripe_checkout,
    test_stripe_invoice_rules,
    test_stripe_invoices,
    test_stripe_payments,
    test_stripe_payouts,
    test_stripe_subscriptions,
    test_stripe_v2,
)

_ROOMS = (
    test_stripe_checkout, test_stripe_invoice_rules, test_stripe_invoices, test_stripe_payments, test_stripe_payouts,
    test_stripe_subscriptions, test_stripe_v2,
)  # fmt: skip
CASES = [case for room in _ROOMS for case in room.CASES]
