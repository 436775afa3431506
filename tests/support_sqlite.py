"""Processes with one thing wrong, for the tests of the SQLite ledger: `python -m tests.support_sqlite <what> <path>`.

Each prints what it met, one line a fact. The functions at the top are for the tests themselves.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import apsw

from keyguard.errors import LedgerUnavailable
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.testing._till import Till, open_till

CAP = 1_000_000  # micro-USD


def child(what: str, *arguments: object) -> subprocess.Popen[str]:
    """Start one of the processes below."""
    command = [sys.executable, "-m", "tests.support_sqlite", what, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def lines(what: str, *arguments: object) -> list[str]:
    """Run one of the processes below to its end; returns what it printed."""
    with child(what, *arguments) as process:
        out, _ = process.communicate(timeout=60)

    assert process.returncode == 0, out
    return out.splitlines()


def pipe(stream: IO[str] | None) -> IO[str]:
    """Return a pipe that is there."""
    assert stream is not None
    return stream


def opened(path: Path, **options: object) -> Till:
    """Open a ledger with one run and a cap of a dollar."""
    return open_till(SqliteLedger(path, **options), run_usd_cap=CAP)  # type: ignore[arg-type] -- the options of one constructor


def tamper(path: Path, *statements: str) -> None:
    """Change a ledger file as somebody with a SQLite shell would."""
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()


# -- the processes ------------------------------------------------------------------------------------


def _disk_full(path: Path) -> None:
    """Meet the largest file size that is allowed, and be allowed more again."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    till = opened(path, durability="process")
    order = till.order
    limit = os.stat(f"{path}-wal").st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    granted = 0
    try:
        for _ in range(2000):
            till.hold(1)
            granted += 1
    except LedgerUnavailable as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(till.usage.held - granted, till.ledger.verify(), till.ledger.reserve(order(_quote())).granted)


def _quote() -> object:
    from keyguard.model import Quote

    return Quote(1)
