"""What a SQLite ledger knows of vendor objects that cost money: by any of their names, for one scope and account."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyguard.ledgers._sqlite_log import Log
    from keyguard.model import Fact, Money

Place = tuple[str, str, str]
_COLUMNS = "alias_of, own, total, amount, refunded, status, open_id, last_id, currency"
_HERE = "scope = ? AND vendor = ? AND account = ?"
_FIND = f"SELECT {_COLUMNS} FROM objects WHERE {_HERE} AND filed = ?"

_ANYWHERE = "SELECT scope FROM objects WHERE scope IN (SELECT scope FROM keys) AND vendor = ? AND account = ? AND filed = ?"


@dataclass(slots=True)
class Known:
    """
    One object; amounts in micro-USD.

    Attributes:
        alias_of: The object whose money it is, where this is another name of it.
        own: What this scope spent on it; `total`, its total at the vendor when last seen.
        open_id: The reservation that holds what it may still cost; `last_id`, the one that bought it.
    """

    object_id: str
    alias_of: str | None
    own: Money
    total: Money
    amount: Money
    refunded: Money
    status: str
    open_id: str | None
    last_id: str | None
    currency: str


class Objects:
    """The rows of `objects`; a place is (scope, vendor, account)."""

    def __init__(self, log: Log) -> None:
        self._execute = log.execute

    def find(self, place: Place, *names: str) -> Known | None:
        """Return the object that one of the names stands for; the first name that is known decides."""
        # One seek a name: a list (`IN`) would cost more than both.
        for name in names:
            row = self._execute(_FIND, (*place, filed(name))).fetchone()
            if row is not None:
                found = Known(name, *row)
                return found if found.alias_of is None else self.find(place, found.alias_of)
        return None

    def buyers(self, vendor: str, account: str, name: str) -> set[str]:
        """Return the reservations, of whatever scope, that have bought an object, by any of its names."""
        # By the scopes of all keys: one seek each, where the scope comes first in the table's order.
        rows: list[Any] = self._execute(_ANYWHERE, (vendor, account, filed(name))).fetchall()
        roots = (self.find((scope, vendor, account), name) for (scope,) in rows)
        return {root.last_id for root in roots if root is not None and root.last_id is not None}

    def learn(
        self, place: Place, fact: Fact, known: Known | None, *, own: Money, total: Money, open_id: str | None, last_id: str | None
    ) -> None:
        """Remember what a reply said; `own` is added to what the scope spent on it."""
        root = known.object_id if known is not None else fact.object_id
        values = [*place, filed(root), None, own, total, fact.amount, fact.status, open_id, last_id, fact.currency]
        aliases = {fact.object_id, *fact.aliases} - {root}
        for alias in aliases:
            values += [*place, filed(alias), root, 0, 0, 0, "", None, None, fact.currency]
        self._execute(_learning(1 + len(aliases)), values)

    def reopen(self, place: Place, name: str, open_id: str | None) -> None:
        """Say which reservation holds an object's open money, if any."""
        self._execute(f"UPDATE objects SET open_id = ? WHERE {_HERE} AND filed = ?", (open_id, *place, filed(self._root(place, name))))

    def refund(self, place: Place, name: str, amount: Money) -> None:
        """Add to what was given back of an object."""
        self._execute(
            f"UPDATE objects SET refunded = refunded + ? WHERE {_HERE} AND filed = ?", (amount, *place, filed(self._root(place, name)))
        )

    def _root(self, place: Place, name: str) -> str:
        found = self.find(place, name)
        return name if found is None else found.object_id


def filed(name: str) -> str:
    """
    Return the form under which an object's name is kept: `3Mtw…_pi` for `pi_3Mtw…`.

    The ids of a payment's objects differ in their prefix and their end: by what they have in common first they lie on one page.
    """
    prefix, mark, rest = name.partition("_")
    return f"{rest}_{prefix}" if mark else name


def named(filed_name: str) -> str:
    """Return the name that is kept in this form."""
    rest, mark, prefix = filed_name.rpartition("_")
    return f"{prefix}_{rest}" if mark else filed_name


@cache
def _learning(count: int) -> str:
    row = "(?,?,?,?,?,?,?,?,?,?,?,?)"
    return (
        "INSERT INTO objects (scope, vendor, account, filed, alias_of, own, total, amount, status, open_id, last_id, currency) "
        f"VALUES {', '.join([row] * count)} ON CONFLICT (scope, vendor, account, filed) DO UPDATE SET "
        "own = own + excluded.own, total = excluded.total, amount = excluded.amount, status = excluded.status, "
        "open_id = excluded.open_id, last_id = excluded.last_id, currency = excluded.currency WHERE excluded.alias_of IS NULL"
    )
