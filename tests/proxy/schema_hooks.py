"""
What schemathesis is told of the proxy: who has which credential, real paths of the vendors, and what no answer may say. Loaded by
its command, in a process of its own (tests/proxy/test_schema.py), which says in the environment what is secret.
"""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.parameters import EncodedPath

FORWARDED = r"^/(stripe|twilio|resend)/"
SAID: dict[str, Any] = json.loads(os.environ["TESTS_SCHEMA"])
# In place of half of the paths that are made up: those that a vendor answers, and hosts that it may have or has not.
PATHS = (
    "v1/payment_intents", "v1/charges", "v1/refunds", "v1/customers/cus_1", "v1/payment_intents/pi_1/confirm", "v2/core/events",
    "files.stripe.com/v1/files", "2010-04-01/Accounts/AC1/Messages.json", "2010-04-01/Accounts/AC1/Messages/SM1.json",
    "verify.twilio.com/v2/Services", "lookups.twilio.com/v2/PhoneNumbers/+12125550123", "emails", "emails/batch", "emails/e1/cancel",
    "evil.example/v1/charges", "..", "v1/../v1/charges", "v1//charges",
)  # fmt: skip


class _Bearer:
    """Carries a token."""

    name = ""

    def get(self, case: Any, ctx: Any) -> str:
        """Return the token."""
        return str(SAID[self.name])

    def set(self, case: Any, data: str, ctx: Any) -> None:
        """Put it where it belongs."""
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.auth().apply_to(path_regex=FORWARDED)
class VaultKey(_Bearer):
    """Whoever calls a vendor."""

    name = "token"


@schemathesis.auth().apply_to(path_regex=r"^/(vault|v1|audit)")
class Admin(_Bearer):
    """Whoever issues and revokes."""

    name = "admin"


@schemathesis.hook.apply_to(path_regex=FORWARDED)
def flatmap_path_parameters(ctx: Any, value: Any) -> Any:
    """Let real paths come as often as made up ones."""
    return st.just(value) | st.sampled_from(PATHS).map(lambda path: {"path": path})


@schemathesis.hook.apply_to(path_regex=FORWARDED)
def before_call(ctx: Any, case: Any, kwargs: Any) -> None:
    """Let a path's slashes be slashes: by OpenAPI alone a parameter is one segment."""
    path = (case.path_parameters or {}).get("path")
    if isinstance(path, str):
        case.path_parameters["path"] = EncodedPath(path.replace("%2F", "/"))


@schemathesis.check
def nothing_leaks(ctx: Any, response: Any, case: Any) -> None:
    """No secret of a vendor, and no token but one that is being issued, is in an answer."""
    whole = response.content + repr(response.headers).encode()

    assert [name for name in SAID["secrets"] if name.encode() in whole] == []
    assert b"Traceback" not in whole
    is_issuing = case.operation.path.endswith("/keys") and case.operation.method.upper() == "POST"
    assert is_issuing or b"vault_key_" not in whole
