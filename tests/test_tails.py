"""Answers that the caller reads himself: passed on part by part, settled when they end, whatever their end is."""

from __future__ import annotations

import gc
import gzip
import json
import os
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import keyguard
from keyguard import telemetry
from keyguard.patches import _tail
from tests.support_libraries import HTTPX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

USD = 1_000_000  # micro-USD
URL = "https://api.stripe.com/v1/payment_intents"
FORM = {"amount": "100", "currency": "usd", "confirm": "true"}
INTENT = {
    "id": "pi_1", "object": "payment_intent", "amount": 100, "amount_received": 100, "amount_capturable": 0, "currency": "usd",
    "status": "succeeded", "latest_charge": "ch_1",
}  # fmt: skip
SETTLED, HELD, DOUBT, RELEASED = (USD, 0, 0), (0, USD, 0), (0, 0, USD), (0, 0, 0)
LIBRARIES = pytest.mark.parametrize("library", HTTPX.values(), ids=HTTPX)
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@dataclass
class Answer:
    """
    What a vendor in memory answers, part by part.

    Attributes:
        raised: Raised after the last part.
        given: How many parts were asked for until now.
    """

    parts: list[bytes] = field(default_factory=lambda: [json.dumps(INTENT).encode()[:40], json.dumps(INTENT).encode()[40:]])
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    raised: Exception | None = None
    given: int = 0
    closed: int = 0

    def client(self, library: Any = httpx) -> Any:
        """Return a blocking client whose every request gets it."""
        stream = type("Stream", (_Stream, library.SyncByteStream), {})(self)
        return library.Client(transport=library.MockTransport(lambda _: library.Response(self.status, headers=self.headers, stream=stream)))

    def aclient(self) -> httpx.AsyncClient:
        """Return an awaiting client whose every request gets it."""
        return httpx.AsyncClient(
            transport=httpx.MockTransport(lambda _: httpx.Response(self.status, headers=self.headers, stream=_AsyncStream(self)))
        )


class _Stream:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        for part in self._answer.parts:
            self._answer.given += 1
            yield part
        if self._answer.raised is not None:
            raise self._answer.raised

    def close(self) -> None:
        self._answer.closed += 1


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._answer.parts:
            self._answer.given += 1
            await anyio.lowlevel.checkpoint()
            yield part
        if self._answer.raised is not None:
            raise self._answer.raised

    async def aclose(self) -> None:
        self._answer.closed += 1


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[keyguard.Installation]:
    """A run with a ledger in a file."""
    with keyguard.run("run-1"):
        yield keyguard.install(f"sqlite:///{tmp_path}/ledger.db", run_usd_cap=10)
    keyguard.uninstall()


def counted(installed: keyguard.Installation) -> tuple[int, int, int]:
    """Return spent, held and doubt in micro-USD."""
    usage = installed.usage()
    return usage.spent, usage.held, usage.doubt


# -- read to the end ----------------------------------------------------------------------------------


@LIBRARIES
def test_each_part_is_the_callers_as_it_comes_and_the_end_settles(installed: keyguard.Installation, library: Any) -> None:
    """No part is asked for before the caller asks; until the last one the money is held."""
    answer, seen = Answer(), []
    with answer.client(library) as client, client.stream("POST", URL, data=FORM) as response:
        seen.append((answer.given, counted(installed)))
        for part in response.iter_bytes():
            seen.append((answer.given, counted(installed)))
            assert part == answer.parts[answer.given - 1]

    assert seen == [(0, HELD), (1, HELD), (2, HELD)]
    assert (counted(installed), answer.closed) == (SETTLED, 1)


@BACKENDS
def test_an_awaited_answer_settles_at_its_end(installed: keyguard.Installation, backend: str) -> None:
    """The same under asyncio and trio."""
    answer, seen = Answer(), []

    async def main() -> None:
        async with answer.aclient() as client, client.stream("POST", URL, data=FORM) as response:
            seen.append((answer.given, counted(installed)))
            async for _ in response.aiter_bytes():
                seen.append((answer.given, counted(installed)))

    anyio.run(main, backend=backend)

    assert seen == [(0, HELD), (1, HELD), (2, HELD)]
    assert (counted(installed), answer.closed) == (SETTLED, 1)


@LIBRARIES
def test_a_call_that_is_not_streamed_is_settled_when_it_returns(installed: keyguard.Installation, library: Any) -> None:
    """The client reads the answer itself; its object is the client's own, and can be read again."""
    with Answer().client(library) as client:
        response = client.post(URL, data=FORM)

    assert type(response) is library.Response
    assert response.json() == json.loads(response.content) == INTENT
    assert counted(installed) == SETTLED


