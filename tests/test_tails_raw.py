"""Answers of requests and aiohttp that the caller reads himself, in every way there is: settled at the end, whatever the way."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import requests

import keyguard
from tests.doors.vendors import STRIPE
from tests.support_json_server import Answer, JsonServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

USD = 1_000_000  # micro-USD
FORM = {"amount": "100", "currency": "usd", "confirm": "true"}
BODY = json.dumps(STRIPE.answer(1), indent=1).encode()
SETTLED, HELD, DOUBT, RELEASED = (USD, 0, 0), (0, USD, 0), (0, 0, USD), (0, 0, 0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """A loopback Stripe that answers every call with the same intent, in several lines."""
    with JsonServer(lambda _: Answer(200, BODY)) as found:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={found.host}")
        yield found


@pytest.fixture
def installed(server: JsonServer) -> Iterator[keyguard.Installation]:
    """A run's guard."""
    with keyguard.run("run-1"):
        yield keyguard.install(run_usd_cap=10)


def counted(installed: keyguard.Installation) -> tuple[int, int, int]:
    """Return spent, held and doubt in micro-USD."""
    usage = installed.usage()
    return usage.spent, usage.held, usage.doubt


# -- requests ----------------------------------------------------------------------------------------


def _buffered(response: Any) -> bytes:
    buffer, parts = bytearray(10), []
    while size := response.raw.readinto(buffer):
        parts.append(bytes(buffer[:size]))
    return b"".join(parts)


def _copied(response: Any) -> bytes:
    shutil.copyfileobj(response.raw, into := io.BytesIO(), 10)
    return into.getvalue()


def _within(response: Any) -> bytes:
    with response.raw as raw:
        found: bytes = raw.read()
    return found


READS: dict[str, Callable[[Any], bytes]] = {
    "content": lambda response: response.content,
    "text": lambda response: response.text.encode(),
    "json": lambda response: BODY if response.json() == STRIPE.answer(1) else b"",
    "iter_content": lambda response: b"".join(response.iter_content(7)),
    "iter_content, as it comes": lambda response: b"".join(response.iter_content(None)),
    "iter_lines": lambda response: b"\n".join(response.iter_lines()),
    "iteration": lambda response: b"".join(response),
    "raw.read": lambda response: response.raw.read(),
    "raw.read, in parts": lambda response: b"".join(iter(lambda: response.raw.read(10), b"")),
    "raw.read1": lambda response: b"".join(iter(lambda: response.raw.read1(10), b"")),
    "raw.readinto": _buffered,
    "raw.readline": lambda response: b"".join(iter(response.raw.readline, b"")),
    "raw.readlines": lambda response: b"".join(response.raw.readlines()),
    "raw.stream": lambda response: b"".join(response.raw.stream(10)),
    "raw, line by line": lambda response: b"".join(response.raw).removesuffix(b"\n"),
    "raw.data": lambda response: response.raw.data,
    "copyfileobj": _copied,
    "with raw": _within,
}


def _asked(url: str, session: requests.Session) -> requests.Response:
    return session.post(f"{url}/v1/payment_intents", data=FORM, headers={"Authorization": "Bearer sk_test_1"}, stream=True)


