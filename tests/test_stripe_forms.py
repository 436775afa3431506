"""Parameters of Stripe's requests as a tree: every way to write one that somebody else could read differently is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from keyguard.errors import MalformedCall
from keyguard.model import Call
from keyguard.vendors import _stripe_forms as forms

MADE = Call("stripe", "POST", "https", "api.stripe.com", "/v1/x")


def read(*pairs: tuple[str, str], method: str = "POST", query: tuple[tuple[str, str], ...] = ()) -> forms.Fields:
    """Read the parameters below `items` and `amount`."""
    return forms.fields(replace(MADE, method=method, body=pairs, query=query), "items", "amount")


def test_what_is_nested_is_found_by_its_name() -> None:
    """Values, lists of objects and what is below them; the rest of the request is not looked at."""
    found = read(("items[0][price]", "p"), ("items[1][data][unit]", "5"), ("other[", "x"), ("amount", "7"))

    assert [item.text("price") for item in found.each("items")] == ["p", None]
    assert [item.below("data").count("unit") for item in found.each("items")] == [None, 5]
    assert ("items" in found, "other" in found, found.count("amount"), found.place) == (True, False, 7, "")
    assert [item.place for item in found.each("items")] == ["items[0]", "items[1]"]
    assert list(found.each("nothing")) == []


@pytest.mark.parametrize(
    "pairs",
    [
        [("amount", "1"), ("amount", "1")], [("items[0]", "x"), ("items[0][price]", "x")], [("items[0][price]", "x"), ("items[0]", "x")],
        [("items[0][price]", "x"), ("items[0][price]", "y")], [("items[]", "x")], [("items[0", "x")], [("items]0[", "x")],
        [("Items[0]x", "x"), ("items[0]x", "x")], [(" amount", "5")], [("[amount]", "5")], [("items[0]]", "x")],
    ],
)  # fmt: skip
def test_a_name_that_can_be_read_twice_is_malformed(pairs: list[tuple[str, str]]) -> None:
    """Sent twice, both a value and an object, or written as no documentation does."""
    with pytest.raises(MalformedCall, match=r"was sent twice|as Stripe documents it"):
        read(*pairs)


@pytest.mark.parametrize("name", ["amount", "items[0][price]", " amount"])
def test_money_in_the_query_of_a_post_is_malformed(name: str) -> None:
    """Nobody says whether Stripe reads it."""
    with pytest.raises(MalformedCall, match="belongs in its body"):
        read(query=((name, "1"),))


def test_a_delete_has_its_parameters_in_either_place() -> None:
    """Its query is where the SDK writes them; the same name in both places is malformed."""
    assert read(("amount", "1"), method="DELETE", query=(("items[0][id]", "x"),)).text("items[0][id]") == "x"
    with pytest.raises(MalformedCall, match="sent twice"):
        read(("amount", "1"), method="DELETE", query=(("amount", "1"),))


@pytest.mark.parametrize("made", [replace(MADE, body=None), replace(MADE, document={"amount": 5})], ids=["unreadable", "JSON"])
def test_only_a_form_can_be_read(made: Call) -> None:
    """The v1 API reads forms."""
    with pytest.raises(MalformedCall, match="could not be read"):
        forms.fields(made, "amount")


@pytest.mark.parametrize("text", ["", "x", "1e3", "1.", ".5", "1.1234567890123", "1_0", "\u0661", "--1", "1 "])
def test_a_number_is_written_in_digits(text: str) -> None:
    """With a point and at most twelve decimals, or with none for an amount."""
    for ask in (read(("amount", text)).decimal, read(("amount", text)).count):
        with pytest.raises(MalformedCall, match="'amount' must be"):
            ask("amount")


def test_numbers_are_exact() -> None:
    """No float on the way."""
    assert read(("amount", "0.1")).decimal("amount") == Fraction(1, 10)
    assert read(("amount", "-12")).count("amount") == -12


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("1", True), ("yes", True), ("false", False), ("False", False), ("0", False), ("", False)]
)
def test_whatever_is_not_clearly_off_is_on(text: str, expected: bool) -> None:
    """A switch is read against the spender."""
    assert read(("amount", text)).is_true("amount") is expected


def test_a_value_in_the_place_of_a_list_is_malformed() -> None:
    """And an object in the place of a value."""
    with pytest.raises(MalformedCall, match="a list of objects, got 'x'"):
        list(read(("items", "x")).each("items"))
    with pytest.raises(MalformedCall, match=r"'items\[0\]\[a\]' must be one value"):
        [item.text("a") for item in read(("items[0][a][b]", "x")).each("items")]
    with pytest.raises(MalformedCall, match="the id of an object"):
        read(("amount", "a/b")).object_id("amount")


def test_a_document_nested_too_deeply_is_malformed() -> None:
    """As a body that cannot be read."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(MalformedCall, match="could not be read"):
        forms.document(replace(MADE, document={"x": deep}))
    while deep:
        # Taken apart by hand: Python's own way would recurse.
        deep = deep.pop()
