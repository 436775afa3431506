"""What numbers, registrations and settings may cost that last: by the month, once, or from then on. Part of the twilio plug.

Twilio itself charges the next months of a number or a campaign; the quotes say so with `recurring`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keyguard.errors import MalformedCall
from keyguard.model import Quote, Unbounded
from keyguard.vendors import _twilio_places as places
from keyguard.vendors import _twilio_prices as prices
from keyguard.vendors._twilio_fields import Fields

if TYPE_CHECKING:
    from keyguard.model import Call, Money, Operation

_NUMBER = ("PhoneNumber", "AreaCode", "EmergencyStatus", "EmergencyAddressSid", "VoiceCallerIdLookup")
_AREA_CODE = re.compile(r"[2-9][0-9]{2}", re.ASCII)
_ANY_NUMBER = "2345678"
_CALLER_NAMES = Unbounded("looks up the name of everybody who calls the number, at a price for each", is_by_design=True)
_TRANSCRIBES = Unbounded("lets Twilio transcribe, and charge for, every recording from then on", is_by_design=True)
_INSIGHTS = Unbounded("switches on a feature that Twilio charges for every minute of every call", is_by_design=True)


def buy(call: Call, operation: Operation) -> Quote:
    """
    Bound a number by its first month.

    Raises:
        MalformedCall: neither a number nor an area code, so that its country is not known.
    """
    fields, listed = Fields(call, *_NUMBER), prices.current()
    regions = _regions(fields)
    kind = operation.name.removeprefix("incoming_phone_numbers.").removesuffix("create").removesuffix(".")
    month = max((listed.price("numbers", f"{region}.{kind}", region) for region in regions), default=listed.defaults["numbers"])
    return Quote(month + _emergency(fields, listed), unbounded=_standing(fields), recurring=True)


def _regions(fields: Fields) -> tuple[str, ...]:
    number, area = fields.text("PhoneNumber"), fields.text("AreaCode")
    if number:
        return places.place_of(number, "PhoneNumber").regions
    if not _AREA_CODE.fullmatch(area):
        raise MalformedCall(
            "PhoneNumber is missing (or AreaCode, three digits of the US or Canada), so its price is unknown. Nothing was sent."
        )
    # Any number of the area tells its country.
    return places.place_of(f"+1{area}{_ANY_NUMBER}", "AreaCode").regions


def update(call: Call, _operation: Operation) -> Quote:
    """Change a number's settings: free, but for an address for emergency calls, and for looking up who calls."""
    fields = Fields(call, *_NUMBER)
    emergency = _emergency(fields, prices.current())
    return Quote(emergency, unbounded=_standing(fields), recurring=emergency > 0)


def _emergency(fields: Fields, listed: prices.Prices) -> Money:
    is_asked = fields.text("EmergencyStatus").lower() == "active" or bool(fields.text("EmergencyAddressSid"))
    return listed.price("numbers", "emergency") if is_asked else 0


def _standing(fields: Fields) -> Unbounded | None:
    return _CALLER_NAMES if fields.is_set("VoiceCallerIdLookup") else None


def brand(call: Call, operation: Operation) -> Quote:
    """Bound the registration of a brand: with the automatic vetting unless the request says that there is none."""
    # The older API and the newer one write the same fields differently.
    names = ("brandType", "skipAutomaticSecVet") if operation.name.startswith("trusthub.") else ("BrandType", "SkipAutomaticSecVet")
    fields = Fields(call, *names)
    kind, is_skipped = fields.text(names[0]).upper(), fields.text(names[1]).lower() == "true"
    is_small = kind == "SOLE_PROPRIETOR" or is_skipped
    return Quote(prices.current().price("registration", "brand_without_vetting" if is_small else "brand"))


def vetting(_call: Call, _operation: Operation) -> Quote:
    """Bound the vetting of a brand."""
    return Quote(prices.current().price("registration", "vetting"))


def campaign(_call: Call, _operation: Operation) -> Quote:
    """Bound a campaign: its vetting and its first month."""
    return Quote(prices.current().price("registration", "campaign"), recurring=True)


def insights(call: Call, _operation: Operation) -> Quote:
    """Change the settings of Voice Insights: free, unless its paid features are switched on."""
    fields = Fields(call, "AdvancedFeatures", "VoiceTrace")
    return Quote(0, unbounded=_INSIGHTS if fields.is_set("AdvancedFeatures") or fields.is_set("VoiceTrace") else None)


def transcribing(call: Call, _operation: Operation) -> Quote:
    """Make or change a service for transcripts: free, unless it transcribes by itself."""
    return Quote(0, unbounded=_TRANSCRIBES if Fields(call, "AutoTranscribe").is_set("AutoTranscribe") else None)


FLOWS = {
    "incoming_phone_numbers.create": buy,
    "incoming_phone_numbers.local.create": buy,
    "incoming_phone_numbers.mobile.create": buy,
    "incoming_phone_numbers.toll_free.create": buy,
    "incoming_phone_numbers.update": update,
    "insights.voice.settings.update": insights,
    "intelligence.services.create": transcribing,
    "intelligence.services.update": transcribing,
    "messaging.a2p.brand_registrations.create": brand,
    "messaging.a2p.brand_registrations.vettings.create": vetting,
    "messaging.services.compliance.usa2p.create": campaign,
    "trusthub.a2p_brand_registrations.create": brand,
    "trusthub.a2p_campaign_registrations.create": campaign,
}
