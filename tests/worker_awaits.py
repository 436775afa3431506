"""A process for the sweep over awaits: for each number on its input a child makes one guarded call and kills itself at that await.

Run as `python -m tests.worker_awaits LEDGER_URL CLIENT BACKEND VENDOR_URL`. Answers each number with the child's exit code.
"""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import httpx

import keyguard
from tests.support_awaits import Struck
from tests.test_awaits import CLIENTS


def charge(url: str, client: str, backend: str, server: Any, at: int) -> None:
    """Make one call in a run named by the number, and die at its n-th await."""

    async def struck(awaited: Any) -> None:
        found = Struck(awaited, at)
        found.strike = lambda: os.kill(os.getpid(), signal.SIGKILL)
        await found

    with keyguard.run(f"killed-{at}"):
        keyguard.install(url, run_usd_cap=10)
        anyio.run(CLIENTS[client], server, struck, backend=backend)


def main(url: str, client: str, backend: str, vendor: str) -> None:
    """Fork for each number: the libraries are imported once, by using them for a moment."""
    server = SimpleNamespace(url=vendor, charges=[])
    with keyguard.run("warm"):
        keyguard.install("sqlite://", run_usd_cap=1)
    httpx.Client().close()
    anyio.run(anyio.lowlevel.checkpoint, backend=backend)
    keyguard.uninstall()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            charge(url, client, backend, server, int(line))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
