"""Every way in which a Twilio call can end on the wire, blocking and awaited: what was executed is counted, what never left is free."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import requests
from twilio.base.exceptions import TwilioException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.http_client import TwilioHttpClient

import keyguard
from tests.support_json_server import Answer, JsonServer
from tests.support_twilio_clients import MESSAGE, STYLES, awaited, client_for, send
from tests.support_twilio_server import ACCOUNT, INVALID, TOO_MANY, Twilio
from tests.support_wire import Way, Wire, self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UNIT = 14_800  # micro-USD: a segment to the US, with what carriers add
SETTLED, DOUBT, RELEASED = (1, 0, 0), (0, 0, 1), (0, 0, 0)
# Seconds: long enough for a loopback answer, short enough to wait for one that never comes.
PATIENCE = 0.5
_NETWORK = (requests.exceptions.RequestException, aiohttp.ClientError, asyncio.TimeoutError)
_MESSAGE = {"sid": f"SM{1:032x}", "status": "queued", "num_segments": "1", "price": None, "price_unit": "USD"}
each_style = pytest.mark.parametrize("style", STYLES)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., keyguard.Installation]]:
    """Make a run in which a host is Twilio's."""
    # The SDK's own certificates, not those that a machine was told to use.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)

    def install(host: str, **policy: Any) -> keyguard.Installation:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"twilio={host}")
        return keyguard.install(**{"run_usd_cap": 5, **policy})

    with keyguard.run("run-1"):
        yield install


def _counted(installed: keyguard.Installation) -> tuple[float, float, float]:
    usage = installed.usage()
    return usage.spent / UNIT, usage.held / UNIT, usage.doubt / UNIT


def _send(url: str, style: str) -> Any:
    """Send a message with a client that does not wait long."""
    if style == "sync":
        return client_for(url, http_client=TwilioHttpClient(timeout=PATIENCE)).messages.create(**MESSAGE)
    # The awaited client has no timeout of its own: it hands on what a request is given.

    async def sent() -> Any:
        async with AsyncTwilioHttpClient() as http_client:
            data = {"To": MESSAGE["to"], "From": MESSAGE["from_"], "Body": MESSAGE["body"]}
            path = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
            return await client_for(url, http_client=http_client).request_async("POST", f"{url}{path}", data=data, timeout=PATIENCE)

    return asyncio.run(sent())


@each_style
@pytest.mark.parametrize("way", ["hang up", "reset", "cut short", "stay silent"])
def test_an_answer_that_is_lost_after_twilio_executed_is_in_doubt(guarded: Any, style: str, way: Way) -> None:
    """The connection is closed, reset or cut, or the client stops waiting: the caller gets the library's own error."""
    with Wire(way, body=_MESSAGE) as wire:
        installed = guarded(wire.host)
        with pytest.raises(_NETWORK) as raised:
            _send(wire.url, style)

    assert (_counted(installed), wire.executed) == (DOUBT, 1)
    assert not isinstance(raised.value, keyguard.KeyguardError)


@each_style
def test_an_answer_settles(guarded: Any, style: str) -> None:
    """One message at the vendor, its cost in the books, in one call."""
    with Wire(body=_MESSAGE) as wire:
        installed = guarded(wire.host)
        _send(wire.url, style)

    assert (_counted(installed), wire.executed, installed.usage().calls) == (SETTLED, 1, 1)


@each_style
@pytest.mark.parametrize(
    ("status", "body", "ending"),
    [
        (400, {"code": 21211, "message": "m", "status": 400}, RELEASED),
        (401, {"code": 20003, "message": "m", "status": 401}, RELEASED),
        (404, {"code": 20404, "message": "m", "status": 404}, RELEASED),
        (429, {"code": 20429, "message": "m", "status": 429}, RELEASED),
        (400, {"type": "t", "title": "t", "status": 400, "code": 60200}, RELEASED),
        (403, b"<html>", RELEASED),
        (408, {"code": 1, "message": "m", "status": 408}, DOUBT),
        (500, {"code": 20500, "message": "m", "status": 500}, DOUBT),
        (503, b"<html>", DOUBT),
        (201, b"<html>", DOUBT),
        (201, b"{", DOUBT),
        (201, {}, DOUBT),
    ],
)
def test_each_answer_ends_as_twilio_documents_it(guarded: Any, style: str, status: int, body: Any, ending: Any) -> None:
    """A 4xx made nothing, a 5xx is not known, nor is a 201 that cannot be read; errors of either form of the vendor's."""
    with JsonServer(lambda _: Answer(status, body)) as server:
        installed = guarded(server.host)
        try:
            send(server.url, style)
        except (TwilioException, ValueError):
            # A 201 that is no JSON is the SDK's own trouble.
            assert status != 201 or isinstance(body, bytes)

    assert (_counted(installed), len(server.requests)) == (ending, 1)


