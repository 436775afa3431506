"""Twilio's messages, through Twilio's own SDK in both colours: no send is de-duplicated, prices come late, lists find what was sent."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests import ConnectionError as RequestsConnectionError
from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from keyguard.testing.double import Fault, VendorDouble
from keyguard.testing.double._segments import segments
from keyguard.testing.double.messages import Ids, Request, respond
from keyguard.testing.double.twilio import Twilio
from keyguard.vendors import _twilio_segments
from tests.double.support import raw

if TYPE_CHECKING:
    from collections.abc import Iterator

# Twilio's awaited client uses what aiohttp 3.14 would rather have replaced.
pytestmark = pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning")

ACCOUNT, TOKEN = f"AC{'0' * 31}1", "0123456789abcdef0123456789abcdef"
TO, FROM = "+12125550123", "+15005550006"
SEGMENT = 8_300  # micro-USD
PATH = f"/2010-04-01/Accounts/{ACCOUNT}/Messages"
STYLES = ("sync", "async")


@pytest.fixture
def double() -> Iterator[VendorDouble]:
    """A double."""
    with VendorDouble() as found:
        yield found


def client(double: VendorDouble, **options: Any) -> Client:
    """Make a client of the double's."""
    made = Client(ACCOUNT, TOKEN, **options)
    made.api.base_url = double.url
    return made


def send(double: VendorDouble, style: str = "sync", retries: int = 0, **fields: Any) -> Any:
    """Send one message in a style."""
    message = {"to": TO, "from_": FROM, "body": "hello"} | fields
    if style == "sync":
        return client(double, http_client=TwilioHttpClient(timeout=20)).messages.create(**message)

    async def sending() -> Any:
        async with AsyncTwilioHttpClient(max_retries=retries or None, timeout=20) as http:
            return await client(double, http_client=http).messages.create_async(**message)

    return asyncio.run(sending())


@pytest.mark.parametrize("style", STYLES)
def test_each_send_is_a_message(double: VendorDouble, style: str) -> None:
    """The same request twice is two messages: no key, no memory."""
    first, second = send(double, style), send(double, style)

    assert (first.status, first.price, first.num_segments, first.sid == second.sid) == ("queued", None, "1", False)
    assert double.truth.charged(vendor="twilio") == 2 * SEGMENT
    assert double.truth.charges_by("customer") == {TO: 2}
    assert [row["account"] for row in double.truth.rows()] == [ACCOUNT] * 2


@pytest.mark.parametrize(("later", "price"), [("settled", "-0.01660"), ("an hour", "-0.01660"), ("at once", None)])
def test_the_price_comes_late(double: VendorDouble, later: str, price: str | None) -> None:
    """Null at creation and for a while after, then a negative text; by fetch and by list."""
    sid = send(double, body="x" * 161).sid
    if later == "settled":
        double.settle_prices()
    elif later == "an hour":
        double.advance(3_600)
    fetched = client(double).messages(sid).fetch()

    assert (fetched.price, fetched.status) == (price, "delivered" if price else "sent")
    assert [(one.sid, one.price) for one in client(double).messages.list(to=TO)] == [(sid, price)]
    assert double.truth.charged() == 2 * SEGMENT


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": "+15005550001"}, 21211),
        ({"to": "12"}, 21211),
        ({"to": ""}, 21604),
        ({"from_": ""}, 21603),
        ({"body": ""}, 21602),
    ],
)
def test_what_cannot_be_sent_is_refused(double: VendorDouble, fields: dict[str, Any], code: int) -> None:
    """400 with Twilio's code, and nothing sent."""
    with pytest.raises(TwilioRestException) as refused:
        send(double, **fields)

    assert (refused.value.status, refused.value.code, double.truth.rows()) == (400, code, [])


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("unauthorized", 401, 20003), ("forbidden", 403, 20403), ("missing", 404, 20404),
        ("rate_limit", 429, 20429), ("decline", 400, 21610), ("unavailable", 503, 20503),
    ],
)  # fmt: skip
def test_what_is_refused_by_script_sends_nothing(double: VendorDouble, kind: Any, status: int, code: int) -> None:
    """A limit; a recipient who has opted out; an outage."""
    double.script(Fault(kind, vendor="twilio"))
    with pytest.raises(TwilioRestException) as refused:
        send(double)

    assert (refused.value.status, refused.value.code, double.truth.charged()) == (status, code, 0)


