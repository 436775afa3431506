"""Whatever is asked of the proxy's own routes, and whatever bytes it is sent: it answers, by its document, and never with a 5xx."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyguard.proxy.issuing import ALIASES
from keyguard.proxy.openapi import document
from tests.proxy.support import ADMIN, RESEND_SECRET, STRIPE_SECRET, TWILIO_SECRET

if TYPE_CHECKING:
    from tests.proxy.support import Proxy

pytestmark = pytest.mark.ci
_HARD = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
_FIELDS = [name for names in ALIASES.values() for name in names]
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
_LIKELY = st.sampled_from(
    ["stripe", "4h", 5, 0.5, "POST /v1/charges", "charges.create", "2030-01-01T00:00:00Z", "enforce", "\ud800", "\x00"]
)
_VALUES = st.recursive(
    _SCALARS | _LIKELY, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6
)
_BODIES = st.dictionaries(st.sampled_from(_FIELDS) | st.text(max_size=8), _VALUES, max_size=5)
_PIECES = [
    b"/vault", b"/keys", b"/v1", b"/audit", b"/stripe", b"/", b"?", b"limit=", b"after=", b"label=", b"1", b"%", b"%00", b"%2f", b"..",
    b"x",
    b"&", b"=", b"-1", b"99999999999999999999",
]  # fmt: skip
_SECRETS = (STRIPE_SECRET, TWILIO_SECRET, RESEND_SECRET, ADMIN)


def sent(proxy: Proxy, method: str, target: bytes, body: bytes, token: str) -> tuple[int, bytes]:
    """Send a request by hand; returns status and whole answer."""
    head = f"Host: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    answer = proxy.told(method.encode() + b" " + target + b" HTTP/1.1\r\n" + head + body)
    return int(answer.split(b" ", 2)[1]), answer


@_HARD
@given(path=st.sampled_from(["/vault/keys", "/v1/keys"]), asked=_BODIES | _VALUES)
def test_any_request_for_a_key(proxy: Proxy, path: str, asked: Any) -> None:
    """Any JSON that is sent for a key is a key, or an error of the document with our words in it."""
    status, answer = sent(proxy, "POST", path.encode(), json.dumps(asked).encode(), ADMIN)
    said = json.loads(answer.partition(b"\r\n\r\n")[2])

    assert str(status) in document()["paths"][path]["post"]["responses"], answer
    assert status < 500, (asked, answer)
    assert said["token"].startswith("vault_key_") if status < 300 else said["error"]["message"]


@_HARD
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"]),
    target=st.lists(st.sampled_from(_PIECES), max_size=6).map(b"".join),
    body=st.binary(max_size=30), admin=st.booleans(),
)  # fmt: skip
def test_any_target(proxy: Proxy, method: str, target: bytes, body: bytes, admin: bool) -> None:
    """Any target, method and body is answered, with no 5xx and no secret."""
    status, answer = sent(proxy, method, b"/" + target, body, ADMIN if admin else "vault_key_guess")

    assert 200 <= status < 500, (method, target, answer)
    assert [secret for secret in _SECRETS if secret.encode() in answer] == []


@_HARD
@given(st.binary(max_size=200), st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST /vault/keys HTTP/1.1\r\nContent-Length: 5\r\n"]))
def test_any_bytes(proxy: Proxy, junk: bytes, begun: bytes) -> None:
    """Any bytes are answered with an error, or not at all; the proxy goes on."""
    with proxy.wire() as connection:
        connection.sendall(begun + junk + b"\r\n\r\n")
        answer = connection.recv(65_536)

    assert answer == b"" or b" 4" in answer[:12] or b" 200 " in answer[:16], answer


def test_it_lives(proxy: Proxy) -> None:
    """After all of that it serves, its ledger's proof holds, and its log has neither traceback nor secret."""
    assert proxy.ask("GET", "/readyz").status_code == 200
    with proxy.ledger() as ledger:
        assert ledger.verify() == []
    assert "Traceback" not in proxy.said
    assert [secret for secret in _SECRETS if secret in proxy.said] == []
