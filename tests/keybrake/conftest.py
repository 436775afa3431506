"""Vendors, and a double of Keybrake's contract before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from keyguard.testing.double import VendorDouble
from keyguard.testing.keybrake import KeybrakeDouble

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ADMIN = "kb_admin_of_the_tests"
SECRETS = {"stripe": "sk_test_real_0123456789", "twilio": "tw_real_0123456789", "resend": "re_real_0123456789"}
DAY = 86_400


class Keybrake:
    """
    The double with a clock that tests move, and short words for who uses it.

    Args:
        upstream: The stand-in of every vendor; a URL.
        options: Of the double.
    """

    def __init__(self, upstream: str, **options: Any) -> None:
        self.now = 1_700_000_000.0
        self.double = KeybrakeDouble(
            admin=ADMIN, vendor_secret=SECRETS, upstreams=dict.fromkeys(SECRETS, upstream), clock=lambda: self.now, **options
        )

    def __enter__(self) -> Keybrake:
        self.double.__enter__()
        # One for all: each of its own would read the machine's certificates.
        self._client = httpx.Client(base_url=self.double.url, trust_env=False, timeout=30)
        return self

    def __exit__(self, *error: object) -> None:
        self.double.__exit__(*error)

    def ask(self, method: str, path: str, token: str = ADMIN, **options: Any) -> httpx.Response:
        """Ask by a token."""
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        return self._client.request(method, path, headers=headers, **options)

    def key(self, **fields: Any) -> str:
        """Issue a key, and return its secret."""
        answer = self.ask("POST", "/vault/keys", json={"vendor": "stripe", **fields})

        assert answer.status_code == 201, answer.text
        return str(answer.json()["vault_key"])

    def charge(self, token: str, cents: int = 200, path: str = "/stripe/v1/payment_intents", **more: Any) -> httpx.Response:
        """Charge a card."""
        form: Mapping[str, Any] = {"amount": cents, "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa", **more}
        return self.ask("POST", path, token, data=form)


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorDouble]:
    """The vendors."""
    with VendorDouble() as found:
        yield found


@pytest.fixture
def keybrake(vendors: VendorDouble) -> Iterator[Keybrake]:
    """The double before them, new for each test."""
    with Keybrake(vendors.url) as found:
        yield found
