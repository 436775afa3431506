"""What is in doubt in a SQLite ledger, still open, or an estimate, read for those who will ask the vendor. Writes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from keyguard.ledgers._sqlite_objects import named
from keyguard.model import Doubt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.ledgers import Question
    from keyguard.ledgers._sqlite_log import Log

_COLUMNS = (
    "h.id, k.run_id, h.key_id, h.scope, h.vendor, h.account, h.operation, h.method, {object}, {amount}, h.at, h.tries, "
    "h.identity, h.n, h.generation, {payee}, h.principal"
)
# Open intents by their objects: one walk over these, not one for each of those.
_FROM: dict[Question, tuple[str, str, str]] = {
    "doubt": ("h.object_id", "h.doubt", "FROM holds h JOIN keys k USING (key_id) WHERE h.state = 'U' AND h.doubt > 0"),
    "open": (
        "o.filed", "h.held",
        "FROM objects o CROSS JOIN holds h ON h.id = o.open_id JOIN keys k USING (key_id) WHERE o.open_id IS NOT NULL AND h.state = 'O'",
    ),
    "presumed": (
        "h.object_id", "h.amount",
        "FROM presumed p JOIN holds h ON h.id = p.hold JOIN keys k USING (key_id) WHERE h.state = 'X'",
    ),
    "estimate": ("e.object", "h.spent", "FROM estimates e JOIN holds h ON h.id = e.hold JOIN keys k USING (key_id) WHERE h.state = 'S'"),
}  # fmt: skip
# A run's are those of its children too, a child's those made with its key, or with one below.
_OF = (
    "(h.scope = :scope OR h.key_id IN (WITH RECURSIVE below (key_id) AS ("
    "SELECT key_id FROM keys WHERE scope = :scope AND parent IS NOT NULL "
    "UNION ALL SELECT k.key_id FROM keys k JOIN below b ON k.parent = b.key_id) SELECT key_id FROM below))"
)
_ROWS = 500


def doubts(log: Log, scope: str | None, kind: Question) -> list[Doubt]:
    """Return the reservations about which there is such a question, oldest first."""
    named_object, amount, source = _FROM[kind]
    payee = "p.payee" if kind == "presumed" else "h.payee"
    where = f" AND {_OF}" if scope is not None else ""
    text = f"SELECT {_COLUMNS.format(object=named_object, amount=amount, payee=payee)} {source}{where} ORDER BY h.at, h.id"
    rows: list[Any] = log.execute(text, {"scope": scope}).fetchall()
    # When the last request left matters only where it may not have arrived yet.
    said = dict(_said(log, sorted({row[0] for row in rows}))) if kind == "doubt" else {}
    return [_doubt(row, *said.get(row[0], (row[10], None, "")), is_filed=kind == "open") for row in rows]


def _doubt(row: tuple[Any, ...], sent_at: float, request_id: str | None, ended: str, *, is_filed: bool) -> Doubt:
    name, run_id, key_id, scope, vendor, account, operation, method, found, amount, at, *rest = row
    tries, identity, n, generation, payee, principal = rest
    object_id = named(found) if is_filed else found
    return Doubt(
        name, run_id, key_id, scope, vendor, account, operation, method, object_id, amount, at, sent_at, tries, identity, n, generation,
        payee, principal, request_id, ended,
    )  # fmt: skip


def _said(log: Log, names: list[str]) -> Iterator[tuple[str, tuple[float, str | None, str]]]:
    """Yield of each reservation when its last row was written, what request the vendor named, and the process that ended with it."""
    found: dict[str, tuple[float, str | None, str]] = {}
    for begin in range(0, len(names), _ROWS):
        some = names[begin : begin + _ROWS]
        text = f"SELECT hold, at, kind, detail FROM entries WHERE hold IN ({','.join('?' * len(some))}) ORDER BY seq"
        for name, at, kind, written in cast("list[tuple[str, float, str, str]]", log.execute(text, tuple(some)).fetchall()):
            detail = json.loads(written)
            _, request_id, ended = found.get(name, (0.0, None, ""))
            found[name] = (at, detail.get("request_id", request_id), detail.get("ended", ended) if kind == "doubt" else ended)
    yield from found.items()
