"""Whom a call or message reaches: addresses of Twilio's channels, and the countries of phone numbers. Part of the twilio plug.

No message of a refusal repeats an address: they stand in logs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from keyguard.errors import MalformedCall, MissingExtra
from keyguard.model import Unbounded
from keyguard.vendors._twilio_paths import is_object_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.model import Call

_E164 = re.compile(r"\+[1-9][0-9]{4,14}", re.ASCII)
_SEPARATORS = re.compile(r"[\s().-]+")
_CHANNEL = re.compile(r"([A-Za-z][A-Za-z0-9_+]*):(.*)", re.DOTALL)
_SHORT_CODE = re.compile(r"\+?[0-9]{3,6}", re.ASCII)
# "Alphanumeric Sender IDs may be up to 11 characters long … letters, digits and spaces, and not only digits."
_ALPHANUMERIC = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 +_&.!?'-]{1,11}", re.ASCII)
# North America's numbering plan, where no carrier takes an alphanumeric sender.
_NORTH_AMERICA = 1
# What phonenumbers answers for numbers that belong to no country: satellites (+870, +881), international freephone (+800).
_NO_COUNTRY = "001"
_OUTSIDE = Unbounded("reaches a number of no country (a satellite, an international service), whose price is in no list")
_PREMIUM = Unbounded("reaches a premium-rate number, whose price is in no list")
_WRITE_E164 = "write it in E.164, as +14155550100: a plus, the country's code, the number"


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where a phone number is.

    Attributes:
        code: Of the country's telephone system.
        regions: ISO codes of the countries that it may be in; several where the number itself does not tell; none = no country.
        kind: `landline`, `premium` or `special` (personal, shared-cost, pagers), "" for mobiles and what may be one.
        digits: The number, for prices by prefix; never shown.
    """

    code: int
    regions: tuple[str, ...]
    kind: str
    digits: str


def split(address: str) -> tuple[str, str]:
    """Return the channel of an address in lower case ("" = the telephone), and the rest."""
    found = _CHANNEL.fullmatch(address.strip())
    return (found[1].lower(), found[2]) if found else ("", address.strip())


def payee(call: Call) -> str:
    """Return whom a write is sent to, or calls, as Twilio's lists write it; "" where it names nobody."""
    return written(next((value for name, value in call.body or () if name == "To"), ""))


def written(address: str) -> str:
    """Return an address as Twilio writes it in its lists: a number without what people put between its digits, behind its channel."""
    channel, rest = split(address)
    number = _SEPARATORS.sub("", rest)
    found = number if is_number(number) else rest
    return f"{channel}:{found}" if channel else found


def place_of(number: str, field: str = "To") -> Place:
    """
    Return where a phone number is.

    Raises:
        MalformedCall: it is none, or of no country's telephone system.
        MissingExtra: the library that knows the world's numbers is not installed.
    """
    written = _SEPARATORS.sub("", number)
    if _SHORT_CODE.fullmatch(written):
        raise MalformedCall(f"{field} is a short code, to which Twilio does not send; {_WRITE_E164}. Nothing was sent.")
    if not _E164.fullmatch(written):
        raise MalformedCall(f"{field} is no phone number that can be priced; {_WRITE_E164}. Nothing was sent.")
    found = _place(written)
    if found is None:
        raise MalformedCall(f"the country's code of {field} belongs to no country; {_WRITE_E164}. Nothing was sent.")
    return found


@lru_cache(maxsize=4096)
def _place(written: str) -> Place | None:
    library = _phonenumbers()
    try:
        number = library.parse(written)
    except library.NumberParseException:
        return None
    code = int(number.country_code)
    of_code: Mapping[int, tuple[str, ...]] = library.COUNTRY_CODE_TO_REGION_CODE
    region: str | None = library.region_code_for_number(number)
    # A number that fits no plan may still be routed: the dearest country of its code counts.
    regions = tuple(of_code.get(code, ())) if region is None else (region,)
    return Place(code, tuple(one for one in regions if one != _NO_COUNTRY), _kind(library, number), written[1:])


def _kind(library: Any, number: Any) -> str:
    kinds = library.PhoneNumberType
    found = library.number_type(number)
    if found in {kinds.SHARED_COST, kinds.PERSONAL_NUMBER, kinds.PAGER, kinds.UAN, kinds.VOICEMAIL}:
        return "special"
    return {kinds.FIXED_LINE: "landline", kinds.PREMIUM_RATE: "premium"}.get(found, "")


def _phonenumbers() -> Any:
    try:
        import phonenumbers
    except ImportError:
        raise MissingExtra('pip install "keyguard[twilio]"') from None
    return phonenumbers


def why_unlisted(place: Place) -> Unbounded | None:
    """Say why no list can have a price for a place; None = one can."""
    return _PREMIUM if place.kind == "premium" else None if place.regions else _OUTSIDE


def is_number(address: str) -> bool:
    """Say whether an address is written as a phone number, a short code included."""
    return bool(_SHORT_CODE.fullmatch(address) or _E164.fullmatch(_SEPARATORS.sub("", address)))


def check_sender(sender: str, to: Place) -> None:
    """
    Look at an SMS's sender: a number, a short code, or a name.

    Raises:
        MalformedCall: a name that Twilio does not take, or takes but not to this country.
    """
    if not sender or is_object_id(sender) or is_number(sender):
        return
    if not _ALPHANUMERIC.fullmatch(sender):
        raise MalformedCall(
            f"From is neither a number nor a sender's name of at most 11 letters and digits; {_WRITE_E164}. Nothing was sent."
        )
    if to.code == _NORTH_AMERICA:
        raise MalformedCall(
            "From is a sender's name, which no carrier takes in North America; send from a number or a Messaging Service. Nothing was sent."
        )
