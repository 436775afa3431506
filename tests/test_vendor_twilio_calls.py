"""What a phone call may cost: minutes and their limit, TwiML, recording, conferences, changes of calls that run."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import context
from keyguard.errors import MalformedCall, SpendCapExceeded
from keyguard.model import Call, Fact, Outcome, Reply
from tests.support_guard import World
from tests.support_twilio import API, SID, US, US_TOO, amount, answered, call, phone, quoted

MINUTE = 14_000  # micro-USD, to the US
RECORDING, CONFERENCE, DETECTION, SPEECH = 2_500, 2_500, 10_000, 15_000
CA = f"CA{SID}"
SAY = "<Response><Say>Hello</Say></Response>"


# -- minutes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("1", 1), ("59", 1), ("60", 1), ("61", 2), ("600", 10), ("3600", 60), ("86400", 1440), (None, 240)],
)
def test_a_call_is_bounded_by_its_time_limit(limit: str | None, minutes: int) -> None:
    """Full minutes, begun ones whole; without a limit a call ends after four hours by itself."""
    assert amount(phone(TimeLimit=limit)) == minutes * MINUTE


@pytest.mark.parametrize("limit", ["0", "-60", "text", "", "1e3", "60.5", "86401", "9" * 30, "६०", " 60", "0x10"])
def test_a_time_limit_that_is_no_number_of_seconds_is_refused(limit: str) -> None:
    """The message says what it may be, and that nothing was sent."""
    with pytest.raises(MalformedCall, match=r"TimeLimit must be a whole number from 1 to 86,400.*Nothing was sent"):
        quoted(phone(TimeLimit=limit))


def test_a_policys_time_limit_is_added_to_calls_of_the_sdk() -> None:
    """`rules` give what the call leaves out, so that ten minutes are held and not four hours."""
    world = World(policy={"run_usd_cap": 1, "rules": {"calls.create": {"TimeLimit": {"default": 600, "max": 3600}}}})
    ticket, flow = world.flow(phone(TimeLimit=None))
    ticket.is_writable = True
    with context.under(ticket):
        from keyguard.drivers import drive

        drive(flow, ticket, world.charges(_reply({"sid": CA, "status": "queued"})), None)

    assert ticket.defaults == (("TimeLimit", "600"),)
    assert world.counted == (10 * MINUTE, 0, 0)


def test_a_call_without_a_limit_is_refused_where_four_hours_do_not_fit() -> None:
    """A raw request gets no default: what it may cost at most is held, or it is not sent."""
    world = World(policy={"run_usd_cap": 3})
    with pytest.raises(SpendCapExceeded):
        world.call(world.charges(_reply({"sid": CA})), phone(TimeLimit=None))

    assert world.sent == 0


@pytest.mark.parametrize(
    ("number", "minute"),
    [
        ("+14155552671", 14_000),
        ("+19075551234", 90_000),
        ("+14165550123", 14_000),
        ("+18675551234", 3_000_000),
        ("+442071838750", 15_800),
        ("+447400123456", 30_500),
        ("+447012345678", 3_000_000),
        ("+81312345678", 74_600),
        ("+819012345678", 185_000),
        ("+18765551234", 3_000_000),
        ("+263712345678", 864_100),
        ("+15551234567", 3_000_000),
    ],
)
def test_a_minute_costs_by_prefix_kind_and_country(number: str, minute: int) -> None:
    """Alaska is dearer than the US, a mobile than a landline, a personal number than both; what is not listed has the highest bound."""
    assert amount(phone(To=number)) == minute


@pytest.mark.parametrize("to", ["sip:secret@example.com", "client:secret", "whatsapp:+14155552671", "+881612345678", "+19002345678"])
def test_what_has_no_listed_price_is_the_policys(to: str) -> None:
    """SIP, clients, WhatsApp, satellites and premium numbers: refused with a reason, or counted flat."""
    found = quoted(phone(To=to))

    assert found.unbounded is not None
    assert "secret" not in found.unbounded.reason


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"To": ""}, "To is missing"),
        ({"To": "app:secret"}, "not whom Twilio calls"),
        ({"To": "911"}, "To is a short code"),
        ({"To": "secret"}, "To is no phone number"),
        ({"To": "+9991234567"}, "belongs to no country"),
        ({"From": "secret"}, "From must be a phone number"),
        ({"From": "client:secret"}, "From must be a phone number"),
    ],
)
def test_whom_twilio_does_not_call_is_refused(fields: dict[str, Any], says: str) -> None:
    """The message says what to write, and repeats no address."""
    with pytest.raises(MalformedCall, match=re.escape(says)) as error:
        quoted(phone(**fields))

    assert "secret" not in str(error.value)


# -- what else a call may be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({"MachineDetection": "Enable"}, MINUTE + DETECTION),
        ({"MachineDetection": "DetectMessageEnd", "TimeLimit": "120"}, 2 * MINUTE + DETECTION),
        ({"Record": "true"}, MINUTE + RECORDING),
        ({"Record": "True", "RecordingChannels": "dual", "TimeLimit": "120"}, 2 * (MINUTE + RECORDING)),
        ({"Record": "false"}, MINUTE),
        ({"RecordingConfigurationId": "x"}, MINUTE + RECORDING),
        ({"ApplicationSid": f"AP{SID}", "Url": None}, MINUTE),
        ({"Url": None, "Twiml": SAY}, MINUTE + SPEECH),
        ({"Url": None, "Twiml": "<Response><Play>https://x.io/a.mp3</Play><Hangup/></Response>"}, MINUTE),
        ({"Url": None, "Twiml": f"<Response><Say>{'a' * 300}</Say></Response>"}, MINUTE + 3 * SPEECH),
        ({"Url": None, "Twiml": '<Response><Say voice="Polly.Amy" loop="3">Hello <break/> you</Say></Response>'}, MINUTE + 3 * SPEECH),
        ({"Url": None, "Twiml": '<?xml version="1.0" encoding="UTF-8"?><Response><Pause length="5"/></Response>'}, MINUTE),
        ({"Url": None, "Twiml": "<Response><Dial>+14155552672</Dial></Response>", "TimeLimit": "120"}, 4 * MINUTE),
        (
            {"Url": None, "Twiml": '<Response><Say>Hi</Say><Dial callerId="+1" timeout="9"> +19075551234 </Dial></Response>'},
            MINUTE + SPEECH + 90_000,
        ),
        (
            {"Url": None, "Twiml": "<Response><Dial><Number>+14155552672</Number><Number>+447400123456</Number></Dial></Response>"},
            2 * MINUTE + 30_500,
        ),
        # "If both `twiml` and `url` are provided then `twiml` parameter will be ignored."
        ({"Twiml": "<Response><Dial>+1</Dial></Response>"}, MINUTE),
    ],
)
def test_a_calls_extras_are_added(fields: dict[str, Any], price: int) -> None:
    """Machine detection once, recording by the minute, speech by the character of the document in the request."""
    assert amount(phone(**fields)) == price


@pytest.mark.parametrize(
    "twiml",
    [
        "<Response><Dial record='record-from-answer'>+14155552671</Dial></Response>",
        "<Response><Dial action='https://x.io'>+14155552671</Dial></Response>",
        "<Response><Dial><Number url='https://x.io'>+14155552671</Number></Dial></Response>",
        "<Response><Dial><Conference>room</Conference></Dial></Response>",
        "<Response><Dial>+881612345678</Dial></Response>",
        "<Response><Say><Dial>+14155552671</Dial></Say></Response>",
        "<?xml version='1.0' encoding='utf-7'?><Response>+ADw-Dial+AD4-+-1+ADw-/Dial+AD4-</Response>",
        "<Other><Say>Hi</Say></Other>",
        "not xml",
        "<Response><Redirect>https://x.io</Redirect></Response>",
        "<Response><Record/></Response>",
        "<Response><Gather input='speech'><Say>Hi</Say></Gather></Response>",
        "<Response><Connect><Stream url='wss://x.io'/></Connect></Response>",
        "<Response><Enqueue>q</Enqueue></Response>",
        "<Response><Refer><Sip>sip:a@b</Sip></Refer></Response>",
        "<Response><Sms>hi</Sms></Response>",
        "<Response>< Dial>+14155552671</Dial></Response>",
        "<!DOCTYPE r [<!ENTITY d '<Dial>+1</Dial>'>]><Response>&d;</Response>",
        "<Response><x:Dial>+14155552671</x:Dial></Response>",
        "<Response xmlns='urn:x'><Say>Hi</Say></Response>",
        "<Response><Say loop='0'>Hi</Say></Response>",
        "<Response><Say loop='9999'>Hi</Say></Response>",
        "<Response><Say loop='&#48;'>Hi</Say></Response>",
    ],
)
def test_a_document_that_may_do_more_has_no_bound(twiml: str) -> None:
    """Verbs that record, pay, send or go on elsewhere, numbers without a price, speech without an end; the own leg is quoted besides."""
    found = quoted(phone(Url=None, Twiml=twiml))

    assert found.unbounded is not None
    assert not found.unbounded.is_by_design
    assert found.amount == MINUTE


def test_a_number_to_dial_that_is_none_is_refused() -> None:
    """As the number of the call itself, and without repeating it."""
    with pytest.raises(MalformedCall, match="a number that Twiml dials is no phone number") as error:
        quoted(phone(Url=None, Twiml="<Response><Dial>secret</Dial></Response>"))

    assert "secret" not in str(error.value)


def participant(**fields: Any) -> Call:
    """Return a participant who is called into a conference for at most a minute."""
    return call(f"{API}/Conferences/CF{SID}/Participants.json", {"To": US, "From": US_TOO, "TimeLimit": "60", **fields})


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({}, MINUTE + CONFERENCE),
        ({"TimeLimit": "61"}, 2 * (MINUTE + CONFERENCE)),
        ({"Record": "true"}, MINUTE + CONFERENCE + RECORDING),
        ({"ConferenceRecord": "record-from-start", "Record": "true"}, MINUTE + CONFERENCE + 2 * RECORDING),
        ({"ConferenceRecord": "do-not-record"}, MINUTE + CONFERENCE),
        ({"MachineDetection": "Enable"}, MINUTE + CONFERENCE + DETECTION),
    ],
)
def test_a_participant_costs_as_a_call_and_the_conference_besides(fields: dict[str, Any], price: int) -> None:
    """Each minute of the leg, of the conference, and of what records them."""
    assert amount(participant(**fields)) == price


@pytest.mark.parametrize(
    ("path", "fields", "is_bounded"),
    [
        (f"/Calls/{CA}.json", {"Status": "completed"}, True),
        (f"/Calls/{CA}.json", {"Status": "canceled"}, True),
        (f"/Calls/{CA}.json", {"Twiml": "<Response><Hangup/></Response>"}, True),
        (f"/Calls/{CA}.json", {"Twiml": "<Response><Dial>+14155552671</Dial></Response>"}, False),
        (f"/Calls/{CA}.json", {"Url": "https://x.io"}, False),
        (f"/Calls/{CA}.json", {"FallbackUrl": "https://x.io"}, False),
        (f"/Calls/{CA}.json", {"TimeLimit": "7200"}, False),
        (f"/Conferences/CF{SID}.json", {"Status": "completed"}, True),
        (f"/Conferences/CF{SID}.json", {"AnnounceUrl": "https://x.io"}, False),
        (f"/Conferences/CF{SID}/Participants/{CA}.json", {"Muted": "true", "Hold": "true"}, True),
        (f"/Conferences/CF{SID}/Participants/{CA}.json", {"AnnounceUrl": "https://x.io"}, False),
        (f"/Conferences/CF{SID}/Participants/{CA}.json", {"Hold": "true", "HoldUrl": "https://x.io"}, False),
    ],
)
def test_a_call_that_runs_may_be_ended_but_not_sent_elsewhere(path: str, fields: dict[str, str], is_bounded: bool) -> None:
    """Ending, muting and holding are free; another document, another limit and announcements have no bound."""
    found = quoted(call(API + path, fields))

    assert (found.amount, found.unbounded is None) == (0, is_bounded)


# -- replies -----------------------------------------------------------------------------------------


def _reply(body: Any, status: int = 201) -> Reply:
    return Reply(status, {}, json.dumps(body).encode())


def test_a_call_is_spent_at_its_estimate() -> None:
    """How long it lasted is known later; a participant's reply names the call as `call_sid`."""
    fact = Fact(CA, MINUTE, 0, MINUTE, status="queued")

    answer = answered(phone(), 201, {"sid": CA, "status": "queued", "price": "-0.03000"})
    assert answer == Outcome("settled", facts=(fact,), source="local", is_estimate=True)
    assert answered(participant(), 201, {"call_sid": CA, "status": "queued"}).facts[0].object_id == CA


