"""Where a vault token may stand in a request, and that the real secret stands there on the wire and nowhere else, in every client."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from keyguard.errors import EndpointNotAllowed
from keyguard.patches._headers import credential_of, with_credential
from tests.support_acme import POSTS, SECRET_ENV, Said, acme
from tests.support_json_server import Answer, JsonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENTS = pytest.mark.parametrize("post", POSTS.values(), ids=POSTS)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """Acme's stand-in, and acme's real secret."""
    monkeypatch.setenv(SECRET_ENV, "ak_real")
    with JsonServer(lambda _: Answer(200, {})) as found:
        yield found


def _basic(user: str, password: str = "") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@CLIENTS
@pytest.mark.parametrize(
    ("name", "written", "sent"),
    [
        ("Authorization", "Bearer {token}", "Bearer ak_real"),
        ("authorization", "Token {token}", "Token ak_real"),
        ("Authorization", "{token}", "ak_real"),
        ("X-Api-Key", "{token}", "ak_real"),
        ("X-API-KEY", "{token}", "ak_real"),
        ("api-key", "{token}", "ak_real"),
        ("X-Goog-Api-Key", "{token}", "ak_real"),
    ],
)
def test_a_token_is_swapped_in_whichever_header_carries_it(
    server: JsonServer, post: Callable[..., Said], name: str, written: str, sent: str
) -> None:
    """In its scheme; the token's key pays, and the caller's own request has the token back."""
    more: dict[str, Any] = {} if name.lower() in {"authorization", "x-api-key"} else {"credential_headers": [name]}
    with acme(server, **more) as installed:
        value = written.format(token=installed.key.token)
        said = post(f"{server.url}/v1/jobs", json={}, headers={name: value})

    assert (said.status, installed.usage().spent) == (200, 1_000_000)
    assert server.requests[0].headers[name.lower()] == sent
    asked = said.native.request_info if isinstance(said.native, aiohttp.ClientResponse) else said.native.request
    assert asked.headers[name] == value


@CLIENTS
def test_both_headers_of_a_client_that_sends_two_are_swapped(server: JsonServer, post: Callable[..., Said]) -> None:
    """Some SDKs write their key into both."""
    with acme(server) as installed:
        token = installed.key.token
        post(f"{server.url}/v1/jobs", json={}, headers={"authorization": f"Bearer {token}", "x-api-key": token})

    assert [server.requests[0].headers[name] for name in ("authorization", "x-api-key")] == ["Bearer ak_real", "ak_real"]


@CLIENTS
def test_a_secret_beside_a_token_is_left_alone(server: JsonServer, post: Callable[..., Said]) -> None:
    """The token is found behind it, and pays."""
    with acme(server) as installed:
        post(f"{server.url}/v1/jobs", json={}, headers={"authorization": "Bearer other", "x-api-key": installed.key.token})

    assert [server.requests[0].headers[name] for name in ("authorization", "x-api-key")] == ["Bearer other", "ak_real"]
    assert installed.usage().spent == 1_000_000


@CLIENTS
@pytest.mark.parametrize("value", ["{token}", "Key {token}", "basic"])
def test_a_token_in_a_header_that_is_not_declared_is_refused(server: JsonServer, post: Callable[..., Said], value: str) -> None:
    """It would go to the vendor as it is; the message names the header and those that are, never the token."""
    with acme(server) as installed:
        token = installed.key.token
        written = _basic(token) if value == "basic" else value.format(token=token)
        with pytest.raises(EndpointNotAllowed, match=r"'x-other'.*none of acme's credential headers \(authorization, x-api-key\)") as error:
            post(f"{server.url}/v1/jobs", json={}, headers={"X-Other": written})

    assert server.requests == []
    assert token not in str(error.value)


@CLIENTS
def test_a_token_in_another_header_never_leaves_for_a_foreign_host(server: JsonServer, post: Callable[..., Said]) -> None:
    """Whatever the header is called."""
    with JsonServer(lambda _: Answer(200, {})) as foreign, acme(server) as installed:
        with pytest.raises(EndpointNotAllowed, match="no vendor's host"):
            post(f"{foreign.url}/v1/jobs", json={}, headers={"x-api-key": installed.key.token})

        assert foreign.requests == []


def test_the_token_of_basic_is_swapped_beside_another_header(server: JsonServer) -> None:
    """requests and aiohttp write Basic themselves; the password stays."""
    with acme(server) as installed:
        requests.post(f"{server.url}/v1/jobs", json={}, auth=(installed.key.token, "pw"), timeout=30)

    assert server.requests[0].headers["authorization"] == _basic("ak_real", "pw")


@given(secret=st.text(alphabet="abc_1", min_size=1), scheme=st.sampled_from(["Bearer", "Token", "bearer", "Basic", "basic", "", "Key"]))
def test_a_credential_that_is_put_in_is_read_again(secret: str, scheme: str) -> None:
    """Whatever the scheme is, what is read is what stands in the place of the token."""
    written = _basic("vault_key_x", "pw") if scheme.lower() == "basic" else f"{scheme} vault_key_x".strip()

    assert credential_of(written) == "vault_key_x"
    assert credential_of(with_credential(written, secret)) == secret
