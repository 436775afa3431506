"""Tags: with `tag_objects` what a run pays for at Stripe names the run, and nothing else of a request changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
import stripe

import keyguard
from keyguard import context
from keyguard.identity import canonical
from keyguard.model import Call, Operation, Quote
from keyguard.vendors._stripe_tags import tag
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

TAG = "metadata[keyguard_run]"
GOOD: Any = {"amount": 500, "currency": "usd", "confirm": True}
CREATE = Operation("payment_intents.create")


pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeServer]:
    """A Stripe server on loopback that the SDK talks to."""
    with StripeServer() as found:
        monkeypatch.setattr(stripe, "api_base", found.url)
        monkeypatch.setattr(stripe, "api_key", "sk_test_12345")
        yield found
    keyguard.uninstall()


def _call(*body: tuple[str, str], document: Any = None) -> Call:
    return Call("stripe", "POST", "https", "api.stripe.com", "/v1/payment_intents", body=body, document=document)


async def _acreate(server: StripeServer, params: Any) -> None:
    """Make one intent through Stripe's async client, and close it."""
    own = stripe.HTTPXClient()
    client = stripe.StripeClient("sk_test_12345", base_addresses={"api": server.url}, http_client=own)
    await client.v1.payment_intents.create_async(params)
    await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own


@pytest.mark.parametrize("style", ["sync", "async"])
def test_a_charge_names_its_run(server: StripeServer, style: str) -> None:
    """The form has one pair more, in every style; the caller's own metadata stays."""
    with keyguard.run(id="nightly & 1"):
        keyguard.install("sqlite://", run_usd_cap=100, tag_objects=True)
        if style == "sync":
            stripe.PaymentIntent.create(**GOOD, metadata={"team": "a=b"})
        else:
            params: Any = {**GOOD, "metadata": {"team": "a=b"}}
            asyncio.run(_acreate(server, params))

    assert [(form[TAG], form["metadata[team]"], form["amount"]) for form in server.charges] == [("nightly & 1", "a=b", "500")]


def test_it_is_off_unless_asked_for(server: StripeServer) -> None:
    """Without the field a request leaves as it was written."""
    with keyguard.run(id="r"):
        keyguard.install("sqlite://", run_usd_cap=100)
        stripe.PaymentIntent.create(**GOOD)

    assert [TAG in form for form in server.charges] == [False]


def test_every_attempt_carries_the_same_tag(server: StripeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own retry sends the same body again, else Stripe would refuse its key."""
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)
    monkeypatch.setattr(stripe, "max_network_retries", 1)
    server.statuses.append(409)
    with keyguard.run(id="r"):
        keyguard.install("sqlite://", run_usd_cap=100, tag_objects=True)
        stripe.PaymentIntent.create(**GOOD)

    keys = [headers["Idempotency-Key"] for _, _, headers in server.requests]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert len({headers["Content-Length"] for _, _, headers in server.requests}) == 1
    assert [form[TAG] for form in server.charges] == ["r"]


def test_a_raw_request_is_the_callers_own(server: StripeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not come through the SDK is guarded, and not rewritten."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={urlsplit(server.url).netloc}")
    with keyguard.run(id="r"):
        installed = keyguard.install("sqlite://", run_usd_cap=100, tag_objects=True)
        httpx.post(
            f"{server.url}/v1/payment_intents", data={"amount": "500", "currency": "usd", "confirm": "true"}, auth=("sk_test_12345", "")
        )

    assert [TAG in form for form in server.charges] == [False]
    assert installed.usage().spent == 5_000_000


@pytest.mark.parametrize(
    ("operation", "body", "document", "amount"),
    [
        ("payment_intents.confirm", (("amount", "1"),), None, 1),
        ("payment_intents.create", (("metadata", ""),), None, 1),
        ("payment_intents.create", ((TAG, "mine"),), None, 1),
        ("payment_intents.create", tuple((f"metadata[{n}]", "") for n in range(50)), None, 1),
        ("payment_intents.create", (("amount", "1"),), {"amount": 1}, 1),
        ("customers.create", (), None, 0),
        ("tokens.create", (), None, 1),
        ("nothing.create", (), None, 1),
    ],
)
def test_there_is_no_tag_where_it_would_do_harm(operation: str, body: Any, document: Any, amount: int) -> None:
    """Not on updates, not over the caller's own metadata, not past Stripe's 50 keys, not in JSON, not where nothing is paid or allowed."""
    assert tag(_call(*body, document=document), Operation(operation), Quote(amount), "r") == ()
    assert tag(_call(("amount", "1")), CREATE, Quote(1), "r") == ((TAG, "r"),)
    assert tag(_call(("amount", "1")), CREATE, Quote(1), "r" * 501) == ()


def _noting(handler: Any, seen: list[bytes]) -> None:
    """Note what each identity is made from."""
    own = handler._identity

    def identity(ticket: Any, key: Any) -> Any:
        seen.append(canonical(ticket.call))
        return own(ticket, key)

    handler._identity = identity


def test_the_tag_is_outside_the_identity(server: StripeServer) -> None:
    """The logical charge is the same with and without the tag: the seam adds it when all is decided."""
    seen: list[bytes] = []
    for is_tagged in (False, True):
        with keyguard.run(id="r"):
            keyguard.install("sqlite://", run_usd_cap=100, tag_objects=is_tagged)
            _noting(context.handler(), seen)
            stripe.PaymentIntent.create(**GOOD)
        keyguard.uninstall()

    assert seen[0] == seen[1]
    assert [TAG in form for form in server.charges] == [False, True]
