"""Which child runs have a budget of their own in a SQLite ledger, how it is found again, and what lies below a key. Knows no money."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyguard.ledgers._sqlite_log import Log
    from keyguard.model import Child, Subflow, VaultKey

# What people may have to type behind `keyguard raise --run`.
_UNTYPABLE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 40
_BELOW = (
    "WITH RECURSIVE below (key_id, depth) AS (SELECT key_id, 1 FROM keys WHERE parent = ? "
    "UNION ALL SELECT k.key_id, depth + 1 FROM keys k JOIN below b ON k.parent = b.key_id) SELECT key_id FROM below ORDER BY depth, key_id"
)
# The earlier of its own and its parent's; never where neither ends.
_EXPIRY = (
    "UPDATE keys SET expires_at = (SELECT min(coalesce(keys.own_expires_at, p.expires_at), coalesce(p.expires_at, keys.own_expires_at)) "
    "FROM keys p WHERE p.key_id = keys.parent) WHERE key_id = ? AND parent IS NOT NULL"
)
# A child that asked in this execution already is another call, unless the same calling run has been entered anew since: then it may be
# the same call again. One that stands at a place of its own in this calling run is found by that, and by nothing else.
_UNCLAIMED = (
    "SELECT key_id FROM keys k WHERE parent = :parent AND child = :child AND NOT EXISTS ("
    "SELECT 1 FROM subflows s WHERE s.key_id = k.key_id AND ((s.caller = :caller AND s.call <> '') OR "
    "(s.execution = :execution AND NOT (s.caller = :caller AND s.entry <> :entry)))) "
    "ORDER BY issued_at, length(run_id), run_id LIMIT 1"
)


class Children:
    """The rows of `subflows`, and the columns of `keys` that make a child."""

    def __init__(self, log: Log) -> None:
        self._log, self._execute = log, log.execute

    def known(self, child: Child) -> str | None:
        """
        Return the key of a child run that has asked for a budget before, in this try of it or in an earlier one.

        By its run; else by the place of its call, which is the same in each execution of the calling run; else it is the first
        of those called alike in the same budget that nobody has come back to in this execution.
        """
        subflow = child.subflow
        found = self.of_run(child) or self._by(child.parent, "call", subflow.call)
        if found is not None:
            return found
        row: Any = self._execute(
            _UNCLAIMED,
            {
                "parent": child.parent, "child": _name(subflow), "execution": subflow.execution, "caller": subflow.caller,
                "entry": subflow.entry,
            },
        ).fetchone()  # fmt: skip
        return None if row is None else str(row[0])

    def of_run(self, child: Child) -> str | None:
        """Return the key of a child run that has asked for a budget in this very try of it."""
        return self._by(child.parent, "run", child.subflow.run)

    def _by(self, parent: str, column: str, value: str) -> str | None:
        query = f"SELECT s.key_id FROM subflows s JOIN keys k USING (key_id) WHERE k.parent = ? AND s.{column} = ? LIMIT 1"
        row: Any = self._execute(query, (parent, value)).fetchone() if value else None
        return None if row is None else str(row[0])

    def entered(self, key_id: str, subflow: Subflow) -> None:
        """Remember that a child run has come to its budget."""
        self._execute(
            "INSERT OR IGNORE INTO subflows VALUES (?,?,?,?,?,?)",
            (key_id, subflow.run, subflow.call, subflow.caller, subflow.entry, subflow.execution),
        )

    def add(self, key: VaultKey, subflow: Subflow, own_expires_at: float | None) -> None:
        """Make a new key a child's."""
        assert key.parent is not None
        self._execute(
            "UPDATE keys SET parent = ?, home = ?, child = ?, own_expires_at = ? WHERE key_id = ?",
            (key.parent.key_id, key.scope, _name(subflow), own_expires_at, key.key_id),
        )
        self.entered(key.key_id, subflow)

    def new_name(self, parent: VaultKey, flow: str) -> str:
        """Return the id of a new child: its parent's, the flow's name, and which of that name it is; nobody else's in this ledger."""
        word = _UNTYPABLE.sub("-", flow).strip("-")[:_LONGEST_NAME] or "child"
        n = 1
        while self._execute("SELECT 1 FROM keys WHERE run_id = ?", (name := f"{parent.run_id or parent.key_id}/{word}-{n}",)).fetchone():
            n += 1
        return name

    def own_expiry(self, key: VaultKey) -> float | None:
        """Return when a key expires by what was asked for itself."""
        if key.parent is None:
            return key.expires_at
        row: Any = self._execute("SELECT own_expires_at FROM keys WHERE key_id = ?", (key.key_id,)).fetchone()
        return None if row[0] is None else float(row[0])

    def below(self, key_id: str) -> list[str]:
        """Return the keys whose budgets lie in a key's, the nearest first."""
        return [str(found) for (found,) in self._execute(_BELOW, (key_id,)).fetchall()]

    def changed(self, key_id: str) -> None:
        """Let a key, and those below it, expire with their parents at the latest; those below are to be read anew."""
        self._execute(_EXPIRY, (key_id,))
        for below in self.below(key_id):
            self._execute("UPDATE keys SET version = version + 1 WHERE key_id = ?", (below,))
            self._execute(_EXPIRY, (below,))


def _name(subflow: Subflow) -> str:
    return f"{subflow.name} {subflow.parameters}"
