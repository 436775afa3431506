"""What is read out of the lists of Twilio and Resend about a call in doubt, answer by answer."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from keyguard.identity import payee_of
from keyguard.model import Call
from keyguard.vendors import _resend_inquiry as resend
from keyguard.vendors import _resend_money as money
from keyguard.vendors import _twilio_inquiry as twilio
from keyguard.vendors import _twilio_places as places
from tests.support_inquiries import HOUR, NOW, Script, doubt_of

AC, SM, CA = f"AC{'a' * 32}", f"SM{'b' * 32}", f"CA{'c' * 32}"
TO = "+12125550123"
MESSAGES, CALLS = f"/2010-04-01/Accounts/{AC}/Messages.json", f"/2010-04-01/Accounts/{AC}/Calls.json"


def written(at: float) -> str:
    return format_datetime(datetime.fromtimestamp(at, timezone.utc))


def message(sid: str = SM, *, at: float = NOW - 2 * HOUR, **fields: Any) -> dict[str, Any]:
    known = {
        "sid": sid, "to": TO, "direction": "outbound-api", "date_created": written(at), "date_sent": written(at), "status": "delivered",
        "price": "-0.00830", "price_unit": "USD",
    }  # fmt: skip
    return {**known, **fields}


def doubt(operation: str = "messages.create", **fields: Any) -> Any:
    return doubt_of("twilio", operation, **{"account": AC, "payee": payee_of("run:a", TO), "amount": 14_800, **fields})


def listed(*items: Any, following: str | None = None, name: str = "messages") -> dict[str, Any]:
    return {name: list(items), "next_page_uri": following}


# -- Twilio ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({}, (8_300, 0)),
        ({"price": None, "status": "sent"}, (14_800, 0)),
        ({"price": None, "status": "queued", "date_sent": None}, (14_800, 0)),
        ({"price": None, "status": "scheduled", "date_sent": None}, (0, 14_800)),
        ({"price": None, "status": "canceled", "date_sent": None}, (0, 0)),
        ({"price": "-0.00100", "status": "failed"}, (1_000, 0)),
        ({"price": "0.01", "price_unit": "EUR"}, (14_800, 0)),
    ],
)
def test_a_message_counts_as_the_list_shows_it(fields: dict[str, Any], parts: tuple[int, int]) -> None:
    """At its price if it has one, else at what was held for it; scheduled it is still open, cancelled it is nothing."""
    found = Script({MESSAGES: listed(message(**fields))}).play(twilio.inquire(doubt(), NOW))

    (candidate,) = found.candidates
    (fact,) = candidate.outcome.facts
    assert found.is_whole
    assert (fact.object_id, fact.spent, fact.held) == (SM, *parts)


@pytest.mark.parametrize(
    "fields",
    [
        {"to": "+12125550124"}, {"to": "whatsapp:+12125550123"}, {"direction": "inbound"}, {"direction": "outbound-reply"},
        {"at": NOW - 27 * HOUR}, {"at": NOW + 10 * HOUR}, {"sid": "x"},
    ],
)  # fmt: skip
def test_other_messages_are_not_it(fields: dict[str, Any]) -> None:
    """Another recipient, channel, direction or time is another message."""
    found = Script({MESSAGES: listed(message(**fields))}).play(twilio.inquire(doubt(), NOW))

    assert (found.candidates, found.is_whole) == ((), True)


@pytest.mark.parametrize("fields", [{"date_created": None}, {"date_created": "yesterday"}, {"to": None}])
def test_an_entry_that_cannot_be_read_proves_nothing(fields: dict[str, Any]) -> None:
    """What has no readable time or recipient may be the message: nothing is taken for absent."""
    found = Script({MESSAGES: listed(message(**fields))}).play(twilio.inquire(doubt(), NOW))

    assert (found.candidates, found.is_whole) == ((), False)


def test_the_list_is_read_until_it_is_surely_older() -> None:
    """Pages follow one another until a message was sent a day before the call; what has no date of sending does not end it."""
    waiting = message(f"SM{'d' * 32}", at=NOW - 60 * HOUR, date_sent=None)
    old = message(f"SM{'e' * 32}", at=NOW - 52 * HOUR)
    pages = [listed(waiting, following=f"{MESSAGES}?PageToken=2"), listed(old, following=f"{MESSAGES}?PageToken=3"), 500]
    script = Script({MESSAGES: pages})

    assert script.play(twilio.inquire(doubt(), NOW)).is_whole
    assert [query.get("PageToken", ["1"]) for _, query in script.asked] == [["1"], ["2"]]


@pytest.mark.parametrize("following", ["https://evil.example/x?PageToken=2", "/2010-04-01/Accounts/ACother/Messages.json?PageToken=2"])
def test_the_next_page_is_of_the_same_list(following: str) -> None:
    """Whatever an answer names as its next page, the same path is asked."""
    script = Script({MESSAGES: [listed(message(), following=following), listed()]})

    assert script.play(twilio.inquire(doubt(), NOW)).is_whole
    assert [path for path, _ in script.asked] == [MESSAGES, MESSAGES]


def test_calls_are_looked_for_among_calls() -> None:
    """A call is listed by its start; without a price it counts as held."""
    call = {"sid": CA, "to": TO, "direction": "outbound-api", "date_created": written(NOW - 2 * HOUR), "status": "completed", "price": None}
    script = Script({CALLS: listed(call, name="calls")})

    (candidate,) = script.play(twilio.inquire(doubt("calls.create"), NOW)).candidates

    assert (candidate.object_id, candidate.outcome.facts[0].spent) == (CA, 14_800)


@pytest.mark.parametrize("fields", [{"operation": "verifications.create"}, {"account": ""}, {"payee": ""}])
def test_what_twilio_cannot_be_asked_is_said(fields: dict[str, Any]) -> None:
    """Without a list, an account or a recipient a person looks; nobody is asked."""
    script = Script({})

    found = script.play(twilio.inquire(doubt(**fields), NOW))

    assert (found.is_whole, script.asked) == (False, [])
    assert "Console" in found.words


@pytest.mark.parametrize(
    ("text", "payee"),
    [
        ("+1 (212) 555-0123", TO),
        (" whatsapp:+1 212 555 0123", f"whatsapp:{TO}"),
        ("client:Bea", "client:Bea"),
        ("12345", "12345"),
        ("", ""),
    ],
)
def test_whom_a_request_is_sent_to_is_written_as_the_list_writes_it(text: str, payee: str) -> None:
    """A number is E.164 behind its channel; what is no number stays as it is."""
    call = Call("twilio", "POST", "https", "api.twilio.com", MESSAGES, body=(("Body", "x"), ("To", text)))

    assert places.payee(call) == payee


@pytest.mark.parametrize(("environ", "user"), [({"TWILIO_ACCOUNT_SID": "AC9"}, "AC9"), ({}, AC)], ids=["of the environment", "of the call"])
def test_twilio_is_asked_as_an_account(environ: dict[str, str], user: str) -> None:
    """The account of the environment signs; without one the account of the call."""
    headers, owner = twilio.signed(doubt(), "t", environ)

    assert owner == user
    assert headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("object_id", "place"),
    [
        (SM, f"/2010-04-01/Accounts/{AC}/Messages/{SM}.json"),
        (CA, f"/2010-04-01/Accounts/{AC}/Calls/{CA}.json"),
        ("PN1", None),
        (None, None),
    ],
)
def test_late_prices_are_read_by_sid(object_id: str | None, place: str | None) -> None:
    """A message or call is read under its account."""
    assert twilio.place(doubt(object_id=object_id)) == place


# -- Resend ----------------------------------------------------------------------------------------


def email(name: str = "e-1", *, made: Any = "2026-05-28 18:26:40.5+00", **fields: Any) -> dict[str, Any]:
    return {"id": name, "to": ["b@example.com"], "cc": None, "bcc": None, "created_at": made, "last_event": "delivered", **fields}


def mailed(**fields: Any) -> Any:
    return doubt_of("resend", "emails.send", **{"payee": payee_of("run:a", "b@example.com"), "amount": 900, **fields})


@pytest.mark.parametrize(
    "made",
    [
        "2026-05-28 18:26:40.5+00",
        "2026-05-28T18:26:40.674981+00:00",
        "2026-05-28T18:26:40Z",
        "2026-05-28T20:26:40.1234567+02:00",
        "2026-05-28 18:26:40",
    ],
)
def test_times_are_read_as_resend_writes_them(made: str) -> None:
    """With a T or a blank, with a fraction of any length or none, with an offset or none."""
    found = Script({"/emails": {"data": [email(made=made)], "has_more": False}}).play(resend.inquire(mailed(), NOW))

    assert [one.object_id for one in found.candidates] == ["e-1"]


@pytest.mark.parametrize(
    ("status", "parts"), [("delivered", (900, 0)), ("bounced", (900, 0)), ("scheduled", (0, 900)), ("canceled", (0, 0))]
)
def test_an_email_counts_by_its_last_event(status: str, parts: tuple[int, int]) -> None:
    """Sent it is spent, scheduled it is open, cancelled it is nothing."""
    found = Script({"/emails": {"data": [email(last_event=status)], "has_more": False}}).play(resend.inquire(mailed(), NOW))

    (fact,) = found.candidates[0].outcome.facts
    assert (fact.spent, fact.held) == parts


@pytest.mark.parametrize("fields", [{"made": None}, {"made": "soon"}, {"id": None}, {"id": "../x"}])
def test_an_email_that_cannot_be_read_proves_nothing(fields: dict[str, Any]) -> None:
    """What has no readable time or id may be the e-mail."""
    made = fields.get("made", "2026-05-28 18:26:40+00")
    item = email(made=made, **{name: value for name, value in fields.items() if name != "made"})

    assert not Script({"/emails": {"data": [item], "has_more": False}}).play(resend.inquire(mailed(), NOW)).is_whole


@pytest.mark.parametrize("fields", [{"to": ["c@example.com"]}, {"cc": ["c@example.com"]}, {"made": "2026-05-27 16:00:00+00"}])
def test_other_emails_are_not_it(fields: dict[str, Any]) -> None:
    """Other or more recipients, or another time, is another e-mail."""
    found = Script({"/emails": {"data": [email(**fields)], "has_more": False}}).play(resend.inquire(mailed(), NOW))

    assert (found.candidates, found.is_whole) == ((), True)


@pytest.mark.parametrize(
    ("document", "payee"),
    [
        ({"to": "Bea <B@example.com>"}, "b@example.com"),
        ({"to": ["b@example.com"], "cc": "a@example.com", "bcc": ["C <c@example.com>"]}, "a@example.com,b@example.com,c@example.com"),
        ([{"to": "b@example.com"}, {"to": "a@example.com"}], "a@example.com,b@example.com"),
        ({"to": 5}, ""),
        (None, ""),
        ("x", ""),
    ],
)
def test_recipients_are_told_whatever_their_names(document: Any, payee: str) -> None:
    """Bare addresses in lower case, sorted, of to, cc and bcc."""
    assert money.payee(Call("resend", "POST", "https", "api.resend.com", "/emails", body=(), document=document)) == payee
