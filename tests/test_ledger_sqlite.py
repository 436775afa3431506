"""The file of a SQLite ledger: what is refused when it is opened or used, and that nothing is booked or lost then."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from keyguard.errors import ConfigurationError, LedgerUnavailable
from keyguard.ledgers import open_ledger
from keyguard.ledgers._sqlite_file import check_place, filesystem_of
from keyguard.ledgers._sqlite_schema import migrations
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.model import Quote
from keyguard.testing._till import Till, open_till, parts
from tests.support_sqlite import NEXT, ONE_MORE, child, lines, opened, pipe, tamper

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's ledger is."""
    return tmp_path / "ledger.db"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


_SHAPE = "SELECT name, sql FROM sqlite_schema ORDER BY name"


def _schema(path: Path) -> list[tuple[str, str]]:
    db = apsw.Connection(str(path))
    found = [(str(name), str(sql)) for name, sql in db.execute(_SHAPE)]
    db.close()
    return found


# -- names and places ---------------------------------------------------------------------------------


def test_urls_name_relative_absolute_and_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes are relative, four absolute, none is memory; a handle says its absolute URL."""
    monkeypatch.chdir(tmp_path)

    assert open_ledger("sqlite:///a.db").url == f"sqlite:///{tmp_path}/a.db"
    assert open_ledger(f"sqlite:///{tmp_path}/b.db").url == f"sqlite:///{tmp_path}/b.db"
    assert open_ledger("sqlite://").url == "sqlite://"
    assert sorted(entry.name for entry in tmp_path.glob("*.db")) == ["a.db", "b.db"]


@pytest.mark.parametrize("url", ["sqlite://host/a.db", "sqlite:///", "sqlite:///a.db?mode=ro", "sqlite://a.db"])
def test_other_urls_are_errors_that_show_the_forms(url: str) -> None:
    """A URL that could be misread is refused."""
    with pytest.raises(ConfigurationError, match=r"expected sqlite:///relative.db"):
        open_ledger(url)


def test_files_and_folders_are_made_private(tmp_path: Path) -> None:
    """Nobody else on the machine reads who was charged what."""
    till = opened(tmp_path / "deep" / "ledger.db")
    till.hold(1)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.rglob("*")}

    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
    assert modes["ledger.db"] == modes["ledger.db-wal"] == modes["ledger.db.lock"] == 0o600
    till.ledger.shut()


_MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:30 / /mnt/nfs rw shared:1 - nfs4 host:/x rw
23 21 0:31 / /mnt/nfs/local rw - xfs /dev/sdb rw
24 21 0:32 / /mnt/with\\040space rw - cifs //host/x rw
25 21 0:33 / /run rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/srv/a", "ext4"),
        ("/mnt/nfs", "nfs4"),
        ("/mnt/nfs/x", "nfs4"),
        ("/mnt/nfsx", "ext4"),
        ("/mnt/nfs/local/x", "xfs"),
        ("/mnt/with space/x", "cifs"),
        ("/run/a", "tmpfs"),
    ],
)
def test_the_deepest_mount_says_the_file_system(place: str, kind: str) -> None:
    """The mount with the longest name that holds the path counts."""
    assert filesystem_of(Path(place), _MOUNTS) == kind


def test_this_machine_says_its_file_system(tmp_path: Path) -> None:
    """The real table is readable."""
    assert filesystem_of(tmp_path) != ""


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_network_file_systems_are_refused(path: Path, kind: str) -> None:
    """The message names the file system and where to go instead."""
    with pytest.raises(LedgerUnavailable, match=rf"network file system \({kind}\).*local disk"):
        check_place(path, is_power=False, kind=kind)


@pytest.mark.parametrize(("kind", "is_power", "count"), [("tmpfs", True, 1), ("overlay", True, 1), ("tmpfs", False, 0), ("ext4", True, 0)])
def test_ephemeral_file_systems_are_a_warning(path: Path, caplog: pytest.LogCaptureFixture, kind: str, is_power: bool, count: int) -> None:
    """Who asked for power-safe books is told that these forget."""
    check_place(path, is_power=is_power, kind=kind)

    assert [record.levelno for record in caplog.records] == [logging.WARNING] * count


# -- what is no ledger --------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"not a database, only some words" * 100, b"SQLite format 3\0" + b"\xff" * 5000, os.urandom(8192)])
def test_a_file_that_is_no_database_is_refused_and_kept(path: Path, content: bytes) -> None:
    """The file of somebody else is left as it is."""
    path.write_bytes(content)

    with pytest.raises(LedgerUnavailable, match=r"ledger\.db"):
        SqliteLedger(path)
    assert path.read_bytes() == content


def test_another_applications_database_is_refused_and_kept(path: Path) -> None:
    """Its tables are not touched, and none are added."""
    tamper(path, "CREATE TABLE theirs (a)")
    before = _schema(path)

    with pytest.raises(LedgerUnavailable, match="not a keyguard ledger"):
        SqliteLedger(path)
    assert _schema(path) == before


def test_a_folder_in_the_files_place_is_refused(path: Path) -> None:
    """A path that cannot be a file says so."""
    path.mkdir()

    with pytest.raises(LedgerUnavailable, match=r"ledger\.db"):
        SqliteLedger(path)


def test_a_file_in_the_folders_place_is_refused(path: Path) -> None:
    """So does a folder that cannot be one."""
    path.write_text("")

    with pytest.raises(LedgerUnavailable, match="cannot be opened"):
        SqliteLedger(path / "ledger.db")


def test_a_cut_off_file_is_refused(path: Path) -> None:
    """A damaged ledger grants nothing."""
    till = opened(path)
    till.hold(1)
    till.ledger.shut()
    os.truncate(path, path.stat().st_size // 3)

    with pytest.raises(LedgerUnavailable, match=r"damaged|is not a SQLite|not available"):
        opened(path).hold(1)


def test_overwritten_pages_are_refused(path: Path) -> None:
    """Noise in the middle of the file is noticed before money is granted on it."""
    till = opened(path)
    till.hold(1)
    till.ledger.shut()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))

    with pytest.raises(LedgerUnavailable, match="damaged"):
        opened(path).hold(1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_files_and_folders_of_somebody_else_are_refused(public: Path) -> None:
    """Without the right to write, the message says which file."""
    opened(public / "ledger.db").ledger.shut()
    found = lines("as_nobody", public / "ledger.db")

    assert len(found) == 2
    assert [name for name, line in zip(("ledger.db", "new.db"), found, strict=True) if name not in line] == []


# -- versions -----------------------------------------------------------------------------------------


def test_a_newer_schema_is_refused_by_its_number(path: Path) -> None:
    """Who would misread the books does not open them, and is told to upgrade."""
    opened(path).ledger.shut()
    tamper(path, "PRAGMA user_version = 99")

    with pytest.raises(LedgerUnavailable, match=r"schema 99.*upgrade keyguard"):
        SqliteLedger(path)


def test_a_newer_least_writer_is_refused(path: Path) -> None:
    """A ledger can say that only newer ones may write, whatever its schema's number."""
    opened(path).ledger.shut()
    tamper(path, "UPDATE meta SET v = 99 WHERE k = 'min_writer'")

    with pytest.raises(LedgerUnavailable, match=r"newer keyguard.*upgrade keyguard"):
        SqliteLedger(path)


