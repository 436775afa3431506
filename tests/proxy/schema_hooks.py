"""What schemathesis is told of the proxy: who has which credential, and what no answer may say. Loaded by its command alone."""

from __future__ import annotations

import os
from typing import Any

import schemathesis

FORWARDED = r"^/(stripe|twilio|resend)/"


@schemathesis.auth().apply_to(path_regex=FORWARDED)
class VaultKey:
    """Whoever calls a vendor."""

    def get(self, case: Any, ctx: Any) -> str:
        """Return the token."""
        return os.environ["KB_TOKEN"]

    def set(self, case: Any, data: str, ctx: Any) -> None:
        """Carry it."""
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.auth().apply_to(path_regex=r"^/(vault|v1|audit)")
class Admin:
    """Whoever issues."""

    def get(self, case: Any, ctx: Any) -> str:
        """Return the token."""
        return os.environ["KB_ADMIN"]

    def set(self, case: Any, data: str, ctx: Any) -> None:
        """Carry it."""
        case.headers["Authorization"] = f"Bearer {data}"
