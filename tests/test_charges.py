"""Logical charges through the real clients: which Idempotency-Key leaves, what is counted once, what is refused. The double judges."""

from __future__ import annotations

import asyncio
import threading
import time
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest
import requests
import resend
import stripe
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import keyguard
from keyguard import telemetry
from keyguard.errors import ConfigurationError, DoubtPending, IdentityConflict, KeyRevoked
from keyguard.testing.double import Fault, VendorDouble
from tests.support_styles import SECRET, STYLES, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# The SDK's own client over httpx sends a form as `data=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

USD = 1_000_000
INTENTS = "/v1/payment_intents"
FORM = {"amount": "100", "currency": "usd", "customer": "cus_1", "payment_method": "pm_card_visa", "confirm": "true"}
MAIL = {"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "html": "h"}
HEADERS = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[VendorDouble]:
    """A Stripe and a Resend for faults, guarded by name."""
    with VendorDouble() as started:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={started.host}")
        monkeypatch.setattr(stripe, "api_base", started.url)
        monkeypatch.setattr(stripe, "api_key", SECRET)
        monkeypatch.setattr(stripe, "max_network_retries", 0)
        monkeypatch.setattr(resend, "api_url", started.url)
        monkeypatch.setattr(resend, "api_key", "re_1")
        yield started
    keyguard.uninstall()


LOST = (stripe.APIConnectionError, httpx.TransportError, requests.ConnectionError, aiohttp.ClientError, RemoteDisconnected)


def charge(style: str, double: VendorDouble) -> Any:
    """Charge a dollar in one of the ways in which Stripe can be called."""
    return STYLES[style](double.url)(INTENTS, FORM, None)


def create(**more: Any) -> Any:
    """Charge a dollar through the SDK's global client."""
    intents: Any = stripe.PaymentIntent
    return intents.create(**{**FORM, **more})


def keys(double: VendorDouble) -> list[str | None]:
    """Return the Idempotency-Keys of the writes that arrived."""
    return [request["headers"].get("idempotency-key") for request in double.requests() if request["method"] == "POST"]


def counted(installed: keyguard.Installation) -> tuple[int, int, int]:
    """Return what a run has spent, holds and doubts."""
    usage = installed.usage()
    return usage.spent, usage.held, usage.doubt


@pytest.mark.parametrize("style", STYLES)
def test_a_replayed_run_sends_the_same_keys(double: VendorDouble, style: str) -> None:
    """Two entries of a run that replays, each with two intended identical charges: two keys, two charges, counted once each."""
    for _ in range(2):
        with keyguard.run("nightly", replay=True):
            keyguard.install("sqlite://", run_usd_cap=100)
            charge(style, double)
            charge(style, double)
    sent = keys(double)

    assert (len(sent), sent[:2], len(set(sent))) == (4, sent[2:], 2)
    assert all(key is not None and key.startswith("keyguard-") for key in sent)
    with keyguard.run("nightly"):
        assert counted(keyguard.install("sqlite://", run_usd_cap=100)) == (2 * USD, 0, 0) == (double.truth.charged(), 0, 0)


def test_a_replays_span_says_that_it_cost_nothing(double: VendorDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """The costs of all spans add up to what was charged: the second entry's request has cost 0, and is marked."""
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))
    for _ in range(2):
        with keyguard.run("nightly", replay=True):
            keyguard.install("sqlite://", run_usd_cap=1)
            create()
    found = [(span.attributes or {}) for span in spans.get_finished_spans()]
    provider.shutdown()

    assert [(one["keyguard.cost.amount"], one.get("keyguard.cost.replayed")) for one in found] == [(1.0, None), (0.0, True)]


@pytest.mark.parametrize("style", STYLES)
def test_a_lost_answer_is_replayed_by_whoever_sends_again(double: VendorDouble, style: str) -> None:
    """Charged, the answer lost, sent again: the same key, one charge, and nothing in doubt any more."""
    double.script(Fault("close_after", path=INTENTS))
    with keyguard.run("nightly", replay=True):
        installed = keyguard.install("sqlite://", run_usd_cap=1)
        with pytest.raises(LOST):
            charge(style, double)
        in_doubt = counted(installed)
        charge(style, double)

    assert (len(keys(double)), len(set(keys(double)))) == (2, 1)
    assert (in_doubt, counted(installed)) == ((0, 0, USD), (USD, 0, 0))
    assert double.truth.charged() == USD