def test_the_bytes_themselves_may_be_read(installed: keyguard.Installation) -> None:
    """Whoever iterates over the stream below the response, and never closes it, has read the answer as well."""
    answer = Answer()
    with answer.client() as client:
        response = client.send(client.build_request("POST", URL, data=FORM), stream=True)
        parts = list(response.stream)

    assert parts == answer.parts
    assert counted(installed) == SETTLED


def test_an_answer_that_was_read_and_not_to_its_end_is_known(installed: keyguard.Installation) -> None:
    """The caller stops after the part that says it all."""
    with Answer([json.dumps(INTENT).encode(), b"\n"]).client() as client, client.stream("POST", URL, data=FORM) as response:
        next(response.iter_bytes())

    assert counted(installed) == SETTLED


def test_another_thread_may_read_it_in_another_run(installed: keyguard.Installation) -> None:
    """The run that made the call pays, wherever and whenever its answer is read."""
    with Answer().client() as client:
        response = client.send(client.build_request("POST", URL, data=FORM), stream=True)
        with keyguard.run("run-2"):
            other = keyguard.install(run_usd_cap=5)
            thread = threading.Thread(target=response.read)
            thread.start()
            thread.join()

    assert counted(installed) == SETTLED
    assert counted(other) == RELEASED


def test_a_call_made_while_an_answer_is_open_reserves_for_itself(installed: keyguard.Installation) -> None:
    """A ticket covers one call: an open answer covers nothing."""
    with Answer().client() as client:
        first = client.send(client.build_request("POST", URL, data=FORM, headers={"Idempotency-Key": "k"}), stream=True)
        before = installed.usage().held
        second = client.send(client.build_request("POST", URL, data=FORM, headers={"Idempotency-Key": "k2"}), stream=True)
        between = installed.usage().held
        first.close()
        second.close()

    assert (before, between) == (USD, 2 * USD)


# -- other ends ---------------------------------------------------------------------------------------


@LIBRARIES
@pytest.mark.parametrize(("status", "expected"), [(200, DOUBT), (402, RELEASED), (500, DOUBT)])
def test_an_answer_closed_unread_tells_what_its_head_tells(
    installed: keyguard.Installation, library: Any, status: int, expected: tuple[int, int, int]
) -> None:
    """A decline is known by its status; what a success cost is not, and stays counted."""
    answer = Answer(status=status)
    with answer.client(library) as client, client.stream("POST", URL, data=FORM):
        pass

    assert (counted(installed), answer.given) == (expected, 0)


@LIBRARIES
def test_an_answer_cut_short_is_in_doubt_and_its_error_the_callers(installed: keyguard.Installation, library: Any) -> None:
    """The vendor executed the write, and nobody knows what it said."""
    answer = Answer(parts=[b'{"id": '], raised=library.ReadError("cut"))
    with answer.client(library) as client, pytest.raises(library.ReadError, match="cut"):
        client.post(URL, data=FORM)

    assert counted(installed) == DOUBT


@BACKENDS
def test_an_awaited_answer_that_is_cancelled_is_in_doubt(installed: keyguard.Installation, backend: str) -> None:
    """Cancelled between two parts: closed by the client, counted by the ledger."""
    answer = Answer()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with answer.aclient() as client, client.stream("POST", URL, data=FORM) as response:
                async for _ in response.aiter_bytes():
                    scope.cancel()

    anyio.run(main, backend=backend)

    assert (counted(installed), answer.given, answer.closed) == (DOUBT, 2, 1)


@pytest.mark.parametrize(("status", "expected"), [(200, DOUBT), (402, RELEASED)])
def test_an_answer_that_is_dropped_is_found(installed: keyguard.Installation, status: int, expected: tuple[int, int, int]) -> None:
    """Nobody closes it and nobody has it any more: the next look at the books closes its call."""
    with Answer(status=status).client() as client:
        response = client.send(client.build_request("POST", URL, data=FORM), stream=True)
        held = counted(installed)
        del response
        gc.collect()

    assert held == HELD
    assert counted(installed) == expected


def test_a_forked_child_leaves_its_parents_answer_alone(installed: keyguard.Installation) -> None:
    """A child that reads or drops the answer settles nothing; the parent's own end counts."""
    with Answer().client() as client:
        response = client.send(client.build_request("POST", URL, data=FORM), stream=True)
        child = os.fork()
        if not child:
            response.read()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        after_child = counted(installed)
        response.read()

    assert (status, after_child) == (0, HELD)
    assert counted(installed) == SETTLED


