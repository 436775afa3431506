"""Ledger contract: threads and processes racing one cap, and workers killed by SIGKILL at every step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import pytest

from keyguard.model import Closing, Outcome
from keyguard.testing._contract_base import ContractBase
from keyguard.testing._crash import OWN_STEPS, Plan, race_until_refused
from keyguard.testing._till import Till, open_till, parts

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.ledgers import Ledger
    from keyguard.testing._place import LedgerPlace

THREADS = 32
PROCESSES = 8
_TIMEOUT = 90  # seconds for one child, and for a short campaign


def _start(what: str) -> subprocess.Popen[str]:
    # The children find what this process finds: the opener of a plug's tests lives beside its tests.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "keyguard.testing._crash", what]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _pipes(child: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if child.stdin is None or child.stdout is None:
        raise AssertionError("the child was started with pipes")
    return child.stdin, child.stdout


class RaceContract(ContractBase):
    """Many callers, one cap."""

    @pytest.mark.parametrize(("amount", "cost"), [(5, 5), (7, 3)])
    def test_threads_racing_one_cap(self, ledger: Ledger, amount: int, cost: int) -> None:
        """The granted total is the cap exactly when amounts divide it, and nobody is refused what fits."""
        till = open_till(ledger, run_usd_cap=1000)
        barrier = threading.Barrier(THREADS)

        def race(number: int) -> dict[str, Any]:
            barrier.wait(timeout=30)
            return race_until_refused(replace(till, prefix=f"{number}/"), amount, cost)

        with ThreadPoolExecutor(THREADS) as pool:
            results = list(pool.map(race, range(THREADS)))
        _check_race(results, till, amount, cost)

    @pytest.mark.parametrize(("amount", "cost"), [(5, 5), (7, 3)])
    def test_processes_racing_one_cap(self, place: LedgerPlace, amount: int, cost: int) -> None:
        """The same from eight processes that share nothing but the ledger."""
        _needs_sharing(place)
        ledger = place.open()
        till = open_till(ledger, run_usd_cap=1000)
        plan = Plan(place.url(), place.durability, place.opener, (till.run_id,), amount, cost)
        children = [_start("race") for _ in range(PROCESSES)]
        try:
            _check_race(_raced(children, plan), till, amount, cost)
        finally:
            for child in children:
                child.kill()
                child.communicate()

        assert ledger.verify() == []
        ledger.shut()


def _raced(children: list[subprocess.Popen[str]], plan: Plan) -> list[dict[str, Any]]:
    for child in children:
        stdin, _ = _pipes(child)
        stdin.write(plan.line())
        stdin.flush()
    for child in children:
        assert _pipes(child)[1].readline() == "ready\n"
    for child in children:
        stdin, _ = _pipes(child)
        stdin.write("go\n")
        stdin.flush()
    return [json.loads(child.communicate(timeout=_TIMEOUT)[0]) for child in children]


def _check_race(results: list[dict[str, Any]], till: Till, amount: int, cost: int) -> None:
    granted = sum(result["granted"] for result in results)
    usage = till.usage

    assert {result["reason"] for result in results} == {"cap_exceeded"}
    assert all(0 <= result["left"] < amount for result in results), results
    assert parts(usage) == (granted * cost, 0, 0)
    assert usage.remaining is not None
    assert usage.remaining < amount
    assert usage.remaining == 0 or 1000 % amount or cost != amount


def _needs_sharing(place: LedgerPlace) -> None:
    if not place.shared:
        pytest.skip("this ledger lives in one object")


@dataclass(slots=True)
class Told:
    """What the workers' files say of one run: acknowledged reserves, the vendor's truth, acknowledged closes; micro-USD."""

    reserved: dict[str, int]
    truth: dict[str, int]
    closed: dict[str, tuple[str, int]]


class CrashContract(ContractBase):
    """Workers die at every step, and the books stay true."""

    def test_killed_workers_leave_true_books(self, place: LedgerPlace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """SIGKILL at each named step, 5 times, and at random moments: no money is lost from sight, no cap is passed."""
        self.run_campaign(place, tmp_path, 5, capsys)

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_many_killed_workers_leave_true_books(self, place: LedgerPlace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The same with 25 kills at each step."""
        self.run_campaign(place, tmp_path, 25, capsys)

    def run_campaign(self, place: LedgerPlace, tmp_path: Path, kills: int, capsys: pytest.CaptureFixture[str]) -> None:
        """Run one campaign and check everything that can be known afterwards."""
        _needs_sharing(place)
        (folder := tmp_path / "told").mkdir()
        ledger = place.open()
        tills = [open_till(ledger, "tight", run_usd_cap=300), open_till(ledger, "wide", run_usd_cap=1_000_000)]
        runs = tuple(till.run_id for till in tills)
        plan = Plan(place.url(), place.durability, place.opener, runs, folder=str(folder), kills=kills, steps=dict(place.steps), seed=kills)
        result = _campaign(plan)
        with capsys.disabled():
            print(f"\n{type(self).__name__}: {result['workers']} workers died at {result['deaths']}")

        assert result["broken"] == []
        assert _missing_deaths(plan, result["deaths"]) == []
        told = _read(folder)
        # Nobody is left who could close what the dead held.
        assert [till.usage.held for till in tills] == [0, 0]
        for till in tills:
            _check_totals(till, told[f"run:{till.run_id}"])
            _check_each(till, told[f"run:{till.run_id}"])
        # From here on the ledger is used again: what is left must be grantable to the last micro.
        for till in tills:
            _check_can_be_filled(till)

        assert ledger.verify() == []
        ledger.shut()


