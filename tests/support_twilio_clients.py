"""The Twilio SDK pointed to a stand-in, blocking and awaited behind one signature. Asserts nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import twilio.http.async_http_client  # noqa: F401 -- so that a test's first call does not load aiohttp
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client

from tests.support_twilio_server import ACCOUNT, TOKEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Fictional by design: +1 212 555 01xx (NANPA), and Twilio's own magic number of a valid sender.
TO, FROM = "+12125550123", "+15005550006"
MESSAGE: dict[str, Any] = {"to": TO, "from_": FROM, "body": "hello"}
_PRODUCTS = ("api", "verify", "lookups", "oauth", "pricing")
# From what is asked of a client, by a name and arguments, to what the SDK returns.
Ask: TypeAlias = "Callable[..., Any]"


def pointed(client: Client, **urls: str) -> Client:
    """Point products of a client to stand-ins."""
    for product, url in urls.items():
        getattr(client, product).base_url = url
    return client


def everywhere(url: str) -> dict[str, str]:
    """Return one stand-in for every product that the tests use."""
    return dict.fromkeys(_PRODUCTS, url)


def client_for(url: str, password: str = TOKEN, **options: Any) -> Client:
    """Make a client of one stand-in."""
    return pointed(Client(ACCOUNT, password, **options), **everywhere(url))


def awaited(url: str, ask: Callable[[Client], Awaitable[Any]], password: str = TOKEN, **http: Any) -> Any:
    """Ask an awaited client of a loop of its own."""

    async def asked() -> Any:
        async with AsyncTwilioHttpClient(**http) as http_client:
            return await ask(client_for(url, password, http_client=http_client))

    return asyncio.run(asked())


def send(url: str, style: str, password: str = TOKEN, **fields: Any) -> Any:
    """Send one message in a style: `sync` or `async`."""
    if style == "sync":
        return client_for(url, password).messages.create(**MESSAGE | fields)
    return awaited(url, lambda client: client.messages.create_async(**MESSAGE | fields), password)


STYLES = ("sync", "async")
