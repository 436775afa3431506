"""What seams read of HTTP texts, against the standard library's own readers."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyguard.patches._headers import Lowered, form_pairs

_forms = st.text(alphabet="ab=&+%4 1G\u00fc;[]", max_size=30)


@given(st.one_of(_forms, st.text()))
@example("a=1&a=2&&b&=c&d==&metadata[x]=y%20z+1&%E4=%zz")
def test_a_form_is_read_as_the_standard_library_reads_it(text: str) -> None:
    """Every text gives the pairs of `parse_qsl` with blank values kept."""
    assert form_pairs(text) == tuple(parse_qsl(text, keep_blank_values=True))


@given(st.dictionaries(st.text(alphabet="aAbB-", max_size=3), st.text(max_size=3)))
def test_headers_are_found_under_their_lower_cased_names(raw: dict[str, str]) -> None:
    """As in a dictionary with every name in lower case, the last of several spellings counting."""
    expected = {name.lower(): value for name, value in raw.items()}
    found = Lowered(raw)

    assert dict(found) == expected
    assert (len(found), [found.get(name) for name in expected]) == (len(expected), list(expected.values()))
    assert found.get("x", "none") == "none"


def test_headers_show_no_value() -> None:
    """The repr of a reply's headers says how many there are, and a missing one is a KeyError."""
    found = Lowered({"Set-Cookie": "sk_test_12345"})
    with pytest.raises(KeyError):
        found["authorization"]

    assert repr(found) == "<1 headers>"