def test_an_answer_read_after_uninstall_is_settled(tmp_path: Path) -> None:
    """Disarming does not forget a call that is under way."""
    with keyguard.run("run-1"), Answer().client() as client:
        keyguard.install(f"sqlite:///{tmp_path}/ledger.db", run_usd_cap=10)
        response = client.send(client.build_request("POST", URL, data=FORM), stream=True)
        keyguard.uninstall()
        response.read()
        installed = keyguard.install(f"sqlite:///{tmp_path}/ledger.db", run_usd_cap=10)

        assert counted(installed) == SETTLED
    keyguard.uninstall()


# -- bodies -------------------------------------------------------------------------------------------


@LIBRARIES
def test_a_compressed_answer_is_read_as_the_caller_reads_it(installed: keyguard.Installation, library: Any) -> None:
    """The parts are passed on compressed, the client undoes it, and so does the guard."""
    packed = gzip.compress(json.dumps(INTENT).encode())
    answer = Answer([packed[:30], packed[30:]], headers={"content-type": "application/json", "content-encoding": "gzip"})
    with answer.client(library) as client:
        response = client.post(URL, data=FORM)

    assert response.json() == INTENT
    assert counted(installed) == SETTLED


def test_an_answer_that_cannot_be_unpacked_is_in_doubt(installed: keyguard.Installation) -> None:
    """The client's error is the caller's."""
    answer = Answer([b"no gzip"], headers={"content-type": "application/json", "content-encoding": "gzip"})
    with answer.client() as client, pytest.raises(httpx.DecodingError):
        client.post(URL, data=FORM)

    assert counted(installed) == DOUBT


def test_what_is_kept_of_an_answer_is_bounded(installed: keyguard.Installation) -> None:
    """A body longer than any that says what a call cost is passed on whole, and its cost is in doubt."""
    parts = [json.dumps(INTENT).encode()[:-1], b" " * _tail._LONGEST, b"}"]
    with Answer(parts).client() as client:
        response = client.post(URL, data=FORM)

    assert response.json() == INTENT
    assert counted(installed) == DOUBT


@pytest.mark.parametrize("said", [{"content-type": "text/html; charset=utf-8"}, {}])
def test_an_answer_of_a_priced_call_is_read_whatever_it_is_called(installed: keyguard.Installation, said: dict[str, str]) -> None:
    """A vendor's replay may call its JSON text: what it says the call cost counts all the same."""
    with Answer(headers=said).client() as client:
        client.post(URL, data=FORM).json()

    assert counted(installed) == SETTLED


def test_a_download_is_no_ones_business(installed: keyguard.Installation) -> None:
    """What is no JSON says nothing about money: the call is closed when its head is there, and its stream is the client's own."""
    answer = Answer(headers={"content-type": "application/pdf"})
    with answer.client() as client, client.stream("GET", "https://api.stripe.com/v1/quotes/qt_1/pdf") as response:
        stream = type(response.stream)

        assert counted(installed) == RELEASED
    assert stream.__module__ == "httpx._client"
    assert installed.usage().calls == 1


def test_what_a_raw_read_says_of_an_intent_is_learned(installed: keyguard.Installation) -> None:
    """A PaymentIntent that a raw read shows as canceled frees what was held for it, as the SDK's read does."""
    opened = {**INTENT, "status": "requires_confirmation", "amount_received": 0, "latest_charge": None}
    with Answer([json.dumps(opened).encode()]).client() as client:
        client.post(URL, data={"amount": "100", "currency": "usd"})
    before = counted(installed)
    with Answer([json.dumps({**opened, "status": "canceled"}).encode()]).client() as client:
        client.get(f"{URL}/pi_1")

    assert (before, counted(installed)) == (HELD, RELEASED)


# -- spans --------------------------------------------------------------------------------------------


def test_the_span_ends_with_the_answer(installed: keyguard.Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the cost, which was not known before, and it is no longer the caller's current one meanwhile."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))
    with Answer().client() as client:
        response = client.send(client.build_request("POST", URL, data=FORM), stream=True)
        early, current = exporter.get_finished_spans(), trace.get_current_span()
        response.read()
    (span,) = exporter.get_finished_spans()

    assert (early, current) == ((), trace.INVALID_SPAN)
    assert span.attributes is not None
    assert (span.attributes[telemetry.OUTCOME], span.attributes[telemetry.COST_AMOUNT]) == ("settled", 1.0)
    assert counted(installed) == SETTLED


def test_the_books_are_true_after_all_of_it(installed: keyguard.Installation) -> None:
    """The log alone reproduces what many answers, each with its own end, have left."""
    for status in (200, 402, 500):
        with Answer(status=status).client() as client:
            client.post(URL, data=FORM)
            with client.stream("POST", URL, data=FORM):
                pass
    module: Any = sys.modules["keyguard.install"]
    ledger = next(iter(module._armed.backends.values())).ledger

    assert counted(installed) == (USD, 0, 3 * USD)
    assert ledger.verify() == []
