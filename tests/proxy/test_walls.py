"""What hostile clients send: other hosts, two lengths, folded lines, endless heads and bodies. Nothing of it goes further than it may."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.proxy.support import ADMIN, RESEND_SECRET, STRIPE_SECRET, TWILIO_SECRET, Proxy
from tests.support_json_server import Answer, Arrived, JsonServer

if TYPE_CHECKING:
    from collections.abc import Iterator


def echoed(arrived: Arrived) -> Answer:
    """Answer with all that arrived: what no vendor does, so that a secret in an answer is seen."""
    if arrived.path.endswith("/moved"):
        return Answer(307, {}, {"Location": "http://127.0.0.1:1/elsewhere"})
    said = {"path": arrived.path, "headers": arrived.headers, "body": arrived.content.decode("latin-1")}
    return Answer(
        200, said, {"X-Echo": arrived.headers.get("authorization", ""), "Set-Cookie": "a=b", "Connection": "X-Private", "X-Private": "1"}
    )


@pytest.fixture(scope="module")
def vendor() -> Iterator[JsonServer]:
    """A vendor that repeats what it is sent."""
    with JsonServer(echoed) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(vendor: JsonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with small limits."""
    options = {"max_body_bytes": 100_000, "max_buffered_bytes": 300_000, "head_seconds": 1, "body_seconds": 1, "max_connections": 400}
    with Proxy(tmp_path_factory.mktemp("walls"), vendor.url, **options) as found:
        yield found


@pytest.fixture(scope="module")
def token(proxy: Proxy) -> str:
    """A key that may do what it likes."""
    return proxy.token(run_usd_cap=1000, unpriced="allow")


def raw(token: str, target: str = "/stripe/v1/customers/c", method: str = "GET", more: str = "", body: str = "") -> bytes:
    """Write a request by hand."""
    return f"{method} {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n{more}\r\n{body}".encode(
        "latin-1"
    )


def status(answer: bytes) -> int:
    """Return an answer's status; 0 = none."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.mark.parametrize(
    "target",
    [
        "/stripe/../twilio/x",
        "/stripe/v1/./customers",
        "/stripe/v1/%2e%2e/customers",
        "/stripe/v1/customers%2fc",
        "/stripe/v1/customers%5Cc",
        "/stripe/%00",
        "/stripe/v1/customers/c#x",
        "/stripe/v1/a b",
        "/stripe/v1/a\\b",
        "/stripe\\@evil/",
        "http://169.254.169.254/latest",
        "http://evil.example/stripe/v1/charges",
        "//evil.example/v1",
        "/@evil.example/v1",
        "/stripe@evil.example/v1",
        "*",
        "evil.example:443",
        "/evil.example/v1/charges",
        "/169.254.169.254/latest",
        "/localhost/x",
        "/",
        "/stripe%2Fv1/customers",
        "/STRIPE/v1/customers",
        "/vault%2Fkeys",
        "/stripe/v1/\xe9",
    ],
)
def test_targets_that_lead_elsewhere(proxy: Proxy, vendor: JsonServer, token: str, target: str) -> None:
    """A target that names another host, or can be read in two ways, is 400 or 404, and nothing is sent anywhere."""
    before = len(vendor.requests)
    answer = proxy.told(raw(token, target))

    assert status(answer) in {400, 401, 404}, answer[:300]
    assert len(vendor.requests) == before


@pytest.mark.parametrize(
    "segment", ["evil.example", "api.stripe.com.evil.example", "evil-stripe.com", "api.stripe.com:8443", "api.stripe.com@evil", "127.0.0.1"]
)
def test_hosts_that_are_not_the_vendors(proxy: Proxy, vendor: JsonServer, token: str, segment: str) -> None:
    """A host that the vendor does not claim is no host: it is a part of the path, to the vendor's own."""
    before = len(vendor.requests)
    answer = proxy.told(raw(token, f"/stripe/{segment}/v1/customers/c"))

    assert status(answer) == 200
    assert [(one.headers["host"], one.path) for one in vendor.requests[before:]] == [("api.stripe.com", f"/{segment}/v1/customers/c")]


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        ("/stripe/v1/customers/c", "api.stripe.com", "/v1/customers/c"),
        ("/stripe/files.stripe.com/v1/files/f", "files.stripe.com", "/v1/files/f"),
        ("/twilio/verify.twilio.com/v2/Services", "verify.twilio.com", "/v2/Services"),
        ("/twilio/api.dublin.ie1.twilio.com/2010-04-01/Accounts.json", "api.dublin.ie1.twilio.com", "/2010-04-01/Accounts.json"),
        ("/twilio/2010-04-01/Accounts.json?Page=1&To=%2B1", "api.twilio.com", "/2010-04-01/Accounts.json?Page=1&To=%2B1"),
        ("/resend/emails/e", "api.resend.com", "/emails/e"),
    ],
)
def test_hosts_that_are(proxy: Proxy, vendor: JsonServer, token: str, target: str, host: str, path: str) -> None:
    """The main host without a name, and each claimed host by its name, whatever the client's Host header says."""
    answer = proxy.told(raw(token, target))

    assert status(answer) == 200
    assert (vendor.requests[-1].headers["host"], vendor.requests[-1].path) == (host, path)


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "PROPFIND", "post"])
def test_methods(proxy: Proxy, vendor: JsonServer, token: str, method: str) -> None:
    """No tunnel, no trace, nothing that no vendor has."""
    before = len(vendor.requests)

    assert status(proxy.told(raw(token, method=method))) in {400, 405}
    assert status(proxy.told(raw(token, "api.stripe.com:443", method=method))) in {400, 405}
    assert len(vendor.requests) == before


