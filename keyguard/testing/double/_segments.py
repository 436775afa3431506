"""Segments of an SMS, counted from the standard (3GPP 23.038), apart from keyguard's own count: a judge does not ask the accused."""

from __future__ import annotations

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# Behind an escape character, so two septets each.
_EXTENSION = frozenset("\f^{}\\[~]|€")


def segments(text: str) -> int:
    """Return how many segments a text takes: at least one."""
    if all(char in _BASIC or char in _EXTENSION for char in text):
        return _filled([2 if char in _EXTENSION else 1 for char in text], 160, 153)
    # UTF-16 units; a pair is not divided between segments.
    return _filled([len(char.encode("utf-16-le")) // 2 for char in text], 70, 67)


def _filled(sizes: list[int], alone: int, each: int) -> int:
    if sum(sizes) <= alone:
        return 1
    count, room = 1, each
    for size in sizes:
        if size > room:
            count, room = count + 1, each
        room -= size
    return count
