"""Every request that the installed resend package can make, read from its source: method and path, ids as `*`."""

from __future__ import annotations

import ast
import itertools
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import resend

if TYPE_CHECKING:
    from collections.abc import Iterator

_REQUESTS = frozenset({"Request", "AsyncRequest"})
UNREADABLE = "?"


@cache
def requests() -> frozenset[tuple[str, str]]:
    """Return (method, path) of every request; a path that this file cannot read is "?"."""
    found: set[tuple[str, str]] = set()
    for path in Path(resend.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found |= set(made_in(function))
    return frozenset(found)


def made_in(function: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (method, path) of every request that a function makes."""
    names: dict[str, list[ast.expr]] = {}
    for assigned in (node for node in ast.walk(function) if isinstance(node, ast.Assign)):
        for target in assigned.targets:
            if isinstance(target, ast.Name):
                names.setdefault(target.id, []).append(assigned.value)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and _is_request(node.func):
            given = dict(zip(("path", "params", "verb"), node.args, strict=False)) | {word.arg: word.value for word in node.keywords}
            verb = given["verb"]
            method = str(verb.value).upper() if isinstance(verb, ast.Constant) else UNREADABLE
            yield from ((method, path) for path in _paths(given["path"], names))


def _is_request(node: ast.expr) -> bool:
    """Say whether this is `request.Request[...]` or `AsyncRequest[...]`."""
    named = node.value if isinstance(node, ast.Subscript) else node
    return (named.attr if isinstance(named, ast.Attribute) else named.id if isinstance(named, ast.Name) else "") in _REQUESTS


def _paths(node: ast.expr, names: dict[str, list[ast.expr]]) -> list[str]:
    """Return what an expression may be: a name has every value that the function gives it."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(parts) for parts in itertools.product(*(_paths(part, names) for part in node.values))]
    if isinstance(node, ast.FormattedValue):
        return _paths(node.value, names) if isinstance(node.value, ast.Call) else ["*"]
    if isinstance(node, ast.Name):
        return [path for value in names.get(node.id, []) for path in _paths(value, names)] or [UNREADABLE]
    return _made_path(node, names) if isinstance(node, ast.Call) else [UNREADABLE]


def _made_path(node: ast.Call, names: dict[str, list[ast.expr]]) -> list[str]:
    """Return what the package's own makers of paths make: of an inbox, with a query behind it, or an id made safe."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in {"build_paginated_path", "build_inbox_query_path"}:
        return _paths(node.args[0], names)
    return [{"inbox_path": "/inboxes/*", "quote": "*"}.get(name, UNREADABLE)]
