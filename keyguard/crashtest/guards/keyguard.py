"""keyguard itself, as a user has it: `install()` in each process, charges under idempotency scopes, doubts that the vendor resolves."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keyguard
from keyguard import doubts
from keyguard.errors import KeyguardError, SpendCapExceeded
from keyguard.ledgers import open_ledger
from keyguard.model import to_usd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.crashtest.contract import Charge, Terms


class Guard:
    """A run with a cap; the seams guard what is sent, so `call` only says which charge it is."""

    refusals = (KeyguardError,)
    cap_errors = (SpendCapExceeded,)
    is_shared = True
    daily = clock = True

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        cap: dict[str, Any] = {"daily_usd_cap" if terms.is_daily else "run_usd_cap": to_usd(terms.cap)}
        with keyguard.run(terms.run):
            # Day caps are the policy's: one of its own for each run leaves those of others alone.
            self._installed = keyguard.install(terms.url, policy={"name": terms.run}, **cap)

    def call(self, charge: Charge, send: Callable[[], Any]) -> Any:
        """Send, as the charge that it is."""
        if not charge.is_named:
            # Bare threads belong to the only run of the process.
            return send()
        with keyguard.run(self.terms.run), keyguard.idempotency_scope(charge.name):
            return send()

    @contextmanager
    def entry(self) -> Iterator[None]:
        """Make the run's charges from the first one on."""
        with keyguard.run(self.terms.run, replay=True):
            yield

    def spent(self) -> int:
        """Return spent, held and in doubt."""
        usage = self._installed.usage()
        return usage.spent + usage.held + usage.doubt

    def revoke(self) -> None:
        """Revoke the run's key."""
        self._installed.revoke()

    def reconcile(self) -> int:
        """Ask the vendor what became of the calls in doubt; returns how many still are."""
        doubts.reconcile(self.terms.run)
        return len(doubts.listed(self.terms.run))

    def release_rest(self, reason: str) -> None:
        """Release what is still in doubt by hand; whoever calls knows that it was not executed."""
        for doubt in doubts.listed(self.terms.run):
            doubts.release(doubt.reservation_id, reason=reason)

    def verify(self) -> list[str]:
        """Refold the log, and compare."""
        ledger = open_ledger(self.terms.url)
        try:
            return ledger.verify()
        finally:
            ledger.shut()

    def hold_store(self) -> None:
        """Take the ledger's lock as a process does that is stopped in the middle of a transaction; it ends with this process."""
        from keyguard.ledgers._sqlite_lock import ProcessLock

        path = os.path.realpath(self.terms.url.removeprefix("sqlite:///"))
        self._lock = ProcessLock(f"{path}.lock", seconds=5.0)
        self._lock.__enter__()
