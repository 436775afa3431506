"""Stripe's paths: strict reading, and what each write is (`stripe_writes.txt`). No money here; part of the stripe plug.

A name is made of the words of one matching path template (`stripe_paths.txt`) and a verb, so that no
id and no invented segment can become part of it; what matches no template is `unknown.<method>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from keyguard.errors import MalformedCall
from keyguard.model import Operation, Unbounded

if TYPE_CHECKING:
    from keyguard.model import Call

_METHODS = frozenset({"get", "head", "options", "post", "put", "patch", "delete"})
_ROOTS = frozenset({"v1", "v2", "oauth"})
_SINGLETONS = frozenset({"balance_settings", "settings"})
_ACTION = re.compile(r"(add|remove|update|verify|collect|send|report|confirm)_.*")
_OBJECT_ID = re.compile(r"[A-Za-z0-9_]{1,255}")
_HOUR = 3600.0
_V1_WINDOW, _V2_WINDOW = 23 * _HOUR, (30 * 24 - 1) * _HOUR
_TRICK = re.compile(r"%(2e|2f|5c|00)|[\\\x00-\x20\x7f?#]", re.IGNORECASE)


def is_object_id(text: str) -> bool:
    """Say whether this can be the id of a Stripe object."""
    return _OBJECT_ID.fullmatch(text) is not None


def classify(call: Call) -> Operation:
    """
    Name the operation of a call, from method and path alone.

    Raises:
        MalformedCall: a path that another reader could read as another one.
    """
    return _classified(call.method, call.path, call.is_write, bool(call.idempotency_key))


@dataclass(frozen=True, slots=True)
class Write:
    """
    One row of the table of writes.

    Attributes:
        kind: `priced`, `free`, `flat` or `refused`; the head of the table says what they mean.
        name: The operation's.
        unbounded: Why no amount can be told, of the last two kinds.
    """

    kind: str
    name: str
    unbounded: Unbounded | None = None


@lru_cache(maxsize=4096)
def _classified(method: str, path: str, is_write: bool, has_key: bool) -> Operation:  # noqa: FBT001 -- the cache's key
    segments = _segments(path, is_write=is_write)
    template = _match(segments)
    write = writes().get((method, template or ""))
    ids = [text for word, text in zip((template or "").split("/"), ["", *segments], strict=False) if word == "*"]
    if write is not None and write.kind == "priced" and not all(is_object_id(text) for text in ids):
        raise MalformedCall(f"the object id in {path!r} may hold only letters, digits and '_'; nothing was sent")
    is_once = method == "POST" and segments[:1] in (["v1"], ["v2"])
    return Operation(
        write.name if write is not None else _name(method.lower(), template),
        object_id=ids[0] if ids and is_object_id(ids[0]) else None,
        known=not is_write or (write is not None and write.unbounded is None),
        idempotent=not is_write or (is_once and has_key),
        unbounded=write.unbounded if write is not None else None,
    )


def window(call: Call) -> float:
    """
    Return how long Stripe executes one Idempotency-Key once, less an hour: "keys can be removed … after they're at least 24 hours old".

    That is of v1; of v2 "within 30 days" (docs.stripe.com/api/idempotent_requests and /api-v2-overview, November 2026).
    """
    if call.method != "POST":
        return 0.0
    return _V1_WINDOW if call.path.startswith("/v1/") else _V2_WINDOW if call.path.startswith("/v2/") else 0.0


@cache
def writes() -> dict[tuple[str, str], Write]:
    """Return every write of the table, by method and path template."""
    text = Path(__file__).with_name("stripe_writes.txt").read_text(encoding="utf-8")
    found: dict[tuple[str, str], Write] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            method, template, kind, name, *reason = line.split(maxsplit=4)
            found[method, template] = Write(kind, name, Unbounded(reason[0], is_by_design=kind == "refused") if reason else None)
    return found


@cache
def free() -> frozenset[str]:
    """Return the names of the operations that cost nothing."""
    return frozenset(write.name for write in writes().values() if write.kind == "free")


def _segments(path: str, *, is_write: bool) -> list[str]:
    """Split a path, and refuse the ones that are changed on their way or read differently by others."""
    if path in {"", "/"}:
        # The same in HTTP (RFC 9110, 4.2.3), and no path of Stripe's.
        return []
    first, *segments = path.split("/")
    if first or not segments or _TRICK.search(path) or any(text in {"", ".", ".."} for text in segments):
        raise MalformedCall(
            f"the path {path!r} cannot be read strictly: no empty or dot segments, trailing slashes, backslashes, control characters, "
            "or encoded dots and slashes are allowed. Nothing was sent; write the path as Stripe documents it."
        )
    if is_write and segments[0] not in _ROOTS and segments[0].lower() in _ROOTS:
        raise MalformedCall(
            f"the path {path!r} must be written as Stripe documents it, {segments[0].lower()!r} in lower case; nothing was sent"
        )
    return segments


def _match(segments: list[str]) -> str | None:
    """Find the template of a path; a literal word wins over an id, as at Stripe's own router."""
    tree = _tree()
    found: list[str] = []
    for text in segments:
        word = text if text in tree and text != "*" else "*"
        if word not in tree:
            return None
        tree = tree[word]
        found.append(word)
    template = "/" + "/".join(found)
    return template if template in _templates() else None


@lru_cache(maxsize=4096)
def _name(method: str, template: str | None) -> str:
    if method not in _METHODS:
        method = "other"
    if template is None:
        return f"unknown.{method}"
    words = [word for word in template.split("/")[1:] if word not in {"*", "v1"}]
    verb = _verb(method, template) or (method if len(words) == 1 else "")
    return ".".join([*words, verb] if verb else words)


def _verb(method: str, template: str) -> str:
    """Return the verb behind the words, or "" where the last word is one itself."""
    parent, _, last = template.rpartition("/")
    is_list = last.endswith("s") and last not in _SINGLETONS
    if method in {"head", "options", "put", "patch", "delete", "other"}:
        return method
    if method == "get":
        if last == "*" or not (is_list or f"{parent}/*" in _templates()):
            return "retrieve"
        return "list" if is_list else ""
    if last == "*" or last in _SINGLETONS:
        return "update"
    is_collection = f"{template}/*" in _templates() or (is_list and not _ACTION.fullmatch(last))
    return "create" if is_collection else ""


class _Tree(dict[str, "_Tree"]):
    """Words of the templates, nested."""


@cache
def _templates() -> frozenset[str]:
    text = Path(__file__).with_name("stripe_paths.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line.startswith("/"))


@cache
def _tree() -> _Tree:
    root = _Tree()
    for template in _templates():
        node = root
        for word in template.split("/")[1:]:
            node = node.setdefault(word, _Tree())
    return root
