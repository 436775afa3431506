"""The public names of the Prefect integration; what they do is in the files beside this one. Imports no Prefect until `task` is asked for.

`activate()` makes Prefect's runs known to keyguard and keeps Prefect from retrying what keyguard refused (install()
calls it, uninstall() calls `deactivate()`). `task` is Prefect's, guarded in every process; `guarded` does that for a
function below any decorator. `revoke_on_cancellation` and `revoke_on_crash` go into a flow's hooks. Where Prefect's
engine is not as known, `retry_unless_refused` goes into a task's `retry_condition_fn`, and `name_refused_state` into a
flow's `on_failure`. A refused run has failed under a name of its own, which automations on "Failed" do not match: keyguard.prefect.naming
says what does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.guarding import guarded
from keyguard.prefect.activation import activate, deactivate, mark_root, tell
from keyguard.prefect.hooks import revoke_on_cancellation, revoke_on_crash
from keyguard.prefect.naming import name_refused_state
from keyguard.prefect.provider import provider
from keyguard.prefect.retry import find_refusal, retry_unless_refused, retry_unless_refused_and

if TYPE_CHECKING:
    from prefect.tasks import task as task
else:

    def __getattr__(name: str) -> object:
        """Load `task` when somebody asks for it: it needs Prefect."""
        if name != "task":
            raise AttributeError(f"module 'keyguard.prefect' has no attribute {name!r}")
        from keyguard.prefect.tasks import task

        return task


__all__ = [
    "activate",
    "deactivate",
    "find_refusal",
    "guarded",
    "mark_root",
    "name_refused_state",
    "provider",
    "retry_unless_refused",
    "retry_unless_refused_and",
    "revoke_on_cancellation",
    "revoke_on_crash",
    "task",
    "tell",
]
