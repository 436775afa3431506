"""The proxy's end of a connection: small answers leave at once, in one piece, and in order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

from keyguard.proxy.serving import _listening
from keyguard.proxy.settings import ProxySettings
from keyguard.proxy.wire import Gathering


class Peer(asyncio.Protocol):
    """A server's end, which tells its transport to whoever waits for it."""

    def __init__(self, made: asyncio.Future[Any]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._made.set_result(transport)


@contextlib.asynccontextmanager
async def connected() -> Any:
    """Connect to a socket that is made as the proxy makes its own; both ends: asyncio's transport, and a plain socket."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Any] = loop.create_future()
    with _listening(ProxySettings(port=0)) as listening:
        server = await loop.create_server(lambda: Peer(made), sock=listening)
        with socket.create_connection(listening.getsockname()[:2], timeout=10) as client:
            transport = await made
            yield transport, client
            transport.abort()
        server.close()


def test_answers_do_not_wait_for_an_ack() -> None:
    """Each connection that is accepted has TCP_NODELAY: the second part of an answer would wait 40 ms for the client's ACK without."""

    async def asked() -> int:
        async with connected() as (transport, _):
            return int(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    assert asyncio.run(asked()) == 1


def test_what_is_written_in_one_turn_is_sent_at_once() -> None:
    """Head and body that are there together are one packet; what comes later is another; what is left is sent before the end."""

    async def asked() -> list[bytes]:
        async with connected() as (transport, client):
            gathering = Gathering(transport, asyncio.get_running_loop())
            gathering.write(b"head,")
            gathering.write(b"body")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            found = [client.recv(100)]
            gathering.write(b"rest")
            gathering.close()
            # asyncio closes a turn later, and all of that happens on this thread.
            await asyncio.sleep(0)
            return [*found, client.recv(100), client.recv(100)]

    assert asyncio.run(asked()) == [b"head,body", b"rest", b""]
