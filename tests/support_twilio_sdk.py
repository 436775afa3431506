"""Every request that the installed twilio package can make, read from its source: method, product, path (ids as `*`), fields."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import twilio

if TYPE_CHECKING:
    from collections.abc import Iterator

_REST = Path(twilio.__file__).parent / "rest"
_ID = re.compile(r"\{[^}]*\}")
_PAGING = frozenset({"Page", "PageToken"})


@dataclass(frozen=True, slots=True)
class Made:
    """
    One request that a resource of the SDK makes.

    Attributes:
        method: Upper case.
        product: The first label of its host: `api`, `verify`.
        path: With `*` for each id.
        fields: Of its form, JSON body or query, as they are on the wire.
    """

    method: str
    product: str
    path: str
    fields: frozenset[str]


@cache
def requests() -> frozenset[Made]:
    """Return every request of every resource."""
    found: set[Made] = set()
    for folder in sorted(path for path in _REST.iterdir() if path.is_dir()):
        bases = list(folder.glob("*Base.py"))
        if bases:
            product = _only(r'super\(\).__init__\(\w+, "https://([a-z-]+)\.twilio\.com"\)', bases[0])
            for module in folder.rglob("*.py"):
                found |= set(_made_in(module, product, folder))
    return frozenset(found)


def _only(pattern: str, path: Path) -> str:
    found = re.findall(pattern, path.read_text(encoding="utf-8"))
    assert len(found) == 1, (path, found)
    return str(found[0])


def _made_in(module: Path, product: str, folder: Path) -> Iterator[Made]:
    text = module.read_text(encoding="utf-8")
    if "self._uri" not in text:
        return
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    bodies = frozenset(key for one in classes for part in _with_inner(one) for key in _keys_of_body(part))
    version = module.relative_to(folder).parts[0].removesuffix(".py")
    for owner in classes:
        # The awaited twins make the same requests.
        functions = [node for node in owner.body if isinstance(node, ast.FunctionDef)]
        assigned = (node for one in functions if one.name == "__init__" for node in ast.walk(one) if isinstance(node, ast.Assign))
        uri = next((_text(node.value) for node in assigned if _is_uri(node.targets[0])), None)
        for function in functions if uri is not None else []:
            for method in _methods(function):
                yield Made(method, product, f"/{_version(folder, version)}/{_ID.sub('*', uri or '').strip('/')}", _fields(function, bodies))


def _with_inner(owner: ast.ClassDef) -> Iterator[ast.ClassDef]:
    yield owner
    for node in owner.body:
        if isinstance(node, ast.ClassDef):
            yield from _with_inner(node)


@cache
def _version(folder: Path, name: str) -> str:
    return _only(r'super\(\).__init__\(domain, "([^"]+)"\)', folder / name / "__init__.py")


def _is_uri(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "_uri"


def _text(node: ast.expr) -> str:
    """Return the text of `"…"` or `"…".format(…)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        node = node.func.value
    assert isinstance(node, ast.Constant), ast.dump(node)
    return str(node.value)


def _methods(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        given = {word.arg: word.value for word in node.keywords} if isinstance(node, ast.Call) else {}
        method = given.get("method")
        if "uri" in given and isinstance(method, ast.Constant):
            yield str(method.value)


def _fields(function: ast.AST, bodies: frozenset[str]) -> frozenset[str]:
    """Return the keys of the tables that a function makes for the wire, or of the models that it writes as JSON."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in {"data", "params"}:
            found |= set(_keys(node.value))
            found |= bodies if "to_dict" in ast.dump(node.value) else set()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update":
            found |= {key for given in node.args for key in _keys(given)}
    return frozenset(found - _PAGING)


def _keys(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Dict):
            yield from (str(key.value) for key in part.keys if isinstance(key, ast.Constant))


def _keys_of_body(owner: ast.ClassDef) -> Iterator[str]:
    for node in owner.body:
        if isinstance(node, ast.FunctionDef) and node.name == "to_dict":
            yield from _keys(node)
