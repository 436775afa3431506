"""Which way each client's requests take through a proxy: URL, credential and body as they arrive there, and what the caller sees."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest
import requests
import resend
import stripe
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

import keyguard
from keyguard.errors import EndpointNotAllowed, UnknownKey
from tests.proxy.support import ADMIN, PAY
from tests.remote.recording import KEY, Answered, RecordingProxy
from tests.remote.support import PLACEHOLDER, holding_no_secret
from tests.support_twilio_clients import MESSAGE
from tests.support_twilio_server import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
INTENT = Answered(
    200, {"id": "pi_1", "object": "payment_intent", "amount": 200, "amount_received": 200, "currency": "usd", "status": "succeeded"}
)
SENT = Answered(201, {"sid": "SM" + "0" * 32, "status": "queued", "num_segments": "1", "price": None, "price_unit": "USD"})


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[RecordingProxy]:
    """A recording proxy, through which the calls of a run go."""
    with holding_no_secret(ADMIN, tmp_path), RecordingProxy() as found, keyguard.run("r1"):
        keyguard.install(found.url, run_usd_cap=100, unpriced="allow")
        found.answers["/stripe/v1/payment_intents"] = INTENT
        yield found


def basic(authorization: str) -> str:
    """Return what is in a header of Basic."""
    scheme, _, value = authorization.partition(" ")
    assert scheme == "Basic"
    return base64.b64decode(value).decode()


# -- Stripe ------------------------------------------------------------------------------------------


async def _awaited(client: Any) -> None:
    await stripe.StripeClient(PLACEHOLDER, http_client=client).v1.payment_intents.create_async({**PAY})  # type: ignore[typeddict-item]  # -- stripe's
    await client.close_async()


STRIPE_CLIENTS: dict[str, Callable[[], Any]] = {
    "requests": lambda: stripe.StripeClient(PLACEHOLDER, http_client=stripe.RequestsClient()).v1.payment_intents.create(PAY),  # type: ignore[arg-type]  # -- a TypedDict
    "urllib": lambda: stripe.StripeClient(PLACEHOLDER, http_client=stripe.UrllibClient()).v1.payment_intents.create(PAY),  # type: ignore[arg-type]  # -- a TypedDict
    "httpx": lambda: asyncio.run(_awaited(stripe.HTTPXClient())),
    "aiohttp": lambda: asyncio.run(_awaited(stripe.AIOHTTPClient())),
    "module": lambda: stripe.PaymentIntent.create(**PAY),
}


@pytest.mark.parametrize("client", STRIPE_CLIENTS)
def test_stripes_clients_go_through_the_proxy(proxy: RecordingProxy, client: str) -> None:
    """Whatever HTTP library is below it: the path is behind the vendor's name, and the vault key in the place of the credential."""
    STRIPE_CLIENTS[client]()

    assert proxy.targets == ["POST /stripe/v1/payment_intents"]
    assert proxy.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert proxy.seen[0].headers["host"] == proxy.host
    assert b"amount=200" in proxy.seen[0].content


def test_every_host_of_stripes_goes_through_the_proxy(proxy: RecordingProxy) -> None:
    """Uploads and meter events have hosts of their own, which the path names."""
    proxy.answers["/stripe/files.stripe.com/v1/files"] = Answered(200, {"id": "file_1", "object": "file"})
    file = stripe.File.create(purpose="dispute_evidence", file=io.BytesIO(b"all of it"))
    client = stripe.StripeClient(PLACEHOLDER)
    client.raw_request("post", "/v2/billing/meter_event_stream", base="meter_events", events=[])

    assert file.id == "file_1"
    assert [target.partition(" ")[2] for target in proxy.targets] == [
        "/stripe/files.stripe.com/v1/files", "/stripe/meter-events.stripe.com/v2/billing/meter_event_stream",
    ]  # fmt: skip
    assert b"all of it" in proxy.seen[0].content
    assert all(PLACEHOLDER not in str(one.headers) for one in proxy.seen)


def test_pages_and_streams_go_through_the_proxy(proxy: RecordingProxy) -> None:
    """Each page of a list is a request of its own; a body that is streamed reaches its caller."""
    page = {"object": "list", "url": "/v1/customers", "has_more": True, "data": [{"id": "cus_1", "object": "customer"}]}
    last = {**page, "has_more": False, "data": [{"id": "cus_2", "object": "customer"}]}
    proxy.answers["/stripe/v1/customers"] = lambda request: Answered(200, last if "starting_after" in request.target else page)
    proxy.answers["/stripe/files.stripe.com/v1/quotes"] = Answered(200, b"%PDF of it", {"Content-Type": "application/pdf"})
    found = [customer.id for customer in stripe.Customer.list(limit=1).auto_paging_iter()]
    pdf: Any = stripe.Quote("qt_1").pdf()

    assert found == ["cus_1", "cus_2"]
    assert pdf.io.read() == b"%PDF of it"
    assert proxy.targets == [
        "GET /stripe/v1/customers?limit=1", "GET /stripe/v1/customers?limit=1&starting_after=cus_1",
        "GET /stripe/files.stripe.com/v1/quotes/qt_1/pdf",
    ]  # fmt: skip


