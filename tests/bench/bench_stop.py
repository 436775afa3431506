"""What a call pays to hear whether its Prefect run was stopped: flags that are read, twice a call. No Prefect server is needed."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING
from unittest.mock import patch

from tests.bench.measure import Row, added, in_turns, repeated

if TYPE_CHECKING:
    from collections.abc import Callable


def run(short: bool) -> list[Row]:
    """Measure both questions of a call, in a task of a flow that nobody has stopped."""
    with tempfile.TemporaryDirectory() as home, patch.dict(os.environ, {"PREFECT_HOME": home}):
        return _asked(*((15, 400) if short else (60, 1000)))


def _asked(rounds: int, calls: int) -> list[Row]:
    import prefect.flow_engine  # noqa: F401 -- with it comes what the runner's word is read from

    import keyguard
    from keyguard import context
    from tests.support_prefect import flow_run, in_flow, in_task, task_run

    root = flow_run()
    with in_flow(root):
        keyguard.install("sqlite://", run_usd_cap=1)
    with in_flow(root), in_task(task_run(root.id)):
        found = context.current_run()
        run_id = None if found is None else found.run_id

        def asked() -> None:
            context.why_stopped(found, run_id)
            context.why_stopped(found, run_id)

        cases: dict[str, Callable[[], object]] = {"asked": asked, "nothing": lambda: None}
        times = in_turns({name: repeated(case) for name, case in cases.items()}, rounds, calls)
    keyguard.uninstall()
    return [Row("asking twice whether the run was stopped, added to a call", added(times, "asked", "nothing"), "µs", 0.5)]
