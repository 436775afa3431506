"""What the rest of Twilio may cost: verifications, look-ups, numbers, registrations, standing orders; and odd bodies everywhere."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Call, Fact, Outcome, Quote, Reply
from keyguard.vendors import _twilio_paths as paths
from keyguard.vendors.twilio import vendor
from tests.support_guard import World
from tests.support_twilio import API, SID, US, amount, answered, call, call_json, quoted

SUCCESS, SEGMENT, MINUTE, CEILING = 50_000, 14_800, 14_000, 205_000  # micro-USD
VE = f"VE{SID}"

# -- Verify --------------------------------------------------------------------------------------------


def verification(**fields: Any) -> Call:
    """Return a verification of a US number by SMS; fields replace what it says."""
    return call(f"/v2/Services/VA{SID}/Verifications", {"To": US, "Channel": "sms", **fields}, host="verify.twilio.com")


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({}, SUCCESS + 2 * SEGMENT),
        ({"Channel": "SMS"}, SUCCESS + 2 * SEGMENT),
        ({"Channel": "call"}, SUCCESS + 2 * MINUTE),
        ({"Channel": "whatsapp"}, SUCCESS + CEILING),
        ({"Channel": "rcs"}, SUCCESS + CEILING),
        ({"Channel": "email", "To": "a@x.io"}, SUCCESS),
        ({"Channel": "sna"}, SUCCESS + 50_000),
        ({"Channel": "auto"}, SUCCESS + 2 * SEGMENT + 2 * MINUTE + 2 * CEILING + 50_000),
        ({"Channel": ""}, SUCCESS + 2 * SEGMENT + 2 * MINUTE + 2 * CEILING + 50_000),
        ({"CustomFriendlyName": "ACME"}, SUCCESS + 3 * SEGMENT),
        ({"CustomMessage": "ê" * 100}, SUCCESS + 4 * SEGMENT),
        ({"To": "+4915112345678"}, SUCCESS + 2 * 112_000),
        ({"To": "+18765551234"}, SUCCESS + 2 * 750_000),
    ],
)
def test_a_verification_is_bounded_as_if_it_succeeded(fields: dict[str, Any], price: int) -> None:
    """The success and one attempt by the channel, the dearest where Twilio chooses or falls back."""
    assert amount(verification(**fields)) == price


def test_each_attempt_of_a_verification_is_spent() -> None:
    """A second attempt within ten minutes is answered with the first one's id, and is charged all the same; checks are free."""
    world = World()
    check = call(f"/v2/Services/VA{SID}/VerificationCheck", {"To": US, "Code": "123456"}, host="verify.twilio.com")
    for made in (verification(), verification(), check):
        world.call(world.charges(Reply(201, {}, json.dumps({"sid": VE, "status": "pending"}).encode())), made)

    assert world.counted == (2 * (SUCCESS + 2 * SEGMENT), 0, 0)


@pytest.mark.parametrize("to", ["a@x.io", "12345", "secret", ""])
def test_a_verification_needs_a_number(to: str) -> None:
    """Only e-mail goes to an address that is none."""
    with pytest.raises(MalformedCall, match="Nothing was sent"):
        quoted(verification(To=to))


@pytest.mark.parametrize("path", ["Entities/x/Challenges", f"Entities/x/Factors/YF{SID}", "Passkeys/Challenges", "Passkeys/VerifyFactor"])
def test_a_challenge_costs_one_success_at_most(path: str) -> None:
    """Push, TOTP and passkeys send nothing by telephone."""
    assert amount(call(f"/v2/Services/VA{SID}/{path}", host="verify.twilio.com")) == SUCCESS


# -- Lookup --------------------------------------------------------------------------------------------


def lookup(query: str, version: str = "v2", method: str = "GET") -> Call:
    """Return a look-up."""
    return call(f"/{version}/PhoneNumbers/{US}", method=method, host="lookups.twilio.com", query=query)


