"""A loopback server that answers JSON by a function of the request, and keeps what arrived."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request; names of headers in lower case, `document` = its JSON body, `content` = what came."""

    method: str
    path: str
    headers: dict[str, str]
    document: Any
    content: bytes = b""

    @property
    def form(self) -> dict[str, str]:
        """Its body as a form, the last of several values."""
        return dict(parse_qsl(self.content.decode(), keep_blank_values=True))


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `body` as it is where it is bytes. A status of 0 hangs up without a word."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no error of the stand-in."""


class JsonServer:
    """
    Listens on loopback.

    Args:
        answer: Answers one request; called by one thread at a time, in order of arrival.

    Attributes:
        requests: Everything that arrived.
        scripted: What is answered next instead, without asking `answer`.
    """

    def __init__(self, answer: Callable[[Arrived], Answer]) -> None:
        self.answer = answer
        self.requests: list[Arrived] = []
        self.scripted: list[Answer] = []
        self._lock = threading.Lock()
        self._changed, self._connections = threading.Condition(), 0

    def __enter__(self) -> JsonServer:
        world = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def handle(self) -> None:
                world._count(1)
                try:
                    super().handle()
                finally:
                    world._count(-1)

            def handle_one(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                found = world._answered(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, content)
                if not found.status:
                    return
                body = found.body if isinstance(found.body, bytes) else json.dumps(found.body).encode()
                self.send_response(found.status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **found.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815 -- the standard library's names

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answered(self, method: str, path: str, headers: dict[str, str], content: bytes) -> Answer:
        try:
            document = json.loads(content) if content else None
        except ValueError:
            document = None
        arrived = Arrived(method, path, headers, document, content)
        with self._lock:
            self.requests.append(arrived)
            return self.scripted.pop(0) if self.scripted else self.answer(arrived)

    def wait_until_quiet(self) -> None:
        """Wait until nobody is connected: what a client that went away had sent is executed then, or never."""
        # Connections are accepted in their order: after this one, all earlier ones are counted.
        with contextlib.closing(HTTPConnection(self.host, timeout=10)) as last:
            last.request("OPTIONS", "/quiet", headers={"Connection": "close"})
            last.getresponse().read()
        with self._changed:
            assert self._changed.wait_for(lambda: self._connections == 0, timeout=10)

    def _count(self, change: int) -> None:
        with self._changed:
            self._connections += change
            self._changed.notify_all()

    @property
    def host(self) -> str:
        """Where it listens: `127.0.0.1:port`."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """Its base."""
        return f"http://{self.host}"
