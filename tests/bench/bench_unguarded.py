"""What keyguard adds to a request to a host that nobody guards: what every other request of the process pays, by client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import requests
from requests.adapters import BaseAdapter

import keyguard
from tests.bench.measure import Row, added, in_turns, medians, repeated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.bench.measure import Case

_URL = "https://example.com/x"
# As long as most keys are.
_HEADERS = {"authorization": "Bearer sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"}


_WARMING = 70


class _Response:
    """What aiohttp's session asks of an answer."""

    status, connection, _raw_cookie_headers = 200, None, ()

    async def start(self, _connection: Any) -> None:
        """Nothing is read."""


class _Request(aiohttp.ClientRequest):
    """Answers in place of the wire, below aiohttp's session and its connector."""

    async def send(self, _connection: Any) -> Any:
        """Answer."""
        return _Response()


class _Connector(aiohttp.TCPConnector):
    """Has a connection at once."""

    async def _get(self, *_: Any) -> Any:
        return SimpleNamespace(protocol=SimpleNamespace(set_response_params=_nothing))


def _nothing(**_: Any) -> None:
    """Take what a connection is told."""


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
    """Measure each client's seams: not in place, in place, and in their place wrappers that only call."""
    rounds, calls = (150, 40) if short else (600, 40)
    rows = [measure(rounds, calls) for measure in (_httpx, _httpx_awaited, _requests, _aiohttp)]
    keyguard.uninstall()
    return rows


def _httpx(rounds: int, calls: int) -> Row:
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        request = client.build_request("GET", _URL, headers=_HEADERS)
        return _row("httpx", httpx.Client, "_send_single_request", repeated(lambda: client.send(request)), rounds, calls)


def _httpx_awaited(rounds: int, calls: int) -> Row:
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    request = client.build_request("GET", _URL, headers=_HEADERS)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        case = _awaited(loop, lambda: client.send(request))
        row = _row("awaited httpx", httpx.AsyncClient, "_send_single_request", case, rounds, calls)
        loop.run_until_complete(client.aclose())
    return row


def _requests(rounds: int, calls: int) -> Row:
    with requests.Session() as session:
        # Else nine tenths of its time are the look for proxies in the environment, which takes as long as that has variables.
        session.trust_env = False
        session.mount("https://", _Adapter())
        request = session.prepare_request(requests.Request("GET", _URL, headers=_HEADERS))
        return _row("requests", requests.Session, "send", repeated(lambda: session.send(request)), rounds, calls)


def _aiohttp(rounds: int, calls: int) -> Row:
    async def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=_Connector(), request_class=_Request, headers=_HEADERS)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        session = loop.run_until_complete(open_session())
        row = _row("aiohttp", aiohttp.BaseConnector, "connect", _awaited(loop, lambda: session.get(_URL)), rounds, calls)
        loop.run_until_complete(session.close())
    return row


def _awaited(loop: asyncio.AbstractEventLoop, call: Callable[[], Awaitable[object]]) -> Case:
    async def send(calls: int) -> None:
        for _ in range(calls):
            await call()

    return lambda calls: lambda: loop.run_until_complete(send(calls))


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
            # And it is let do so before.
            setattr(owner, name, method)
            case(_WARMING)()
            return case(calls)

        return prepare

    cases = {"bare": bare, "armed": armed, "empty": _empty(bare)}
    times = in_turns({word: prepared(method) for word, method in cases.items()}, rounds, calls, time.thread_time)
    setattr(owner, name, armed)
    middle, least = medians(times), added(times, "empty", "bare")
    note = f"{middle['bare']:.1f} → {middle['armed']:.1f} µs; a wrapper that only calls: {least:.1f}"
    return Row(f"{client} to a host nobody guards, added", added(times, "armed", "bare"), "µs", 2, note=note)


def _empty(method: Any) -> Any:
    """Wrap a method in what no wrapper can do without; an awaited one's gives on what its method returns."""

    def calling(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return method(instance, *args, **kwargs)

    return calling
