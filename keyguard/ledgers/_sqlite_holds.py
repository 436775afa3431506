"""The reservations of a SQLite ledger: each row, and each change of its three parts with its entry in the log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from keyguard.ledgers._sqlite_budgets import Legs
    from keyguard.ledgers._sqlite_log import Log
    from keyguard.model import Money, Order

State = Literal["R", "O", "U", "S", "X", "A"]
_COLUMNS = (
    "id, key_id, scope, leg0, leg1, leg2, count_leg, vendor, account, method, pot, object_id, adopts, prior, operation, amount, adopted, "
    "spent, held, doubt, overrun, refundable, state, unit_leg, units, recurring, identity, n, generation, tries, at, above"
)
_ADD = "INSERT INTO holds VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,0,?,0,0,0,1,'R',?,?,?,?,?,?,1,?,?,?,?,?,?,?,?)"
# All as of the reservation that the late truth is about, but its id, what it counts (money, and neither calls nor units), and when.
_LATE = (
    "INSERT INTO holds SELECT ?, key_id, version, scope, leg0, leg1, leg2, NULL, vendor, account, operation, method, pot, object_id, 0, "
    "prior, identity, enforce, owner, 0, 0, 0, 0, 0, 0, 0, 1, 'S', ?, NULL, 0, 0, -1, generation, 1, '', principal, "
    "'', '', '', 0, '', (SELECT json_group_array(b.id) FROM json_each(holds.above) a JOIN bucket b ON b.id = a.value "
    "WHERE b.unit = 'usd' HAVING count(*)) FROM holds WHERE id = ?"
)
# What a change may set besides; where it is not named, no trigger of the schema that looks at it runs.
_ALSO = ("refundable = ?", "units = ?", "sent = 0", "payee = ''")
_FRESH_KEPT = 1000
_NOBODY = ("", "", "", 0, "")


class HoldMoved(Exception):
    """A reservation is not in the state it was last seen in: somebody else closed it."""


@dataclass(slots=True)
class Hold:
    """
    A reservation as it is booked; amounts in micro-USD.

    Attributes:
        leg0, leg1, leg2, count_leg, unit_leg: The budgets it is booked on, as rows of `bucket`.
        amount: What was held for it at first.
        adopted: The part of it that an earlier hold gave.
        refundable: What its purchases add to the derived refund cap.
        units: What it counts on `unit_leg` now.
        recurring: 1 where the vendor will charge again by itself.
        identity, n, generation: Of the logical charge; n is -1 where a later request cannot be another attempt of it.
        tries: How many calls were attempts of it.
        at: When it was made, POSIX seconds.
        above: More budgets of a child's, as a JSON list of such rows.
    """

    id: str
    key_id: str
    scope: str
    leg0: int | None
    leg1: int | None
    leg2: int | None
    count_leg: int | None
    vendor: str
    account: str
    method: str
    pot: str
    object_id: str | None
    adopts: int
    prior: Money
    operation: str
    amount: Money
    adopted: Money
    spent: Money
    held: Money
    doubt: Money
    overrun: Money
    refundable: Money
    state: State
    unit_leg: int | None
    units: int
    recurring: int
    identity: str = ""
    n: int = -1
    generation: int = 0
    tries: int = 1
    at: float = 0.0
    above: str | None = None

    @property
    def is_repeated(self) -> bool:
        """Whether the vendor will, or may, charge again by itself: not of a call that was released, or whose hold moved on."""
        return bool(self.recurring) and self.state in {"O", "U", "S"}

    @property
    def legs(self) -> Legs:
        """The budgets, as `Holds.add` takes them."""
        return self.leg0, self.leg1, self.leg2, self.count_leg, self.unit_leg, self.above

    @property
    def rows(self) -> list[int]:
        """The budgets, each once."""
        found: list[int] = json.loads(legs_text(*self.legs))
        return found


@lru_cache(maxsize=4096)
def legs_text(leg0: int | None, leg1: int | None, leg2: int | None, count_leg: int | None, unit_leg: int | None, above: str | None) -> str:
    """Write the rows of a reservation's budgets, money first and a child's further ones last, as a JSON list."""
    found = [leg for leg in (leg0, leg1, leg2, count_leg, unit_leg) if leg is not None]
    return str(found + json.loads(above)) if above is not None else str(found)


@lru_cache
def _change(*also: bool) -> str:
    """Write the statement that gives a reservation new parts, and those of `_ALSO`."""
    more = "".join(f", {one}" for one, is_set in zip(_ALSO, also, strict=True) if is_set)
    return f"UPDATE holds SET state = ?, spent = ?, held = ?, doubt = ?, overrun = ?{more} WHERE id = ? AND state = ? AND tries = ?"


class Holds:
    """The rows of `holds`."""

    def __init__(self, log: Log, owner: str, *, is_idle: bool) -> None:
        self._log, self._owner = log, owner
        # What this process reserved and has not closed yet: most closes need not read it again.
        self._fresh: dict[str, Hold] = {}
        self._are_all_fresh = is_idle
        # Of reservations that other calls have made: the attempts that this process has not closed yet.
        self.attempts: set[str] = set()

    @property
    def is_idle(self) -> bool:
        """Whether this process surely has no reservation, and no attempt of one, that it did not close."""
        return self._are_all_fresh and not self._fresh and not self.attempts

    def forget(self) -> None:
        """Drop what is remembered of an undone batch."""
        self._fresh.clear()
        self.attempts.clear()
        self._are_all_fresh = False

    def left_by(self, owner: str, since: int) -> list[Hold]:
        """Return what a process reserved behind a row of the log and did not close."""
        # Over the log's tail and not by an index on `state`, which every reserve would pay for.
        rows = self._log.execute(
            f"SELECT {_COLUMNS} FROM holds WHERE owner = ? AND state = 'R' AND id IN "
            "(SELECT hold FROM entries WHERE seq > ? AND kind = 'reserve')",
            (owner, since),
        )
        return [Hold(*cast("Any", row)) for row in rows.fetchall()]

    def add(self, order: Order, amount: Money, adopted: Money, legs: Legs, *, n: int = -1, generation: int = 0) -> Hold:
        """
        Book a reservation on all its budgets.

        Raises:
            apsw.ConstraintError: the schema's triggers refuse it ("kg:key", "kg:cap"), or its id is taken.
        """
        quote = order.quote
        leg0, leg1, leg2, count_leg, unit_leg, above = legs
        units = 0 if unit_leg is None else quote.units
        named = order.identity
        identity = named.request if named is not None else ""
        asker = _NOBODY if named is None or n < 0 else (named.execution, named.unit, named.task, named.persists, named.fingerprint)
        hold = Hold(
            order.reservation_id, order.key_id, order.scope, leg0, leg1, leg2, count_leg, order.vendor, order.account, order.method,
            quote.pot, quote.object_id, quote.adopts, quote.prior, order.operation, amount, adopted, 0, amount, 0, 0, 0, "R",
            unit_leg, units, quote.recurring, identity, n, generation, 1, self._log.at, above,
        )  # fmt: skip
        self._log.execute(
            _ADD,
            (
                hold.id, hold.key_id, order.version, hold.scope, leg0, leg1, leg2, count_leg, hold.vendor, hold.account, hold.operation,
                hold.method, hold.pot, hold.object_id, hold.adopts, hold.prior, identity, order.enforce and order.is_capped, self._owner,
                amount, adopted, amount, self._log.at, unit_leg, units, quote.recurring, n, generation, order.payee, order.principal,
                *asker, above,
            ),
        )  # fmt: skip
        if len(self._fresh) >= _FRESH_KEPT:
            self.forget()
        self._fresh[hold.id] = hold
        return hold

    def taken(self, reservation_id: str) -> Hold | None:
        """Return, once, a reservation that this process made; `change` finds out whether it is still as it was."""
        return self._fresh.pop(reservation_id, None)

    def share(self, hold: Hold) -> None:
        """Count one more attempt of a reservation; whoever remembers it as it was finds it moved."""
        self._log.execute("UPDATE holds SET tries = tries + 1 WHERE id = ?", (hold.id,))
        hold.tries += 1
        if hold.id in self._fresh:
            self._fresh[hold.id] = hold

    def add_late(self, hold: Hold, spent: Money, held: Money, detail: dict[str, Any]) -> Hold:
        """Book what came to light after a reservation was over, as overrun on its own windows."""
        late_id = f"{hold.id}+{self.late(hold)[0] + 1}"
        self._log.execute(_LATE, (late_id, self._log.at, hold.id))
        found = self.find(late_id)
        assert found is not None
        self.change(found, "late", "O" if held else "S", spent, held, 0, detail, bought=spent)
        return found

    def late(self, hold: Hold) -> tuple[int, Money]:
        """Return how often, and how much, came to light after a reservation was over."""
        # A range of the primary key: ids that begin with the reservation's and a `+`.
        row = self._log.execute(
            "SELECT count(*), coalesce(sum(spent), 0) FROM holds WHERE id > ? || '+' AND id < ? || ','", (hold.id, hold.id)
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def find(self, reservation_id: str) -> Hold | None:
        """Read a reservation."""
        row = self._log.execute(f"SELECT {_COLUMNS} FROM holds WHERE id = ?", (reservation_id,)).fetchone()
        return None if row is None else Hold(*row)

    def change(
        self, hold: Hold, kind: str, state: State, spent: Money, held: Money, doubt: Money, detail: dict[str, Any], *,
        bought: Money = 0, units: int | None = None,
    ) -> None:  # fmt: skip
        """
        Give a reservation new parts; the schema moves the differences to its own windows.

        `bought` may be refunded; `units` is what it counts from now on, None = as before. With `unsent` or `moved` in the detail it
        is no call any more: no byte of it left, or it is counted with the reservation that its charge has now.

        Raises:
            HoldMoved: it was closed by somebody else; nothing was written.
        """
        overrun = max(0, spent + held + doubt - hold.amount)
        refundable = hold.refundable + (bought if hold.pot == "run" else 0)
        counted = hold.units if units is None else units
        is_sold, is_recounted = refundable != hold.refundable, counted != hold.units
        also = (refundable,) * is_sold + (counted,) * is_recounted
        # Whom the call pays is asked of the vendor only while it is in doubt.
        statement = _change(is_sold, is_recounted, "unsent" in detail or "moved" in detail, state != "U")
        self._log.execute(statement, (state, spent, held, doubt, overrun, *also, hold.id, hold.state, hold.tries))
        if self._log.db.changes() != 1:
            raise HoldMoved(hold.id)
        hold.state, hold.spent, hold.held, hold.doubt, hold.overrun, hold.refundable = state, spent, held, doubt, overrun, refundable
        hold.units = counted
        self.log_change(hold, kind, detail)

    def log_change(self, hold: Hold, kind: str, detail: dict[str, Any]) -> None:
        """Append what became of a reservation to the log."""
        if hold.unit_leg is not None:
            detail = {**detail, "units": hold.units}
        about = (hold.id, hold.key_id, hold.scope, hold.operation, legs_text(*hold.legs))
        self._log.append(kind, about, hold.amount, hold.spent, hold.held, hold.doubt, detail)