def test_a_migrated_file_has_the_schema_of_a_new_one(tmp_path: Path) -> None:
    """Steps taken one at a time end where all at once end, and the books stay true."""
    old = opened(tmp_path / "old.db")
    old.hold(5)
    old.ledger.shut()
    migrated = SqliteLedger(tmp_path / "old.db", steps=ONE_MORE)
    SqliteLedger(tmp_path / "new.db", steps=ONE_MORE).shut()
    usage = migrated.usage("run:run-1")

    assert usage is not None
    assert usage.held == 5
    assert migrated.verify() == []
    migrated.shut()

    assert _schema(tmp_path / "old.db") == _schema(tmp_path / "new.db")


def test_ledgers_in_memory_have_the_schema_of_a_file_and_nothing_in_common(tmp_path: Path) -> None:
    """A ledger in memory is laid out as a file is, for whatever steps; what is booked in one, its name and its secret are its own."""
    SqliteLedger(tmp_path / "new.db", steps=ONE_MORE).shut()
    ledgers = first, second, third = [SqliteLedger(None, steps=ONE_MORE), SqliteLedger(None, steps=ONE_MORE), SqliteLedger(None)]
    till = open_till(first, run_usd_cap=90)
    till.ledger.reserve(till.order(Quote(5)))
    connections = [ledger._db for ledger in ledgers]
    names = [dict(db.execute("SELECT k, v FROM meta WHERE k IN ('ledger_uuid', 'secret')")) for db in connections if db is not None]
    shapes = [[(str(name), str(sql)) for name, sql in db.execute(_SHAPE)] for db in connections if db is not None]

    assert shapes[0] == shapes[1] == _schema(tmp_path / "new.db") != shapes[2]
    assert len({name["ledger_uuid"] for name in names}) == len({name["secret"] for name in names}) == 3
    assert till.usage.held == 5
    assert second.usage("run:run-1") is None
    assert first.verify() == second.verify() == third.verify() == []


