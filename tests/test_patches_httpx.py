"""The httpx seam: vendors by host, every hop, foreign hosts untouched."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import httpx
import pytest

import keyguard
from keyguard import context, patches
from keyguard.errors import EndpointNotAllowed, UnpricedCall
from tests.support_stripe_server import StripeServer
from tests.test_patches_stripe import Recorder, asking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[StripeServer]:
    """A loopback Stripe that is listed as Stripe's own."""
    with StripeServer() as found:
        context.set_vendor_hosts({found.host: "stripe"})
        yield found
        context.set_vendor_hosts({})


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Arm the seams with a handler that records."""
    found = Recorder()
    patches.arm()
    context.set_handler(found)
    yield found
    context.set_handler(None)
    patches.disarm()


FORM = {"amount": "100", "currency": "usd", "confirm": "true"}


def test_a_request_to_a_vendor_is_seen_with_its_form(server: StripeServer, recorder: Recorder) -> None:
    """Method, path, form, key and credential of a raw call are read; its answer is the caller's as ever."""
    headers = {"Authorization": "Bearer sk_test_1", "Idempotency-Key": "k1", "Stripe-Account": "acct_1"}
    response = httpx.post(f"{server.url}/v1/payment_intents?x=1", data=FORM, headers=headers)
    outgoing = recorder.seen[0]

    assert response.json()["status"] == "succeeded"
    assert (outgoing.call.vendor, outgoing.call.method, outgoing.call.path) == ("stripe", "POST", "/v1/payment_intents")
    assert dict(outgoing.call.body or ()) == FORM
    assert outgoing.call.query == (("x", "1"),)
    assert (outgoing.call.idempotency_key, outgoing.call.account, outgoing.credential) == ("k1", "acct_1", "sk_test_1")
    assert [attempt.reply and attempt.reply.status for attempt in recorder.tickets[0].attempts] == [200]


def test_the_vendors_own_hosts_are_known_without_being_listed(recorder: Recorder) -> None:
    """api.stripe.com is Stripe's by its plug, through a transport that answers from memory."""
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={}))) as client:
        client.get("https://api.stripe.com/v1/customers")
        client.get("https://API.Stripe.com:443/v1/customers")
        client.get("https://example.com/v1/customers")

    assert [outgoing.call.host for outgoing in recorder.seen] == ["api.stripe.com", "api.stripe.com"]


def test_every_redirect_hop_is_a_call_of_its_own(server: StripeServer, recorder: Recorder) -> None:
    """A followed redirect is decided again, with its own path."""
    server.location = "/v1/charges"
    httpx.get(f"{server.url}/v1/customers", follow_redirects=True)

    assert [outgoing.call.path for outgoing in recorder.seen] == ["/v1/customers", "/v1/charges"]


def test_a_stream_stays_unread(server: StripeServer, recorder: Recorder) -> None:
    """A streamed read is the caller's to consume."""
    with httpx.stream("GET", f"{server.url}/v1/customers") as response:
        assert not response.is_stream_consumed
        content = response.read()

    assert b"list" in content
    assert len(recorder.seen) == 1


def test_a_client_made_before_arming_is_guarded(server: StripeServer) -> None:
    """The seam is on the class, so existing clients are covered."""
    with httpx.Client() as client:
        recorder = Recorder()
        patches.arm()
        context.set_handler(recorder)
        client.get(f"{server.url}/v1/customers")
        context.set_handler(None)
        patches.disarm()

    assert len(recorder.seen) == 1


def test_a_body_that_is_a_generator_is_left_to_the_transport(server: StripeServer, recorder: Recorder) -> None:
    """Nothing is consumed that can be read once only; JSON has no pairs; an empty body has none either."""
    httpx.post(f"{server.url}/v1/payment_intents", content=iter([b"amount=100&confirm=true"]))
    httpx.post(f"{server.url}/v1/payment_intents", json={"amount": 1})
    httpx.post(f"{server.url}/v1/payment_intents/pi_1/cancel")

    assert [outgoing.call.body for outgoing in recorder.seen] == [None, (("amount", "1"),), ()]
    assert len(server.requests) == 3


def test_errors_are_classified(server: StripeServer, recorder: Recorder) -> None:
    """A refused connection is proven unsent, a dropped answer is not."""
    context.set_vendor_hosts({server.host: "stripe", "127.0.0.1:9": "stripe"})
    server.drop_answers = True
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://127.0.0.1:9/v1/customers")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{server.url}/v1/payment_intents", data=FORM)

    assert [ticket.attempts[0].unsent for ticket in recorder.tickets] == [True, False]