def test_a_price_above_the_estimate_is_booked_when_a_read_shows_it() -> None:
    """A finished call's price is the truth of its connection; a lower one stays, as extras are charged apart."""
    world = World()
    fetched = call(f"{API}/Calls/{CA}.json", method="GET")
    world.call(world.charges(_reply({"sid": CA, "status": "queued"})), phone())
    seen = []
    for price, status in (("-0.01000", "completed"), ("-0.02000", "in-progress"), ("-0.02000", "completed")):
        world.call(world.charges(_reply({"sid": CA, "status": status, "price": price, "price_unit": "USD"}, 200)), fetched)
        seen.append(world.counted)

    assert seen == [(MINUTE, 0, 0), (MINUTE, 0, 0), (20_000, 0, 0)]


@pytest.mark.parametrize(("status", "ending"), [(400, "released"), (429, "released"), (404, "released"), (500, "doubt"), (201, "doubt")])
def test_how_an_attempt_ended_is_read_as_for_messages(status: int, ending: str) -> None:
    """A refusal made no call; a failure, or a success without an id, may have."""
    assert answered(phone(), status, {}).ending == ending


@given(
    st.integers(1, 86_400), st.sampled_from([US, "+447400123456", "+819012345678", "+18765551234"]), st.booleans(), st.booleans(), st.data()
)
def test_no_honest_bill_is_above_the_quote(limit: int, to: str, is_recorded: bool, is_detecting: bool, data: st.DataObject) -> None:
    """However long a call lasts within its limit, its full minutes at the listed price, and what was asked for, are within the quote."""
    extras = {"Record": "true"} if is_recorded else {}
    extras |= {"MachineDetection": "Enable"} if is_detecting else {}
    minutes = -(-data.draw(st.integers(0, limit)) // 60)
    minute = amount(phone(To=to)) + (RECORDING if is_recorded else 0)

    assert minutes * minute + (DETECTION if is_detecting else 0) <= amount(phone(To=to, TimeLimit=str(limit), **extras))
