"""What Prefect loads by the entry point `prefect.collections`: in children of process pools before a task's body, in workers, in servers.

Importing it lets the process arm keyguard where it meets a guarded run; elsewhere it costs a look at the labels of a flow that is entered.
"""

from __future__ import annotations

from keyguard.prefect.carrying import join_guarded_runs

join_guarded_runs()
