"""Conditions for a task's `retry_condition_fn`: retry what may help, never what keyguard refused. Decides nothing else.

Prefect tests the condition with `inspect.isfunction` and `inspect.iscoroutinefunction`; a partial, a
bound method or a callable object is never called and switches all retries off. So everything here
is, or returns, a plain function. It reads `state.data`, because `state.result()` is a coroutine in async tasks.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from keyguard.refusals import refusal_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from keyguard.errors import Refused

    Condition: TypeAlias = Callable[[Any, Any, Any], "bool | Awaitable[bool]"]


def retry_unless_refused(task: Any, task_run: Any, state: Any) -> bool:
    """
    Tell Prefect not to retry a task that keyguard refused; any other failure may be retried.

    For sync and async tasks: `@task(retries=3, retry_condition_fn=retry_unless_refused)`. The refusal is found
    behind `raise … from`, in exception groups, in results, and in the 403 that a vendor registered with `on_refused="response"`
    gives for it. Does not limit flow-level retries.
    """
    refusal = find_refusal(state.data)
    if refusal is None:
        return True
    name = getattr(task_run, "name", None) or getattr(task, "name", "task")
    # Prefect logs neither error nor traceback when a condition says no while retries are left.
    _run_logger().error("%s is not retried: %s: %s", name, type(refusal).__name__, refusal)
    return False


def retry_unless_refused_and(condition: Condition) -> Condition:
    """Return a condition that retries what `condition` (sync or async) wants retried, unless keyguard refused it."""
    if inspect.iscoroutinefunction(condition):

        async def awaited(task: Any, task_run: Any, state: Any) -> bool:
            """Ask keyguard first, then the user's own coroutine function."""
            return retry_unless_refused(task, task_run, state) and bool(await condition(task, task_run, state))

        return awaited

    def asked(task: Any, task_run: Any, state: Any) -> bool:
        """Ask keyguard first, then the user's own function."""
        return retry_unless_refused(task, task_run, state) and bool(condition(task, task_run, state))

    return asked


def find_refusal(failure: object) -> Refused | None:
    """Return the refusal behind an exception (`keyguard.refusal_of`), or behind the one in a Prefect result record; else None."""
    start = failure if isinstance(failure, BaseException) else getattr(failure, "result", None)
    return refusal_of(start) if isinstance(start, BaseException) else None


def _run_logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """Return the run's logger, so that the line shows up in Prefect's UI; ours where there is no run."""
    try:
        from prefect.logging import get_run_logger

        return get_run_logger()
    except Exception:
        return logging.getLogger("keyguard")
