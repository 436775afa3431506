"""Where the data of a ledger under test is. Without pytest: the worker processes of the suite import it too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from keyguard.ledgers import open_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyguard.ledgers import Durability, Ledger


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

    def clear(self) -> None:  # noqa: B027 -- most places have nothing to remove
        """Remove the data; called once, when no handle is in use any more."""
