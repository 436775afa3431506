"""What the parts of the ledger contract suite share: the place of a ledger, a settable clock, the fixtures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pytest

from keyguard.ledgers import open_ledger
from keyguard.testing._till import Till, open_till

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from keyguard.ledgers import Durability, Ledger

DAY = 86_400.0
NOON = 20_000 * DAY + DAY / 2  # noon UTC of day 20 000, 2024-10-04: far enough from either midnight


class LedgerPlace(ABC):
    """
    An empty place for the data of one ledger; the suite makes one for each test and each hypothesis example.

    Attributes:
        shared: Another process can open `url()` and finds the same data.
        durability: What the ledger is opened with.
        opener: `module:function` that a crash worker calls with (url, durability, on_step); `on_step`
            takes the name of a step inside the ledger.
        steps: Names of those steps, by operation (`reserve`, `close`), that every such operation passes.
    """

    shared: ClassVar[bool] = True
    durability: Durability = "process"
    opener: ClassVar[str] = "keyguard.testing._crash:open_plainly"
    steps: Mapping[str, tuple[str, ...]] = {}

    @abstractmethod
    def url(self) -> str:
        """Return the URL of the place's ledger, good in another process where `shared`."""

    def open(self, clock: Callable[[], float] | None = None) -> Ledger:
        """Return a new handle on the place's data; a ledger that lives in one object returns that object again."""
        return open_ledger(self.url(), durability=self.durability, clock=clock)

    def clear(self) -> None:
        """Remove the data; called once, when no handle is in use any more."""


@dataclass(slots=True)
class Clock:
    """A clock that tests set: POSIX seconds."""

    now: float = NOON

    def __call__(self) -> float:
        """Return the set time."""
        return self.now


def forged(token: str) -> list[str]:
    """Return tokens that differ from a real one in one character, at several places behind the marker."""
    places = (len("vault_key_"), (len(token) + len("vault_key_")) // 2, len(token) - 1)
    return [token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in places]


class ContractBase:
    """The hook that a subclass supplies, and the fixtures of the suite."""

    def ledger_factory(self, folder: Path) -> LedgerPlace:
        """Return a fresh, empty place; `folder` is an empty directory for ledgers that keep files."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        """The test's clock, at noon."""
        return Clock()

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[LedgerPlace]:
        """One empty place, cleared after the test."""
        place = self.ledger_factory(tmp_path)
        yield place
        place.clear()

    @pytest.fixture
    def ledger(self, place: LedgerPlace, clock: Clock) -> Iterator[Ledger]:
        """A handle whose books must be in order when the test ends."""
        ledger = place.open(clock)
        yield ledger

        assert ledger.verify() == []
        ledger.shut()

    @pytest.fixture
    def other(self, place: LedgerPlace, clock: Clock, ledger: Ledger) -> Iterator[Ledger]:
        """A second handle on the same data, as another process would have it."""
        other = place.open(clock)
        yield other
        if other is not ledger:
            other.shut()

    @pytest.fixture
    def till(self, ledger: Ledger) -> Till:
        """A run with a cap of 100 micro-USD."""
        return open_till(ledger, run_usd_cap=100)
