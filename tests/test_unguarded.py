"""Requests to hosts that nobody guards, where nothing is listed: they pass at once, and a token or another spelling of a host does not."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest
import requests
from requests.adapters import BaseAdapter

import keyguard
from keyguard.errors import EndpointNotAllowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOREIGN = "https://foreign.test/x"


class _Arrived(Exception):
    """A request came to the wire."""


class _Adapter(BaseAdapter):
    def send(self, *_: Any, **__: Any) -> Any:
        raise _Arrived

    def close(self) -> None:
        """Nothing is open."""


class _Connector(aiohttp.TCPConnector):
    async def _get(self, *_: Any) -> Any:
        raise _Arrived


def _arrive(_: httpx.Request) -> httpx.Response:
    raise _Arrived


def _requests(url: str, headers: Any) -> None:
    with requests.Session() as session:
        session.mount("http://", _Adapter())
        session.mount("https://", _Adapter())
        session.get(url, headers=headers)


def _httpx(url: str, headers: Any) -> None:
    with httpx.Client(transport=httpx.MockTransport(_arrive)) as client:
        client.get(url, headers=headers)


def _ahttpx(url: str, headers: Any) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(_arrive)) as client:
            await client.get(url, headers=headers)

    asyncio.run(main())


def _aiohttp(url: str, headers: Any) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession(connector=_Connector()) as session:
            await session.get(url, headers=headers)

    asyncio.run(main())


CLIENTS = pytest.mark.parametrize("get", [_requests, _httpx, _ahttpx, _aiohttp])


@pytest.fixture(autouse=True)
def token() -> Iterator[str]:
    """Armed in a run that may call nothing, and the token of its key."""
    with keyguard.run("run-1"):
        yield keyguard.install("sqlite://", run_usd_cap=1, allowed_endpoints=[]).key.token
    keyguard.uninstall()


def _basic(pair: str, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(pair.encode()).decode()}"


@CLIENTS
@pytest.mark.parametrize(
    "url", [FOREIGN, "http://Foreign.TEST:8443/x?y=1", "https://me:pw@foreign.test/x", "https://foreign.test", "https://127.0.0.1:9/"]
)
@pytest.mark.parametrize(
    "value",
    ["Bearer sk_live_some_other_vendors_key", _basic("sk_other:vault"), "gzip, deflate, br, zstd", "a basic thing", "vault_key", "x"],
)
def test_what_is_nobodys_passes(get: Callable[[str, Any], None], url: str, value: str) -> None:
    """Whatever its headers look like, and however its host is written."""
    with pytest.raises(_Arrived):
        get(url, {"X-Value": value})


WRITTEN: dict[str, Callable[[str], str]] = {
    "alone": lambda token: token,
    "Bearer": lambda token: f"Bearer {token}",
    "within": lambda token: f"key={token}; v=1",
    "Basic user": lambda token: _basic(f"{token}:"),
    "Basic password": lambda token: _basic(f"me:{token}"),
    "basic": lambda token: _basic(f"{token}:", "basic"),
    "BASIC": lambda token: _basic(f"{token}:", "BASIC"),
    "bAsIc": lambda token: _basic(f"me:{token}", "bAsIc"),
    "Basic and two blanks": lambda token: _basic(f"{token}:", "Basic "),
}


@CLIENTS
@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("name", ["Authorization", "X-Key"])
def test_a_token_never_leaves(get: Callable[[str, Any], None], token: str, written: Callable[[str], str], name: str) -> None:
    """In any header, in clear or in Basic, in whichever case its scheme is written."""
    with pytest.raises(EndpointNotAllowed, match=r"vault token to foreign\.test"):
        get(FOREIGN, {name: written(token)})


@CLIENTS
@pytest.mark.parametrize("host", ["api.stripe.com", "API.Stripe.com", "api.stripe.com.", "api.stripe.com:443", "me:pw@api.stripe.com"])
@pytest.mark.parametrize("scheme", ["https", "http", "HTTPS"])
def test_a_guarded_host_is_known_however_it_is_written(get: Callable[[str, Any], None], scheme: str, host: str) -> None:
    """In any case, with the root's dot, a port or a user's name."""
    with pytest.raises(EndpointNotAllowed, match="is not allowed by policy"):
        get(f"{scheme}://{host}/v1/balance", {})


@CLIENTS
def test_a_listed_host_is_no_foreign_one(get: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in is guarded as soon as it is listed."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", "stripe=foreign.test")
    keyguard.install("sqlite://", run_usd_cap=1, allowed_endpoints=[])
    with pytest.raises(EndpointNotAllowed, match="is not allowed by policy"):
        get(FOREIGN, {})