@pytest.mark.parametrize("way", READS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_an_answer_of_requests_is_settled_when_it_was_read(
    installed: keyguard.Installation, server: JsonServer, way: str, packed: bool
) -> None:
    """Held until then; the caller gets every byte. What is taken packed from below the response cannot be read, and is in doubt."""
    if packed:
        server.scripted = [Answer(200, gzip.compress(BODY), {"Content-Encoding": "gzip"})]
    with requests.Session() as session:
        response = _asked(server.url, session)
        before = counted(installed)
        found = READS[way](response)
        response.close()
    is_unpacked = not packed or "raw" not in way or way in {"raw, line by line", "raw.readlines"}

    assert (gzip.decompress(found) if found[:2] == b"\x1f\x8b" else found).strip() == BODY
    assert (before, counted(installed)) == (HELD, SETTLED if is_unpacked and "copy" not in way else DOUBT if packed else SETTLED)


LEAVES: dict[str, Callable[[Any], Any]] = {
    "closed": lambda response: response.close(),
    "closed below": lambda response: response.raw.close(),
    "let go": lambda response: response.raw.release_conn(),
    "after a part": lambda response: (next(response.iter_content(10)), response.close()),
    "dropped": lambda _: None,
}


@pytest.mark.parametrize("way", LEAVES)
@pytest.mark.parametrize(("status", "expected"), [(200, DOUBT), (402, RELEASED), (500, DOUBT)])
def test_an_answer_of_requests_that_is_left_unread_ends_by_its_head(
    installed: keyguard.Installation, server: JsonServer, way: str, status: int, expected: tuple[int, int, int]
) -> None:
    """Closed, let go after a part, or dropped: what a status alone says is known; what only the body says is in doubt."""
    server.scripted = [Answer(status, BODY if status == 200 else {"error": {"type": "card_error"}})]
    with requests.Session() as session:
        response = _asked(server.url, session)
        before = counted(installed)
        LEAVES[way](response)
        del response
        gc.collect()

    # No body of a failure says what it cost: its head has closed the call.
    assert (before, counted(installed)) == (DOUBT if status == 500 else HELD, expected)


def test_an_answer_of_requests_that_breaks_is_in_doubt_while_it_is_in_hand(installed: keyguard.Installation, server: JsonServer) -> None:
    """Its end was not the caller's doing; nobody waits until he lets it go."""
    server.scripted = [Answer(200, BODY[:40], {"Content-Length": str(len(BODY))})]
    with requests.Session() as session:
        response = _asked(server.url, session)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            _ = response.content

        assert counted(installed) == DOUBT


def test_a_forked_child_leaves_its_parents_answer_alone(installed: keyguard.Installation, server: JsonServer) -> None:
    """A child that reads or drops the answer settles nothing; the parent's own end counts."""
    with requests.Session() as session:
        response = _asked(server.url, session)
        child = os.fork()
        if not child:
            response.close()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        after_child = counted(installed)
        _ = response.content

    assert (status, after_child, counted(installed)) == (0, HELD, SETTLED)


# -- aiohttp -----------------------------------------------------------------------------------------


async def _parts(read: Callable[[], Awaitable[bytes]]) -> bytes:
    parts = []
    while part := await read():
        parts.append(part)
    return b"".join(parts)


async def _joined(parts: Any) -> bytes:
    return b"".join([part if isinstance(part, bytes) else part[0] async for part in parts])


async def _at_once(content: Any) -> bytes:
    await content.wait_eof()
    found: bytes = content.read_nowait()
    return found


async def _exactly(content: Any) -> bytes:
    return bytes(await content.readexactly(10)) + bytes(await content.readexactly(len(BODY) - 10))


AREADS: dict[str, Callable[[Any], Awaitable[bytes]]] = {
    "read": lambda response: response.read(),
    "content.read": lambda response: response.content.read(),
    "content.read, in parts": lambda response: _parts(lambda: response.content.read(10)),
    "readany": lambda response: _parts(response.content.readany),
    "readline": lambda response: _parts(response.content.readline),
    "readuntil": lambda response: _parts(lambda: response.content.readuntil(b"\n")),
    "readchunk": lambda response: _joined(response.content.iter_chunks()),
    "readexactly": lambda response: _exactly(response.content),
    "read_nowait": lambda response: _at_once(response.content),
    "iteration": lambda response: _joined(response.content),
    "iter_chunked": lambda response: _joined(response.content.iter_chunked(10)),
    "iter_any": lambda response: _joined(response.content.iter_any()),
}


def _with_aiohttp(url: str, use: Callable[[aiohttp.ClientSession, aiohttp.ClientResponse], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with aiohttp.ClientSession() as session:
            response = await session.post(f"{url}/v1/payment_intents", data=FORM, headers={"Authorization": "Bearer sk_test_1"})
            return await use(session, response)

    return asyncio.run(main())


@pytest.mark.parametrize("way", AREADS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_an_answer_of_aiohttp_is_settled_when_it_was_read(
    installed: keyguard.Installation, server: JsonServer, way: str, packed: bool
) -> None:
    """Held until then; the caller gets every byte; aiohttp unpacks before anybody reads."""
    if packed:
        server.scripted = [Answer(200, gzip.compress(BODY), {"Content-Encoding": "gzip"})]

    async def use(_session: Any, response: aiohttp.ClientResponse) -> tuple[Any, bytes, Any]:
        before = counted(installed)
        found = await AREADS[way](response)
        return before, found, counted(installed)

    assert _with_aiohttp(server.url, use) == (HELD, BODY, SETTLED)


@pytest.mark.parametrize("way", ["json", "text"])
def test_a_decoded_answer_of_aiohttp_can_be_read_twice(installed: keyguard.Installation, server: JsonServer, way: str) -> None:
    """What was read is kept by the response, as ever."""

    async def use(_session: Any, response: Any) -> list[Any]:
        return [await getattr(response, way)(), await getattr(response, way)()]

    first, second = _with_aiohttp(server.url, use)

    assert first == second
    assert counted(installed) == SETTLED


async def _after_a_part(response: aiohttp.ClientResponse) -> None:
    await response.content.read(10)
    response.release()


async def _within_block(response: aiohttp.ClientResponse) -> None:
    async with response:
        pass


async def _released(response: aiohttp.ClientResponse) -> None:
    response.release()


async def _closed(response: aiohttp.ClientResponse) -> None:
    response.close()


@pytest.mark.parametrize("leave", [_after_a_part, _within_block, _released, _closed])
@pytest.mark.parametrize(("status", "expected"), [(200, DOUBT), (402, RELEASED), (500, DOUBT)])
def test_an_answer_of_aiohttp_that_is_left_unread_ends_by_its_head(
    installed: keyguard.Installation, server: JsonServer, leave: Any, status: int, expected: tuple[int, int, int]
) -> None:
    """Closed, released, or left after a part: what a status alone says is known; what only the body says is in doubt."""
    server.scripted = [Answer(status, BODY if status == 200 else {"error": {"type": "card_error"}})]

    async def use(_session: Any, response: aiohttp.ClientResponse) -> tuple[Any, Any]:
        before = counted(installed)
        await leave(response)
        return before, counted(installed)

    # No body of a failure says what it cost: its head has closed the call.
    assert _with_aiohttp(server.url, use) == (DOUBT if status == 500 else HELD, expected)


@pytest.mark.filterwarnings("ignore:Unclosed response:ResourceWarning")
def test_an_answer_of_aiohttp_that_is_dropped_is_found(installed: keyguard.Installation, server: JsonServer) -> None:
    """aiohttp complains, as ever; what was held is in doubt."""

    async def main() -> tuple[Any, Any]:
        async with aiohttp.ClientSession() as session:
            response: Any = await session.post(f"{server.url}/v1/payment_intents", data=FORM)
            # Until it has come, aiohttp's own connection keeps it.
            await response.content.wait_eof()
            before = counted(installed)
            del response
            gc.collect()
            return before, counted(installed)

    assert asyncio.run(main()) == (HELD, DOUBT)


def test_an_answer_of_aiohttp_that_breaks_is_in_doubt_while_it_is_in_hand(installed: keyguard.Installation, server: JsonServer) -> None:
    """Also below the response, where nobody closes it."""
    server.scripted = [Answer(200, BODY[:40], {"Content-Length": str(len(BODY))})]

    async def use(_session: Any, response: aiohttp.ClientResponse) -> tuple[int, int, int]:
        with pytest.raises(aiohttp.ClientPayloadError):
            await _joined(response.content.iter_any())
        found = counted(installed)
        response.close()
        return found

    assert _with_aiohttp(server.url, use) == DOUBT
