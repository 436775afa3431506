"""What a guard keeps its figures in, when it cannot be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.crashtest.stage import USD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.crashtest.stage import Stage


def full(stage: Stage) -> None:
    """
    No file of the process may grow any more, which is what a quota does; later it may again.

    A limit of the process (RLIMIT_FSIZE, the kernel answers EFBIG), because a small disk cannot be had without root. Every call from
    then on is refused unsent, whatever can still be settled is, and what was counted stays counted.
    """
    stage.cap(200)
    worker = stage.worker()
    stage.spend(worker, stage.names(3, "before"), 1)
    worker.ask("limit_files", room=20_000)
    spending = stage.spend(worker, stage.names(60, "full"), 1, threads=2)
    if "reconcile" in stage.extras and not spending.refused.get("LedgerUnavailable"):
        stage.broke("run", "60 calls went through with a full disk")
    worker.ask("limit_files", room=None)
    after = stage.spend(worker, stage.names(3, "after"), 1)
    if after.charged < 3:
        stage.broke("I4", f"only {after.charged} of 3 calls went through when there was room again")
    stage.reconcile()


def locked(stage: Stage) -> Iterator[None]:
    """Another process has the lock for longer than anybody waits for it: calls are refused unsent; when it is gone they go on."""
    stage.cap(20)
    worker, holder = stage.workers(2)
    stage.spend(worker, stage.names(2, "before"), 1)
    holder.ask("hold_store")
    callers = stage.of(4, 2)
    worker.tell("spend", names=stage.names(callers, "locked"), amount=USD, threads=callers)
    yield
    truth = stage.till.look()
    told = worker.answer()
    if told["refused"] != {"LedgerUnavailable": callers} or stage.till.look() > truth or truth > 2 * USD:
        stage.broke("I2", f"with the ledger locked, calls came to {told['refused']} and {told['charged']} charges")
    stage.row.calls += callers
    stage.row.refused += callers
    stage.row.note = f"refused after {told['slowest']:.1f} s"
    holder.kill()
    after = stage.spend(worker, stage.names(3, "after"), 1)
    if after.charged < 3:
        stage.broke("I4", f"only {after.charged} of 3 calls went through when the lock was free again")
