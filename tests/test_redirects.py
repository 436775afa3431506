"""Random chains of redirects, with and without keyguard, to guarded hosts and to hosts of nobody's: the clients see and do the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

import keyguard
from tests.support_json_server import Answer, JsonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FORM = {"amount": "100", "currency": "usd"}
_KEPT = ("authorization", "cookie", "content-type", "content-length", "x-mine", "transfer-encoding")


@dataclass(frozen=True)
class Hop:
    """One answer; `to` is where it sends the client: a path, or a path at the other host, or what is no place at all."""

    status: int
    to: str
    is_other: bool
    cookie: str


@dataclass(frozen=True)
class Chain:
    """A first request and the answers that it and its followers get."""

    method: str
    body: str
    hops: tuple[Hop, ...]
    follows: bool
    most: int


_PLACES = st.sampled_from([
    "/v1/a", "/v1/b?x=1", "/v1/c#part", "v1/relative", "?only=query", "//HOST/v1/d", "http://user:pw@HOST/v1/e", "/v1/ü b", "http://[broken",
    "mailto:me@example.com", "http:///nohost", "",
])  # fmt: skip
_HOPS = st.builds(
    Hop,
    st.sampled_from([301, 302, 303, 307, 308, 304, 200, 404]),
    _PLACES,
    st.booleans(),
    st.sampled_from(["", "a=1; Path=/", "b=2"]),
)
_CHAINS = st.builds(
    Chain,
    st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT"]),
    st.sampled_from(["", "form", "json", "bytes"]),
    st.lists(_HOPS, max_size=5).map(tuple),
    st.booleans(),
    st.sampled_from([1, 3, 10]),
)


class Two:
    """Two servers, whose answers to come are told as a chain."""

    def __init__(self) -> None:
        self._left: list[Hop] = []
        self.servers = [JsonServer(self._answer), JsonServer(self._answer)]

    def tell(self, chain: Chain) -> None:
        """Forget what arrived, and answer as the chain says."""
        self._left = list(chain.hops)
        for server in self.servers:
            server.requests.clear()

    def arrived(self) -> list[Any]:
        """Return what each server got, in its order."""
        return [
            [(one.method, one.path, [one.headers.get(name) for name in _KEPT], one.document) for one in server.requests]
            for server in self.servers
        ]

    def _answer(self, _: Any) -> Answer:
        if not self._left:
            return Answer(200, {"object": "list"})
        hop = self._left.pop(0)
        host = self.servers[hop.is_other].host
        place = (
            hop.to.replace("HOST", host) if "HOST" in hop.to else f"http://{host}{hop.to}" if hop.is_other and hop.to[:1] == "/" else hop.to
        )
        headers = {"Set-Cookie": hop.cookie} if hop.cookie else {}
        return Answer(hop.status, b"" if hop.status == 304 else {"n": hop.status}, {**headers, **({"Location": place} if hop.to else {})})


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    """Both of them, for all examples."""
    found = Two()
    with found.servers[0], found.servers[1]:
        yield found


def _body(chain: Chain) -> dict[str, Any]:
    bodies: dict[str, dict[str, Any]] = {"": {}, "form": {"data": _FORM}, "json": {"json": {"a": 1}}, "bytes": {"data": b"raw"}}
    return bodies[chain.body]


def _with_requests(chain: Chain, url: str) -> Any:
    with requests.Session() as session:
        session.max_redirects = chain.most
        headers = {"Authorization": "Bearer mine", "X-Mine": "1"}
        found = session.request(chain.method, url, headers=headers, allow_redirects=chain.follows, **_body(chain))
        following = found.next
        return (
            found.status_code, found.url, found.content, [(one.status_code, one.url, one.content) for one in found.history],
            following and (following.method, following.url, following.body, sorted(following.headers)), sorted(session.cookies.items()),
        )  # fmt: skip


async def _aiohttp(chain: Chain, url: str) -> Any:
    traced: list[str] = []
    config: Any = aiohttp.TraceConfig()
    for name in ("request_start", "request_end", "request_redirect", "request_exception"):

        async def note(*_: Any, name: str = name) -> None:
            traced.append(name)

        getattr(config, f"on_{name}").append(note)
    jar = aiohttp.CookieJar(unsafe=True)
    try:
        async with aiohttp.ClientSession(cookie_jar=jar, trace_configs=[config], headers={"X-Mine": "1"}) as session:
            options: Any = {"allow_redirects": chain.follows, "max_redirects": chain.most, **_body(chain)}
            async with session.request(chain.method, url, headers={"Authorization": "Bearer mine"}, **options) as found:
                said = [found.status, str(found.url), str(found.real_url), await found.read(), found.method]
                history = [(one.status, str(one.url), one.method) for one in found.history]
                return said, history, sorted((cookie.key, cookie.value) for cookie in jar), traced
    except Exception as error:
        error.args = (*error.args, traced)
        raise


CLIENTS: dict[str, Callable[[Chain, str], Any]] = {
    "requests": _with_requests,
    "aiohttp": lambda chain, url: asyncio.run(_aiohttp(chain, url)),
}


def _tried(two: Two, client: str, chain: Chain) -> Any:
    """Return all that can be seen of a call: the answer or the error, and what arrived where."""
    two.tell(chain)
    try:
        found: Any = CLIENTS[client](chain, f"{two.servers[0].url}/v1/start")
    except Exception as error:
        history = getattr(error, "history", None) or ()
        found = (type(error), str(error.args[0])[:40] if error.args and isinstance(error.args[0], str) else "", len(history))
    return found, two.arrived()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("guarded", [(), (0,), (1,), (0, 1)], ids=["nobody", "the first", "the other", "both"])
def test_a_client_does_and_sees_the_same_with_keyguard(
    two: Two, client: str, guarded: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Final URL, method, body, headers, cookies, history, `next`, traces and errors; what arrives at either host, in its order."""
    listed = ",".join(f"stripe={two.servers[number].host}" for number in guarded)
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", listed or "stripe=nowhere.invalid")

    @settings(max_examples=30)
    @given(_CHAINS)
    def compare(chain: Chain) -> None:
        keyguard.uninstall()
        bare = _tried(two, client, chain)
        with keyguard.run("run-1"):
            # Of these paths keyguard knows none; it is to let them all pass.
            installed = keyguard.install("sqlite://", unpriced="allow", run_usd_cap=1_000_000)
            armed = _tried(two, client, chain)
            usage = installed.usage()

        assert armed == bare
        assert (usage.held, usage.doubt) == (0, 0)

    compare()
