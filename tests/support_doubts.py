"""Calls whose answer is lost at the vendor double, through the real SDKs, and the ledger that asks about them later."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import resend
import stripe

import keyguard
from keyguard import doubts
from keyguard.ledgers import open_ledger
from keyguard.testing.double import Fault, VendorDouble
from tests.support_twilio_server import ACCOUNT, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keyguard.doubts import Reconciled
    from keyguard.model import Usage

USD = 1_000_000
HOUR = 3600.0
SECRET, RESEND_KEY = "sk_test_of_a", "re_of_a"


class Place:
    """
    A vendor double and a ledger file, of one run named `a`.

    Attributes:
        later: Seconds that ledger and vendor are ahead of the machine.
    """

    def __init__(self, folder: Path, double: VendorDouble) -> None:
        self.url, self.double, self.later = f"sqlite:///{folder / 'ledger.db'}", double, 0.0

    @contextmanager
    def run(self, name: str = "a", *, replay: bool = False, **policy: Any) -> Iterator[None]:
        """Enter a run under this ledger; outside of `replay` each request is a charge of its own."""
        with keyguard.run(name, replay=replay):
            keyguard.install(self.url, **{"run_usd_cap": 100, **policy})
            yield

    def advance(self, seconds: float) -> None:
        """Let time pass, here and there."""
        self.later += seconds
        self.double.advance(seconds)

    def reconcile(self, run: str | None = None, **asked: Any) -> Reconciled:
        """Ask the vendor by a handle whose clock is ahead."""
        ledger = open_ledger(self.url, durability="process", clock=lambda: time.time() + self.later)
        try:
            done = doubts.reconcile(run, ledger=ledger, **asked)

            assert ledger.verify() == []
            return done
        finally:
            ledger.shut()

    def usage(self, run: str = "a") -> Usage:
        """Return a run's figures."""
        ledger = open_ledger(self.url, durability="process")
        try:
            found = ledger.usage(f"run:{run}")

            assert found is not None
            return found
        finally:
            ledger.shut()

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """Return rows of the audit log."""
        ledger = open_ledger(self.url, durability="process")
        try:
            return [row for row in ledger.entries() if row["kind"] == kind]
        finally:
            ledger.shut()


def parts(usage: Usage) -> tuple[int, int, int]:
    """Return what is spent, held, in doubt."""
    return usage.spent, usage.held, usage.doubt


def lost(place: Place, amount: int = 500, kind: Any = "close_after", **fields: Any) -> None:
    """Charge, and lose the answer in the given way."""
    place.double.script(Fault(kind, vendor="stripe", method="POST"))
    with pytest.raises((stripe.APIConnectionError, stripe.APIError)):
        charge(amount, **fields)


def charge(amount: int = 500, **fields: Any) -> stripe.PaymentIntent:
    """Charge a card at once."""
    return stripe.PaymentIntent.create(**{"amount": amount, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True, **fields})


@contextmanager
def placed(folder: Path, patch: pytest.MonkeyPatch, vendor: str = "stripe") -> Iterator[Place]:
    """Start a double, and point the clients and keyguard's settings at it, as one vendor's stand-in."""
    with VendorDouble() as double:
        patch.setenv("KEYGUARD_VENDOR_HOSTS", f"{vendor}={double.host}")
        patch.setenv("STRIPE_SECRET_KEY", SECRET)
        patch.setenv("KEYGUARD_DURABILITY", "process")
        patch.setattr(stripe, "api_base", double.url)
        patch.setattr(stripe, "api_key", SECRET)
        patch.setattr(stripe, "max_network_retries", 0)
        patch.setattr(resend, "api_url", double.url)
        patch.setattr(resend, "api_key", RESEND_KEY)
        patch.setenv("RESEND_API_KEY", RESEND_KEY)
        patch.setenv("TWILIO_ACCOUNT_SID", ACCOUNT)
        patch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
        yield Place(folder, double)