@pytest.mark.parametrize(
    ("made", "price"),
    [
        (lookup(""), 0),
        (lookup("CountryCode=US"), 0),
        (lookup("Fields="), 0),
        (lookup("Fields=validation"), 0),
        (lookup("Fields=line_type_intelligence"), 8_000),
        (lookup("Fields=line_type_intelligence,caller_name"), 18_000),
        (lookup("Fields=line_type_intelligence%2C%20caller_name"), 18_000),
        (lookup("Fields=caller_name&Fields=reassigned_number"), 30_000),
        (lookup("Fields=line_status"), 50_000),
        (lookup("Fields=identity_match"), 500_000),
        (lookup("Fields=nobody_knows,sim_swap"), 1_000_000),
        (lookup("Type=carrier", "v1"), 8_000),
        (lookup("Type=carrier&Type=caller-name", "v1"), 18_000),
        (lookup("", "v1"), 0),
        (lookup("Fields=caller_name", method="HEAD"), 10_000),
    ],
)
def test_a_look_up_costs_its_packages(made: Call, price: int) -> None:
    """A GET that costs: by what it asks for, in both versions; packages that are not listed by the highest bound."""
    assert amount(made) == price


def test_add_ons_of_a_look_up_have_prices_of_their_own() -> None:
    """What publishers charge is in no list."""
    assert quoted(lookup("AddOns=whitepages", "v1")).unbounded is not None


def test_look_ups_of_an_odd_spelling_are_refused() -> None:
    """Whether `fields` counts for Twilio is not for keyguard to guess."""
    with pytest.raises(MalformedCall, match="Fields must be written"):
        quoted(lookup("fields=caller_name"))


@pytest.mark.parametrize(
    ("status", "counted"), [(200, (10_000, 0, 0)), (404, (0, 0, 0)), (400, (0, 0, 0)), (429, (0, 0, 0)), (500, (0, 0, 10_000))]
)
def test_a_look_up_is_spent_when_it_is_answered(status: int, counted: tuple[int, int, int]) -> None:
    """200 is final; a number that is not found costs nothing; what failed may have been charged, although it was a read."""
    world = World()
    world.call(world.charges(Reply(status, {}, b'{"caller_name": {}}')), lookup("Fields=caller_name"))

    assert world.counted == counted


@pytest.mark.parametrize(
    ("document", "price"),
    [
        ({"phone_numbers": [{"phone_number": US, "fields": ["caller_name", "line_type_intelligence"]}, {"phone_number": US}]}, 18_000),
        ({"phone_numbers": [{"phone_number": US, "fields": "caller_name"}] * 100}, 1_000_000),
        ({"phone_numbers": [{"phone_number": US, "fields": None}]}, 0),
    ],
)
def test_a_batch_of_look_ups_is_the_sum_of_its_numbers(document: Any, price: int) -> None:
    """Each number has packages of its own."""
    assert amount(call_json("/v2/batch/query", document, "lookups.twilio.com")) == price


@pytest.mark.parametrize(
    "document", [None, [], {}, {"phone_numbers": []}, {"phone_numbers": "x"}, {"phone_numbers": [7]}, {"phone_numbers": [{"fields": [7]}]},
                 {"phone_numbers": [{"fields": {}}]}, {"phone_numbers": [{}] * 101}],
)  # fmt: skip
def test_a_batch_that_cannot_be_counted_is_refused(document: Any) -> None:
    """What Twilio does not document has no bound."""
    with pytest.raises(MalformedCall, match="Nothing was sent"):
        quoted(call_json("/v2/batch/query", document, "lookups.twilio.com"))


