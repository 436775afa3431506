"""Streams of events from a generic vendor, in every client: passed on as they come, settled by the first and the last of them."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import requests

from keyguard import vendors
from keyguard.patches import _tail
from tests.support_acme import acme
from tests.support_json_server import Answer, JsonServer
from tests.support_libraries import HTTPX

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Call, Reply

MICROS_A_TOKEN = 1


def _httpx(library: Any) -> Callable[[str], bytes]:
    def read(url: str) -> bytes:
        with library.Client() as client, client.stream("POST", url) as response:
            return b"".join(response.iter_bytes(70_000))

    return read


def _ahttpx(library: Any) -> Callable[[str], bytes]:
    async def main(url: str) -> bytes:
        async with library.AsyncClient() as client, client.stream("POST", url) as response:
            return b"".join([part async for part in response.aiter_bytes()])

    return lambda url: asyncio.run(main(url))


def _requests(url: str) -> bytes:
    with requests.post(url, stream=True, timeout=30) as response:
        return b"".join(response.iter_content(70_000))


def _aiohttp(url: str) -> bytes:
    async def main() -> bytes:
        async with aiohttp.ClientSession() as session, session.post(url) as response:
            return b"".join([part async for part in response.content.iter_any()])

    return asyncio.run(main())


CLIENTS: dict[str, Callable[[str], bytes]] = {
    **{name: _httpx(library) for name, library in HTTPX.items()},
    **{f"async {name}": _ahttpx(library) for name, library in HTTPX.items()},
    "requests": _requests,
    "aiohttp": _aiohttp,
}


def tokens(_call: Call, reply: Reply) -> float | None:
    """The first event says the input, the last one the output; without the last nothing is known."""
    said = vendors.documents(reply)
    if not said or "output" not in said[-1]:
        return None
    found: float = (said[0]["input"] + said[-1]["output"]) * MICROS_A_TOKEN / 1e6
    return found


def _events(filling: int) -> bytes:
    words = [{"word": "x" * 200, "n": n} for n in range(filling)]
    return b"".join(f"data: {json.dumps(one)}\n\n".encode() for one in ({"input": 7}, *words, {"output": 40}))


@pytest.mark.parametrize("read", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("size", [0, 4, 40], ids=["short", "near the limit", "far beyond it"])
def test_a_stream_of_any_length_is_settled_by_its_ends(read: Callable[[str], bytes], size: int) -> None:
    """Every byte is the caller's; of a long one its two ends were kept, up to the part that passes the limit; the cost is right."""
    body = _events(size * _tail._LONGEST // 1000)
    kept: list[int] = []

    def cost(call: Call, reply: Reply) -> float | None:
        kept.append(len(reply.body or b""))
        return tokens(call, reply)

    with JsonServer(lambda _: Answer(200, body, {"Content-Type": "text/event-stream"})) as server, acme(server, cost=cost) as installed:
        assert read(f"{server.url}/v1/jobs") == body
        usage = installed.usage()

    assert (usage.spent, usage.held, usage.doubt) == (47 * MICROS_A_TOKEN, 0, 0)
    # A part is as long as the client likes to read: a quarter of the limit, with aiohttp.
    assert max(kept) <= 3 * _tail._LONGEST


@pytest.mark.parametrize("read", CLIENTS.values(), ids=CLIENTS)
def test_a_packed_stream_is_read_too(read: Callable[[str], bytes]) -> None:
    """As long as it can be kept whole where its bytes come packed."""
    packed = gzip.compress(_events(100))
    head = {"Content-Type": "text/event-stream; charset=utf-8", "Content-Encoding": "gzip"}
    with JsonServer(lambda _: Answer(200, packed, head)) as server, acme(server, cost=tokens) as installed:
        assert read(f"{server.url}/v1/jobs") == _events(100)
        usage = installed.usage()

    assert (usage.spent, usage.held, usage.doubt) == (47 * MICROS_A_TOKEN, 0, 0)


@pytest.mark.parametrize("read", CLIENTS.values(), ids=CLIENTS)
def test_json_that_is_too_long_settles_at_what_was_held(read: Callable[[str], bytes]) -> None:
    """Its ends alone are no JSON."""
    body = json.dumps({"input": 7, "output": 40, "filling": "x" * 2 * _tail._LONGEST}).encode()
    with JsonServer(lambda _: Answer(200, body)) as server, acme(server, cost=tokens) as installed:
        assert read(f"{server.url}/v1/jobs") == body
        usage = installed.usage()

    assert (usage.spent, usage.held, usage.doubt) == (1_000_000, 0, 0)
