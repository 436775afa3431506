"""What a fork means to the SQLite handles of a process: each puts its connection away before one. Knows no SQL and no money.

SQLite remembers, per process and by inode, which POSIX locks it has on a file. A forked child inherits that memory
but not the locks, and every connection it opens itself trusts the memory: it locks nothing. Whoever closes
last elsewhere then believes to be alone and unlinks the log that the child writes to
(https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_). So there must be no open
connection at the moment of a fork, and no thread inside SQLite, whose mutexes would stay locked in the child.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol


class Forkable(Protocol):
    """A handle that a fork concerns."""

    def before_fork(self) -> bool:
        """Put the connection away and keep everybody from it; False = could not, and nothing is kept."""
        ...

    def after_fork(self) -> None:
        """Let the parent's threads go on."""
        ...

    def forked(self) -> Any:
        """Start afresh in the child; returns what must never be closed or collected there, if anything."""
        ...


_handles: weakref.WeakSet[Forkable] = weakref.WeakSet()
# Closing, or collecting, an inherited connection would touch the parent's file.
_leaked: list[Any] = []


class _Kept(threading.local):
    """The handles that the thread which forks keeps closed meanwhile; held, so that none is collected in between."""

    def __init__(self) -> None:
        self.handles: list[Forkable] = []


_kept = _Kept()


def watch_forks(handle: Forkable) -> None:
    """Let a handle take part in every fork from now on."""
    _handles.add(handle)


def _before_fork() -> None:
    # In one order: two threads may fork at once.
    for handle in sorted(_handles, key=id):
        if handle.before_fork():
            _kept.handles.append(handle)


def _after_fork_in_parent() -> None:
    while _kept.handles:
        _kept.handles.pop().after_fork()


def _after_fork_in_child() -> None:
    _kept.handles.clear()
    for handle in tuple(_handles):
        inherited = handle.forked()
        if inherited is not None:
            _leaked.append(inherited)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
