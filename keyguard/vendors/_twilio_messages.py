"""What a message may cost: segments by the dearest country of its number, media, channels, templates. Part of the twilio plug.

A sender out of a Messaging Service's pool, a route or a carrier is Twilio's to choose, so the dearest one counts. The obsolete
`MaxPrice` is not looked at: "This parameter will no longer have any effect as of 2024-06-03."
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyguard.errors import MalformedCall
from keyguard.model import Quote, Unbounded
from keyguard.vendors import _twilio_places as places
from keyguard.vendors import _twilio_prices as prices
from keyguard.vendors._twilio_fields import Fields
from keyguard.vendors._twilio_segments import segments

if TYPE_CHECKING:
    from keyguard.model import Call, Money, Operation

_FIELDS = (
    "To", "From", "Body", "MessagingServiceSid", "ContentSid", "SendAsMms", "ShortenUrls", "RiskCheck", "ScheduleType", "SmartEncoded",
    "FallbackFrom",
)  # fmt: skip
_BY_NUMBER = frozenset({"", "rcs", "whatsapp"})
# Media that cannot be delivered goes out as a link in the text.
_LINK_SEGMENTS = 2
# Smart Encoding replaces what is not in GSM-7 by what looks like it; these get longer.
_LONGER = str.maketrans({"…": "...", "¼": "1/4", "½": "1/2", "¾": "3/4"})


@dataclass(frozen=True, slots=True)
class Bill:
    """
    What a message may cost, in parts (micro-USD).

    Attributes:
        segment: One segment, carriers' part included.
        segments: How many there may be.
        whole: The message, where it is not counted by segments: media, WhatsApp; the dearer of both counts.
        extras: Added once.
        is_scheduled: Twilio keeps it until its time, and it can be cancelled until then.
        unbounded: Why no price is known.
    """

    segment: Money = 0
    segments: int = 1
    whole: Money = 0
    extras: Money = 0
    is_scheduled: bool = False
    unbounded: Unbounded | None = None

    @property
    def amount(self) -> Money:
        """The whole of it."""
        return max(self.whole, self.segment * self.segments) + self.extras

    def of_segments(self, count: int) -> Money:
        """Return what it costs now that Twilio has said how many segments it has; only a plain SMS is counted by them alone."""
        return self.segment * count + self.extras if not self.whole else self.amount


def create(call: Call, _operation: Operation) -> Quote:
    """Bound one message."""
    bill = bill_of(call)
    return Quote(bill.amount, unbounded=bill.unbounded)


def bill_of(call: Call) -> Bill:
    """
    Return what a message may cost.

    Raises:
        MalformedCall: a recipient or sender that Twilio has no price for; says what to write.
    """
    fields = Fields(call, *_FIELDS, lists=("MediaUrl",))
    if not fields.text("To"):
        raise MalformedCall("To is missing, so the price of this message cannot be told. Nothing was sent.")
    channel, rest = places.split(fields.text("To"))
    listed = prices.current()
    if channel not in {*_BY_NUMBER, "messenger"}:
        raise MalformedCall(
            "To is not an address that Twilio sends messages to (no sip: or client:); write a phone number as +14155550100, or "
            "whatsapp:, rcs: or messenger: before one. Nothing was sent."
        )
    is_scheduled = bool(fields.text("ScheduleType"))
    extras = sum(
        listed.price("message_extras", name)
        for name, field in (("shorten_urls", "ShortenUrls"), ("risk_check", "RiskCheck"))
        if fields.is_set(field)
    )
    if channel == "messenger":
        return Bill(whole=listed.price("channels", channel), extras=extras, is_scheduled=is_scheduled)
    place = places.place_of(rest)
    unbounded, whole = places.why_unlisted(place), _whole(fields, listed, channel, place)
    if channel == "whatsapp" and not fields.text("FallbackFrom"):
        return Bill(whole=whole, extras=extras, is_scheduled=is_scheduled, unbounded=unbounded)
    if not channel and not places.split(fields.text("From"))[0]:
        places.check_sender(fields.text("From"), place)
    return Bill(segment_price(listed, place), _segments(fields, listed), whole, extras, is_scheduled, unbounded)


def is_plain(call: Call) -> bool:
    """
    Say whether the price that Twilio will say of a message is all that it costs: an SMS or MMS without anything that is charged apart.

    Of other channels the part of Meta, or of a carrier, may be missing in it.
    """
    fields = Fields(call, *_FIELDS, lists=("MediaUrl",))
    is_by_phone = not places.split(fields.text("To"))[0] and not places.split(fields.text("From"))[0]
    return is_by_phone and not fields.is_set("ShortenUrls") and not fields.is_set("RiskCheck")


def segment_price(listed: prices.Prices, place: places.Place) -> Money:
    """Return the price of one segment to a place: of the dearest country that it may be in, with what carriers add."""
    return max((listed.price("sms", region) + listed.price("sms_carrier", region) for region in place.regions), default=0)


def channel_price(listed: prices.Prices, channel: str, place: places.Place) -> Money:
    """Return the price of one message of a channel to a place; a list may name countries as `whatsapp.DE`."""
    return max((listed.find("channels", f"{channel}.{region}", channel) or 0 for region in place.regions), default=0)


def _whole(fields: Fields, listed: prices.Prices, channel: str, place: places.Place) -> Money:
    """Return the price of what is not counted by segments, 0 for a plain SMS."""
    # A number that belongs to a brand's RCS agent or a channel as the sender says the same as the prefix of the recipient.
    of_channel = channel or places.split(fields.text("From"))[0]
    found = [channel_price(listed, of_channel, place)]
    if fields.is_set("SendAsMms") or "MediaUrl" in fields:
        found += [listed.find("mms", region) or 0 for region in place.regions]
    return max(found)


def _segments(fields: Fields, listed: prices.Prices) -> int:
    body = fields.text("Body")
    found = segments(body)
    if fields.is_set("SmartEncoded") or fields.text("MessagingServiceSid"):
        found = max(found, segments(body.translate(_LONGER)))
    if fields.text("ContentSid"):
        # The text is the template's, which only Twilio knows.
        found = max(found, listed.limits["template_segments"])
    if fields.is_set("ShortenUrls"):
        # A short link may be longer than the one it replaces.
        found += max(1, body.count("://"))
    return found + (_LINK_SEGMENTS if "MediaUrl" in fields else 0)


def update(call: Call, operation: Operation) -> Quote:
    """Cancel a scheduled message, which gives its hold back, or take its text away: neither costs anything."""
    Fields(call, "Status", "Body")
    # A cancelled message gives its hold back, so the call says whose.
    return Quote(0, object_id=operation.object_id)


FLOWS = {"messages.create": create, "messages.update": update}
