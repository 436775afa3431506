"""Planted mistakes of the ledger, each of one rule; see `mutants.py`."""

# Mistakes are planted in private places, by functions of any shape.
# pyright: reportPrivateUsage=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from keyguard import policy
from keyguard.backends._ledgered import LedgerBackend
from keyguard.identity import verdict
from keyguard.ledgers import _sqlite_reserve as reserving
from keyguard.ledgers import sqlite
from keyguard.ledgers._sqlite_charges import Charges
from keyguard.ledgers._sqlite_children import Children
from keyguard.ledgers._sqlite_close import Closes
from keyguard.ledgers._sqlite_holds import Hold, Holds
from keyguard.ledgers._sqlite_keys import Keys
from keyguard.ledgers._sqlite_log import Log
from keyguard.ledgers._sqlite_objects import Objects
from keyguard.ledgers._sqlite_reserve import Reserves
from keyguard.ledgers._sqlite_schema import migrations
from keyguard.model import Decision, Outcome, Receipt
from keyguard.testing.simulator.mutants import OF_GUARD, Mutant, replaced, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.ledgers._sqlite_owners import Owners
    from keyguard.model import Closing, Order

_of = {name: vars(owner)[name] for owner, names in {
    Closes: ("_closed", "_settle", "_buy", "_after_the_end", "_give_back"),
    Holds: ("change",),
    Log: ("begin", "append"),
    LedgerBackend: ("find", "reserve"),
    policy: ("legs",),
    Reserves: ("_refused", "_attempted"),
}.items() for name in names}  # fmt: skip
_FITS = "(NOT NEW.enforce OR cap IS NULL"
_FITS_WHERE_A_CHILD_ASKS = "(scope = (SELECT home FROM keys WHERE key_id = NEW.key_id) OR NOT NEW.enforce OR cap IS NULL"
_CHECKED = "AND (NOT NEW.enforce OR cap IS NULL OR spent + held + doubt + NEW.held <= cap)"


def _schema(change: Callable[[str], str]) -> Any:
    """Return what gives every new ledger another schema."""
    return replacing(sqlite, "migrations", lambda: {number: change(text) for number, text in migrations().items()})


def _settles_twice(self: Closes, hold: Hold, closing: Closing) -> Receipt:
    if hold.state == "S" and closing.outcome.ending == "settled":
        self._holds.change(hold, "settle", "S", 2 * hold.spent, 0, 0, {})
    receipt: Receipt = _of["_closed"](self, hold, closing)
    return receipt


def _change_on_today(self: Holds, hold: Hold, *args: Any, **more: Any) -> None:
    log = self._log
    today = "SELECT id FROM bucket WHERE win = ? AND scope = (SELECT scope FROM bucket WHERE id = leg1)"
    log.execute(f"UPDATE holds SET leg1 = coalesce(({today}), leg1) WHERE id = ?", (log.day, hold.id))  # noqa: S608 -- a constant
    _of["change"](self, hold, *args, **more)


def _change_up_to_the_hold(
    self: Holds, hold: Hold, kind: str, state: Any, spent: int, held: int, doubt: int, *args: Any, **more: Any
) -> None:
    spent = min(spent, max(0, hold.amount - held - doubt))
    _of["change"](self, hold, kind, state, spent, held, doubt, *args, **more)


def _attempted_unseen(self: Reserves, *args: Any) -> Decision:
    with replaced(Keys, "why", lambda _self, _order: ""):
        decision: Decision = _of["_attempted"](self, *args)
    return decision


def _adopted_stays(self: Holds, hold: Hold, kind: str, state: Any, spent: int, held: int, doubt: int, *args: Any, **more: Any) -> None:
    _of["change"](self, hold, kind, state, spent, hold.held if kind == "adopt" else held, doubt, *args, **more)


def _release_all(self: Closes, hold: Hold, detail: dict[str, Any]) -> None:
    self._holds.change(hold, "release", "X", 0, 0, 0, detail, units=0)
    self._charges.end_generation(hold)


def _refund_gives_back(self: Closes, hold: Hold, outcome: Outcome, detail: dict[str, Any]) -> None:
    _of["_settle"](self, hold, outcome, detail)
    if hold.pot == "refund":
        self._holds._log.execute("UPDATE bucket SET spent = max(0, spent - ?) WHERE scope = ?", (outcome.cost, hold.scope))


def _refund_as_new(self: Closes, *args: Any) -> None:
    with replaced(Objects, "find", lambda *_: None):
        _of["_give_back"](self, *args)


def _free_the_dead(self: Closes, owners: Owners) -> None:
    for owner, since in owners.dead():
        for hold in self._holds.left_by(owner, since):
            self._end(hold, Outcome("released", source="local"), {"ended": owner})
        self._buried.append(owner)


def _count_replays(self: Closes, hold: Hold, outcome: Outcome) -> Receipt:
    for fact in outcome.facts if outcome.ending == "settled" else ():
        self._holds.change(hold, "settle", hold.state, hold.spent + fact.spent, hold.held, hold.doubt, {})
    receipt: Receipt = _of["_after_the_end"](self, hold, outcome)
    return receipt