@pytest.mark.parametrize("style", STYLES)
def test_after_a_decline_the_next_try_has_another_key(double: VendorDouble, style: str) -> None:
    """The declined key would be answered with the decline for ever; the money came back in between."""
    double.script(Fault("decline", path=INTENTS))
    with keyguard.run("nightly", replay=True):
        installed = keyguard.install("sqlite://", run_usd_cap=1)
        status = status_of(lambda: charge(style, double))
        declined = counted(installed)
        charge(style, double)

    assert (status, len(set(keys(double)))) == (402, 2)
    assert (declined, counted(installed)) == ((0, 0, 0), (USD, 0, 0))
    assert double.truth.charged() == USD


@pytest.mark.parametrize("style", STYLES)
def test_outside_of_what_says_what_a_retry_is_no_key_is_derived(double: VendorDouble, style: str) -> None:
    """In a run that does not replay, each request is a charge of its own, as its client sends it."""
    with keyguard.run("plain"):
        installed = keyguard.install("sqlite://", run_usd_cap=100)
        charge(style, double)
        charge(style, double)

    assert [key for key in keys(double) if key is not None and key.startswith("keyguard-")] == []
    assert counted(installed) == (2 * USD, 0, 0) == (double.truth.charged(), 0, 0)


@pytest.mark.parametrize("fields", [{"idempotency": "off"}, {"mode": "observe"}])
@pytest.mark.parametrize("style", ["requests", "raw httpx"])
def test_a_policy_can_leave_keys_to_the_client(double: VendorDouble, style: str, fields: dict[str, Any]) -> None:
    """With `idempotency="off"`, and when observing, nothing is added to a request."""
    with keyguard.run("nightly", replay=True):
        installed = keyguard.install("sqlite://", run_usd_cap=100, **fields)
        charge(style, double)
        charge(style, double)

    assert [key for key in keys(double) if key is not None and key.startswith("keyguard-")] == []
    assert counted(installed) == (2 * USD, 0, 0)


# -- a caller's own key -------------------------------------------------------------------------------


def _own_option() -> None:
    create(idempotency_key="order-1")


def _own_client() -> None:
    client: Any = stripe.StripeClient(SECRET, base_addresses={"api": stripe.api_base}, max_network_retries=0)
    client.v1.payment_intents.create({**FORM}, {"idempotency_key": "order-1"})


def _own_header() -> None:
    client: Any = stripe.StripeClient(SECRET, base_addresses={"api": stripe.api_base}, max_network_retries=0)
    client.raw_request("post", INTENTS, headers={"idempotency-key": "order-1"}, **FORM)


def _own_raw() -> None:
    httpx.post(f"{stripe.api_base}{INTENTS}", data=FORM, headers={**HEADERS, "IDEMPOTENCY-KEY": "order-1"})


OWN = {"option": _own_option, "client": _own_client, "header in any case": _own_header, "raw": _own_raw}


@pytest.mark.parametrize("style", OWN)
def test_a_callers_own_key_is_never_replaced(double: VendorDouble, style: str) -> None:
    """However it was given, it leaves as it is, and two requests with it are one charge: no money is held for the second."""
    with keyguard.run("nightly", replay=True):
        installed = keyguard.install("sqlite://", run_usd_cap=1)
        OWN[style]()
        OWN[style]()

    assert keys(double) == ["order-1", "order-1"]
    assert counted(installed) == (USD, 0, 0) == (double.truth.charged(), 0, 0)


def test_a_callers_key_for_another_request_is_refused(double: VendorDouble) -> None:
    """Stripe would answer with an error; the message says what to do, and nothing is sent."""
    with keyguard.run("plain"):
        installed = keyguard.install("sqlite://", run_usd_cap=10)
        create(idempotency_key="order-1")
        with pytest.raises(IdentityConflict, match="other parameters") as refused:
            create(amount="200", idempotency_key="order-1")

    assert (len(keys(double)), counted(installed)) == (1, (USD, 0, 0))
    assert refused.value.operation == "payment_intents.create"


