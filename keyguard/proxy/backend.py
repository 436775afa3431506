"""The backend of a proxy: the local enforcer, whose callers have only tokens that were minted for them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from keyguard import context
from keyguard.backends.local import LocalBackend

if TYPE_CHECKING:
    from keyguard.model import VaultKey

_KEPT = 10_000


class MintedBackend(LocalBackend):
    """
    Finds a key by a token that the ledger minted, and by no other: not by those that whoever reads the ledger's file could work out.

    What it remembers is under the tokens' hashes.
    """

    def find(
        self, *, token: str | None = None, key_id: str | None = None, run_id: str | None = None, fresh: bool = False
    ) -> VaultKey | None:
        """Return a key by one of its names; what is remembered is enough, because every reserve checks the key's version."""
        if token is None:
            return super().find(key_id=key_id, run_id=run_id, fresh=fresh)
        known = None if fresh else self.remembered(token)
        if known is not None:
            return known
        context.check_may_block()
        key = self.ledger.key(minted=token)
        if key is not None:
            if len(self._keys) > _KEPT:
                self._keys.clear()
            self._keys[_name(token)] = key
        return key

    def remembered(self, token: str) -> VaultKey | None:
        """Return a token's key where this process remembers it."""
        return self._keys.get(_name(token))


def _name(token: str) -> tuple[str, str]:
    return "minted", hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
