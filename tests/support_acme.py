"""A vendor of nobody's, `acme`, as users register one, and every library that can call it. Asserts nothing."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import requests

import keyguard
from keyguard import context, vendors
from tests.support_libraries import HTTPX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support_json_server import JsonServer

SECRET_ENV = "ACME_API_KEY"


@dataclass(frozen=True)
class Said:
    """An answer of any library: its own response, and what it says."""

    native: Any
    status: int
    headers: Any
    text: str


@contextmanager
def acme(server: JsonServer, cap: float = 1.5, **more: Any) -> Iterator[keyguard.Installation]:
    """Register acme, whose jobs cost a dollar, with a stand-in, in a run with a cap."""
    vendors.register("acme", **{"hosts": ["api.acme.example"], "operations": {"POST /v1/jobs": 1}, "secret_env": SECRET_ENV, **more})
    try:
        with keyguard.run("run-1"):
            installed = keyguard.install("sqlite://", run_usd_cap=cap)
            context.set_vendor_hosts({server.host: "acme"})
            yield installed
    finally:
        keyguard.uninstall()
        context.set_vendor_hosts({})
        vendors.unregister("acme")


def _httpx(library: Any) -> Callable[..., Said]:
    def post(url: str, **more: Any) -> Said:
        with library.Client() as client:
            found = client.post(url, **more)
        return Said(found, found.status_code, found.headers, found.text)

    return post


def _ahttpx(library: Any) -> Callable[..., Said]:
    async def main(url: str, **more: Any) -> Said:
        async with library.AsyncClient() as client:
            found = await client.post(url, **more)
        return Said(found, found.status_code, found.headers, found.text)

    return lambda url, **more: asyncio.run(main(url, **more))


def _requests(url: str, **more: Any) -> Said:
    with requests.Session() as session:
        found = session.post(url, **more)
    return Said(found, found.status_code, found.headers, found.text)


def _aiohttp(url: str, **more: Any) -> Said:
    async def main() -> Said:
        async with aiohttp.ClientSession() as session, session.post(url, **more) as found:
            return Said(found, found.status, found.headers, await found.text())

    return asyncio.run(main())


POSTS: dict[str, Callable[..., Said]] = {
    **{name: _httpx(library) for name, library in HTTPX.items()},
    **{f"async {name}": _ahttpx(library) for name, library in HTTPX.items()},
    "requests": _requests,
    "aiohttp": _aiohttp,
}
