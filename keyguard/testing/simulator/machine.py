"""The simulated processes: each has a real handle on the one real ledger file, and ends when the simulator says so.

A killed process runs nothing more: its connection is closed by "the kernel", and so is the descriptor that locks its mark beside the
ledger, which is how the real code of the next process finds out. Its holds stay where they were.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import apsw

from keyguard.backends.local import LocalBackend
from keyguard.errors import LedgerUnavailable
from keyguard.ledgers._sqlite_owners import Owners
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.payer import Armed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keyguard.ledgers import Durability
    from keyguard.ledgers._sqlite_books import Books
    from keyguard.model import Closing, Decision, Order, Receipt

# Where a ledger's operation stands when a fault strikes (SqliteLedger's `on_step`).
STEPS = ("queued", "locked", "begun", "written", "committed", "unlocked", "answered")
_ENGINE_STEPS = frozenset({"begun", "written"})


class Killed(BaseException):
    """The process is gone: nobody catches this but the simulator."""


class Struck(Exception):
    """What an orchestrator injects into a task that took too long."""


class StruckHard(BaseException):
    """The same from one that injects what no `except Exception` catches."""


@dataclass(slots=True)
class Fault:
    """What strikes the next operation of a ledger handle, and where in it."""

    step: str
    error: BaseException


FAULTS: tuple[Callable[[str], BaseException], ...] = (
    lambda step: LedgerUnavailable("simulated: the ledger is away"),
    lambda step: apsw.FullError("simulated: disk full") if step in _ENGINE_STEPS else LedgerUnavailable("simulated: sync failed"),
    lambda step: Struck("in the ledger"),
    lambda step: StruckHard("in the ledger"),
    lambda step: Killed(),
)


class LedgerWatcher(Protocol):
    """Who is told what a ledger was asked and what it did."""

    def reserved(self, ledger: SimulatedLedger, order: Order, decision: Decision | None) -> None:
        """A reserve was decided; None = it raised, and may have been committed."""
        ...

    def closed(self, ledger: SimulatedLedger, closing: Closing, receipt: Receipt | None) -> None:
        """A close was booked; None = it raised."""
        ...

    def failed(self, error: LedgerUnavailable) -> None:
        """The ledger failed by itself: no fault of the simulation's."""
        ...


class _Owners(Owners):
    """The real marks, found in one order on every file system."""

    def dead(self) -> Iterator[tuple[str, int]]:
        """Yield the dead by name."""
        yield from sorted(super().dead())


class SimulatedLedger(SqliteLedger):
    """
    One process's real handle on the real file, under a simulated clock and with a name that the seed gives.

    Attributes:
        fault: What strikes the next operation.
    """

    def __init__(self, path: Path, owner: str, *, clock: Callable[[], float], durability: Durability, watcher: LedgerWatcher) -> None:
        self._owner_name, self._watcher = owner, watcher
        self.fault: Fault | None = None
        super().__init__(path, durability=durability, clock=clock, on_step=self._strike)

    def _begin(self) -> None:
        super()._begin()
        assert self._path is not None
        self._owners = _Owners(self._owner_name, self._path.resolve())

    def _strike(self, step: str) -> None:
        fault = self.fault
        if fault is not None and fault.step == step:
            self.fault = None
            raise fault.error

    @property
    def books(self) -> Books | None:
        """The open books; None where the handle is put away."""
        return self._books

    def reserve(self, order: Order) -> Decision:
        """Reserve, and let the judge see."""
        try:
            decision = super().reserve(order)
        except BaseException as error:
            self._check(error)
            self._watcher.reserved(self, order, None)
            raise
        self._watcher.reserved(self, order, decision)
        return decision

    def close(self, closing: Closing) -> Receipt:
        """Close, and let the judge see."""
        try:
            receipt = super().close(closing)
        except BaseException as error:
            self._check(error)
            self._watcher.closed(self, closing, None)
            raise
        self._watcher.closed(self, closing, receipt)
        return receipt

    def _check(self, error: BaseException) -> None:
        if isinstance(error, LedgerUnavailable) and "simulated" not in str(error):
            self._watcher.failed(error)

    def die(self) -> None:
        """Do what the kernel does when a process is killed: close its descriptors, and nothing else."""
        self._owners.leave_in_child()
        self._drop()


class Process:
    """
    One simulated process: what keyguard keeps while it is armed, and whether it lives.

    Attributes:
        installs: How often its code has called `install()`.
    """

    def __init__(self, name: str, ledger: SimulatedLedger, monotonic: Callable[[], float]) -> None:
        self.name, self.ledger = name, ledger
        self.backend = LocalBackend(ledger, monotonic=monotonic)
        self.armed = Armed()
        self.armed.backends[ledger.url] = self.backend
        self.is_alive = True
        self.installs = 0

    def __repr__(self) -> str:
        return self.name

    def kill(self) -> None:
        """End it at once."""
        self.is_alive = False
        self.ledger.die()

    def exit(self) -> None:
        """End it as a program ends, its calls closed."""
        self.is_alive = False
        with contextlib.suppress(LedgerUnavailable):
            self.backend.shut()
        self.ledger.die()
