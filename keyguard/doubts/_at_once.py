"""One doubt, asked about in the middle of a run: because the vendor answers every further request of it with an error that it keeps.

Bounded in time and number, in a thread of its own, and never an error of the caller's: he has one already. Books through `_pass.py`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from keyguard.doubts._pass import Pass, asking, counting
from keyguard.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from keyguard.doubts._asking import Questions
    from keyguard.ledgers import Ledger

    Questioning: TypeAlias = Callable[[str, Callable[[], float]], Questions]

_logger = logging.getLogger("keyguard")
SECONDS = 5.0
# A retry loop comes back after seconds, and what the vendor shows changes in minutes.
_PAUSE_SECONDS = 15.0
_AT_ONCE = 4
_KEPT = 1000


class Asker:
    """
    Asks about single doubts: about each of them once in some seconds, and about a few at a time.

    Args:
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.renew()

    def renew(self) -> None:
        """Start afresh: in a forked child nobody asks for the parent any more."""
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, str], float] = {}
        self._running = 0

    def ask(self, ledger: Ledger, reservation_id: str, questions: Questioning | None = None) -> None:
        """
        Ask, and wait for the answer for some seconds at most; what is not known by then stays in doubt.

        `questions` are as of `resolve`.
        """
        if not self._begun((ledger.url, reservation_id)):
            return
        thread = threading.Thread(target=self._ask, args=(ledger, reservation_id, questions), name="keyguard-reconcile", daemon=True)
        thread.start()
        # Elsewhere, so that what is injected into the caller's thread meanwhile (a task's timeout) strikes here, and is his own.
        thread.join(SECONDS)

    def _begun(self, name: tuple[str, str]) -> bool:
        with self._lock:
            now = self._monotonic()
            if self._running >= _AT_ONCE or now - self._asked.get(name, float("-inf")) < _PAUSE_SECONDS:
                return False
            if len(self._asked) >= _KEPT:
                self._asked.clear()
            self._asked[name] = now
            self._running += 1
            return True

    def _ask(self, ledger: Ledger, reservation_id: str, questions: Questioning | None) -> None:
        try:
            resolve(ledger, reservation_id, self._monotonic() + SECONDS, self._monotonic, questions)
        except Exception as error:
            _logger.warning("reservation %s stays in doubt: the vendor could not be asked about it now (%s)", reservation_id, error)
        finally:
            with self._lock:
                self._running -= 1


def resolve(
    ledger: Ledger,
    reservation_id: str,
    deadline: float,
    monotonic: Callable[[], float] = time.monotonic,
    questions: Questioning | None = None,
) -> None:
    """
    Ask about one doubt, and book what is shown.

    Args:
        ledger: Whose doubt it is.
        reservation_id: Its id.
        deadline: When nothing is asked any more, by `monotonic`.
        monotonic: Seconds of a clock that never goes back.
        questions: Returns those of one pass, from the vendor's name and the function that says how many seconds are left; None = by the
            environment's settings and secrets.

    Raises:
        ConfigurationError: a setting that cannot be read.
        LedgerUnavailable: the ledger cannot be read or written.
    """
    wanted = [doubt for doubt in ledger.doubts() if doubt.reservation_id == reservation_id]
    settings = load_settings()
    if not wanted:
        return

    def left() -> float:
        return deadline - monotonic()

    found = asking(ledger, settings, left) if questions is None else questions(wanted[0].vendor, left)
    with counting(settings), found as asked:
        for answer in Pass(ledger, asked, "reconcile", is_dry=False, now=ledger.now()).resolved(wanted):
            _logger.warning(
                "%s keeps an error as its answer to %s (reservation %s), so it was asked what became of it: %s (%s)",
                answer.doubt.vendor, answer.doubt.operation, reservation_id, answer.ending, answer.words,
            )  # fmt: skip


asker = Asker()
os.register_at_fork(after_in_child=asker.renew)
