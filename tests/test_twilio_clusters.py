"""What of a text goes into one segment whole, without Node: as `grapheme-splitter` 1.0.4 said when it was asked (2026-11-25)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.vendors._twilio_clusters import sizes
from keyguard.vendors._twilio_segments import segments

_MOST = 67


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abж", [1, 1, 1]),
        ("😀🎉", [2, 2]),
        ("👨\u200d👩\u200d👧\u200d👦", [11]),
        ("🇩🇪🇺🇸🇩", [4, 4, 2]),
        ("👍🏿🏿", [4, 2]),
        ("e\u0301\u0301x", [3, 1]),
        ("1\ufe0f\u20e3", [3]),
        ("\u1112\u1161\u11ab한", [3, 1]),
        ("नि", [2]),
        ("\r\n", [1, 1]),
        ("\u0600ж", [2]),
        # The splitter's own oddities: a skin tone behind a mark of a letter, a flag with two marks.
        ("ж\u0301🏽", [2, 2]),
        ("🇩🇪\u0301\u0301", [5, 1]),
        ("\ud800", [1]),
        ("", []),
    ],
)
def test_what_belongs_together_is_one_size(text: str, expected: list[int]) -> None:
    """In UTF-16 code units, each cluster one number."""
    assert sizes(text, _MOST) == expected


@given(st.text(alphabet="aж😀🇩👩🏽\u200d\u0301\ufe0f\u11ab\u0600\u200b\n", max_size=300))
def test_no_cluster_is_longer_than_a_segment_and_none_is_lost(text: str) -> None:
    """What is longer is split, and all of the text is counted: never fewer segments than its code units need."""
    text = f"ж{text}"
    found = sizes(text, _MOST)
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2

    assert sum(found) == units
    assert all(0 < size <= _MOST for size in found)
    assert segments(text) >= (1 if units <= 70 else -(-units // _MOST))
