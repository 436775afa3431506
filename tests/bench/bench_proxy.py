"""What the hop through the proxy costs, beside a bare reverse proxy and the direct call, in turns in one run: latency and throughput."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import httpx

from tests.bench.measure import Row
from tests.bench.proxy_parts import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

_ADMIN = "admin-token-of-the-bench-0123456789"
_AT_ONCE = 16
_TICKS = os.sysconf("SC_CLK_TCK")


class Way:
    """
    A way for a call to go.

    Args:
        name: As the results have it.
        port: Of whoever is asked.
        token: What it wants to see.
        prefix: Of its paths.
        pid: Of the process that forwards; 0 = none does.
    """

    def __init__(self, name: str, port: int, token: str, prefix: str, pid: int) -> None:
        self.name, self.pid = name, pid
        self._asked = (port, token, prefix)
        self.times: list[float] = []
        self.rates: list[float] = []
        self.cpu: list[float] = []

    async def one_by_one(self, calls: int) -> None:
        """Time calls that wait for each other."""
        async with Connection(*self._asked) as connection:
            self.times += [await connection.charge() for _ in range(calls)]

    async def at_once(self, seconds: float) -> None:
        """Count the calls that a load of many connections gets done, and the processor's seconds that whoever forwards took for each."""
        async with contextlib.AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(Connection(*self._asked)) for _ in range(_AT_ONCE)]
            before, begun = self._processor(), time.perf_counter()
            counts = await asyncio.gather(*(_until(connection, begun + seconds) for connection in connections))
            took = time.perf_counter() - begun
        self.rates.append(sum(counts) / took)
        self.cpu.append((self._processor() - before) / sum(counts))

    def _processor(self) -> float:
        """Return what the process has used, all its threads, user and system: seconds."""
        if not self.pid:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


async def _until(connection: Connection, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        await connection.charge()
        count += 1
    return count


def run(short: bool) -> list[Row]:
    """Measure all ways in turns."""
    rounds, calls, seconds = (3, 60, 0.4) if short else (12, 250, 2.0)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        vendor = stack.enter_context(_part("vendor"))[0]
        bare, pid = stack.enter_context(_part("bare", f"http://127.0.0.1:{vendor}"))
        ways = [
            Way("direct", vendor, "sk_test_1", "", 0),
            Way("bare reverse proxy", bare, "sk_test_1", "/stripe", pid),
            *(stack.enter_context(_proxy(folder, durability, vendor)) for durability in ("process", "power")),
        ]
        asyncio.run(_measured(ways, rounds, calls, seconds))
    return _rows(ways)


async def _measured(ways: list[Way], rounds: int, calls: int, seconds: float) -> None:
    for way in ways:
        await way.at_once(min(seconds, 0.5))
        way.rates.clear()
        way.cpu.clear()
    for _ in range(rounds):
        for way in random.sample(ways, len(ways)):
            await way.one_by_one(calls)
        for way in random.sample(ways, len(ways)):
            await way.at_once(seconds)


def _rows(ways: list[Way]) -> list[Row]:
    rows: list[Row] = []
    bare = next(way for way in ways if way.name.startswith("bare"))
    for way in ways:
        ordered = sorted(way.times)
        p99 = ordered[int(len(ordered) * 0.99)] * 1e6
        rows.append(Row(f"hop, one call at a time: {way.name}, p50", statistics.median(ordered) * 1e6, "µs", note=f"p99 {p99:,.0f} µs"))
    for way in ways:
        rate, taken = statistics.median(way.rates), statistics.median(way.cpu) * 1e6
        note = f"{taken:.0f} µs of processor time each" if way.pid else ""
        rows.append(Row(f"hop, {_AT_ONCE} connections: {way.name}, calls a second", rate, "/s", note=note))
    for way in ways:
        if way.name.startswith("keyguard"):
            ratio = statistics.median(own / other for own, other in zip(way.rates, bare.rates, strict=True))
            target = 0.6 if "process" in way.name else None
            rows.append(Row(f"hop: throughput of {way.name} ÷ that of the bare reverse proxy", ratio, "÷", target, "≥"))
    return rows


@contextlib.contextmanager
def _part(*arguments: str) -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "tests.bench.proxy_parts", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as part:
        assert part.stdout is not None
        try:
            yield int(part.stdout.readline()), part.pid
        finally:
            part.kill()


@contextlib.contextmanager
def _proxy(folder: Path, durability: str, vendor: int) -> Iterator[Way]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("KEYGUARD_", "OTEL_"))} | {
        "KEYGUARD_PROXY_ADMIN_TOKENS": _ADMIN, "STRIPE_SECRET_KEY": "sk_test_1", "KEYGUARD_PROXY_PORT": "0",
        "KEYGUARD_PROXY_LEDGER": f"sqlite:///{folder}/{durability}.db", "KEYGUARD_DURABILITY": durability,
        "KEYGUARD_PROXY_UPSTREAMS": f"stripe=http://127.0.0.1:{vendor}",
    }  # fmt: skip
    command = [sys.executable, "-c", "from keyguard.cli import main; main()", "proxy"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            found = re.search(r"http://[^ ]+:(\d+)", proxy.stdout.readline())
            assert found is not None
            headers = {"Authorization": f"Bearer {_ADMIN}"}
            # Ready when it answers: the line is written before the worker has begun.
            issued = httpx.post(f"{found[0]}/vault/keys", json={"run_usd_cap": 100_000_000}, headers=headers, trust_env=False, timeout=60)
            yield Way(f"keyguard proxy, {durability} ledger", int(found[1]), issued.json()["token"], "/stripe", proxy.pid)
        finally:
            proxy.terminate()
            proxy.wait(60)