def test_the_secret_is_on_the_wire_and_not_on_the_request(server: StripeServer, recorder: Recorder) -> None:
    """The request object that the caller keeps has its token back after the send."""
    recorder.secret = "sk_test_real"
    response = httpx.get(f"{server.url}/v1/customers", headers={"Authorization": "Bearer vault_key_x"})

    assert server.requests[0][2]["authorization"] == "Bearer sk_test_real"
    assert response.request.headers["authorization"] == "Bearer vault_key_x"


def test_a_vault_token_to_a_foreign_host_is_refused(recorder: Recorder) -> None:
    """No vendor claims the host: refused before anything is sent, and the message does not repeat the token."""
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    transport = httpx.MockTransport(answer)
    with httpx.Client(transport=transport) as client, pytest.raises(EndpointNotAllowed, match=r"evil\.test") as error:
        client.get("https://evil.test/", headers={"Authorization": "Bearer vault_key_abc_def"})

    assert sent == []
    assert "abc_def" not in str(error.value)


def test_prefects_own_clients_are_not_guarded(recorder: Recorder) -> None:
    """Its API client passes even to a host that is listed by hand; never to a vendor's own."""
    own = type("PrefectHttpxSyncClient", (httpx.Client,), {"__module__": "prefect.client.base"})
    context.set_vendor_hosts({"127.0.0.1:4200": "stripe"})
    with own(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        client.get("http://127.0.0.1:4200/api/health")
        client.get("https://api.stripe.com/v1/customers")
    context.set_vendor_hosts({})

    assert [outgoing.call.host for outgoing in recorder.seen] == ["api.stripe.com"]


def test_ask_reads_with_the_same_client(recorder: Recorder) -> None:
    """A quote read goes through the caller's own transport, with its account and credential, and without the write's own headers."""
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"id": "pi_1"})

    headers = {"Authorization": "Bearer vault_key_x", "Stripe-Account": "acct_1", "Idempotency-Key": "k1"}
    with httpx.Client(transport=httpx.MockTransport(answer), timeout=7) as client:
        client.post("https://api.stripe.com/v1/payment_intents/pi_1/confirm?x=1", data=FORM, headers=headers)
        ask = recorder.seen[0].ask
        assert ask is not None
        replies = [ask("/v1/payment_intents/pi_1", asking(recorder.seen[0], secret)) for secret in (None, "sk_test_real")]
    questions = sent[1:]

    assert [reply.status for reply in replies] == [200, 200]
    assert [(question.method, str(question.url)) for question in questions] == [
        ("GET", "https://api.stripe.com/v1/payment_intents/pi_1")
    ] * 2
    # The second was sent with the secret (the server test sees it); the object that remains has the token.
    assert [question.headers["authorization"] for question in questions] == ["Bearer vault_key_x"] * 2
    assert {question.headers["stripe-account"] for question in questions} == {"acct_1"}
    assert not any(name in question.headers for question in questions for name in ("idempotency-key", "content-length", "content-type"))
    assert {question.extensions["timeout"]["read"] for question in questions} == {7}
    assert len(recorder.seen) == 1


def test_ask_puts_the_secret_on_the_wire(server: StripeServer, recorder: Recorder) -> None:
    """The server of a quote read gets the real secret."""
    with httpx.Client() as client:
        client.post(f"{server.url}/v1/payment_intents", data=FORM, headers={"Authorization": "Bearer vault_key_x"})
        ask = recorder.seen[0].ask
        assert ask is not None
        ask("/v1/payment_intents/pi_1", asking(recorder.seen[0], "sk_test_real"))
    sent = {name.lower(): value for name, value in server.requests[1][2].items()}

    assert sent["authorization"] == "Bearer sk_test_real"


def test_an_async_ask_uses_the_async_client(recorder: Recorder) -> None:
    """From the worker thread of a driver, the question goes through the caller's own AsyncClient."""
    sent: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        sent.append(f"{request.method} {request.url.path}")
        return httpx.Response(200, json={})

    async def main() -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            await client.post("https://api.stripe.com/v1/payment_intents/pi_1/confirm")
            ask = recorder.seen[0].ask
            assert ask is not None
            return await anyio.to_thread.run_sync(ask, "/v1/payment_intents/pi_1", asking(recorder.seen[0]))

    reply = asyncio.run(main())

    assert reply.status == 200
    assert sent == ["POST /v1/payment_intents/pi_1/confirm", "GET /v1/payment_intents/pi_1"]
    assert len(recorder.seen) == 1


