"""
A double of Stripe, Twilio and Resend, for tests of what happens when things go wrong: a real HTTP server on loopback with the
vendors' own idempotency, faults by script, and a truth file of its own that says what was really executed.

    with VendorDouble() as double:
        stripe.api_base, stripe.api_key = double.url, "sk_test_1"
        double.script(Fault("close_after", path="/v1/payment_intents"))  # the vendor charges, the answer is lost
        stripe.PaymentIntent.create(amount=100, currency="usd", payment_method="pm_card_visa", confirm=True)  # sent twice

        assert double.struck() == 1
        assert double.truth.charged() == 1_000_000  # micro-USD; it was charged once, because the SDK's retry has the same key

`DoubleProcess` is the same in a process of its own. The truth file, not the double's answers and not keyguard's ledger, is
the judge. The vendors themselves (`stripe.Stripe`, …) are pure, and can be driven without HTTP; see `messages.Vendor`.
"""

from __future__ import annotations

from keyguard.testing.double.controls import Controls, VendorDouble
from keyguard.testing.double.faults import Fault, Scripted
from keyguard.testing.double.process import DoubleProcess
from keyguard.testing.double.truth import Truth

__all__ = ["Controls", "DoubleProcess", "Fault", "Scripted", "Truth", "VendorDouble"]
