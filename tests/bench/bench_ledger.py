"""What the ledger alone costs: one caller beside one raw commit, growth of the log, and eight processes on one cap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from keyguard import policy as rules
from keyguard.guard import new_id
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.model import Closing, Order, Outcome, Policy, Quote
from tests.bench.measure import Row, in_turns, medians, one_by_one, repeated

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.ledgers import Durability
    from tests.bench.measure import Case

_CAP = 10**15  # micro-USD: nobody is refused
_WORKERS = 8


class Caller:
    """One caller on one ledger handle: each call reserves one micro-USD and settles it; what is asked is made beforehand."""

    def __init__(self, ledger: SqliteLedger) -> None:
        self._ledger = ledger
        self.key = ledger.issue(Policy.restored({"name": "bench", "run_usd_cap": _CAP}), "bench")[0]
        self._legs = rules.legs(self.key, Quote(1))

    def __call__(self, calls: int) -> Callable[[], None]:
        """Prepare so many calls; returns what makes them."""
        asked = [self._asked() for _ in range(calls)]
        ledger = self._ledger

        def run() -> None:
            for order, closing in asked:
                if not ledger.reserve(order).granted:
                    raise AssertionError(order)
                ledger.close(closing)

        return run

    def _asked(self) -> tuple[Order, Closing]:
        key, name = self.key, new_id()
        order = Order(name, key.key_id, key.version, key.scope, "stripe", "", "payment_intents.create", "POST", Quote(1), self._legs)
        return order, Closing(name, Outcome("settled", 1))


def run(short: bool) -> list[Row]:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _one_caller(folder, 15 if short else 60)
        rows.append(_growth(folder, 10_000 if short else 100_000))
        for durability in ("process", "power"):
            rows += _many_processes(folder, durability, 1.0 if short else 5.0)
    return rows


# -- one caller ---------------------------------------------------------------------------------------


def _one_caller(folder: Path, rounds: int) -> list[Row]:
    cases: dict[str, Case] = {
        "memory": Caller(SqliteLedger(None)),
        "process": Caller(SqliteLedger(folder / "process.db", durability="process")),
        "power": Caller(SqliteLedger(folder / "power.db", durability="power")),
        "append": repeated(_raw_append(folder / "append")),
        "full": repeated(_raw_commit(folder / "raw.db", "FULL")),
        "normal": repeated(_raw_commit(folder / "raw-normal.db", "NORMAL")),
    }
    for name in ("process", "power"):
        # Until the write-ahead log is used for the second time: its first time, the file system allocates its blocks.
        cases[name](1000)()
    times = medians(one_by_one(cases, rounds, 50))
    raw = max(times["append"], times["full"])
    return [
        Row("one bare SQLite commit of one row (WAL, synchronous=NORMAL)", times["normal"], "µs"),
        Row("reserve + settle, memory, p50", times["memory"], "µs", 60),
        Row("reserve + settle, process, p50", times["process"], "µs", 60),
        Row("one raw durable append (write + fdatasync)", times["append"], "µs"),
        Row("one bare SQLite commit of one row (WAL, synchronous=FULL)", times["full"], "µs"),
        Row("reserve + settle, power, p50", times["power"], "µs", round(60 + 1.3 * raw, 1), note="60 + 1.3 × a raw durable commit"),
    ]


def _raw_append(path: Path) -> Callable[[], object]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append() -> None:
        os.write(fd, b"x" * 512)
        os.fdatasync(fd)

    return append


def _raw_commit(path: Path, synchronous: str) -> Callable[[], object]:
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    db.execute(f"PRAGMA synchronous={synchronous}; CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    return lambda: db.execute("INSERT INTO t (b) VALUES (randomblob(100))")


# -- growth -------------------------------------------------------------------------------------------


def _growth(folder: Path, entries: int) -> Row:
    """Compare the last thousand entries with the first, both against a young ledger measured at the same moment."""
    ratio = _beside_young(folder, "last", entries) / _beside_young(folder, "first", 0)
    return Row(f"growth: after {entries:,} entries ÷ first thousand (each ÷ a young ledger)", ratio, "÷", 1.1)


def _beside_young(folder: Path, name: str, entries: int) -> float:
    old = Caller(SqliteLedger(folder / f"{name}-old.db", durability="process"))
    for _ in range(entries // 2 // 500):
        old(500)()
    # The machine's mood is the same for both, so the ratio is the log's own.
    times = medians(in_turns({"old": old, "young": Caller(SqliteLedger(folder / f"{name}-young.db", durability="process"))}, 20, 25))
    return times["old"] / times["young"]


# -- many processes -----------------------------------------------------------------------------------


def _many_processes(folder: Path, durability: Durability, seconds: float) -> list[Row]:
    path = folder / f"many-{durability}.db"
    Caller(SqliteLedger(path, durability=durability))
    command = [sys.executable, "-m", "tests.bench.bench_ledger", "--worker", str(path), durability, str(seconds)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(_WORKERS)]
    try:
        results = [json.loads(line) for line in _raced(children)]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    made = [result["made"] for result in results]
    name = f"{_WORKERS} processes, one cap, {durability}"
    rows = [Row(f"{name}: reserve + settle a second", sum(made) / seconds, "/s", 8000 if durability == "process" else 5000, "≥")]
    if durability == "process":
        return [*rows, Row(f"{name}: worst worker's p99 of a pair", max(result["p99"] for result in results) * 1000, "ms", 20)]
    return [*rows, Row(f"{name}: slowest ÷ fastest worker", min(made) / max(1, *made), "÷", 0.8, "≥")]


def _raced(children: list[subprocess.Popen[str]]) -> list[str]:
    for child in children:
        if child.stdout is None or child.stdout.readline() != "ready\n":
            raise AssertionError("a worker did not start")
    for child in children:
        if child.stdin is not None:
            child.stdin.write("go\n")
            child.stdin.flush()
    return [child.communicate(timeout=120)[0] for child in children]


def _worker(path: str, durability: Durability, seconds: float) -> None:
    """Be one of the processes: wait for the start, call for some seconds, print how it went."""
    call = Caller(SqliteLedger(path, durability=durability))
    call(1)()
    print("ready", flush=True)
    sys.stdin.readline()
    times: list[float] = []
    now = time.perf_counter()
    end = now + seconds
    while now < end:
        call(1)()
        times.append(time.perf_counter() - now)
        now += times[-1]
    times.sort()
    print(json.dumps({"made": len(times), "p99": times[len(times) * 99 // 100]}))


def main(arguments: list[str]) -> None:
    """Run as a bench, or as one of its worker processes."""
    if arguments[:1] == ["--worker"]:
        durability: Durability = "power" if arguments[2] == "power" else "process"
        _worker(arguments[1], durability, float(arguments[3]))
        return
    for row in run("--short" in arguments):
        print(" | ".join(row.cells()))


if __name__ == "__main__":
    main(sys.argv[1:])
