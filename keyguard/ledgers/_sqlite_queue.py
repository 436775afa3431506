"""Group commit: callers of one process queue up, and the first leads a whole batch through one transaction. Knows no SQL."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keyguard.errors import LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_BATCH = 128


@dataclass(slots=True, eq=False)
class Job:
    """
    One operation on its way through a batch.

    Attributes:
        run: Does the work inside the transaction.
        is_durable: Its commit must be on disk before the caller goes on.
        leads: Its caller leads the next batch.
        wake: Held while the caller sleeps; made only for callers that must wait.
    """

    run: Callable[[], Any]
    is_durable: bool = False
    result: Any = None
    error: BaseException | None = None
    leads: bool = False
    wake: threading.Lock | None = None

    def rouse(self) -> None:
        """Wake the sleeping caller, if there is one."""
        if self.wake is not None and self.wake.locked():
            self.wake.release()


class Queue:
    """
    The queue of one ledger handle.

    Args:
        commit: Runs a batch of jobs in one transaction, giving each its result or error; returns the commit's number.
        sync: Makes every commit up to a number durable.
        step: Told where an operation stands: "queued" and "synced" here.
    """

    def __init__(self, commit: Callable[[list[Job]], int], sync: Callable[[int], None], step: Callable[[str], None]) -> None:
        self._commit, self._sync, self._step = commit, sync, step
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._is_led = False

    def submit(self, job: Job) -> Any:
        """Run a job in the next batch; returns its result or raises its error."""
        with self._lock:
            job.leads, self._is_led = not self._is_led, True
            if not job.leads:
                job.wake = threading.Lock()
                job.wake.acquire()
            self._waiting.append(job)
        try:
            self._step("queued")
            if job.wake is not None:
                # Woken either with the answer, or to lead.
                job.wake.acquire()
            if job.leads:
                self._lead()
        except BaseException:
            self._leave(job)
            raise
        if job.error is not None:
            raise job.error
        return job.result

    def _lead(self) -> None:
        batch: list[Job] = []
        try:
            try:
                with self._lock:
                    for _ in range(min(_BATCH, len(self._waiting))):
                        # One by one: an interrupt must find in `batch` whoever is out of the queue already.
                        batch.append(self._waiting.popleft())
                number = self._commit(batch)
            finally:
                # The next leader works while this one syncs; and whatever struck this one, somebody leads.
                self._hand_over()
            if any(job.is_durable and job.error is None for job in batch):
                self._sync(number)
            self._step("synced")
        except BaseException as error:
            _fail(batch, error)
            if not isinstance(error, LedgerUnavailable):
                raise
        finally:
            for job in batch:
                job.rouse()

    def _hand_over(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].rouse()
            else:
                self._is_led = False

    def _leave(self, job: Job) -> None:
        """Take out a caller that was interrupted: its job must not run for nobody, and its leadership goes on."""
        with self._lock:
            is_waiting = job in self._waiting
            if is_waiting:
                self._waiting.remove(job)
        if is_waiting and job.leads:
            self._hand_over()


def _fail(batch: list[Job], error: BaseException) -> None:
    """Give every job of a batch whose end is unknown an error that may be retried."""
    known = error if isinstance(error, LedgerUnavailable) else LedgerUnavailable("the ledger's writer was interrupted; try again")
    for job in batch:
        job.error = job.error or known
