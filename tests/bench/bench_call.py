"""What keyguard adds to a whole call, as ratios side by side in one run: paired, interleaved, medians."""

from __future__ import annotations

import gc
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import stripe

import keyguard
from keyguard import context, telemetry

if TYPE_CHECKING:
    from collections.abc import Callable

_INTENT = (
    '{"id": "pi_%d", "object": "payment_intent", "amount": 100, "amount_received": 100, "amount_capturable": 0, "currency": "usd", '
    '"status": "succeeded", "latest_charge": "ch_%d", "metadata": {}, "customer": "cus_1", "description": null, "livemode": false}'
)
Row = tuple[str, str, str]


class _Canned(stripe.HTTPClient):
    """Answers from memory, so that only the SDK's own work and ours are measured."""

    name = "canned"
    made = 0

    def request(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> Any:
        """Answer a new, paid intent."""
        _Canned.made += 1
        return _INTENT % (_Canned.made, _Canned.made), 200, {"Request-Id": "req_1"}


def paired(cases: dict[str, Callable[[], None]], rounds: int, calls: int) -> dict[str, float]:
    """Time every case in each round, in random order; returns µs a call, median over the rounds."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        for _ in range(calls):
            case()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in random.sample(sorted(cases), len(cases)):
                case = cases[name]
                begun = time.perf_counter()
                for _ in range(calls):
                    case()
                found[name].append((time.perf_counter() - begun) / calls * 1e6)
    finally:
        gc.enable()
    return {name: statistics.median(times) for name, times in found.items()}


def run(short: bool) -> list[Row]:
    """Measure; returns rows (what, measured, target and verdict)."""
    rounds, calls = (15, 40) if short else (60, 100)
    with tempfile.TemporaryDirectory() as folder:
        rows = _guarded_calls(Path(folder), rounds, calls)
    return rows + _unguarded_host(rounds, calls * 5) + _import_time()


def _guarded_calls(folder: Path, rounds: int, calls: int) -> list[Row]:
    client = stripe.StripeClient("sk_test_12345", http_client=_Canned())

    def charge() -> None:
        client.v1.payment_intents.create({"amount": 100, "currency": "usd", "confirm": True})

    def in_run(url: str, run_id: str) -> Callable[[], None]:
        with keyguard.run(run_id):
            keyguard.install(url, run_usd_cap=1_000_000)

        def guarded() -> None:
            with keyguard.run(run_id):
                charge()

        return guarded

    os.environ["KEYGUARD_DURABILITY"] = "process"
    cases: dict[str, Callable[[], None]] = {"memory": in_run("sqlite://", "m"), "process": in_run(f"sqlite:///{folder}/p.db", "p")}
    os.environ["KEYGUARD_DURABILITY"] = "power"
    cases["power"] = in_run(f"sqlite:///{folder}/w.db", "w")
    del os.environ["KEYGUARD_DURABILITY"]
    handler = context.handler()

    def bare() -> None:
        # The seams stay in place and pass through, as after uninstall() with a foreign wrapper on top.
        context.set_handler(None)
        charge()
        context.set_handler(handler)

    cases["bare"] = bare
    times = paired(cases, rounds, calls)
    with_span = _with_sdk(cases["process"], rounds, calls)
    keyguard.uninstall()
    bare_us = times["bare"]
    rows = [("canned Stripe call, bare", f"{bare_us:.0f} µs", "")]
    for name, limit in (("memory", 1.25), ("process", 1.35), ("power", None)):
        ratio = times[name] / bare_us
        verdict = "" if limit is None else f"≤ {limit}× {'ok' if ratio <= limit else 'MISS'}"
        rows.append((f"canned Stripe call, {name} ledger", f"{times[name]:.0f} µs = {ratio:.2f}×", verdict))
    added = with_span["sdk"] - with_span["api"]
    rows.append(("span with an SDK, added to a guarded call", f"{added:.0f} µs", f"≤ 45 µs {'ok' if added <= 45 else 'MISS'}"))
    return rows


def _with_sdk(guarded: Callable[[], None], rounds: int, calls: int) -> dict[str, float]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Discard(SpanExporter):
        """Exports to nowhere."""

        def export(self, spans: Any) -> SpanExportResult:
            """Forget them."""
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    before, recording = telemetry._tracer, provider.get_tracer("keyguard")

    def recorded() -> None:
        telemetry._tracer = recording
        guarded()
        telemetry._tracer = before

    times = paired({"api": guarded, "sdk": recorded}, rounds, calls)
    provider.shutdown()
    return times


def _unguarded_host(rounds: int, calls: int) -> list[Row]:
    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    request = client.build_request("GET", "https://example.com/x", headers={"authorization": "Bearer something"})

    def send() -> None:
        client.send(request)

    def timed() -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            send()
        return (time.perf_counter() - begun) / calls * 1e6

    # Armed and disarmed in turns, so that a slow minute of the machine strikes both.
    bare: list[float] = []
    armed: list[float] = []
    for _ in range(rounds):
        bare.append(timed())
        with keyguard.run("h"):
            keyguard.install("sqlite://", run_usd_cap=1)
        armed.append(timed())
        keyguard.uninstall()
    client.close()
    added = statistics.median(after - before for before, after in zip(bare, armed, strict=True))
    measured = f"{statistics.median(bare):.1f} → {statistics.median(armed):.1f} µs, + {added:.1f} µs"
    return [("httpx to a host nobody guards", measured, f"≤ 2 µs {'ok' if added <= 2 else 'MISS'}")]


def _import_time() -> list[Row]:
    script = (
        "import time, sys, anyio, anyio.to_thread, httpx, platformdirs, pydantic, pydantic_settings, wrapt, opentelemetry.trace, "
        "opentelemetry.context, asyncio, secrets\nbegun = time.perf_counter()\nimport keyguard\nprint((time.perf_counter() - begun) * 1000)"
    )
    # Bytecode is kept, as where keyguard is installed: else each import would be timed with its compilation.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", script]
    times = [float(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout) for _ in range(7)]
    best = statistics.median(times)
    return [("import keyguard, beyond its dependencies", f"{best:.0f} ms", f"≤ 30 ms {'ok' if best <= 30 else 'MISS'}")]
