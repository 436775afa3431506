"""Twilio's paths: products, strict reading, names and classes of operations, from the tables beside this file. No money here.

The same path means different things on different hosts (`/v2/Services/*` is Verify's, Chat's and more), so a row belongs to a
product, which is the first label of its host: `api`, `verify`. A proxy may put the original host before the path; a stand-in
that does not is asked for by all products at once, and of rows that differ the most careful one counts.

A name comes from a table, so that no id and no phone number can become part of it; what no row matches is `unknown.<method>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from keyguard.errors import MalformedCall
from keyguard.model import Operation, Unbounded

if TYPE_CHECKING:
    from keyguard.model import Call

Kind = Literal["priced", "free", "flat", "refused"]

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
# From the most careful to the least.
_KINDS: tuple[Kind, ...] = ("refused", "flat", "priced", "free")
_DOMAIN = ".twilio.com"
_ORIGINAL = re.compile(r"([a-z0-9-]+)(?:\.[a-z0-9-]+)*\.twilio\.com")
# The account whose money it is, in the two places where Twilio writes it.
_ACCOUNT = re.compile(r"/(?:2010-04-01/Accounts|v1/Accounts)/(AC[0-9a-fA-F]{32})(?=[/.]|$)")
# What may be the id of one of Twilio's objects; a phone number may not: ids are kept in rows and spans.
_OBJECT_ID = re.compile(r"[A-Z]{2}[0-9a-fA-F]{32}")
_FORMATS = re.compile(r"\.(json|xml|csv|html)$")
_TRICK = re.compile(r"%(2e|2f|5c|00)|[\\\x00-\x20\x7f?#]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row of the tables.

    Attributes:
        kind: What the call costs: `priced`, `free`, `flat` (by the policy) or `refused`.
        operation: Its name.
        unbounded: Why no amount can be told, of the last two kinds.
    """

    kind: Kind
    operation: str
    unbounded: Unbounded | None = None


def is_object_id(text: object) -> bool:
    """Say whether this can be the id of one of Twilio's objects."""
    return isinstance(text, str) and _OBJECT_ID.fullmatch(text) is not None


def account(path: str) -> str:
    """Return the account that a path bills, a subaccount perhaps; "" where the path names none."""
    found = _ACCOUNT.search(path)
    return found[1] if found else ""


def classify(call: Call) -> Operation:
    """
    Name the operation of a call, from host, method and path alone.

    Raises:
        MalformedCall: a path that another reader could read as another one.
    """
    return _classified(call.method, call.host, call.path, call.is_write)


def row_of(call: Call) -> Row | None:
    """Return the row of a call; None = nobody classified it."""
    return _located(call.method, call.host, call.path)[0]


def ids_of(call: Call) -> tuple[str, ...]:
    """Return what stands in the path where its template has a `*`."""
    return _located(call.method, call.host, call.path)[1]


@lru_cache(maxsize=4096)
def _classified(method: str, host: str, path: str, is_write: bool) -> Operation:  # noqa: FBT001 -- the cache's key
    row, ids = _located(method, host, path)
    # Not the account itself, which stands before everything of the older API.
    objects = [one for one in ids if is_object_id(one) and not one.startswith("AC")]
    object_id = objects[-1] if objects else None
    name = row.operation if row is not None else f"unknown.{method.lower() if method in _METHODS else 'other'}"
    if not is_write:
        # A read that costs, costs again.
        return Operation(name, object_id, idempotent=row is None or row.kind != "priced")
    # "There is no idempotency key": a second POST is a second message.
    is_known = row is not None and row.unbounded is None
    return Operation(name, object_id, known=is_known, unbounded=row.unbounded if row is not None else None)


@lru_cache(maxsize=4096)
def _located(method: str, host: str, path: str) -> tuple[Row | None, tuple[str, ...]]:
    """Return the row of a request, and the ids in its path."""
    product, segments = _product(host, _segments(path))
    method = "GET" if method == "HEAD" else method
    if product is not None:
        return _matched(method, product, segments)
    found = [_matched(method, one, segments) for one in _products()]
    rows = [(row, ids) for row, ids in found if row is not None]
    return min(rows, key=lambda one: _KINDS.index(one[0].kind), default=(None, ()))


