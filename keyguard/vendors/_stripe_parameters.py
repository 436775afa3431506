"""Which parameters each of Stripe's operations has, from a data file that is read when it is first asked for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def parameters() -> Mapping[str, frozenset[str] | None]:
    """Return the top-level parameters of each operation."""
    lines = Path(__file__).with_name("stripe_parameters.txt").read_text(encoding="utf-8").splitlines()
    return {name: frozenset(fields) for name, *fields in (line.split(" ") for line in lines if not line.startswith("#"))}
