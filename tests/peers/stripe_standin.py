"""A Stripe that answers every operation of its OpenAPI with an object of the right shape, and keeps nothing: `python -m` this."""

from __future__ import annotations

import json
import sys
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support_stripe_spec import answered, operations

# Stripe's suite has it in its text.
PORT = 12111
READY = "ready"
# The suite compares it.
_BINARY = b"Stripe binary response"
_UNKNOWN = json.dumps({"error": {"type": "invalid_request_error", "message": "Unrecognized request URL"}}).encode()


class Routes:
    """The operations by method and number of path segments, so that few templates are compared; fewest parameters first."""

    def __init__(self) -> None:
        self._templates: dict[tuple[str, int], list[tuple[str, list[str]]]] = {}
        for method, path in sorted(operations(), key=lambda operation: operation[1].count("{")):
            segments = path.split("/")
            self._templates.setdefault((method, len(segments)), []).append((path, segments))

    def find(self, method: str, path: str) -> tuple[str, list[str]] | None:
        """Return the path template that a request meets, and the request's own segments; None where the spec knows none."""
        asked = path.rstrip("/").split("/")
        for template, segments in self._templates.get((method, len(asked)), ()):
            if all(segment == given or segment.startswith("{") for segment, given in zip(segments, asked, strict=True)):
                return template, [unquote(given) for given in asked]
        return None


@cache
def answer(method: str, template: str) -> Any:
    """Build an operation's answer once."""
    return answered(method, template)


@cache
def named_by(method: str, template: str) -> int | None:
    """Say which path segment is the id of the object in the answer: the last, or the one before an action on it; None for new ones."""
    parent = template.rpartition("/")[0]
    if template.endswith("}"):
        return -1
    is_on_object = parent.endswith("}") and ("GET", parent) in operations()
    if is_on_object and answer("GET", parent).get("object") == (answer(method, template) or {}).get("object"):
        return -2
    return None


class Handler(BaseHTTPRequestHandler):
    """Answers; what was asked leaves no trace."""

    protocol_version = "HTTP/1.1"
    # Without this the second packet of each answer waits for the client's delayed ACK.
    disable_nagle_algorithm = True
    routes: Routes

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer a read."""
        self._respond()

    def do_POST(self) -> None:
        """Answer a write, whatever is in it."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._respond()

    def do_DELETE(self) -> None:
        """Answer a removal."""
        self._respond()

    def _respond(self) -> None:
        found = self.routes.find(self.command, urlsplit(self.path).path)
        if found is None:
            self._write(404, "application/json", _UNKNOWN)
            return
        template, segments = found
        body = answer(self.command, template)
        if body is None:
            self._write(200, "application/pdf", _BINARY)
            return
        place = named_by(self.command, template)
        named = {**body, "id": segments[place]} if place and "id" in body else body
        self._write(200, "application/json", json.dumps(named).encode())

    def _write(self, status: int, kind: str, payload: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("Request-Id", "req_standin")
        self.end_headers()
        self.wfile.write(payload)


class Server(ThreadingHTTPServer):
    """One thread a connection; two of pytest's workers and their clients come at once."""

    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no error of the stand-in."""


def main() -> None:
    """Listen, say so on stdout, and answer until stopped."""
    Handler.routes = Routes()
    with Server(("127.0.0.1", PORT), Handler) as server:
        sys.stdout.write(f"{READY}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
