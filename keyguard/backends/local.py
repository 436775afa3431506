"""The embedded local enforcer: a ledger on this machine or network decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.backends._ledgered import LedgerBackend

if TYPE_CHECKING:
    from keyguard.model import Call, VaultKey


class LocalBackend(LedgerBackend):
    """Decides by a ledger alone; calls go straight to their vendors."""

    name = "local"

    def route(self, key: VaultKey, call: Call, *, is_theirs: bool) -> None:
        """Return None: there is no proxy on the way."""
