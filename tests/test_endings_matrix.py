"""Every ending of an attempt, by a real fault, with every client: the double's truth file against the ledger, and what the caller gets."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard.ledgers import open_ledger
from keyguard.model import Outcome
from tests.endings import Cell, Fault, Impossible
from tests.endings.clients import CLIENTS
from tests.endings.faults import FAULTS
from tests.endings.matrix import bare, cells, table, walk
from tests.endings.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.endings import Client

pytestmark = [
    # Stripe's client hands its body to httpx in the old way.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
# SDKs, and one raw library; the other libraries, and the same one with the other vendors' plugs, are for .ci/run alone.
_PLAIN = {client.name for client in CLIENTS if client.is_sdk} | {"httpx_to_stripe"}
POSSIBLE = [(client, fault) for client, fault in cells() if not isinstance(fault.expected(client), Impossible)]


def _marks(client: Client, fault: Fault) -> list[pytest.MarkDecorator]:
    # For a process that is killed all the clients are imported once more.
    return [] if client.name in _PLAIN and not fault.dies else [pytest.mark.ci]


EVERY_CELL = [
    pytest.param(client, fault, id=f"{client.name}-{fault.name}".replace(" ", "_"), marks=_marks(client, fault))
    for client, fault in POSSIBLE
]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Make the vendors, once."""
    with World() as made:
        yield made


@pytest.fixture(scope="module")
def walked(request: pytest.FixtureRequest, world: World) -> Iterator[Callable[[Client, Fault], Cell]]:
    """Make each call that is going to be walked without keyguard first; print the table at the end."""
    asked: list[dict[str, Any]] = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = [(one["client"], one["fault"]) for one in asked if isinstance(one.get("fault"), Fault)]
    keyguard.uninstall()
    without = {(client.name, fault.name): bare(world, client, fault) for client, fault in wanted}
    found: dict[tuple[str, str], Cell] = {}

    def one(client: Client, fault: Fault) -> Cell:
        place = client.name, fault.name
        found[place] = walk(world, client, fault, without[place])
        return found[place]

    yield one
    print(table(found))


@pytest.mark.parametrize(("client", "fault"), EVERY_CELL)
def test_an_attempt_ends_as_the_truth_and_the_proof_say(walked: Callable[[Client, Fault], Cell], client: Client, fault: Fault) -> None:
    """
    What the vendor took is spent or in doubt, at once and when all is quiet; what surely never left, or was refused, is free.

    The caller gets what the client gives without keyguard, and the vendor executes the same.
    """
    assert walked(client, fault).wrong == ()


def test_the_cells_that_cannot_be_are_these() -> None:
    """No client is let off a fault for another reason than its own."""
    found: dict[str, set[str]] = defaultdict(set)
    for client, fault in cells():
        expected = fault.expected(client)
        if isinstance(expected, Impossible):
            found[fault.name].add(client.name)
    names = {client.name for client in CLIENTS}
    raw_httpx, stripe = ({name for name in names if name.startswith(word)} for word in ("httpx", "stripe"))
    awaited = {client.name for client in CLIENTS if client.is_async}
    to_stripe = stripe | {name for name in names if name.endswith("to stripe")}
    try_once = raw_httpx | {name for name in names if name.startswith(("resend", "aiohttp"))} | {"twilio"}

    assert found == {
        "2xx above the quote": names - to_stripe,
        "refused, tries unseen": names - raw_httpx - {"stripe requests", "stripe aiohttp"},
        "pool timeout": names - raw_httpx - {"aiohttp to stripe", "aiohttp to twilio", "aiohttp to resend"},
        "409, key in flight": {"twilio", "twilio async"} | {name for name in names if name.endswith("to twilio")},
        "cancelled before the send": names - awaited,
        "cancelled while waiting": names - awaited,
        "exception injected": awaited,
        "lost, then refused": try_once | {"twilio async"},
        "lost, then declined": names - stripe - {"requests to stripe"},
        "lost, then sent again": try_once,
    }
    assert len(list(cells())) == len(CLIENTS) * len(FAULTS) == len(POSSIBLE) + sum(map(len, found.values()))


@pytest.mark.parametrize(
    ("mutated", "wrongly", "client", "fault"),
    [
        ("keyguard.patches.requests.is_unsent", lambda *_: True, "requests to stripe", "closed after executing"),
        ("keyguard.patches.requests.is_unsent", lambda *_: True, "requests to twilio", "read timeout"),
        ("keyguard.guard._combined", lambda outcomes: outcomes[-1], "stripe requests", "lost, then refused"),
        ("keyguard.guard._DOUBT", Outcome("released"), "stripe httpx", "exception injected"),
    ],
)
def test_a_guard_that_frees_too_much_has_a_fault_in_its_cell(
    world: World, monkeypatch: pytest.MonkeyPatch, mutated: str, wrongly: object, client: str, fault: str
) -> None:
    """The matrix is no formality: a guard that takes an error, the last attempt or the unknown for a proof counts less than the truth."""
    monkeypatch.setattr(mutated, wrongly)
    one, lost = next(one for one in CLIENTS if one.name == client), next(one for one in FAULTS if one.name == fault)

    assert "the ledger counts 0 of 1" in walk(world, one, lost, ("", 0)).wrong


def test_what_is_above_the_quote_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The truth is booked in full, with a WARNING that names the difference."""
    dear = next(one for one in FAULTS if one.name == "2xx above the quote")
    with caplog.at_level("WARNING", "keyguard"):
        cell = walk(world, CLIENTS[0], dear, ("200", 3))

    assert (cell.wrong, cell.spent) == ((), 3)
    assert "cost $2.00 more than was held" in caplog.text


def test_the_books_of_all_cells_can_be_refolded(world: World) -> None:
    """After all of them, the killed processes too, the log alone gives every balance."""
    walk(world, CLIENTS[0], FAULTS[0], ("200", 1))

    assert open_ledger(world.ledger).verify() == []


def test_the_table_marks_a_fault_in_its_own_cell() -> None:
    """A block a vendor, a line a fault, a column a client; below, what reached the callers, why a cell is empty, and the count."""
    lines = table({
        ("twilio", "2xx"): Cell(1, 1, 0, "200"),
        ("twilio async", "2xx"): Cell(1, 0, 0, "200", ("spent: 0, not 1",)),
        ("twilio", "409"): Cell(reason="no keys"),
    }).splitlines()  # fmt: skip

    assert next(line.split() for line in lines if line.startswith("2xx")) == ["2xx", "settled", "1/1", "!released", "1/0"]
    assert next(line for line in reversed(lines) if line.startswith("2xx")).split() == ["2xx", "200", "x", "2"]
    assert "n/a: 409: no keys (x 1)" in lines
    assert lines[-1].startswith("2 cells, 1 without a fault; 1 that cannot be")
