"""The demo: run for real, against the stand-in and a real Prefect; and the judgement of its numbers, by hand."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

import keyguard.demo
from keyguard import cli
from keyguard.demo import Findings, Plan, children
from keyguard.demo.report import RichReport
from keyguard.demo.truth import charged
from keyguard.errors import KeyguardError
from tests.support_prefect import API_KEY, make_customers

if TYPE_CHECKING:
    from pathlib import Path

USD = 1_000_000


def keyguard_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run `keyguard demo`; returns exit code and stdout."""
    monkeypatch.setattr(sys, "argv", ["keyguard", "demo", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0), capsys.readouterr().out


@pytest.mark.ci
def test_the_cap_holds_and_three_sources_agree(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Six customers, $60: three charges, one refusal tried once, three equal numbers, exit code 0."""
    code, out = keyguard_demo(monkeypatch, capsys, "--cap", "60", "--customers", "6", "--amount", "20", "--json")
    found = json.loads(out)

    assert code == 0, found["verdict"]
    assert (found["vendor_usd"], found["ledger_usd"], found["spans_usd"]) == (60.0, 60.0, 60.0)
    assert (found["charges"], found["attempts_of_refused_task"]) == (3, 1)
    assert "$60.00" in found["refusal"]
    assert [call["cost"] for call in found["calls"]] == [20.0, 20.0, 20.0]


@pytest.mark.ci
def test_unguarded_the_same_flow_spends_it_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the seams off all six are charged, and the exit code says that this is not all right."""
    monkeypatch.setenv("COLUMNS", "120")
    code, out = keyguard_demo(monkeypatch, capsys, "--cap", "60", "--customers", "6", "--unguarded")

    assert code == 1
    assert "the vendor charged $120.00, $60.00 above the cap of $60.00" in out
    assert out.count("payment_intents.create") == 6
    assert out.count("over") >= 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_no_process(number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM while Prefect starts: the stand-in is gone, and so is the whole demo."""
    # A shell that starts its jobs in the background has them ignore SIGINT, and children inherit that.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{listen}; from keyguard.cli import main; main()", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        port = next(int(line.rsplit(":", 1)[1]) for line in demo.stdout if "stand-in on" in line)
        next(line for line in demo.stdout if "starting Prefect" in line)
        demo.send_signal(number)
        # stdout ends when nobody holds it any more.
        demo.communicate(timeout=60)

    assert demo.returncode == code
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def stops_listening(port: int) -> bool:
    """Say whether nobody listens on a port any more, now or within the seconds that a killed process may take to vanish."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return True
    return False


def test_a_child_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    """A grandchild that ignores SIGTERM does not survive its group."""
    grandchild = (
        "import signal, socket; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "listener = socket.create_server(('127.0.0.1', 0)); print(listener.getsockname()[1], flush=True); signal.pause()"
    )
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    with children.started([sys.executable, "-c", script], log=tmp_path / "log") as child:
        port = int(child.readline())
        socket.create_connection(("127.0.0.1", port)).close()

        assert child.pid > 0

    assert stops_listening(port)


def test_a_child_that_says_nothing_is_an_error_with_its_words(tmp_path: Path) -> None:
    """A process that ends early fails the demo with what it wrote to stderr."""
    with (
        children.started([sys.executable, "-c", "raise SystemExit('no such port')"], log=tmp_path / "log") as child,
        pytest.raises(KeyguardError, match="no such port"),
    ):
        child.readline()


@pytest.mark.parametrize(("module", "code"), [("standin", 0), ("billing", -signal.SIGTERM)])
def test_a_child_ends_with_its_stdin(module: str, code: int) -> None:
    """When the demo itself was killed its pipes close: the stand-in leaves, the billing process takes Prefect's server with it."""
    plan = {"api_base": "http://127.0.0.1:9", "api_key": API_KEY, "guarded": False, "customers": [], "amount_cents": 2000}
    command = [sys.executable, "-m", f"keyguard.demo.{module}", json.dumps(plan)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as child:
        assert child.wait(60) == code


def test_a_failing_billing_process_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that cannot run is an error with its last words, not three equal zeros."""
    monkeypatch.setattr(keyguard.demo, "_quiet_env", lambda _: {"PATH": os.environ["PATH"], "PREFECT_API_URL": "not a url"})
    report = RichReport(Plan(60 * USD, 1, 20 * USD), Console(file=io.StringIO()))
    with pytest.raises(KeyguardError, match="the billing process failed: "):
        keyguard.demo.run(Plan(60 * USD, 1, 20 * USD), report)
    report.stop()


def test_the_vendors_truth_is_read_page_by_page(standin: str) -> None:
    """More charges than a page holds are all counted."""
    import httpx

    customer = make_customers(standin, 1)[0]
    body = {"amount": 100, "currency": "usd", "customer": customer, "payment_method": "pm_card_visa", "confirm": "true"}
    with httpx.Client(base_url=standin, auth=(API_KEY, "")) as client:
        for _ in range(101):
            client.post("/v1/payment_intents", data=body).raise_for_status()

    assert charged(standin, API_KEY) == (10_100, 101)


def test_an_unreadable_vendor_fails_the_demo() -> None:
    """When the vendor cannot be asked there is no first number, so the demo fails."""
    with pytest.raises(KeyguardError, match="could not be read"):
        keyguard.demo._vendor_truth("http://127.0.0.1:9")


def findings(vendor: int, ledger: int, spans: int, *, attempts: int = 1, guarded: bool = True, cap: int = 500) -> Findings:
    """Return what a demo of 50 × $20 found, in dollars."""
    plan = Plan(cap * USD, 50, 20 * USD, guarded)
    return Findings(plan, vendor * USD, ledger * USD, spans * USD, vendor // 20, attempts=attempts)


@pytest.mark.parametrize(
    ("found", "code", "verdict"),
    [
        (findings(500, 500, 500), 0, "held"),
        (findings(1000, 1000, 1000, attempts=0, cap=1000), 0, "held"),
        (findings(500, 480, 500), 1, "differ"),
        (findings(500, 500, 480), 1, "differ"),
        (findings(520, 500, 500), 1, "differ"),
        (findings(520, 520, 520), 1, "did not do its work"),
        (findings(480, 480, 480), 1, "did not do its work"),
        (findings(500, 500, 500, attempts=4), 1, "did not do its work"),
        (findings(1000, 0, 0, attempts=0, guarded=False), 1, "$500.00 above the cap"),
    ],
)
def test_only_three_equal_numbers_under_a_cap_that_held_are_success(found: Findings, code: int, verdict: str) -> None:
    """Exit code 0 needs the guard on, three equal numbers, every fitting call sent, and one attempt of the refused task."""
    assert found.exit_code == code
    assert verdict in found.verdict


def test_the_report_ends_with_the_three_numbers_and_the_attempts() -> None:
    """The closing table names each source; the refusal's message stands in a box."""
    out = io.StringIO()
    report = RichReport(Plan(500 * USD, 50, 20 * USD), Console(file=out, width=120, force_terminal=True, color_system=None))
    report.step("starting")
    report.event({"event": "running", "name": "silent-bittern"})
    report.event({"event": "charged", "customer": "cus_1", "operation": "payment_intents.create", "cost": 20 * USD})
    report.event({"event": "refused", "customer": "cus_2", "message": "run_usd_cap reached", "attempts": 1})
    report.event({"event": "end"})
    report.close(replace(findings(500, 500, 500), refusal="run_usd_cap reached"))

    text = out.getvalue()
    for word in (
        "silent-bittern",
        "run_usd_cap=500",
        "refused before a byte left",
        "run_usd_cap reached",
        "25 charges",
        "attempts made",
        "OK",
    ):
        assert word in text
    assert text.count("$500.00") >= 4
