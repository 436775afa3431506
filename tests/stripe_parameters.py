"""Writes `keyguard/vendors/stripe_parameters.txt` from the installed SDK's own types: `python -m tests.stripe_parameters`."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import stripe

from keyguard.model import Call
from keyguard.vendors import vendor_named

if TYPE_CHECKING:
    from collections.abc import Iterator

_SDK = Path(stripe.__file__).parent
TARGET = Path(__file__).parents[1] / "keyguard" / "vendors" / "stripe_parameters.txt"
_HEAD = """\
# Operation, then the top-level parameters of its request: what a policy's `rules` may name.
# From the types of stripe-python {version} (its `*Params`), by `python -m tests.stripe_parameters`; a test compares them.
"""


def generate() -> str:
    """Return the file's text for the SDK that is installed."""
    found: dict[str, set[str]] = {}
    for method, path, fields in _endpoints():
        found.setdefault(_operation(method, path), set()).update(fields)
    rows = (" ".join([name, *sorted(found[name])]) for name in sorted(found))
    return _HEAD.format(version=stripe.VERSION) + "\n".join(rows) + "\n"


def _operation(method: str, path: str) -> str:
    concrete = re.sub(r"\{[^}]*\}", "x_1", path)
    return vendor_named("stripe").classify(Call("stripe", method.upper(), "https", "api.stripe.com", concrete)).name


def _endpoints() -> Iterator[tuple[str, str, set[str]]]:
    """Yield method, path template and parameters of every method of every service."""
    for file in sorted(_SDK.rglob("*_service.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        # Two versions of the API have types of one name.
        homes = {alias.name: str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (request := _request_in(node)) is not None:
                name = _params_of(node)
                yield *request, _fields(homes[name], name) if name else set()


def _request_in(function: ast.FunctionDef) -> tuple[str, str] | None:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"_request", "_request_stream"}:
            method, path = node.args[:2]
            # A template is a literal, or a literal's `.format(…)`.
            text = path.func.value if isinstance(path, ast.Call) and isinstance(path.func, ast.Attribute) else path
            assert isinstance(method, ast.Constant)
            assert isinstance(text, ast.Constant)
            return str(method.value), str(text.value)
    return None


def _params_of(function: ast.FunctionDef) -> str:
    for argument in [*function.args.args, *function.args.kwonlyargs]:
        if argument.arg == "params" and argument.annotation is not None:
            found = re.search(r"\w+Params\b", ast.unparse(argument.annotation))
            return found[0] if found else ""
    return ""


def _fields(module: str, name: str) -> set[str]:
    """Return the top-level fields of a type; those that are keywords of Python are named in a mapping beside it."""
    body = _module(module).body
    found = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = {node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    bases = {base.id for base in found.bases if isinstance(base, ast.Name)}
    for node in body:
        # `_Base = TypedDict("Base", {"from": …})`
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.value.args[-1], ast.Dict):
            names = {str(key.value) for key in node.value.args[-1].keys if isinstance(key, ast.Constant)}
            fields |= names if any(isinstance(target, ast.Name) and target.id in bases for target in node.targets) else set()
    return fields


@cache
def _module(name: str) -> ast.Module:
    return ast.parse((_SDK.parent / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))


if __name__ == "__main__":
    TARGET.write_text(generate(), encoding="utf-8")
