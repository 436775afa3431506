"""Every place in which a Prefect run can call a vendor, and every way in which keyguard comes there: who pays, says the vendor's truth.

Here stand the words: rooms, ways, outcomes, cells. `bare.py` has what a user writes who never thought of other processes, `flows.py` the
rest of it, `rooms.py` the table of rooms with what must come of each; `stage.py` is a process in which cells are played beside a run that
is none of theirs, `matrix.py` starts stages, judges and prints: `python -m tests.prefect_matrix [WORD …]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Way = Literal["@task", "@guarded", "keyguard", "plugin", "no install"]
# `@task`: Prefect's own, nothing else. `@guarded` below it. `keyguard.prefect.task`. `plugin`: `@task` with PREFECT_PLUGINS_ENABLED=1.
# `no install`: `@task` in a run that has no key, in a process where another run has one.
WAYS: tuple[Way, ...] = ("@task", "@guarded", "keyguard", "plugin", "no install")
Outcome = Literal["right run", "refused", "a neighbour's", "unguarded", "none"]
STAGES = ("here", "threads", "pool", "dask", "ray", "delay", "served", "worker")


@dataclass(frozen=True, slots=True)
class Room:
    """
    One place in which a run calls.

    Attributes:
        name: In the table.
        stage: The kind of process that plays it.
        play: Name of what is played, in `flows.py`.
        expected: What must come of it by each way; a way that is not there makes no difference in this room.
        calls: How many charges are made where nothing is refused.
        is_fast: Its cells are in the plain run.
    """

    name: str
    stage: str
    play: str
    expected: dict[Way, Outcome]
    calls: int = 1
    is_fast: bool = False


@dataclass(frozen=True, slots=True)
class Played:
    """
    What a stage says of one cell.

    Attributes:
        run_id: The cell's root run.
        error: The name of what came to the caller, "" = nothing.
    """

    run_id: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one room by one way, judged by the vendor's truth, and what was not as it must be, one sentence each."""

    outcome: Outcome
    faults: tuple[str, ...] = field(default=())
