"""The public names of the Prefect integration; what they do is in the files beside this one. Imports no Prefect.

`activate()` makes Prefect's runs known to keyguard and keeps Prefect from retrying what keyguard refused (install()
calls it, uninstall() calls `deactivate()`). Where Prefect's engine is not as known, `retry_unless_refused` goes into
a task's `retry_condition_fn`, and `name_refused_state` into a flow's `on_failure`.
"""

from __future__ import annotations

from keyguard.prefect.naming import name_refused_state
from keyguard.prefect.provider import activate, deactivate, mark_root, provider
from keyguard.prefect.retry import find_refusal, retry_unless_refused, retry_unless_refused_and

__all__ = [
    "activate",
    "deactivate",
    "find_refusal",
    "mark_root",
    "name_refused_state",
    "provider",
    "retry_unless_refused",
    "retry_unless_refused_and",
]
