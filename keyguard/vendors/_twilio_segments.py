"""How many segments Twilio sends, and bills, for a text: the GSM-7 and UCS-2 rules of SMS. Part of the twilio plug; no money here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.vendors import _twilio_clusters as clusters

if TYPE_CHECKING:
    from collections.abc import Iterable

# 3GPP TS 23.038, 6.2.1: the default alphabet, one septet each; and its extension table, whose characters take an escape besides.
_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("\f^{}\\[~]|€")
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
    sizes = clusters.sizes(text, _UCS_OF_MANY)
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
