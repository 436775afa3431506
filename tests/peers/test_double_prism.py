"""The double's Twilio behind Prism with Twilio's own OpenAPI: each request and answer of the real SDK is held against it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.rest import Client

from keyguard.testing.double import Fault, VendorDouble
from tests.support_node import Missing, skip_or_fail
from tests.support_prism import prisms

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]

ACCOUNT, TO, FROM, SERVICE = f"AC{'0' * 31}1", "+12125550123", "+15005550006", f"MG{'0' * 32}"


@pytest.fixture(scope="module")
def double() -> Iterator[VendorDouble]:
    """A double, which Prism asks."""
    with VendorDouble() as found:
        yield found


@pytest.fixture(scope="module")
def client(double: VendorDouble) -> Iterator[Client]:
    """The SDK, which asks Prism; what breaks the specification comes back as an error."""
    try:
        with prisms(double.url, ["api"]) as peers:
            made = Client(ACCOUNT, "0123456789abcdef0123456789abcdef")
            made.api.base_url = peers["api"].url
            yield made
    except Missing as missing:
        skip_or_fail(missing)


def test_each_answer_fits_the_specification(double: VendorDouble, client: Client) -> None:
    """Created, pooled, scheduled, cancelled; fetched before and after its price."""
    given: dict[str, Any] = {"to": TO, "from_": FROM, "body": "hello"}
    made = client.messages.create(**given)
    client.messages.create(to=TO, messaging_service_sid=SERVICE, body="x" * 200)
    client.messages.create(to=f"whatsapp:{TO}", from_=f"whatsapp:{FROM}", body="äé漢")
    planned = client.messages.create(
        to=TO, messaging_service_sid=SERVICE, body="x", schedule_type="fixed", send_at=datetime(2026, 12, 1, tzinfo=timezone.utc)
    )
    assert client.messages(planned.sid).update(status="canceled").status == "canceled"

    assert client.messages(made.sid).fetch().price is None
    double.settle_prices()
    assert client.messages(made.sid).fetch().price == "-0.00830"
    assert double.truth.charged() == (1 + 2 + 1 + 1) * 8_300


def test_a_list_fits_the_specification_but_for_its_relative_addresses(client: Client) -> None:
    """It wants `format: uri` of `next_page_uri` and its kin, where its own examples, and the SDK, have paths."""
    client.messages.create(to=TO, from_=FROM, body="hello")
    client.messages.create(to=TO, from_=FROM, body="hello")
    with pytest.raises(TwilioException) as refused:
        client.messages.page(to=TO, date_sent_after=datetime(2020, 1, 1, tzinfo=timezone.utc), page_size=1)

    violations = json.loads(refused.value.args[1].content)["validation"]
    assert {violation["code"] for violation in violations} == {"format"}
    assert {violation["location"][-1] for violation in violations} == {"first_page_uri", "next_page_uri", "uri"}


@pytest.mark.parametrize(("kind", "code"), [("rate_limit", 20429), ("decline", 21610), ("error_after", 20500)])
def test_refusals_pass_through_as_twilio_words_them(double: VendorDouble, client: Client, kind: Any, code: int) -> None:
    """The specification declares no refusal, and lets them pass: status, code, message, more_info."""
    double.script(Fault(kind))
    with pytest.raises(TwilioRestException) as refused:
        client.messages.create(to=TO, from_=FROM, body="hello")

    assert (refused.value.code, refused.value.status) == (code, code - 20_000 if code != 21610 else 400)
