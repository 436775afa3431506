"""The one thread of a process that watches its Prefect runs: when to look, when to ask the API, when to rest. Judges nothing."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

from keyguard import context
from keyguard.prefect.states import Asker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.prefect.states import Source, State

_log = logging.getLogger("keyguard")
# Seconds between two looks at this process, which cost some microseconds each.
_LOOK_SECONDS = 0.1
# Seconds for which the thread stays when no run is at work: in a pool's child one task comes after the other.
_LINGER_SECONDS = 10.0
# The longest rest between two requests that fail, or take long, seconds.
_BACK_OFF_SECONDS = 10.0
# The rest after an answer, in times that it took: an API that answers in 10 ms is asked once a second, a slow one less often.
_REST = 20.0
# Seconds that `end` waits for a request under way; the thread ends by itself after it.
_ENDING_SECONDS = 2.0


class Watched(Protocol):
    """What the thread serves."""

    def look(self) -> set[str]:
        """Look at this process; returns the flow runs to ask about."""
        ...

    def learn(self, asked: set[str], states: Mapping[str, State]) -> None:
        """Take over an answer."""
        ...


class Poller:
    """
    Looks ten times a second, and asks once a period (`context.state_poll`), while any run is at work in this process.

    The first request is made a period after the first call, so that short runs cause none. While the API does not answer, it is asked
    less and less often; one that answers slowly is asked so seldom that it answers us for a twentieth of the time at most.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._told = threading.Event()
        self._source: Source | None = None
        self._asker: Asker | None = None
        self._next = 0.0
        self._failures = 0

    def begin(self, source: Source | None) -> None:
        """Watch, if it is wanted; a run was met, whose states are at `source`."""
        if not context.state_poll():
            return
        with self._lock:
            self._source = source or self._source
            if self._thread is None:
                # What is overdue stays so: the runs of a pool's child may each be shorter than a period.
                self._next = self._next or time.monotonic() + _period()
                self._told = threading.Event()
                self._thread = threading.Thread(target=self._run, args=(self._told,), name="keyguard-prefect-states", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """Let the thread end, and forget."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._source, self._next, self._failures = None, 0.0, 0
            self._told.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_ENDING_SECONDS)

    def _run(self, told: threading.Event) -> None:
        worked = time.monotonic()
        with context.own_traffic():
            while not told.wait(_LOOK_SECONDS):
                alive, now = self._watched.look(), time.monotonic()
                if alive:
                    worked = now
                    if now >= self._next:
                        self._next = now + self._ask(alive, told)
                elif now - worked > _LINGER_SECONDS and self._retired(told):
                    break
            self._close()

    def _retired(self, told: threading.Event) -> bool:
        """Say whether the thread may end: no run was met since it looked."""
        with self._lock:
            if not told.is_set() and self._watched.look():
                return False
            if not told.is_set():
                self._thread = None
            return True

    def _ask(self, alive: set[str], told: threading.Event) -> float:
        """Ask for the states of the runs at work; returns for how many seconds to rest."""
        source = self._source
        if source is None:
            return _period()
        begun = time.monotonic()
        try:
            states = self._client(source).ask(alive)
        except Exception as error:
            self._close()
            self._failures += 1
            if self._failures == 1:
                words = (
                    "Prefect's API does not say which runs were cancelled, so a cancellation may be seen late; it is asked again (%s: %s)"
                )
                _log.warning(words, type(error).__name__, error)
            return min(_period() * 2.0 ** min(self._failures, 10), max(_BACK_OFF_SECONDS, _period()))
        self._failures = 0
        if not told.is_set():
            self._watched.learn(alive, states)
        # Fifty processes that ask once a second are a load of their own for a small server that is busy already.
        return max(_period(), min((time.monotonic() - begun) * _REST, _BACK_OFF_SECONDS))

    def _client(self, source: Source) -> Asker:
        # Of the same API the settings are read anew only when it has not answered: making a client takes longer than asking.
        if self._asker is None or self._asker.source.url != source.url:
            self._close()
            self._asker = Asker(source).__enter__()
        return self._asker

    def _close(self) -> None:
        asker, self._asker = self._asker, None
        if asker is not None:
            # A connection that fails to close is nobody's concern.
            with contextlib.suppress(Exception):
                asker.__exit__(None, None, None)


def _period() -> float:
    return max(context.state_poll(), _LOOK_SECONDS)
