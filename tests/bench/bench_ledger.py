"""What the ledger alone costs: one caller beside one raw commit, growth of the log, and eight processes on one cap."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from keyguard import policy as rules
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.model import Closing, Order, Outcome, Policy, Quote

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.ledgers import Durability

Row = tuple[str, str, str]
_CAP = 10**15  # micro-USD: nobody is refused
_WORKERS = 8


class Caller:
    """One caller on one ledger handle: each call reserves one micro-USD and settles it."""

    def __init__(self, ledger: SqliteLedger, prefix: str = "") -> None:
        self._ledger, self._prefix, self._made = ledger, prefix, 0
        self._key = ledger.issue(Policy.restored({"name": "bench", "run_usd_cap": _CAP}), "bench")[0]
        self._legs = rules.legs(self._key, Quote(1))

    def __call__(self) -> None:
        """Reserve, send nothing, settle."""
        self._made += 1
        key, name = self._key, f"{self._prefix}{self._made}"
        decision = self._ledger.reserve(
            Order(name, key.key_id, key.version, key.scope, "stripe", "", "payment_intents.create", "POST", Quote(1), self._legs)
        )
        if not decision.granted:
            raise AssertionError(decision)
        self._ledger.close(Closing(name, Outcome("settled", 1)))


def run(short: bool) -> list[Row]:
    """Measure; returns rows (what, measured, target and verdict)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _one_caller(folder, 400 if short else 4000)
        rows += _growth(folder, 10_000 if short else 100_000)
        for durability in ("process", "power"):
            rows += _many_processes(folder, durability, 1.0 if short else 5.0)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [*rows, ("load of the machine (1, 5, 15 min) after the ledger's bench", f"{load} on {os.cpu_count()} cores", "")]


# -- one caller ---------------------------------------------------------------------------------------


def _one_caller(folder: Path, rounds: int) -> list[Row]:
    """Interleave every case, one call each in turn, so that all of them see the same machine."""
    cases: dict[str, Callable[[], object]] = {
        "memory": Caller(SqliteLedger(None)),
        "process": Caller(SqliteLedger(folder / "process.db", durability="process")),
        "power": Caller(SqliteLedger(folder / "power.db", durability="power")),
        "append": _raw_append(folder / "append"),
        "full": _raw_commit(folder / "raw.db"),
    }
    times = {name: _us(found) for name, found in _interleaved(cases, rounds).items()}
    rows = [(f"reserve + settle, {name}, p50", f"{times[name]:.0f} µs", _at_most(times[name], 60, "µs")) for name in ("memory", "process")]
    rows.append(("one raw durable append (write + fdatasync), p50", f"{times['append']:.0f} µs", ""))
    rows.append(("one bare SQLite commit (WAL, synchronous=FULL), p50", f"{times['full']:.0f} µs", ""))
    limit = 60 + 1.3 * max(times["append"], times["full"])
    rows.append(
        ("reserve + settle, power, p50", f"{times['power']:.0f} µs", _at_most(times["power"], limit, "µs = 60 + 1.3 × a raw commit"))
    )
    return rows


def _interleaved(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 50):
        for name, case in cases.items():
            begun = time.perf_counter()
            case()
            if turn >= 50:  # the first ones warm caches
                found[name].append(time.perf_counter() - begun)
    return found


def _raw_append(path: Path) -> Callable[[], object]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append() -> None:
        os.write(fd, b"x" * 512)
        os.fdatasync(fd)

    return append


def _raw_commit(path: Path) -> Callable[[], object]:
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    db.execute("PRAGMA synchronous=FULL; CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    return lambda: db.execute("INSERT INTO t (b) VALUES (randomblob(100))")


# -- growth -------------------------------------------------------------------------------------------


def _growth(folder: Path, entries: int) -> list[Row]:
    """Compare the last thousand entries with the first, both against a young ledger measured at the same moment."""
    first, last = _beside_young(folder, "first", 0), _beside_young(folder, "last", entries)
    ratio = last / first
    return [(f"growth: after {entries:,} entries ÷ first thousand (each ÷ a young ledger)", f"{ratio:.2f}×", _at_most(ratio, 1.1, "×"))]


def _beside_young(folder: Path, name: str, entries: int) -> float:
    old = Caller(SqliteLedger(folder / f"{name}-old.db", durability="process"))
    for _ in range(entries // 2):
        old()
    # The machine's mood is the same for both, so the ratio is the log's own.
    young = Caller(SqliteLedger(folder / f"{name}-young.db", durability="process"))
    times = _interleaved({"old": old, "young": young}, 500)
    return statistics.median(times["old"]) / statistics.median(times["young"])


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
    rate, p99 = sum(result["made"] for result in results) / seconds, max(result["p99"] for result in results) * 1000
    fairness = min(result["made"] for result in results) / max(1, *(result["made"] for result in results))
    name, least = f"{_WORKERS} processes, one cap, {durability}", 8000 if durability == "process" else 5000
    rows = [(f"{name}: reserve + settle", f"{rate:,.0f}/s", _at_least(rate, least, "/s"))]
    if durability == "process":
        return [*rows, (f"{name}: worst worker's p99 of a pair", f"{p99:.1f} ms", _at_most(p99, 20, "ms"))]
    return [*rows, (f"{name}: slowest ÷ fastest worker", f"{fairness:.2f}", _at_least(fairness, 0.8, ""))]


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
    call = Caller(SqliteLedger(path, durability=durability), prefix=f"{os.getpid()}-")
    call()
    print("ready", flush=True)
    sys.stdin.readline()
    times: list[float] = []
    now = time.perf_counter()
    end = now + seconds
    while now < end:
        call()
        times.append(time.perf_counter() - now)
        now += times[-1]
    times.sort()
    print(json.dumps({"made": len(times), "p99": times[len(times) * 99 // 100]}))


# -- words --------------------------------------------------------------------------------------------


def _us(times: list[float]) -> float:
    return statistics.median(times) * 1e6


def _at_most(value: float, limit: float, unit: str) -> str:
    return f"≤ {limit:,.5g} {unit} {'ok' if value <= limit else 'MISS'}"


def _at_least(value: float, limit: float, unit: str) -> str:
    return f"≥ {limit:,.5g} {unit} {'ok' if value >= limit else 'MISS'}"


def main(arguments: list[str]) -> None:
    """Run as a bench, or as one of its worker processes."""
    if arguments[:1] == ["--worker"]:
        durability: Durability = "power" if arguments[2] == "power" else "process"
        _worker(arguments[1], durability, float(arguments[3]))
        return
    for row in run("--short" in arguments):
        print(" | ".join(row))


if __name__ == "__main__":
    main(sys.argv[1:])
