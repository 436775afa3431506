"""How many segments Twilio sends, and bills, for a text: the GSM-7 and UCS-2 rules of SMS. Part of the twilio plug; no money here."""

from __future__ import annotations

import unicodedata
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# 3GPP TS 23.038, 6.2.1: the default alphabet, one septet each; and its extension table, whose characters take an escape besides.
_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")
# The first character that another can join to it, or it to another: combining marks begin here.
_FIRST_JOINING = "\u0300"
_ZERO_WIDTH_JOINER = "\u200d"
_JOINERS = frozenset({"\u200c", _ZERO_WIDTH_JOINER})
_MODIFIERS = ("\U0001f3fb", "\U0001f3ff")
_FLAGS = ("\U0001f1e6", "\U0001f1ff")
# Unicode 10, emoji modifier bases; and what a joiner glues to the emoji before it.
_FAMILY = range(0x1F466, 0x1F46A)
_PEOPLE = frozenset(
    chain(
        (0x261D, 0x26F9, *range(0x270A, 0x270E), 0x1F385, 0x1F3C2, 0x1F3C3, 0x1F3C4, 0x1F3C7, 0x1F3CA, 0x1F3CB, 0x1F3CC, 0x1F442, 0x1F443),
        (*range(0x1F446, 0x1F451), 0x1F46E, *range(0x1F470, 0x1F479), 0x1F47C, 0x1F481, 0x1F482, 0x1F483, 0x1F485, 0x1F486, 0x1F487),
        (0x1F4AA, 0x1F574, 0x1F575, 0x1F57A, 0x1F590, 0x1F595, 0x1F596, 0x1F645, 0x1F646, 0x1F647, *range(0x1F64B, 0x1F650), 0x1F6A3),
        (0x1F6B4, 0x1F6B5, 0x1F6B6, 0x1F6C0, 0x1F6CC, *range(0x1F918, 0x1F91D), 0x1F91E, 0x1F91F, 0x1F926, *range(0x1F930, 0x1F93A)),
        (0x1F93D, 0x1F93E, *range(0x1F9D1, 0x1F9DE), *_FAMILY),
    )
)
_AFTER_JOINER = frozenset({
    *_FAMILY, 0x2640, 0x2642, 0x2695, 0x2696, 0x2708, 0x2764, 0x1F308, 0x1F33E, 0x1F373, 0x1F393, 0x1F3A4, 0x1F3A8, 0x1F3EB, 0x1F3ED,
    0x1F48B, 0x1F4BB, 0x1F4BC, 0x1F527, 0x1F52C, 0x1F5E8, 0x1F680, 0x1F692,
})  # fmt: skip
_JAMO = ("\u1100", "\u11ff")
_MARKS = frozenset({"Mn", "Me", "Mc"})
_CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# "If your message contains any characters outside GSM-7, it is sent as UCS-2": 160 septets or 70 code units alone,
# 153 or 67 in each of several, which begin with a header of six octets.
_GSM_ALONE, _GSM_OF_MANY = 160, 153
_UCS_ALONE, _UCS_OF_MANY = 70, 67


def segments(text: str) -> int:
    """Return how many segments a text takes; an empty one takes one, as Twilio counts."""
    if _BASIC.issuperset(text):
        return _filled((1 for _ in text), len(text), _GSM_ALONE, _GSM_OF_MANY)
    if (_BASIC | _EXTENSION).issuperset(text):
        sizes = [2 if character in _EXTENSION else 1 for character in text]
        return _filled(sizes, sum(sizes), _GSM_ALONE, _GSM_OF_MANY)
    sizes = [size for cluster in _clusters(text) for size in _sizes(cluster)]
    return _filled(sizes, sum(sizes), _UCS_ALONE, _UCS_OF_MANY)


def _filled(sizes: Iterable[int], total: int, alone: int, of_many: int) -> int:
    """Fill segments one after the other: an escape and its character, or a cluster, never straddle a border."""
    if total <= alone:
        return 1
    count, left = 0, 0
    for size in sizes:
        if size > left:
            count, left = count + 1, of_many
        left -= size
    return count


def _sizes(cluster: str) -> list[int]:
    """Return the code units of a cluster: as one, unless it is longer than a segment."""
    # A character beyond the Basic Multilingual Plane is a pair of code units.
    units = [2 if character > "\uffff" else 1 for character in cluster]
    return [sum(units)] if sum(units) <= _UCS_OF_MANY else units


def _clusters(text: str) -> Iterator[str]:
    """
    Split a text into what people see as one character, which Twilio's calculator does not break: an emoji with its skin and family.

    By Unicode 10, as the calculator does: later sequences it breaks into their parts.
    """
    found = ""
    for character in text:
        if found and _joins(found, character):
            found += character
            continue
        if found:
            yield found
        found = character
    if found:
        yield found


def _joins(cluster: str, character: str) -> bool:
    """Say whether a character belongs to the cluster before it (Unicode Standard Annex 29, GB6 to GB13)."""
    before = cluster[-1]
    if before < _FIRST_JOINING and character < _FIRST_JOINING:
        return False
    if unicodedata.category(before) in _CONTROLS and before not in _JOINERS:
        return False
    if character in _JOINERS or unicodedata.category(character) in _MARKS:
        return True
    if _MODIFIERS[0] <= character <= _MODIFIERS[1]:
        # A skin tone belongs to hands and people, with marks perhaps between.
        return ord(next((one for one in reversed(cluster) if unicodedata.category(one) not in _MARKS), " ")) in _PEOPLE
    if _FLAGS[0] <= before <= _FLAGS[1] and _FLAGS[0] <= character <= _FLAGS[1]:
        return len(cluster) % 2 == 1
    if before == _ZERO_WIDTH_JOINER:
        return ord(character) in _AFTER_JOINER
    return _JAMO[0] <= character <= _JAMO[1] and "\u1100" <= before <= "\ud7a3"
