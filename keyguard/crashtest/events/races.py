"""Many callers and one cap: threads, processes, and the same run twice at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.crashtest.stage import USD
from keyguard.testing.double import Fault

if TYPE_CHECKING:
    from keyguard.crashtest.stage import Stage

_PATH = "/v1/payment_intents"


def threads(stage: Stage) -> None:
    """50 threads of one process want half of what there is, and get it; then they want much more than is left."""
    dollars = stage.of(100, 40)
    stage.cap(dollars)
    names, half = stage.names(5 * dollars), dollars // 2
    worker = stage.worker()
    stage.all_fit(stage.spend(worker, names[:half], 1, threads=50, named=False))
    stage.fills(1, stage.spend(worker, names[half:], 1, threads=50, named=False))


def processes(stage: Stage) -> None:
    """8 processes want just what there is, and get it; then as much again, and get nothing."""
    dollars = stage.of(96, 40)
    stage.cap(dollars)
    workers = stage.workers(8)
    for kind in ("fits", "more"):
        names = stage.names(dollars, kind)
        for number, worker in enumerate(workers):
            worker.tell("spend", names=names[number::8], amount=USD, named=False)
        spending = stage.gather(workers)
        if kind == "fits":
            stage.all_fit(spending)
        stage.fills(1, spending)


def second_process(stage: Stage) -> None:
    """
    Two processes make the charges of one run at once, as when a scheduler starts it twice; some are declined on the first try.

    The cap is what the charges come to: whatever is held twice refuses another one.
    """
    count = stage.of(10, 6)
    stage.cap(count)
    stage.double.script(Fault("decline", method="POST", path=_PATH, after=stage.rng.randint(0, 2), times=2, every=2))
    workers = stage.workers(2, retries=2)
    for worker in workers:
        worker.tell("spend", names=stage.names(count), amount=USD, entries=4)
    stage.gather(workers)
    stage.was_struck()
    stage.reconcile()
    if "entry" in stage.extras and stage.till.look() < stage.row.cap:
        stage.broke("I4", f"only {len(stage.till.by_customer)} of {count} charges were made")
