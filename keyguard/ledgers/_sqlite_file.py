"""The file under a SQLite ledger: where it may lie, who holds its lock, what is on disk. Knows nothing of money."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from keyguard.errors import LedgerUnavailable
from keyguard.ledgers._sqlite_lock import ProcessLock

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("keyguard")
# POSIX locks and shared memory are not to be trusted on these (sqlite.org/wal.html: "WAL does not work over a network filesystem").
_NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "ceph", "lustre", "glusterfs", "fuse.sshfs", "fuse.glusterfs",
    "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "afs", "gpfs", "beegfs", "drvfs", "vboxsf", "prl_fs",
}  # fmt: skip
_EPHEMERAL = {"tmpfs", "ramfs", "overlay", "overlayfs", "aufs"}
_LOCK_SECONDS = 5.0


def filesystem_of(path: Path, mountinfo: str | None = None) -> str:
    """Return the type of the file system that holds a path, "" where the system does not say."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        except OSError:
            return ""
    best, found = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split(" ")[4].replace("\\040", " ")
        if (str(path) == mount or str(path).startswith(mount.rstrip("/") + "/")) and len(mount) >= best:
            best, found = len(mount), right.split(" ")[0]
    return found


def check_place(path: Path, *, is_power: bool, kind: str | None = None) -> None:
    """
    Refuse a file system on which a ledger cannot be trusted; warn of one that forgets.

    Raises:
        LedgerUnavailable: a network file system.
    """
    kind = filesystem_of(path.resolve().parent) if kind is None else kind
    if kind in _NETWORK:
        raise LedgerUnavailable(
            f"{path} is on a network file system ({kind}), where SQLite can lose committed money. Put the ledger on a local disk "
            "(KEYGUARD_URL=sqlite:////var/lib/keyguard/ledger.db)."
        )
    if is_power and kind in _EPHEMERAL:
        _logger.warning("the ledger %s is on %s, which does not outlive the container or machine: its caps start afresh then", path, kind)


class LedgerFile:
    """
    The lock, the write-ahead log's durability, and the identity of one database file.

    Attributes:
        path: The database file.
        lock_seconds: How long to wait for another process's lock.
    """

    def __init__(self, path: Path, *, lock_seconds: float = _LOCK_SECONDS, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        # SQLite follows links and keeps its log beside the file itself; who comes by another name must meet the same lock.
        self._real = path.resolve()
        self._name = os.fspath(path)
        self.lock_seconds = lock_seconds
        self._monotonic = monotonic
        self._lock: ProcessLock | None = None
        self._wal_fd = -1
        self._identity: tuple[int, int] | None = None
        self._sync_lock = threading.Lock()
        self._is_poisoned = False

    def prepare(self) -> None:
        """
        Make folder and file, private to the user, and open the lock file.

        Raises:
            LedgerUnavailable: they cannot be made or opened.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._create()
            self._lock = ProcessLock(f"{self._real}.lock", seconds=self.lock_seconds, monotonic=self._monotonic)
            found = os.stat(self.path)
        except OSError as error:
            raise LedgerUnavailable(f"the ledger {self.path} cannot be opened: {error.strerror or error}") from error
        self._identity = (found.st_dev, found.st_ino)

    def _create(self) -> None:
        # Only when new: closing any descriptor of a database file drops all POSIX locks that this process has on it.
        # SQLite gives -wal and -shm the mode of the database file.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self.sync_folder()

    @property
    def lock(self) -> ProcessLock:
        """The lock that orders the writers of all processes."""
        assert self._lock is not None
        return self._lock

    def check_identity(self) -> None:
        """
        Make sure that the path still names the file that is open; an unlinked one takes writes without a word.

        Raises:
            LedgerUnavailable: it was replaced or unlinked.
        """
        try:
            found = os.stat(self._name)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            state = "unlinked" if found is None else "replaced"
            raise LedgerUnavailable(
                f"the ledger file {self.path} was {state} while in use: what was counted is not at that path any more. "
                "Put the file back, or start a new process to begin a new ledger on purpose."
            )

    def sync(self, number: int) -> None:
        """
        Put every commit up to `number` on disk; one sync covers all commits before it, those of other processes too.

        Raises:
            LedgerUnavailable: the disk failed. Nothing is believed durable from then on.
        """
        with self._sync_lock:
            # None: put away meanwhile, which syncs everything first; a commit's own caller may come here only afterwards.
            if self._lock is not None:
                self._lock.flushed(number, self._flush)

    def _flush(self) -> None:
        if self._is_poisoned:
            raise LedgerUnavailable(f"an earlier write of {self.path} to disk failed; restart the process after repairing the disk")
        try:
            if self._wal_fd < 0:
                self._wal_fd = os.open(f"{self._real}-wal", os.O_RDWR | os.O_CLOEXEC)
            _flush(self._wal_fd)
        except OSError as error:
            # After a failed fsync the kernel may have dropped the pages: asking again would say "fine" and be wrong.
            self._is_poisoned = True
            raise LedgerUnavailable(f"the ledger {self.path} could not be written to disk: {error.strerror or error}") from error

    def sync_folder(self) -> None:
        """Put the file's name on disk, once, after it was made."""
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Close our descriptors, when nobody syncs."""
        with self._sync_lock:
            self.close_in_child()

    def close_in_child(self) -> None:
        """Close a forked child's copies, which gives up nothing of the parent's; without the lock that a thread of it may have held."""
        if self._wal_fd >= 0:
            os.close(self._wal_fd)
        self._wal_fd = -1
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _flush(fd: int) -> None:
    if sys.platform == "darwin":
        # fsync on macOS does not reach the platter (fsync(2)).
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)
