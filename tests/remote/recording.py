"""A proxy that issues one key and answers everything else by a script: what arrives there is what the seams have sent."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "vault_key_of_the_recording_0123456789"


@dataclass
class Arrived:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    content: bytes


@dataclass
class Answered:
    """What is answered to it: JSON, or bytes as they are."""

    status: int = 200
    body: Any = field(default_factory=dict[str, Any])
    headers: dict[str, str] = field(default_factory=dict[str, str])


class RecordingProxy:
    """
    Listens from `with` to its end.

    Attributes:
        seen: The vendors' calls that arrived.
        managed: The other ones.
        answers: What is answered to calls, by their path at the proxy; the longest beginning counts.
        issued: What is answered to whoever asks for a key; `issuing` answers instead, where it is set.
    """

    def __init__(self, **issued: Any) -> None:
        self.seen: list[Arrived] = []
        self.managed: list[Arrived] = []
        self.answers: dict[str, Answered | Callable[[Arrived], Answered]] = {}
        self.issued: Answered = Answered(201, issued or {"vault_key": KEY, "key_id": "k1"})
        self.issuing: Callable[[Arrived], Answered] | None = None
        self.health = Answered(404, {"error": "Not found"})

    def __enter__(self) -> RecordingProxy:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def targets(self) -> list[str]:
        """Where the calls went."""
        return [f"{one.method} {one.target}" for one in self.seen]

    def answer(self, request: Arrived) -> Answered:
        """Record a request, and say what is answered."""
        path = request.target.partition("?")[0]
        if path == "/healthz":
            return self.health
        if path.startswith(("/vault/", "/v1/keys")):
            self.managed.append(request)
            if request.method != "POST":
                return Answered()
            return self.issued if self.issuing is None else self.issuing(request)
        self.seen.append(request)
        found = self.answers.get(max((name for name in self.answers if path.startswith(name)), key=len, default=""), Answered())
        return found(request) if callable(found) else found


class _Server(ThreadingHTTPServer):
    proxy: RecordingProxy
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the standard library's name
        """Say nothing."""

    def _do(self) -> None:
        if self.headers.get("transfer-encoding", "") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        found = cast("_Server", self.server).proxy.answer(Arrived(self.command, self.path, headers, content))
        payload = found.body if isinstance(found.body, bytes) else json.dumps(found.body).encode()
        self.send_response(found.status)
        for name, value in {"Content-Type": "application/json", **found.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do  # noqa: N815 -- the standard library's names
