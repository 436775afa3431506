"""Conditions for a task's `retry_condition_fn`: retry what may help, never what keyguard refused. Decides nothing else.

Prefect tests the condition with `inspect.isfunction` and `inspect.iscoroutinefunction`; a partial, a
bound method or a callable object is never called and switches all retries off. So everything here
is, or returns, a plain function. It reads `state.data`, because `state.result()` is a coroutine in async tasks.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, cast

from keyguard.refusals import refusal_named, refusal_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import TypeAlias

    from keyguard.errors import Refused

    Condition: TypeAlias = Callable[[Any, Any, Any], "bool | Awaitable[bool]"]


def retry_unless_refused(task: Any, task_run: Any, state: Any) -> bool:
    """
    Tell Prefect not to retry a task that keyguard refused; any other failure may be retried.

    For sync and async tasks: `@task(retries=3, retry_condition_fn=retry_unless_refused)`. The refusal is found
    behind `raise … from`, in exception groups, in results and states, in the 403 that a vendor registered with
    `on_refused="response"` gives for it, and in what a vendor's SDK makes of the refusal of a `keyguard proxy`, with nothing
    installed here. While keyguard is armed its patch of Prefect's engine (keyguard.prefect.engine) does the same
    for every task, and for flows, so this is for where that log line says that it cannot.
    """
    refusal = find_refusal(state.data)
    if refusal is None:
        return True
    name: str = getattr(task_run, "name", None) or getattr(task, "name", None) or "task"
    say_not_retried(_run_logger(), name, refusal)
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
    """
    Return keyguard's refusal behind what Prefect holds of a failure; None where keyguard refused nothing.

    Looks into an exception (`keyguard.refusal_of`), a result record, a failed state, and lists of them, as a flow returns. Of a state
    that was read from the API, whose exception is in a storage, the name tells: then the refusal has its message, and no fields.
    """
    if isinstance(failure, BaseException):
        return refusal_of(failure)
    if isinstance(failure, list | tuple | set | frozenset):
        among: Iterable[object] = cast("Iterable[object]", failure)
        return next((found for one in among if (found := find_refusal(one)) is not None), None)
    is_failed = getattr(failure, "is_failed", None)
    if callable(is_failed):
        return _of_state(failure) if is_failed() else None
    # A result record; `result` of anything else that is no exception or state tells nothing.
    kept = getattr(failure, "result", None)
    return None if kept is None or callable(kept) else find_refusal(kept)


def _of_state(state: Any) -> Refused | None:
    # Only of a state whose exception is elsewhere: users may call a state of their own as they like.
    if type(state.data).__name__ == "ResultRecordMetadata":
        return refusal_named(str(state.name), str(state.message))
    return find_refusal(state.data)


def say_not_retried(logger: logging.Logger | logging.LoggerAdapter[Any], name: str, refusal: Refused) -> None:
    """Log it: Prefect logs neither error nor traceback when a condition says no while retries are left."""
    logger.error("%s is not retried: %s: %s", name, type(refusal).__name__, refusal)


def _run_logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """Return the run's logger, so that the line shows up in Prefect's UI; ours where there is no run."""
    try:
        from prefect.logging import get_run_logger

        return get_run_logger()
    except Exception:
        return logging.getLogger("keyguard")
