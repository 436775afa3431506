"""The log of a SQLite ledger: its transactions, its time, and the append-only rows chained by hash. Knows no money."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

import apsw

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Money, Order

_logger = logging.getLogger("keyguard")
_BACKWARDS_SECONDS = 3600
_FIELDS = ("seq", "at", "kind", "hold", "key_id", "scope", "operation", "legs", "amount", "spent", "held", "doubt", "detail", "hash")
_ENTER = "INSERT INTO entries VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_quoted = json.encoder.encode_basestring_ascii
_SUPPRESSED_KEPT = 1000

# What a row is about: the reservation, its key, scope, operation and budgets.
About: TypeAlias = "tuple[str | None, str | None, str | None, str | None, str | None]"


class LogMoved(Exception):
    """The log has rows that its last writer did not count: it was killed in between, or is not one of us."""


class Log:
    """
    One connection's view of the log. Not thread-safe: the queue runs one batch at a time.

    Attributes:
        execute: Runs one statement; the next one ends it.
        at: The ledger's time in the current batch: POSIX seconds, never below the last entry's.
        day: The UTC date of `at`.
    """

    def __init__(self, db: apsw.Connection, clock: Callable[[], float]) -> None:
        # One cursor for everything: a connection's own `execute` makes a new one each time, for a third of a small statement's cost.
        # Whoever runs another statement before the last row fetches all rows first.
        self.db, self.execute, self._clock = db, db.cursor().execute, clock
        self._has_warned = self._is_known = False
        self._seq, self._hash, self.at, self.day, self._day_ends = 0, b"", 0.0, "", 0.0
        self._suppressed: dict[tuple[str, str], tuple[float, int]] = {}

    def begin(self, *, is_known: bool) -> None:
        """Open the batch's transaction; read where the log stands, unless nobody else wrote since, and what time it is."""
        if self.db.in_transaction:
            # An interrupt struck while the last batch was being undone.
            self.rollback()
        self.execute("BEGIN IMMEDIATE")
        if not (is_known and self._is_known):
            head = self.execute("SELECT seq, at, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
            self._seq, last, self._hash = head or (0, 0.0, b"")
            self.at = max(last, self.at)
        now = self._clock()
        if now > self.at:
            self.at = now
        elif self.at - now > _BACKWARDS_SECONDS and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "the clock is %.0f s behind the ledger's last entry; windows and expiry stay at the ledger's time", self.at - now
            )
        if self.at >= self._day_ends:
            self._day_ends = (self.at // 86_400 + 1) * 86_400
            self.day = datetime.fromtimestamp(self.at, timezone.utc).strftime("%Y-%m-%d")

    def commit(self) -> None:
        """Commit the batch."""
        self.execute("COMMIT")
        self._is_known = True

    def rollback(self) -> None:
        """Undo the batch."""
        self._is_known = False
        if self.db.in_transaction:
            self.execute("ROLLBACK")

    def next_day(self) -> float:
        """Return when the day's windows end: POSIX seconds."""
        today = datetime.strptime(self.day, "%Y-%m-%d").replace(tzinfo=timezone.utc)
        return (today + timedelta(days=1)).timestamp()

    def enter(
        self, kind: str, *, key_id: str | None = None, scope: str | None = None, operation: str | None = None,
        amount: Money | None = None, detail: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Append one row that is about no reservation."""
        self.append(kind, (None, key_id, scope, operation, None), amount, None, None, None, detail or {})

    def append(
        self, kind: str, about: About, amount: Money | None, spent: Money | None, held: Money | None, doubt: Money | None,
        detail: dict[str, Any],
    ) -> None:  # fmt: skip
        """
        Append one row.

        Raises:
            LogMoved: somebody else appended since the log's end was read.
        """
        seq = self._seq = self._seq + 1
        text = _written(detail) if detail else "{}"
        hold, *rest = about
        # As `chained` would have it.
        row = f"[{seq}, {self.at!r}, {kind!r}, {hold!r}, {_listed(*rest)}, {amount}, {spent}, {held}, {doubt}, {text!r}]"
        self._hash = sha256(self._hash + row.encode()).digest()
        try:
            self.execute(_ENTER, (seq, self.at, kind, *about, amount, spent, held, doubt, text, self._hash))
        except apsw.ConstraintError as error:
            raise LogMoved from error

    def mark(self) -> tuple[int, bytes]:
        """Return where the log stands, for `back_to` after a savepoint was undone."""
        return self._seq, self._hash

    def back_to(self, mark: tuple[int, bytes]) -> None:
        """Forget the rows after a mark, which the savepoint took with it."""
        self._seq, self._hash = mark

    def refuse(self, order: Order, reason: str, detail: dict[str, Any]) -> None:
        """Log a refusal; a loop of them writes one row a second and counts the rest."""
        name = (order.key_id, reason)
        last, count = self._suppressed.get(name, (float("-inf"), 0))
        if self.at - last < 1:
            self._suppressed[name] = (last, count + 1)
            return
        if len(self._suppressed) > _SUPPRESSED_KEPT:
            self._suppressed.clear()
        self.enter(
            "refuse", key_id=order.key_id, scope=order.scope, operation=order.operation, amount=order.quote.amount,
            detail={"reason": reason, **detail, **({"suppressed": count} if count else {})},
        )  # fmt: skip
        self._suppressed[name] = (self.at, 0)

    def page(self, scope: str | None, after: int, size: int) -> list[dict[str, Any]]:
        """Return the next rows."""
        where = "" if scope is None else "AND scope = ?"
        arguments = (after, size) if scope is None else (after, scope, size)
        rows = self.execute(f"SELECT * FROM entries WHERE seq > ? {where} ORDER BY seq LIMIT ?", arguments)
        return [{**dict(zip(_FIELDS, row, strict=True)), "detail": json.loads(row[12])} for row in rows]


def _written(detail: dict[str, Any]) -> str:
    """Write a row's detail as JSON; all text, as most are, by the encoder's own quoting, which takes a quarter of the time."""
    parts: list[str] = []
    for name, value in detail.items():
        if type(value) is not str:
            return json.dumps(detail)
        parts.append(f"{_quoted(name)}: {_quoted(value)}")
    return "{" + ", ".join(parts) + "}"


@lru_cache(maxsize=4096)
def _listed(*values: str | None) -> str:
    """Write values as they stand in the `repr` of a list; most rows have these in common with others."""
    return repr(values)[1:-1]


def chained(previous: bytes, row: list[Any]) -> bytes:
    """Return the hash of a row of the log after the one before it; `repr` of plain values is exact and unambiguous."""
    return sha256(previous + repr(row).encode()).digest()