@pytest.mark.parametrize("kind", ["close_after", "error_after"])
def test_an_answer_that_is_lost_can_be_looked_for(double: VendorDouble, kind: Any) -> None:
    """By recipient and date; a message that was never sent is not there."""
    double.script(Fault(kind))
    with pytest.raises((RequestsConnectionError, TwilioRestException)):
        send(double)
    since = datetime.fromtimestamp(double.now(), timezone.utc)
    found = client(double).messages.list(to=TO, date_sent_after=since - timedelta(minutes=5))

    assert [message.sid for message in found] == [row["object"] for row in double.truth.rows()]
    assert client(double).messages.list(to="+12125550199") == []
    assert client(double).messages.list(to=TO, date_sent_after=since + timedelta(minutes=5)) == []
    assert len(client(double).messages.list(to=TO, date_sent_before=since + timedelta(minutes=5))) == 1
    assert client(double).messages.list(to=TO, date_sent=since.date() - timedelta(days=1)) == []


def test_the_awaited_client_sends_again_on_a_500(double: VendorDouble) -> None:
    """Its `max_retries` repeats the POST: three messages, one of them known to the caller."""
    double.script(Fault("error_after", times=2))
    message = send(double, "async", retries=3)

    assert (len(double.requests()), double.truth.charged()) == (3, 3 * SEGMENT)
    assert message.sid == double.truth.rows()[-1]["object"]


def test_the_sdk_walks_through_all_pages(double: VendorDouble) -> None:
    """Newest first, each once; messages that come meanwhile move nothing."""
    sids = [send(double, body=str(n)).sid for n in range(5)]
    walk = client(double).messages.stream(page_size=2)
    seen = [next(walk).sid]
    send(double)
    seen += [message.sid for message in walk]

    assert seen == list(reversed(sids))
    assert len(client(double).messages.list(limit=3)) == 3
    assert client(double).messages.list(to=TO, from_="+15005550999") == []


def test_a_scheduled_message_can_be_cancelled(double: VendorDouble) -> None:
    """Its money goes back; what was sent stays sent."""
    service = f"MG{'0' * 32}"
    planned = send(double, messaging_service_sid=service, schedule_type="fixed", send_at=datetime(2026, 11, 27, tzinfo=timezone.utc))
    cancelled = client(double).messages(planned.sid).update(status="canceled")
    sent = send(double, messaging_service_sid=service)
    with pytest.raises(TwilioRestException, match="cannot be canceled"):
        client(double).messages(sent.sid).update(status="canceled")

    assert (planned.num_segments, cancelled.status, cancelled.num_segments) == ("0", "canceled", "1")
    assert (double.truth.charged(), double.truth.refunded()) == (2 * SEGMENT, SEGMENT)


@pytest.mark.parametrize("authorization", ["", "Bearer x", "Basic QUM6", "Basic eDp5"])
def test_credentials_must_be_there(double: VendorDouble, authorization: str) -> None:
    """401 with code 20003."""
    status, _, body = raw(double.host, "POST", f"{PATH}.json", {"To": TO, "From": FROM, "Body": "x"}, Authorization=authorization)

    assert (status, b'"code": 20003' in body, double.truth.rows()) == (401, True, [])


@pytest.mark.parametrize("path", [f"{PATH}/SM1.json", "/2010-04-01/Accounts/AC1/Calls.json"])
def test_what_is_not_there_is_missing(double: VendorDouble, path: str) -> None:
    """404 with code 20404."""
    for method in ("GET", "POST"):
        status, _, body = raw(double.host, method, path, Authorization="Basic QUM6eA==")

        assert (status, b'"code": 20404' in body) == (404, True)


@pytest.mark.parametrize("query", ["PageSize=x", "Page=x", "DateSent%3E=yesterday"])
def test_a_list_that_cannot_be_read_is_refused(double: VendorDouble, query: str) -> None:
    """400 with code 20001; a page of none is a page of one."""
    send(double)
    answers = [raw(double.host, "GET", f"{PATH}.json?{asked}", Authorization="Basic QUM6eA==") for asked in (query, "PageSize=0")]

    assert (answers[0][0], b'"code": 20001' in answers[0][2]) == (400, True)
    assert answers[1][0] == 200


def test_it_can_be_driven_without_a_server() -> None:
    """Time, ids and the record are arguments."""
    rows: list[Any] = []
    twilio = Twilio(rows.append, Ids(), unit=19, priced_after=10)
    headers = {"authorization": "Basic QUM6eA=="}
    made = respond(twilio, Request("POST", f"{PATH}.json", headers, b"To=%2B12125550123&From=%2B1&Body=x"), 100.0)
    sid = made.body["sid"]

    prices = [respond(twilio, Request("GET", f"{PATH}/{sid}.json", headers), now).body["price"] for now in (109.0, 110.0)]
    assert (made.status, prices, rows[0].micros) == (201, [None, "-0.00001"], 19)


@given(st.text(st.sampled_from("ab{€~\n\fäλéЖ漢😀 "), max_size=400))
def test_segments_are_what_keyguard_counts_too(text: str) -> None:
    """Two counts that know nothing of each other agree."""
    assert segments(text) == _twilio_segments.segments(text)
