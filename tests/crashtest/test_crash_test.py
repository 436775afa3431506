"""`keyguard crash-test` as it is typed: its figures and its exit codes; and what it finds in guards that are none, or not good enough."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keyguard import cli
from keyguard.crashtest.events import EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

# What --quick may take on a quiet machine is 15 s, the long form 45 s; others use this one too.
_PATIENCE = 6
_HELD = {"verdict": "held", "false_refusals": 0, "problems": []}


def crash_test(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run `keyguard crash-test`; returns exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["keyguard", "crash-test", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Run it with `--json`; returns exit code, the whole, and the events by their names."""
    code, out, _ = crash_test(monkeypatch, capsys, "--json", *words)
    whole = json.loads(out)
    return code, whole, {event["event"]: event for event in whole["events"]}


def holds(whole: dict[str, Any]) -> dict[str, bool | None]:
    """Return which promises held."""
    return {name: said["held"] for name, said in whole["promises"].items()}


def check_figures(events: dict[str, Any]) -> None:
    """Check what is so in every event of keyguard's."""
    for event in events.values():
        assert {name: event[name] for name in _HELD} == _HELD, event
        assert 0 < event["vendor_usd"] == event["ledger_usd"] <= event["cap_usd"], event
        assert event["doubts_left"] == 0, event
        assert event["seconds"] > 0, event


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_the_short_form_holds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every event, every promise; the vendor's truth and the ledger agree to the cent, and nothing that fitted was refused."""
    code, whole, events = found(monkeypatch, capsys, "--quick")

    assert code == 0, whole
    assert list(events) == [event.name for event in EVENTS]
    assert set(holds(whole).values()) == {True}
    check_figures(events)
    assert whole["seconds"] < 15 * _PATIENCE
    # Where more was wanted than there was, all that there was is spent.
    full = {name for name, event in events.items() if event["vendor_usd"] == event["cap_usd"]}
    assert full == events.keys() - {"midnight", "disk-full", "locked", "revoke"}
    assert (events["race"]["calls"], events["race"]["refused"]) == (200, 160)
    assert (events["processes"]["calls"], events["processes"]["refused"]) == (80, 40)
    # Seven tenths of one day's cap and the whole of the next one's.
    assert (events["midnight"]["vendor_usd"], events["midnight"]["cap_usd"]) == (17.0, 20.0)
    # Two before, three after; what came in between was refused.
    assert (events["locked"]["vendor_usd"], events["locked"]["refused"]) == (5.0, 2)
    assert events["disk-full"]["refused"] > 0
    assert sum(events["lost-answers"]["failed"].values()) == 15 * 4
    assert events["revoke"]["refused"] == 123 - events["revoke"]["vendor_usd"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_long_form_holds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seed: str) -> None:
    """The same with more of everything, and other seeds."""
    code, whole, events = found(monkeypatch, capsys, "--seed", seed)

    assert code == 0, whole
    assert set(holds(whole).values()) == {True}
    check_figures(events)
    assert (events["race"]["vendor_usd"], events["race"]["calls"]) == (100.0, 500)
    assert whole["seconds"] < 45 * _PATIENCE


def test_no_guard_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The table says what is over the cap, which promises are broken and by which event, and what cannot be tried; the exit code is 1."""
    code, out, _ = crash_test(monkeypatch, capsys, "--quick", "--guard", "none", "--only", "processes", "--only", "revoke")

    assert code == 1
    row = next(line for line in out.splitlines() if line.startswith("processes"))
    assert row.split()[:6] == ["processes", "$40.00", "$80.00", "$0.00", "0", "n/a"]
    assert "$40.00 over the cap" in row
    assert "n/a: the guard cannot revoke" in next(line for line in out.splitlines() if line.startswith("revoke"))
    assert "BROKEN  I1" in out
    assert "processes: $80.00 were charged on a cap of $40.00" in out
    assert "n/a     I6" in out
    assert "NOT OK" in out


@pytest.mark.ci
def test_a_ledger_of_the_users_keeps_its_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On a ledger that is given the events have runs of their own, whose keys end with them; what would disturb others is left out."""
    from keyguard.ledgers import open_ledger
    from keyguard.testing._till import limits, parts

    url = f"sqlite:///{tmp_path / 'mine.db'}"
    ledger = open_ledger(url)
    key, _ = ledger.issue(limits("mine", run_usd_cap=5_000_000), "my-run")
    only = [word for name in ("kill-after-reserve", "clock-step", "midnight", "locked", "disk-full") for word in ("--only", name)]
    code, whole, events = found(monkeypatch, capsys, "--quick", "--ledger", url, *only)

    assert code == 0, whole
    assert whole["ledger"] == url
    assert {name: event["verdict"] for name, event in events.items()} == {
        "kill-after-reserve": "held", "clock-step": "n/a", "midnight": "n/a", "disk-full": "held", "locked": "n/a",
    }  # fmt: skip
    # Whether it was executed may be presumed only in an hour; its test knows it now.
    assert events["kill-after-reserve"]["doubts_left"] == 1
    assert "released by hand" in events["kill-after-reserve"]["note"]
    runs = ledger.runs()
    assert {found.run_id.rsplit("-", 1)[0][:11] for found, _ in runs if found.run_id and found.run_id != "my-run"} == {"crash-test-"}
    assert {found.state for found, _ in runs} == {"active", "revoked"}
    mine = ledger.key(key_id=key.key_id)
    assert mine is not None
    assert mine.state == "active"
    usage = ledger.usage("run:my-run")
    assert usage is not None
    assert parts(usage) == (0, 0, 0)
    assert ledger.doubts() == []
    assert ledger.verify() == []
    ledger.shut()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--guard", "nobody"], "floe-guard, keyguard, none, or give module:Class"),
        (["--only", "earthquake"], "race, processes, kill-before-reserve"),
        (["--only", ""], "no event is called"),
        (["--ledger", "sqlite://"], "in memory"),
        (["--ledger", "sqlite:///"], "in memory"),
        (["--guard", "none", "--ledger", "sqlite:///x.db"], "leave the option out"),
        (["--seed", "x"], "Invalid value"),
        (["--fast"], "No such option"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Exit code 2, and what there is; nothing is started."""
    code, out, err = crash_test(monkeypatch, capsys, *words)

    assert (code, out) == (2, "")
    assert said in err


def test_without_the_stripe_sdk_the_line_that_installs_it_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and the very line to type."""
    monkeypatch.setitem(sys.modules, "stripe", None)
    code, _, err = crash_test(monkeypatch, capsys)

    assert (code, err.strip()) == (2, 'pip install "keyguard[stripe]"')


@pytest.mark.ci
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_crash_test_leaves_no_process(number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM in the middle: vendor, nursery and workers are gone, and so is their folder."""
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{listen}; from keyguard.cli import main; main()", "crash-test", "--quick"]
    with tempfile.TemporaryDirectory(prefix="kg-") as folder:
        env = os.environ | {"TMPDIR": folder, "COLUMNS": "200"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as running:
            assert running.stdout is not None
            next(line for line in running.stdout if line.startswith("race"))
            # All that it started has the folder in its arguments.
            assert len(list(processes_with(folder))) >= 2
            running.send_signal(number)
            # stdout and stderr end when nobody holds them any more.
            running.communicate(timeout=60)

        assert running.returncode == code
        assert list(processes_with(folder)) == []
        assert list(Path(folder).iterdir()) == []


def processes_with(word: str) -> Iterator[str]:
    """Yield the command lines of this machine's processes that have a word in them."""
    for found in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = found.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in line:
                yield line
