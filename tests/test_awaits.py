"""Something happens at every await of an async guarded call, to every async client: no hold leaks, no doubt is freed. Prints a table."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import anyio.lowlevel
import httpx
import pytest
import stripe

import keyguard
from tests.support_awaits import Abandoned, Struck
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = [
    # Stripe's client hands its body to httpx in the old way.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    # What httpx leaves of a cancelled request under trio, guarded or not.
    pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning"),
    # What Stripe's aiohttp client leaves when it is cancelled between the head of an answer and its body.
    pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning"),
    # What anyio leaves of a connection that it had not begun to make when the loop ended.
    pytest.mark.filterwarnings("ignore:coroutine 'connect_tcp:RuntimeWarning"),
]

USD = 1_000_000  # micro-USD
_ROOT = Path(__file__).parents[1]
_FORM = {"amount": "100", "currency": "usd", "confirm": "true"}


class Vendor(httpx.AsyncBaseTransport):
    """A vendor in memory: others may run before it executes, before it answers, and between the parts of its answer."""

    def __init__(self) -> None:
        self.executed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Execute one charge."""
        await anyio.lowlevel.checkpoint()
        self.executed += 1
        await anyio.lowlevel.checkpoint()
        return httpx.Response(200, stream=Parts(self.executed), headers={"content-type": "application/json"})


class Parts(httpx.AsyncByteStream):
    """An answer in two parts."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield them."""
        intent = {
            "id": f"pi_{self._number}", "object": "payment_intent", "amount": 100, "amount_received": 100, "amount_capturable": 0,
            "currency": "usd", "status": "succeeded", "latest_charge": f"ch_{self._number}",
        }  # fmt: skip
        body = json.dumps(intent).encode()
        await anyio.lowlevel.checkpoint()
        yield body[:20]
        await anyio.lowlevel.checkpoint()
        yield body[20:]


# -- clients: each makes one guarded call -------------------------------------------------------------


async def _in_memory(server: StripeServer, struck: Callable[[Any], Any]) -> None:
    vendor = Vendor()
    try:
        async with httpx.AsyncClient(transport=vendor) as client:
            await struck(client.post("https://api.stripe.com/v1/payment_intents", data=_FORM))
    finally:
        server.charges += [{"amount": "100"}] * vendor.executed


async def _streamed(server: StripeServer, struck: Callable[[Any], Any]) -> None:
    async def read(client: httpx.AsyncClient) -> bytes:
        async with client.stream("POST", f"{server.url}/v1/payment_intents", data=_FORM) as response:
            return b"".join([part async for part in response.aiter_bytes(64)])

    async with httpx.AsyncClient() as client:
        await struck(read(client))


async def _on_a_socket(server: StripeServer, struck: Callable[[Any], Any]) -> None:
    async with httpx.AsyncClient() as client:
        await struck(client.post(f"{server.url}/v1/payment_intents", data=_FORM))


async def _stripe_over_httpx(server: StripeServer, struck: Callable[[Any], Any]) -> None:
    await _stripe(server, struck, stripe.HTTPXClient())


async def _stripe_over_aiohttp(server: StripeServer, struck: Callable[[Any], Any]) -> None:
    await _stripe(server, struck, stripe.AIOHTTPClient())


async def _aiohttp(server: StripeServer, struck: Callable[[Any], Any]) -> None:
    async def read(session: aiohttp.ClientSession) -> bytes:
        async with session.post(f"{server.url}/v1/payment_intents", data=_FORM) as response:
            return await response.read()

    async with aiohttp.ClientSession() as session:
        await struck(read(session))


async def _aiohttp_streamed(server: StripeServer, struck: Callable[[Any], Any]) -> None:
    async def read(session: aiohttp.ClientSession) -> bytes:
        async with session.post(f"{server.url}/v1/payment_intents", data=_FORM) as response:
            return b"".join([part async for part in response.content.iter_chunked(64)])

    async with aiohttp.ClientSession() as session:
        await struck(read(session))


async def _stripe(server: StripeServer, struck: Callable[[Any], Any], http: Any) -> None:
    client = stripe.StripeClient("sk_test_12345", base_addresses={"api": server.url}, http_client=http, max_network_retries=0)
    params: Any = {"amount": 100, "currency": "usd", "confirm": True}
    try:
        await struck(client.v1.payment_intents.create_async(params))
    finally:
        with anyio.CancelScope(shield=True):
            await http.close_async()


