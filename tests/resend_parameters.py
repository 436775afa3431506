"""Writes `keyguard/vendors/resend_parameters.txt` from the installed SDK's own types: `python -m tests.resend_parameters`."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import resend

from keyguard.model import Call
from keyguard.vendors import vendor_named
from tests.support_resend_sdk import made_in

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Path(__file__).parents[1] / "keyguard" / "vendors" / "resend_parameters.txt"
_HEAD = """\
# Operation, then the fields of its request: what a policy's `rules` may name.
# From the types of resend-python {version}, by `python -m tests.resend_parameters`; a test compares them.
"""


def generate() -> str:
    """Return the file's text for the SDK that is installed."""
    found: dict[str, set[str]] = {}
    for function, hints in _methods():
        for method, path in made_in(function):
            name = vendor_named("resend").classify(Call("resend", method, "https", "api.resend.com", path.replace("*", "x"), body=())).name
            found.setdefault(name, set()).update(_fields(hints.get("params")))
    rows = (" ".join([name, *sorted(found[name])]) for name in sorted(found))
    return _HEAD.format(version=getattr(resend, "__version__", "")) + "\n".join(rows) + "\n"


def _methods() -> Iterator[tuple[ast.AST, dict[str, Any]]]:
    """Yield the source and the types of every method of every resource."""
    for owner in sorted(_classes(), key=lambda one: one.__qualname__):
        for method in vars(owner).values():
            if isinstance(method, classmethod):
                tree = ast.parse(textwrap.dedent(inspect.getsource(method.__func__)))
                yield tree.body[0], typing.get_type_hints(method.__func__, localns=dict(vars(owner)))


def _classes() -> set[type[Any]]:
    modules = [importlib.import_module(found.name) for found in pkgutil.walk_packages(resend.__path__, "resend.")]
    return {
        value for module in modules for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__
    }


def _fields(kind: Any) -> set[str]:
    """Return the fields of a TypedDict, in whatever it stands (an Optional, a list, a union)."""
    if hasattr(kind, "__required_keys__"):
        return {*kind.__required_keys__, *kind.__optional_keys__}
    return {field for part in typing.get_args(kind) for field in _fields(part)}


if __name__ == "__main__":
    TARGET.write_text(generate(), encoding="utf-8")