@pytest.mark.parametrize("version", range(1, max(migrations())))
def test_every_earlier_version_is_brought_into_todays_form(tmp_path: Path, version: int) -> None:
    """A key of an older file goes on, with the budgets that it has today; the log proves the books."""
    SqliteLedger(tmp_path / "new.db").shut()
    path = tmp_path / "old.db"
    SqliteLedger(path, steps={number: step for number, step in migrations().items() if number <= version}).shut()
    tamper(
        path,
        "INSERT INTO keys (key_id, run_id, scope, policy_name, asked, policy, issued_at) "
        """VALUES ('k', 'run-1', 'run:run-1', 'default', '{"run_usd_cap": 90}', '{"run_usd_cap": 90}', 1)""",
        "INSERT INTO budget VALUES ('run:run-1', 'usd', 90, 0), ('refund:run:run-1', 'usd', 0, 1), ('calls:run:run-1', 'call', NULL, 0)",
    )
    till = open_till(SqliteLedger(path), run_usd_cap=90, max_emails=2)
    till.ledger.reserve(till.order(Quote(5, units=2)))

    assert (till.usage.held, till.usage.emails) == (5, 2)
    assert not till.ledger.reserve(till.order(Quote(5, units=1))).granted
    till.ledger.shut()
    assert _schema(path) == _schema(tmp_path / "new.db")


def test_an_older_file_counts_its_calls_as_today(path: Path) -> None:
    """Of version 6: an open call counts as one, and no more once nothing of it left; whom it pays is kept while that may be asked."""
    SqliteLedger(path, steps={number: step for number, step in migrations().items() if number < 7}).shut()
    tamper(
        path,
        "INSERT INTO keys (key_id, run_id, scope, policy_name, asked, policy, issued_at) "
        """VALUES ('k', 'run-1', 'run:run-1', 'default', '{"max_calls": 3}', '{"max_calls": 3}', 1)""",
        "INSERT INTO budget VALUES ('run:run-1', 'usd', NULL, 0), ('calls:run:run-1', 'call', 3, 0)",
        "INSERT INTO bucket (id, scope, win, unit, cap, top) VALUES (1, 'run:run-1', '', 'usd', NULL, NULL), "
        "(2, 'calls:run:run-1', '', 'call', 3, 3)",
        "INSERT INTO holds (id, key_id, version, scope, leg0, count_leg, vendor, account, operation, method, pot, adopts, prior, "
        "identity, enforce, owner, amount, held, state, at, payee) SELECT column1, 'k', 1, 'run:run-1', 1, 2, 'stripe', '', "
        "'things.create', 'POST', 'run', 0, 0, '', 1, 'me', 5, 5, 'R', 1, 'p' FROM (VALUES ('open'), ('doubt'), ('absent'))",
        "UPDATE holds SET state = 'U', held = 0, doubt = 5 WHERE id <> 'open'",
        "UPDATE holds SET state = 'X', doubt = 0 WHERE id = 'absent'",
        "INSERT INTO presumed VALUES ('absent', 1)",
    )
    till = Till(SqliteLedger(path, clock=lambda: 2.0), "run-1")
    before = till.usage.calls
    till.release("open", unsent=True)
    payees = {kind: [doubt.payee for doubt in till.ledger.doubts(kind=kind)] for kind in ("doubt", "presumed")}
    till.ledger.shut()
    db = apsw.Connection(str(path))

    assert (before, till.usage.calls, till.ask(5).granted, till.ask(5).granted) == (3, 2, True, False)
    assert payees == {"doubt": ["p"], "presumed": ["p"]}
    assert dict(db.execute("SELECT id, payee FROM holds WHERE at = 1")) == {"open": "", "doubt": "p", "absent": ""}
    db.close()


def test_a_killed_migration_leaves_the_old_version(path: Path) -> None:
    """All steps are one transaction."""
    till = opened(path)
    till.hold(5)
    till.ledger.shut()
    before = _schema(path)
    with child("halt_in_migration", path) as process:
        word = pipe(process.stdout).readline()
        process.send_signal(signal.SIGKILL)

    assert word == f"migrated {NEXT}\n"
    assert till.usage.held == 5
    till.ledger.shut()

    assert _schema(path) == before


def test_a_failing_migration_leaves_the_old_version(path: Path) -> None:
    """An error in a step undoes those before it."""
    opened(path).ledger.shut()
    before = _schema(path)

    with pytest.raises(LedgerUnavailable):
        SqliteLedger(path, steps={**ONE_MORE, NEXT + 1: "CREATE TABLE later (a)"})
    assert _schema(path) == before
    assert SqliteLedger(path).verify() == []


