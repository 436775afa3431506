"""Dollar caps, allowlists and revocation for the vendor APIs that flows and agents call. Exports only."""

from __future__ import annotations

import importlib as _importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

from keyguard.errors import (
    BackendError,
    ConfigurationError,
    KeyguardError,
    KeyRevoked,
    LedgerUnavailable,
    Refused,
    SpendCapExceeded,
)
from keyguard.guarding import guarded
from keyguard.install import Installation, idempotency_scope, install, issue, revoke, run, uninstall, use
from keyguard.model import Policy, VaultKey
from keyguard.refusals import refusal_of
from keyguard.threads import wrap

__version__ = _version("keyguard")

if _TYPE_CHECKING:
    from keyguard import doubts as doubts
else:

    def __getattr__(name: str) -> object:
        """Load `keyguard.doubts` when somebody asks for it: nothing on the way of a call does."""
        if name == "doubts":
            return _importlib.import_module("keyguard.doubts")
        raise AttributeError(f"module 'keyguard' has no attribute {name!r}")


__all__ = [
    "BackendError",
    "ConfigurationError",
    "Installation",
    "KeyRevoked",
    "KeyguardError",
    "LedgerUnavailable",
    "Policy",
    "Refused",
    "SpendCapExceeded",
    "VaultKey",
    "guarded",
    "idempotency_scope",
    "install",
    "issue",
    "refusal_of",
    "revoke",
    "run",
    "uninstall",
    "use",
    "wrap",
]