def _campaign(plan: Plan) -> dict[str, Any]:
    with _start("campaign") as child:
        try:
            answer, _ = child.communicate(plan.line(), timeout=_TIMEOUT * max(1, plan.kills // 5))
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    result: dict[str, Any] = json.loads(answer)
    return result


def _missing_deaths(plan: Plan, deaths: dict[str, int]) -> list[str]:
    """Name the steps at which fewer workers died than planned."""
    steps = [*OWN_STEPS, *(f"{operation}: {step}" for operation, steps in plan.steps.items() for step in steps)]
    return [step for step in steps if deaths.get(step, 0) < plan.kills]


def _read(folder: Path) -> dict[str, Told]:
    told = {scope: Told({}, {}, {}) for scope in ("run:tight", "run:wide")}
    for log in folder.iterdir():
        for line in log.read_text().splitlines():
            word, reservation_id, scope, amount, ending = json.loads(line)

            assert word != "false", f"a false refusal: {line}"
            if word == "ack":
                told[scope].reserved[reservation_id] = amount
            elif word == "sent":
                told[scope].truth[reservation_id] = amount
            else:
                told[scope].closed[reservation_id] = (ending, amount)
    return told


def _check_totals(till: Till, told: Told) -> None:
    usage = till.usage

    assert usage.cap is not None
    assert sum(told.truth.values()) <= sum(parts(usage)) <= usage.cap
    assert len(told.reserved) > 0


def _check_each(till: Till, told: Told) -> None:
    """Probe each acknowledged reservation by a close that only adds doubt: it must be there, with its truth in it."""
    for reservation_id, amount in told.reserved.items():
        receipt = till.ledger.close(Closing(reservation_id, Outcome("doubt")))
        known = told.closed.get(reservation_id)

        assert receipt.found, reservation_id
        assert told.truth.get(reservation_id, 0) <= sum(parts(receipt)) <= amount
        if known is not None:
            assert parts(receipt) == {"settled": (known[1], 0, 0), "released": (0, 0, 0), "doubt": (0, 0, amount)}[known[0]]


def _check_can_be_filled(till: Till) -> None:
    remaining = till.usage.remaining

    assert remaining is not None
    if remaining > 1:
        till.hold(1)
        till.hold(remaining - 1)
    elif remaining:
        till.hold(1)
    assert till.usage.remaining == 0
    assert not till.ask(1).granted
