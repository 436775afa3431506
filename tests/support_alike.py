"""Functions that are alike but for their code, for what tells functions apart. Asserts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def alike(number: int) -> Callable[[], int]:
    """Return one of two functions of one name and place; each returns its number, 1 or 2, which stands in its code."""
    if number == 1:

        def same() -> int:
            return 1
    else:

        def same() -> int:
            return 2

    return same
