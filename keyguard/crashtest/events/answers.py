"""A vendor that charges and does not say so, or answers nothing but errors; callers that try again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.testing.double import Fault

if TYPE_CHECKING:
    from keyguard.crashtest.stage import Stage


def lost(stage: Stage) -> None:
    """Every charge is made and every answer is lost; each caller tries three times again, as a task with `retries=3`."""
    stage.cap(stage.of(100, 15))
    stage.double.script(
        Fault("reset_after", method="POST", every=3, times=0),
        Fault("truncate", method="POST", every=3, times=0),
        Fault("close_after", method="POST", times=0),
    )
    worker = stage.worker()
    spending = stage.spend(worker, stage.names(stage.of(300, 30)), 1, threads=8, tries=4)
    stage.fills(1, spending)
    stage.was_struck()
    stage.reconcile()
    stage.spends_the_rest(worker, 1)


def storm(stage: Stage) -> None:
    """Many callers, Stripe's SDK and the callers try again, and every answer is a 500 (charged or not), a 409, or comes too late."""
    stage.cap(stage.of(40, 20))
    seed = stage.rng.randrange(1 << 30)
    stage.double.script(
        Fault("error_after", method="POST", times=0, chance=0.3, seed=seed),
        Fault("error_before", method="POST", times=0, chance=0.2, seed=seed + 1),
        Fault("conflict", method="POST", times=0, chance=0.6, seed=seed + 2),
        Fault("hold_after", method="POST", times=0, seconds=0.5),
    )
    worker = stage.worker(timeout=0.25, retries=1)
    spending = stage.spend(worker, stage.names(stage.of(60, 30)), 1, threads=16, tries=3)
    stage.fills(1, spending)
    stage.was_struck()
    stage.reconcile()
    stage.spends_the_rest(worker, 1)
