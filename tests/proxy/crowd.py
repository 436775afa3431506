"""Many connections at once from one thread, each with a way of its own of not getting to the point. Asserts nothing."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from dataclasses import dataclass

_TURN = 0.1  # seconds between two bytes of those who send one at a time


@dataclass(slots=True)
class Guest:
    """
    One connection.

    Attributes:
        kind: Which of its kinds it is.
        drip: What it sends a byte at a time.
        answer: What it was told, until it was hung up on.
        has_ended: Whether it was.
    """

    kind: str
    wire: socket.socket
    drip: bytes = b""
    answer: bytes = b""
    has_ended: bool = False

    @property
    def status(self) -> int:
        """What it was answered; 0 = it was hung up on without a word."""
        return int(self.answer.split(b" ", 2)[1]) if self.answer else 0


class Crowd:
    """
    Guests from `with` to its end.

    Args:
        host: Whom they bother.
        count: How many there are, of all kinds in turns.
        kinds: By name, what one sends at once, and what byte by byte.
    """

    def __init__(self, host: tuple[str, int], count: int, kinds: dict[str, tuple[bytes, bytes]]) -> None:
        self._host, self._kinds = host, kinds
        self._names = [name for _, name in zip(range(count), _cycled(list(kinds)), strict=False)]
        self.guests: list[Guest] = []

    def __enter__(self) -> Crowd:
        self._selector = selectors.DefaultSelector()
        for name in self._names:
            wire = socket.create_connection(self._host, timeout=60)
            at_once, drip = self._kinds[name]
            wire.sendall(at_once)
            wire.setblocking(False)
            guest = Guest(name, wire, drip)
            self._selector.register(wire, selectors.EVENT_READ, guest)
            self.guests.append(guest)
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for guest in self.guests:
            guest.wire.close()

    def play(self, seconds: float) -> None:
        """Send a byte of each each turn, and read what is there, until all are hung up on or the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not all(guest.has_ended for guest in self.guests):
            turn = time.monotonic() + _TURN
            while (left := turn - time.monotonic()) > 0 and self._selector.get_map():
                for key, _ in self._selector.select(left):
                    self._read(key.data)
            for guest in self.guests:
                self._send(guest)

    def _read(self, guest: Guest) -> None:
        try:
            part = guest.wire.recv(65_536)
        except ConnectionError:
            part = b""
        guest.answer += part
        if not part:
            guest.has_ended = True
            self._selector.unregister(guest.wire)

    def _send(self, guest: Guest) -> None:
        if guest.drip and not guest.has_ended:
            with contextlib.suppress(OSError):
                guest.wire.send(guest.drip[:1])
            guest.drip = guest.drip[1:]

    def of(self, kind: str) -> list[Guest]:
        """Return those of one kind."""
        return [guest for guest in self.guests if guest.kind == kind]


def _cycled(names: list[str]) -> list[str]:
    return names * 1000
