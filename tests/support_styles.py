"""Every way to call Stripe, behind one function: the SDK over each of its HTTP libraries, awaited too, and raw clients. Asserts nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
import httpx
import pytest
import requests
import stripe

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "sk_test_12345"
# From a path, a form and an idempotency key (None = the client's own choice) to the object's fields; raises what the client raises.
Post: TypeAlias = "Callable[[str, dict[str, Any], str | None], Any]"


def _sync(url: str, own: stripe.HTTPClient) -> Post:
    client = stripe.StripeClient(SECRET, base_addresses={"api": url}, http_client=own, max_network_retries=0)
    return lambda path, form, key: _fields(client, client.raw_request("post", path, **form, **_options(key)))


def _async(url: str, make: Callable[[], stripe.HTTPClient]) -> Post:
    async def asked(path: str, form: dict[str, Any], key: str | None) -> Any:
        own = make()
        client = stripe.StripeClient(SECRET, base_addresses={"api": url}, http_client=own, max_network_retries=0)
        try:
            return _fields(client, await client.raw_request_async("post", path, **form, **_options(key)))
        finally:
            await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own

    return lambda path, form, key: asyncio.run(asked(path, form, key))


def _said(form: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in form.items()}


def _headers(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRET}", **({} if key is None else {"Idempotency-Key": key})}


def _raw_httpx(url: str) -> Post:
    return lambda path, form, key: (
        httpx.post(f"{url}{path}", data=_said(form), auth=(SECRET, ""), headers={} if key is None else {"idempotency-key": key})
        .raise_for_status()
        .json()
    )


def _raw_requests(url: str) -> Post:
    def post(path: str, form: dict[str, Any], key: str | None) -> Any:
        response = requests.post(f"{url}{path}", data=_said(form), headers=_headers(key), timeout=60)
        response.raise_for_status()
        return response.json()

    return post


def _raw_aiohttp(url: str) -> Post:
    async def post(path: str, form: dict[str, Any], key: str | None) -> Any:
        said = {name: str(value) for name, value in _said(form).items()}
        async with aiohttp.ClientSession() as session, session.post(f"{url}{path}", data=said, headers=_headers(key)) as response:
            body = await response.json(content_type=None)
            response.raise_for_status()
            return body

    return lambda path, form, key: asyncio.run(post(path, form, key))


def _options(key: str | None) -> dict[str, Any]:
    return {} if key is None else {"idempotency_key": key}


def _fields(client: stripe.StripeClient, answer: Any) -> Any:
    return client.deserialize(answer, api_mode="V1").to_dict()


STYLES: dict[str, Callable[[str], Post]] = {
    "requests": lambda url: _sync(url, stripe.RequestsClient()),
    "urllib": lambda url: _sync(url, stripe.UrllibClient()),
    "httpx": lambda url: _sync(url, stripe.HTTPXClient(allow_sync_methods=True)),
    "async httpx": lambda url: _async(url, stripe.HTTPXClient),
    "async aiohttp": lambda url: _async(url, stripe.AIOHTTPClient),
    "raw httpx": _raw_httpx,
    "raw requests": _raw_requests,
    "raw aiohttp": _raw_aiohttp,
}


def status_of(call: Callable[[], Any]) -> int:
    """Return the status with which a call failed, which it must."""
    with pytest.raises((stripe.StripeError, httpx.HTTPStatusError, requests.HTTPError, aiohttp.ClientResponseError)) as caught:
        call()
    error: Any = caught.value
    if isinstance(error, stripe.StripeError):
        return int(error.http_status or 0)
    return int(error.status if isinstance(error, aiohttp.ClientResponseError) else error.response.status_code)
