"""A place where processes wait for each other, so that what they do next they do at the same time."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

# Seconds that one waits for the others; the machine may be loaded.
_PATIENCE = 1_500.0


class Gathering:
    """
    Holds everybody who comes to `address` until so many have come; then all go on at once. What comes later is not held.

    Attributes:
        address: `host:port`, on loopback.
        come: How many have come.
    """

    def __init__(self, count: int) -> None:
        self._count, self.come, self.gathered = count, 0, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=count)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._hold, daemon=True)

    def __enter__(self) -> Gathering:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        # A thread in `accept` is not woken by a close.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _hold(self) -> None:
        with ExitStack() as held, suppress(OSError):
            while True:
                one = held.enter_context(closing(self._listener.accept()[0]))
                self.come += 1
                if self.come == self._count:
                    self.gathered.set()
                if self.come >= self._count:
                    # Closed, each of them reads the end.
                    held.close()
                del one


def meet(address: str) -> None:
    """Wait at an address until all have come there."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), _PATIENCE) as place:
        place.recv(1)