# -- scopes -------------------------------------------------------------------------------------------


def test_a_scope_names_a_charge_outside_of_any_orchestrator(double: VendorDouble) -> None:
    """Entered three times, its charge is made once; another name is another charge."""
    with keyguard.run("shop"):
        installed = keyguard.install("sqlite://", run_usd_cap=2)
        for name in ("order-42", "order-42", "order-42", "order-43"):
            with keyguard.idempotency_scope(name):
                create()

    assert len(set(keys(double))) == 2
    assert counted(installed) == (2 * USD, 0, 0) == (double.truth.charged(), 0, 0)


def test_in_a_scope_other_parameters_are_refused(double: VendorDouble) -> None:
    """A price that changed between two tries does not charge twice."""
    with keyguard.run("shop"):
        keyguard.install("sqlite://", run_usd_cap=20)
        with keyguard.idempotency_scope("order-42"):
            create()
        with keyguard.idempotency_scope("order-42"), pytest.raises(IdentityConflict):
            create(amount="101")

    assert double.truth.charged() == USD


def test_a_scope_may_hold_several_charges(double: VendorDouble) -> None:
    """The n-th call of an endpoint in the block is the n-th of every entry, whatever it says."""
    with keyguard.run("shop"):
        installed = keyguard.install("sqlite://", run_usd_cap=20)
        for _ in range(2):
            with keyguard.idempotency_scope("order-42"):
                for amount in ("100", "200"):
                    create(amount=amount)

    assert counted(installed) == (3 * USD, 0, 0) == (double.truth.charged(), 0, 0)


def test_scopes_of_two_runs_are_apart(double: VendorDouble) -> None:
    """A scope names a charge within its run."""
    for run in ("january", "february"):
        with keyguard.run(run), keyguard.idempotency_scope("customer-7"):
            keyguard.install("sqlite://", run_usd_cap=1)
            create()

    assert double.truth.charged() == 2 * USD


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201])
def test_a_scopes_name_is_checked(name: str) -> None:
    """One line of 1 to 200 characters; the error says so."""
    with pytest.raises(ConfigurationError, match="1 to 200 characters on one line"), keyguard.idempotency_scope(name):
        pass


