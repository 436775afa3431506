"""The vendors' own SDKs through the proxy: what they are told, what they make of it, and what is counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest
import resend
import stripe
from resend.exceptions import ResendError
from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client

from keyguard import refusal_of
from keyguard.errors import AlreadyCharged, EndpointNotAllowed, IdentityConflict, KeyExpired, KeyRevoked, SpendCapExceeded, UnknownKey
from keyguard.testing.double import Fault
from tests.proxy.support import ADMIN, PAY, STRIPE_SECRET, USD, Proxy
from tests.support_twilio_clients import MESSAGE, TO, pointed
from tests.support_twilio_server import ACCOUNT

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.testing.double import VendorDouble


def charged(double: VendorDouble) -> int:
    """Return what the vendors have charged so far, in micro-USD."""
    return double.truth.charged()


def email(proxy: Proxy, token: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """Send an e-mail by Resend's SDK."""
    monkeypatch.setattr(resend, "api_url", f"{proxy.url}/resend")
    monkeypatch.setattr(resend, "api_key", token)
    return resend.Emails.send({"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "html": "h"}, **options)


def twilio(proxy: Proxy, token: str, **options: Any) -> Client:
    """Return Twilio's client, pointed here: its original host is in the path."""
    return pointed(
        Client(ACCOUNT, token, **options), api=f"{proxy.url}/twilio/api.twilio.com", lookups=f"{proxy.url}/twilio/lookups.twilio.com"
    )


def test_snippet_of_the_brief(proxy: Proxy, double: VendorDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key issued over HTTP, `stripe.api_key` and `stripe.api_base`: the charge is made, and the one that would pass the cap is not."""
    before = charged(double)
    run_id = "0f3c5f3e"
    response = httpx.post(
        f"{proxy.url}/vault/keys",
        headers={"Authorization": f"Bearer {ADMIN}"},
        json={
            "vendor": "stripe",
            "daily_usd_cap": 5.0,
            "allowed_endpoints": ["POST /v1/payment_intents", "GET /v1/customers/*"],
            "expires_in": "4h",
            "agent_run_label": f"prefect-billing/{run_id}",
        },
        timeout=60,
    )
    monkeypatch.setattr(stripe, "api_key", response.json()["vault_key"])
    monkeypatch.setattr(stripe, "api_base", f"{proxy.url}/stripe")
    made = [stripe.PaymentIntent.create(**PAY, idempotency_key=f"{run_id}-cus_{n}-200") for n in range(2)]
    with pytest.raises(stripe.RateLimitError, match=r"would pass the daily_usd_cap") as caught:
        stripe.PaymentIntent.create(**PAY, idempotency_key=f"{run_id}-cus_2-200")

    assert [one.status for one in made] == ["succeeded"] * 2
    assert charged(double) - before == 4 * USD
    refusal = refusal_of(caught.value)
    assert isinstance(refusal, SpendCapExceeded)
    assert (refusal.scope, refusal.cap, refusal.spent, refusal.requested, refusal.remaining) == (
        f"policy:prefect-billing/{run_id}", 5 * USD, 4 * USD, 2 * USD, USD,
    )  # fmt: skip
    assert refusal.resets_at is not None


@pytest.mark.parametrize("retries", [0, 2])
def test_stripe_tries_a_refusal_once(proxy: Proxy, double: VendorDouble, retries: int) -> None:
    """Stripe's SDK reports a refused cap as its own error, at once, however many retries it has."""
    client = proxy.stripe(proxy.token(run_usd_cap=1), max_network_retries=retries)
    before, sent = charged(double), len(double.requests())
    with pytest.raises(stripe.RateLimitError) as caught:
        client.v1.payment_intents.create(PAY)

    assert (caught.value.http_status, (caught.value.headers or {})["stripe-should-retry"]) == (429, "false")
    assert (charged(double), len(double.requests())) == (before, sent)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_awaited_stripe(proxy: Proxy) -> None:
    """The awaited client takes the same way and gets the same error."""
    http_client = stripe.HTTPXClient()
    client = proxy.stripe(proxy.token(run_usd_cap=3), http_client=http_client)

    async def pay() -> str:
        first = await client.v1.payment_intents.create_async(PAY)
        with pytest.raises(stripe.RateLimitError) as caught:
            await client.v1.payment_intents.create_async(PAY)
        assert isinstance(refusal_of(caught.value), SpendCapExceeded)
        closed: Any = http_client
        await closed.close_async()
        return str(first.status)

    assert asyncio.run(pay()) == "succeeded"


def test_resend(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resend's SDK sends one e-mail, and reports the second, for which there is no money, with our words and figures."""
    key = proxy.issue(run_usd_cap=0.001, vendor="resend")

    assert email(proxy, key["token"], monkeypatch)["id"]
    with pytest.raises(ResendError, match="would pass the run_usd_cap") as caught:
        email(proxy, key["token"], monkeypatch)
    refusal = refusal_of(caught.value)
    assert isinstance(refusal, SpendCapExceeded)
    assert (caught.value.code, refusal.cap, refusal.key_id) == (429, 1000, key["key_id"])


def test_twilio(proxy: Proxy) -> None:
    """Twilio's SDK, which sends Basic with the token as its password, sends one message and reports the second as its own error."""
    key = proxy.issue(run_usd_cap=0.015, vendor="twilio")
    client = twilio(proxy, key["token"])

    assert client.messages.create(**MESSAGE).status == "queued"
    with pytest.raises(TwilioRestException, match="would pass the run_usd_cap") as caught:
        client.messages.create(**MESSAGE)
    refusal = refusal_of(caught.value)
    assert isinstance(refusal, SpendCapExceeded)
    assert (caught.value.status, refusal.cap, refusal.key_id) == (429, 15_000, key["key_id"])


def test_awaited_twilio_tries_a_refusal_once(proxy: Proxy, double: VendorDouble) -> None:
    """The awaited client, which posts a message again at any 5xx, posts a refused one once."""
    token, before = proxy.token(run_usd_cap=0.001), len(double.requests())

    async def send() -> None:
        async with AsyncTwilioHttpClient(max_retries=3) as http_client:
            await twilio(proxy, token, http_client=http_client).messages.create_async(**MESSAGE)

    with pytest.raises(TwilioRestException, match="run_usd_cap"):
        asyncio.run(send())
    assert len(double.requests()) == before


def test_awaited_twilio_sends_no_lost_message_again(proxy: Proxy, double: VendorDouble) -> None:
    """Where Twilio's answer is lost the proxy hangs up as Twilio did: a 5xx of its own would have the SDK send the message again."""
    key, before = proxy.issue(run_usd_cap=1), len(double.truth.rows("charge", "twilio"))
    double.script(Fault("close_after", vendor="twilio"))

    async def send() -> None:
        async with AsyncTwilioHttpClient(max_retries=3) as http_client:
            await twilio(proxy, key["token"], http_client=http_client).messages.create_async(**MESSAGE)

    with pytest.raises(aiohttp.ClientError):
        asyncio.run(send())
    assert len(double.truth.rows("charge", "twilio")) == before + 1
    assert proxy.shown(key["key_id"])["in_doubt_usd"] > 0


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_stripe_takes_both_schemes(proxy: Proxy, scheme: str) -> None:
    """A token as a bearer's, or as the user of Basic, is the same credential."""
    token = proxy.token()
    auth = httpx.BasicAuth(token, "") if scheme == "basic" else None
    headers = {} if auth else {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{proxy.url}/stripe/v1/payment_intents", data={**PAY, "confirm": "true"}, headers=headers, auth=auth)

    assert answer.json()["status"] == "succeeded"


def test_vendor_decline_passes_untouched(proxy: Proxy, double: VendorDouble) -> None:
    """A declined card is Stripe's own error, with Stripe's own body, and gives the money back."""
    key = proxy.issue(run_usd_cap=3)
    double.script(Fault("decline"))
    with pytest.raises(stripe.CardError) as caught:
        proxy.stripe(key["token"]).v1.payment_intents.create(PAY)

    assert refusal_of(caught.value) is None
    assert caught.value.code == "card_declined"
    assert proxy.shown(key["key_id"])["remaining_usd"] == 3


def test_allowlist(proxy: Proxy) -> None:
    """What the list does not name is Stripe's PermissionError, and ours behind it."""
    client = proxy.stripe(proxy.token(allowed_endpoints=["POST /v1/payment_intents"]))
    with pytest.raises(stripe.PermissionError) as caught:
        client.v1.payouts.create({"amount": 100, "currency": "usd"})

    assert isinstance(refusal_of(caught.value), EndpointNotAllowed)


def test_key_of_one_vendor_is_refused_at_another(proxy: Proxy) -> None:
    """A key for Stripe buys nothing at Twilio."""
    with pytest.raises(TwilioRestException) as caught:
        twilio(proxy, proxy.token(vendor="stripe")).messages.create(**MESSAGE)

    assert isinstance(refusal_of(caught.value), EndpointNotAllowed)


def test_revoked_key(proxy: Proxy, double: VendorDouble) -> None:
    """From the answer to the revocation on no call reaches the vendor; the client is told 401."""
    key = proxy.issue()
    client = proxy.stripe(key["token"])
    client.v1.payment_intents.create(PAY)
    before = len(double.requests())

    assert proxy.ask("DELETE", f"/vault/keys/{key['key_id']}").json()["state"] == "revoked"
    with pytest.raises(stripe.AuthenticationError) as caught:
        client.v1.payment_intents.create(PAY)
    assert isinstance(refusal_of(caught.value), KeyRevoked)
    assert len(double.requests()) == before


def test_expired_key(proxy: Proxy, double: VendorDouble) -> None:
    """A key whose time is over is told so, with 401."""
    key = proxy.issue(expires_in=0.001)
    before = len(double.requests())
    with pytest.raises(stripe.AuthenticationError) as caught:
        proxy.stripe(key["token"]).v1.payment_intents.create(PAY)

    assert isinstance(refusal_of(caught.value), KeyExpired)
    assert len(double.requests()) == before
    assert proxy.shown(key["key_id"])["state"] == "expired"


def test_refunds_of_own_charges(proxy: Proxy) -> None:
    """A refund of the run's own charge draws on its refund cap alone, and never gives cap back."""
    key = proxy.issue(run_usd_cap=3, refund_usd_cap=1)
    client = proxy.stripe(key["token"])
    paid = client.v1.payment_intents.create(PAY)
    client.v1.refunds.create({"payment_intent": paid.id, "amount": 100})
    with pytest.raises(stripe.RateLimitError, match="refund cap"):
        client.v1.refunds.create({"payment_intent": paid.id, "amount": 100})

    assert (proxy.shown(key["key_id"])["spent_usd"], proxy.shown(key["key_id"])["refunded_usd"]) == (2, 1)


@pytest.mark.parametrize("fault", ["close_after", "error_after", "reset_after", "truncate"])
def test_sdk_retry_is_one_charge(proxy: Proxy, double: VendorDouble, fault: Any) -> None:
    """An answer that is lost between vendor and proxy: the SDK tries again with its key, and the charge is made once and counted once."""
    key, before = proxy.issue(run_usd_cap=3), charged(double)
    double.script(Fault(fault))
    if fault == "error_after":
        # The vendor keeps its error under the key: it was asked at once, and the next try is told that the charge was made.
        with pytest.raises(stripe.PermissionError) as refused:
            proxy.stripe(key["token"], max_network_retries=2).v1.payment_intents.create(PAY)
        assert isinstance(refusal_of(refused.value), AlreadyCharged)
    elif fault == "truncate":
        # Half of a body is no reason to try again, to the SDK; as without a proxy.
        with pytest.raises(stripe.APIConnectionError):
            proxy.stripe(key["token"], max_network_retries=2).v1.payment_intents.create(PAY)
    else:
        assert proxy.stripe(key["token"], max_network_retries=2).v1.payment_intents.create(PAY).status == "succeeded"

    shown = proxy.shown(key["key_id"])
    assert charged(double) - before == 2 * USD
    assert shown["spent_usd"] + shown["in_doubt_usd"] == 2
    assert (shown["held_usd"], shown["remaining_usd"]) == (0, 1)


@pytest.mark.parametrize("fault", ["close_after", "close_before", "reset_after"])
def test_lost_answer_is_doubt(proxy: Proxy, double: VendorDouble, fault: Any) -> None:
    """Without another try nobody knows whether the vendor executed the call: it stays counted, and the client is told 502."""
    key = proxy.issue(run_usd_cap=3)
    double.script(Fault(fault))
    answer = proxy.call(key["token"], "POST", "/stripe/v1/payment_intents", {**PAY, "confirm": "true"})

    assert (answer.status_code, answer.headers["x-should-retry"]) == (502, "false")
    assert answer.json()["keyguard"]["reason"] == "in_doubt"
    assert (proxy.shown(key["key_id"])["in_doubt_usd"], proxy.shown(key["key_id"])["remaining_usd"]) == (2, 1)


def test_unreachable_vendor_costs_nothing(proxy: Proxy, double: VendorDouble) -> None:
    """A vendor that accepts no connection was sent nothing: the money is free again, and trying again is advised."""
    key = proxy.issue(run_usd_cap=3)
    with double.refusing():
        # The kept connection of an earlier call is closed by then, and tried first.
        proxy.call(key["token"], "GET", "/stripe/v1/customers/cus_1")
        answer = proxy.call(key["token"], "POST", "/stripe/v1/payment_intents", {**PAY, "confirm": "true"})

    assert (answer.status_code, answer.headers["stripe-should-retry"]) == (503, "true")
    assert proxy.shown(key["key_id"])["remaining_usd"] == 3


def test_same_key_with_other_parameters(proxy: Proxy) -> None:
    """An Idempotency-Key that came with another request before is refused, and not with 409, which Stripe's SDK would retry."""
    client = proxy.stripe(proxy.token(), max_network_retries=2)
    client.v1.payment_intents.create(PAY, {"idempotency_key": "order-1"})
    with pytest.raises(stripe.PermissionError) as caught:
        client.v1.payment_intents.create({**PAY, "amount": 300}, {"idempotency_key": "order-1"})

    assert isinstance(refusal_of(caught.value), IdentityConflict)


def test_callers_key_reaches_the_vendor(proxy: Proxy, double: VendorDouble) -> None:
    """The Idempotency-Key passes unchanged, and two sends of it are one charge."""
    key = proxy.issue(run_usd_cap=3)
    made = [proxy.stripe(key["token"]).v1.payment_intents.create(PAY, {"idempotency_key": "order-2"}).id for _ in range(2)]

    assert len(set(made)) == 1
    assert double.truth.executions_of("order-2") == 1
    assert proxy.shown(key["key_id"])["spent_usd"] == 2


@pytest.mark.parametrize("credential", ["vault_key_" + "A" * 43, STRIPE_SECRET, ADMIN, "vault_key_", "Basic Og=="])
def test_other_credentials_are_refused(proxy: Proxy, double: VendorDouble, credential: str) -> None:
    """A guessed token, the vendor's own secret, an admin token, none at all: 401, and nothing is sent."""
    before = len(double.requests())
    answer = proxy.call(credential, "POST", "/stripe/v1/payment_intents", {**PAY, "confirm": "true"})

    assert (answer.status_code, answer.json()["keyguard"]["error"]) == (401, UnknownKey.__name__)
    assert len(double.requests()) == before


def test_ledgers_own_tokens_are_none_of_the_proxys(proxy: Proxy, double: VendorDouble) -> None:
    """Who can read the ledger's file can work out the tokens of local enforcers, and calls nobody with them."""
    key, before = proxy.issue(), len(double.requests())
    with proxy.ledger() as ledger:
        found = ledger.key(key_id=key["key_id"])
        assert found is not None
        answer = proxy.call(found.token, "GET", "/stripe/v1/customers/cus_1")

    assert (answer.status_code, len(double.requests())) == (401, before)


def test_two_runs_do_not_share(proxy: Proxy) -> None:
    """Each token draws on its own run's budget, whoever comes with it."""
    one, other = proxy.issue(run_id="run-a", run_usd_cap=2), proxy.issue(run_id="run-b", run_usd_cap=2)
    proxy.stripe(one["token"]).v1.payment_intents.create(PAY)

    assert [proxy.shown(key["key_id"])["remaining_usd"] for key in (one, other)] == [0, 2]


def test_reads_are_free_and_pass(proxy: Proxy) -> None:
    """A read costs nothing, and the vendor's own 404 is the vendor's."""
    key = proxy.issue(run_usd_cap=1)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        proxy.stripe(key["token"]).v1.payment_intents.retrieve("pi_none")

    assert (caught.value.http_status, refusal_of(caught.value)) == (404, None)
    assert proxy.shown(key["key_id"])["spent_usd"] == 0


def test_recipients_are_counted(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_emails` holds through the proxy."""
    token = proxy.token(max_emails=1)
    email(proxy, token, monkeypatch)
    with pytest.raises(ResendError, match="max_emails"):
        email(proxy, token, monkeypatch)


@pytest.mark.ci
def test_ledger_that_is_away(double: VendorDouble, tmp_path: Path) -> None:
    """Where nobody can decide nothing is sent: 503, to be tried again, and not ready."""
    with Proxy(tmp_path, double.url) as proxy:
        token, before = proxy.token(), len(double.requests())
        (tmp_path / "proxy.db").rename(tmp_path / "elsewhere.db")
        answer = proxy.call(token, "POST", "/stripe/v1/payment_intents", {**PAY, "confirm": "true"})

        assert (answer.status_code, answer.headers["stripe-should-retry"]) == (503, "true")
        assert answer.json()["keyguard"]["error"] == "LedgerUnavailable"
        assert len(double.requests()) == before
        (tmp_path / "elsewhere.db").rename(tmp_path / "proxy.db")


def test_messages_name_nobody(proxy: Proxy) -> None:
    """Neither secret nor token nor number stands in what the proxy has written."""
    token = proxy.token(run_usd_cap=0.001)
    with pytest.raises(TwilioRestException):
        twilio(proxy, token).messages.create(**MESSAGE)

    assert [word for word in (token, STRIPE_SECRET, ADMIN, TO.lstrip("+")) if word in proxy.said] == []


def test_what_is_not_in_the_request_is_asked_for(proxy: Proxy, double: VendorDouble) -> None:
    """The confirmation of an intent that somebody else made is bounded by one read of the vendor's, with the vendor's own secret."""
    elsewhere = stripe.StripeClient(STRIPE_SECRET, base_addresses={"api": double.url})
    intent = elsewhere.v1.payment_intents.create({"amount": 300, "currency": "usd", "payment_method": "pm_card_visa"})
    key = proxy.issue(run_usd_cap=4)
    client = proxy.stripe(key["token"])

    assert client.v1.payment_intents.confirm(intent.id).status == "succeeded"
    assert proxy.shown(key["key_id"])["spent_usd"] == 3
    other = elsewhere.v1.payment_intents.create({"amount": 300, "currency": "usd", "payment_method": "pm_card_visa"})
    with pytest.raises(stripe.RateLimitError):
        client.v1.payment_intents.confirm(other.id)
