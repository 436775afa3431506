"""The books of a SQLite ledger: the operations of one connection, inside its transactions. Opens and locks nothing.

Every change is a row of the log beside the cached rows it folds into. `holds` carries the three parts of
each reservation; triggers of the schema keep `bucket` equal to their sums and refuse what does not fit.
What a reserve does is in `_sqlite_reserve.py`, what a close does in `_sqlite_close.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.ledgers._sqlite_budgets import Budgets
from keyguard.ledgers._sqlite_charges import Charges
from keyguard.ledgers._sqlite_close import Closes
from keyguard.ledgers._sqlite_doubts import doubts
from keyguard.ledgers._sqlite_holds import Holds
from keyguard.ledgers._sqlite_keys import Keys
from keyguard.ledgers._sqlite_log import Log, chained
from keyguard.ledgers._sqlite_objects import Objects
from keyguard.ledgers._sqlite_proof import refold
from keyguard.ledgers._sqlite_remote import RemoteKeys
from keyguard.ledgers._sqlite_reserve import Reserves
from keyguard.model import Memory, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import apsw

    from keyguard.ledgers import Question
    from keyguard.ledgers._sqlite_owners import Owners
    from keyguard.model import Decision, Doubt, Order, Outcome, Receipt, VaultKey

_MARKED_EVERY = 1000


class Books:
    """The operations of one connection. Not thread-safe: the queue runs one batch at a time."""

    def __init__(self, db: apsw.Connection, clock: Callable[[], float], owners: Owners, *, is_idle: bool) -> None:
        self._owners, self._is_unmarked, self._reserves_unmarked = owners, True, 0
        self.log = Log(db, clock)
        self.budgets = Budgets(self.log)
        self.keys, self.remote_keys = Keys(self.log, self.budgets), RemoteKeys(self.log)
        self._holds, self._objects = Holds(self.log, owners.mine, is_idle=is_idle), Objects(self.log)
        charges = Charges(self.log, owners.mine)
        self._reserves = Reserves(self.log, self.budgets, self.keys, self._holds, self._objects, charges)
        self._closes = Closes(self.log, self._holds, self._objects, charges)
        self.is_worth_a_sync = self._reserves.is_worth_a_sync
        # The function itself: it is asked on every call.
        self.close = self._closes.close

    @property
    def is_idle(self) -> bool:
        """Whether this process surely has no reservation that it did not close."""
        return self._holds.is_idle

    def _mark(self) -> None:
        # With something open the mark stays where it was set before that; and it is set before rows that may yet be undone.
        if self._holds.is_idle or not self._owners.is_marked:
            self._owners.claim(self.log.mark()[0])
        if self._is_unmarked:
            self.doubt_the_dead()
        self._is_unmarked, self._reserves_unmarked = False, _MARKED_EVERY

    def rollback(self) -> None:
        """Undo the batch; what was remembered of it is forgotten."""
        self.budgets.forget()
        self._holds.forget()
        self._closes.forget()
        self.log.rollback()

    def reserve(self, order: Order) -> Decision:
        """Hold on all legs or on none, or grant one more attempt; a refusal leaves everything as it was."""
        if self._reserves_unmarked <= 0:
            self._mark()
        self._reserves_unmarked -= 1
        return self._reserves.reserve(order)

    def resolve(self, name: str, outcome: Outcome, by: str, reason: str, attempts: int | None) -> Receipt:
        """End a reservation in doubt from outside."""
        self.doubt_the_dead()
        return self._closes.resolve(name, outcome, by, reason, attempts)

    def doubt_the_dead(self) -> None:
        """Put in doubt what ended processes had reserved and not closed."""
        self._closes.doubt_the_dead(self._owners)

    def forget_the_dead(self) -> None:
        """Remove the marks of ended processes, once what they left is committed."""
        self._closes.forget_the_dead(self._owners)

    # -- reading ----------------------------------------------------------------------------------

    def doubts(self, scope: str | None, kind: Question) -> list[Doubt]:
        """Return what the vendor can be asked about, as it is now that some processes have ended."""
        self.doubt_the_dead()
        self._closes.forget_presumed()
        return doubts(self.log, scope, kind)

    def claimed(self, vendor: str, account: str, names: Collection[str]) -> frozenset[str]:
        """Return which of these objects a reservation has bought."""
        return frozenset(name for name in names if self._objects.buyers(vendor, account, name))

    def recall(self, scope: str, vendor: str, account: str, object_id: str) -> Memory | None:
        """Return what is remembered of an object, by any of its names."""
        found = self._objects.find((scope, vendor, account), object_id)
        if found is None:
            return None
        open_hold = self._holds.find(found.open_id) if found.open_id else None
        return Memory(
            found.object_id, own=found.own, spent=found.total, held=open_hold.held if open_hold is not None else 0,
            amount=found.amount, refunded=found.refunded, status=found.status, currency=found.currency,
        )  # fmt: skip

    def usage(self, scope: str) -> Usage | None:
        """Return a scope's figures, as they are now that some processes have ended."""
        self.doubt_the_dead()
        return self.budgets.usage(scope)

    def runs(self, limit: int, run_id: str | None) -> list[tuple[VaultKey, Usage]]:
        """Return the latest runs' keys with their figures, newest first, behind each those of its children; or of one run."""
        self.doubt_the_dead()
        return [(key, self.budgets.usage(key.budget) or Usage(key.budget)) for key in self.keys.latest(limit, run_id)]

    def verify(self) -> list[str]:
        """Refold the log and compare it with the balances."""
        return refold(self.log.db, chained)
