"""A door before a server: passes requests on, counts them, and can be shut, as if the server were away."""

from __future__ import annotations

import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Forwarder:
    """
    Listens on a loopback port from `with` to its end.

    Args:
        target: The URL of the server behind it.

    Attributes:
        url: The same URL through this door.
        seen: Method and path of each request that came, in order.
        is_shut: Connections are dropped without an answer.
        delay: Seconds that a request is kept before it is passed on.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._behind = parts.netloc
        self._path = parts.path
        self.url = ""
        self.seen: list[str] = []
        self.is_shut = False
        self.delay = 0.0
        self._came = threading.Condition()

    def __enter__(self) -> Forwarder:
        door = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                door._noted(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if door.is_shut:
                    self.close_connection = True
                    return
                if door.delay:
                    threading.Event().wait(door.delay)
                behind = HTTPConnection(door._behind)
                # Unpacked, because what is packed would have to be told.
                kept = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "accept-encoding"}}
                behind.request(self.command, self.path, body, kept)
                answer = behind.getresponse()
                payload = answer.read()
                self.send_response(answer.status)
                self.send_header("content-type", answer.getheader("content-type") or "application/json")
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
                behind.close()

            def do_POST(self) -> None:
                self.do_GET()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}{self._path}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _noted(self, request: str) -> None:
        with self._came:
            self.seen.append(request)
            self._came.notify_all()

    def wait_for(self, count: int, timeout: float = 60.0) -> bool:
        """Wait until so many requests have come; says whether they did."""
        with self._came:
            return self._came.wait_for(lambda: len(self.seen) >= count, timeout)
