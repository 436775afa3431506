"""What one connection may take: time until the head of a request is there, and a place among the others. Reads no request."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

# Under this name an application finds in its scope how to end a connection without an answer.
HANG_UP = "keyguard.hang_up"


class Gathering:
    """
    A transport that sends what is written within one turn of the loop at once: an answer's head with what is there of its body.

    Args:
        transport: Asyncio's own; whatever is not here is its.
        loop: Its loop.
    """

    __slots__ = ("_loop", "_parts", "_transport")

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, at the end of this turn."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what is left, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(b"".join(parts))


class BoundedProtocol(H11Protocol):
    """
    uvicorn's protocol, which by itself waits for ever for a request to begin.

    h11 is strict: two lengths, a bare line end in a header, or a length that is no number are 400. A folded header is made one line.

    Args:
        head_seconds: For the head of each request to arrive.
        write_seconds: For a client to take what was written, where he is behind with it.
        most: How many connections a worker has at a time.
    """

    def __init__(self, *args: Any, head_seconds: float, write_seconds: float, most: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_seconds, self._write_seconds, self._most = head_seconds, write_seconds, most
        self._patience: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin, or end at once where there are too many."""
        super().connection_made(transport)
        gathering: Any = Gathering(transport, self.loop)
        self.transport = gathering
        if len(self.connections) > self._most:
            transport.abort()
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        super().connection_lost(exc)
        if self._stalled is not None:
            self._stalled.cancel()

    def pause_writing(self) -> None:
        """Wait for a client who does not read, but not for ever: by a polite close what is written to him would stay here."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self._write_seconds, self._give_up)

    def resume_writing(self) -> None:
        """Go on: he has read."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def handle_events(self) -> None:
        """Read what has arrived."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_waiting()
            # Before its task has begun.
            self.cycle.scope["extensions"] = {HANG_UP: {"call": self._hang_up}}

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        # First: the next one may be here already, and is begun below.
        self._wait_for_head()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, also where it is the body of a request that somebody is about to answer."""
        # None before the first request, whatever uvicorn's annotation says.
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            # To whoever answers, the client is gone: by two answers h11 would be broken.
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        super().send_400_response(msg)

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(self._head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _hang_up(self) -> None:
        """End without an answer; whatever is sent after this goes nowhere."""
        self.cycle.disconnected = True
        self._give_up()

    def _give_up(self) -> None:
        wire = self.transport.get_extra_info("socket")
        if wire is not None:
            # By a reset: the kernel would go on to offer what is not read for minutes.
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
