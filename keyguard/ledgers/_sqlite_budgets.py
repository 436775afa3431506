"""The budgets of a SQLite ledger: caps by scope, their windows, and what is left. Decides nothing: the schema refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import apsw

from keyguard.ledgers._sqlite_objects import named
from keyguard.model import Decision, Intent, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyguard.ledgers._sqlite_log import Log
    from keyguard.model import Leg, Money, Order, Unit

_ROWS_KEPT = 10_000

# The rows of a reservation's budgets: of up to three in money, of one in calls, of one in the vendor's own units, and as a JSON list
# whatever has no place in these: a child's call has those of all that its budget lies in.
Legs: TypeAlias = "tuple[int | None, int | None, int | None, int | None, int | None, str | None]"

_FOR_MONEY = 3


class Budgets:
    """The rows of `budget` and `bucket`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._rows: dict[tuple[str, str], int] = {}

    def forget(self) -> None:
        """Drop what is remembered of rows that an undone batch may have made."""
        self._rows.clear()

    def declare(self, scope: str, unit: str, cap: Money | None, *, derived: bool = False) -> None:
        """Set what a scope may spend in each window, from today's on."""
        self._log.execute(
            "INSERT INTO budget (scope, unit, cap, derived) VALUES (?,?,?,?) "
            "ON CONFLICT (scope) DO UPDATE SET cap = excluded.cap, derived = excluded.derived",
            (scope, unit, cap, int(derived)),
        )
        self._log.execute(
            "UPDATE bucket SET cap = ?, derived = ?, top = CASE WHEN ? IS NULL OR top IS NULL THEN NULL ELSE max(top, ?) END "
            "WHERE scope = ? AND win IN ('', ?)",
            (cap, int(derived), cap, cap, scope, self._log.day),
        )
        if not scope.startswith("policy:"):
            self._row(scope, "")

    def rows(self, legs: tuple[Leg, ...], also: Sequence[int] = ()) -> Legs:
        """Return the rows that an order's legs are booked on now, and what it is booked on besides."""
        known, day = self._rows, self._log.day
        money: list[int] = []
        calls = units = None
        above = [*also]
        for leg in legs:
            scope, win = leg.scope, day if leg.per == "day" else ""
            row = known.get((scope, win)) or self._row(scope, win)
            if leg.unit == "usd":
                money.append(row)
            elif leg.unit == "call" and calls is None:
                calls = row
            elif leg.unit == "email" and units is None:
                units = row
            else:
                above.append(row)
        if len(money) > _FOR_MONEY:
            above += money[_FOR_MONEY:]
        first, second, third = (*money, None, None, None)[:_FOR_MONEY]
        return first, second, third, calls, units, str(above) if above else None

    def row(self, leg: Leg) -> int:
        """Return the row that a leg is booked on now."""
        name = (leg.scope, self._log.day if leg.per == "day" else "")
        found = self._rows.get(name)
        return self._row(*name) if found is None else found

    def _row(self, scope: str, win: str) -> int:
        """Return the row of a scope's window, made from its budget when it is new."""
        self._log.execute(
            "INSERT OR IGNORE INTO bucket (scope, win, unit, cap, top, derived) "
            "SELECT scope, ?, unit, cap, cap, derived FROM budget WHERE scope = ?",
            (win, scope),
        )
        row = self._log.execute("SELECT id FROM bucket WHERE scope = ? AND win = ?", (scope, win)).fetchone()
        if row is None:
            # No row: a scope nobody issued cannot be booked on, and the key's check says why.
            return -1
        if len(self._rows) < _ROWS_KEPT:
            self._rows[scope, win] = int(row[0])
        return int(row[0])

    def left(self, scope: str) -> tuple[Money | None, Money | None]:
        """Return a scope's cap and what is left of it; None without a cap."""
        row = self._rows.get((scope, "")) or self._row(scope, "")
        found = self._log.execute("SELECT cap, cap - spent - held - doubt FROM bucket WHERE id = ?", (row,)).fetchone()
        return (None, None) if found is None or found[0] is None else (found[0], max(0, found[1]))

    def is_capped(self, leg: Leg) -> bool:
        """Say whether a leg's budget has a cap."""
        return self._log.execute("SELECT cap FROM bucket WHERE id = ?", (self.row(leg),)).fetchone() != (None,)

    def todays(self, rows: list[int], *units: Unit) -> list[int]:
        """Return those of these rows that count in such units, those of a day as they are today."""
        found: list[Any] = [self._log.execute("SELECT scope, win, unit FROM bucket WHERE id = ?", (row,)).fetchone() for row in rows]
        kept = [(row, scope, win) for row, (scope, win, unit) in zip(rows, found, strict=True) if unit in units]
        return [self._row(scope, self._log.day) if win else row for row, scope, win in kept]

    def why(self, order: Order, amount: Money, also: Sequence[int] = ()) -> Decision:
        """Say which budget does not hold an amount: the order's own first, then those of a reservation whose money it takes over."""
        for row in (*(self.row(leg) for leg in order.legs), *also):
            query = "SELECT scope, win, unit, cap, spent, held, doubt FROM bucket WHERE id = ?"
            found: Any = self._log.execute(query, (row,)).fetchone()
            if found is None:
                break
            scope, win, unit, cap, spent, held, doubt = found
            wanted = {"usd": amount, "call": 1, "email": order.quote.units}[unit]
            if cap is not None and spent + held + doubt + wanted > cap:
                return Decision(
                    granted=False, reason="cap_exceeded", scope=scope, unit=unit, cap=cap, spent=spent, held=held, doubt=doubt,
                    requested=wanted, resets_at=self._log.next_day() if win else None,
                )  # fmt: skip
        raise apsw.ConstraintError("a leg of this order names no budget")

    def usage(self, scope: str) -> Usage | None:
        """Return a scope's figures; a policy's are today's."""
        execute, win = self._log.execute, self._log.day if scope.startswith("policy:") else ""
        row = execute("SELECT cap, spent, held, doubt, overrun FROM bucket WHERE scope = ? AND win = ?", (scope, win)).fetchone()
        if row is None:
            budget = execute("SELECT cap FROM budget WHERE scope = ?", (scope,)).fetchone()
            return None if budget is None else Usage(scope, cap=budget[0])
        cap, spent, held, doubt, overrun = row
        refunded = execute("SELECT spent FROM bucket WHERE scope = ?", (f"refund:{scope}",)).fetchone()
        calls = execute("SELECT spent + held FROM bucket WHERE scope = ?", (f"calls:{scope}",)).fetchone()
        emails = execute("SELECT spent FROM bucket WHERE scope = ?", (f"emails:{scope}",)).fetchone()
        return Usage(
            scope, cap, spent, held, doubt, refunded=refunded[0] if refunded else 0, overrun=overrun, calls=calls[0] if calls else 0,
            emails=emails[0] if emails else 0, intents=self._intents(scope), recurring=self._recurring(scope),
        )  # fmt: skip

    def _home(self, scope: str) -> tuple[str, str]:
        """Return the scope whose charges are booked on a run's budget, and, for a child's, a condition that they are booked on it."""
        found: Any = self._log.execute("SELECT home FROM keys WHERE scope = ? AND home IS NOT NULL", (scope,)).fetchone()
        if found is None:
            return scope, ""
        row = self._row(scope, "")
        return found[0], f"AND ({row} IN (h.leg0, h.leg1, h.leg2) OR {row} IN (SELECT value FROM json_each(h.above)))"

    def _recurring(self, scope: str) -> int:
        home, booked = self._home(scope)
        # As in `Hold.is_repeated`.
        found = self._log.execute(
            f"SELECT count(*) FROM holds h WHERE h.scope = ? AND h.recurring = 1 AND h.state IN ('O', 'U', 'S') {booked}", (home,)
        )
        return int((found.fetchone() or (0,))[0])

    def _intents(self, scope: str) -> tuple[Intent, ...]:
        home, booked = self._home(scope)
        rows = self._log.execute(
            "SELECT (SELECT o.filed FROM objects o WHERE o.scope = h.scope AND o.open_id = h.id), coalesce(h.object_id, h.id), h.held, "
            f"h.operation, h.at FROM holds h WHERE h.scope = ? AND h.state = 'O' {booked} ORDER BY h.at, h.id",
            (home,),
        )
        return tuple(Intent(other if filed is None else named(filed), *rest) for filed, other, *rest in rows)
