"""Every door in every situation: one reservation a logical call, one more for each further send that may be executed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.doors import Cell, Door, Situation
from tests.doors.matrix import cells, table, walk
from tests.doors.rows import DOORS
from tests.doors.vendors import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    # Stripe's client hands its body to httpx in the old way.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
# httpx2 is guarded by the same file as httpx: its rows are for .ci/run alone.
EVERY_CELL = [
    pytest.param(
        door,
        situation,
        id=f"{door.name}-{situation.name}".replace(" ", "_"),
        marks=[pytest.mark.ci] if door.name.startswith("httpx2") else [],
    )
    for door, situation in cells()
]


@pytest.fixture(scope="module")
def walked() -> Iterator[Callable[[Door, Situation], Cell | None]]:
    """Walk cell by cell; print the table at the end."""
    found: dict[tuple[str, str], Cell | None] = {}
    with World() as world:

        def ask(door: Door, situation: Situation) -> Cell | None:
            # Listed anew for each test, which starts in a clean environment.
            world.list_hosts()
            found[door.name, situation.name] = walk(world, door, situation)
            return found[door.name, situation.name]

        yield ask
    print(table(found))


@pytest.mark.parametrize(("door", "situation"), EVERY_CELL)
def test_a_call_through_a_door_is_counted_once_for_each_time_it_may_be_executed(
    walked: Callable[[Door, Situation], Cell | None], door: Door, situation: Situation
) -> None:
    """Requests, executions, reservations and money agree; refusals are the caller's own; no secret leaves its vendor."""
    cell = walked(door, situation)

    assert cell is None or cell.faults == ()


def test_a_door_that_is_not_guarded_has_a_fault_in_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix is no formality: with the hosts not listed, a raw call is seen to be neither reserved nor refused."""
    door = next(door for door in DOORS if door.name == "requests session")
    with World() as world:
        world.list_hosts()
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", "stripe=elsewhere.invalid")
        found = {situation.name: walk(world, door, situation) for one, situation in cells((door.name,)) if one is door}

    assert [name for name, cell in found.items() if cell is not None and not cell.faults] == ["to nobody", "round"]


def test_the_table_marks_a_fault_in_its_own_cell() -> None:
    """A line a door, a column a situation, and the count below."""
    _, heads, line, total = table({("requests", "plain"): Cell(1, 1), ("requests", "307"): Cell(2, 2, ("kept: 2, not 1",))}).splitlines()

    assert heads.split() == ["door", "plain", "307"]
    assert line.split() == ["requests", "1/1", "ok", "2/2", "FAULT"]
    assert total.startswith("2 cells, 1 without a fault")
