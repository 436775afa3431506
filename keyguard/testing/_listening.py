"""A listening socket on loopback that knows its connections, for the doubles. Reads no request and decides nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_LOOPBACK = "127.0.0.1"
# Connections at a time; more wait in the queue of the listening socket.
_MOST = 512
_PATIENCE = 10.0  # seconds that stopping waits for the threads of connections that it has shut


def answer_json(handler: BaseHTTPRequestHandler, status: int, body: object) -> None:
    """Answer a request with a JSON document, whole."""
    payload = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(payload)))
    handler.end_headers()
    handler.wfile.write(payload)


class Connections(ThreadingHTTPServer):
    """
    Counts its connections, and can shut them all; a thread each.

    Args:
        port: 0 = any that is free.
        handler: Answers the requests of one connection.
        broken: To which is appended what broke a connection's thread.
    """

    daemon_threads = True
    request_queue_size = 512
    # The port is taken again after `refuse`, although its old connections linger.
    allow_reuse_address = True

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler], broken: list[BaseException]) -> None:
        self._broken = broken
        self._room = threading.BoundedSemaphore(_MOST)
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._aborted: set[socket.socket] = set()
        super().__init__((_LOOPBACK, port), handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count a connection before its thread begins."""
        self._room.acquire()
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection: politely, or by a reset."""
        if request in self._aborted:
            self._aborted.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()
        self._room.release()

    def abort(self, connection: socket.socket) -> None:
        """Have a connection end with a reset."""
        # Closed with a linger time of zero, a socket sends RST.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._aborted.add(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what broke a connection's thread; a client that went away is no error of the double."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self._broken.append(error)
            super().handle_error(request, client_address)

    def wait_until_quiet(self, timeout: float = _PATIENCE) -> None:
        """
        Wait until nobody is connected: what a client that went away had sent is executed then, or never.

        Raises:
            TimeoutError: somebody still is.
        """
        # Connections are accepted in their order: after this one, all earlier ones are counted.
        with contextlib.closing(HTTPConnection(_LOOPBACK, self.server_port, timeout=timeout)) as last:
            last.request("GET", "/quiet", headers={"Connection": "close"})
            last.getresponse().read()
        self.wait_until_ended(timeout)

    def stop(self) -> None:
        """Listen no more, and shut every connection; requests that are held stay so."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def wait_until_ended(self, timeout: float = _PATIENCE) -> None:
        """
        Wait for the threads of all connections.

        Raises:
            TimeoutError: one goes on.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._open, timeout):
                raise TimeoutError(f"{len(self._open)} connections are still open after {timeout} s")
