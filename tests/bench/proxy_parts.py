"""What stands round the proxy that is measured: a vendor, a bare reverse proxy, and a load, each a process of its own. Judges nothing.

`python -m tests.bench.proxy_parts vendor | bare URL` prints its port and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import TYPE_CHECKING

from tests.bench.answers import Answers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

FORM = b"amount=2000&currency=usd&customer=cus_1&payment_method=pm_1&confirm=true&off_session=true"


# -- a vendor: an asyncio protocol that parses no more than it must, so that it is never what is slow -----------------------------


class _Vendor(asyncio.Protocol):
    """Answers each request with a new, paid intent."""

    answers: Answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self._data += data
        while (length := request_length(self._data)) <= len(self._data):
            self._data = self._data[length:]
            body = self.answers.next().encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nRequest-Id: req_1\r\nContent-Length: {len(body)}\r\n\r\n"
            self._transport.write(head.encode() + body)


def request_length(data: bytes) -> int:
    """Return how long the message at the beginning of some bytes is; more than there are, while its head is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return len(data) + 1
    at = data[:end].lower().find(b"content-length:")
    return end + 4 + (0 if at < 0 else int(data[at + 15 : end].partition(b"\r\n")[0]))


async def _vendor() -> None:
    _Vendor.answers = Answers()
    server = await asyncio.get_running_loop().create_server(_Vendor, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# -- a bare reverse proxy, as one is written with Starlette, uvicorn and httpx: nothing is decided, counted or bounded ------------


def _bare(upstream: str) -> None:
    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    client = httpx.AsyncClient(base_url=upstream, trust_env=False, limits=httpx.Limits(max_connections=256))

    async def forward(request: Request) -> Response:
        headers = [(name, value) for name, value in request.headers.raw if name not in {b"host", b"connection", b"content-length"}]
        path = request.url.path.removeprefix("/stripe")
        sent = client.build_request(request.method, path, headers=headers, content=await request.body())
        answer = await client.send(sent, stream=True)

        async def parts() -> AsyncIterator[bytes]:
            async for part in answer.aiter_raw():
                yield part

        return StreamingResponse(parts(), answer.status_code, dict(answer.headers), background=BackgroundTask(answer.aclose))

    # As uvicorn makes it where it is given a port: by its protocol asyncio knows that it may set TCP_NODELAY.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(512)
    print(listening.getsockname()[1], flush=True)
    app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])])
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])


# -- a load -----------------------------------------------------------------------------------------------------------------------


class Connection:
    """
    One kept connection, on which a charge is made at a time.

    Args:
        port: On loopback.
        token: Of the Authorization header.
        prefix: Before the vendor's path: `/stripe` of a proxy.
    """

    def __init__(self, port: int, token: str, prefix: str = "") -> None:
        self._port, self._number = port, 0
        self._head = (
            f"POST {prefix}/v1/payment_intents HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nAccept: */*\r\n"
            f"User-Agent: bench\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(FORM)}\r\nIdempotency-Key: "
        ).encode()

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def charge(self) -> float:
        """
        Make one charge; returns its seconds.

        Raises:
            RuntimeError: the answer is not a 200.
        """
        self._number += 1
        # Unlike any other, as the SDK's own.
        key = f"{id(self)}-{time.time_ns()}-{self._number}\r\n\r\n".encode()
        begun = time.perf_counter()
        self._writer.write(self._head + key + FORM)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            while size := int((await self._reader.readuntil(b"\r\n"))[:-2], 16):
                await self._reader.readexactly(size + 2)
            await self._reader.readexactly(2)
        else:
            await self._reader.readexactly(request_length(head) - len(head))
        took = time.perf_counter() - begun
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"not a charge: {head!r}")
        return took


if __name__ == "__main__":
    if sys.argv[1] == "vendor":
        asyncio.run(_vendor())
    else:
        _bare(sys.argv[2])
