"""What keyguard adds to a whole call: the real SDK over an answer from memory, as ratios side by side in one run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import requests
import stripe
from requests.adapters import BaseAdapter

import keyguard
from keyguard import context, telemetry
from tests.bench.answers import Answers
from tests.bench.measure import Row, medians, one_by_one, repeated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What a customer's charge is asked with, as in the README.
_ASKED: Any = {"amount": 2000, "currency": "usd", "customer": "cus_1", "payment_method": "pm_1", "confirm": True, "off_session": True}


class _Canned(stripe.HTTPClient):
    """Answers in place of the HTTP library, so that only the SDK's own work and ours are measured."""

    name = "canned"

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def request(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> Any:
        """Answer a new, paid intent."""
        return self._answers.next(), 200, {"Request-Id": "req_1"}


class _CannedAdapter(BaseAdapter):
    """Answers in place of the wire, below requests, which Stripe's SDK sends with by default."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def send(self, request: Any, **_: Any) -> requests.Response:  # type: ignore[override]  # -- takes what is not looked at
        """Answer a new, paid intent."""
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, request.url
        response.headers["Request-Id"] = "req_1"
        response._content = self._answers.next().encode()
        return response

    def close(self) -> None:
        """Nothing is open."""


def run(short: bool) -> list[Row]:
    """Measure everything."""
    rounds, calls = (15, 40) if short else (60, 100)
    with tempfile.TemporaryDirectory() as folder:
        return _guarded_calls(Path(folder), rounds, calls)


# -- guarded calls ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _loopback() -> Iterator[str]:
    """Serve the same answers from another process, over real HTTP."""
    command = [sys.executable, "-m", "tests.bench.answers"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


def _clients(base: str) -> dict[str, Callable[[], object]]:
    """Return one call by each way of sending; nothing of it leaves the machine."""
    answers = Answers()
    session = requests.Session()
    session.mount("https://", _CannedAdapter(answers))
    bare = stripe.StripeClient("sk_test_12345", http_client=_Canned(answers))
    default = stripe.StripeClient("sk_test_12345", http_client=stripe.RequestsClient(session=session))
    whole = stripe.StripeClient("sk_test_12345", base_addresses={"api": base})
    raw = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, text=answers.next())))
    form = {name: str(value).lower() for name, value in _ASKED.items()}
    return {
        "Stripe SDK, canned client": lambda: bare.v1.payment_intents.create(_ASKED),
        "Stripe SDK, canned wire under requests": lambda: default.v1.payment_intents.create(_ASKED),
        "Stripe SDK, canned server on loopback": lambda: whole.v1.payment_intents.create(_ASKED),
        "raw httpx, canned transport": lambda: raw.post("https://api.stripe.com/v1/payment_intents", data=form),
    }


def _guarded_calls(folder: Path, rounds: int, calls: int) -> list[Row]:
    rows: list[Row] = []
    with _loopback() as base:
        for way, call in _clients(base).items():
            rows += _guarded_way(way, call, folder, rounds, calls)
    return rows


def _guarded_way(way: str, call: Callable[[], object], folder: Path, rounds: int, calls: int) -> list[Row]:
    ledgers = {"memory": "sqlite://", "process": f"sqlite:///{folder}/p.db", "power": f"sqlite:///{folder}/w.db"}
    cases = {name: _in_run(name, url, call) for name, url in ledgers.items()}
    middle = medians(one_by_one({name: repeated(case) for name, case in {**cases, "bare": _passing(call)}.items()}, rounds, calls))
    rows = [Row(f"{way}: bare, p50", middle["bare"], "µs")]
    for name in ledgers:
        # The ratio that the design asks for is that of the SDK's whole call on the ledger that survives a killed process.
        target = 1.35 if name == "process" and way.startswith("Stripe") else None
        ratio = middle[name] / middle["bare"]
        rows.append(Row(f"{way}: guarded ÷ bare, {name} ledger, p50", ratio, "×", target, note=f"{middle[name]:.0f} µs"))
    if way.endswith("canned client"):
        # In memory: a checkpoint of the file costs more than the span, and strikes only one of the two.
        rows.append(_span(cases["memory"], rounds, calls))
    keyguard.uninstall()
    return rows


def _in_run(name: str, url: str, call: Callable[[], object]) -> Callable[[], None]:
    os.environ["KEYGUARD_DURABILITY"] = "power" if name == "power" else "process"
    with keyguard.run(name):
        keyguard.install(url, run_usd_cap=1_000_000)
    del os.environ["KEYGUARD_DURABILITY"]

    def guarded() -> None:
        with keyguard.run(name):
            call()

    return guarded


def _passing(call: Callable[[], object]) -> Callable[[], None]:
    """Make a call that passes through the seams in place, as after uninstall() with a foreign wrapper on top."""

    def bare() -> None:
        handler = context.handler()
        context.set_handler(None)
        call()
        context.set_handler(handler)

    return bare


def _span(guarded: Callable[[], None], rounds: int, calls: int) -> Row:
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

    middle = medians(one_by_one({"api": repeated(guarded), "sdk": repeated(recorded)}, rounds, calls))
    provider.shutdown()
    return Row("span with an SDK, added to a guarded call, p50", middle["sdk"] - middle["api"], "µs", 45)
