"""The matrix of runners: a call of a run is paid by the right run or refused, wherever Prefect executes it, says the vendor's truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyguard.testing.double import VendorDouble
from tests.prefect_matrix import STAGES, WAYS, Cell, Played, Room
from tests.prefect_matrix.matrix import _judged, table, walk
from tests.prefect_matrix.rooms import ROOMS, cells

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FAST = [(room, way) for room, way in cells() if room.is_fast and (way == "@task" or room.play == "submitted")]


def played(wanted: Sequence[tuple[Room, str]], place: Path, api: str) -> None:
    """Play cells, print them, and fail where one is not as it must be."""
    with VendorDouble() as double:
        found = walk([(room, way) for room, way in cells() if (room, way) in wanted], double, place, api)
    text = table(found)
    print(text)
    faults = [(*names, cell.faults) for names, cell in found.items() if cell is not None and cell.faults]

    assert faults == [], text
    if missing := [names for names, cell in found.items() if cell is None]:
        pytest.skip(f"not to be had here: {missing}")


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_a_call_is_paid_by_its_run_or_refused(tmp_path: Path, prefect_server: str) -> None:
    """The short form: bodies, tasks, async tasks, subflows and threads of two runs in one process."""
    played(FAST, tmp_path, prefect_server)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", STAGES)
def test_every_runner_guards_or_refuses(stage: str, tmp_path: Path, prefect_server: str) -> None:
    """Every room of a stage by every way: the right run, or refused; only a process with none of the ways in it does not know."""
    played([(room, way) for room, way in cells() if room.stage == stage], tmp_path, prefect_server)


def test_only_processes_that_were_never_told_are_unguarded() -> None:
    """What the matrix expects to be unguarded: a bare function in a process that Prefect or the user started without a word of the run."""
    unguarded = {(room.name, way) for room in ROOMS for way, outcome in room.expected.items() if outcome == "unguarded"}

    assert unguarded == {
        ("multiprocessing, spawned", "@task"),
        ("run_deployment, .serve()", "@task"),
        ("run_deployment, process worker", "@task"),
    }
    assert {outcome for room in ROOMS for outcome in room.expected.values()} == {"right run", "refused", "unguarded"}


@pytest.mark.parametrize(
    ("paid", "gained", "error", "outcome"),
    [
        (1, {"own": 1}, "", "right run"),
        (1, {"other": 1}, "", "a neighbour's"),
        (1, {}, "", "unguarded"),
        (0, {}, "Unattributed", "refused"),
        (0, {}, "RuntimeError: the worker died", "none"),
        (1, {"own": 1}, "ValueError: late", "right run"),
        (0, {"own": 1}, "Unattributed", "refused"),
    ],
)
def test_the_judge_tells_outcomes_apart(paid: int, gained: dict[str, int], error: str, outcome: str) -> None:
    """By what the vendor executed and what each run's budget gained; a right one that raised, or a refusal that was counted, is a fault."""
    room = Room("r", "here", "body", {"@task": "right run"})
    cell = _judged(room, "@task", Played("own", error), paid * 1_000_000, {run: dollars * 1_000_000 for run, dollars in gained.items()})

    assert cell.outcome == outcome
    assert (cell.faults == ()) is (outcome == "right run" and not error)


def test_the_table_marks_a_fault_in_its_own_cell() -> None:
    """A line a room, a column a way, what could not be had, and the count below."""
    text = table({("body", "@task"): Cell("right run"), ("body", "keyguard"): Cell("unguarded", ("bad",)), ("ray", "@task"): None})
    heads, first, second, total = text.splitlines()

    assert [way in heads for way in WAYS] == [True] * len(WAYS)
    assert (first.split()[:3], first.split()[-1]) == (["body", "right", "run"], "FAULT")
    assert second.split() == ["ray", "not", "here"]
    assert total == "2 cells, 1 as they must be, 1 could not be had here"
