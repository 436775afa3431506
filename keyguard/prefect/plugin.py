"""What Prefect loads by the entry point `prefect.plugins`, at `import prefect` in every process where PREFECT_PLUGINS_ENABLED=1.

With it a process that runs a deployment's flow, which was never told of keyguard, joins the run that started it.
"""

from __future__ import annotations

from typing import Any

from prefect.plugins import register_hook

from keyguard.prefect.carrying import join_guarded_runs


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Let this process arm keyguard wherever it meets a guarded run; changes no environment."""
    join_guarded_runs()