def test_a_ledger_from_before_the_first_release_is_refused(path: Path) -> None:
    """Its reservations have another form; the message says what to do with the file."""
    opened(path).ledger.shut()
    tamper(path, "ALTER TABLE holds RENAME COLUMN leg0 TO legs")

    with pytest.raises(LedgerUnavailable, match=r"from before its first release: move the file away"):
        SqliteLedger(path)


def test_steps_are_numbered_without_gaps() -> None:
    """The files of the schema are 1, 2, 3 …."""
    assert sorted(migrations()) == list(range(1, len(migrations()) + 1))


# -- trouble while in use -----------------------------------------------------------------------------


def test_a_full_disk_refuses_and_recovers(path: Path) -> None:
    """What was granted before stays, nothing half is left, and with space again it goes on."""
    refusal, before, after = lines("disk_full", path)

    assert "not available" in refusal
    assert before == "True True []"
    assert after == "True []"


def test_a_full_database_says_to_free_space(path: Path) -> None:
    """SQLite's own limit gives the error that a full disk or quota gives."""
    till = opened(path, durability="process")
    db: Any = getattr(till.ledger, "_db")  # noqa: B009 -- a full disk that needs no disk
    db.pragma("max_page_count", db.pragma("page_count"))
    with pytest.raises(LedgerUnavailable, match=r"disk .* is full: free space"):
        for _ in range(500):
            till.hold(1)
    db.pragma("max_page_count", 1_000_000)
    till.hold(1)

    assert till.ledger.verify() == []


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_file_that_went_away_takes_no_bookings(path: Path, is_replaced: bool) -> None:
    """Money counted in an unlinked file would be counted nowhere."""
    till = opened(path)
    till.hold(5)
    path.rename(path.with_name("moved.db"))
    if is_replaced:
        path.write_bytes(b"")

    with pytest.raises(LedgerUnavailable, match="replaced" if is_replaced else "unlinked"):
        till.hold(1)
    path.unlink(missing_ok=True)
    path.with_name("moved.db").rename(path)

    assert till.usage.held == 5


def test_a_stopped_process_that_holds_the_lock_is_reported(path: Path) -> None:
    """Waiting has an end, the message guesses the reason, and all is well once the other goes on."""
    till = opened(path, durability="process", lock_seconds=0.05)
    with child("hold_lock", path) as process:
        word = pipe(process.stdout).readline()
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(LedgerUnavailable, match=r"busy.*0\.05 s.*SIGSTOP"):
            till.hold(1)
        process.send_signal(signal.SIGCONT)
        process.communicate()

    assert word == "begun\n"
    till.hold(1)
    assert till.ledger.verify() == []


def test_a_killed_holder_of_the_lock_leaves_it_free(path: Path) -> None:
    """The kernel gives the lock up, so nobody waits for the dead."""
    till = opened(path, durability="process", lock_seconds=5)
    with child("hold_lock", path) as process:
        pipe(process.stdout).readline()
        process.kill()
    till.hold(1)

    assert till.ledger.verify() == []


@pytest.mark.parametrize("who", ["hold_lock", "hold_engine"])
def test_callers_that_queue_up_wait_for_no_longer_than_one(path: Path, who: str) -> None:
    """Each of six threads is told within its own limit that the ledger is locked, however many were before it; then all goes on."""
    till = opened(path, durability="process", lock_seconds=1.0)
    waits: list[float] = []

    def ask(after: float) -> None:
        threading.Event().wait(after)
        begun = time.monotonic()
        with pytest.raises(LedgerUnavailable, match=r"busy|locked"):
            till.ledger.usage("run:run-1")
        waits.append(time.monotonic() - begun)

    with child(who, path) as process:
        pipe(process.stdout).readline()
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(ask, [0, 0.1, 0.3, 0.5, 0.7, 0.9]))
        pipe(process.stdin).close()

    assert len(waits) == 6
    assert max(waits) < 1.6
    assert till.hold(1)


def test_a_forked_child_has_a_connection_of_its_own(path: Path) -> None:
    """Both sides of a fork reserve on one file; a ledger in memory is refused in the child."""
    refusal, code, after = lines("fork", path)

    assert "cannot be shared with a forked process" in refusal
    assert code == "0"
    # What the child held is in doubt, because it has ended.
    assert after == "0 101 10 1 []"


def test_a_shut_ledger_opens_again(path: Path) -> None:
    """Shut twice, used again: the figures are there, and no descriptor was left open."""
    till = opened(path)
    till.settle(till.hold(5), 5)
    till.ledger.shut()
    till.ledger.shut()

    assert [name for name in Path("/proc/self/fd").iterdir() if str(path) in _target(name)] == []
    assert not Path(f"{path}-wal").exists()
    till.hold(6)
    assert parts(till.usage) == (5, 6, 0)


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""
