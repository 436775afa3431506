"""Resend's paths: strict reading, names and classes of operations, from the two tables beside this file. No money here.

A name comes from a table, so that no id and no address can become part of it; what no row matches is `unknown.<method>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from keyguard.errors import MalformedCall
from keyguard.model import Operation

if TYPE_CHECKING:
    from keyguard.model import Call

Kind = Literal["priced", "free", "flat", "refused"]

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_KINDS = frozenset({"priced", "free", "flat", "refused"})
_HARMLESS: tuple[object, ...] = (None, False, "", [], "disabled")
# Documented for these: "a retry with the same key within 24 hours replays the first successful (2xx) response".
_DEDUPLICATED = frozenset({"emails.send", "emails.batch", "inboxes.threads.emails.forward", "inboxes.threads.emails.reply"})
# What may be the id of an e-mail of Resend's; an address may not: ids are kept in rows and spans.
_OBJECT_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_TRICK = re.compile(r"%(2e|2f|5c|00)|[\\\x00-\x20\x7f?#]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Write:
    """
    One row of the table of writes.

    Attributes:
        kind: What the call costs: `priced`, `free`, `flat` (by the policy) or `refused`.
        operation: Its name.
        field: The row counts only where this field of the body is set; "" = the path alone decides.
    """

    kind: Kind
    operation: str
    field: str = ""


def is_object_id(text: str) -> bool:
    """Say whether this can be the id of one of Resend's e-mails."""
    return _OBJECT_ID.fullmatch(text) is not None


def classify(call: Call) -> Operation:
    """
    Name the operation of a call.

    Raises:
        MalformedCall: a path that another reader could read as another one.
    """
    template, object_id = _located(call.path)
    if not call.is_write:
        return Operation(_reads().get(template or "", "unknown.get"), object_id, idempotent=True)
    write = write_of(call)
    if write is None:
        return Operation(f"unknown.{call.method.lower() if call.method in _METHODS else 'other'}", known=False)
    is_once = write.operation in _DEDUPLICATED and bool(call.idempotency_key)
    return Operation(write.operation, object_id, known=write.kind != "flat", idempotent=is_once)


def window(call: Call) -> float:
    """Return how long Resend sends one Idempotency-Key once, less an hour: "within 24 hours" (see above)."""
    write = write_of(call)
    return 23 * 3600.0 if write is not None and write.operation in _DEDUPLICATED else 0.0


def write_of(call: Call) -> Write | None:
    """Return the row of a write; None = nobody classified it."""
    rows = writes().get((call.method, _located(call.path)[0] or ""), ())
    return next((row for row in rows if not row.field or _is_set(call, row.field)), None)


def _is_set(call: Call, field: str) -> bool:
    """Say whether a field of the body is there and asks for something; of a body that cannot be read it is assumed."""
    if isinstance(call.document, dict):
        return cast("dict[str, Any]", call.document).get(field) not in _HARMLESS
    return call.document is not None or call.body != ()


@lru_cache(maxsize=4096)
def _located(path: str) -> tuple[str | None, str | None]:
    """Return the template of a path and the object that it names, each None where there is none."""
    segments = _segments(path)
    tree, found = _tree(), ""
    for text in segments:
        word = text if text in tree and text != "*" else "*"
        if word not in tree:
            return None, None
        tree, found = tree[word], f"{found}/{word}"
    is_one = found.startswith("/emails/*") and is_object_id(segments[1])
    return (found, segments[1] if is_one else None) if found in _templates() else (None, None)


def _segments(path: str) -> list[str]:
    """Split a path, and refuse the ones that are changed on their way or read differently by others."""
    if path in {"", "/"}:
        return []
    first, *segments = path.split("/")
    if first or not segments or _TRICK.search(path) or any(text in {"", ".", ".."} for text in segments):
        # The path is not repeated: Resend's hold addresses.
        raise MalformedCall(
            "the path of this call cannot be read strictly: no empty or dot segments, trailing slashes, backslashes, blanks, control "
            "characters, or encoded dots and slashes are allowed. Nothing was sent; write the path as Resend documents it."
        )
    return segments


@cache
def writes() -> dict[tuple[str, str], tuple[Write, ...]]:
    """Return the rows of each method and path, those with a condition first."""
    found: dict[tuple[str, str], tuple[Write, ...]] = {}
    for kind, method, path, operation, *condition in _rows("resend_writes.txt"):
        if kind not in _KINDS:
            raise ValueError(f"no class of writes: {kind}")
        row = Write(cast("Kind", kind), operation, condition[1] if condition else "")
        found[method, path] = (row, *found.get((method, path), ()))
    return {key: tuple(sorted(rows, key=lambda row: not row.field)) for key, rows in found.items()}


@cache
def _reads() -> dict[str, str]:
    return {row[0]: row[1] for row in _rows("resend_reads.txt")}


def _rows(name: str) -> list[list[str]]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


@cache
def _templates() -> frozenset[str]:
    return frozenset(_reads()) | {path for _, path in writes()}


class _Tree(dict[str, "_Tree"]):
    """Words of the templates, nested."""


@cache
def _tree() -> _Tree:
    root = _Tree()
    for template in _templates():
        node = root
        for word in template.split("/")[1:]:
            node = node.setdefault(word, _Tree())
    return root
