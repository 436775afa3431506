"""A world's HTTP/1.1 server on loopback: reads requests whole, and delivers answers as the faults want it. Decides nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import traceback
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, cast

from keyguard.testing._listening import Connections, answer_json
from keyguard.testing.double.world import Closing

if TYPE_CHECKING:
    from keyguard.testing.double.messages import Answer
    from keyguard.testing.double.world import Delivery, World

# Bytes of a body; no request of these vendors comes near it.
_LONGEST = 8 * 1024 * 1024


class Listener(Connections):
    """
    A world's own.

    Args:
        port: 0 = any that is free.
        world: What answers.
    """

    def __init__(self, port: int, world: World) -> None:
        self.world = world
        super().__init__(port, Handler, world.broken)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # Without this the second packet of each answer waits for the client's delayed ACK.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the standard library's name
        """Say nothing."""

    @property
    def _listener(self) -> Listener:
        return cast("Listener", self.server)

    def handle(self) -> None:
        """Answer requests until one side ends; the client's end is no error."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _answer(self) -> None:
        said = self.headers.get("Content-Length", "0")
        # A body in chunks would be read as none; no SDK of these vendors sends one.
        wrong = 411 if "Transfer-Encoding" in self.headers else 413 if said.isdecimal() and int(said) > _LONGEST else 0
        if wrong or not said.isdecimal():
            self.close_connection = True
            self.send_error(wrong or 400)
            return
        length = int(said)
        headers = {name.lower(): value for name, value in self.headers.items()}
        content = self.rfile.read(length)
        # A request that was cut off never arrived.
        if len(content) < length:
            self.close_connection = True
            return
        try:
            delivery = self._listener.world.play(self.command, self.path, headers, content)
        except Closing:
            self.close_connection = True
            return
        except Exception as error:
            self._listener.world.broken.append(error)
            self.close_connection = True
            traceback.print_exc()
            return
        self._deliver(delivery)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer  # noqa: N815 -- the standard library's names

    def _deliver(self, delivery: Delivery) -> None:
        answer, fault = delivery.answer, delivery.fault
        kind = "pass" if fault is None else fault.kind
        if kind in {"reset_before", "reset_after"}:
            self._listener.abort(self.connection)
        if answer is None or kind in {"close_after", "reset_after"}:
            self.close_connection = True
            return
        if kind == "garble":
            answer = replace(answer, payload=answer.payload[: len(answer.payload) // 2])
        self._send_head(answer)
        if fault is not None and kind == "drip":
            self._drip(answer.payload, fault.seconds)
        elif kind == "truncate":
            self.wfile.write(answer.payload[: len(answer.payload) // 2])
            self.close_connection = True
        else:
            self.wfile.write(answer.payload)

    def _send_head(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(answer.payload)), **answer.headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            # Asked for by the client, which would otherwise keep a connection that is about to end.
            self.send_header("Connection", "close")
        self.end_headers()

    def _drip(self, payload: bytes, seconds: float) -> None:
        for at in range(len(payload)):
            # Nothing more is asked before the answer is there: what can be read meanwhile is the end.
            self.connection.settimeout(seconds)
            try:
                self.connection.recv(1, socket.MSG_PEEK)
            except (TimeoutError, BlockingIOError):
                self.connection.settimeout(None)
                self.wfile.write(payload[at : at + 1])
            else:
                self.close_connection = True
                return


class ControlHandler(BaseHTTPRequestHandler):
    """One connection of the control endpoint: `POST /_double/NAME`, arguments and answer as JSON; of an error, its name and text."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the standard library's name
        """Say nothing."""

    def do_POST(self) -> None:
        """Do what is asked; an error goes back as its text."""
        arguments = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        try:
            status, body = 200, cast("Any", self.server).asked(self.path.removeprefix("/_double/"), arguments)
        except Exception as error:
            status, body = 400, [type(error).__name__, str(error)]
        answer_json(self, status, body)