def _begin_at_the_clock(self: Log, *, is_known: bool) -> None:
    _of["begin"](self, is_known=is_known)
    self.at = self._clock()
    self._day_ends, self.day = (self.at // 86_400 + 1) * 86_400, datetime.fromtimestamp(self.at, timezone.utc).strftime("%Y-%m-%d")


def _append_no_raise(self: Log, kind: str, *args: Any) -> None:
    if kind != "raise":
        _of["append"](self, kind, *args)


def _refused_keeps(self: Reserves, order: Order, amount: int, message: str, *also: Any) -> Decision:
    decision: Decision = _of["_refused"](self, order, amount, message, *also)
    self._log.execute("UPDATE bucket SET held = held + ? WHERE scope = ? AND win = ''", (amount, order.scope))
    return decision


def _without_account(name: str) -> Any:
    real = vars(Objects)[name]
    return replaced(Objects, name, lambda self, place, *args, **more: real(self, (*place[:2], ""), *args, **more))


@contextlib.contextmanager
def _objects_without_account() -> Iterator[None]:
    with _without_account("find"), _without_account("learn"), _without_account("reopen"), _without_account("refund"):
        yield


@contextlib.contextmanager
def _check_then_add() -> Iterator[None]:
    """Look at the balance when the key is found, and add in a later step."""
    seen: dict[str, tuple[Any, ...]] = {}

    def find(self: LedgerBackend, **names: Any) -> Any:
        key = _of["find"](self, **names)
        ledger: Any = self.ledger
        if key is not None and ledger.books is not None:
            row = ledger.books.log.execute(
                "SELECT cap, spent, held, doubt FROM bucket WHERE scope = ? AND win = ''", (key.scope,)
            ).fetchone()
            seen[key.scope] = row or (None, 0, 0, 0)
        return key

    def reserve(self: LedgerBackend, order: Order, ticket: Any) -> Decision:
        cap, spent, held, doubt = seen.get(order.scope, (None, 0, 0, 0))
        if cap is not None and spent + held + doubt + order.quote.amount > cap:
            return Decision(granted=False, reason="cap_exceeded", scope=order.scope, cap=cap, spent=spent, held=held, doubt=doubt)
        decision: Decision = _of["reserve"](self, order, ticket)
        return decision

    unchecked = _schema(lambda text: text.replace(_CHECKED, ""))
    with unchecked(), replaced(LedgerBackend, "find", find), replaced(LedgerBackend, "reserve", reserve):
        yield


MUTANTS = {mutant.name: mutant for mutant in (
    *OF_GUARD,
    Mutant("check-then-add", "what fits is looked up in one step, and added in another", _check_then_add),
    Mutant("settle-twice", "a close that is repeated books its cost again", replacing(Closes, "_closed", _settles_twice)),
    Mutant("day-window-on-settle", "a close posts to today's window", replacing(Holds, "change", _change_on_today)),
    Mutant("overrun-capped-at-hold", "no more is booked than was held", replacing(Holds, "change", _change_up_to_the_hold)),
    Mutant("402-releases-adopted-hold", "a declined confirm frees what its intent held", replacing(Closes, "_release", _release_all)),
    Mutant(
        "adoption-without-release-rule", "one refused attempt frees the money of all attempts",
        replacing(Charges, "others", lambda _self, _hold, _attempt: set[str]()),
    ),
    Mutant(
        "generation-without-cas", "whoever was refused advances the generation, also where another has already",
        replacing(
            reserving, "verdict",
            lambda identity, first, state, at, now: "next" if state == "open" else verdict(identity, first, state, at, now),
        ),
    ),
    Mutant(
        "window-ignored", "a key is sent again after the vendor may have forgotten it",
        replacing(reserving, "verdict", lambda identity, first, state, at, _now: verdict(identity, first, state, at, at)),
    ),
    Mutant("refund-gives-cap-back", "a refund lets the run spend again", replacing(Closes, "_settle", _refund_gives_back)),
    Mutant("refund-counted-again", "a refund that is replayed is counted once more", replacing(Closes, "_give_back", _refund_as_new)),
    Mutant("dead-owner-releases", "what a killed process held is free", replacing(Closes, "doubt_the_dead", _free_the_dead)),
    Mutant("replay-counted-twice", "the answer of a repeated request is booked again", replacing(Closes, "_after_the_end", _count_replays)),
    Mutant("ledger-clock-goes-back", "the ledger's time is the machine's", replacing(Log, "begin", _begin_at_the_clock)),
    Mutant("raise-not-logged", "a raised cap is not in the log", replacing(Log, "append", _append_no_raise)),
    Mutant("refusal-keeps-hold", "what was refused stays held", replacing(Reserves, "_refused", _refused_keeps)),
    Mutant("objects-without-account", "one object's id means the same in two accounts", _objects_without_account),
    Mutant(
        "revoke-not-checked", "a reserve does not look at its key",
        _schema(lambda text: text.replace("SELECT RAISE(ABORT, 'kg:key') WHERE", "SELECT 1 WHERE")),
    ),
    Mutant("attempt-of-a-revoked-key", "another attempt does not look at its key", replacing(Reserves, "_attempted", _attempted_unseen)),
    Mutant("adoption-holds-twice", "what is adopted stays held beside the call that adopts it", replacing(Holds, "change", _adopted_stays)),
    Mutant(
        "childs-leg-only", "a child's call is not charged to what its budget lies in",
        replacing(policy, "legs", lambda key, quote: _of["legs"](replace(key, parent=None), quote)),
    ),
    Mutant(
        "parents-cap-not-checked", "a child's call is charged to its run also where that has no room",
        _schema(lambda text: text.replace(_FITS, _FITS_WHERE_A_CHILD_ASKS)),
    ),
    Mutant(
        "adoption-frees-the-child", "what a child has opened is its money no more once its run goes on with it",
        replacing(Reserves, "_also", lambda _self, _earlier, _order: list[int]()),
    ),
    Mutant(
        "child-by-execution", "each execution gives a child a budget of its own",
        replacing(Children, "known", lambda self, child: self.of_run(child)),
    ),
    Mutant("cap-off-by-one", "what fits exactly is refused", _schema(lambda text: text.replace("+ NEW.held <= cap", "+ NEW.held < cap"))),
)}  # fmt: skip
