"""
The events, in their order. An event is a function of a stage that does what its name says, and leaves the last comparison to the stage.

One that only waits may yield once: others go on meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyguard.crashtest.events import answers, clocks, kills, races, revoking, stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.crashtest.stage import Stage


@dataclass(frozen=True, slots=True)
class Event:
    """
    One event.

    Attributes:
        name: What `--only` calls it.
        words: What happens.
        play: Does it.
        needs: What the guard must have besides (`contract.EXTRAS`).
        spares: Why it is not done to a ledger that others use; "" = it may be.
        is_daily: The cap is a day's.
        is_of_files: It is about files that the guard writes.
        is_faulty: Calls may fail in it.
        justified: Names of refusals that it gives reason for, beside the cap.
    """

    name: str
    words: str
    play: Callable[[Stage], Iterator[None] | None]
    needs: frozenset[str] = frozenset()
    spares: str = ""
    is_daily: bool = False
    is_of_files: bool = False
    is_faulty: bool = False
    justified: frozenset[str] = frozenset()


_CLOCK = "it would move the ledger's clock"
EVENTS: tuple[Event, ...] = (
    Event("race", "50 threads on one cap", races.threads),
    Event("processes", "8 processes on one cap", races.processes),
    *(Event(f"kill-{name}", f"SIGKILL {words}, then a restart", play) for name, words, play in kills.STEPS),
    Event("lost-answers", "charged, answer lost, retries=3", answers.lost, is_faulty=True),
    Event("retry-storm", "every answer is a 500, a 409 or late", answers.storm, is_faulty=True),
    Event("second-process", "the same run twice at once, declines", races.second_process, is_faulty=True),
    Event("clock-step", "the clock steps back and forward", clocks.step, frozenset({"clock"}), _CLOCK),
    Event("midnight", "a day's cap over midnight, two days", clocks.midnight, frozenset({"clock", "daily"}), _CLOCK, is_daily=True),
    Event(
        "disk-full", "no file may grow (RLIMIT_FSIZE)", stores.full,
        is_of_files=True, is_faulty=True, justified=frozenset({"LedgerUnavailable"}),
    ),
    Event(
        "locked", "a stopped process has the ledger's lock", stores.locked, frozenset({"hold_store"}),
        "it would stop your own runs for seconds", justified=frozenset({"LedgerUnavailable"}),
    ),
    Event("revoke", "revoked with calls on the wire", revoking.revoke, frozenset({"revoke"}), justified=frozenset({"KeyRevoked"})),
)  # fmt: skip
