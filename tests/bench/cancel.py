"""How long calls go on after a run was stopped, with and without keyguard: `python -m tests.bench.cancel [--only WORD]` prints the table.

A real Prefect server, real runners, real processes; each has two submitted tasks that charge every half second at a vendor on
loopback, which notes when each call arrives. The stop is what Prefect's UI sends (state Cancelling), SIGTERM, or Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.support_cancel import SETUPS, Setup, Stopped, run
from tests.support_prefect import ENVIRONMENT

# A script charges for so long; Prefect's runners kill a process after thirty seconds, so theirs must charge for longer.
_SCRIPT_SECONDS = 20.0
_RUNNER_SECONDS = 60.0
_GRACE_SECONDS = 60.0


def main(arguments: list[str]) -> None:
    """Measure each set-up twice, and print the table."""
    word = arguments[arguments.index("--only") + 1] if "--only" in arguments else ""
    rows: list[tuple[str, ...]] = [
        ("set-up", "last call, without", "calls after, without", "last call, keyguard", "calls after, keyguard", "run ended, without/with")
    ]
    with tempfile.TemporaryDirectory() as place:
        os.environ.update(ENVIRONMENT, PREFECT_HOME=f"{place}/home")
        from prefect.settings import PREFECT_API_URL
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            api = str(PREFECT_API_URL.value())
            for number, setup in enumerate(SETUPS):
                if word not in setup.name:
                    continue
                bare, guarded = (_measured(setup, api, Path(place), number, is_guarded=is_guarded) for is_guarded in (False, True))
                rows.append(_row(setup, bare, guarded))
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    lines = [f"| {' | '.join(row)} |" for row in (rows[0], ("---",) * len(rows[0]), *rows[1:])]
    print("\n".join(lines))


def _measured(setup: Setup, api: str, place: Path, number: int, *, is_guarded: bool) -> Stopped:
    folder = place / f"{number}-{is_guarded}"
    folder.mkdir()
    seconds = _SCRIPT_SECONDS if setup.runner == "script" else _RUNNER_SECONDS
    ledger = f"sqlite:///{folder}/ledger.db" if is_guarded else ""
    return run(setup, api, folder, ledger, seconds, seconds + _GRACE_SECONDS)


def _row(setup: Setup, bare: Stopped, guarded: Stopped) -> tuple[str, ...]:
    def told(found: Stopped) -> str:
        return f"{found.last_call:.1f} s" if found.calls else "none"

    def ended(found: Stopped) -> str:
        return f"{found.over:.1f} s {found.state}" if found.over is not None else f"never ({found.state})"

    return (setup.name, told(bare), str(bare.calls), told(guarded), str(guarded.calls), f"{ended(bare)} / {ended(guarded)}")


if __name__ == "__main__":
    main(sys.argv[1:])