@pytest.mark.parametrize(
    "more",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nContent-Length: 30\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length: -1\r\n",
        "Content-Length : 4\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Authorization: Bearer vault_key_other\r\n",
        "Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
        "Stripe-Account: a\r\nStripe-Account: b\r\n",
        "Host: other\r\n",
        "X: a\x00b\r\n",
        ": empty\r\n",
    ],
)
def test_two_readers_could_disagree(proxy: Proxy, vendor: JsonServer, token: str, more: str) -> None:
    """A request that two readers could take for two, or for one and the beginning of another, is refused, and its connection ends."""
    before = len(vendor.requests)
    smuggled = "1=2\r\n\r\nGET /stripe/v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = proxy.told(raw(token, "/stripe/v1/customers", "POST", more, smuggled).replace(b"Connection: close\r\n", b""))

    assert (status(answer), answer.count(b"HTTP/1.1 ")) in {(400, 1), (501, 1)}, answer
    assert len(vendor.requests) == before


@pytest.mark.parametrize(
    "more", ["Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 60\r\n"]
)
def test_two_lengths_of_which_each_fits(proxy: Proxy, vendor: JsonServer, token: str, more: str) -> None:
    """A length and chunks are refused also where both can be read: what is a body to one reader is the next request to the other."""
    before = len(vendor.requests)
    smuggled = f"0\r\n\r\nGET /stripe/v1/smuggled HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    answer = proxy.told(raw(token, "/stripe/v1/customers", "POST", more, smuggled).replace(b"Connection: close\r\n", b""))

    assert (status(answer), answer.count(b"HTTP/1.1 ")) == (400, 1), answer
    assert len(vendor.requests) == before


def test_folded_header_is_one_line(proxy: Proxy, vendor: JsonServer, token: str) -> None:
    """A folded header goes on as one line (RFC 9112, 5.2), so that nothing hides behind its fold."""
    answer = proxy.told(raw(token, more="X-Folded: a\r\n Authorization: Bearer x\r\n"))

    assert status(answer) == 200
    assert vendor.requests[-1].headers["x-folded"] == "a Authorization: Bearer x"
    assert vendor.requests[-1].headers["authorization"] == f"Bearer {STRIPE_SECRET}"


def test_what_goes_up(proxy: Proxy, vendor: JsonServer, token: str) -> None:
    """The vendor gets its own headers: nothing of one connection, of traces, of who stands before us, and the real secret for the token."""
    more = "".join(
        f"{name}: secret-of-one-hop\r\n"
        for name in ("Keep-Alive", "Proxy-Authorization", "TE", "Trailer", "Upgrade", "X-Forwarded-For", "Forwarded", "Via", "Cookie",
                     "X-Agent-Run-Id", "baggage", "tracestate", "X-Named")
    )  # fmt: skip
    more += "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nStripe-Version: 2026-01-01\r\nConnection: X-Named\r\n"
    proxy.told(raw(token, more=more).replace(b"Connection: close\r\n", b""))
    got = vendor.requests[-1].headers

    assert sorted(got) == ["accept-encoding", "authorization", "host", "stripe-version"]
    assert (got["authorization"], got["stripe-version"], got["accept-encoding"]) == (f"Bearer {STRIPE_SECRET}", "2026-01-01", "identity")


