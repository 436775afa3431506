"""Group commit: callers of one process queue up, and the first leads a whole batch through one transaction. Knows no SQL."""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from keyguard.errors import LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Gather: TypeAlias = "Callable[[list[Job]], None]"

_BATCH = 128
_PENDING = object()
_INTERRUPTED = "the ledger's writer was interrupted; try again"


class Job:
    """
    One operation on its way through a batch.

    Attributes:
        run: Does the work inside the transaction; told its job, so that it need not hold it (a cycle keeps what the caller sent alive).
        asked: What it is to be done with.
        is_durable: Its commit must be on disk before the caller goes on.
        since: When its caller began to wait, by `time.monotonic`; 0 = it did not.
        leads: Its caller leads the next batch.
        batch: The jobs that its caller took out of the queue to lead.
        wake: Held while the caller sleeps; made only for callers that must wait.
    """

    __slots__ = ("asked", "batch", "error", "is_durable", "leads", "result", "run", "since", "wake")

    def __init__(self, run: Callable[[Job], Any], asked: Any = None, *, is_durable: bool = False) -> None:
        self.run, self.asked = run, asked
        self.is_durable = is_durable
        self.leads = False
        self.since = 0.0
        self.result: Any = _PENDING
        self.error: BaseException | None = None
        self.batch: list[Job] = []
        self.wake: threading.Lock | None = None

    def rouse(self) -> None:
        """Wake the sleeping caller, if there is one."""
        if self.wake is not None and self.wake.locked():
            self.wake.release()


class Queue:
    """
    The queue of one ledger handle.

    Args:
        commit: Runs a batch of jobs in one transaction, giving each its result or error; returns the commit's number. Told how to take
            in those who wait, once it has what it must wait for: who waits in the queue meanwhile waits for no more than his own time.
        sync: Makes every commit up to a number durable.
        step: Told where an operation stands: "queued" and "synced" here.
    """

    def __init__(self, commit: Callable[[list[Job], Gather], int], sync: Callable[[int], None], step: Callable[[str], None]) -> None:
        self._commit, self._sync, self._step = commit, sync, step
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._is_led = False

    def submit(self, job: Job) -> Any:
        """Run a job in the next batch; returns its result or raises its error."""
        try:
            with self._lock:
                if self._is_led:
                    wake = threading.Lock()
                    wake.acquire()
                    job.wake, job.since = wake, time.monotonic()
                    self._waiting.append(job)
                else:
                    job.leads = self._is_led = True
                    job.batch.append(job)
            self._step("queued")
            if job.wake is not None:
                # Woken either with the answer, or to lead.
                job.wake.acquire()
            if job.leads:
                self._lead(job)
        except BaseException as error:
            # Everything from the first line on: a caller that is lost while it leads would leave the others waiting for ever.
            self._leave(job, error)
            raise
        if job.error is not None:
            raise job.error
        if job.result is _PENDING:
            raise LedgerUnavailable(_INTERRUPTED)
        return job.result

    def _lead(self, leader: Job) -> None:
        batch = leader.batch
        try:
            if not batch:
                self._take(leader)
            try:
                number = self._commit(batch, self._gather)
            finally:
                # The next leader works while this one syncs.
                self._hand_over(leader)
            for job in batch:
                if job.is_durable and job.error is None:
                    self._sync(number)
                    break
            self._step("synced")
        except LedgerUnavailable as error:
            _fail(batch, error)
        for job in batch:
            if job is not leader:
                job.rouse()
        # The leader is in its own batch: without this, memory would wait for the garbage collector.
        batch.clear()

    def _take(self, leader: Job) -> None:
        """Take a leader out of the queue that was promoted while it waited there itself."""
        with self._lock:
            # An interrupt must find in `batch` whoever is out of the queue already.
            leader.batch.append(leader)
            self._waiting.remove(leader)

    def _gather(self, batch: list[Job]) -> None:
        """Take who waits into a batch."""
        if not self._waiting:
            return
        with self._lock:
            taken = list(islice(self._waiting, _BATCH - len(batch)))
            # As in `_take`.
            batch.extend(taken)
            for _ in taken:
                self._waiting.popleft()

    def _hand_over(self, leader: Job) -> None:
        with self._lock:
            if self._waiting:
                heir = self._waiting[0]
                heir.leads = True
                heir.rouse()
            else:
                self._is_led = False
            # Last: struck before this, the leader hands over once more, which does no harm; never would.
            leader.leads = False

    def _leave(self, job: Job, error: BaseException) -> None:
        """Clear up after a caller that was interrupted: its job must not run for nobody, its leadership goes on, its batch is told."""
        with self._lock:
            for gone in (job, *job.batch):
                if gone in self._waiting:
                    self._waiting.remove(gone)
        if job.leads:
            self._hand_over(job)
        _fail(job.batch, error)
        for other in job.batch:
            other.rouse()


def _fail(batch: list[Job], error: BaseException) -> None:
    """Give every job of a batch whose end is unknown an error that may be retried."""
    known = error if isinstance(error, LedgerUnavailable) else LedgerUnavailable(_INTERRUPTED)
    for job in batch:
        job.error = job.error or known
