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
from typing import IO, TYPE_CHECKING, Any

import apsw

from keyguard.errors import LedgerUnavailable
from keyguard.ledgers._sqlite_schema import migrations
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.testing._till import Till, open_till, parts

if TYPE_CHECKING:
    from collections.abc import Callable

CAP = 1_000_000  # micro-USD
NEXT = max(migrations()) + 1
ONE_MORE = {**migrations(), NEXT: "CREATE TABLE later (a INTEGER) STRICT; ALTER TABLE keys ADD COLUMN later TEXT"}
_NOBODY = 65_534


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


def opened(path: Path | None, **options: Any) -> Till:
    """Open a ledger with one run and a cap of a dollar."""
    return open_till(SqliteLedger(path, **options), run_usd_cap=CAP)


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
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(f"{path}-wal").stat().st_size + 100_000, resource.RLIM_INFINITY))
    granted = 0
    try:
        while granted < 2000:
            till.hold(1)
            granted += 1
    except LedgerUnavailable as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(granted > 0, till.usage.held == granted, till.ledger.verify())
    till.hold(1)
    print(till.usage.held == granted + 1, till.ledger.verify())


def _as_nobody(path: Path) -> None:
    """Open somebody else's file without root's rights, then one in somebody else's folder."""
    # Everything that is loaded late, while the source can still be read: it may lie in a private folder.
    SqliteLedger(path).shut()
    steps = migrations()
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)
    for name in (path, path.with_name("new.db")):
        try:
            SqliteLedger(name, steps=steps)
        except LedgerUnavailable as error:
            print(error)
    sys.stdout.flush()
    # Without the end of a normal process: a coverage tool would want to write as root.
    os._exit(0)


def _hold_lock(path: Path) -> None:
    """Take the ledger's lock as an operation does, say so, and wait for the end of stdin."""
    SqliteLedger(path, durability="process", on_step=_halt_at("begun")).now()


def _hold_engine(path: Path) -> None:
    """Take the engine's own lock, as a program does that is not keyguard, say so, and wait for the end of stdin."""
    db = apsw.Connection(str(path))
    db.execute("BEGIN IMMEDIATE")
    print("begun", flush=True)
    sys.stdin.read()


def _halt_at(name: str) -> Callable[[str], None]:
    def step(found: str) -> None:
        if found == name:
            print(found, flush=True)
            sys.stdin.read()

    return step


def _halt_in_migration(path: Path) -> None:
    """Migrate to the next version, and wait inside the migration."""
    SqliteLedger(path, steps=ONE_MORE, on_step=_halt_at(f"migrated {NEXT}"))


def _fork(path: Path) -> None:
    """Reserve before a fork, on both sides of it, and after it."""
    till, memory = opened(path, durability="power"), open_till(SqliteLedger(None), run_usd_cap=CAP)
    till.hold(100)
    pid = os.fork()
    if pid == 0:
        till.prefix = "child/"
        till.hold(10)
        try:
            memory.hold(1)
        except LedgerUnavailable as error:
            print(error, flush=True)
        till.ledger.shut()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    till.hold(1)
    memory.hold(1)
    print(*parts(till.usage), memory.usage.held, till.ledger.verify())


if __name__ == "__main__":
    {
        "disk_full": _disk_full,
        "as_nobody": _as_nobody,
        "hold_lock": _hold_lock,
        "hold_engine": _hold_engine,
        "halt_in_migration": _halt_in_migration,
        "fork": _fork,
    }[sys.argv[1]](Path(sys.argv[2]))
