"""The vault keys of proxies that a SQLite ledger's keys go through: kept, exchanged, found. Their tokens are in no row of the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.errors import ConfigurationError
from keyguard.remote import RemoteKey

if TYPE_CHECKING:
    from keyguard.ledgers._sqlite_log import Log

_COLUMNS = "r.proxy, r.vendor, r.token, r.remote_id, r.expires_at, r.asked, r.judges"


class RemoteKeys:
    """The rows of `remote_keys`."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def keep(self, key_id: str, remote: RemoteKey, instead: str) -> RemoteKey:
        """Keep a key in the place of the one with a token (`instead`, "" = of none); return what is kept now, which may be another's."""
        row = self._log.execute("SELECT scope FROM keys WHERE key_id = ?", (key_id,)).fetchone()
        if row is None:
            raise ConfigurationError(f"no key {key_id!r} in this ledger")
        known = self._one(key_id, remote.vendor)
        if known is not None and known.token != instead:
            return known
        self._log.execute(
            "INSERT OR REPLACE INTO remote_keys VALUES (?,?,?,?,?,?,?,?)",
            (key_id, remote.vendor, remote.proxy, remote.token, remote.remote_id, remote.expires_at, remote.asked, int(remote.judges)),
        )
        detail = {"proxy": remote.proxy, "vendor": remote.vendor, "remote_id": remote.remote_id}
        self._log.enter("remote_key", key_id=key_id, scope=row[0], detail=detail)
        return remote

    def _one(self, key_id: str, vendor: str) -> RemoteKey | None:
        rows = self._log.execute(f"SELECT {_COLUMNS} FROM remote_keys r WHERE r.key_id = ? AND r.vendor = ?", (key_id, vendor))
        found = rows.fetchone()
        return None if found is None else _restored(found)

    def of(self, key_id: str | None, run_id: str | None, policy: str | None) -> list[RemoteKey]:
        """Return those of a key, a run or all keys of a policy."""
        column, value = next(
            (name, said) for name, said in (("key_id", key_id), ("run_id", run_id), ("policy_name", policy)) if said is not None
        )
        rows = self._log.execute(
            f"SELECT {_COLUMNS} FROM remote_keys r JOIN keys k ON k.key_id = r.key_id WHERE k.{column} = ? ORDER BY r.key_id, r.vendor",
            (value,),
        )
        return [_restored(row) for row in rows.fetchall()]


def _restored(row: tuple[Any, ...]) -> RemoteKey:
    proxy, vendor, token, remote_id, expires_at, asked, judges = row
    return RemoteKey(proxy, vendor, token, remote_id, expires_at, asked, judges=bool(judges))
