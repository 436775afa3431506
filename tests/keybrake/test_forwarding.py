"""Calls through the double: what the vendors get, what comes back, and what the SDKs make of a flat error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
import resend
import stripe
from resend.exceptions import ResendError
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from keyguard.testing.double import Fault
from keyguard.testing.keybrake import KeybrakeDouble
from tests.keybrake.conftest import ADMIN, SECRETS, Keybrake
from tests.proxy.test_streams import Streaming
from tests.support_json_server import Answer, Arrived, JsonServer
from tests.support_twilio_clients import MESSAGE, pointed
from tests.support_twilio_server import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.testing.double import VendorDouble

PAY: Any = {"amount": 200, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}


@pytest.fixture
def echo() -> Iterator[JsonServer]:
    """A vendor that answers a header of its own."""

    def answer(arrived: Arrived) -> Answer:
        return Answer(200, {"path": arrived.path}, {"Request-Id": "req_1", "Connection": "keep-alive"})

    with JsonServer(answer) as server:
        yield server


def test_stripe_sdk_dies_of_a_flat_error(keybrake: Keybrake) -> None:
    """What the page shows of a reached cap breaks Stripe's own SDK with AttributeError, which is no StripeError."""
    token = keybrake.key(daily_usd_cap=2)
    client = stripe.StripeClient(token, base_addresses={"api": f"{keybrake.double.url}/stripe"})

    assert client.v1.payment_intents.create(PAY).status == "succeeded"
    with pytest.raises(AttributeError, match="'str' object has no attribute 'get'"):
        client.v1.payment_intents.create(PAY)