@pytest.mark.parametrize(("path", "secret"), [("/stripe/v1/customers/c", STRIPE_SECRET), ("/resend/emails/e", RESEND_SECRET)])
def test_what_comes_down(proxy: Proxy, token: str, path: str, secret: str) -> None:
    """Of a vendor that repeats the secret the client gets stars, as many as it had letters; no cookie, and nothing of one connection."""
    answer = proxy.call(token, "GET", path)

    assert answer.json()["headers"]["authorization"] == answer.headers["x-echo"] == f"Bearer {'*' * len(secret)}"
    assert [name for name in ("set-cookie", "x-private") if name in answer.headers] == []


def test_basic_comes_down_starred(proxy: Proxy, token: str) -> None:
    """In Basic the secret is in base64, and is covered there as well."""
    answer = httpx.get(f"{proxy.url}/twilio/2010-04-01/Accounts.json", auth=("AC1", token), trust_env=False)

    assert set(answer.json()["headers"]["authorization"].removeprefix("Basic ")) == {"*"}
    assert TWILIO_SECRET not in answer.text


@pytest.mark.parametrize(
    "more", ["X-Other: {token}\r\n", "X-Other: Basic {basic}\r\n", "Cookie: a={token}\r\nX-Api-Key: {token}\r\n"],
)  # fmt: skip
def test_token_in_another_place(proxy: Proxy, vendor: JsonServer, token: str, more: str) -> None:
    """A token that would go to the vendor, in a header or a query where no secret takes its place, stops the request."""
    before = len(vendor.requests)
    said = more.format(token=token, basic=base64.b64encode(f"x:{token}".encode()).decode())

    assert status(proxy.told(raw(token, more=said))) == 403
    assert status(proxy.told(raw(token, f"/stripe/v1/customers/c?key={token}"))) == 400
    assert len(vendor.requests) == before


def test_redirects_are_the_clients(proxy: Proxy, token: str) -> None:
    """A vendor's redirect comes down as it is, and is not followed."""
    answer = proxy.call(token, "GET", "/stripe/v1/customers/moved")

    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:1/elsewhere")


def test_long_bodies(proxy: Proxy, vendor: JsonServer, token: str) -> None:
    """A body longer than the limit is 413, whether it says so or comes in chunks; one that fits goes through whole."""
    before = len(vendor.requests)
    said = "Content-Type: text/plain\r\n"

    assert status(proxy.told(raw(token, "/stripe/v1/x", "POST", f"{said}Content-Length: 100001\r\n"))) == 413
    chunk = f"{50_000:x}\r\n{'a' * 50_000}\r\n"
    assert status(proxy.told(raw(token, "/stripe/v1/x", "POST", f"{said}Transfer-Encoding: chunked\r\n", chunk * 3 + "0\r\n\r\n"))) == 413
    assert len(vendor.requests) == before
    assert status(proxy.told(raw(token, "/stripe/v1/x", "POST", f"{said}Transfer-Encoding: chunked\r\n", chunk * 2 + "0\r\n\r\n"))) == 200
    assert len(vendor.requests[-1].content) == 100_000


def test_unknown_token_has_no_body_read(proxy: Proxy) -> None:
    """Who has no key gets his 401 before a byte of his body is there."""
    with proxy.wire() as connection:
        connection.sendall(raw("vault_key_guess", "/stripe/v1/x", "POST", "Content-Length: 50000\r\n"))

        assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")


def test_long_heads(proxy: Proxy, token: str) -> None:
    """A head longer than the limit is 400, and not kept."""
    assert status(proxy.told(raw(token, more=f"X-Long: {'a' * 40_000}\r\n"))) in {400, 431}


@pytest.mark.parametrize("begun", [b"", b"GET /stripe/v1/customers HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea"])
def test_slow_heads(proxy: Proxy, begun: bytes) -> None:
    """A connection on which no whole head arrives in time is ended: the first one's, and that of each that follows."""
    with proxy.wire() as connection:
        connection.sendall(begun)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65_536):
                pass


