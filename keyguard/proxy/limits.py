"""What one request may take of the proxy: bytes and time. Knows no vendor."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from keyguard.proxy.routing import Misdirected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from keyguard.proxy.settings import ProxySettings


class ClientGone(Exception):
    """The client left before its request was whole: nothing was sent."""


class Room:
    """Counts what the requests of a worker take together; used on its event loop alone."""

    def __init__(self, requests: int, size: int) -> None:
        self._requests, self._size = requests, size
        self.requests = self.bytes = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """
        Count a request during the block.

        Raises:
            Misdirected: there are too many, of status 503.
        """
        if self.requests >= self._requests:
            raise Misdirected("the proxy has as many requests under way as it may; nothing was sent, try again", status=503)
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def take(self, size: int) -> None:
        """Take bytes, or raise Misdirected of status 503."""
        if self.bytes + size > self._size:
            raise Misdirected("the proxy holds as much of its requests as it may; nothing was sent, try again", status=503)
        self.bytes += size

    def give(self, size: int) -> None:
        """Give bytes back."""
        self.bytes -= size


async def read_body(
    receive: Callable[[], Awaitable[Any]], headers: list[tuple[bytes, bytes]], settings: ProxySettings, room: Room
) -> bytes:
    """
    Read a request's body whole: what is in it must be known before a byte of it leaves. The caller gives its bytes back to the room.

    Raises:
        Misdirected: it is too long (413) or too slow (408), or the proxy holds too much already (503).
        ClientGone: its client left.
    """
    said = next((value for name, value in headers if name == b"content-length"), b"0")
    if not said.isdigit() or int(said) > settings.max_body_bytes:
        raise Misdirected(f"a body has at most {settings.max_body_bytes} bytes here", status=413)
    parts: list[bytes] = []
    taken = 0
    try:
        with anyio.fail_after(settings.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                if taken + len(part) > settings.max_body_bytes:
                    raise Misdirected(f"a body has at most {settings.max_body_bytes} bytes here", status=413)
                room.take(len(part))
                taken += len(part)
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        room.give(taken)
        raise Misdirected(f"the body did not arrive within {settings.body_seconds:g} s", status=408) from None
    except BaseException:
        room.give(taken)
        raise
