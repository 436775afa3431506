"""
The double's HTTP/1.1 on loopback: requests are read whole, vendors' answers passed on in parts as they come. Decides nothing.
Reconstructed from public pages of keybrake.com, read in November 2026; this is not Keybrake.
"""

from __future__ import annotations

import contextlib
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, cast

from keyguard.testing._listening import Connections, answer_json
from keyguard.testing.keybrake.contract import Answer

if TYPE_CHECKING:
    from keyguard.testing.keybrake.double import KeybrakeDouble, Sending

_PATIENCE = 60.0  # seconds for each part of a vendor's answer
_PART = 65_536  # bytes
# RFC 9110, 7.6.1, and what is made anew for the vendor.
_OWN = frozenset({
    "authorization", "connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
    "upgrade",
})  # fmt: skip


class Listener(Connections):
    """The double's own socket."""

    def __init__(self, double: KeybrakeDouble, broken: list[BaseException]) -> None:
        self.double = double
        super().__init__(0, Handler, broken)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # Without this the second packet of each answer waits for the client's delayed ACK.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the standard library's name
        """Say nothing."""

    def handle(self) -> None:
        """Answer requests until one side ends; the client's end is no error."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _answer(self) -> None:
        double = cast("Listener", self.server).double
        content = self._content()
        if content is None:
            # A request that was cut off never arrived.
            self.close_connection = True
            return
        found = double.asked(self.command, self.path, self.headers.get("Authorization", ""), content)
        if isinstance(found, Answer):
            answer_json(self, found.status, found.body)
        else:
            self._forward(double, found, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 -- the standard library's names

    def _content(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            said = self.headers.get("Content-Length", "0")
            content = self.rfile.read(int(said)) if said.isdecimal() else b""
            return content if said.isdecimal() and len(content) == int(said) else None
        parts: list[bytes] = []
        while size := int(self.rfile.readline().partition(b";")[0] or b"-1", 16):
            if size < 0:
                return None
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, double: KeybrakeDouble, sending: Sending, content: bytes) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
        headers |= {"Authorization": sending.authorization, "Host": sending.host or sending.upstream}
        with contextlib.closing(HTTPConnection(sending.upstream, timeout=_PATIENCE)) as vendor:
            try:
                vendor.request(self.command, sending.path, content or (b"" if self.command == "POST" else None), headers)
                answer = vendor.getresponse()
            except (OSError, HTTPException):
                double.answered(sending, self.command, 502)
                answer_json(self, 502, {"error": "The vendor did not answer"})
                return
            double.answered(sending, self.command, answer.status)
            try:
                self._pass_on(answer)
            except (OSError, HTTPException):
                # The client sees what the double saw: an answer that breaks off.
                self.close_connection = True

    def _pass_on(self, answer: HTTPResponse) -> None:
        self.send_response_only(answer.status, answer.reason)
        length = answer.headers.get("Content-Length")
        for name, value in answer.getheaders():
            if name.lower() not in _OWN:
                self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", length)
        elif answer.status not in {204, 304}:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        is_chunked = length is None and answer.status not in {204, 304}
        sent = 0
        while part := answer.read1(_PART):
            sent += len(part)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
        if is_chunked:
            self.wfile.write(b"0\r\n\r\n")
        elif sent < int(length or 0):
            self.close_connection = True
