"""A shop for tests of what goes wrong elsewhere: Stripe's double with its own truth, a ledger file with a clock, and Stripe's own SDK."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import stripe

import keyguard
from keyguard.backends.local import LocalBackend
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.testing.double import VendorDouble

if TYPE_CHECKING:
    from pathlib import Path

CENT = 10_000  # micro-USD
SECRET = "sk_test_12345"
DAY = 86_400.0


@dataclass
class Shop:
    """
    Stripe, a ledger and a till, from `with` to its end.

    Attributes:
        place: Where the ledger's file is, `url` its URL, and `ledger` this process's handle on it.
        now: The ledger's time, POSIX seconds; the present, until a test moves it.
        double: Stripe; its truth file is the judge.
    """

    place: Path
    now: float = field(default_factory=time.time)
    double: VendorDouble = field(default_factory=VendorDouble)
    _customers: Any = field(default_factory=itertools.count)

    def __enter__(self) -> Shop:
        self.double.__enter__()
        self.path = self.place / "ledger.db"
        self.url = f"sqlite:///{self.path}"
        self.ledger = SqliteLedger(self.path, clock=lambda: self.now, lock_seconds=0.05)
        armed: Any = import_module("keyguard.install")._armed
        armed.backends[self.url] = LocalBackend(self.ledger)
        return self

    def __exit__(self, *_: object) -> None:
        self.double.__exit__()

    def install(self, **policy: Any) -> keyguard.Installation:
        """Give the current run its key on this ledger."""
        return keyguard.install(self.url, **policy)

    def client(self, http_client: stripe.HTTPClient | None = None, retries: int = 0) -> stripe.StripeClient:
        """Make a client of the SDK."""
        own = http_client or stripe.RequestsClient()
        return stripe.StripeClient(SECRET, base_addresses={"api": self.double.url}, http_client=own, max_network_retries=retries)

    def charge(self, cents: int = 100, *, customer: str = "", retries: int = 0, key: str = "", **more: Any) -> str:
        """Charge a customer, a new one if none is named; returns the intent's id."""
        own = stripe.RequestsClient()
        form = {
            "amount": cents, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa",
            "customer": customer or f"cus_{next(self._customers)}", **more,
        }  # fmt: skip
        try:
            client = self.client(own, retries)
            return client.v1.payment_intents.create(form, {"idempotency_key": key} if key else {}).id  # type: ignore[arg-type]  # -- a dict
        finally:
            own.close()  # type: ignore[no-untyped-call]  # -- stripe's own

    def admitted(self, tries: int, cents: int = 100) -> int:
        """Charge so many new customers; returns how many charges were not refused."""
        done = 0
        for _ in range(tries):
            try:
                self.charge(cents)
                done += 1
            except keyguard.SpendCapExceeded:
                continue
        return done

    @property
    def truth(self) -> int:
        """What Stripe has really charged, in cents."""
        return self.double.truth.charged() // CENT

    def figures(self, run: str = "run-1") -> tuple[int, int, int]:
        """Return what the ledger says of a run: spent, held, in doubt, in cents."""
        usage = self.ledger.usage(f"run:{run}")
        assert usage is not None
        return usage.spent // CENT, usage.held // CENT, usage.doubt // CENT