@pytest.mark.ci
def test_slow_bodies(proxy: Proxy, vendor: JsonServer, token: str) -> None:
    """A body that stops halfway is 408, and nothing is sent."""
    before = len(vendor.requests)
    with proxy.wire() as connection:
        connection.sendall(raw(token, "/stripe/v1/x", "POST", "Content-Length: 50\r\n", "a=b"))

        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")
    assert len(vendor.requests) == before


def test_client_that_leaves_its_body_unfinished(proxy: Proxy, vendor: JsonServer, token: str) -> None:
    """A client that hangs up before its body is whole has sent nothing, and holds nothing."""
    before = len(vendor.requests)

    with proxy.wire() as connection:
        connection.sendall(raw(token, "/stripe/v1/x", "POST", "Content-Length: 50\r\n", "a=b"))
    assert proxy.ask("GET", "/readyz").status_code == 200
    assert len(vendor.requests) == before


@pytest.mark.ci
def test_buffered_bytes_are_bounded(proxy: Proxy, token: str) -> None:
    """All bodies that are on their way in are bounded together: those beyond are told 503, and room is there again when they are gone."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(proxy.wire()) for _ in range(4)]
        for wire in wires:
            wire.sendall(raw(token, "/stripe/v1/x", "POST", "Content-Length: 90001\r\n", "a" * 90_000))
        answers = [wire.recv(65_536)[:12] for wire in wires]

    assert sorted(answers) == [b"HTTP/1.1 408"] * 3 + [b"HTTP/1.1 503"]
    assert status(proxy.told(raw(token, "/stripe/v1/x", "POST", "Content-Length: 90000\r\n", "a" * 90_000))) == 200


def resident(pid: int) -> int:
    """Return a process's memory in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


@pytest.mark.ci
def test_many_connections(proxy: Proxy, token: str, record_property: Any) -> None:
    """Of hundreds of connections at once those beyond the limit are ended, and the others served; memory stays where it was."""
    before = resident(proxy.process.pid)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(proxy.wire()) for _ in range(500)]
        for wire in wires[:200]:
            with contextlib.suppress(OSError):
                wire.sendall(raw(token))
        served = [_first(wire) for wire in wires[:200]]
        ended = [_first(wire) for wire in wires[200:]]
        record_property("memory_mib", (before, resident(proxy.process.pid)))

    assert served.count(b"HTTP/1.1 200") >= 190
    assert set(ended) == {b""}
    assert resident(proxy.process.pid) - before < 100
    assert proxy.ask("GET", "/healthz").status_code == 200


def _first(wire: socket.socket) -> bytes:
    try:
        return wire.recv(12)
    except OSError:
        return b""


def test_nothing_was_written_down(proxy: Proxy, token: str) -> None:
    """After all of this neither secrets nor tokens stand in the log or the ledger, and the ledger's proof holds."""
    with proxy.ledger() as ledger:
        kept = str(list(ledger.entries()))

        assert ledger.verify() == []
    assert [word for word in (token, ADMIN, STRIPE_SECRET, TWILIO_SECRET, RESEND_SECRET) if word in kept or word in proxy.said] == []
    assert "Traceback" not in proxy.said


@pytest.mark.ci
def test_client_that_does_not_read(tmp_path: Path, vendor: JsonServer) -> None:
    """A client that asks and takes nothing of a long answer is hung up on, and holds neither place nor memory."""
    with Proxy(tmp_path, vendor.url, write_seconds=1, max_head_bytes=65_536) as proxy, proxy.wire() as connection:
        token = proxy.token(unpriced="allow")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = "a" * 12_000_000
        head = raw(token, "/stripe/v1/x", "POST", f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n")
        connection.sendall(head + body.encode())
        for _ in range(400):
            if not established(proxy, connection.getsockname()[1]):
                break
            threading.Event().wait(0.05)

        assert not established(proxy, connection.getsockname()[1])


def established(proxy: Proxy, port: int) -> bool:
    """Say whether the proxy still has its end of a connection."""
    lines = [line.split() for line in Path(f"/proc/{proxy.process.pid}/net/tcp").read_text().splitlines()[1:]]
    return any(one[1].endswith(f":{proxy.host[1]:04X}") and one[2].endswith(f":{port:04X}") and one[3] != "06" for one in lines)
