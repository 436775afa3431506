"""The libraries with httpx's classes that are here: httpx2 needs Python 3.11."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

HTTPX: dict[str, Any] = {name: import_module(name) for name in ("httpx", "httpx2") if find_spec(name) is not None}


def errors(*names: str) -> tuple[type[Exception], ...]:
    """Return exceptions of each library by their names."""
    return tuple(getattr(library, name) for library in HTTPX.values() for name in names)
