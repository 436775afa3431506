"""Guards with one defect each, planted by what an adapter can do; the crash test has to find it."""

from __future__ import annotations

import itertools
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import apsw

from keyguard import doubts
from keyguard.crashtest.guards.keyguard import Guard
from keyguard.errors import SpendCapExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.crashtest.contract import Charge, Terms


class FreesOnTimeout(Guard):
    """Whatever failed is taken for not done, as ten of thirteen libraries do."""

    def call(self, charge: Charge, send: Callable[[], Any]) -> Any:
        """Send, and release what failed."""
        try:
            return super().call(charge, send)
        except self.refusals:
            raise
        except Exception:
            self.release_rest("it failed")
            raise


class OneLedgerEach(Guard):
    """Each process counts for itself."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(replace(terms, url=f"sqlite:///{terms.folder}/{os.getpid()}.db"))


class Stingy(Guard):
    """Refuses when half of the cap is spent."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(replace(terms, cap=terms.cap // 2))


class Nervous(Guard):
    """Refuses the third call for want of money that is there; whoever looks only at the end sees a cap that was used up."""

    calls = itertools.count(1)

    def call(self, charge: Charge, send: Callable[[], Any]) -> Any:
        """Send, or do not dare to."""
        if next(self.calls) == 3:
            raise SpendCapExceeded("better not")
        return super().call(charge, send)


class Honest(Nervous):
    """Refuses it, and says in so many figures that there was room."""

    def call(self, charge: Charge, send: Callable[[], Any]) -> Any:
        """Send, or give the figures."""
        try:
            return super().call(charge, send)
        except SpendCapExceeded as refused:
            if refused.cap is None:
                raise SpendCapExceeded("better not", remaining=charge.amount, requested=charge.amount) from None
            raise


class Deaf(Guard):
    """Does not revoke."""

    def revoke(self) -> None:
        """Do nothing."""


class Forger(Guard):
    """Changes the log behind the ledger's back."""

    def verify(self) -> list[str]:
        """Make a row of the log say less, then verify."""
        with apsw.Connection(self.terms.url.removeprefix("sqlite:///")) as db:
            db.set_busy_timeout(5000)
            triggers = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
            for name in triggers:
                db.execute(f"DROP TRIGGER {name}")
            db.execute("UPDATE entries SET spent = spent - 1 WHERE seq = (SELECT max(seq) FROM entries WHERE spent > 0)")
        return super().verify()


class Optimist(Guard):
    """Settles doubts by hand as not done, instead of asking the vendor."""

    def reconcile(self) -> int:
        """Release everything."""
        self.release_rest("surely not")
        return len(doubts.listed(self.terms.run))


class Crashes(Guard):
    """Ends its process in the first call."""

    def call(self, charge: Charge, send: Callable[[], Any]) -> Any:
        """End."""
        os._exit(3)


class CountsRefusals:
    """A counter in memory, which is right but that it counts what it refuses."""

    class Refused(Exception):
        """Raised instead of sending."""

    refusals: ClassVar[tuple[type[BaseException], ...]] = (Refused,)
    is_shared = False

    def __init__(self, terms: Terms) -> None:
        self._cap, self._spent, self._lock = terms.cap, 0, threading.Lock()

    def call(self, charge: Charge, send: Callable[[], Any]) -> Any:
        """Count, then look."""
        with self._lock:
            self._spent += charge.amount
            if self._spent > self._cap:
                raise self.Refused
        return send()

    def spent(self) -> int:
        """Return what was counted."""
        return self._spent
