"""What is in doubt in a SQLite ledger, read for those who will ask the vendor. Writes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from keyguard.model import Doubt

if TYPE_CHECKING:
    from keyguard.ledgers._sqlite_log import Log

_DOUBTS = (
    "SELECT h.id, k.run_id, h.key_id, h.scope, h.vendor, h.account, h.operation, h.method, h.object_id, h.doubt, h.at, h.tries, "
    "h.identity, h.n, h.generation, h.payee, h.principal FROM holds h JOIN keys k USING (key_id) WHERE h.state = 'U' AND h.doubt > 0"
)


def doubts(log: Log, scope: str | None) -> list[Doubt]:
    """Return the reservations in doubt, oldest first."""
    where, arguments = (" AND h.scope = ?", (scope,)) if scope is not None else ("", ())
    rows: list[Any] = log.execute(f"{_DOUBTS}{where} ORDER BY h.at, h.id", arguments).fetchall()
    said = _said(log, {row[0] for row in rows})
    return [_doubt(row, *said[row[0]]) for row in rows]


def _doubt(row: tuple[Any, ...], sent_at: float, request_id: str | None, ended: str) -> Doubt:
    name, run_id, key_id, scope, vendor, account, operation, method, object_id, amount, at, *rest = row
    tries, identity, n, generation, payee, principal = rest
    return Doubt(
        name, run_id, key_id, scope, vendor, account, operation, method, object_id, amount, at, sent_at, tries, identity, n, generation,
        payee, principal, request_id, ended,
    )  # fmt: skip


def _said(log: Log, names: set[str]) -> dict[str, tuple[float, str | None, str]]:
    """Return of each reservation when its last row was written, what request the vendor named, and the process that ended with it."""
    found: dict[str, tuple[float, str | None, str]] = {}
    if not names:
        return found
    marks = ",".join("?" * len(names))
    rows = log.execute(f"SELECT hold, at, detail FROM entries WHERE hold IN ({marks}) ORDER BY seq", tuple(names)).fetchall()
    for name, at, text in cast("list[tuple[str, float, str]]", rows):
        detail = json.loads(text)
        _, request_id, ended = found.get(name, (0.0, None, ""))
        found[name] = (at, detail.get("request_id", request_id), detail.get("ended", ended) if "attempt" not in detail else ended)
    return found