def test_resend_sdk(keybrake: Keybrake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resend's SDK sends a flat-priced e-mail, and loses the reason of a refusal."""
    monkeypatch.setattr(resend, "api_url", f"{keybrake.double.url}/resend")
    monkeypatch.setattr(resend, "api_key", keybrake.key(vendor="resend", daily_usd_cap=0.0004))
    mail: Any = {"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "html": "h"}

    assert resend.Emails.send(mail)["id"]
    with pytest.raises(ResendError, match="Unknown error"):
        resend.Emails.send(mail)


def test_batch_is_as_many_emails(keybrake: Keybrake) -> None:
    """A batch counts each of its e-mails."""
    token = keybrake.key(vendor="resend", daily_usd_cap=0.001)
    mail = {"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "html": "h"}

    assert [keybrake.ask("POST", "/resend/emails/batch", token, json=[mail] * count).status_code for count in (3, 2)] == [429, 200]


def test_twilio_sdk(keybrake: Keybrake) -> None:
    """Twilio's SDK, with its original host in the path and the key as its password, sends a message, and loses the reason of a refusal."""
    token = keybrake.key(vendor="twilio", daily_usd_cap=0.008)
    client = pointed(Client(ACCOUNT, token), api=f"{keybrake.double.url}/twilio/api.twilio.com")

    assert client.messages.create(**MESSAGE).status == "queued"
    with pytest.raises(TwilioRestException, match="Unable to create record"):
        client.messages.create(**MESSAGE)
    assert [(call.host, call.path) for call in keybrake.double.calls] == [
        ("api.twilio.com", f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json")
    ]


def test_what_the_vendor_gets(echo: JsonServer) -> None:
    """The real secret in the key's place, as the header was written; the body and the caller's headers as they were."""
    with Keybrake(echo.url) as keybrake:
        token = keybrake.key()
        twilio = keybrake.key(vendor="twilio")
        keybrake.charge(token)
        httpx.post(f"{keybrake.double.url}/stripe/v1/charges", auth=(token, ""), content=iter([b"amount=", b"5"]), trust_env=False)
        asked = {"auth": ("AC1", twilio), "headers": {"Idempotency-Key": "order-1"}, "trust_env": False}
        answer = httpx.get(f"{keybrake.double.url}/twilio/verify.twilio.com/v2/Services?PageSize=2", **asked)  # type: ignore[arg-type]  # -- by name

    charge, chunked, listed = echo.requests
    assert (charge.path, charge.form["amount"], charge.headers["authorization"]) == (
        "/v1/payment_intents", "200", f"Bearer {SECRETS['stripe']}",
    )  # fmt: skip
    assert (chunked.content, chunked.headers["authorization"]) == (b"amount=5", f"Bearer {SECRETS['stripe']}")
    assert (listed.path, listed.headers["host"], listed.headers["idempotency-key"]) == (
        "/v2/Services?PageSize=2", "verify.twilio.com", "order-1",
    )  # fmt: skip
    assert listed.headers["authorization"] == httpx.BasicAuth("AC1", SECRETS["twilio"])._auth_header
    assert (answer.json(), answer.headers["request-id"]) == ({"path": "/v2/Services?PageSize=2"}, "req_1")
    assert not [one for one in echo.requests if token in str(one) or twilio in str(one)]


def test_declined_call_counts_nothing(keybrake: Keybrake, vendors: VendorDouble) -> None:
    """A vendor's own error comes down untouched, and is taken off what was counted."""
    vendors.script(Fault("decline"))
    token = keybrake.key(daily_usd_cap=2)
    declined = keybrake.charge(token)

    assert (declined.status_code, declined.json()["error"]["code"]) == (402, "card_declined")
    assert keybrake.charge(token).status_code == 200


@pytest.mark.parametrize(("path", "more"), [("/stripe/v1/refunds", {}), ("/stripe/v1/payment_intents", {"amount": "none"})])
def test_what_counts_nothing(keybrake: Keybrake, path: str, more: dict[str, Any]) -> None:
    """Refunds, and what says no amount, pass whatever was spent."""
    token = keybrake.key(daily_usd_cap=0)

    assert keybrake.charge(token, path=path, **more).status_code not in {402, 403, 429}


def test_vendor_that_does_not_answer(keybrake: Keybrake, vendors: VendorDouble) -> None:
    """Without an answer of the vendor's the client is told 502, and the call is listed."""
    vendors.script(Fault("close_after"))
    answer = keybrake.charge(keybrake.key())

    assert (answer.status_code, answer.json()) == (502, {"error": "The vendor did not answer"})
    assert [call.status for call in keybrake.double.calls] == [502]


def test_answer_that_breaks_off(keybrake: Keybrake, vendors: VendorDouble) -> None:
    """Half an answer arrives as half an answer."""
    vendors.script(Fault("truncate"))
    with pytest.raises(httpx.RemoteProtocolError):
        keybrake.charge(keybrake.key())


def test_parts_come_as_they_are_sent() -> None:
    """An answer in parts is passed on part by part."""
    vendor = Streaming()
    vendor.play({"n": 1}, {"n": 2})
    try:
        with KeybrakeDouble(admin=ADMIN, vendor_secret=SECRETS, upstreams={"stripe": vendor.url}) as double:
            issued = httpx.post(f"{double.url}/vault/keys", headers={"Authorization": f"Bearer {ADMIN}"}, json={"vendor": "stripe"})
            headers = {"Authorization": f"Bearer {issued.json()['vault_key']}"}
            with httpx.stream("POST", f"{double.url}/stripe/v1/x", headers=headers, timeout=30) as answer:
                parts = answer.iter_raw()
                vendor.go.release()
                first = next(parts)
                vendor.go.release()
                rest = b"".join(parts)
    finally:
        vendor.server.shutdown()
        vendor.server.server_close()

    assert (first, rest) == (b'data: {"n": 1}\n\n', b'data: {"n": 2}\n\n')


def test_client_that_leaves_its_body_unfinished(keybrake: Keybrake) -> None:
    """A request that was cut off is not forwarded."""
    import socket

    host, port = keybrake.double.host.split(":")
    for head in ("Content-Length: 9\r\n\r\na", "Content-Length: x\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as wire:
            wire.sendall(f"POST /stripe/v1/charges HTTP/1.1\r\nAuthorization: Bearer {keybrake.key()}\r\n{head}".encode())
            wire.shutdown(socket.SHUT_WR)
            assert wire.recv(1) == b""

    assert keybrake.double.calls == []