@each_style
@pytest.mark.parametrize(("to", "code"), [(INVALID, 21211), (TOO_MANY, 20429)])
def test_a_refusal_of_twilios_is_the_callers(guarded: Any, style: str, to: str, code: int) -> None:
    """Its own exception with its own code, and the money is there again."""
    with JsonServer(Twilio().answer) as server:
        installed = guarded(server.host)
        with pytest.raises(TwilioException) as caught:
            send(server.url, style, to=to)

    assert caught.value.code == code
    assert _counted(installed) == RELEASED


@each_style
def test_a_refused_connection_gives_the_money_back(guarded: Any, style: str) -> None:
    """Nobody listens, so nothing left; the place in the call count is given back as well."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
    installed = guarded(host)
    with pytest.raises(_NETWORK):
        send(f"http://{host}", style)

    assert (_counted(installed), installed.usage().calls) == (RELEASED, 0)


@each_style
def test_a_certificate_that_is_not_trusted_gives_the_money_back(guarded: Any, style: str, tmp_path: Path) -> None:
    """The client hangs up before it has sent anything."""
    with Wire(certificate=self_signed(tmp_path / "vendor.pem")) as wire:
        installed = guarded(wire.host)
        with pytest.raises(_NETWORK):
            send(wire.url, style)

    assert (_counted(installed), wire.executed, installed.usage().calls) == (RELEASED, 0, 0)


@each_style
def test_what_fails_before_the_first_byte_is_given_back(guarded: Any, style: str) -> None:
    """A timeout of no seconds is the SDK's own error, raised before it has sent anything."""
    with JsonServer(Twilio().answer) as server:
        installed = guarded(server.host)
        url = f"{server.url}/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
        given: dict[str, Any] = {"data": {"To": MESSAGE["to"], "From": MESSAGE["from_"], "Body": "x"}, "timeout": 0}
        with pytest.raises(ValueError, match="0"):
            if style == "sync":
                client_for(server.url).request("POST", url, **given)
            else:
                awaited(server.url, lambda client: client.request_async("POST", url, **given))

    assert (_counted(installed), installed.usage().calls, server.requests) == (RELEASED, 0, [])


def test_what_the_caller_handles_meanwhile_proves_nothing(guarded: Any) -> None:
    """A retry inside `except` of a refused connection whose answer is lost is in doubt all the same."""
    with Wire("hang up") as wire:
        installed = guarded(wire.host)
        try:
            raise ConnectionRefusedError
        except ConnectionRefusedError:
            with pytest.raises(_NETWORK):
                _send(wire.url, "sync")

    assert _counted(installed) == DOUBT


@pytest.mark.parametrize("when", ["before it is sent", "while it waits"])
def test_a_cancelled_message_is_in_doubt_once_it_was_sent(guarded: Any, when: str) -> None:
    """Cancelled before its first byte it is given back; while it waits for its answer it is in doubt."""
    with Wire("stay silent") as wire:
        installed = guarded(wire.host)

        async def sent() -> None:
            async with AsyncTwilioHttpClient() as http_client:
                task = asyncio.ensure_future(client_for(wire.url, http_client=http_client).messages.create_async(**MESSAGE))
                if when == "while it waits":
                    await asyncio.to_thread(wire.arrived.wait, 10)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(sent())

    assert (_counted(installed), wire.executed) == ((DOUBT, 1) if when == "while it waits" else (RELEASED, 0))
