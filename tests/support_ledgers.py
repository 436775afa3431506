"""The places of the ledgers that keyguard ships, for the contract suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.ledgers.sqlite import SqliteLedger

# The public name is in ledger_contract, which would cost each worker process the import of pytest and hypothesis.
from keyguard.testing._place import LedgerPlace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keyguard.ledgers import Durability, Ledger

STEPS = ("queued", "locked", "begun", "written", "committed", "unlocked", "synced", "answered")


def open_stepping(url: str, durability: Durability, on_step: Callable[[str], None]) -> Ledger:
    """Open a SQLite ledger that names its inner steps; crash workers call this."""
    return SqliteLedger(url.removeprefix("sqlite:///"), durability=durability, on_step=on_step)


class SqliteFile(LedgerPlace):
    """One SQLite file in a folder of its own."""

    opener = "tests.support_ledgers:open_stepping"

    def __init__(self, folder: Path, durability: Durability) -> None:
        self.path = folder / "ledger.db"
        self.durability = durability
        self.steps = {"reserve": STEPS, "close": STEPS}

    def url(self) -> str:
        """Name the file, with an absolute path."""
        return f"sqlite:///{self.path}"


class SqliteMemory(LedgerPlace):
    """One SQLite ledger in memory: its data is gone with the object."""

    shared = False

    def __init__(self) -> None:
        self._ledger: Ledger | None = None

    def url(self) -> str:
        """Name no file."""
        return "sqlite://"

    def open(self, clock: Callable[[], float] | None = None) -> Ledger:
        """Return the one handle there is."""
        if self._ledger is None:
            self._ledger = super().open(clock)
        return self._ledger
