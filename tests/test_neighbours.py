"""Beside every library that patches the same clients, in every order: one reservation a call, or refused, and nothing left behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from keyguard.patches import live_seams
from tests.neighbours import ALONE, ORDERS, Cell, Order, known_neighbours
from tests.neighbours.canary import CANARIES
from tests.neighbours.clients import CLIENTS
from tests.neighbours.matrix import Found, run, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class _Known:
    """
    A fault of keyguard's that is known, and where it is expected; anything else in the same cell still fails.

    Attributes:
        neighbour, orders, client: Patterns of what is meant.
        faults: A pattern that the fault's sentence begins with.
        reason: Why it happens.
    """

    neighbour: str
    orders: str
    client: str
    faults: str
    reason: str

    def covers(self, neighbour: str, order: str, client: str, fault: str) -> bool:
        """Say whether this is it."""
        cell = ((self.neighbour, neighbour), (self.orders, order), (self.client, client))
        return all(re.fullmatch(pattern, text) for pattern, text in cell) and re.match(self.faults, fault) is not None


_UNGUARDED = r"alone: (reservations|micro-USD|UNGUARDED|a refused call changed)"
KNOWN = (
    _Known(
        "ddtrace", "before-before", r"httpx(-async)?", _UNGUARDED,
        "ddtrace's unpatch() strips keyguard's wrapper from httpx's _send_single_request, and no other seam looks after a raw httpx call",
    ),
    _Known(
        "sdk_wrapper", "before-before", "stripe-requests", _UNGUARDED,
        "without the SDK's seam a Stripe call over requests has none: requests has no wire seam yet",
    ),
    _Known(
        "sdk_wrapper", "before-.*", "stripe-.*", "(both|alone): seen by the neighbour: 0",
        "the Stripe seam calls the innermost function (`__func__` passes through every wrapper), not the wrapper below its own",
    ),
)  # fmt: skip


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
        marks = [pytest.mark.peers] if name in ALONE else []
        for client in CLIENTS:
            for order in ORDERS:
                yield pytest.param(name, client.name, order, id=f"{client.name}-{name}-{order.name}", marks=marks)


@pytest.mark.parametrize(("neighbour", "client", "order"), list(_cells()))
def test_a_call_beside_a_neighbour_is_charged_once_or_refused(
    walked: Callable[[str], Found], neighbour: str, client: str, order: Order
) -> None:
    """One reservation a call, right cost and answer, refusals as themselves, live seams told truly, nothing of ours left behind."""
    cell = walked(neighbour)[order.name, client]
    known = {fault: one for fault in cell.faults for one in KNOWN if one.covers(neighbour, order.name, client, fault)}

    assert [fault for fault in cell.faults if fault not in known] == []
    assert cell.calls == (2 if order.leaves_first else 1)
    assert cell.reservations == cell.calls or known
    if known:
        pytest.xfail("; ".join({one.reason for one in known.values()}))


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.neighbour}, {known.faults}")
def test_every_known_fault_is_still_there(walked: Callable[[str], Found], known: _Known) -> None:
    """A fault that was mended is taken off the list."""
    names = [name for name in known_neighbours() if re.fullmatch(known.neighbour, name)]
    faults = [(name, *key, fault) for name in names for key, cell in walked(name).items() for fault in cell.faults]

    assert any(known.covers(*fault) for fault in faults)


def test_every_seam_that_a_client_passes_has_a_canary() -> None:
    """A seam that is added beside a client of the table is tried there too."""
    layers = frozenset().union(*(client.layers for client in CLIENTS))
    passed = {name for name in live_seams() if name.partition(".")[0] in layers}

    assert passed == set(CANARIES)


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
