"""What a TwiML document in a request may cost: speech, and the legs that it dials to numbers. Part of the twilio plug.

A document is bounded where all its verbs are known here: what speaks, plays, waits, ends, or dials plain numbers. Any other verb or
attribute may go on elsewhere, record, pay, stream or send, so that the document has no bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyguard.model import Unbounded
from keyguard.vendors import _twilio_places as places
from keyguard.vendors import _twilio_prices as prices

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

    from keyguard.model import Money

# Verbs that add nothing but time to a call.
_QUIET = frozenset({"Play", "Pause", "Hangup", "Reject", "Leave"})
# What may stand within a spoken text (SSML).
_SPOKEN = frozenset({"break", "emphasis", "lang", "p", "phoneme", "prosody", "s", "say-as", "sub", "w"})
# Attributes of <Dial> and <Number> that change no price: `action`, `url` and `record` would.
_PLAIN = frozenset({"answerOnBridge", "callerId", "hangupOnStar", "ringTone", "sendDigits", "sequential", "timeLimit", "timeout"})
_LOOP = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_ENCODED = re.compile(r"""<\?xml[^>]*encoding\s*=\s*["'](?!utf-8["'])""", re.IGNORECASE)
_SPEECH_UNIT = 100  # characters
_GOES_ON = Unbounded("has TwiML that may do more than speak, play and dial numbers: it may record, pay, stream, send or go on elsewhere")
_ENDLESS = Unbounded("has TwiML that speaks again and again; give each <Say> a loop from 1 to 999")


@dataclass(frozen=True, slots=True)
class Document:
    """
    What a document may cost.

    Attributes:
        speech: All that is spoken, micro-USD.
        minute: One minute of all legs that are dialled, micro-USD.
        unbounded: Why there may be more.
    """

    speech: Money = 0
    minute: Money = 0
    unbounded: Unbounded | None = None

    def __add__(self, other: Document) -> Document:
        return Document(self.speech + other.speech, self.minute + other.minute, self.unbounded or other.unbounded)


def read(twiml: str) -> Document:
    """
    Return what a document may cost; an empty one costs nothing.

    Raises:
        MalformedCall: a number to dial that is none.
    """
    from xml.etree import ElementTree as ET

    if not twiml.strip():
        return Document()
    if "<!" in twiml or _ENCODED.search(twiml):
        # Entities, and another encoding than the form's, would hide verbs.
        return Document(unbounded=_GOES_ON)
    try:
        root = ET.fromstring(twiml)  # noqa: S314 -- without a DOCTYPE there are no entities to expand
    except (ET.ParseError, ValueError):
        return Document(unbounded=_GOES_ON)
    if root.tag != "Response":
        return Document(unbounded=_GOES_ON)
    found = Document()
    for verb in root:
        found += _verb(verb)
    return found


def _verb(verb: ET.Element) -> Document:
    if verb.tag in _QUIET and not len(verb):
        return Document()
    if verb.tag == "Say" and all(part.tag in _SPOKEN for part in verb.iter() if part is not verb):
        return _say(verb)
    if verb.tag == "Dial" and _is_plain(verb):
        return _dial(verb)
    return Document(unbounded=_GOES_ON)


def _say(verb: ET.Element) -> Document:
    loop = verb.get("loop", "1")
    if not _LOOP.fullmatch(loop):
        return Document(unbounded=_ENDLESS)
    characters = sum(len(text) for text in verb.itertext())
    return Document(-(-characters // _SPEECH_UNIT) * int(loop) * prices.current().price("call_extras", "speech"))


def _is_plain(dial: ET.Element) -> bool:
    """Say whether a dial calls plain numbers, and comes back to this document."""
    is_of_numbers = all(part.tag == "Number" and not len(part) for part in dial)
    return is_of_numbers and all(set(part.keys()) <= _PLAIN for part in dial.iter())


def _dial(verb: ET.Element) -> Document:
    """Add up all numbers, although only the first who answers is connected: another dial may follow."""
    found = Document()
    for number in filter(str.strip, verb.itertext()):
        place = places.place_of(number, "a number that Twiml dials")
        minute = max((prices.current().minute(region, place.kind, place.digits) for region in place.regions), default=0)
        found += Document(minute=minute, unbounded=places.why_unlisted(place))
    return found
