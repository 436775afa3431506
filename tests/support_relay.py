"""A relay on loopback that counts the HTTP requests which pass it, and the messages of WebSockets; whole answers pass unread."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

_REQUEST = re.compile(rb"(GET|POST|PUT|PATCH|DELETE|HEAD) (/\S*) HTTP/1\.1\r\n")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LONGEST = 65_536


class Relay:
    """
    Between a client and the server of a URL, from `with` to its end.

    Attributes:
        url: What the client is given instead.
        requests: How many there were, by method and path; ids are written `{id}`.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"{parts.scheme}://127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self.requests: Counter[str] = Counter()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake an accept.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for one in [self._listener, *self._open]:
            with suppress(OSError):
                one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                threading.Thread(target=_pass_on, args=(client, server, self._count()), daemon=True).start()
                threading.Thread(target=_pass_on, args=(server, client, lambda _: None), daemon=True).start()

    def _count(self) -> Callable[[bytes], None]:
        """Return what reads one connection's requests; a request's first line may come in two pieces."""
        rest = b""

        def count(data: bytes) -> None:
            nonlocal rest
            rest += data
            end = 0
            for found in _REQUEST.finditer(rest):
                method, path = found.group(1).decode(), found.group(2).decode()
                self.requests[f"{method} {_ID.sub('{id}', path)}"] += 1
                end = found.end()
            rest = rest[max(end, len(rest) - 2048) :]

        return count


def _pass_on(source: socket.socket, target: socket.socket, see: Callable[[bytes], None]) -> None:
    with suppress(OSError):
        while data := source.recv(_LONGEST):
            see(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
