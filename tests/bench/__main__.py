"""Runs every bench and prints what was measured beside its target: `python -m tests.bench [--short] [--write]`."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from tests.bench import bench_async, bench_call, bench_context, bench_identity, bench_import, bench_ledger, bench_stop, bench_unguarded

if TYPE_CHECKING:
    from tests.bench.measure import Row

_RESULTS = Path(__file__).with_name("RESULTS.md")


# A CI machine is shared and noisy; what is this much beyond its target there is a mistake in the code.
_CI_FACTOR = 4


def main(arguments: list[str]) -> int:
    """Run everything; returns what `report` does."""
    short = "--short" in arguments
    rows = [
        *bench_ledger.run(short),
        *bench_identity.run(short),
        *bench_call.run(short),
        *bench_stop.run(short),
        *bench_unguarded.run(short),
        *bench_import.run(short),
        *bench_async.run(short),
        *bench_context.run(short),
    ]
    return report(rows, arguments)


def report(rows: list[Row], arguments: list[str]) -> int:
    """Print what was measured, and append it to the results where asked to; returns 1 where a target is missed (in short, by far)."""
    short = "--short" in arguments
    cells = [("what", "measured", "target"), ("---", "---", "---"), *(row.cells() for row in rows)]
    lines = [f"| {' | '.join(line)} |" for line in cells]
    print("\n".join(lines))
    if "--write" in arguments:
        when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%MZ")
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        head = (
            f"\n## {when}, {'short' if short else 'long'} form\n\nPython {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}, "
        )
        with _RESULTS.open("a", encoding="utf-8") as file:
            file.write(head + f"{os.cpu_count()} cores, load {load}.\n\n" + "\n".join(lines) + "\n")
    missed = [row.what for row in rows if row.is_missed(_CI_FACTOR if short else 1)]
    print("\n".join(f"missed{' by far' if short else ''}: {what}" for what in missed))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
