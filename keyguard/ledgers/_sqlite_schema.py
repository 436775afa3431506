"""What a connection finds when it opens a SQLite ledger: its settings, its schema and version, and what the engine's errors mean."""

from __future__ import annotations

import os
from contextlib import closing
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING

import apsw

from keyguard.errors import LedgerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_APPLICATION_ID = 0x6B67_6C31  # "kgl1": tells `file` and us that this is a ledger
_PRAGMAS = (
    # What a call writes are a few short rows on three pages, and each page goes to the log whole.
    "page_size=2048",
    # 4 MB. A checkpoint syncs twice, so it must be rare; while the file of the log still grows, each sync of it costs
    # twice as much as when its blocks are there already, so it must not grow for long.
    "wal_autocheckpoint=2000",
    "trusted_schema=OFF",
    "mmap_size=0",
    "synchronous=NORMAL",
    "foreign_keys=OFF",
    "cell_size_check=ON",
)
# What reading a damaged file may raise.
_OF_DATA = frozenset({"builtins", "json.decoder"})
_HINTS: dict[type[BaseException], str] = {
    apsw.FullError: "the disk (or its quota) is full: free space; until then every call is refused",
    apsw.ReadOnlyError: "the file or its folder is read-only: make it writable for this user",
    apsw.CantOpenError: "it cannot be opened: does the folder exist, may this user write there?",
    apsw.NotADBError: "it is not a SQLite database: name another file",
    apsw.CorruptError: "it is damaged: keep a copy, restore a backup, and check what was spent with the vendor",
    apsw.BusyError: "another program holds it locked: only keyguard may write there",
    apsw.IOError: "the disk failed to read or write",
}


@cache
def migrations() -> dict[int, str]:
    """Return the schema's steps by version, from the numbered files beside this one; not to be changed."""
    folder = resources.files("keyguard.ledgers")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("_sqlite_") and entry.name.endswith(".sql"))
    return {int(name[8:12]): (folder / name).read_text(encoding="utf-8") for name in names}


def set_up(db: apsw.Connection, path: Path | None, steps: dict[int, str], told: Callable[[str], None]) -> None:
    """
    Make a new connection ready: its settings, and the schema's newest version. Under the lock between processes.

    Args:
        db: The connection, with its busy timeout set.
        path: The file, for messages; None = in memory.
        steps: The schema's migrations by version.
        told: Told of each migration that was made in a file.

    Raises:
        LedgerUnavailable: no ledger of ours, one of a newer version, or a file system without write-ahead logging.
    """
    for pragma in _PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    version, newest = db.pragma("user_version"), max(steps)
    _check(db, path, version, newest)
    if path is not None and db.pragma("journal_mode", "wal") != "wal":
        raise LedgerUnavailable(f"the ledger {path} cannot use write-ahead logging on this file system")
    if path is None:
        _copy_image(db, _image(tuple(steps.items())))
        _name(db)
    elif version < newest:
        _migrate(db, version, steps, told)


def _check(db: apsw.Connection, path: Path | None, version: int, newest: int) -> None:
    has_tables = db.execute("SELECT 1 FROM sqlite_schema").fetchone() is not None
    if has_tables and db.pragma("application_id") != _APPLICATION_ID:
        raise LedgerUnavailable(f"{path} is a SQLite database, but not a keyguard ledger; name another file")
    if version > newest or (version and _min_writer(db) > newest):
        raise LedgerUnavailable(
            f"the ledger {path} was written by a newer keyguard (schema {version}; this one knows up to {newest}): upgrade keyguard"
        )
    if version and db.execute("SELECT 1 FROM pragma_table_info('holds') WHERE name = 'leg0'").fetchone() is None:
        # What was never released is not migrated: its log is chained, so that no row of it can be brought into the new form.
        raise LedgerUnavailable(
            f"the ledger {path} was begun by a keyguard from before its first release: move the file away, and a new one is begun"
        )


def _min_writer(db: apsw.Connection) -> int:
    found = db.execute("SELECT v FROM meta WHERE k = 'min_writer'").fetchone()
    return int(found[0]) if found else 0


def _migrate(db: apsw.Connection, version: int, steps: dict[int, str], told: Callable[[str], None]) -> None:
    db.execute("BEGIN EXCLUSIVE")
    try:
        _go_on(db, version, steps, told)
        if not version:
            _name(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _go_on(db: apsw.Connection, version: int, steps: dict[int, str], told: Callable[[str], None]) -> None:
    for number, script in sorted(steps.items()):
        if number > version:
            db.execute(script)
            told(f"migrated {number}")
    db.pragma("application_id", _APPLICATION_ID)
    db.pragma("user_version", max(steps))


def _name(db: apsw.Connection) -> None:
    """Give a new ledger what no other one has."""
    db.execute("INSERT INTO meta VALUES ('ledger_uuid', ?), ('secret', ?), ('min_writer', 1)", (os.urandom(16).hex(), os.urandom(32)))


# In memory each test of a user has a ledger of its own (keyguard.testing.plugin): the steps take 10 ms, a copy of their result 1 ms.
@lru_cache(maxsize=4)
def _image(steps: tuple[tuple[int, str], ...]) -> bytes:
    """Return the database that the steps make, without a name; as bytes, which threads and forked children may share."""
    with closing(apsw.Connection(":memory:")) as db:
        db.execute(f"PRAGMA {_PRAGMAS[0]}")
        _go_on(db, 0, dict(steps), _told_nobody)
        return db.serialize("main")


def _told_nobody(_step: str) -> None:
    pass


def _copy_image(db: apsw.Connection, image: bytes) -> None:
    # By way of another connection: one that is made of an image may grow to 1 GB only (SQLITE_CONFIG_MEMDB_MAXSIZE).
    with closing(apsw.Connection(":memory:")) as source:
        source.deserialize("main", image)
        with db.backup("main", source, "main") as copying:
            copying.step()


def is_of_ledger(error: Exception) -> bool:
    """
    Say whether an error came of the ledger's own work: of the engine, the file, or what stands in it.

    Any other was injected by somebody (an alarm's handler, a worker's soft time limit), and is the caller's own.
    """
    if isinstance(error, TimeoutError):
        # The operating system's has its number; an alarm's handler raises a bare one.
        return error.errno is not None
    return isinstance(error, apsw.Error) or type(error).__module__ in _OF_DATA


def unavailable(error: BaseException, path: Path | None) -> LedgerUnavailable:
    """Return what to raise for an error of the engine: what happened, and what to do about it."""
    hint = next((text for kind, text in _HINTS.items() if isinstance(error, kind)), "unexpected error of the database")
    return LedgerUnavailable(f"the ledger {path or 'in memory'} is not available ({type(error).__name__}: {error}): {hint}")
