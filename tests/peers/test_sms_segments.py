"""Segments of an SMS against Twilio's own `sms-segments-calculator` from npm, on strings that are generated anew from one seed."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from keyguard.vendors._twilio_segments import segments
from tests.support_node import Missing, node, package, skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]

_COUNT = """
const { SegmentedMessage } = require(process.argv[1]);
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  console.log(new SegmentedMessage(JSON.parse(line)).segmentsCount);
});
"""
# GSM 03.38: the characters of one and of two septets, as the vendor's page on GSM-7 lists them (read 2026-11-23).
_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = "^{}\\[~]|€\f"
_WIDE = "жщ中日本語ひらがなकعאç`…“”\u00a0\u2019\u2013"
_PAIRS = "😀🎉🇺🇸👩🏽💩\U0001d4b3𠜎"
# What belongs together: a family, flags, skin tones, a keycap, letters with accents, syllables, a line end.
_WHOLES = [
    "👨\u200d👩\u200d👧\u200d👦", "🏳\ufe0f\u200d🌈", "🇩🇪", "👍🏿", "1\ufe0f\u20e3", "e\u0301",
    "\u1112\u1161\u11ab", "한", "नि", "กำ", "\r\n", "a", "ж",
]  # fmt: skip
# Their parts, in any order: marks, joiner, skin tone, half a flag, a base, a person, what follows a joiner, a prefix, a control.
_PARTS = "\u0301\ufe0f\u200d🏽🇺☝👩🌈\u0600\u1112\u1161\u11ab가각\u0903\u200c\u200bж\r\n"
_ALPHABETS: dict[str, Sequence[str]] = {
    "basic": _BASIC,
    "extension": _BASIC + _EXTENSION * 8,
    "only extension": _EXTENSION,
    "wide": _BASIC + _WIDE,
    "pairs": _BASIC + _WIDE + _PAIRS * 4,
    "only pairs": _PAIRS,
    "wholes": _WHOLES,
    "parts": _PARTS,
}
# Around every boundary of one, two and three segments in both encodings, and the longest text that Twilio takes.
_EDGES = [edge + off for edge in (67, 70, 134, 153, 160, 201, 306, 459, 612, 1600) for off in (-2, -1, 0, 1, 2)]
_STRADDLING = [
    f"{filler * before}{pair}{filler * after}"
    for pair, filler in (("€", "a"), ("{", "a"), ("😀", "ж"), ("👍🏿", "ж"), ("\U0001d4b3", "a"))
    for edge in (67, 70, 134, 153, 160, 306)
    for before in (edge - 2, edge - 1, edge)
    for after in (0, 1, 2, edge)
]


def _texts(count: int) -> list[str]:
    """Make texts of every alphabet, of lengths near the boundaries and of any."""
    dice = random.Random(20261125)  # noqa: S311 -- the same texts in each run
    found = ["", " ", *_STRADDLING]
    while len(found) < count:
        alphabet = _ALPHABETS[dice.choice(list(_ALPHABETS))]
        length = dice.choice(_EDGES) if dice.random() < 0.6 else dice.randrange(1601)
        # A cut of what is longer may part a pair, which is a text as well.
        found.append("".join(dice.choices(alphabet, k=length))[:length])
    return found


def test_segments_are_counted_as_twilio_counts_them() -> None:
    """2,000 texts, 0 differences; among them every number of segments from 1 to 10, and pairs on both sides of each boundary."""
    texts = _texts(2000)
    try:
        command = [node(), "-e", _COUNT, str(package("sms-segments-calculator"))]
    except Missing as missing:
        skip_or_fail(missing)
    asked = "".join(f"{json.dumps(text)}\n" for text in texts)
    told = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=120, check=True).stdout.split()
    theirs = [int(line) for line in told]
    different = [(text, count, segments(text)) for text, count in zip(texts, theirs, strict=True) if count != segments(text)]
    print(f"{len(theirs)} texts, {len(different)} differences; by segments: {dict(sorted(Counter(theirs).items()))}")

    assert (len(texts), different) == (2000, [])
    assert set(range(1, 11)) <= set(theirs)
