"""What Twilio's replies to messages say: accepted, scheduled, cancelled, priced later, refused, or nothing that can be told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyguard.model import Call, Fact, Outcome, Quote, Reply
from keyguard.vendors.twilio import vendor
from tests.support_guard import World
from tests.support_twilio import API, SID, US, amount, answered, call, message, quoted

US_SEGMENT = 14_800  # micro-USD, with what carriers add
SM = f"SM{SID}"

CREATED_BODY = {"sid": SM, "status": "queued", "num_segments": "1", "num_media": "0", "price": None, "price_unit": None}
CREATED = Reply(201, {}, json.dumps(CREATED_BODY).encode())
LATER = {"ScheduleType": "fixed", "SendAt": "2027-01-01T00:00:00Z", "MessagingServiceSid": f"MG{SID}"}


def test_an_accepted_message_is_spent_at_its_estimate() -> None:
    """A create has no price yet; the fact is about the message, so that a later read of it counts nothing twice."""
    assert answered(message(), 201, CREATED_BODY) == Outcome(
        "settled", facts=(Fact(SM, US_SEGMENT, 0, US_SEGMENT, status="queued"),), source="local", is_estimate=True
    )


@pytest.mark.parametrize(
    ("said", "count"), [("2", 2), ("4", 4), ("0", 25), (None, 25), ("x", 25), (3, 3), ("-1", 25), ("100", 25), ("9" * 5000, 25), ("²", 25)]
)
def test_segments_that_twilio_has_counted_correct_the_estimate(said: Any, count: int) -> None:
    """A template's real length, up or down; "0", through a Messaging Service, says nothing."""
    outcome = answered(message(ContentSid=f"HX{SID}"), 201, {**CREATED_BODY, "num_segments": said})

    assert outcome.facts[0].spent == count * US_SEGMENT


def test_only_a_word_is_kept_as_a_status() -> None:
    """What a reply says of a person has no place in the books."""
    assert answered(message(), 201, {**CREATED_BODY, "status": f"sent to {US}"}).facts[0].status == ""


@pytest.mark.parametrize("fields", [{"SendAsMms": "true"}, {"To": "whatsapp:+14155552671"}, {"To": "rcs:+14155552671"}])
def test_what_is_not_counted_by_segments_keeps_its_ceiling(fields: dict[str, Any]) -> None:
    """Media and channels say one segment whatever they cost."""
    made = message(**fields)

    assert answered(made, 201, CREATED_BODY).facts[0].spent == amount(made)


def test_a_scheduled_message_is_held_and_a_cancelled_one_gives_it_back() -> None:
    """Scheduling holds the whole estimate; the cancel, by whichever call, gives back what this run holds for it."""
    world = World()
    cancel = call(f"{API}/Messages/{SM}.json", {"Status": "canceled"})
    world.call(world.charges(_reply(201, {**CREATED_BODY, "status": "scheduled", "num_segments": "0"})), message(**LATER))
    scheduled = world.counted
    world.call(world.charges(_reply(200, {"sid": SM, "status": "canceled"})), cancel)

    assert quoted(cancel) == Quote(0, object_id=SM)
    assert (scheduled, world.counted) == ((0, US_SEGMENT, 0), (0, 0, 0))


def test_a_scheduled_message_that_was_sent_is_spent_at_its_price() -> None:
    """A read that shows the price settles what was held."""
    world = World()
    world.call(world.charges(_reply(201, {**CREATED_BODY, "status": "scheduled"})), message(**LATER))
    world.call(world.charges(_reply(200, {"sid": SM, "status": "delivered", "price": "-0.00790", "price_unit": "usd"})), fetch())

    assert world.counted == (7_900, 0, 0)


def test_each_send_reserves() -> None:
    """Twilio has no de-duplication: two equal messages are two."""
    world = World()
    for last in "12":
        world.call(world.charges(_reply(201, {**CREATED_BODY, "sid": f"SM{SID[:-1]}{last}"})), message())

    assert world.counted == (2 * US_SEGMENT, 0, 0)


@pytest.mark.parametrize(
    ("said", "spent"),
    [
        ({"status": "delivered", "price": "-0.02500", "price_unit": "USD"}, 25_000),
        ({"status": "delivered", "price": "-0.00750", "price_unit": "usd"}, US_SEGMENT),
        ({"status": "delivered", "price": "-0.9", "price_unit": "GBP"}, US_SEGMENT),
        ({"status": "queued", "price": "-0.02500", "price_unit": "USD"}, US_SEGMENT),
        ({"status": "delivered", "price": None, "price_unit": "USD"}, US_SEGMENT),
        ({"status": "delivered", "price": "soon", "price_unit": "USD"}, US_SEGMENT),
    ],
)
def test_a_price_above_the_estimate_is_booked_when_a_read_shows_it(said: dict[str, Any], spent: int) -> None:
    """A final price in dollars raises what was booked, by fetch and by list; a lower one is left to reconciling."""
    for read, body in ((fetch(), {"sid": SM, **said}), (fetch(is_list=True), {"messages": [{"sid": "odd"}, 7, {"sid": SM, **said}]})):
        world = World()
        world.call(world.charges(CREATED), message())
        world.call(world.charges(_reply(200, body)), read)

        assert world.counted == (spent, 0, 0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 422, 429])
def test_what_twilio_refused_is_released(status: int) -> None:
    """A bad number (21211), a trial's limit, too many requests (20429, "never processed"): nothing was sent."""
    assert answered(message(), status, {"code": 21211, "status": status}).ending == "released"


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, {"code": 20500}), (502, b"<html>"), (503, b""), (408, {}), (499, {}), (201, b"<html>"), (201, None), (201, {}), (201, []),
     (201, {"sid": 7}), (201, {"sid": US}), (201, {"sid": "+14155552671x"})],
)  # fmt: skip
def test_what_cannot_be_told_is_doubt(status: int, body: Any) -> None:
    """5xx, a timeout's status, and a success that cannot be read: the message may have been sent."""
    assert answered(message(), status, body).ending == "doubt"


def test_a_reply_in_xml_is_settled_at_the_estimate() -> None:
    """A path without `.json` is answered in XML, which names no less and costs no less."""
    made = message()
    xml = Reply(201, {"content-type": "application/xml; charset=utf-8"}, b"<TwilioResponse><Message/></TwilioResponse>")

    assert vendor.read(made, vendor.classify(made), quoted(made), xml) == Outcome("settled", cost=US_SEGMENT, source="local")


def test_the_requests_name_is_kept_for_support() -> None:
    """`Twilio-Request-Id` names the request at Twilio."""
    found = vendor.read(message(), vendor.classify(message()), quoted(message()), Reply(429, {"twilio-request-id": "RQ1"}, b"{}"))

    assert (found.ending, found.request_id) == ("released", "RQ1")


def fetch(*, is_list: bool = False) -> Call:
    """Return a read of one message, or of all."""
    return call(f"{API}/Messages.json" if is_list else f"{API}/Messages/{SM}.json", method="GET")


def _reply(status: int, body: Any) -> Reply:
    return Reply(status, {}, json.dumps(body).encode())