def test_a_quote_read_takes_the_same_way(proxy: RecordingProxy) -> None:
    """What has to be asked before a call is asked through the proxy too, with its key."""
    proxy.answers["/stripe/v1/payment_intents/pi_9"] = Answered(200, {**INTENT.body, "id": "pi_9", "status": "requires_capture"})
    stripe.PaymentIntent("pi_9").capture()

    assert proxy.targets == ["GET /stripe/v1/payment_intents/pi_9", "POST /stripe/v1/payment_intents/pi_9/capture"]
    assert {one.headers["authorization"] for one in proxy.seen} == {f"Bearer {KEY}"}


def test_a_base_that_points_to_the_proxy_is_not_routed_twice(proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stripe.api_base` may be the proxy's already; a key of the proxy's own that the caller carries stays, another credential does not."""
    monkeypatch.setattr(stripe, "api_base", f"{proxy.url}/stripe")
    numbers = itertools.count()
    proxy.answers["/stripe/v1/payment_intents"] = lambda _request: Answered(200, {**INTENT.body, "id": f"pi_{next(numbers)}"})
    for key in ("vault_key_issued_by_hand_0123456789", "vk_issued_by_hand", PLACEHOLDER):
        monkeypatch.setattr(stripe, "api_key", key)
        stripe.PaymentIntent.create(**PAY)
    with httpx.Client(trust_env=False) as client:
        client.post(
            f"{proxy.url}/stripe/v1/payment_intents", data=PAY, headers={"authorization": "Bearer vault_key_issued_by_hand_0123456789"}
        )
        # What is no vendor's passes: whoever issues keys by hand is not guarded.
        assert client.post(f"{proxy.url}/vault/keys", json={}).status_code == 201

    assert proxy.targets == ["POST /stripe/v1/payment_intents"] * 4
    assert [one.headers["authorization"].removeprefix("Bearer ") for one in proxy.seen] == [
        "vault_key_issued_by_hand_0123456789", "vk_issued_by_hand", KEY, "vault_key_issued_by_hand_0123456789",
    ]  # fmt: skip
    assert keyguard.install(proxy.url, run_usd_cap=100, unpriced="allow").usage().spent == 4 * 2_000_000


def test_a_call_to_anywhere_else_is_refused(proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK that is pointed to neither the vendor nor the proxy would go round it: nothing is sent."""
    with RecordingProxy() as elsewhere:
        monkeypatch.setattr(stripe, "api_base", elsewhere.url)
        with pytest.raises(EndpointNotAllowed, match="neither stripe's own host"):
            stripe.PaymentIntent.create(**PAY)

        assert (elsewhere.seen, proxy.seen) == ([], [])


# -- Twilio and Resend -------------------------------------------------------------------------------


def test_twilios_products_keep_their_hosts(proxy: RecordingProxy) -> None:
    """Product, region and edge are in the host, which the path keeps; the vault key is in the place of the auth token."""
    proxy.answers["/twilio/"] = SENT
    client = Client(ACCOUNT, "of-nobody", region="au1", edge="sydney")
    client.messages.create(**MESSAGE)
    Client(ACCOUNT, "of-nobody").verify.v2.services("VA" + "0" * 32).verifications.create(to=MESSAGE["to"], channel="sms")

    assert proxy.targets == [
        f"POST /twilio/api.sydney.au1.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json",
        f"POST /twilio/verify.twilio.com/v2/Services/VA{'0' * 32}/Verifications",
    ]
    assert {basic(one.headers["authorization"]) for one in proxy.seen} == {f"{ACCOUNT}:{KEY}"}


def test_twilios_pages_with_absolute_addresses_go_through_the_proxy(proxy: RecordingProxy) -> None:
    """The address of a next page is the vendor's own, whole; it is asked for at the proxy."""

    def page(request: Any) -> Answered:
        is_last = "Page=1" in request.target
        following = None if is_last else "https://verify.twilio.com/v2/Services?PageSize=1&Page=1&PageToken=x"
        meta = {"key": "services", "next_page_url": following, "page": int(is_last), "page_size": 1}
        return Answered(200, {"meta": meta, "services": [{"sid": f"VA{int(is_last):032}"}]})

    proxy.answers["/twilio/verify.twilio.com/v2/Services"] = page
    found = [service.sid for service in Client(ACCOUNT, "of-nobody").verify.v2.services.stream(page_size=1)]

    assert found == [f"VA{n:032}" for n in range(2)]
    assert proxy.targets == [
        "GET /twilio/verify.twilio.com/v2/Services?PageSize=1", "GET /twilio/verify.twilio.com/v2/Services?PageSize=1&Page=1&PageToken=x",
    ]  # fmt: skip


class _Wrapping(TwilioHttpClient):  # type: ignore[misc]  # -- twilio has no types
    """A client of the user's own, of whose sends no seam knows."""

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """Send."""
        return super().request(method, url, *args, **kwargs)


@pytest.mark.parametrize("style", ["awaited", "wrapped"])
def test_twilios_other_clients_go_through_the_proxy(proxy: RecordingProxy, style: str) -> None:
    """The awaited client, and one of the user's own."""
    proxy.answers["/twilio/"] = SENT

    async def awaited() -> None:
        async with AsyncTwilioHttpClient() as http_client:
            await Client(ACCOUNT, "of-nobody", http_client=http_client).messages.create_async(**MESSAGE)

    if style == "awaited":
        asyncio.run(awaited())
    else:
        Client(ACCOUNT, "of-nobody", http_client=_Wrapping()).messages.create(**MESSAGE)

    assert proxy.targets == [f"POST /twilio/api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Messages.json"]
    assert basic(proxy.seen[0].headers["authorization"]) == f"{ACCOUNT}:{KEY}"


@pytest.mark.parametrize("style", ["sync", "async"])
def test_resend_goes_through_the_proxy(proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    """Its one host is behind its name."""
    monkeypatch.setattr(resend, "api_key", "re_of_nobody")
    proxy.answers["/resend/emails"] = Answered(200, {"id": "e1"})
    email: Any = {"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "html": "h"}
    found: Any = resend.Emails.send(email) if style == "sync" else asyncio.run(resend.Emails.send_async(email))

    assert found["id"] == "e1"
    assert proxy.targets == ["POST /resend/emails"]
    assert proxy.seen[0].headers["authorization"] == f"Bearer {KEY}"


# -- raw requests ------------------------------------------------------------------------------------


def test_raw_requests_go_through_the_proxy_and_look_as_if_they_had_not(proxy: RecordingProxy) -> None:
    """URL and credential of request and answer are the caller's own afterwards; a relative redirect stays the vendor's."""
    proxy.answers["/stripe/v1/moved"] = Answered(307, {}, {"Location": "/v1/payment_intents"})
    url, headers = "https://api.stripe.com/v1/moved", {"Authorization": f"Bearer {PLACEHOLDER}"}
    with httpx.Client(trust_env=False, follow_redirects=True) as client:
        answer = client.post(url, data=PAY, headers=headers)
    with requests.Session() as session:
        session.trust_env = False
        other = session.post(url, data=PAY, headers=headers)

    async def awaited() -> Any:
        async with aiohttp.ClientSession() as session, session.post(url, data={**PAY, "confirm": "true"}, headers=headers) as third:
            await third.read()
            return third

    third = asyncio.run(awaited())

    assert proxy.targets == ["POST /stripe/v1/moved", "POST /stripe/v1/payment_intents"] * 3
    assert {one.headers["authorization"] for one in proxy.seen} == {f"Bearer {KEY}"}
    assert {one.headers["host"] for one in proxy.seen} == {proxy.host}
    finally_at = "https://api.stripe.com/v1/payment_intents"
    assert [str(one.url) for one in (answer, other, third)] == [finally_at] * 3
    assert [str(one.request.url) for one in (answer, other)] == [finally_at] * 2
    assert answer.request.headers["authorization"] == other.request.headers["Authorization"] == f"Bearer {PLACEHOLDER}"


def test_a_local_token_is_exchanged_and_a_strange_one_refused(proxy: RecordingProxy) -> None:
    """The installation's own token stands for the proxy's key; one that nobody here knows pays for nothing."""
    token = keyguard.install(proxy.url, run_usd_cap=100, unpriced="allow").key.token
    with httpx.Client(trust_env=False) as client:
        client.post("https://api.stripe.com/v1/payment_intents", data=PAY, auth=(token, ""))
        with pytest.raises(UnknownKey):
            client.post("https://api.stripe.com/v1/payment_intents", data=PAY, auth=("vault_key_of_somebody_0123456789", ""))

    assert [basic(one.headers["authorization"]) for one in proxy.seen] == [f"{KEY}:"]


def test_a_vendor_that_wants_answers_gets_the_proxys(proxy: RecordingProxy) -> None:
    """For a vendor registered with `on_refused="response"` a denial is the answer itself, and nothing stays counted."""
    said = {"error": "EndpointNotAllowed", "message": "no"}
    try:
        keyguard.vendors.register("things", hosts=["api.things.test"], operations={"POST /v1/things": 1}, on_refused="response")
        proxy.answers["/things/v1/things"] = Answered(403, {"error": "no"}, {"x-keyguard-refusal": json.dumps(said)})
        with httpx.Client(trust_env=False) as client:
            answer = client.post("https://api.things.test/v1/things", headers={"authorization": "Bearer of-nobody"})
        usage = keyguard.install(proxy.url, run_usd_cap=100, unpriced="allow").usage()
    finally:
        keyguard.vendors.unregister("things")

    assert answer.status_code == 403
    assert isinstance(keyguard.refusal_of(answer), EndpointNotAllowed)
    assert (usage.spent, usage.held, usage.doubt) == (0, 0, 0)
    assert proxy.targets == ["POST /things/v1/things"]
