"""Processes that make one guarded call and are killed in it: `python -m tests.endings.victims` forks one for each line that it reads.

The parent has imported every client before; each child arms keyguard, calls, and is killed by whoever asked for it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from typing import Any


class Victims:
    """Asks for victims; the process that makes them starts with the first one."""

    def __init__(self) -> None:
        self._maker: subprocess.Popen[str] | None = None

    def __enter__(self) -> Victims:
        return self

    def __exit__(self, *_: object) -> None:
        if self._maker is not None:
            self._maker.communicate()

    def begin(self, **call: Any) -> int:
        """Let a new process make a call; returns its id."""
        if self._maker is None:
            command = [sys.executable, "-m", "tests.endings.victims"]
            self._maker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return int(self._told(json.dumps(call)))

    def kill(self, pid: int) -> int:
        """End it with SIGKILL, now; returns the signal that it ended with."""
        os.kill(pid, signal.SIGKILL)
        return int(self._told("over"))

    def _told(self, line: str) -> str:
        assert self._maker is not None
        assert self._maker.stdin is not None
        assert self._maker.stdout is not None
        self._maker.stdin.write(f"{line}\n")
        self._maker.stdin.flush()
        return self._maker.stdout.readline()


def _call(client: str, run: str, ledger: str, hosts: str, ask: dict[str, Any]) -> None:
    import keyguard
    from tests.endings import Ask
    from tests.endings.clients import CLIENTS

    os.environ["KEYGUARD_VENDOR_HOSTS"] = hosts
    with keyguard.run(run):
        keyguard.install(ledger, run_usd_cap=100)
        next(one for one in CLIENTS if one.name == client).call(Ask(**ask))


def _warm(client: str, done: set[str]) -> None:
    """Have a client import all that it imports at its first call, once for all children."""
    from tests.endings import Ask
    from tests.endings.clients import CLIENTS

    if client not in done:
        done.add(client)
        # Nobody can listen there.
        with contextlib.suppress(Exception):
            next(one for one in CLIENTS if one.name == client).call(Ask("http://127.0.0.1:0", 1))


def _plugs(folder: str) -> list[str]:
    found = importlib.import_module(f"keyguard.{folder}")
    return [one.name for one in pkgutil.iter_modules(found.__path__, f"keyguard.{folder}.")]


def main() -> None:
    """Fork a child for each call on stdin, say its id; for each other line wait for it, and say which signal ended it."""
    # What each child needs is imported once.
    import tests.endings.clients  # noqa: F401 -- for its imports

    for module in ("keyguard.ledgers.sqlite", "keyguard.backends.local", *_plugs("patches"), *_plugs("vendors")):
        importlib.import_module(module)
    pid, warm = 0, set[str]()
    for line in sys.stdin:
        if line != "over\n":
            _warm(json.loads(line)["client"], warm)
        if line == "over\n":
            said = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) * -1
        else:
            said = pid = os.fork()
            if not pid:
                try:
                    _call(**json.loads(line))
                finally:
                    os._exit(1)
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
