"""Answers that come in parts: passed on as they come, settled when they end, whoever is gone by then."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.proxy.support import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


class Streaming:
    """A vendor whose every part is let go by the test."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.go = threading.Semaphore(0)
        self.left = threading.Event()
        self.arrived = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.arrived.set()
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for part in outer.parts:
                        while not outer.go.acquire(timeout=0.1):
                            self._look()
                        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    self.close_connection = True
                    outer.left.set()

            do_GET = do_POST  # noqa: N815 -- the standard library's names

            def _look(self) -> None:
                """Find out whether whoever asked is still there."""
                self.connection.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    if self.connection.recv(1, socket.MSG_PEEK) == b"":
                        raise OSError("gone")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def play(self, *documents: Any) -> None:
        """Set what is streamed next."""
        self.parts = [f"data: {json.dumps(document)}\n\n".encode() for document in documents]
        self.left.clear()
        self.arrived.clear()


@pytest.fixture(scope="module")
def vendor() -> Iterator[Streaming]:
    """The vendor."""
    found = Streaming()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def proxy(vendor: Streaming, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that was told of the vendor."""
    options = {"imports": "tests.proxy.sse_vendor", "settle_seconds": 10}
    with Proxy(
        tmp_path_factory.mktemp("streams"), vendor.url, **options, secrets="acme=env:STRIPE_SECRET_KEY", upstreams=f"acme={vendor.url}"
    ) as found:
        yield found


def stream(proxy: Proxy, token: str, method: str = "POST", path: str = "/acme/api.acme.example/v1/streams") -> Any:
    """Begin to ask."""
    return httpx.stream(method, proxy.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False)


def settled(proxy: Proxy, key_id: str) -> dict[str, Any]:
    """Wait until nothing is held any more."""
    for _ in range(200):
        shown = proxy.shown(key_id)
        if not shown["held_usd"]:
            return shown
        threading.Event().wait(0.05)
    raise AssertionError("it is still held")


def test_parts_come_as_they_come(proxy: Proxy, vendor: Streaming) -> None:
    """Each event is at the client before the next one has left the vendor, and what the last one says is what is counted."""
    vendor.play({"n": 1}, {"n": 2}, {"usd": 0.2})
    key = proxy.issue(run_usd_cap=1)
    with stream(proxy, key["token"]) as answer:
        lines = answer.iter_lines()
        seen = []
        for _ in range(3):
            vendor.go.release()
            seen.append(next(line for line in lines if line))
            if len(seen) == 1:
                assert proxy.shown(key["key_id"])["held_usd"] == 0.5

    assert [json.loads(line.removeprefix("data: ")) for line in seen] == [{"n": 1}, {"n": 2}, {"usd": 0.2}]
    assert (settled(proxy, key["key_id"])["spent_usd"], proxy.shown(key["key_id"])["in_doubt_usd"]) == (0.2, 0)


def test_client_that_leaves_a_paid_stream(proxy: Proxy, vendor: Streaming) -> None:
    """A client that hangs up after the first part: the answer is read to its end all the same, and its cost is known."""
    vendor.play({"n": 1}, {"n": 2}, {"usd": 0.3})
    key = proxy.issue(run_usd_cap=1)
    with stream(proxy, key["token"]) as answer:
        vendor.go.release()
        next(answer.iter_raw())
    vendor.go.release(2)

    assert settled(proxy, key["key_id"])["spent_usd"] == 0.3


@pytest.mark.ci
def test_client_that_leaves_before_the_answer(proxy: Proxy, vendor: Streaming) -> None:
    """A client that hangs up while the vendor works: the call ends as if he were there."""
    vendor.play({"usd": 0.4})
    key = proxy.issue(run_usd_cap=1)
    with proxy.wire() as connection:
        head = f"POST /acme/api.acme.example/v1/streams HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key['token']}\r\n"
        connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
        assert vendor.arrived.wait(20)
    vendor.go.release()

    assert settled(proxy, key["key_id"])["spent_usd"] == 0.4


@pytest.mark.ci
def test_client_that_leaves_a_free_stream(proxy: Proxy, vendor: Streaming) -> None:
    """A stream that costs nothing ends with its client: nothing is read for nobody."""
    vendor.play({"n": 1}, {"n": 2})
    with stream(proxy, proxy.token(), "GET") as answer:
        vendor.go.release()
        next(answer.iter_raw())

    assert vendor.left.wait(20)


@pytest.mark.ci
def test_vendor_that_breaks_off(proxy: Proxy, vendor: Streaming) -> None:
    """A secret's length of stars, an answer that breaks off: the client sees it break off, and the call is settled at what was held."""
    vendor.play({"n": 1}, {"n": 2})
    key = proxy.issue(run_usd_cap=1)
    began = time.monotonic()
    with stream(proxy, key["token"]) as answer:
        vendor.go.release(2)
        assert b"".join(answer.iter_raw()).count(b"data:") == 2

    # Nothing said what it cost: it is not less than the bound.
    assert settled(proxy, key["key_id"])["spent_usd"] == 0.5
    assert time.monotonic() - began < 30


@pytest.mark.ci
def test_vendor_of_two_hosts_is_asked_by_host(proxy: Proxy) -> None:
    """Where no host is the main one, a path without a host is 404, and says how it is written."""
    answer = proxy.call(proxy.token(), "GET", "/acme/v1/jobs")

    assert (answer.status_code, "/acme/HOST/" in answer.json()["message"]) == (404, True)


@pytest.mark.ci
def test_download_is_not_gathered(proxy: Proxy, vendor: Streaming, record_property: Any) -> None:
    """A long answer goes through in parts: 64 MiB leave no trace in the proxy's memory."""
    from tests.proxy.test_walls import resident

    vendor.parts = [b"x" * 1_048_576] * 64
    before = resident(proxy.process.pid)
    vendor.go.release(64)
    with stream(proxy, proxy.token(), "GET") as answer:
        size = sum(len(part) for part in answer.iter_raw())
    grown = resident(proxy.process.pid) - before
    record_property("grown_mib", grown)

    assert size == 64 * 1_048_576
    assert grown < 24