# -- numbers, registrations, standing orders -----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "price"),
    [
        ("", {"PhoneNumber": US}, 2_150_000),
        ("/Local", {"PhoneNumber": US}, 1_150_000),
        ("/TollFree", {"PhoneNumber": "+18005551234"}, 2_150_000),
        ("/Mobile", {"PhoneNumber": "+447400123456"}, 2_500_000),
        ("", {"PhoneNumber": "+4915112345678"}, 30_000_000),
        ("", {"PhoneNumber": "+2348031234567"}, 200_000_000),
        ("/Local", {"AreaCode": "415"}, 1_150_000),
        ("", {"AreaCode": "416"}, 2_300_000),
        ("", {"AreaCode": "876"}, 200_000_000),
        ("/Local", {"PhoneNumber": US, "EmergencyStatus": "Active"}, 2_150_000),
        ("/Local", {"PhoneNumber": US, "EmergencyStatus": "Inactive", "VoiceCallerIdLookup": "false"}, 1_150_000),
    ],
)
def test_a_number_costs_its_first_month(kind: str, fields: dict[str, Any], price: int) -> None:
    """By the country and kind of what is bought; Twilio charges the next months by itself, and the quote says so."""
    found = quoted(call(f"{API}/IncomingPhoneNumbers{kind}.json", fields))

    assert (found.amount, found.recurring, found.unbounded) == (price, True, None)


@pytest.mark.parametrize("fields", [{}, {"AreaCode": "41"}, {"AreaCode": "4155"}, {"PhoneNumber": "12345"}, {"PhoneNumber": "secret"}])
def test_a_number_of_no_known_country_is_refused(fields: dict[str, Any]) -> None:
    """Without a number or an area code nobody can tell its price."""
    with pytest.raises(MalformedCall, match="Nothing was sent") as error:
        quoted(call(f"{API}/IncomingPhoneNumbers.json", fields))

    assert "secret" not in str(error.value)


def test_a_bought_number_is_spent() -> None:
    """The month is final when the number is bought."""
    bought = call(f"{API}/IncomingPhoneNumbers/Local.json", {"PhoneNumber": US})

    assert answered(bought, 201, {"sid": f"PN{SID}", "status": "in-use"}) == Outcome(
        "settled", facts=(Fact(f"PN{SID}", 1_150_000, 0, 1_150_000, status="in-use"),), source="local"
    )


@pytest.mark.parametrize(
    ("host", "path", "fields", "price", "recurring"),
    [
        ("messaging", "/v1/a2p/BrandRegistrations", {"CustomerProfileBundleSid": "BU1"}, 46_000_000, False),
        ("messaging", "/v1/a2p/BrandRegistrations", {"SkipAutomaticSecVet": "false"}, 46_000_000, False),
        ("messaging", "/v1/a2p/BrandRegistrations", {"SkipAutomaticSecVet": "true"}, 4_500_000, False),
        ("messaging", "/v1/a2p/BrandRegistrations", {"BrandType": "SOLE_PROPRIETOR"}, 4_500_000, False),
        ("messaging", f"/v1/a2p/BrandRegistrations/BN{SID}/Vettings", {"VettingProvider": "x"}, 46_000_000, False),
        ("messaging", f"/v1/Services/MG{SID}/Compliance/Usa2p", {"Description": "x"}, 25_000_000, True),
        ("trusthub", "/v1/A2PBrandRegistrations", {"skipAutomaticSecVet": "true"}, 4_500_000, False),
        ("trusthub", "/v1/A2PBrandRegistrations", {}, 46_000_000, False),
        ("trusthub", "/v1/A2PCampaignRegistrations", {}, 25_000_000, True),
        ("api", f"{API}/IncomingPhoneNumbers/PN{SID}.json", {"FriendlyName": "x"}, 0, False),
        ("api", f"{API}/IncomingPhoneNumbers/PN{SID}.json", {"EmergencyStatus": "Active"}, 1_000_000, True),
    ],
)
def test_registrations_cost_their_fees(host: str, path: str, fields: dict[str, Any], price: int, recurring: bool) -> None:
    """Brands with or without the vetting, campaigns with their first month, an address for emergency calls."""
    found = quoted(call(path, fields, host=f"{host}.twilio.com"))

    assert (found.amount, found.recurring, found.unbounded) == (price, recurring, None)


