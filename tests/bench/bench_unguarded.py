"""What keyguard adds to a request to a host that nobody guards: what every other request of the process pays, by client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import requests
from requests.adapters import BaseAdapter

import keyguard
from tests.bench.measure import Row, added, in_turns, medians, repeated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.measure import Case

_URL = "https://example.com/x"
_HEADERS = {"authorization": "Bearer something"}


class _Answered(Exception):
    """Ends a request of aiohttp in the place of the wire."""


class _Adapter(BaseAdapter):
    """Answers in place of the wire, below requests."""

    def __init__(self) -> None:
        super().__init__()
        self._response = requests.Response()
        self._response.status_code, self._response._content, self._response.url = 200, b"", _URL

    def send(self, *_: Any, **__: Any) -> requests.Response:
        """Answer."""
        return self._response

    def close(self) -> None:
        """Nothing is open."""


def run(short: bool) -> list[Row]:
    """Measure each client's seam, in place and not."""
    rounds, calls = (15, 200) if short else (60, 500)
    rows = [_httpx(rounds, calls), _requests(rounds, calls), _aiohttp(rounds, calls)]
    keyguard.uninstall()
    return rows


def _httpx(rounds: int, calls: int) -> Row:
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        request = client.build_request("GET", _URL, headers=_HEADERS)
        return _row("httpx", httpx.Client, "_send_single_request", repeated(lambda: client.send(request)), rounds, calls)


def _requests(rounds: int, calls: int) -> Row:
    with requests.Session() as session:
        session.mount("https://", _Adapter())
        request = session.prepare_request(requests.Request("GET", _URL, headers=_HEADERS))
        return _row("requests", requests.Session, "send", repeated(lambda: session.send(request)), rounds, calls)


def _aiohttp(rounds: int, calls: int) -> Row:
    async def stop(_request: Any, _handler: Any) -> Any:
        raise _Answered

    async def send(calls: int) -> None:
        async with aiohttp.ClientSession(middlewares=(stop,), headers=_HEADERS) as session:
            for _ in range(calls):
                try:
                    await session.get(_URL)
                except _Answered:
                    continue

    return _row("aiohttp", aiohttp.ClientSession, "_request", lambda calls: lambda: asyncio.run(send(calls)), rounds, calls)


def _row(client: str, owner: Any, name: str, case: Case, rounds: int, calls: int) -> Row:
    keyguard.uninstall()
    bare = vars(owner)[name]
    with keyguard.run("h"):
        keyguard.install("sqlite://", run_usd_cap=1)
    armed = vars(owner)[name]
    assert armed is not bare

    def prepared(method: Any) -> Case:
        def prepare(calls: int) -> Callable[[], None]:
            # Outside the time that is taken. Armed once, as everywhere: the interpreter specializes a call for the function that it finds.
            setattr(owner, name, method)
            return case(calls)

        return prepare

    times = in_turns({"bare": prepared(bare), "armed": prepared(armed)}, rounds, calls)
    setattr(owner, name, armed)
    middle = medians(times)
    note = f"{middle['bare']:.1f} → {middle['armed']:.1f} µs"
    return Row(f"{client} to a host nobody guards, added", added(times, "armed", "bare"), "µs", 2, note=note)
