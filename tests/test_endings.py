"""Every way in which a call can end on the wire, with every client: what was executed is counted, what never left is given back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import requests
import stripe
from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, ServerTimeoutError

import keyguard
from tests.support_libraries import HTTPX, errors
from tests.support_wire import Way, Wire, self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Stripe's client hands its body to httpx in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

USD = 1_000_000  # micro-USD
KEY = "sk_test_12345"
FORM: Any = {"amount": 100, "currency": "usd", "confirm": True}
RAW = {"amount": "100", "currency": "usd", "confirm": "true"}
SETTLED, DOUBT, RELEASED = (USD, 0, 0), (0, 0, USD), (0, 0, 0)
# Seconds: long enough for a loopback answer, short enough to wait for one that never comes.
PATIENCE = 0.5


def _sdk(base: str, own: stripe.HTTPClient) -> stripe.StripeClient:
    return stripe.StripeClient(KEY, base_addresses={"api": base}, http_client=own, max_network_retries=0)


def _with_sdk(make: Callable[[], stripe.HTTPClient]) -> Callable[[str], Any]:
    def charge(base: str) -> Any:
        own = make()
        try:
            return _sdk(base, own).v1.payment_intents.create(FORM)
        finally:
            own.close()  # type: ignore[no-untyped-call]  # -- stripe's own

    return charge


def _with_async_sdk(make: Callable[[], stripe.HTTPClient], backend: str) -> Callable[[str], Any]:
    async def charge(base: str) -> Any:
        own = make()
        try:
            return await _sdk(base, own).v1.payment_intents.create_async(FORM)
        finally:
            await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own

    return lambda base: anyio.run(charge, base, backend=backend)


def _with(library: Any) -> Callable[[str], Any]:
    def charge(base: str) -> Any:
        with library.Client(timeout=PATIENCE) as client:
            return client.post(f"{base}/v1/payment_intents", data=RAW, headers={"Authorization": f"Bearer {KEY}"})

    return charge


def _with_async(library: Any, backend: str) -> Callable[[str], Any]:
    async def charge(base: str) -> Any:
        async with library.AsyncClient(timeout=PATIENCE) as client:
            return await client.post(f"{base}/v1/payment_intents", data=RAW, headers={"Authorization": f"Bearer {KEY}"})

    return lambda base: anyio.run(charge, base, backend=backend)


def _with_requests(base: str) -> Any:
    with requests.Session() as session:
        return session.post(f"{base}/v1/payment_intents", data=RAW, headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE)


def _with_requests_stream(base: str) -> Any:
    with requests.Session() as session:
        headers = {"Authorization": f"Bearer {KEY}"}
        with session.post(f"{base}/v1/payment_intents", data=RAW, headers=headers, timeout=PATIENCE, stream=True) as response:
            _ = b"".join(response.iter_content(7))
            return response


async def _with_aiohttp(base: str) -> Any:
    waiting: Any = {"timeout": ClientTimeout(sock_read=PATIENCE), "headers": {"Authorization": f"Bearer {KEY}"}}
    async with ClientSession(**waiting) as session, session.post(f"{base}/v1/payment_intents", data=RAW) as response:
        await response.read()
        response.status_code = response.status  # type: ignore[attr-defined]  # -- as the others call it
        return response


CLIENTS: dict[str, Callable[[str], Any]] = {
    "stripe-requests": _with_sdk(lambda: stripe.RequestsClient(timeout=PATIENCE)),
    "stripe-httpx": _with_sdk(lambda: stripe.HTTPXClient(timeout=PATIENCE, allow_sync_methods=True)),
    "stripe-httpx-asyncio": _with_async_sdk(lambda: stripe.HTTPXClient(timeout=PATIENCE), "asyncio"),
    "stripe-httpx-trio": _with_async_sdk(lambda: stripe.HTTPXClient(timeout=PATIENCE), "trio"),
    "stripe-aiohttp": _with_async_sdk(lambda: stripe.AIOHTTPClient(timeout=PATIENCE), "asyncio"),
    **{name: _with(library) for name, library in HTTPX.items()},
    **{f"{name}-{backend}": _with_async(library, backend) for name, library in HTTPX.items() for backend in ("asyncio", "trio")},
    "requests": _with_requests,
    "requests-stream": _with_requests_stream,
    "aiohttp": lambda base: asyncio.run(_with_aiohttp(base)),
}
# What the raw clients raise for a connection that was not made, and for one that broke.
NOT_MADE = (*errors("ConnectError"), requests.ConnectionError, ClientConnectorError)
BROKEN = (*errors("TransportError"), requests.RequestException, ClientError, ServerTimeoutError)
EVERY_CLIENT = pytest.mark.parametrize("client", CLIENTS)


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], keyguard.Installation]]:
    """Make a run in which a host is Stripe's."""
    # The SDKs' own certificates, not those that a machine was told to use.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)

    def install(host: str) -> keyguard.Installation:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={host}")
        return keyguard.install(f"sqlite:///{tmp_path}/ledger.db", run_usd_cap=10)

    with keyguard.run("run-1"):
        yield install
    keyguard.uninstall()


