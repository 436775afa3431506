"""The table of rooms: where a run can call a vendor, and what must come of it by each way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.prefect_matrix import Outcome, Room, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

# In the process that called `install()` the way makes no difference, and is not tried in every room; a run without a key is refused there.
_HERE: dict[Way, Outcome] = {"@task": "right run", "keyguard": "right run", "no install": "refused"}
_HERE_ALL: dict[Way, Outcome] = {**_HERE, "@guarded": "right run"}
# Whose context is not copied is nobody's, where two runs are armed.
_NOBODY: dict[Way, Outcome] = {"@task": "refused", "keyguard": "refused", "no install": "refused"}
_CARRIED_ALL: dict[Way, Outcome] = {**_HERE_ALL, "plugin": "right run"}
_CARRIED: dict[Way, Outcome] = {"@task": "right run", "keyguard": "right run"}
# A process that was never told, and no way in it: what Prefect starts there does not know of a budget.
_TOLD_BY_THE_FUNCTION: dict[Way, Outcome] = {
    "@task": "unguarded", "@guarded": "right run", "keyguard": "right run", "plugin": "right run",
}  # fmt: skip

ROOMS = (
    Room("flow body", "here", "body", _HERE_ALL),
    Room("task called", "here", "called", _HERE),
    Room("task .submit", "here", "submitted", _HERE_ALL, is_fast=True),
    Room("task .map", "here", "mapped", _HERE, calls=2),
    Room("async task .submit", "here", "submitted_async", _HERE),
    Room("async task in an async flow", "here", "awaited", _HERE_ALL, is_fast=True),
    Room("asyncio.gather of tasks", "here", "gathered", _HERE, calls=2),
    Room("asyncio.to_thread, anyio.to_thread", "here", "to_thread", _HERE, calls=2),
    Room("generator task", "here", "generated", _HERE, calls=2),
    Room("task in a task", "here", "nested", _HERE),
    Room("task .submit in a task .submit", "here", "nested_submitted", _HERE),
    Room("subflow's task", "here", "subflow", _HERE, is_fast=True),
    Room("task's subflow's task", "here", "subflow_in_task", _HERE),
    Room("keyguard.wrap in a Thread", "here", "wrapped_thread", _HERE),
    Room("keyguard.wrap in an executor", "here", "wrapped_executor", _HERE),
    Room("threading.Thread", "here", "thread", _NOBODY, is_fast=True),
    Room("ThreadPoolExecutor", "here", "executor", _NOBODY),
    Room("loop.run_in_executor", "here", "in_executor", _NOBODY),
    Room("threading.Thread, KEYGUARD_COPY_CONTEXT", "threads", "thread", _HERE),
    Room("ThreadPoolExecutor, KEYGUARD_COPY_CONTEXT", "threads", "executor", _HERE),
    Room("loop.run_in_executor, KEYGUARD_COPY_CONTEXT", "threads", "in_executor", _HERE),
    Room("multiprocessing, forked", "here", "forked", _HERE),
    Room("multiprocessing, spawned, with_context", "here", "with_prefects_context", _CARRIED_ALL),
    # Nothing came along but the arguments: a guarded function refuses, or is paid by the environment's key; of another one nobody can know.
    Room("multiprocessing, spawned", "here", "spawned", {"@task": "unguarded", "@guarded": "refused", "keyguard": "refused"}),
    Room("multiprocessing, spawned, KEYGUARD_KEY", "here", "spawned_with_key", {"@guarded": "right run", "keyguard": "right run"}),
    Room("ProcessPool .submit", "pool", "submitted", _CARRIED_ALL),
    Room("ProcessPool .map", "pool", "mapped", _CARRIED, calls=2),
    Room("ProcessPool async task", "pool", "submitted_async", _CARRIED),
    Room("ProcessPool task in a task", "pool", "nested_in_runner", _CARRIED),
    Room("ProcessPool task's subflow's task", "pool", "subflow_in_task", _CARRIED),
    Room("Dask .submit", "dask", "submitted", _CARRIED_ALL),
    Room("Dask .map", "dask", "mapped", _CARRIED, calls=2),
    Room("Dask task's subflow's task", "dask", "subflow_in_task", _CARRIED),
    Room("Ray .submit", "ray", "submitted", _CARRIED_ALL),
    Room("Ray task's subflow's task", "ray", "subflow_in_task", _CARRIED),
    Room("task worker, .delay()", "delay", "delayed", _CARRIED_ALL),
    Room("task worker, .delay() of an async task", "delay", "delayed_async", _CARRIED),
    Room("run_deployment, .serve()", "served", "deployed", _TOLD_BY_THE_FUNCTION),
    Room("run_deployment, .serve(), install() in it", "served", "deployed_installing", _CARRIED),
    Room("run_deployment, .serve(), as_subflow=False, install()", "served", "deployed_apart", _CARRIED),
    Room("run_deployment, process worker", "worker", "deployed", _TOLD_BY_THE_FUNCTION),
    Room("run_deployment, process worker, install() in it", "worker", "deployed_installing", _CARRIED),
)


def cells(words: tuple[str, ...] = ()) -> Iterator[tuple[Room, Way]]:
    """Yield rooms and ways, those in whose names (`stage room way`) all the words are."""
    for room in ROOMS:
        for way in room.expected:
            if all(word in f"{room.stage} {room.name} {way}" for word in words):
                yield room, way
