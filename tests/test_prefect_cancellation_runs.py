"""Cancel → last vendor call, in real set-ups: Prefect's own runners and processes; the vendor's notes are the judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyguard.ledgers import open_ledger
from tests.support_cancel import SETUPS, Setup, run

if TYPE_CHECKING:
    from pathlib import Path

# The poll's period is a second, a task's step half a second; the rest is for a machine that is busy with other things.
_LAST_CALL_SECONDS = 6.0
# Two tasks, a call each half second: what may arrive until the next look, and what was on the wire.
_CALLS = 12
# Prefect gives a process thirty seconds; unguarded, calls go on for all of them.
_SECONDS = 60.0
HOOK = "Prefect's on_cancellation hook (Cancelling)"
pytestmark = pytest.mark.timeout(600)


def _named(setup: Setup) -> str:
    return f"{setup.runner}-{setup.flow}-{setup.stop}"


def _mark(setup: Setup) -> pytest.MarkDecorator:
    """Leave to the long form what takes half a minute each."""
    return pytest.mark.ci if _named(setup) in {"serve-charging-api", "script-charging-api", "script-charging-sigterm"} else pytest.mark.slow


@pytest.mark.parametrize("setup", [pytest.param(setup, id=_named(setup), marks=_mark(setup)) for setup in SETUPS])
def test_a_stopped_run_makes_no_further_call(setup: Setup, prefect_server: str, tmp_path: Path) -> None:
    """Stopped in the UI, by SIGTERM or by Ctrl-C: submitted tasks stop within the poll's period and a step, and the run ends at once."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    found = run(setup, prefect_server, tmp_path, url, _SECONDS, _SECONDS)

    assert found.last_call <= _LAST_CALL_SECONDS, found
    assert found.calls <= _CALLS, found
    # What runs by itself is over when its tasks are, long before they would have ended.
    assert found.over is not None, found
    assert found.over < _SECONDS / 2 or setup.runner == "worker", found
    ledger = open_ledger(url)
    assert ledger.verify() == []
    assert [row for row in ledger.entries() if row["kind"] == "refuse" and row["detail"]["reason"] == "revoked"]
    if (setup.flow, setup.stop) == ("charging", "api"):
        # Its hook, called in the serving process, a fresh one of the worker, or the script, found the ledger that the run is marked with.
        assert [row["detail"]["by"] for row in ledger.entries() if row["kind"] == "revoke"] == [HOOK], found
    ledger.shut()
