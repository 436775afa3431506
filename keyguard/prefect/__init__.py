"""The public names of the Prefect integration; what they do is in the files beside this one. Imports no Prefect.

`activate()` makes Prefect's runs known to keyguard (install() calls it); `retry_unless_refused`
goes into a task's `retry_condition_fn`; `revoke_on_cancellation` and `revoke_on_crash` go into a flow's hooks.
"""

from __future__ import annotations

from keyguard.prefect.hooks import revoke_on_cancellation, revoke_on_crash
from keyguard.prefect.provider import activate, mark_root, provider
from keyguard.prefect.retry import find_refusal, retry_unless_refused, retry_unless_refused_and

__all__ = [
    "activate",
    "find_refusal",
    "mark_root",
    "provider",
    "retry_unless_refused",
    "retry_unless_refused_and",
    "revoke_on_cancellation",
    "revoke_on_crash",
]
