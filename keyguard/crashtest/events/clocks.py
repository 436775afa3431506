"""Clocks that step, and the seam between two days. The clock is `time.time()` of a process, before the guard is opened and after."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from keyguard.crashtest.stage import USD
from keyguard.testing.double import Fault

if TYPE_CHECKING:
    from keyguard.crashtest.stage import Stage

_DAY = 86_400


def step(stage: Stage) -> None:
    """The clock goes back a day, on two, back a week, and to the truth again, once with a call on the wire."""
    stage.cap(stage.of(20, 10))
    each = stage.of(5, 2)
    worker = stage.worker()
    for number, offset in enumerate((0, -_DAY, _DAY, -7 * _DAY, 0)):
        names = stage.names(each + 1, f"t{number}-")
        worker.ask("set_clock", offset=offset)
        stage.spend(worker, names[:each], 1)
    spending = stage.spend(worker, stage.names(stage.of(30, 15), "rest"), 1, threads=4)
    stage.fills(1, spending)


def midnight(stage: Stage) -> None:
    """
    Seven tenths of a day's cap before midnight, one of them on the wire over it; the whole of the next day's; then the clock goes back.

    What was held on one day is settled on it; a clock that goes back does not open the old day again.
    """
    daily = stage.of(20, 10)
    stage.cap(daily)
    before = -time.time() % _DAY - 5.0
    worker, other = stage.workers(2, offset=before)
    names = stage.names(7 * daily // 10, "one")
    stage.spend(worker, names[1:], 1)
    stage.double.script(Fault("hold_after", method="POST"))
    other.tell("spend", names=names[:1], amount=USD)
    stage.double.wait_until_held()
    worker.ask("set_clock", offset=before + 10)
    # Two days have two caps; workers were told of the one.
    stage.row.cap = 2 * daily * USD
    stage.spend(worker, stage.names(1, "new"), 1)
    stage.double.release()
    stage.gather([other])
    spending = stage.spend(worker, stage.names(2 * daily, "two"), 1, threads=4)
    if spending.charged != daily - 1:
        stage.broke(
            "I4" if spending.charged < daily - 1 else "I1", f"{spending.charged + 1} of {daily} calls went through on the second day"
        )
    worker.ask("set_clock", offset=before)
    late = stage.spend(worker, stage.names(3, "late"), 1)
    if late.charged:
        stage.broke("I1", f"{late.charged} calls went through on a day that was over")