def _matched(method: str, product: str, segments: tuple[str, ...]) -> tuple[Row | None, tuple[str, ...]]:
    """Walk down a product's tree; a literal word wins over an id, as at Twilio's own router, unless it leads nowhere."""
    tree = _tree().get(product)
    for words, ids in _walks(tree, segments) if tree is not None else ():
        row = _rows().get((method, product, words))
        if row is not None:
            return row, ids
    return None, ()


def _walks(tree: _Tree | None, segments: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the templates that a path fits, the most literal one first, each with the ids."""
    found: list[tuple[_Tree, str, tuple[str, ...]]] = [(tree, "", ())] if tree is not None else []
    for text in segments:
        found = [
            (node[word], f"{template}/{word}", (*ids, text) if word == "*" else ids)
            for node, template, ids in found
            for word in ((text, "*") if text != "*" else ("*",))
            if word in node
        ]
    return [(template, ids) for _, template, ids in found]


def _product(host: str, segments: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Return the product of a request and its own path; None = a stand-in's, which may be any."""
    name = host.partition(":")[0].removesuffix(".")
    if name.endswith(_DOMAIN):
        return name.partition(".")[0], segments
    original = _ORIGINAL.fullmatch(segments[0]) if segments else None
    return (original[1], segments[1:]) if original else (None, segments)


def _segments(path: str) -> tuple[str, ...]:
    """Split a path, and refuse the ones that are changed on their way or read differently by others."""
    if path in {"", "/"}:
        return ()
    first, *segments = path.split("/")
    if first or not segments or _TRICK.search(path) or any(text in {"", ".", ".."} for text in segments):
        # The path is not repeated: Twilio's may hold phone numbers.
        raise MalformedCall(
            "the path of this call cannot be read strictly: no empty or dot segments, trailing slashes, backslashes, blanks, control "
            "characters, or encoded dots and slashes are allowed. Nothing was sent; write the path as Twilio documents it."
        )
    # `Messages.json`, `Messages.xml` and `Messages` are one resource in three forms.
    return (*segments[:-1], _FORMATS.sub("", segments[-1]) or segments[-1])


@cache
def _rows() -> dict[tuple[str, str, str], Row]:
    """Return every row of both tables, by method, product and path template."""
    return {**writes(), **reads()}


@cache
def writes() -> dict[tuple[str, str, str], Row]:
    """Return the rows of the table of writes."""
    found: dict[tuple[str, str, str], Row] = {}
    for kind, method, product, path, operation, *reason in _lines("twilio_writes.txt", 5):
        if kind not in _KINDS or (method, product, path) in found or bool(reason) != (kind in {"flat", "refused"}):
            raise ValueError(f"a row of twilio_writes.txt that cannot be read: {kind} {method} {product} {path}")
        unbounded = Unbounded(reason[0], is_by_design=kind == "refused") if reason else None
        found[method, product, path] = Row(kind, operation, unbounded)
    return found


@cache
def reads() -> dict[tuple[str, str, str], Row]:
    """Return the rows of the table of reads; those of `priced` cost although they are GETs."""
    rows = _lines("twilio_reads.txt", 4)
    return {("GET", product, path): Row("priced" if kind == "priced" else "free", operation) for kind, product, path, operation in rows}


def _lines(name: str, most: int) -> list[list[str]]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [line.split(maxsplit=most) for line in lines if line and not line.startswith("#")]


@cache
def _products() -> tuple[str, ...]:
    return tuple(sorted({product for _, product, _ in _rows()}))


class _Tree(dict[str, "_Tree"]):
    """Words of the templates, nested."""


@cache
def _tree() -> dict[str, _Tree]:
    """Return each product's templates as a tree."""
    roots: dict[str, _Tree] = {}
    for _, product, template in _rows():
        node = roots.setdefault(product, _Tree())
        for word in template.split("/")[1:]:
            node = node.setdefault(word, _Tree())
    return roots
