"""The Stripe client of a worker: Stripe's own SDK on requests, whose transport stops where a plan says. Knows no guard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
import stripe
from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.crashtest.contract import Shop

_CENT = 10_000
# Seconds between the SDK's own retries, so that a storm does not last for minutes.
_PAUSE, _LONGEST_PAUSE = 0.02, 0.05


class _Transport(HTTPAdapter):
    """Sends as ever, and tells when a request is about to leave and when its answer has come."""

    def __init__(self, at: Callable[[str], None]) -> None:
        super().__init__(pool_maxsize=64)
        self._at = at

    def send(self, *args: Any, **options: Any) -> requests.Response:
        """Send one request."""
        self._at("after reserve")
        answer = super().send(*args, **options)
        self._at("after answer")
        return answer


def client(shop: Shop, at: Callable[[str], None]) -> stripe.StripeClient:
    """Make a client."""
    pauses: Any = stripe.HTTPClient
    pauses.INITIAL_DELAY, pauses.MAX_DELAY = _PAUSE, _LONGEST_PAUSE
    session = requests.Session()
    session.trust_env = False
    # A connection that has ended says that what was sent on it is executed, or never will be.
    session.headers["Connection"] = "close"
    session.mount("http://", _Transport(at))
    own = stripe.RequestsClient(timeout=shop.timeout, session=session)
    addresses: Any = {"api": shop.api_base}
    return stripe.StripeClient(shop.api_key, base_addresses=addresses, http_client=own, max_network_retries=shop.retries)


def pay(client: stripe.StripeClient, customer: str, amount: int) -> None:
    """Charge a customer so many micro-USD."""
    client.v1.payment_intents.create({
        "amount": amount // _CENT, "currency": "usd", "customer": customer, "confirm": True, "payment_method": "pm_card_visa",
    })  # fmt: skip
