"""What the parts of the ledger contract suite share: a settable clock and the fixtures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keyguard.testing._till import Till, open_till

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keyguard.ledgers import Ledger
    from keyguard.testing._place import LedgerPlace

DAY = 86_400.0
NOON = 20_000 * DAY + DAY / 2  # noon UTC of day 20 000, 2024-10-04: far enough from either midnight


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
