"""A key that is revoked while calls are on the wire and others are about to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.crashtest.stage import USD
from keyguard.model import show
from keyguard.testing.double import Fault

if TYPE_CHECKING:
    from keyguard.crashtest.stage import Stage


def revoke(stage: Stage) -> None:
    """
    Two processes charge as fast as they can, every other call waits on the wire, and a third process revokes.

    Whatever was counted when that returned is all that is ever charged; a process that comes later is refused at once.
    """
    stage.cap(1000)
    stage.double.script(Fault("hold_before", method="POST", after=10, every=2, times=0))
    *workers, later = stage.workers(3)
    for number, worker in enumerate(workers):
        worker.tell("spend", names=stage.names(stage.of(200, 60), f"w{number}-"), amount=USD, threads=4)
    stage.double.wait_until_held(2)
    figure = int(stage.clerk.ask("revoke")["figure"])
    charged = stage.till.look()
    stage.row.note = f"{show(figure - charged)} were on the wire"
    stage.row.tested |= {"I6"}
    if figure <= charged:
        stage.broke("I6", "what was on the wire is not listed")
    # Those on the wire stay there.
    stage.double.clear()
    spending = stage.spend(later, stage.names(3, "later"), 1)
    if spending.charged:
        stage.broke("I6", f"{spending.charged} calls of another process went through after the revoke")
    stage.double.release()
    stage.gather(workers)
    if stage.till.look() > figure:
        stage.broke("I6", f"{show(stage.till.look() - figure)} were begun after the revoke was acknowledged")