CLIENTS: dict[str, Callable[[StripeServer, Callable[[Any], Any]], Any]] = {
    "in memory": _in_memory, "socket": _on_a_socket, "streamed": _streamed, "stripe, httpx": _stripe_over_httpx,
    "stripe, aiohttp": _stripe_over_aiohttp, "aiohttp": _aiohttp, "aiohttp, streamed": _aiohttp_streamed,
}  # fmt: skip

# -- ways: what happens at the n-th await -------------------------------------------------------------


async def _scope(call: Callable[[Callable[[Any], Any]], Any], at: int, *, is_timeout: bool = False, again: bool = False) -> Struck:
    """Cancel by a scope, by hand or because its deadline has come."""
    found: list[Struck] = []
    with anyio.CancelScope() as scope:

        async def struck(awaited: Any) -> None:
            found.append(Struck(awaited, at, again=again))
            found[0].strike = (lambda: setattr(scope, "deadline", anyio.current_time() - 1)) if is_timeout else scope.cancel
            await found[0]

        await call(struck)
    return found[0]


async def _cancel(call: Callable[[Callable[[Any], Any]], Any], at: int, *, again: bool = False) -> Struck:
    """Cancel asyncio's task itself, as `asyncio.timeout`, `wait_for`, task groups and Ctrl-C do."""
    found: list[Struck] = []

    async def struck(awaited: Any) -> None:
        found.append(Struck(awaited, at, again=again))
        found[0].strike = task.cancel
        await found[0]

    task = asyncio.ensure_future(call(struck))
    await asyncio.wait([task])
    if not task.cancelled():
        await task
    return found[0]


async def _abandon(call: Callable[[Callable[[Any], Any]], Any], at: int) -> Struck:
    """Close the coroutine, and go on."""
    found: list[Struck] = []

    async def struck(awaited: Any) -> None:
        found.append(Struck(awaited, at))
        await found[0]

    with contextlib.suppress(Abandoned):
        await call(struck)
    return found[0]


async def _loop_ends(call: Callable[[Callable[[Any], Any]], Any], at: int) -> Struck:
    """Return from the main coroutine: asyncio cancels what is left over, and ends."""
    found: list[Struck] = []
    is_struck = asyncio.Event()

    async def struck(awaited: Any) -> None:
        found.append(Struck(awaited, at))
        found[0].strike = is_struck.set
        await found[0]

    # Kept alive by what is returned: a task that is collected is closed, and closing is a way of its own.
    call_task, strike_task = asyncio.ensure_future(call(struck)), asyncio.ensure_future(is_struck.wait())
    await asyncio.wait([call_task, strike_task], return_when=asyncio.FIRST_COMPLETED)
    return found[0]


WAYS: dict[str, tuple[tuple[str, ...], Any]] = {
    "scope": (("asyncio", "trio"), _scope),
    "timeout": (("asyncio", "trio"), lambda call, at: _scope(call, at, is_timeout=True)),
    "task": (("asyncio",), _cancel),
    "task, twice": (("asyncio",), lambda call, at: _cancel(call, at, again=True)),
    "abandoned": (("asyncio",), _abandon),
    "loop ends": (("asyncio",), _loop_ends),
}


@dataclass(frozen=True)
class Cell:
    """What one strike led to: where, and the money of the call after it, in micro-USD."""

    place: str
    spent: int
    held: int
    doubt: int
    truth: int

    @property
    def ending(self) -> str:
        """In one word."""
        return "LEAKED" if self.held else "doubt" if self.doubt else "settled" if self.spent else "released"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeServer]:
    """A loopback Stripe, listed as Stripe's own."""
    with StripeServer() as found:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={found.host}")
        yield found
    keyguard.uninstall()


def _sweep(url: str, server: StripeServer, backend: str, client: str, way: Any) -> list[Cell]:
    """Strike at the first await, the second, and so on until the call ends before it is struck."""
    cells: list[Cell] = []
    while True:
        with keyguard.run(f"{client}-{len(cells)}"):
            installed = keyguard.install(url, run_usd_cap=10)
            before = len(server.charges)
            struck = anyio.run(way, lambda strike: CLIENTS[client](server, strike), len(cells) + 1, backend=backend)
            server.wait_until_quiet()
        usage, truth = installed.usage(), (len(server.charges) - before) * USD
        if not struck.place:
            assert (usage.spent, usage.held, usage.doubt, truth) == (USD, 0, 0, USD)
            return cells
        cells.append(Cell(struck.place, usage.spent, usage.held, usage.doubt, truth))


