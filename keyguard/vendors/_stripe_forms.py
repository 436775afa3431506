"""Parameters of a Stripe request as a tree, read strictly: forms of v1, queries of DELETEs, JSON of v2. Part of the stripe plug."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from keyguard.errors import MalformedCall
from keyguard.vendors import _stripe_money as money
from keyguard.vendors._stripe_paths import is_object_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.model import Call, Pairs

Tree: TypeAlias = "dict[str, Tree | str]"

_NAME = re.compile(r"[a-z0-9_]+(?:\[[^\[\]]+\])*")
# Payouts may be larger than a charge, whose amount has eight digits at most.
_COUNT = re.compile(r"-?[0-9]{1,12}")
_DECIMAL = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,12})?")


@dataclass(frozen=True, slots=True)
class Fields:
    """
    Some parameters of a request, each at most once.

    Attributes:
        tree: By name; what is nested is a tree of its own.
        place: Where in the request they stand, for messages: `items[0]`.
    """

    tree: Tree
    place: str = ""

    def __contains__(self, name: str) -> bool:
        return self._found(name) is not None

    def text(self, name: str) -> str | None:
        """
        Return a parameter as it was sent, None where it was not; `a[b]` names a nested one.

        Raises:
            MalformedCall: there is more below that name.
        """
        found = self._found(name)
        if isinstance(found, dict):
            raise self._malformed(name, "one value", "a list or an object")
        return found

    def is_true(self, name: str) -> bool:
        """Say whether a switch is on; whatever is not clearly off is."""
        return (self.text(name) or "false").lower() not in {"false", "0", ""}

    def count(self, name: str) -> int | None:
        """
        Return an amount in the smallest unit of its currency, below zero for a credit; None where it was not sent.

        Raises:
            MalformedCall: it is no whole number.
        """
        text = self.text(name)
        if text is not None and not _COUNT.fullmatch(text):
            raise self._malformed(name, "a whole number of the currency's smallest unit, in digits only", repr(text[:40]))
        return None if text is None else int(text)

    def decimal(self, name: str) -> Fraction | None:
        """
        Return a number that may have decimals; None where it was not sent.

        Raises:
            MalformedCall: it is none.
        """
        text = self.text(name)
        if text is not None and not _DECIMAL.fullmatch(text):
            raise self._malformed(name, "a number with at most 12 decimals", repr(text[:40]))
        return None if text is None else Fraction(text)

    def object_id(self, name: str) -> str | None:
        """
        Return the id of an object; None where it was not sent.

        Raises:
            MalformedCall: it cannot be one.
        """
        text = self.text(name)
        if text and not is_object_id(text):
            raise self._malformed(name, "the id of an object", repr(text[:40]))
        return text or None

    def each(self, name: str) -> Iterator[Fields]:
        """
        Yield the members of a list of objects, in their order.

        Raises:
            MalformedCall: it is no list of objects.
        """
        found = self._found(name)
        if not found:
            return
        if not isinstance(found, dict):
            raise self._malformed(name, "a list of objects", repr(found[:40]))
        for index, member in found.items():
            if not isinstance(member, dict):
                raise self._malformed(name, "a list of objects", "a list of values")
            yield Fields(member, f"{self._full(name)}[{index}]")

    def below(self, name: str) -> Fields:
        """Return what is nested below a name; nothing where it was not sent."""
        found = self._found(name)
        return Fields(found if isinstance(found, dict) else {}, self._full(name))

    def code(self, default: str | None = None, name: str = "currency") -> str | None:
        """
        Return a currency in lower case; the default where none was sent.

        Raises:
            MalformedCall: no currency that Stripe knows.
            UnpricedCall: no rate is pinned for it.
        """
        text = self.text(name)
        return money.check_currency({"currency": text}) if text is not None else default

    def _found(self, name: str) -> Tree | str | None:
        found: Tree | str | None = self.tree
        for part in name.replace("]", "").split("["):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def _full(self, name: str) -> str:
        return f"{self.place}[{name}]" if self.place else name

    def _malformed(self, name: str, wanted: str, got: str) -> MalformedCall:
        return MalformedCall(f"the parameter {self._full(name)!r} must be {wanted}, got {got}; nothing was sent")


def fields(call: Call, *roots: str) -> Fields:
    """
    Read the parameters below some root names; the others may be anything.

    Raises:
        MalformedCall: the body cannot be read, or one of them is spelled twice, ambiguously, or in the query of a POST.
    """
    if call.body is None or call.document is not None:
        # Stripe's v1 reads forms only.
        raise MalformedCall(f"the body of {call.method} {call.path} could not be read, so its cost cannot be bounded; nothing was sent")
    wanted = frozenset(roots)
    if call.method == "DELETE":
        return Fields(_planted((*call.body, *call.query), wanted))
    for name, _ in call.query:
        if money.root_of(name) in wanted:
            raise MalformedCall(f"the parameter {money.root_of(name)!r} of a POST belongs in its body, not in the query; nothing was sent")
    return Fields(_planted(call.body, wanted))


def _planted(pairs: Pairs, wanted: frozenset[str]) -> Tree:
    tree: Tree = {}
    for name, value in pairs:
        root = money.root_of(name)
        if root not in wanted:
            continue
        if not _NAME.fullmatch(name) or not name.startswith(root):
            raise MalformedCall(f"the parameter {name[:80]!r} must be written as Stripe documents it: name[0][part]; nothing was sent")
        *parts, last = name.replace("]", "").split("[")
        node = tree
        for part in parts:
            below = node.setdefault(part, {})
            if not isinstance(below, dict):
                raise _twice(name)
            node = below
        if last in node:
            raise _twice(name)
        node[last] = value
    return tree


def _twice(name: str) -> MalformedCall:
    return MalformedCall(f"the parameter {name[:80]!r} was sent twice, or both as a value and with parts; nothing was sent")


def document(call: Call) -> Fields:
    """
    Read the JSON body of a v2 request.

    Raises:
        MalformedCall: there is none, or it is no object.
    """
    if call.body and call.document is None:
        raise MalformedCall(f"the body of {call.method} {call.path} must be JSON, as all of Stripe's v2; nothing was sent")
    try:
        if call.body is not None and isinstance(call.document or {}, dict):
            return Fields(_tree_of(cast("dict[str, Any]", call.document or {})))
    except RecursionError:
        pass
    raise MalformedCall(f"the body of {call.method} {call.path} could not be read, so its cost cannot be bounded; nothing was sent")


def _tree_of(found: dict[str, Any]) -> Tree:
    # A list's members go by their index, as in a form; null is not sent.
    return {name: _leaf(value) for name, value in found.items() if value is not None}


def _leaf(value: Any) -> Tree | str:
    if isinstance(value, dict):
        return _tree_of(cast("dict[str, Any]", value))
    if isinstance(value, list):
        return _tree_of({str(index): member for index, member in enumerate(value)})
    return str(value).lower() if isinstance(value, bool) else str(value)
