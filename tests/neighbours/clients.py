"""The clients of the matrix: each makes one confirmed PaymentIntent, in its own way, and returns what the caller gets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import requests
import stripe

from tests.support_libraries import HTTPX

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk_test_12345"
# The stand-in speaks http; loading a machine's certificates would take longer than the call.
_NO_CERTIFICATES: dict[str, Any] = {"verify_ssl_certs": False}
_NO_CONTEXT = False


@dataclass(frozen=True, slots=True)
class Client:
    """
    One row of the table.

    Attributes:
        name: How the row is called.
        layers: What a call passes: `stripe`, and the HTTP library.
        seam: Which of keyguard's seams decides.
        charge: (base URL, cents) → (id, amount, status) as the caller gets them.
    """

    name: str
    layers: frozenset[str]
    seam: str
    charge: Callable[[str, int], tuple[str, int, str]]


def _form(cents: int) -> Any:
    return {"amount": cents, "currency": "usd", "confirm": True}


def _told(intent: stripe.PaymentIntent) -> tuple[str, int, str]:
    return intent.id, intent.amount, intent.status


def _sdk(base: str, own: stripe.HTTPClient) -> stripe.StripeClient:
    return stripe.StripeClient(KEY, base_addresses={"api": base}, http_client=own)


def _with_sdk(make: Callable[[], stripe.HTTPClient]) -> Callable[[str, int], tuple[str, int, str]]:
    def charge(base: str, cents: int) -> tuple[str, int, str]:
        own = make()
        try:
            return _told(_sdk(base, own).v1.payment_intents.create(_form(cents)))
        finally:
            own.close()  # type: ignore[no-untyped-call]  # -- stripe's own

    return charge


def _with_async_sdk(make: Callable[[], stripe.HTTPClient]) -> Callable[[str, int], tuple[str, int, str]]:
    async def charge(base: str, cents: int) -> tuple[str, int, str]:
        own = make()
        try:
            return _told(await _sdk(base, own).v1.payment_intents.create_async(_form(cents)))
        finally:
            await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own

    return lambda base, cents: asyncio.run(charge(base, cents))


def _raw(base: str, cents: int) -> dict[str, Any]:
    form = {"amount": str(cents), "currency": "usd", "confirm": "true"}
    return {"url": f"{base}/v1/payment_intents", "data": form, "headers": {"Authorization": f"Bearer {KEY}"}}


def _answered(response: Any) -> tuple[str, int, str]:
    intent = response.json()
    return intent["id"], intent["amount"], intent["status"]


def _with(library: Any) -> Callable[[str, int], tuple[str, int, str]]:
    """Charge with httpx, or httpx2."""

    def charge(base: str, cents: int) -> tuple[str, int, str]:
        with library.Client(verify=_NO_CONTEXT) as client:
            return _answered(client.post(**_raw(base, cents)))

    return charge


def _with_async(library: Any) -> Callable[[str, int], tuple[str, int, str]]:
    async def charge(base: str, cents: int) -> tuple[str, int, str]:
        async with library.AsyncClient(verify=_NO_CONTEXT) as client:
            return _answered(await client.post(**_raw(base, cents)))

    return lambda base, cents: asyncio.run(charge(base, cents))


def _with_requests(base: str, cents: int) -> tuple[str, int, str]:
    with requests.Session() as session:
        return _answered(session.post(**_raw(base, cents)))


async def _with_aiohttp(base: str, cents: int) -> tuple[str, int, str]:
    async with aiohttp.ClientSession() as session, session.post(**_raw(base, cents)) as response:
        intent = await response.json()
        return intent["id"], intent["amount"], intent["status"]


# A further client is a further line.
CLIENTS = (
    Client("stripe-requests", frozenset({"stripe", "requests"}), "stripe.sync", _with_sdk(stripe.RequestsClient)),
    Client(
        "stripe-httpx",
        frozenset({"stripe", "httpx"}),
        "stripe.sync",
        _with_sdk(lambda: stripe.HTTPXClient(allow_sync_methods=True, **_NO_CERTIFICATES)),
    ),
    Client(
        "stripe-httpx-async",
        frozenset({"stripe", "httpx"}),
        "stripe.async",
        _with_async_sdk(lambda: stripe.HTTPXClient(**_NO_CERTIFICATES)),
    ),
    Client(
        "stripe-aiohttp",
        frozenset({"stripe", "aiohttp"}),
        "stripe.async",
        _with_async_sdk(lambda: stripe.AIOHTTPClient()),
    ),
    Client("requests", frozenset({"requests"}), "requests.sync", _with_requests),
    Client("aiohttp", frozenset({"aiohttp"}), "aiohttp.async", lambda base, cents: asyncio.run(_with_aiohttp(base, cents))),
    *(Client(name, frozenset({name}), f"{name}.sync", _with(library)) for name, library in HTTPX.items()),
    *(Client(f"{name}-async", frozenset({name}), f"{name}.async", _with_async(library)) for name, library in HTTPX.items()),
)
