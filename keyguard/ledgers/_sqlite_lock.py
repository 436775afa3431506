"""The lock that orders the writers of all processes of a machine, and the words they share. Knows no SQL and no money.

`flock(2)` is the truth: the kernel gives it up with its owner, however that one ends. It cannot be waited for with a
deadline, though, and an owner may be stopped; and asking again after a sleep leaves the lock idle for longer than a
whole transaction takes. So who finds it taken sleeps on a word of shared memory, which the owner wakes when
it lets go (futex(2)). A wake-up that is lost costs milliseconds, never the lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import sys
import time
from typing import TYPE_CHECKING

from keyguard.errors import LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

# The shared words, 64 bits each: turns taken (slept on), somebody waits, commits made, commits on disk, flushes made (slept on).
_TURN, _WAITING, _COMMITTED, _SYNCED, _FLUSHES = range(5)
_SIZE = 64
_TAKE = fcntl.LOCK_EX | fcntl.LOCK_NB
_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EINTR}
# Waking another process takes as long as several transactions, so who lets go goes on; after so many times it lets others pass.
_IN_A_ROW = 32
_NAP_SECONDS = 0.004
# The number of futex(2) by machine (Linux: arch/*/entry/syscalls and asm-generic/unistd.h); elsewhere waiters sleep and ask again.
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238} if sys.platform == "linux" else {}
_FUTEX_WAIT, _FUTEX_WAKE, _EVERYBODY = 0, 1, 0x7FFF_FFFF


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class ProcessLock:
    """
    A lock between processes; a context manager. Within one process only one thread may hold it, and one flush, at a time.

    Args:
        path: Its file, made if need be.
        seconds: How long to wait.
        monotonic: Seconds of a clock that never goes back.

    Attributes:
        since: When the wait of who has the lock, or is to have it, began; 0 = he did not wait.
    """

    def __init__(self, path: str, *, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path, self.seconds, self._monotonic = path, seconds, monotonic
        self._passed, self.since = 0, 0.0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < _SIZE:
            os.ftruncate(self._fd, _SIZE)
        self._shared = _mapped(path)
        self._words = memoryview(self._shared).cast("Q")
        self._turn, self._flushes = _Signal(self._shared, _TURN), _Signal(self._shared, _FLUSHES)

    @property
    def committed(self) -> int:
        """How many commits were counted."""
        return self._words[_COMMITTED]

    def count_commit(self) -> int:
        """Count a commit, under the lock; returns its number. One whose process was killed before this line is nobody's to wait for."""
        number = self._words[_COMMITTED] = self._words[_COMMITTED] + 1
        return number

    def flushed(self, number: int, flush: Callable[[], None]) -> None:
        """
        Return when every commit up to a number is on disk: one process flushes at a time, for all who wait.

        Raises:
            BaseException: what this process's own `flush` raised.
        """
        deadline = self._monotonic() + self.seconds
        words = self._words
        while words[_SYNCED] < number:
            seen = self._flushes.value
            # A record lock, beside the other's flock on the same file. An owner that is stopped must not keep others from the disk.
            if not self._try_flush_turn() and self._monotonic() < deadline:
                self._flushes.wait(seen)
                continue
            try:
                # Read before the flush begins: a commit during it may miss it.
                covers = words[_COMMITTED]
                if words[_SYNCED] < number:
                    flush()
                    # Two processes may set it at once: a lower number only costs a flush more.
                    words[_SYNCED] = max(words[_SYNCED], covers)
            finally:
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._fd, fcntl.LOCK_UN)
                self._flushes.wake(_EVERYBODY)

    def _try_flush_turn(self) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Where nobody can say whose turn it is, everybody flushes for himself.
            return error.errno not in {*_TAKEN, errno.EACCES}
        return True

    def awaited(self, since: float) -> ProcessLock:
        """Return the lock, to be entered by who began to wait for his turn before."""
        self.since = since
        return self

    def __enter__(self) -> None:
        if self._passed >= _IN_A_ROW:
            self._wait(self._turn.value)
            return
        try:
            fcntl.flock(self._fd, _TAKE)
        except OSError:
            self._wait(None)

    def __exit__(self, *_: object) -> None:
        self.since = 0.0
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        if self._words[_WAITING]:
            self._words[_WAITING] = 0
            self._turn.wake(1)
            self._passed += 1
        elif self._passed:
            self._passed += 1

    def let_go(self) -> None:
        """Give the lock up, if we have it, and wake nobody: who waits looks again by himself."""
        self.since = 0.0
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close our descriptor: gives the lock up, except in a forked child, where it belongs to the parent still."""
        os.close(self._fd)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, _TAKE)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise LedgerUnavailable(f"the ledger's lock {self._path} cannot be taken: {error.strerror}") from error
        return True

    def _wait(self, turn: int | None) -> None:
        """Wait until woken; with a turn, for at least that one to pass."""
        self.since = self.since or self._monotonic()
        deadline = self.since + self.seconds
        self._passed = 0
        words = self._words
        while True:
            words[_WAITING] = 1
            if turn is None:
                turn = self._turn.value
                # Once more: who held it may have looked for waiters just before.
                if self._try():
                    break
            self._turn.wait(turn)
            turn = None
            if self._try():
                break
            if self._monotonic() > deadline:
                self.since = 0.0
                raise LedgerUnavailable(
                    f"the ledger is busy: another process has held its lock {self._path} for {self.seconds:g} s. "
                    "Is one of them stopped (SIGSTOP, a debugger)?"
                )
        # Others may still wait: wake one of them in turn.
        words[_WAITING] = 1


def _mapped(path: str) -> mmap.mmap:
    # By a descriptor of its own, of which mmap keeps a copy: a copy of the lock's would go on holding it in a forked child.
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, _SIZE)
    finally:
        os.close(fd)


class _Signal:
    """A word of shared memory that processes sleep on until another one wakes them (futex(2)); where there is none, they nap."""

    def __init__(self, shared: mmap.mmap, index: int) -> None:
        self._word = ctypes.c_uint32.from_buffer(shared, index * 8)
        number = _FUTEX.get(platform.machine())
        # By ctypes, because Python has no other door to it.
        self._call = None if number is None else ctypes.CDLL(None).syscall
        self._first, self._where = ctypes.c_long(number or 0), ctypes.byref(self._word)
        seconds, rest = divmod(_NAP_SECONDS, 1)
        self._nap = ctypes.byref(_Timespec(int(seconds), int(rest * 1e9)))

    @property
    def value(self) -> int:
        """What to compare with in `wait`."""
        return self._word.value

    def wait(self, seen: int) -> None:
        """Sleep until woken, unless the word has changed since it was seen; a few milliseconds at most."""
        if self._call is None:
            time.sleep(_NAP_SECONDS)
        else:
            self._call(self._first, self._where, _FUTEX_WAIT, ctypes.c_uint32(seen), self._nap)

    def wake(self, count: int) -> None:
        """Change the word, and wake so many of those who sleep on it, the longest sleeper first."""
        self._word.value += 1
        if self._call is not None:
            self._call(self._first, self._where, _FUTEX_WAKE, ctypes.c_uint32(count), None)
