"""What Twilio's segment calculator does not split: a letter with its marks, an emoji with its skin tone, a flag. Part of the twilio plug.

Twilio's calculator (npm `sms-segments-calculator` 1.3.0) moves a whole extended grapheme cluster of Unicode 10 to the next segment.
The rules are those of its `grapheme-splitter` 1.0.4, its oddities among them; marks are looked up in Python's own, newer, Unicode
data, where more characters join: that can only add a segment.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Classes of UAX 29 (GraphemeBreakProperty.txt of Unicode 10), a letter each: X extends, S spacing mark, P prepends, R regional
# indicator, J joiner, M modifier of a base B or of a person Z, G glued after a joiner, L V T W(LV) Y(LVT) Hangul, C control.
_LISTED = {
    "P": "600-605 6DD 70F 8E2 D4E 110BD 111C2-111C3 11A3A 11A86-11A89 11D46",
    "X": "9BE 9D7 B3E B57 BBE BD7 CC2 CD5-CD6 D3E D57 DCF DDF 1734 200C 302E-302F FF9E-FF9F 1133E 11357 114B0 114BD 115AF 1D165 "
    "1D16E-1D172 E0020-E007F",
    "R": "1F1E6-1F1FF",
    "S": "E33 EB3",
    "J": "200D",
    "M": "1F3FB-1F3FF",
    "Z": "1F466-1F469",
    "G": "2640 2642 2695-2696 2708 2764 1F308 1F33E 1F373 1F393 1F3A4 1F3A8 1F3EB 1F3ED 1F48B 1F4BB-1F4BC 1F527 1F52C 1F5E8 1F680 1F692",
    "B": "261D 26F9 270A-270D 1F385 1F3C2-1F3C4 1F3C7 1F3CA-1F3CC 1F442-1F443 1F446-1F450 1F46E 1F470-1F478 1F47C 1F481-1F483 "
    "1F485-1F487 1F4AA 1F574-1F575 1F57A 1F590 1F595-1F596 1F645-1F647 1F64B-1F64F 1F6A3 1F6B4-1F6B6 1F6C0 1F6CC 1F918-1F91C "
    "1F91E-1F91F 1F926 1F930-1F939 1F93D-1F93E 1F9D1-1F9DD",
    "L": "1100-115F A960-A97C",
    "V": "1160-11A7 D7B0-D7C6",
    "T": "11A8-11FF D7CB-D7FB",
}
_BY_CATEGORY = {"Mn": "X", "Me": "X", "Mc": "S", "Cc": "C", "Cf": "C", "Cs": "C", "Zl": "C", "Zp": "C"}
_HANGUL, _LAST_HANGUL, _TAILS = 0xAC00, 0xD7A3, 28
_SYLLABLES = re.compile(r"L[LVWY]|[WV][VT]|[YT]T")
# The splitter's own look-ahead: a flag takes one more character, and a mark between a letter and a skin tone parts them.
_AFTER_FLAG = re.compile(r".R+[^R]*[^RP].", re.DOTALL)
_PARTED = re.compile(r"[^XBZ]X+M")


def _listed() -> dict[int, str]:
    found: dict[int, str] = {}
    for kind, ranges in _LISTED.items():
        for one in ranges.split():
            first, _, last = one.partition("-")
            found |= dict.fromkeys(range(int(first, 16), int(last or first, 16) + 1), kind)
    return found


_CLASSES = _listed()


@lru_cache(maxsize=4096)
def _class_of(character: str) -> str:
    code = ord(character)
    if _HANGUL <= code <= _LAST_HANGUL:
        return "Y" if (code - _HANGUL) % _TAILS else "W"
    return _CLASSES.get(code) or _BY_CATEGORY.get(unicodedata.category(character), "O")


def sizes(text: str, most: int) -> list[int]:
    """
    Return the size of each cluster of a text, in UTF-16 code units.

    Args:
        text: Any.
        most: What a segment holds: a longer cluster is split all the same.
    """
    found: list[int] = []
    cluster, size = "", 0
    for character in text:
        kind, units = _class_of(character), 2 if character > "\uffff" else 1
        if cluster and (size + units > most or _is_border(cluster, kind)):
            found.append(size)
            cluster, size = "", 0
        cluster, size = cluster + kind, size + units
    return [*found, size] if cluster else found


def _is_border(cluster: str, following: str) -> bool:
    """Say whether a cluster of these classes ends before a character of that one."""
    whole, last = cluster + following, cluster[-1]
    if _AFTER_FLAG.fullmatch(whole) or _PARTED.fullmatch(whole) or last == "C" or following == "C":
        return True
    if following in "XJS" or last == "P" or _SYLLABLES.fullmatch(last + following):
        return False
    if following == "M":
        return not _takes_modifier(cluster)
    if following == "R":
        return cluster != "R" and not (last == "R" and "R" not in cluster[1:])
    return not (last == "J" and following in "GZ")


def _takes_modifier(cluster: str) -> bool:
    """Say whether a skin tone belongs to this cluster: directly behind its base, or behind one mark of it."""
    base = cluster.rfind("X") - 1 if "X" in cluster else len(cluster) - 1
    return base >= 0 and cluster[base] in "BZ" and set(cluster[base + 1 :]) <= {"X"}
