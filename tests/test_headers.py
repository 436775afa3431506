"""What seams read of HTTP texts, against the standard library's own readers."""

from __future__ import annotations

import base64
from decimal import Decimal
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyguard.model import TOKEN_PREFIX
from keyguard.patches._headers import Lowered, credential_of, form_pairs, is_hiding, read_body, with_credential

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


@given(st.binary(max_size=9), st.binary(max_size=9))
def test_a_token_is_found_wherever_it_stands_in_base64(before: bytes, after: bytes) -> None:
    """At each of the three places of a group of bytes that it can begin at."""
    hidden = f"Basic {base64.b64encode(before + TOKEN_PREFIX.encode() + after).decode()}"

    assert (is_hiding(hidden), is_hiding(hidden.encode())) == (True, True)


# -- bodies ----------------------------------------------------------------------------------------

JSON = "application/json; charset=utf-8"


def test_a_json_body_is_read_as_a_form_would_say_it() -> None:
    """The leaves have a form's names, whatever their type; the document keeps the types."""
    pairs, document = read_body(b'{"to": ["a", "b"], "amount": {"value": 5, "rate": 1.10}, "ok": true, "none": null}', JSON)

    assert pairs == (("to[0]", "a"), ("to[1]", "b"), ("amount[value]", "5"), ("amount[rate]", "1.10"), ("ok", "true"), ("none", ""))
    assert document["amount"] == {"value": 5, "rate": Decimal("1.10")}


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "{", '{"a": NaN}', "[" * 100_000, '{"a": {"b": 1, "b": 1}}', "9" * 5000])
def test_a_json_body_that_two_could_read_differently_is_not_readable(text: str) -> None:
    """Members named twice, no JSON, and what is nested without end: nobody is told a part of it."""
    assert read_body(text, JSON) == (None, None)


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (None, JSON, (None, None)),
        (b"", "text/plain", ((), None)),
        ("a=1&b=%20", "application/x-www-form-urlencoded", ((("a", "1"), ("b", " ")), None)),
        ("a=1", "multipart/form-data", (None, None)),
        ("[[1]]", "application/vnd.api+json", ((("[0][0]", "1"),), [[1]])),
        ("7", JSON, ((), 7)),
    ],
)
def test_a_body_is_read_by_its_type(content: str | bytes | None, kind: str, expected: tuple[object, object]) -> None:
    """Forms and JSON are read, an empty body has nothing in it, and anything else is unreadable."""
    assert read_body(content, kind) == expected


# -- credentials -----------------------------------------------------------------------------------


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


VAULT = f"{TOKEN_PREFIX}1"


@pytest.mark.parametrize(
    ("header", "credential", "swapped"),
    [
        (f"Bearer {VAULT}", VAULT, "Bearer real"),
        (f"bearer {VAULT}", VAULT, "bearer real"),
        ("Bearer sk_1", "sk_1", "Bearer sk_1"),
        (_basic(f"{VAULT}:"), VAULT, _basic("real:")),
        (_basic(f"AC1:{VAULT}"), VAULT, _basic("AC1:real")),
        (_basic(f"{VAULT}:{VAULT}"), VAULT, _basic("real:real")),
        (_basic("sk_1:"), "sk_1", _basic("sk_1:")),
        (_basic("AC1:pass:word"), "AC1", _basic("AC1:pass:word")),
        ("Basic %%%", "", "Basic %%%"),
        ("", "", ""),
    ],
)
def test_a_vault_token_is_found_and_replaced_where_it_stands(header: str, credential: str, swapped: str) -> None:
    """Stripe's secret is Basic's user, Twilio's its password: the half with the token is the credential, and the other one stays."""
    assert credential_of(header) == credential
    assert with_credential(header, "real") == swapped
    # Two seams may do it, one above the other.
    assert with_credential(swapped, "real") == swapped
