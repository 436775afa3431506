"""What a message may cost: segments, countries, media, channels, templates, schedules; and what replies to one say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Call, Reply
from keyguard.vendors._twilio_segments import segments
from tests.support_guard import World
from tests.support_twilio import API, SID, US, amount, answered, call, message, quoted

US_SEGMENT = 8_300 + 6_500  # micro-USD, with what carriers add
UNLISTED = 750_000
CEILING = 205_000
MMS = 32_000
SM = f"SM{SID}"
CREATED = Reply(201, {}, json.dumps({"sid": SM, "status": "queued", "num_segments": "1"}).encode())

# -- segments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("€" * 152, 2),
        ("a" * 152 + "€" + "a" * 10, 2),
        ("a" * 152 + "€" * 77, 3),
        ("é" * 160, 1),
        ("ê" * 70, 1),
        ("ê" * 71, 2),
        ("ê" * 134, 2),
        ("ê" * 135, 3),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
        ("😀" * 66, 2),
        ("😀" * 67, 3),
        ("a" * 1600, 11),
        ("^" * 1600, 22),
        ("ê" * 1600, 24),
        ("😀" * 1600, 49),
        (f"{'ê' * 60}👨‍👩‍👧{'ê' * 66}", 3),
        (f"{'ê' * 60}🇩🇪👍🏽{'ê' * 63}", 2),
        (f"{'ê' * 66}👍🏽{'ê' * 64}", 3),
        (f"{'ê' * 66}🇩🇪{'ê' * 64}", 3),
        ("e" + "\u0301" * 400, 6),
        ("\ud800", 1),
        ("\x00", 1),
    ],
)
def test_segments_are_counted_as_twilio_does(text: str, count: int) -> None:
    """160 or 153 septets, 70 or 67 code units; an escape and its character, a pair, and an emoji with its parts never straddle a border."""
    assert segments(text) == count


# -- countries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "price"),
    [
        (US, US_SEGMENT),
        ("+1 (415) 555-2671", US_SEGMENT),
        ("+14165550123", US_SEGMENT),
        ("+18765551234", UNLISTED),
        ("+17875551234", 54_000),
        ("+447400123456", 56_000),
        ("+447911123456", UNLISTED),
        ("+441481000000", UNLISTED),
        ("+77012345678", UNLISTED),
        ("+79161234567", UNLISTED),
        ("+4915112345678", 112_000),
        ("+31612345678", 150_000),
        ("+2348031234567", 386_800),
        ("+5215512345678", 181_900),
        ("+15551234567", UNLISTED),
    ],
)
def test_the_price_is_of_the_numbers_own_country(number: str, price: int) -> None:
    """+1 is not the US, +44 not Great Britain; where the number does not tell, the dearest country of its code counts."""
    assert amount(message(To=number)) == price


@pytest.mark.parametrize("number", ["+881612345678", "+870773111632", "+80012345678"])
def test_what_belongs_to_no_country_has_no_price(number: str) -> None:
    """Satellites and international services are the policy's to allow, at a flat amount."""
    found = quoted(message(To=number))

    assert found.unbounded is not None
    assert (found.amount, found.unbounded.is_by_design) == (0, False)


def test_premium_numbers_have_no_price() -> None:
    """A premium-rate number is in no list either."""
    assert quoted(message(To="+19002345678")).unbounded is not None


def test_a_policy_may_count_what_has_no_price_flat() -> None:
    """Refused by default with a reason, nothing sent; with `unpriced` a flat amount is held and spent."""
    satellite = message(To="+881612345678")
    strict, flat = World(), World(policy={"run_usd_cap": 100, "unpriced": 2})

    with pytest.raises(UnpricedCall, match=r"no country.*Nothing was sent"):
        strict.call(strict.charges(CREATED), satellite)
    flat.call(flat.charges(CREATED), satellite)

    assert (strict.sent, flat.counted) == (0, (2_000_000, 0, 0))