def _counted(installed: keyguard.Installation) -> tuple[int, int, int]:
    usage = installed.usage()
    return usage.spent, usage.held, usage.doubt


@EVERY_CLIENT
def test_an_answer_settles(guarded: Callable[[str], keyguard.Installation], client: str) -> None:
    """One charge at the vendor, its cost in the books, in one call."""
    with Wire() as wire:
        installed = guarded(wire.host)
        CLIENTS[client](wire.url)

    assert (_counted(installed), wire.executed, installed.usage().calls) == (SETTLED, 1, 1)


@EVERY_CLIENT
@pytest.mark.parametrize("way", ["hang up", "reset", "cut short", "stay silent"])
def test_an_answer_that_is_lost_after_the_vendor_executed_is_in_doubt(
    guarded: Callable[[str], keyguard.Installation], client: str, way: Way
) -> None:
    """The connection is closed, reset or cut, or the client stops waiting: the caller sees its client's error, the money is counted."""
    with Wire(way) as wire:
        installed = guarded(wire.host)
        with pytest.raises((stripe.APIConnectionError, *BROKEN)) as raised:
            CLIENTS[client](wire.url)

    assert (_counted(installed), wire.executed) == (DOUBT, 1)
    assert not isinstance(raised.value, keyguard.KeyguardError)


@EVERY_CLIENT
@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, RELEASED), (401, RELEASED), (402, RELEASED), (404, RELEASED), (429, RELEASED), (409, DOUBT), (500, DOUBT)],
)
def test_a_refusal_of_the_vendors_tells_what_its_status_tells(
    guarded: Callable[[str], keyguard.Installation], client: str, status: int, expected: tuple[int, int, int]
) -> None:
    """What Stripe documents as not executed is given back; a conflict or its own failure is not known."""
    with Wire(status=status) as wire:
        installed = guarded(wire.host)
        if client.startswith("stripe"):
            with pytest.raises(stripe.StripeError):
                CLIENTS[client](wire.url)
        else:
            assert CLIENTS[client](wire.url).status_code == status

    assert _counted(installed) == expected


@EVERY_CLIENT
def test_a_refused_connection_gives_the_money_back(guarded: Callable[[str], keyguard.Installation], client: str) -> None:
    """Nobody listens, so nothing left; the place in the call count is given back as well."""
    with Wire() as wire:
        url, host = wire.url, wire.host
    installed = guarded(host)
    with pytest.raises((stripe.APIConnectionError, *NOT_MADE)):
        CLIENTS[client](url)

    assert (_counted(installed), installed.usage().calls) == (RELEASED, 0)


@EVERY_CLIENT
def test_a_certificate_that_is_not_trusted_gives_the_money_back(
    guarded: Callable[[str], keyguard.Installation], client: str, tmp_path: Path
) -> None:
    """The client hangs up before it has sent anything."""
    with Wire(certificate=self_signed(tmp_path / "vendor.pem")) as wire:
        installed = guarded(wire.host)
        with pytest.raises((stripe.APIConnectionError, *NOT_MADE)):
            CLIENTS[client](wire.url)

    assert (_counted(installed), wire.executed, installed.usage().calls) == (RELEASED, 0, 0)


@pytest.mark.parametrize(("method", "unsent"), [("delete", False), ("post", True)])
def test_what_aiohttp_may_send_twice_is_not_proven_unsent(
    guarded: Callable[[str], keyguard.Installation], method: str, unsent: bool
) -> None:
    """It sends a DELETE again where a kept connection was closed, and of two tries the error shows only the last."""
    with Wire() as wire:
        url, host = wire.url, wire.host
    with keyguard.run("run-2"):
        guarded(host)
        installed = keyguard.install(run_usd_cap=5, unpriced="1.00")

        async def send() -> None:
            own = stripe.AIOHTTPClient()
            try:
                await _sdk(url, own).raw_request_async(method, "/v1/invented/x_1")
            finally:
                await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own

        with pytest.raises(stripe.APIConnectionError):
            asyncio.run(send())

        assert _counted(installed) == (RELEASED if unsent else DOUBT)


def test_a_users_session_with_a_middleware_proves_nothing(guarded: Callable[[str], keyguard.Installation]) -> None:
    """A middleware of aiohttp may have sent the request before, and show only its last try's error."""
    with Wire() as wire:
        url, host = wire.url, wire.host
    installed = guarded(host)

    async def passing(request: Any, handler: Any) -> Any:
        return await handler(request)

    async def send() -> None:
        async with ClientSession(middlewares=(passing,)) as session:
            await _sdk(url, stripe.AIOHTTPClient(session=session)).v1.payment_intents.create_async(FORM)

    with pytest.raises(stripe.APIConnectionError):
        asyncio.run(send())

    assert _counted(installed) == DOUBT
