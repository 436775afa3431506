"""Beside every library that patches the same clients, in every order: one reservation a call, or refused, and nothing left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keyguard.patches import live_seams
from tests.neighbours import ALONE, ORDERS, Cell, Order, known_neighbours, neighbour_named
from tests.neighbours.canary import CANARIES
from tests.neighbours.clients import CLIENTS
from tests.neighbours.matrix import Found, run, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# The first cell that is asked for waits for all walks.
pytestmark = pytest.mark.timeout(360)
# The plain run has one that takes away what is outermost (opentelemetry), one that answers itself (vcrpy_replay), and one that wraps
# the SDK's own methods (sdk_wrapper); those that do as one of these are for .ci/run.
LATER = frozenset({"ddtrace", "pytest_httpx", "responses", "respx", "sentry", "vcrpy_record"})
SEAMS = {client.name: client.seam for client in CLIENTS}


@pytest.fixture(scope="session")
def walked(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Found]]:
    """Walk beside all neighbours of this session at once, when the first cell is asked for; print the table at the end."""
    chosen = {item.callspec.params.get("neighbour") for item in request.session.items if hasattr(item, "callspec")}
    found: dict[str, Found] = {}

    def ask(name: str) -> Found:
        if name not in found:
            found.update(run([one for one in known_neighbours() if one == name or (one in chosen and one not in found)]))
        return found[name]

    yield ask
    print(table(found))


def _cells() -> Iterator[Any]:
    for name in known_neighbours():
        marks = [pytest.mark.peers] if name in ALONE else [pytest.mark.ci] if name in LATER else []
        for client in CLIENTS:
            for order in ORDERS:
                yield pytest.param(name, client.name, order, id=f"{client.name}-{name}-{order.name}", marks=marks)


@pytest.mark.parametrize(("neighbour", "client", "order"), list(_cells()))
def test_a_call_beside_a_neighbour_is_charged_once_or_refused(
    walked: Callable[[str], Found], neighbour: str, client: str, order: Order
) -> None:
    """One reservation a call, right cost and answer, refusals as themselves, live seams told truly, nothing of ours left behind."""
    cell = walked(neighbour)[order.name, client]

    assert cell.faults == ()
    is_answered = SEAMS[client] in neighbour_named(neighbour).hides and neighbour_named(neighbour).answers
    assert cell.calls == (2 if order.leaves_first else 1) - is_answered
    assert cell.reservations == cell.calls


def test_every_seam_that_a_client_passes_has_a_canary() -> None:
    """A seam that is added beside a client of the table is tried there too."""
    layers = frozenset().union(*(client.layers for client in CLIENTS))
    passed = {name for name in live_seams() if name.partition(".")[0] in layers}

    assert passed == set(CANARIES)


@pytest.mark.ci
def test_a_guard_that_was_put_out_of_action_is_noticed_in_every_cell() -> None:
    """The walk is no formality: beside a saboteur that comes after keyguard, every client's call is seen to be unguarded."""
    found = run(["_saboteur"])["_saboteur"]
    noticed = {(order, client) for (order, client), cell in found.items() if any("UNGUARDED" in fault for fault in cell.faults)}

    assert noticed == {(order.name, client.name) for order in ORDERS if not order.is_inner for client in CLIENTS}


def test_the_table_has_a_line_for_each_client_and_a_column_for_each_order() -> None:
    """A fault is marked in its own cell, and counted below."""
    cells = {(order.name, "httpx"): Cell(2, 2) for order in ORDERS}
    cells[ORDERS[0].name, "httpx"] = Cell(2, 1, ("alone: UNGUARDED",))
    _, heads, line, total = table({"ddtrace": cells}).splitlines()

    assert [heads.count(order.name) for order in ORDERS] == [1, 1, 1, 1]
    assert line.split() == ["httpx", "ddtrace", "1/2", "FAULT", "2/2", "ok", "2/2", "ok", "2/2", "ok"]
    assert total.startswith("4 cells, 3 without a fault")
