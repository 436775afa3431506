"""Runs seeds and says what came of them: in numbers where all went well, else everything that is needed to see it again."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keyguard.testing.simulator.checks import Violation
from keyguard.testing.simulator.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Iterator

# Nothing outlives a simulation, so a disk of memory is as good as any.
_MEMORY = Path("/dev/shm")  # noqa: S108 -- a folder of its own is made in it


@dataclass(frozen=True, slots=True)
class Report:
    """
    What came of one seed.

    Attributes:
        steps: Events that happened: a step of a call, a move of a request, something in the world.
        calls: Attempts that clients made.
        digest: The hash of all that happened; the same seed gives the same.
        violation: What was broken, in words; "" = nothing.
        promise: Its name.
        events: What happened last.
    """

    seed: int
    steps: int
    calls: int
    grants: int
    refusals: int
    digest: str
    seconds: float
    violation: str = ""
    promise: str = ""
    events: tuple[str, ...] = ()

    def told(self, command: str) -> str:
        """Return a failure as it is printed: what happened last, what is broken, and how to see it again."""
        return "\n".join(
            [
                "the last events:",
                *(f"  {one}" for one in self.events),
                f"seed {self.seed}, step {self.steps}: {self.violation}",
                f"again: {command}",
            ]
        )


def simulate(seed: int, steps: int = 1000) -> Report:
    """
    Run one seed.

    Args:
        seed: Any integer.
        steps: After so many, no new fault or task comes, and everything is let run to its end.
    """
    began, violation, promise = time.perf_counter(), "", ""
    with _folder() as folder, _quiet():
        simulation = Simulation(seed, folder)
        try:
            for _ in range(steps):
                simulation.step()
            simulation.finish()
        except Violation as broken:
            violation, promise = str(broken), broken.promise
        except Exception as error:
            # What is neither a refusal nor a fault of ours: the code itself fell over.
            violation, promise = f"unexpected {type(error).__name__}: {error}\n{traceback.format_exc()}", "unexpected"
        finally:
            simulation.close()
    judge = simulation.judge
    return Report(
        seed, simulation.number, simulation.calls, judge.grants, judge.refusals, simulation.digest, time.perf_counter() - began,
        violation, promise, tuple(simulation.events) if violation else (),
    )  # fmt: skip


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="keyguard-sim-", dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        yield Path(name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the guard's warnings to itself: in a simulation something always goes wrong."""
    logger = logging.getLogger("keyguard")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