def test_a_basic_credential_is_read_and_replaced_in_its_scheme(server: StripeServer, recorder: Recorder) -> None:
    """`auth=(token, "")`, as curl users write it, is a credential like any other."""
    recorder.secret = "sk_test_real"
    response = httpx.get(f"{server.url}/v1/customers", auth=("vault_key_x", "pw"))
    sent = {name.lower(): value for name, value in server.requests[0][2].items()}

    assert recorder.seen[0].credential == "vault_key_x"
    assert base64.b64decode(sent["authorization"].removeprefix("Basic ")) == b"sk_test_real:pw"
    assert base64.b64decode(response.request.headers["authorization"].removeprefix("Basic ")) == b"vault_key_x:pw"


@pytest.mark.parametrize("auth", [("vault_key_abc_def", ""), ("AC1", "vault_key_abc_def")])
def test_a_vault_token_in_basic_is_refused_at_a_foreign_host(recorder: Recorder, auth: tuple[str, str]) -> None:
    """Base64 does not hide a token, in neither half; other Basic credentials pass."""
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        passed = [
            client.get("https://else.test/", auth=("u", "p")),
            client.get("https://else.test/", headers={"Authorization": "Basic !!"}),
        ]
        with pytest.raises(EndpointNotAllowed, match=r"evil\.test"):
            client.get("https://evil.test/", auth=auth)

    assert [response.status_code for response in passed] == [200, 200]


def test_a_host_with_the_roots_dot_is_the_same_host(recorder: Recorder) -> None:
    """`api.stripe.com.` resolves to Stripe, so it is guarded as Stripe."""
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        client.get("https://api.stripe.com./v1/customers")

    assert [outgoing.call.vendor for outgoing in recorder.seen] == ["stripe"]


def test_a_listed_proxys_prefix_is_not_the_vendors_path(server: StripeServer, recorder: Recorder) -> None:
    """Behind `http://proxy/stripe` a raw call has the vendor's path, and its questions go behind the prefix too."""
    with httpx.Client() as client:
        client.get(f"{server.url}/stripe/v1/customers")
        ask = recorder.seen[0].ask
        assert ask is not None
        ask("/v1/customers", asking(recorder.seen[0]))

    assert recorder.seen[0].call.path == "/v1/customers"
    assert [path for _, path, _ in server.requests] == ["/stripe/v1/customers"] * 2


def test_a_foreign_transports_error_proves_nothing(recorder: Recorder) -> None:
    """A transport that tries again by itself shows only its last error: the one before may have been executed."""

    class Retrying(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("the second try")

    context.set_vendor_hosts({"127.0.0.1:9": "stripe"})
    for transport in (Retrying(), None):
        with httpx.Client(transport=transport) as client, pytest.raises(httpx.ConnectError):
            client.get("http://127.0.0.1:9/v1/customers")
    context.set_vendor_hosts({})

    assert [ticket.attempts[0].unsent for ticket in recorder.tickets] == [False, True]


def test_a_credential_that_was_not_there_is_not_left_behind(server: StripeServer, recorder: Recorder) -> None:
    """A request without authorization has none after the send either."""
    recorder.secret = "sk_test_real"
    response = httpx.get(f"{server.url}/v1/customers")

    assert "authorization" not in response.request.headers


def test_the_async_client_passes_the_same_way(server: StripeServer, recorder: Recorder) -> None:
    """AsyncClient's requests are handed over, awaited, with reply and errors classified."""

    async def main() -> None:
        async with httpx.AsyncClient() as client:
            await client.post(f"{server.url}/v1/payment_intents", data=FORM)
            server.drop_answers = True
            with contextlib.suppress(httpx.RemoteProtocolError):
                await client.post(f"{server.url}/v1/payment_intents", data=FORM)

    asyncio.run(main())

    assert [attempt.reply is not None for ticket in recorder.tickets for attempt in ticket.attempts] == [True, False]


def test_raw_calls_are_decided_like_the_sdks(server: StripeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A raw POST draws on the cap and is settled from its answer; an unknown write is refused; a foreign host is free."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={server.host}")
    with keyguard.run("run-1"):
        installed = keyguard.install(f"sqlite:///{tmp_path}/l.db", run_usd_cap=2)
        httpx.post(f"{server.url}/v1/payment_intents", data=FORM)
        httpx.post(f"{server.url}/v1/payment_intents", data=FORM)
        with pytest.raises(keyguard.SpendCapExceeded):
            httpx.post(f"{server.url}/v1/payment_intents", data=FORM)
        with pytest.raises(UnpricedCall):
            httpx.post(f"{server.url}/v1/invented", data=FORM)
        usage = installed.usage()
    keyguard.uninstall()

    assert server.total == 200
    assert (usage.spent, usage.held) == (2_000_000, 0)
