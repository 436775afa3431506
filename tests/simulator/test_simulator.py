"""Seeds of the simulator: no promise is broken in any, and each can be seen again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from keyguard.testing.simulator.__main__ import main
from keyguard.testing.simulator.runner import Report, simulate


def _all_well(seeds: range, steps: int) -> list[Report]:
    began = time.perf_counter()
    reports = [simulate(seed, steps) for seed in seeds]
    made, seconds = sum(report.steps for report in reports), time.perf_counter() - began
    print(f"{len(reports)} seeds, {made} operations, {seconds:.1f} s")

    assert [report.told("") for report in reports if report.violation] == []
    return reports


def test_no_promise_is_broken_in_a_few_seeds() -> None:
    """Caps, truth, refusals, revokes and the log hold in each, and the seeds do what they are for: calls are granted and refused."""
    reports = _all_well(range(20), 500)

    kinds = sum((Counter(report.kinds) for report in reports), Counter[str]())

    assert sum(report.grants for report in reports) > 500
    assert kinds.keys() >= {"new", "attempt", "adopting", "next generation", "cap_exceeded", "revoked", "expired", "conflict"}


@pytest.mark.ci
def test_no_promise_is_broken_in_fifty_seeds() -> None:
    """As the few seeds, for longer; whatever can be decided of a call is decided in one of them."""
    reports = _all_well(range(50), 1000)
    kinds = sum((Counter(report.kinds) for report in reports), Counter[str]())

    assert kinds.keys() >= {"moved to today", "stale", "ambiguous", "already_charged", "doubt_pending"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_promise_is_broken_in_a_thousand_seeds() -> None:
    """A million operations, each followed by the checks."""
    reports = _all_well(range(1000), 1000)

    assert sum(report.steps for report in reports) >= 1_000_000


def test_a_seed_can_be_seen_again() -> None:
    """Two runs of one seed are the same event for event, also in another process that hashes strings differently."""
    here = [simulate(7, 400), simulate(7, 400)]
    command = [sys.executable, "-m", "keyguard.testing.simulator", "--seed", "7", "--steps", "400"]
    hashing = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    other = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": hashing}, capture_output=True, text=True, check=True)

    assert here[0].digest == here[1].digest
    assert f"digest {here[0].digest}" in other.stdout
    assert simulate(8, 400).digest != here[0].digest


def test_a_violation_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The seed, the step, the promise with its numbers, the last events and the command are printed; the exit code says it was found."""
    code = main(["--seeds", "0:20", "--mutant", "402-releases-adopted-hold"])
    told = capsys.readouterr().out

    assert code == 0
    assert "the last events:" in told
    assert "I2: run-" in told
    assert "again: python -m keyguard.testing.simulator --seed" in told
    assert "--mutant 402-releases-adopted-hold" in told


def test_seeds_without_a_violation_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 0, and the numbers of what was run are printed."""
    code = main(["--seeds", "0:2", "--steps", "100"])
    told = capsys.readouterr().out

    assert code == 0
    assert "2 seeds from 0, " in told
    assert "0 violations" in told


def test_a_range_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """FIRST:LAST with nothing between them is a mistake of the caller's, and says so."""
    with pytest.raises(SystemExit):
        main(["--seeds", "5:5"])

    assert "FIRST:LAST" in capsys.readouterr().err
