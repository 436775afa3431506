"""A vendor at the level of the socket: reads whole requests, executes them, and then does to the connection what a test says."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING, Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Way = Literal["answer", "hang up", "reset", "cut short", "stay silent"]
_INTENT = {
    "id": "pi_1", "object": "payment_intent", "amount": 100, "amount_received": 100, "amount_capturable": 0, "currency": "usd",
    "status": "succeeded", "latest_charge": "ch_1",
}  # fmt: skip
# Linger for no time: the close sends a reset.
_RESET = struct.pack("ii", 1, 0)


class Wire:
    """
    Listens on loopback; executes each POST before anything else happens.

    Args:
        way: What it does then.
        status: What it answers; other than 200 is not executed.
        certificate: Speak TLS with this file's key and certificate.
        body: What it answers with that status; None = a succeeded PaymentIntent.

    Attributes:
        executed: How many POSTs were executed.
        arrived: Set when the first one was.
    """

    def __init__(
        self, way: Way = "answer", status: int = 200, certificate: Path | None = None, body: Mapping[str, Any] | None = None
    ) -> None:
        self._way, self._status, self._body = way, status, body or _INTENT
        self.arrived = threading.Event()
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self.executed = 0
        self._over = threading.Event()

    def __enter__(self) -> Wire:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        # Wakes whoever accepts.
        with contextlib.suppress(OSError), socket.create_connection(self._listening.getsockname()):
            pass
        for thread in self._threads:
            thread.join(10)
        self._listening.close()

    @property
    def host(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http{'s' if self._tls else ''}://{self.host}"

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            if self._over.is_set():
                connection.close()
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        # A client that does not trust us, or that went away.
        with connection, contextlib.suppress(OSError):
            wire = connection if self._tls is None else self._tls.wrap_socket(connection, server_side=True)
            with wire, wire.makefile("rb") as reading:
                method = _read_request(reading)
                if method == "POST" and self._status == 200:
                    self.executed += 1
                    self.arrived.set()
                self._end(wire)

    def _end(self, wire: socket.socket) -> None:
        body = json.dumps(self._body if self._status == 200 else {"error": {"message": "scripted", "type": "card_error"}}).encode()
        head = f"HTTP/1.1 {self._status} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        if self._way == "reset":
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        elif self._way == "cut short":
            wire.sendall(head.encode() + body[:10])
        elif self._way == "answer":
            wire.sendall(head.encode() + body)
        elif self._way == "stay silent":
            self._over.wait(30)


def _read_request(reading: object) -> str:
    lines: list[bytes] = list(iter(reading.readline, b"\r\n"))  # type: ignore[attr-defined]  # -- a socket's file
    length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length")), 0)
    reading.read(length)  # type: ignore[attr-defined]  # -- a socket's file
    return lines[0].split(b" ")[0].decode()


def self_signed(path: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1 that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(pem))
    return path
