"""The marks of the processes that hold reservations: a lock file each, which the kernel gives up with its process. Knows no money.

The marks lie beside the database file. A mark that nobody has locked is of a process that has ended, however it did; what
it had reserved and not closed is in doubt then. All of it happens under the lock between the ledger's processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import weakref
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from keyguard.errors import LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


def new_owner() -> str:
    """Name this process: host-independent, never reused."""
    return f"{os.getpid()}-{secrets.token_hex(8)}"


class Owners:
    """
    The marks beside one database file.

    Args:
        mine: This process's name in its reservations.
        path: The database file, links resolved; None = in memory, where nobody else is.
    """

    def __init__(self, mine: str, path: Path | None) -> None:
        self.mine = mine
        self._folder = None if path is None else Path(f"{path}.owners")
        self._fd = -1
        # A handle that is collected is as dead as its process.
        self._mark: weakref.finalize[[int], Owners] | None = None

    @property
    def is_marked(self) -> bool:
        """Whether this process is marked as alive."""
        return self._mark is not None

    def claim(self, since: int) -> None:
        """
        Mark this process as alive, until `leave`; again with nothing open, so that less of the log is searched when it has ended.

        Args:
            since: The log's last row: its reservations are all behind it.

        Raises:
            LedgerUnavailable: the folder cannot be written.
        """
        if self._folder is None:
            return
        try:
            if self._mark is None:
                self._folder.mkdir(exist_ok=True, mode=0o700)
                self._fd = os.open(self._folder / self.mine, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._mark = weakref.finalize(self, os.close, self._fd)
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self._fd, f"{since:020d} {_whereabouts()}".encode(), 0)
        except OSError as error:
            raise LedgerUnavailable(f"the ledger cannot mark its owner in {self._folder}: {error.strerror or error}") from error

    def dead(self) -> Iterator[tuple[str, int]]:
        """
        Yield the processes that have ended, each with the log's row behind which its reservations are.

        Raises:
            LedgerUnavailable: the folder cannot be read.
        """
        try:
            marks = [] if self._folder is None else list(self._folder.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise LedgerUnavailable(f"the ledger cannot read its owners in {self._folder}: {error.strerror or error}") from error
        for mark in marks:
            if mark.name != self.mine:
                # Locked: it lives. Gone: its process left nothing.
                with contextlib.suppress(OSError):
                    yield mark.name, _since(mark)

    def whereabouts(self, owner: str) -> str:
        """Return where a process was that left a mark: `process 4711 of host web-1, boot 5f2c0a1b`; "" where its mark does not say."""
        if self._folder is None:
            return ""
        try:
            return (self._folder / owner).read_text(encoding="utf-8").partition(" ")[2]
        except (OSError, UnicodeDecodeError):
            return ""

    def forget(self, owner: str) -> None:
        """Remove the mark of a process that has nothing open."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / owner).unlink()

    def leave(self) -> None:
        """Give up our own mark, with nothing open."""
        if self._mark is not None:
            self.forget(self.mine)
        self.leave_in_child()

    def leave_in_child(self) -> None:
        """Close a forked child's copy, which gives up nothing of the parent's."""
        if self._mark is not None:
            self._mark()
        self._mark = None


@cache
def _boot() -> str:
    """Return what tells this start of the machine from its others; "" where the system does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    return ""


def _whereabouts() -> str:
    return f"process {os.getpid()} of host {os.uname().nodename}" + (f", boot {_boot()}" if _boot() else "")


def _since(mark: Path) -> int:
    """
    Return what a dead process wrote into its mark; 0 where the power went before it was on disk.

    Raises:
        BlockingIOError: the process lives.
    """
    fd = os.open(mark, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        text = os.pread(fd, 20, 0)
    finally:
        os.close(fd)
    return int(text) if text.isdigit() else 0