def test_threads_that_charge_alike_at_once_are_charged_each(double: VendorDouble) -> None:
    """Eight identical charges in flight at a time are eight intended ones: each has its number, and the next entry replays them all."""
    for _ in range(2):
        with keyguard.run("nightly", replay=True):
            keyguard.install("sqlite://", run_usd_cap=8)
            threads = [threading.Thread(target=keyguard.wrap(lambda: charge("raw httpx", double))) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    assert (len(keys(double)), len(set(keys(double)))) == (16, 8)
    with keyguard.run("nightly"):
        assert counted(keyguard.install("sqlite://", run_usd_cap=8)) == (8 * USD, 0, 0) == (double.truth.charged(), 0, 0)


# -- the other vendors --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_raw", [False, True], ids=["sdk", "httpx"])
def test_a_mail_whose_answer_was_lost_is_sent_once(double: VendorDouble, monkeypatch: pytest.MonkeyPatch, *, is_raw: bool) -> None:
    """Resend keeps keys too: the second try has the first's, and one e-mail is counted."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"resend={double.host}")
    emails: Any = resend.Emails

    def send() -> None:
        if is_raw:
            httpx.post(f"{double.url}/emails", json=MAIL, headers={"Authorization": "Bearer re_1"})
        else:
            emails.send(MAIL)

    double.script(Fault("close_after", path="/emails"))
    with keyguard.run("mailing", replay=True):
        installed = keyguard.install("sqlite://", max_emails=1)
        with pytest.raises((resend.exceptions.ResendError, httpx.TransportError)):
            send()
        send()

    assert (len(keys(double)), len(set(keys(double)))) == (2, 1)
    assert (installed.usage().emails, installed.usage().doubt, len(double.truth.rows(vendor="resend"))) == (1, 0, 1)


@pytest.mark.parametrize("on_doubt", ["resend", "refuse"])
def test_a_message_in_doubt_is_sent_again_or_refused(double: VendorDouble, monkeypatch: pytest.MonkeyPatch, on_doubt: str) -> None:
    """Twilio de-duplicates nothing: each send holds for itself, or the policy stops what may have been sent."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"twilio={double.host}")
    sid, form = "AC" + "1" * 32, {"To": "+12125550123", "From": "+15005550006", "Body": "hello"}

    def send() -> None:
        httpx.post(f"{double.url}/2010-04-01/Accounts/{sid}/Messages.json", data=form, auth=(sid, "token")).raise_for_status()

    double.script(Fault("close_after", vendor="twilio"))
    with keyguard.run("alerts", replay=True):
        installed = keyguard.install("sqlite://", run_usd_cap=1, on_doubt=on_doubt)
        with pytest.raises(httpx.TransportError):
            send()
        if on_doubt == "refuse":
            with pytest.raises(DoubtPending, match="keyguard reconcile"):
                send()
        else:
            send()
    spent, held, doubt = counted(installed)

    assert len(double.truth.rows(vendor="twilio")) == (1 if on_doubt == "refuse" else 2)
    assert (spent > 0, held, doubt > 0) == (on_doubt == "resend", 0, True)


# -- further attempts of one call ---------------------------------------------------------------------


@pytest.mark.parametrize("style", ["requests", "httpx", "async httpx", "async aiohttp"])
def test_the_sdks_own_retry_stops_at_a_revoke(double: VendorDouble, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    """The first answer is lost and the key is revoked before the SDK tries again: the second attempt does not leave."""
    with keyguard.run("nightly", replay=True):
        installed = keyguard.install("sqlite://", run_usd_cap=1)

        def wait(*_: Any) -> float:
            installed.revoke()
            return 0.0

        # The SDK asks this between its attempts.
        monkeypatch.setattr(stripe.HTTPClient, "_sleep_time_seconds", wait)
        double.script(Fault("close_after", path=INTENTS))
        with pytest.raises(KeyRevoked, match="was revoked"):
            _retrying(style, double)

    assert (len(keys(double)), double.truth.charged(), counted(installed)) == (1, USD, (0, 0, USD))


def _retrying(style: str, double: VendorDouble) -> Any:
    """Charge with a client that tries three times."""
    own: dict[str, Any] = {"requests": stripe.RequestsClient, "httpx": stripe.HTTPXClient, "async aiohttp": stripe.AIOHTTPClient}
    made = stripe.HTTPXClient(allow_sync_methods=True) if style == "httpx" else own.get(style, stripe.HTTPXClient)()
    client: Any = stripe.StripeClient(SECRET, base_addresses={"api": double.url}, http_client=made, max_network_retries=2)
    if not style.startswith("async"):
        return client.v1.payment_intents.create({**FORM})

    async def call() -> Any:
        try:
            return await client.v1.payment_intents.create_async({**FORM})
        finally:
            await made.close_async()

    return asyncio.run(call())


@pytest.mark.parametrize("style", ["requests", "async httpx"])
def test_a_machine_that_slept_for_a_day_does_not_send_an_old_key(double: VendorDouble, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    """Suspended between two attempts of the SDK, it wakes after Stripe has forgotten the key: the second would be a second charge."""
    with keyguard.run("nightly", replay=True):
        installed = keyguard.install("sqlite://", run_usd_cap=1)
        moved = time.time() + 86_400

        def sleep(*_: Any) -> float:
            monkeypatch.setattr(time, "time", lambda: moved)
            double.advance(86_400)
            return 0.0

        monkeypatch.setattr(stripe.HTTPClient, "_sleep_time_seconds", sleep)
        double.script(Fault("close_after", path=INTENTS))
        with pytest.raises(DoubtPending, match="may have forgotten it"):
            _retrying(style, double)

    assert (double.truth.charged(), counted(installed)) == (USD, (0, 0, USD))
