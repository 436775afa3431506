"""A loopback Stripe that keeps its own truth: PaymentIntents, charges, refunds, on the shared test server."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable


class _Server(ThreadingHTTPServer):
    """Tells how many connections it has accepted and not yet ended."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Any, count: Callable[[int], None]) -> None:
        self._count = count
        super().__init__(address, handler)

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no error of the stand-in."""

    def process_request(self, *accepted: Any) -> None:
        """Count it before its thread begins."""
        self._count(1)
        super().process_request(*accepted)

    def shutdown_request(self, request: Any) -> None:
        """Count it as ended."""
        super().shutdown_request(request)
        self._count(-1)


@dataclass
class StripeServer:
    """
    Executes every POST to payment_intents and charges at once, whatever the guard thinks of it.

    Attributes:
        charges: The forms of all executed charges, in order of arrival: the truth.
        requests: (method, path, headers) of everything that arrived.
        delay: While set to an event, answers wait for it after executing.
        drop_answers: Execute, then close the connection without a word.
        statuses: Answers to the next POSTs, which are then not executed.
        location: Redirect every GET to this path.
    """

    charges: list[dict[str, str]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    delay: threading.Event | None = None
    drop_answers: bool = False
    statuses: list[int] = field(default_factory=list)
    location: str = ""
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    _connections: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> StripeServer:
        ids = itertools.count(1)
        lock = threading.Lock()
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Without this the second packet of each answer waits for the client's delayed ACK.
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                with lock:
                    world.requests.append(("GET", self.path, dict(self.headers.items())))
                if world.location and self.path != world.location:
                    self.send_response(307)
                    self.send_header("Location", world.location)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                found = world.intents.get(urlsplit(self.path).path.rpartition("/")[2])
                self._answer(200, found or {"object": "list", "data": list(world.intents.values()), "has_more": False})

            def do_POST(self) -> None:
                form = dict(parse_qsl(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()))
                path = urlsplit(self.path).path
                with lock:
                    world.requests.append(("POST", path, dict(self.headers.items())))
                    if world.statuses:
                        self._answer(world.statuses.pop(0), {"error": {"message": "scripted", "type": "api_error"}})
                        return
                    body = world._execute(path, form, next(ids))
                if world.drop_answers:
                    self.close_connection = True
                    return
                if world.delay is not None:
                    world.delay.wait(30)
                self._answer(200, body)

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                payload = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.send_header("Request-Id", "req_test")
                self.end_headers()
                self.wfile.write(payload)

        self._server = _Server(("127.0.0.1", 0), Handler, self._count)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.delay is not None:
            self.delay.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_until_quiet(self) -> None:
        """Wait until nobody is connected: what a client that went away had sent is executed then, or never."""
        # Connections are accepted in their order: after this one, all earlier ones are counted.
        with contextlib.closing(HTTPConnection(self.host, timeout=10)) as last:
            last.request("GET", "/quiet", headers={"Connection": "close"})
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
        """Its base for `stripe.api_base`."""
        return f"http://{self.host}"

    @property
    def total(self) -> int:
        """Cents that were really charged."""
        return sum(int(form["amount"]) for form in self.charges)

    def _execute(self, path: str, form: dict[str, str], n: int) -> dict[str, Any]:
        _, _, kind, *rest = path.split("/")
        if kind == "refunds":
            return {"id": f"re_{n}", "object": "refund", "amount": int(form["amount"]), "currency": "usd", "status": "succeeded",
                    "payment_intent": form.get("payment_intent"), "charge": form.get("charge")}  # fmt: skip
        found = self.intents.get(rest[0]) if rest else None
        if found is None:
            found = {"id": f"pi_{n}", "object": "payment_intent", "amount": int(form.get("amount", "0")), "amount_received": 0,
                     "amount_capturable": 0, "currency": form.get("currency", "usd"), "status": "requires_confirmation",
                     "latest_charge": None, "metadata": {}, "customer": form.get("customer")}  # fmt: skip
            self.intents[str(found["id"])] = found
        if form.get("confirm") == "true" or (rest and rest[-1] == "confirm"):
            self.charges.append({**form, "amount": str(found["amount"])})
            found |= {"status": "succeeded", "amount_received": found["amount"], "latest_charge": f"ch_{n}"}
        if rest and rest[-1] == "cancel":
            found["status"] = "canceled"
        return found
