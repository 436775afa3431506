"""Neighbours: the libraries that patch the clients we patch. Here stand the contract of an adapter, the orders, and what a cell found.

Every adapter is one file of `adapters/`, and its file name is the registry. `walk.py` takes one neighbour in one order
through every client, `matrix.py` runs all of them and prints the table: `python -m tests.neighbours [NAME …]`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ADAPTERS = Path(__file__).parent / "adapters"
# Installing logfire makes pydantic import it, and with it an OTel SDK and requests, in every process: not beside the other tests.
ALONE = ("logfire",)


class Neighbour(ABC):
    """
    One library that hooks HTTP clients; a module-level object named `neighbour`. One object serves one process.

    Attributes:
        hooks: Which layers it sees: `stripe` (the SDK's own methods), `requests`, `httpx`.
        hides: Seams that lie below a method which it replaces: what it answers itself passes no guard, as it goes nowhere.
        answers: It replaces the wire: what it answers never reaches the server.
    """

    hooks: frozenset[str]
    hides: frozenset[str] = frozenset()
    answers = False

    def prepare(self, rehearse: Callable[[], None]) -> None:  # noqa: B027 -- most have nothing to prepare
        """Do what must precede everything; `rehearse` makes all calls of the walk once, while nothing is guarded."""

    @abstractmethod
    def install(self) -> None:
        """Import the library and let it patch, as its documentation says."""

    @abstractmethod
    def remove(self) -> None:
        """Take its patches away, as its documentation says; where it cannot, make them passive."""

    @abstractmethod
    def seen(self) -> int:
        """Say how many requests it has recorded, answered or traced since `install()`."""


@dataclass(frozen=True, slots=True)
class Order:
    """
    Who came first, and who leaves first.

    Attributes:
        is_inner: The neighbour is installed before keyguard, so that keyguard's patches lie over its own.
        leaves_first: The neighbour is removed while keyguard is armed.
    """

    is_inner: bool
    leaves_first: bool

    @property
    def name(self) -> str:
        """What stands over its column: `before-after` is installed before keyguard and removed after it."""
        return f"{'before' if self.is_inner else 'after'}-{'before' if self.leaves_first else 'after'}"


ORDERS = tuple(Order(is_inner, leaves_first) for is_inner in (True, False) for leaves_first in (True, False))


@dataclass(frozen=True, slots=True)
class Cell:
    """
    What one client met beside one neighbour in one order.

    Attributes:
        calls: Logical calls made while keyguard was armed, refused ones not counted.
        reservations: How many reservations the ledger has of them.
        faults: What was not as it must be, one sentence each.
    """

    calls: int = 0
    reservations: int = 0
    faults: tuple[str, ...] = ()


def known_neighbours() -> tuple[str, ...]:
    """Return the names of all adapters."""
    return tuple(sorted(path.stem for path in _ADAPTERS.glob("[a-z]*.py")))


def neighbour_named(name: str) -> Neighbour:
    """Load one adapter; its library is imported by `install()`, because the order of imports is part of the order."""
    found: Neighbour = importlib.import_module(f"{__name__}.adapters.{name}").neighbour
    return found