# -- what else a message may be ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({"Body": "a" * 161}, 2 * US_SEGMENT),
        ({"Body": ""}, US_SEGMENT),
        # Without a sender Twilio takes one from the pool; each costs the same, or less.
        ({"From": "", "MessagingServiceSid": f"MG{SID}"}, US_SEGMENT),
        # Smart Encoding makes 210 septets of 70 code units.
        ({"Body": "…" * 70, "MessagingServiceSid": f"MG{SID}"}, 2 * US_SEGMENT),
        ({"Body": "…" * 70, "SmartEncoded": "true"}, 2 * US_SEGMENT),
        ({"Body": "…" * 70}, US_SEGMENT),
        ({"MediaUrl": "https://example.com/a.png"}, 3 * US_SEGMENT),
        ({"MediaUrl": ["https://example.com/a.png", "https://example.com/b.png"], "Body": "a" * 400}, 5 * US_SEGMENT),
        ({"SendAsMms": "true"}, MMS),
        ({"SendAsMms": "false"}, US_SEGMENT),
        ({"SendAsMms": "true", "Body": "a" * 1600}, 11 * US_SEGMENT),
        ({"To": "+4915112345678", "MediaUrl": "https://example.com/a.png"}, 3 * 112_000),
        ({"To": "+4915112345678", "SendAsMms": "true"}, 112_000),
        ({"To": "whatsapp:+14155552671", "From": "whatsapp:+14155552672"}, CEILING),
        ({"To": "whatsapp:+4915112345678", "Body": "a" * 1600}, CEILING),
        ({"To": "WhatsApp:+14155552671"}, CEILING),
        ({"To": "whatsapp:+14155552671", "ContentSid": f"HX{SID}", "Body": ""}, CEILING),
        ({"To": "whatsapp:+4915112345678", "FallbackFrom": US, "Body": "a" * 400}, 3 * 112_000),
        ({"To": "messenger:1234567890", "From": "messenger:555"}, CEILING),
        ({"To": "rcs:+14155552671"}, CEILING),
        ({"To": "rcs:+14155552671", "Body": "a" * 2200}, 15 * US_SEGMENT),
        ({"From": "rcs:brand_agent"}, CEILING),
        ({"ContentSid": f"HX{SID}", "Body": ""}, 25 * US_SEGMENT),
        ({"ContentSid": f"HX{SID}", "ContentVariables": "{}", "MessagingServiceSid": f"MG{SID}"}, 25 * US_SEGMENT),
        ({"ShortenUrls": "true", "Body": "see https://example.com and https://example.org"}, 3 * US_SEGMENT + 15_000),
        ({"RiskCheck": "enable"}, US_SEGMENT + 25_000),
        ({"RiskCheck": "disable"}, US_SEGMENT),
        ({"ScheduleType": "fixed", "SendAt": "2027-01-01T00:00:00Z", "MessagingServiceSid": f"MG{SID}"}, US_SEGMENT),
        # "This parameter will no longer have any effect as of 2024-06-03."
        ({"MaxPrice": "0.001"}, US_SEGMENT),
        ({"AddressRetention": "obfuscate", "ProvideFeedback": "true", "ValidityPeriod": "60"}, US_SEGMENT),
        ({"To": "+447400123456", "From": "ACME Shop"}, 56_000),
        ({"From": "12345"}, US_SEGMENT),
    ],
)
def test_a_message_costs_the_dearest_of_what_it_may_be(fields: dict[str, Any], price: int) -> None:
    """Segments, or media, or a channel's ceiling, whichever is dearer; templates by the longest text; extras on top."""
    assert amount(message(**fields)) == price


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"To": ""}, "To is missing"),
        ({"To": "12345"}, "To is a short code"),
        ({"To": "+12345"}, "To is a short code"),
        ({"To": "4155552671"}, "To is no phone number"),
        ({"To": "secret-name"}, "To is no phone number"),
        ({"To": "+1415secret"}, "To is no phone number"),
        ({"To": "+9991234567"}, "belongs to no country"),
        ({"To": "sip:secret@example.com"}, "no sip: or client:"),
        ({"To": "client:secret"}, "no sip: or client:"),
        ({"To": "whatsapp:secret"}, "To is no phone number"),
        ({"To": "whatsapp:"}, "To is no phone number"),
        ({"To": "+1415555267\uff11"}, "To is no phone number"),
        ({"From": "secret name that is long"}, "at most 11 letters"),
        ({"From": "<secret>"}, "at most 11 letters"),
        ({"From": "ACME"}, "no carrier takes in North America"),
    ],
)
def test_whom_twilio_does_not_write_to_is_refused(fields: dict[str, Any], says: str) -> None:
    """Short codes, national numbers, names, SIP and clients: the message says what to write, and repeats no address."""
    made = message(**fields)
    with pytest.raises(MalformedCall, match=re.escape(says)) as error:
        quoted(made)

    assert "Nothing was sent" in str(error.value)
    assert "secret" not in str(error.value)
    assert US not in str(error.value)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (call(fields=[("To", US), ("To", "+4915112345678"), ("Body", "x")]), "To is given twice"),
        (call(fields=[("To", US), ("Body", "x"), ("Body", "y" * 900)]), "Body is given twice"),
        (call(fields=[("To", US), ("body", "x")]), "Body must be written"),
        (call(fields=[("To[]", US)]), "To must be written"),
        (call(fields=[("To", US), ("Body ", "y" * 900)]), "Body must be written"),
        (call(fields={"To": US}, query="Body=hello"), "Body stands in the query"),
        (call(fields={}, query=f"To={US}"), "To stands in the query"),
        (call(fields={}), "To is missing"),
        (Call("twilio", "POST", "https", "api.twilio.com", f"{API}/Messages.json", body=None), "body of this call cannot be read"),
    ],
)
def test_a_form_that_two_readers_may_read_differently_is_refused(made: Call, says: str) -> None:
    """Money fields stand once, in the body, as Twilio spells them; a body that cannot be read has no bound."""
    with pytest.raises(MalformedCall, match=re.escape(says)):
        quoted(made)


# -- random requests -----------------------------------------------------------------------------------

numbers = st.sampled_from(
    [US, "+4915112345678", "+447400123456", "+18765551234", "+15551234567", "whatsapp:+5215512345678", "rcs:+14155552671"]
)
bodies = st.text(max_size=400) | st.text(alphabet="a€ê😀…", max_size=1600)
valid = st.fixed_dictionaries(
    {"To": numbers, "Body": bodies},
    optional={"MediaUrl": st.lists(st.just("https://x.io/a.png"), min_size=1, max_size=10), "MessagingServiceSid": st.just(f"MG{SID}"),
              "SendAsMms": st.sampled_from(["true", "false"]), "ShortenUrls": st.just("true"), "ContentSid": st.just(f"HX{SID}")},
)  # fmt: skip


@given(valid, st.sampled_from(["queued", "accepted", "sent", "scheduled"]), st.data())
def test_no_reply_that_counts_honestly_costs_more_than_the_quote(fields: dict[str, Any], status: str, data: st.DataObject) -> None:
    """Whatever Twilio answers, as long as it counts no more segments than its own calculator does, is within what was held."""
    made = call(fields=fields)
    most = 25 if "ContentSid" in fields else segments(fields["Body"])
    counted = data.draw(st.integers(0, most))
    fact = answered(made, 201, {"sid": SM, "status": status, "num_segments": str(counted)}).facts[0]

    assert 0 < fact.spent + fact.held <= amount(made)
