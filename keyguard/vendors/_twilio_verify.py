"""What identity checks may cost: Verify by the attempt and the success, Lookup by the package. Part of the twilio plug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from keyguard.errors import MalformedCall
from keyguard.model import Quote, Unbounded
from keyguard.vendors import _twilio_messages as messages
from keyguard.vendors import _twilio_places as places
from keyguard.vendors import _twilio_prices as prices
from keyguard.vendors._twilio_calls import minute_price
from keyguard.vendors._twilio_fields import Fields
from keyguard.vendors._twilio_segments import segments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keyguard.model import Call, Money, Operation

_TEXTS = ("CustomMessage", "CustomFriendlyName", "TemplateCustomSubstitutions", "Templates", "Payee")
_WITHOUT_NUMBER = frozenset({"email"})
_ADD_ONS = Unbounded("asks for add-ons, each at a price that its publisher sets")
# "Up to 100 phone numbers per request."
_LARGEST_BATCH = 100


def verify(call: Call, _operation: Operation) -> Quote:
    """
    Bound a verification that is begun: as if it succeeded, and by its channel, the dearest where Twilio chooses.

    Raises:
        MalformedCall: a recipient that is no phone number.
    """
    fields, listed = Fields(call, "To", "Channel", *_TEXTS), prices.current()
    success = listed.price("verify", "success")
    channel = fields.text("Channel").strip().lower()
    if channel in _WITHOUT_NUMBER:
        return Quote(success + listed.price("verify", channel))
    place = places.place_of(fields.text("To"))
    return Quote(success + _attempt(fields, listed, channel, place), unbounded=places.why_unlisted(place))


def _attempt(fields: Fields, listed: prices.Prices, channel: str, place: places.Place) -> Money:
    """Return what one attempt costs by its channel; one that falls back to SMS, or that nobody knows, by the dearest."""
    text = listed.limits["verify_segments"] + sum(segments(fields.text(name)) for name in _TEXTS if fields.text(name))
    sms = messages.segment_price(listed, place) * text
    of_channel = {
        "sms": sms,
        "call": minute_price(listed, place) * listed.limits["verify_minutes"],
        "whatsapp": max(sms, messages.channel_price(listed, "whatsapp", place)),
        "rcs": max(sms, messages.channel_price(listed, "rcs", place)),
        "sna": listed.price("verify", "sna"),
    }
    return of_channel.get(channel, sum(of_channel.values()))


def one_success(_call: Call, _operation: Operation) -> Quote:
    """Bound a challenge, a factor or a passkey: nothing is sent by telephone, and at most one verification succeeds."""
    return Quote(prices.current().price("verify", "success"))


def look_up(call: Call, _operation: Operation) -> Quote:
    """Bound a look-up, which costs although it is a GET: the sum of its packages, in either version."""
    fields = Fields(call, lists=("Fields", "Type", "AddOns"))
    amount = _packages(fields.all("Fields")) + _packages(fields.all("Type"))
    return Quote(amount, unbounded=_ADD_ONS if any(fields.all("AddOns")) else None)


def look_up_batch(call: Call, _operation: Operation) -> Quote:
    """
    Bound a batch of look-ups, each with packages of its own.

    Raises:
        MalformedCall: a body that is not what Twilio documents.
    """
    body = cast("dict[str, Any]", call.document) if isinstance(call.document, dict) else {}
    given = body.get("phone_numbers")
    numbers: list[Any] = given if isinstance(given, list) else []
    if not numbers:
        raise MalformedCall(
            "a batch of look-ups must be a JSON object with a list `phone_numbers`, as Twilio documents it. Nothing was sent."
        )
    if len(numbers) > _LARGEST_BATCH:
        raise MalformedCall(f"a batch may hold at most {_LARGEST_BATCH} numbers at Twilio; send it in parts. Nothing was sent.")
    amount = 0
    for item in numbers:
        amount += _packages(_fields_of(item))
    return Quote(amount)


def _fields_of(item: Any) -> list[str]:
    """Return the packages that one number of a batch asks for: a list, or a text as in the query of a single look-up."""
    found = cast("dict[str, Any]", item).get("fields") if isinstance(item, dict) else 0
    if found is None:
        return []
    wanted: list[Any] = found if isinstance(found, list) else [found]
    if not all(isinstance(one, str) for one in wanted):
        raise MalformedCall("each number of a batch must be a JSON object, its `fields` a list of names. Nothing was sent.")
    return wanted


def _packages(given: Iterable[str]) -> Money:
    names = {name.strip().lower() for text in given for name in text.split(",")} - {""}
    return sum(prices.current().price("lookup", name) for name in names)


FLOWS = {
    "lookups.batch.query.create": look_up_batch,
    "lookups.phone_numbers.fetch": look_up,
    "verify.services.entities.challenges.create": one_success,
    "verify.services.entities.factors.update": one_success,
    "verify.services.passkeys.challenges.create": one_success,
    "verify.services.passkeys.verify_factor.update": one_success,
    "verify.services.verifications.create": verify,
}
