"""`keyguard.prefect.task`: Prefect's own `@task`, whose body is guarded wherever it runs, and whose retries never repeat a refusal.

Imports Prefect, so it is imported when somebody asks for it; the class stands in a module because tasks are pickled.
"""

from __future__ import annotations

import functools
from typing import Any, ParamSpec, TypeVar

from prefect.tasks import Task
from prefect.tasks import task as prefect_task

from keyguard.guarding import guarded
from keyguard.prefect.retry import retry_unless_refused, retry_unless_refused_and

P = ParamSpec("P")
R = TypeVar("R")


class GuardedTask(Task[P, R]):
    """A task of Prefect's own class, which stays guarded by whatever options it gets."""

    def with_options(self, *, retry_condition_fn: Any = None, **options: Any) -> Any:
        """Return the task with other options, as Prefect does; a condition of the user's own is asked about what was not refused."""
        condition = None if retry_condition_fn is None else _condition(retry_condition_fn)
        return _as_guarded(super().with_options(retry_condition_fn=condition, **options))


def task(fn: Any = None, /, **options: Any) -> Any:
    """
    Make a task, in all forms and with all keywords of Prefect's `@task`, that runs only where its calls are guarded.

    In another process than the flow's it arms keyguard first, by what came along with the run; where it cannot, it raises what
    `keyguard.guarded` raises, and nothing of its body runs. `retry_condition_fn` is asked about failures that keyguard has not refused.
    """
    if fn is None:
        return functools.partial(task, **options)
    condition = _condition(options.pop("retry_condition_fn", None))
    # By Prefect's decorator, whose defaults are not those of its class.
    return _as_guarded(prefect_task(guarded(fn), retry_condition_fn=condition, **options))


def _as_guarded(made: Any) -> Any:
    # Prefect makes tasks of its own class, whatever they are made from; ours adds no state.
    made.__class__ = GuardedTask
    return made


def _condition(own: Any) -> Any:
    if own is None or own is retry_unless_refused:
        return retry_unless_refused
    return own if getattr(own, "_keyguard_excludes", False) else _excluding(own)


def _excluding(own: Any) -> Any:
    condition = retry_unless_refused_and(own)
    condition._keyguard_excludes = True  # type: ignore[attr-defined]  # noqa: SLF001 -- a mark on a function of ours
    return condition
