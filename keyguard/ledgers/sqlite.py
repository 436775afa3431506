"""The embedded default ledger: one SQLite file, shared by all processes of a machine; `sqlite://` alone is in memory.

What is booked is `_sqlite_books.py`, the file is `_sqlite_file.py`, what a connection finds in it `_sqlite_schema.py`, the
batches are `_sqlite_queue.py`; this file is the connection and the handle's public methods.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import apsw

from keyguard.errors import ConfigurationError, KeyguardError, LedgerUnavailable
from keyguard.ledgers._sqlite_books import Books
from keyguard.ledgers._sqlite_file import LedgerFile, check_place
from keyguard.ledgers._sqlite_fork import watch_forks
from keyguard.ledgers._sqlite_log import LogMoved
from keyguard.ledgers._sqlite_owners import Owners, new_owner
from keyguard.ledgers._sqlite_queue import Job, Queue
from keyguard.ledgers._sqlite_schema import is_of_ledger, migrations, set_up, unavailable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterator

    from keyguard.ledgers import Durability, Question
    from keyguard.ledgers._sqlite_lock import ProcessLock
    from keyguard.ledgers._sqlite_queue import Gather
    from keyguard.model import Child, Closing, Decision, Doubt, Memory, Money, Order, Outcome, Policy, Receipt, Usage, VaultKey
    from keyguard.remote import RemoteKey

_T = TypeVar("_T")
_logger = logging.getLogger("keyguard")
_BUSY_MS = 5000
_PAGE = 1000
# An in-memory ledger has no other process.
_nobody_else = contextlib.nullcontext()


def open_url(url: str, *, durability: Durability = "power", clock: Callable[[], float] | None = None) -> SqliteLedger:
    """
    Open `sqlite:///relative.db`, `sqlite:////absolute.db`, or `sqlite://` in memory.

    Raises:
        ConfigurationError: a URL of another form.
        LedgerUnavailable: the file cannot be opened, is no ledger, or was written by a newer version.
    """
    rest = url.removeprefix("sqlite://")
    if rest and (not rest.startswith("/") or rest == "/" or "?" in rest):
        raise ConfigurationError(f"expected sqlite:///relative.db, sqlite:////absolute.db or sqlite:// (in memory), got {url!r}")
    return SqliteLedger(rest[1:] or None, durability=durability, clock=clock or time.time)


class SqliteLedger:
    """
    A handle on one ledger; see `keyguard.ledgers` for what its methods promise.

    Args:
        path: The database file, `~` expanded; None = in memory, for this process only.
        durability: `power`: reserve, issue, revoke and cap changes are on disk when they return; `process`: they survive a killed process.
        clock: POSIX seconds; what the ledger stores never goes back even if the clock does.
        on_step: Told where an operation stands: "queued", "locked", "begun", "written", "committed", "unlocked", "synced", "answered".
        steps: The schema's migrations by version.
        lock_seconds: How long a caller waits for others, of this process and of all others, before it is told that the ledger is locked.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        durability: Durability = "power",
        clock: Callable[[], float] = time.time,
        on_step: Callable[[str], None] | None = None,
        steps: dict[int, str] | None = None,
        lock_seconds: float = 5.0,
    ) -> None:
        self._path = None if path is None else Path(path).expanduser().absolute()
        self.url = "sqlite://" if self._path is None else f"sqlite:///{self._path}"
        self._durability = durability
        self._clock = clock
        self._step: Callable[[str], None] = on_step or _no_step
        self._migrations = steps or migrations()
        self._lock_seconds = lock_seconds
        self._begin()
        # Before the connection is made: another thread may fork meanwhile.
        watch_forks(self)
        self._connected()

    def __repr__(self) -> str:
        return f"<SqliteLedger {self.url} durability={self._durability}>"

    def _begin(self) -> None:
        """Set everything that a process has of its own: at the start, and again in a forked child."""
        self._open_lock = threading.Lock()
        # A batch and `shut` exclude each other; always taken before `_open_lock`.
        self._work_lock = threading.Lock()
        self._queue = Queue(self._commit, self._sync, self._step)
        self._db: apsw.Connection | None = None
        self._file: LedgerFile | None = None
        # The file's, under which no other keyguard process writes or checkpoints.
        self._file_lock: ProcessLock | None = None
        self._books: Books | None = None
        self._committed, self._is_hurried = -1, False
        self._owners = Owners(new_owner(), None if self._path is None else self._path.resolve())
        # Whether this process had nothing open when it last put the file away.
        self._is_idle = True
        self._orphaned = ""

    # -- opening ----------------------------------------------------------------------------------

    def _connected(self) -> Books:
        books = self._books
        if books is not None:
            return books
        with self._open_lock:
            if self._books is None:
                self._open()
            assert self._books is not None
            return self._books

    def _open(self) -> None:
        if self._orphaned:
            raise LedgerUnavailable(self._orphaned)
        try:
            self._open_file()
            db = apsw.Connection(":memory:" if self._path is None else str(self._path))
            # First of all: opening a WAL file can itself find it busy.
            db.set_busy_timeout(_BUSY_MS)
            self._db = db
            with self._file_lock or _nobody_else:
                set_up(db, self._path, self._migrations, self._step)
        except (apsw.Error, OSError) as error:
            self._drop()
            raise self._unavailable(error) from error
        except BaseException:
            self._drop()
            raise
        self._hurry(0)
        self._books = Books(db, self._clock, self._owners, is_idle=self._is_idle)

    def _open_file(self) -> None:
        if self._path is None:
            return
        self._file = LedgerFile(self._path, lock_seconds=self._lock_seconds)
        check_place(self._path, is_power=self._durability == "power")
        self._file.prepare()
        self._file_lock = self._file.lock

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
        if self._file is not None:
            self._file.close()
        self._db = self._file = self._file_lock = self._books = None

    def shut(self) -> None:
        """Release connection and descriptors; the next use opens them again. In memory there is nothing to come back to."""
        with self._work_lock, self._open_lock:
            self._put_away()

    def _put_away(self) -> None:
        if self._file is not None and self._books is not None:
            if self._is_power:
                # A caller may still wait for its own sync, which then finds no file; a failing disk keeps the handle, poisoned.
                self._file.sync(self._committed)
            # Closing the last connection checkpoints: under the lock, like every write.
            with self._file_lock or _nobody_else:
                if self._db is not None:
                    self._db.close()
                self._is_idle = self._books.is_idle
                if self._is_idle:
                    # With something open the mark stays: whoever is asked for it lives.
                    self._owners.leave()
            self._drop()

    # -- forks (keyguard.ledgers._sqlite_fork) ------------------------------------------------------

    def before_fork(self) -> bool:
        """Finish the batch that runs, close the connection, and let nobody open it; says whether `after_fork` must follow."""
        patience = self._lock_seconds + _BUSY_MS / 1000
        if not self._work_lock.acquire(timeout=patience):
            return False
        if not self._open_lock.acquire(timeout=patience):
            self._work_lock.release()
            return False
        try:
            self._put_away()
        except (apsw.Error, OSError, LedgerUnavailable) as error:
            _logger.warning("the ledger could not be put away before a fork, so the child cannot use it: %s", error)
        return True

    def after_fork(self) -> None:
        """Let the parent go on."""
        self._open_lock.release()
        self._work_lock.release()

    def forked(self) -> Any:
        """Start afresh in the child; returns what must never be closed or collected there."""
        inherited, orphaned = None if self._db is None else (self._db, self._books), ""
        if self._path is None:
            orphaned = "an in-memory ledger cannot be shared with a forked process; use a file: sqlite:///path"
        elif self._db is not None:
            orphaned = (
                f"this process was forked while the ledger {self._path} was in use and could not be closed first, so it cannot be used "
                "here: fork outside a ledger operation, or start a new process"
            )
        if self._file is not None:
            self._file.close_in_child()
        self._owners.leave_in_child()
        self._begin()
        self._orphaned = orphaned
        return inherited

    # -- batches ----------------------------------------------------------------------------------

    def _run(self, work: Callable[[Books], _T], *, durable: bool = False, checked: bool = True) -> _T:
        result: _T = self._queue.submit(Job(self._worked, (work, checked), is_durable=durable and self._is_power))
        self._step("answered")
        return result

    def _worked(self, job: Job) -> Any:
        work, checked = job.asked
        return work(self._books_of(checked=checked))

    def _books_of(self, *, checked: bool) -> Books:
        """Return the books for a job of a batch: looked up when it runs, because a `shut` may come before it."""
        books = self._books or self._connected()
        if checked and self._file is not None:
            self._file.check_identity()
        return books

    @property
    def _is_power(self) -> bool:
        return self._durability == "power" and self._path is not None

    def _commit(self, batch: list[Job], gather: Gather) -> int:
        """Run a batch in one transaction; a job that fails halfway makes each job of the batch run again on its own."""
        with self._work_lock:
            if self._books is None:
                self._connected()
            try:
                self._transact_alone(batch, gather)
            except LedgerUnavailable:
                raise
            except Exception as error:
                if not is_of_ledger(error):
                    # As an interrupt: whoever was struck sees it, and no ledger's error in its place.
                    raise
                if len(batch) == 1:
                    raise self._unavailable(error) from error
                self._one_by_one(batch)
            number = self._committed
        self._step("unlocked")
        return number

    def _one_by_one(self, batch: list[Job]) -> None:
        for job in batch:
            job.result = job.error = None
            try:
                self._transact_alone([job], _nobody_more)
            except LedgerUnavailable as error:
                job.error = error
            except Exception as error:
                if not is_of_ledger(error):
                    raise
                job.error = self._unavailable(error)
                job.error.__cause__ = error

    def _transact_alone(self, batch: list[Job], gather: Gather) -> None:
        lock, since = self._file_lock, batch[0].since
        try:
            with lock.awaited(since) if since and lock is not None else lock or _nobody_else:
                if lock is not None and (lock.since or self._is_hurried):
                    self._hurry(lock.since)
                try:
                    self._transact(batch, gather, lock, is_known=lock is None or lock.committed == self._committed)
                except LogMoved:
                    self._transact(batch, gather, lock, is_known=False)
        except BaseException:
            # One that was injected may strike where the lock is had already, or still: others would wait until we come again.
            if lock is not None:
                lock.let_go()
            raise

    def _hurry(self, since: float) -> None:
        """Let the engine wait for a foreign lock no longer than is left to who waits for his turn since then; 0 = he did not wait."""
        self._is_hurried = bool(since)
        left = self._lock_seconds + (since - time.monotonic() if since else 0)
        if self._db is not None:
            self._db.set_busy_timeout(max(0, int(left * 1000)))

    def _transact(self, batch: list[Job], gather: Gather, lock: ProcessLock | None, *, is_known: bool) -> None:
        self._step("locked")
        books = self._books or self._connected()
        try:
            # Inside: an interrupt just after BEGIN must not leave the file locked for everybody.
            books.log.begin(is_known=is_known)
            gather(batch)
            self._step("begun")
            for job in batch:
                try:
                    job.result = job.run(job)
                except KeyguardError as error:
                    # A job checks what was asked before it writes, so this one wrote nothing.
                    job.error = error
            self._step("written")
            books.log.commit()
        except BaseException:
            books.rollback()
            raise
        if lock is not None:
            self._committed = lock.count_commit()
        books.forget_the_dead()
        self._step("committed")

    def _sync(self, number: int) -> None:
        # None after a `shut`, which synced everything committed before it.
        file = self._file
        if file is not None:
            file.sync(number)

    def _unavailable(self, error: BaseException) -> LedgerUnavailable:
        return unavailable(error, self._path)

    # -- the contract -----------------------------------------------------------------------------

    def issue(self, policy: Policy, run_id: str | None, child: Child | None = None) -> tuple[VaultKey, tuple[str, ...]]:
        """Return the run's or the child's key, made now or found again, and warnings."""
        return self._run(lambda books: books.keys.issue(policy, run_id, child), durable=True)

    def key(
        self, *, token: str | None = None, key_id: str | None = None, run_id: str | None = None, minted: str | None = None
    ) -> VaultKey | None:
        """Return a key by one of its names."""
        if minted is not None:
            return self._run(lambda books: books.keys.minted(minted))
        return self._run(lambda books: books.keys.find(token=token, key_id=key_id, run_id=run_id))

    def mint(self, key_id: str, *, by: str) -> str:
        """Make a further token of a key; durable when it returns."""
        return self._run(lambda books: books.keys.mint(key_id, by), durable=True)

    def keep_remote(self, key_id: str, remote: RemoteKey, *, instead: str = "") -> RemoteKey:
        """Keep a proxy's key; durable when it returns."""
        return self._run(lambda books: books.remote_keys.keep(key_id, remote, instead), durable=True)

    def remote_keys(self, *, key_id: str | None = None, run_id: str | None = None, policy: str | None = None) -> list[RemoteKey]:
        """Return the proxies' keys of a key, a run or a policy."""
        return self._run(lambda books: books.remote_keys.of(key_id, run_id, policy))

    def revoke(
        self,
        *,
        key_id: str | None = None,
        run_id: str | None = None,
        policy: str | None = None,
        label: str | None = None,
        state: Literal["revoked", "closed"] = "revoked",
        by: str = "",
    ) -> int:
        """Revoke keys; durable when it returns."""
        return self._run(lambda books: books.keys.revoke(key_id, run_id, policy, label, state, by), durable=True)

    def raise_cap(self, run_id: str | None, cap: Money, *, by: str, key_id: str | None = None) -> VaultKey:
        """Set the cap of a run, or of a key, by a human's decision."""
        return self._run(lambda books: books.keys.raise_cap(run_id, cap, by, key_id), durable=True)

    def reserve(self, order: Order) -> Decision:
        """Hold money on all legs or on none."""
        decision: Decision = self._queue.submit(Job(self._reserved, order))
        self._step("answered")
        return decision

    def _reserved(self, job: Job) -> Decision:
        books = self._books_of(checked=True)
        decision = books.reserve(job.asked)
        # A refusal, or a hold of nothing, can be lost without losing money.
        job.is_durable = self._is_power and books.is_worth_a_sync(job.asked, decision)
        return decision

    def close(self, closing: Closing) -> Receipt:
        """Book how a reservation ended; lazily durable, because an unsettled hold counts in full."""
        receipt: Receipt = self._queue.submit(Job(self._closed, closing))
        self._step("answered")
        return receipt

    def _closed(self, job: Job) -> Receipt:
        # Unchecked: nothing is decided, and whoever reserves next finds out that the file is gone.
        return self._books_of(checked=False).close(job.asked)

    def resolve(self, reservation_id: str, outcome: Outcome, *, by: str, reason: str, attempts: int | None = None) -> Receipt:
        """End a reservation in doubt from outside; durable when it returns."""
        return self._run(lambda books: books.resolve(reservation_id, outcome, by, reason, attempts), durable=True)

    def doubts(self, scope: str | None = None, *, kind: Question = "doubt") -> list[Doubt]:
        """Return what the vendor can be asked about, oldest first."""
        return self._run(lambda books: books.doubts(scope, kind))

    def claimed(self, vendor: str, account: str, object_ids: Collection[str]) -> frozenset[str]:
        """Return which of these vendor objects a reservation of any scope has bought."""
        return self._run(lambda books: books.claimed(vendor, account, object_ids))

    def refuse(self, order: Order, reason: str) -> None:
        """Audit a refusal."""
        self._run(lambda books: books.log.refuse(order, reason, {}))

    def recall(self, scope: str, vendor: str, account: str, object_id: str) -> Memory | None:
        """Return what is remembered of a vendor object."""
        return self._run(lambda books: books.recall(scope, vendor, account, object_id))

    def usage(self, scope: str) -> Usage | None:
        """Return a budget's figures."""
        return self._run(lambda books: books.usage(scope))

    def runs(self, limit: int = 50, *, run_id: str | None = None) -> list[tuple[VaultKey, Usage]]:
        """Return the latest keys with their figures."""
        return self._run(lambda books: books.runs(limit, run_id))

    def entries(self, scope: str | None = None, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the log, oldest first."""
        while page := self._run(partial(_page, scope=scope, after=after)):
            yield from page
            after = page[-1]["seq"]

    def verify(self) -> list[str]:
        """Refold the log and compare."""
        return self._run(lambda books: books.verify())

    def now(self) -> float:
        """Return the ledger's clock."""
        return self._run(lambda books: books.log.at)


def _page(books: Books, *, scope: str | None, after: int) -> list[dict[str, Any]]:
    return books.log.page(scope, after, _PAGE)


def _no_step(_name: str) -> None:
    """Be told, and do nothing."""


def _nobody_more(_batch: list[Job]) -> None:
    """Take nobody in: a batch that is run again has all of its jobs."""
