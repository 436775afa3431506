"""Every ending of an attempt, by a real fault, with every client: the double's truth file against the ledger, and what the caller gets."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

import keyguard
from tests.endings import Cell, Impossible
from tests.endings.clients import CLIENTS
from tests.endings.faults import FAULTS
from tests.endings.matrix import bare, cells, table, walk
from tests.endings.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.endings import Client, Fault

pytestmark = [
    # Stripe's client hands its body to httpx in the old way.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
# SDKs, and each raw library to one vendor; the same libraries' files with the other vendors' plugs are for .ci/run alone.
_PLAIN = {client.name for client in CLIENTS if client.is_sdk or (client.kind.name == "stripe" and not client.name.startswith("httpx2"))}
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
    wanted = [item.callspec.params for item in request.session.items if hasattr(item, "callspec") and "fault" in item.callspec.params]
    keyguard.uninstall()
    without = {(one["client"].name, one["fault"].name): bare(world, one["client"], one["fault"]) for one in wanted}
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


def test_a_ledger_that_is_wrong_has_a_fault_in_the_cell(walked: object, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix is no formality: where every error is taken for a proof that nothing left, the lost answers are seen to be uncounted."""
    monkeypatch.setattr("keyguard.patches.requests.is_unsent", lambda *_: True)
    client = next(one for one in CLIENTS if one.name == "requests to stripe")
    lost = {fault.name: fault for fault in FAULTS if fault.name in {"closed after executing", "read timeout", "2xx"}}
    found = {name: walk(world, client, fault, ("", 0)).wrong for name, fault in lost.items()}

    assert "the ledger counts 0 of 1" in found["closed after executing"]
    assert "the ledger counts 0 of 1" in found["read timeout"]
    assert not any("the ledger counts" in text for text in found["2xx"])


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
