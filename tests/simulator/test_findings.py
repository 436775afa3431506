"""What the simulator has found, each reduced to the fewest operations of a ledger."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import apsw
import pytest

from keyguard.errors import LedgerUnavailable
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.model import Fact, Quote
from keyguard.testing._till import Till, open_till, parts

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_held_before_a_shut_is_in_doubt_when_its_process_has_ended(tmp_path: Path) -> None:
    """A handle that was put away with a call open (as at every fork) and used again still leaves that call to whoever comes next."""
    path = tmp_path / "ledger.db"
    first = open_till(SqliteLedger(path), run_usd_cap=1000)
    first.hold(20)
    first.ledger.shut()
    first.hold(3)
    # A handle that is collected is as dead as its process.
    del first
    gc.collect()
    other = Till(SqliteLedger(path), "run-1", prefix="other/")

    assert parts(other.usage) == (0, 0, 23)


def test_an_undone_batch_does_not_lose_the_first_hold_after_it(tmp_path: Path) -> None:
    """A process whose first reserve buried a dead one, and was undone, leaves what it reserves next to whoever comes next."""
    path, full = tmp_path / "ledger.db", [False]

    def strike(step: str) -> None:
        if full[0] and step == "written":
            full[0] = False
            raise apsw.FullError("simulated")

    first = open_till(SqliteLedger(path), run_usd_cap=1000)
    first.hold(20)
    del first
    gc.collect()
    second = Till(SqliteLedger(path, on_step=strike), "run-1", prefix="second/")
    order = second.order(Quote(1))
    full[0] = True
    with pytest.raises(LedgerUnavailable):
        second.ledger.reserve(order)
    second.hold(3)
    del second
    gc.collect()
    third = Till(SqliteLedger(path), "run-1", prefix="third/")

    assert parts(third.usage) == (0, 0, 23)


def test_an_older_answer_does_not_lower_an_open_hold() -> None:
    """The replay of a create, which shows the intent as it was before it was raised, leaves held what it may cost now."""
    till = open_till(SqliteLedger(None), run_usd_cap=1000)
    till.open_intent("pi_1", 10)
    raised = till.hold(25, object_id="pi_1")
    till.settle(raised, 0, Fact("pi_1", 0, 25, 25, status="requires_confirmation"))
    till.open_intent("pi_1", 10)

    assert parts(till.usage) == (0, 25, 0)
