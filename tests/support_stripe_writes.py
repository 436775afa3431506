"""Every write that Stripe offers, from two sources: the installed SDK, walked by its syntax tree, and Stripe's OpenAPI."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support_stripe_spec import operations

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRITES = frozenset({"POST", "DELETE", "PUT", "PATCH"})


@cache
def sdk_operations() -> frozenset[tuple[str, str]]:
    """Return (METHOD, path template) of every request that the installed stripe package names in its code, reads included."""
    found = find_spec("stripe")

    assert found is not None
    assert found.origin is not None
    files = sorted(Path(found.origin).parent.rglob("*.py"))
    return frozenset(pair for file in files for pair in _requests(ast.parse(file.read_text(encoding="utf-8"))))


def _requests(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            for method, path in pairwise(arguments):
                words, template = _text(method), _text(path)
                if words and words.upper() in {*_WRITES, "GET"} and template and template.startswith("/"):
                    yield words.upper(), re.sub(r"\{\w*\}", "*", template)


def _text(node: ast.expr) -> str | None:
    """Read a string, an f-string with its values left open, or what `format` is called on."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return _text(node.func.value)
    return None


@cache
def known_writes() -> frozenset[tuple[str, str]]:
    """Return (METHOD, path template with ids as `*`) of every write of either source."""
    spec = {(method, re.sub(r"\{\w+\}", "*", path)) for method, path in operations()}
    return frozenset(pair for pair in {*spec, *sdk_operations()} if pair[0] in _WRITES)