@pytest.mark.parametrize(
    ("host", "path", "off", "on"),
    [
        ("insights", "/v1/Voice/Settings", {"AdvancedFeatures": "false"}, {"AdvancedFeatures": "true"}),
        ("insights", "/v1/Voice/Settings", {}, {"VoiceTrace": "true"}),
        ("intelligence", "/v2/Services", {"UniqueName": "x"}, {"AutoTranscribe": "true"}),
        ("intelligence", f"/v2/Services/GA{SID}", {"AutoTranscribe": "False"}, {"AutoTranscribe": "True"}),
        ("api", f"{API}/IncomingPhoneNumbers/PN{SID}.json", {}, {"VoiceCallerIdLookup": "true"}),
        ("api", f"{API}/IncomingPhoneNumbers.json", {"PhoneNumber": US}, {"PhoneNumber": US, "VoiceCallerIdLookup": "1"}),
    ],
)
def test_a_setting_that_charges_from_then_on_is_refused_by_design(host: str, path: str, off: dict[str, str], on: dict[str, str]) -> None:
    """The same call without it is bounded; with it, only a policy that names the operation lets it through."""
    unbounded = quoted(call(path, on, host=f"{host}.twilio.com")).unbounded
    world = World(policy={"run_usd_cap": 100, "unpriced": "allow"})

    assert quoted(call(path, off, host=f"{host}.twilio.com")).unbounded is None
    assert unbounded is not None
    assert unbounded.is_by_design
    with pytest.raises(UnpricedCall, match="no cap can express"):
        world.call(None, call(path, on, host=f"{host}.twilio.com"))


def test_free_writes_settle_at_nothing() -> None:
    """What costs nothing is settled by any answer that is no refusal."""
    made = call("/v1/Services", {"FriendlyName": "x"}, host="messaging.twilio.com")

    assert [answered(made, status, b"<html>") for status in (200, 201, 204)] == [Outcome("settled", source="local")] * 3


# -- odd bodies ----------------------------------------------------------------------------------------

words = st.text(max_size=12) | st.sampled_from(
    [US, "+1", "whatsapp:+1", "sip:a@b", "60", "true", "Active", "completed", "<Response/>", "canceled"]
)
spelt = """To From Body TimeLimit Twiml Channel Fields PhoneNumber AreaCode Status MediaUrl phone_numbers to To[] BrandType fields
    Url ContentSid sid price status messages"""
names = st.sampled_from(spelt.split()) | words
forms = st.lists(st.tuples(names, words), max_size=8)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
    max_leaves=12,
)
ALL = sorted({**paths.writes(), **paths.reads()})
PRICED = [key for key in ALL if {**paths.writes(), **paths.reads()}[key].kind == "priced"]


@given(st.sampled_from(PRICED) | st.sampled_from(ALL), forms, junk, st.booleans(), st.integers(100, 599), junk | st.binary(max_size=40))
def test_no_body_makes_the_plug_raise_anything_but_a_refusal(
    row: tuple[str, str, str], form: list[tuple[str, str]], document: Any, is_json: bool, status: int, said: Any
) -> None:
    """Odd requests are refused as malformed; reading an odd reply never raises."""
    method, product, path = row
    host, place = f"{product}.twilio.com", path.replace("*", f"SM{SID}")
    made = call_json(place, document, host, method) if is_json else call(place, form, method, host)
    operation, quote = vendor.classify(made), Quote(0)
    if operation.known:
        try:
            quote = quoted(made)
        except MalformedCall as refusal:
            assert "othing was sent" in str(refusal)  # noqa: PT017 -- most of these do not raise
    content = said if isinstance(said, bytes) else json.dumps(said).encode()

    for held in (quote, Quote(1), Quote(0)):
        assert vendor.read(made, operation, held, Reply(status, {}, content)).ending in {"settled", "released", "doubt"}


@given(st.sampled_from(PRICED), st.lists(st.tuples(names, st.sampled_from(["secret-1", "+4930secret", "sip:secret@x.io"])), max_size=6))
def test_no_refusal_repeats_what_the_request_says(row: tuple[str, str, str], form: list[tuple[str, str]]) -> None:
    """Numbers, addresses and texts of people are in no message, no reason and no name."""
    method, product, path = row
    made = call(path.replace("*", "x1"), form, method, f"{product}.twilio.com")
    said = vendor.classify(made).name
    try:
        said += str(quoted(made))
    except MalformedCall as refusal:
        said += str(refusal)

    assert re.search("secret", said) is None
