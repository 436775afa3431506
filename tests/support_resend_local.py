"""resend-local, a stateful Resend from npm: started on loopback with a database of its own, which is the truth."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support_node import node_peer, package

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE, _APP = "resend-local", "dist/app"


@dataclass(frozen=True, slots=True)
class Local:
    """
    A running resend-local.

    Attributes:
        url: Its base.
        database: Where it keeps what was sent.
    """

    url: str
    database: Path

    @property
    def host(self) -> str:
        """Where it listens, as `KEYGUARD_VENDOR_HOSTS` wants it."""
        return self.url.removeprefix("http://")

    @property
    def recipients(self) -> int:
        """Recipients of every e-mail that it accepted, counted by itself."""
        with closing(sqlite3.connect(self.database)) as db:
            return sum(int(db.execute(f"SELECT count(*) FROM email_{name}").fetchone()[0]) for name in ("to", "cc", "bcc"))  # noqa: S608 -- names of its tables


@contextmanager
def resend_local() -> Iterator[Local]:
    """
    Run it until the block ends.

    Raises:
        Missing: Node or the package cannot be had.
    """
    app = package(_PACKAGE) / _APP
    with tempfile.TemporaryDirectory() as place:
        database = Path(place) / "resend.sqlite"
        shutil.copy(app / "resend-local.sqlite", database)
        # Its own starter would listen on every interface, and leave a child behind.
        env = {"HOSTNAME": "127.0.0.1", "PORT": "{port}", "NEXT_TELEMETRY_DISABLED": "1", "DATABASE_URL": f"file:{database}"}
        with node_peer(_PACKAGE, [], script=f"{_APP}/server.js", env=env) as peer:
            yield Local(peer.url, database)
