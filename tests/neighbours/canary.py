"""Finds out by trying, not by looking, which seams stand: each canary call is caught by a handler of ours before it is sent."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import requests
import requests.adapters
import stripe

from keyguard import context
from keyguard.errors import ConfigurationError
from tests.support_libraries import HTTPX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_URL = "https://api.stripe.com/v1/customers"


class _Caught(BaseException):
    """Leaves the seam, and no library between it and us swallows it."""


class _Watch:
    """A handler that lets nothing pass."""

    def handle(self, outgoing: Any, send: Any) -> Any:
        """Catch a blocking canary."""
        raise _Caught

    async def ahandle(self, outgoing: Any, send: Any) -> Any:
        """Catch an awaited canary."""
        raise _Caught

    def tolerates(self, error: Exception) -> bool:
        """Let no refusal of a client pass."""
        return False


class _Silent(stripe.HTTPClient):
    """Stripe's base class over no wire."""

    name = "silent"

    def request(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> Any:
        """Answer from memory."""
        return "{}", 200, {}

    async def request_async(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> Any:
        """Answer from memory."""
        return "{}", 200, {}


class _Bypassing(_Silent):
    """What `stripe.check` is there to refuse."""

    def request_with_retries(self, *_: Any, **__: Any) -> Any:
        """Go round the base class."""
        return "{}", 200, {}

    async def request_with_retries_async(self, *_: Any, **__: Any) -> Any:
        """Go round the base class."""
        return "{}", 200, {}


def _wire(library: Any) -> None:
    with library.Client(transport=library.MockTransport(lambda _: library.Response(200))) as client:
        client.get(_URL)


async def _awire(library: Any) -> None:
    async with library.AsyncClient(transport=library.MockTransport(lambda _: library.Response(200))) as client:
        await client.get(_URL)


def _run_awire(library: Any) -> None:
    asyncio.run(_awire(library))


class _Nowhere(requests.adapters.BaseAdapter):
    """Sends nothing."""

    def send(self, *_: Any, **__: Any) -> Any:
        """Refuse."""
        raise OSError

    def close(self) -> None:
        """Close nothing."""


def _with_requests() -> None:
    with requests.Session() as session:
        session.mount("https://", _Nowhere())
        session.get(_URL)


class _NoWay(aiohttp.TCPConnector):
    """Connects to nothing."""

    async def _create_connection(self, *_: Any, **__: Any) -> Any:
        """Refuse."""
        raise OSError


async def _with_aiohttp() -> None:
    async with aiohttp.ClientSession(connector=_NoWay()) as session:
        await session.get(_URL)


def _sdk() -> None:
    _Silent().request_with_retries("get", _URL, {}, None)


async def _asdk() -> None:
    await _Silent().request_with_retries_async("get", _URL, {}, None)


def _check() -> None:
    stripe.StripeClient("sk_test_12345", http_client=_Bypassing()).raw_request("get", "/v1/customers")


async def _acheck() -> None:
    await stripe.StripeClient("sk_test_12345", http_client=_Bypassing()).raw_request_async("get", "/v1/customers")


_CALLS: dict[str, Callable[[], Any]] = {
    **{f"{name}.sync": partial(_wire, library) for name, library in HTTPX.items()},
    **{f"{name}.async": partial(_run_awire, library) for name, library in HTTPX.items()},
    "requests.sync": _with_requests,
    "aiohttp.async": lambda: asyncio.run(_with_aiohttp()),
    "stripe.sync": _sdk,
    "stripe.async": lambda: asyncio.run(_asdk()),
}
# Apart and last: they import what Stripe's SDK loads at its first use, whose seams stand only then.
_CHECKS: dict[str, Callable[[], Any]] = {
    "stripe.check": _check,
    "stripe.check_async": lambda: asyncio.run(_acheck()),
}
CANARIES = {*_CALLS, *_CHECKS}


@contextlib.contextmanager
def _watching() -> Iterator[None]:
    before = context.handler()
    context.set_handler(_Watch())
    try:
        yield
    finally:
        context.set_handler(before)


def _is_caught(canary: Callable[[], Any]) -> bool:
    try:
        canary()
    except (_Caught, ConfigurationError):
        return True
    except Exception:
        # A mock that answers only what it was told to: the canary came through to it.
        return False
    return False


def tried_seams(said: Callable[[], dict[str, bool]]) -> dict[str, tuple[bool, bool]]:
    """Return for each seam that has a canary what keyguard says of it, and whether the canary was caught there."""
    tried: dict[str, tuple[bool, bool]] = {}
    for canaries in (_CALLS, _CHECKS):
        with _watching():
            caught = {name: _is_caught(canary) for name, canary in canaries.items()}
        told = said()
        tried |= {name: (told[name], is_there) for name, is_there in caught.items()}
    return tried
