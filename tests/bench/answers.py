"""What a canned Stripe answers: a new, paid intent each time, of every field that Stripe's OpenAPI gives one. Also as a server."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support_stripe_spec import schema

# Building the SDK's object from these is most of what a bare call costs.
_SAID: dict[str, Any] = {
    "object": "payment_intent", "amount": 2000, "amount_received": 2000, "amount_capturable": 0, "amount_details": {"tip": {}},
    "capture_method": "automatic_async", "confirmation_method": "automatic", "created": 1785715279, "currency": "usd", "customer": "cus_1",
    "livemode": False, "metadata": {}, "payment_method": "pm_1", "payment_method_types": ["card"], "status": "succeeded",
    "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
}  # fmt: skip


class Answers:
    """Makes the bodies of replies."""

    def __init__(self) -> None:
        empty = dict.fromkeys(schema("payment_intent")["properties"])
        self._text = json.dumps(empty | _SAID | {"id": "pi_%d", "latest_charge": "ch_%d"})
        self._made = 0

    def next(self) -> str:
        """Return the next reply's body."""
        self._made += 1
        number = 10**12 + self._made  # ids of one length, in order, as Stripe's begin with the time
        return self._text % (number, number)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as Stripe keeps them
    answers: Answers

    def do_POST(self) -> None:
        """Answer a new, paid intent."""
        self.rfile.read(int(self.headers["Content-Length"]))
        body = self.answers.next().encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nRequest-Id: req_1\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the standard library's signature
        """Print nothing."""


def serve() -> None:
    """Serve on a free loopback port, printed, until killed: a process of its own, so that it takes no time from the caller's."""
    _Handler.answers = Answers()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
