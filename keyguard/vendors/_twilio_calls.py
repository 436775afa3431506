"""What a phone call may cost: minutes by its time limit, recording, machine detection, speech. Part of the twilio plug.

A quote is of the call's own leg. What a TwiML document says that Twilio fetches (`Url`, `ApplicationSid`) is not in the request:
it is the caller's own application that answers, and further legs that it dials are calls of its doing, which a policy keeps out
by a rule on `Url`. A document in the request (`Twiml`) is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.errors import MalformedCall
from keyguard.model import Quote, Unbounded
from keyguard.vendors import _twilio_places as places
from keyguard.vendors import _twilio_prices as prices
from keyguard.vendors import _twilio_twiml as twiml
from keyguard.vendors._twilio_fields import Fields

if TYPE_CHECKING:
    from keyguard.model import Call, Money, Operation

_FIELDS = (
    "To", "From", "Url", "Twiml", "ApplicationSid", "TimeLimit", "MachineDetection", "Record", "ConferenceRecord",
    "RecordingConfigurationId",
)  # fmt: skip
# "You can use any value between just one minute, all the way up to that 24 hour limit."
LONGEST = 86_400
_FETCHES = Unbounded("gives a call that runs another document, fetched from a URL, which may call others")
_DIALS = Unbounded("lets a call that runs dial others, for as long as it may still last")
_LONGER = Unbounded("gives a call that runs another time limit, at a price a minute that is not in the request")
_ANNOUNCES = Unbounded("plays a document that is fetched from a URL, which may speak at a price by the character")
_WHATSAPP = Unbounded("calls over WhatsApp, whose price is in no list")


def create(call: Call, operation: Operation) -> Quote:
    """
    Bound one outgoing call, or one participant who is called into a conference.

    Raises:
        MalformedCall: a `TimeLimit` that is no number of seconds, or somebody whom Twilio does not call.
    """
    fields, listed = Fields(call, *_FIELDS), prices.current()
    limit = fields.count("TimeLimit", LONGEST)
    # "Twilio rounds up to the full minute." A call without a limit ends by itself after the account's.
    minutes = listed.limits["call_minutes"] if limit is None else -(-limit // 60)
    minute, unbounded = _leg(fields, listed)
    is_conference = operation.name.startswith("conferences.")
    minute += listed.price("call_extras", "conference") if is_conference else 0
    minute += listed.price("call_extras", "recording") * _recordings(fields)
    once = listed.price("call_extras", "machine_detection") if fields.is_set("MachineDetection") else 0
    if not is_conference and not fields.text("Url") and not fields.text("ApplicationSid"):
        document = twiml.read(fields.text("Twiml"))
        # A leg that the call dials ends with it.
        minute, once, unbounded = minute + document.minute, once + document.speech, unbounded or document.unbounded
    return Quote(minute * minutes + once, unbounded=unbounded)


def _recordings(fields: Fields) -> int:
    """Count the recordings that a request may begin: of the call, and of the conference."""
    is_recorded = fields.is_set("Record") or bool(fields.text("RecordingConfigurationId"))
    return int(is_recorded) + int(fields.is_set("ConferenceRecord") and fields.text("ConferenceRecord") != "do-not-record")


def is_plain(call: Call) -> bool:
    """
    Say whether the price that Twilio will say of a call is all that it costs.

    "The charge for this call … does not include charges for recording, answering machine detection" and what a document speaks.
    """
    fields = Fields(call, *_FIELDS)
    return not (_recordings(fields) or fields.is_set("MachineDetection") or fields.text("Twiml"))


def _leg(fields: Fields, listed: prices.Prices) -> tuple[Money, Unbounded | None]:
    """Return the price of a minute to whom the request calls, and why there is none."""
    channel, rest = places.split(fields.text("To"))
    if channel in {"sip", "sips", "client"}:
        kind = "client" if channel == "client" else "sip"
        found = listed.find("voice", kind)
        why = f"calls a {kind}: address, for which no price is listed (voice.usd.{kind} in KEYGUARD_TWILIO_PRICES_FILE gives one)"
        return found or 0, Unbounded(why) if found is None else None
    if channel == "whatsapp":
        return 0, _WHATSAPP
    if channel or not rest:
        raise MalformedCall("To is missing, or not whom Twilio calls; write a phone number as +14155550100. Nothing was sent.")
    place = places.place_of(rest)
    _check_caller(fields.text("From"))
    return minute_price(listed, place), places.why_unlisted(place)


def _check_caller(caller: str) -> None:
    """Refuse a caller that is no number: "If the `to` parameter is a phone number, `From` must also be a phone number."."""
    if caller and not places.is_number(caller):
        raise MalformedCall("From must be a phone number where To is one, as +14155550100. Nothing was sent.")


def minute_price(listed: prices.Prices, place: places.Place) -> Money:
    """Return the price of one minute to a place, of the dearest country that it may be in."""
    return max((listed.minute(region, place.kind, place.digits) for region in place.regions), default=0)


def update(call: Call, _operation: Operation) -> Quote:
    """End a call, which costs nothing, or let it go on otherwise, which may."""
    fields = Fields(call, "Url", "Twiml", "TimeLimit", "Status", "FallbackUrl")
    if "Url" in fields or "FallbackUrl" in fields:
        return Quote(0, unbounded=_FETCHES)
    if "TimeLimit" in fields:
        return Quote(0, unbounded=_LONGER)
    document = twiml.read(fields.text("Twiml"))
    return Quote(document.speech, unbounded=document.unbounded or (_DIALS if document.minute else None))


def announce(call: Call, _operation: Operation) -> Quote:
    """Change a conference or a participant: free, but for what is fetched and played."""
    fields = Fields(call, "AnnounceUrl", "HoldUrl", "WaitUrl")
    plays = any(fields.text(name) for name in ("AnnounceUrl", "HoldUrl", "WaitUrl"))
    return Quote(0, unbounded=_ANNOUNCES if plays else None)


FLOWS = {
    "calls.create": create,
    "calls.update": update,
    "conferences.participants.create": create,
    "conferences.participants.update": announce,
    "conferences.update": announce,
}
