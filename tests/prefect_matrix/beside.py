"""What runs beside a stage: a task worker, a process that serves deployments, or a process worker. Ends when stdin ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any

from tests.prefect_matrix import flows

_NAMES = {"@task": "task", "@guarded": "guarded", "keyguard": "keyguard", "plugin": "plugin"}


def delay() -> None:
    """Be a task worker for the tasks of all ways."""
    from prefect.task_worker import serve

    tasks: list[Any] = list({id(one): one for charge in (flows.CHARGES, flows.ACHARGES) for one in charge.values()}.values())
    _ready()
    serve(*tasks)


def served() -> None:
    """Serve the started flow, once for each way."""
    from prefect import serve

    deployments: list[Any] = [flows.started.to_deployment(name) for name in _NAMES.values()]
    _ready()
    serve(*deployments, query_seconds=1)


def worker() -> None:
    """Deploy the started flow to a pool of processes, and be its worker."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.flows import Flow

    # Of this stage alone: the worker of another one, without the plugin, may take its time to end, and would take runs from a common pool.
    pool = f"matrix-{os.getpid()}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    for name in _NAMES.values():
        source: Any = Flow.from_source(os.getcwd(), "tests/prefect_matrix/flows.py:started")  # noqa: PTH109 -- as users write it
        source.to_deployment(name, work_pool_name=pool).apply()
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", pool]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    threading.Thread(target=_end_with, args=(process,), daemon=True).start()
    _ready()
    process.wait()


def _ready() -> None:
    print(json.dumps({"ready": True}), file=sys.__stdout__, flush=True)


def _end_with(process: subprocess.Popen[bytes]) -> None:
    sys.stdin.read()
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


def _end_soon() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] != "worker":
        threading.Thread(target=_end_soon, daemon=True).start()
    sys.stdout = sys.stderr
    {"delay": delay, "served": served, "worker": worker}[sys.argv[1]]()
