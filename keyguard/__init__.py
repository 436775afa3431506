"""Dollar caps, allowlists and revocation for the vendor APIs that flows and agents call. Exports only."""

from __future__ import annotations

from importlib.metadata import version as _version

from keyguard.errors import (
    BackendError,
    ConfigurationError,
    KeyguardError,
    KeyRevoked,
    LedgerUnavailable,
    Refused,
    SpendCapExceeded,
)
from keyguard.install import Installation, idempotency_scope, install, issue, revoke, run, uninstall, use, wrap
from keyguard.model import Policy, VaultKey
from keyguard.refusals import refusal_of

__version__ = _version("keyguard")

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
