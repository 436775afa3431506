"""Reads the tables that lie beside the plugs as text files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def parameters_of(vendor: str) -> Mapping[str, frozenset[str] | None]:
    """Return a vendor's table of parameters (`stripe_parameters.txt`): operation, then the fields of its request."""
    lines = Path(__file__).with_name(f"{vendor}_parameters.txt").read_text(encoding="utf-8").splitlines()
    return {name: frozenset(fields) for name, *fields in (line.split(" ") for line in lines if not line.startswith("#"))}
