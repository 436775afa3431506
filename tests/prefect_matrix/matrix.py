"""Starts the stages and what they need beside them, asks them for cells, judges by the vendor's truth, and prints the table."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyguard.ledgers import open_ledger
from tests.prefect_matrix import STAGES, WAYS, Cell, Outcome, Played, Room, Way
from tests.support_prefect import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyguard.testing.double import Controls

_ROOT = Path(__file__).parents[2]
DOLLAR = 1_000_000
# Names of errors that say that nothing was sent, and of those only.
_REFUSALS = ("Unattributed", "UnknownKey", "KeyRevoked", "SpendCapExceeded")


class Unavailable(Exception):
    """A stage cannot be had here."""


class Stage:
    """
    A running process that plays cells.

    Args:
        kind: Which stage.
        way: With `plugin` Prefect loads plugins in it and what it starts.
        double: Stripe.
        place: A folder of its own, for the ledger.
        api: URL of Prefect's API.
    """

    def __init__(self, kind: str, way: Way, double: Controls, place: Path, api: str) -> None:
        self._double = double
        self.url = f"sqlite:///{place / 'ledger.db'}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("KEYGUARD_")},
            **ENVIRONMENT,
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str(place / "home"),
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            "KEYGUARD_VENDOR_HOSTS": f"stripe={double.host}",
            **({"PREFECT_PLUGINS_ENABLED": "1"} if way == "plugin" else {}),
            **({"KEYGUARD_COPY_CONTEXT": "1"} if kind == "threads" else {}),
            # Ray gives its own start half a minute, which a busy machine does not keep.
            "RAY_raylet_start_wait_time_s": "300",
        }
        self._kind, self._log, self._children = kind, place / "log", contextlib.ExitStack()

    def __enter__(self) -> Stage:
        with self._children as children:
            if self._kind in {"delay", "served", "worker"}:
                self._begin([sys.executable, "-m", "tests.prefect_matrix.beside", self._kind], children)
            command = [*_python(self._kind), "-m", "tests.prefect_matrix.stage"]
            self._process = self._begin(command, children, {"ledger": self.url})
            self._children = children.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()

    def play(self, room: Room, way: Way) -> Cell:
        """Have a cell played, and judge it."""
        customer = f"cus_{uuid.uuid4().hex}"
        before = self._spent()
        _say(self._process, {
            "stage": self._kind, "room": room.play, "way": way, "base": self._double.url, "customer": customer, "ledger": self.url,
        })  # fmt: skip
        played = Played(**_heard(self._process, self._log))
        paid = self._double.truth.charges_by("customer")[customer] * DOLLAR
        after = self._spent()
        gained = {run: after[run] - before.get(run, 0) for run in after if after[run] != before.get(run, 0)}
        return _judged(room, way, played, paid, gained)

    def _spent(self) -> dict[str, int]:
        """What each run has spent, is held or in doubt; an error where the ledger does not agree with itself."""
        if not Path(self.url.removeprefix("sqlite:///")).exists():
            return {}
        ledger = open_ledger(self.url)
        try:
            assert ledger.verify() == []
            return {str(key.run_id): usage.spent + usage.held + usage.doubt for key, usage in ledger.runs(limit=10_000)}
        finally:
            ledger.shut()

    def _begin(self, command: list[str], children: contextlib.ExitStack, first: Any = None) -> subprocess.Popen[str]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=_ROOT, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        children.callback(_end, process)
        if first is not None:
            _say(process, first)
        _heard(process, self._log)
        return process


def _judged(room: Room, way: Way, played: Played, paid: int, gained: Mapping[str, int]) -> Cell:
    faults: list[str] = []
    own = gained.get(played.run_id, 0)
    others = sum(gained.values()) - own
    if paid == 0:
        outcome: Outcome = "refused" if played.error in _REFUSALS else "none"
    elif own == paid:
        outcome = "right run"
    else:
        outcome = "a neighbour's" if others else "unguarded"
    if outcome != room.expected[way]:
        faults.append(f"{outcome}, not {room.expected[way]}; the caller got {played.error or 'an answer'}")
    if outcome == "right run" and (paid != room.calls * DOLLAR or played.error):
        faults.append(f"${paid / DOLLAR:g} were charged, not ${room.calls}; the caller got {played.error or 'an answer'}")
    if outcome == "refused" and gained:
        faults.append(f"nothing was sent, and the ledger counts {dict(gained)}")
    return Cell(outcome, tuple(faults))


def walk(wanted: Iterable[tuple[Room, Way]], double: Controls, place: Path, api: str) -> dict[tuple[str, str], Cell | None]:
    """Play cells, each stage started once for its ways without the plugin and once with it; None where a stage cannot be had."""
    found: dict[tuple[str, str], Cell | None] = {}
    cells = list(wanted)
    for kind in STAGES:
        for is_plugin in (False, True):
            of_stage = [(room, way) for room, way in cells if room.stage == kind and (way == "plugin") is is_plugin]
            if not of_stage:
                continue
            folder = place / f"{kind}{'-plugin' if is_plugin else ''}"
            folder.mkdir()
            try:
                with Stage(kind, of_stage[0][1], double, folder, api) as stage:
                    found |= {(room.name, way): stage.play(room, way) for room, way in of_stage}
            except Unavailable:
                found |= {(room.name, way): None for room, way in of_stage}
    return found


def table(found: Mapping[tuple[str, str], Cell | None]) -> str:
    """Print a line a room, a column a way."""
    names = list(dict.fromkeys(name for name, _ in found))
    width = max(map(len, names))
    lines = [f"{'who pays':{width}}  " + "  ".join(f"{way:11}" for way in WAYS)]
    for name in names:
        texts = [_text(found[name, way]) if (name, way) in found else "" for way in WAYS]
        lines.append(f"{name:{width}}  " + "  ".join(f"{text:11}" for text in texts).rstrip())
    played = [cell for cell in found.values() if cell is not None]
    good = sum(not cell.faults for cell in played)
    return "\n".join([*lines, f"{len(played)} cells, {good} as they must be, {len(found) - len(played)} could not be had here"])


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "not here"
    return f"{cell.outcome} FAULT" if cell.faults else cell.outcome


def _python(kind: str) -> list[str]:
    """Return the interpreter for a stage: runners that are packages of their own have an environment of their own."""
    if kind not in {"dask", "ray"}:
        return [sys.executable]
    uv = shutil.which("uv")
    if uv is None:
        raise Unavailable("uv is not here")
    command = [uv, "run", "--quiet", "--isolated", "--no-dev", "--group", "runners", "--python", sys.executable, "python"]
    tried = subprocess.run([*command, "-c", f"import prefect_{kind}"], cwd=_ROOT, capture_output=True, check=False, timeout=600)
    if tried.returncode:
        raise Unavailable(tried.stderr.decode()[-500:])
    return command


def _say(process: subprocess.Popen[str], message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _heard(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the stage ended: {log.read_text(errors='replace')[-3000:]}"
    heard: dict[str, Any] = json.loads(line)
    return heard


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
