"""Who may issue and revoke: the holders of an admin token, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_HASHED = "sha256:"


class Admins:
    """
    The admin tokens' hashes.

    Args:
        tokens: Each a token, or `sha256:` and the hex digits of its hash.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = tuple(_digest(token) for token in tokens)

    def __repr__(self) -> str:
        return f"<{len(self._digests)} admin tokens>"

    def named(self, authorization: str) -> str | None:
        """Return who holds the token of an Authorization header, for the audit: the beginning of its hash; None = nobody."""
        scheme, _, token = authorization.strip().partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogatepass")).digest()
        # All of them, whichever it is: how long this takes says nothing.
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return f"admin:{digest.hex()[:8]}" if any(found) and scheme.lower() == "bearer" else None


def _digest(token: str) -> bytes:
    return bytes.fromhex(token.removeprefix(_HASHED)) if token.startswith(_HASHED) else hashlib.sha256(token.encode()).digest()
