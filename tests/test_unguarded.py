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
import keyguard.patches.aiohttp
import keyguard.patches.httpx
import keyguard.patches.requests
from keyguard import patches
from keyguard.errors import EndpointNotAllowed
from keyguard.patches import _wire

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


SEAMS: dict[Callable[[str, Any], None], tuple[Any, str]] = {
    _requests: (requests.Session, "send"),
    _httpx: (httpx.Client, "_send_single_request"),
    _ahttpx: (httpx.AsyncClient, "_send_single_request"),
    _aiohttp: (aiohttp.BaseConnector, "connect"),
}
CLIENTS = pytest.mark.parametrize("get", SEAMS)


@pytest.fixture(autouse=True)
def token() -> Iterator[str]:
    """Armed in a run that may call nothing, and the token of its key."""
    with keyguard.run("run-1"):
        yield keyguard.install("sqlite://", run_usd_cap=1, allowed_endpoints=[]).key.token
    keyguard.uninstall()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts of the requests that are read."""
    found: list[str] = []
    look = _wire.vendor_of

    def noting(host: str, netloc: str, path: str) -> str | None:
        found.append(host)
        return look(host, netloc, path)

    for library in (patches.httpx, patches.requests, patches.aiohttp):
        monkeypatch.setattr(library, "vendor_of", noting)
    return found


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
def test_what_was_found_of_a_host_is_forgotten_when_that_changes(get: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that was foreign is guarded from the moment on when it is registered, or listed at any port, and until it is not."""
    for _ in range(2):
        with pytest.raises(_Arrived):
            get(FOREIGN, {})
        keyguard.vendors.register("foreign", hosts=["foreign.test"], operations={})
        with pytest.raises(EndpointNotAllowed, match="is not allowed by policy"):
            get(FOREIGN, {})
        keyguard.vendors.unregister("foreign")
        with pytest.raises(_Arrived):
            get(FOREIGN, {})
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", "stripe=foreign.test:8443")
        keyguard.install("sqlite://", run_usd_cap=1, allowed_endpoints=[])
        with pytest.raises(_Arrived):
            get(FOREIGN, {})
        with pytest.raises(EndpointNotAllowed, match="is not allowed by policy"):
            get("https://foreign.test:8443/x", {})
        monkeypatch.delenv("KEYGUARD_VENDOR_HOSTS")
        keyguard.install("sqlite://", run_usd_cap=1, allowed_endpoints=[])


@CLIENTS
def test_a_stand_in_that_is_listed_slows_nobody_else(
    get: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch, watched: list[str]
) -> None:
    """Other hosts' requests are not read, with whatever credentials of theirs; the stand-in's are."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", "stripe=stand-in.test")
    keyguard.install("sqlite://", run_usd_cap=1, allowed_endpoints=[])
    for value in ("Bearer sk_live_some_other_vendors_key", _basic("sk_other:vault-key")):
        with pytest.raises(_Arrived):
            get(FOREIGN, {"Authorization": value})

    assert watched == []
    with pytest.raises(EndpointNotAllowed):
        get("https://stand-in.test/x", {})
    assert len(watched) == 1


@CLIENTS
@pytest.mark.parametrize("host", ["foreign.test", "api.stripe.com"])
def test_a_method_of_another_signature_is_guarded_too(get: Callable[[str, Any], None], token: str, host: str) -> None:
    """Where another library has put one there: each request is read."""
    owner, name = SEAMS[get]
    original = vars(owner)[name]
    keyguard.uninstall()
    bare = vars(owner)[name]
    setattr(owner, name, lambda self, *args, **kwargs: bare(self, *args, **kwargs))
    try:
        keyguard.install("sqlite://", run_usd_cap=1, allowed_endpoints=[])
        with pytest.raises(EndpointNotAllowed):
            get(f"https://{host}/x", {"X-Key": token})
        with pytest.raises(_Arrived if host == "foreign.test" else EndpointNotAllowed):
            get(f"https://{host}/x", {})
        keyguard.uninstall()
    finally:
        setattr(owner, name, bare)

    assert original is not bare


@CLIENTS
def test_a_listed_host_is_no_foreign_one(get: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in is guarded as soon as it is listed."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", "stripe=foreign.test")
    keyguard.install("sqlite://", run_usd_cap=1, allowed_endpoints=[])
    with pytest.raises(EndpointNotAllowed, match="is not allowed by policy"):
        get(FOREIGN, {})