# aiohttp knows asyncio only; and httpx awaits when a request on a socket is closed, which Python does not allow, guarded or not.
CASES = [(backend, way, client) for way, (backends, _) in WAYS.items() for backend in backends for client in CLIENTS
         if not (backend == "trio" and "aiohttp" in client) and (way != "abandoned" or client == "in memory")]  # fmt: skip


def _marks(backend: str, way: str, client: str) -> list[pytest.MarkDecorator]:
    """Leave to .ci/run what differs from a neighbouring cell in one thing only."""
    return [pytest.mark.ci] if client != "in memory" and (backend == "trio" or way == "task, twice") else []


@pytest.mark.parametrize(
    ("backend", "way", "client"),
    [pytest.param(*case, id="-".join(case).replace(" ", "_"), marks=_marks(*case)) for case in CASES],
)
def test_struck_at_any_await(
    tmp_path: Path, server: StripeServer, capsys: pytest.CaptureFixture[str], backend: str, way: str, client: str
) -> None:
    """What the vendor executed is counted, what never left is given back, and nothing is held by a call that ended."""
    cells = _sweep(f"sqlite:///{tmp_path}/ledger.db", server, backend, client, WAYS[way][1])
    with capsys.disabled():
        endings = ", ".join(f"{number} {ending}" for ending, number in sorted(Counter(cell.ending for cell in cells).items()))
        print(f"\n{backend:8}{client:19}{way:12} struck at {len(cells):3} awaits: {endings}", end="")
    wrong = [cell for cell in cells if cell.held or cell.spent + cell.doubt < cell.truth or cell.spent + cell.doubt > USD]

    assert len(cells) >= 5
    assert wrong == []
    assert _ledger().verify() == []
    # What the table would not show: a sweep in which everything ends in doubt, whenever it was struck.
    assert cells[0].ending == "released"


KILLED = [
    pytest.param(backend, client, id=f"{backend}-{client}".replace(" ", "_"), marks=[pytest.mark.ci] if is_later else [])
    for backend, client, is_later in (
        ("asyncio", "streamed", True), ("trio", "streamed", True), ("asyncio", "stripe, httpx", False),
        ("asyncio", "stripe, aiohttp", True), ("asyncio", "aiohttp", True),
    )
]  # fmt: skip


@pytest.mark.parametrize(("backend", "client"), KILLED)
def test_killed_at_any_await(tmp_path: Path, server: StripeServer, capsys: pytest.CaptureFixture[str], backend: str, client: str) -> None:
    """What a process that is killed had reserved is in doubt: nobody knows whether the vendor executed it."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    keyguard.install(url, run_usd_cap=10)
    cells: list[Cell] = []
    with _worker(url, client, backend, server.url) as worker:
        while _asked(worker, len(cells) + 1) == -signal.SIGKILL:
            server.wait_until_quiet()
            usage, truth = _ledger().usage(f"run:killed-{len(cells) + 1}"), sum(cell.truth for cell in cells)
            # Killed before it had a key, a process leaves nothing.
            spent, held, doubt = (usage.spent, usage.held, usage.doubt) if usage is not None else (0, 0, 0)
            cells.append(Cell("killed", spent, held, doubt, len(server.charges) * USD - truth))
    counted = [cell.spent + cell.held + cell.doubt for cell in cells]
    with capsys.disabled():
        settled = sum(cell.spent > 0 for cell in cells)
        endings = f"{sum(map(bool, counted))} counted, {settled} of them settled"
        print(f"\n{backend:8}{client:19}{'killed':12} struck at {len(cells):3} awaits: {endings}", end="")

    assert len(cells) >= 5
    assert (counted[0], counted[-1]) == (0, USD)
    assert [cell for cell, money in zip(cells, counted, strict=True) if not cell.truth <= money <= USD] == []
    # Nothing is held for a process that has ended.
    assert [cell for cell in cells if cell.held] == []
    assert _ledger().verify() == []


@contextlib.contextmanager
def _worker(*args: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.worker_awaits", *args]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as found:
        yield found
        found.stdin.close()  # type: ignore[union-attr]  # -- it has one


def _asked(worker: subprocess.Popen[str], at: int) -> int:
    print(at, file=worker.stdin, flush=True)
    return int(worker.stdout.readline())  # type: ignore[union-attr]  # -- it has one


def _ledger() -> Any:
    module: Any = sys.modules["keyguard.install"]
    return next(iter(module._armed.backends.values())).ledger
