"""Where the key of a run is that another process armed: on the ledger that came along with it. Never makes a key, or a ledger's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keyguard import context
from keyguard.errors import Unattributed

if TYPE_CHECKING:
    from keyguard.backends import Backend
    from keyguard.model import VaultKey
    from keyguard.payer import Armed


def joined(armed: Armed, run: context.RunRef, run_id: str) -> tuple[Backend, VaultKey]:
    """
    Find the key of a run that was armed in another process, on the ledger that came along with it, or that is configured here.

    Raises:
        Unattributed: it is on neither, as seen from here; says which setting is to say what. LedgerUnavailable: one cannot be read.
    """
    context.check_may_block()
    own = armed.settings.url
    with armed.lock:
        for url in dict.fromkeys(filter(None, ("" if run.ledger.startswith("env:") else run.ledger, own))):
            if not _is_shared(url):
                continue
            backend = armed.open(url)
            key = backend.find(run_id=run_id)
            if key is not None:
                armed.runs.setdefault(run_id, (backend.url, key.key_id))
                armed.asked.setdefault(run_id, key.policy)
                return backend, key
    raise Unattributed(f"run {run_id} has a key, but not in this process: {_why_not(run.ledger, own)}. Nothing was sent.", run_id=run_id)


def _is_shared(url: str) -> bool:
    """Say whether another process's ledger can be at a URL: not in memory, and never in a file that would have to be made for it."""
    scheme, _, path = url.partition("://")
    return scheme != "sqlite" or (path != "" and Path(path[1:]).expanduser().exists())


def _why_not(ledger: str, own: str) -> str:
    if ledger.startswith("env:"):
        what = f"its ledger's URL holds a password, so it does not travel with the run; set {ledger.removeprefix('env:')} to it here"
        return f"{what} (the one that is set has no such key)" if own else what
    if ledger == "sqlite://":
        return "its ledger is in the memory of the process that armed it; use one that is shared, as sqlite:///path"
    looked = " or ".join(dict.fromkeys(filter(None, (ledger, own))))
    return f"it is not in {looked}, as seen here; set KEYGUARD_URL to the ledger that both processes share"
