"""A process in which cells are played one by one, beside a root run that is none of theirs: `python -m tests.prefect_matrix.stage`.

Reads lines of JSON from stdin, one a cell, and answers each with a line on stdout. The neighbour's run has a key of its own and goes on
until stdin ends, so that no call can be taken for one of the only run of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.task_runners import ProcessPoolTaskRunner

import keyguard
from keyguard.errors import KeyguardError
from tests.prefect_matrix import flows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ASYNC = frozenset({"awaited", "gathered", "to_thread", "in_executor"})


@contextlib.contextmanager
def neighbour(ledger: str) -> Iterator[str]:
    """Have another root run, with a key, in this process for the time of the block; yields its id."""
    is_armed, is_over, ids = threading.Event(), threading.Event(), list[str]()

    @flow(name="neighbour")
    def lives() -> None:
        keyguard.install(ledger, run_usd_cap=1000)
        ids.append(flows.current_id())
        is_armed.set()
        is_over.wait()

    thread = threading.Thread(target=lives)
    thread.start()
    assert is_armed.wait(120)
    yield ids[0]
    is_over.set()
    thread.join()


def runner(name: str) -> Any:
    """Return a task runner of one worker; None = Prefect's own choice, threads."""
    if name == "pool":
        return ProcessPoolTaskRunner(max_workers=1)
    if name == "dask":
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner(cluster_kwargs={"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None})
    if name == "ray":
        from prefect_ray import RayTaskRunner

        return RayTaskRunner(init_kwargs={"num_cpus": 1, "include_dashboard": False})
    return None


def play(stage: str, room: str, way: str, base: str, customer: str, ledger: str) -> tuple[str, str]:
    """Play a cell; returns the id of its root run, and the name of what came to its caller."""
    seen: list[str] = []

    def noted(_flow: Any, flow_run: Any, _state: Any) -> None:
        seen.append(str(flow_run.id))

    made: Any = flows.acell if room in _ASYNC else flows.cell
    options: dict[str, Any] = {"on_running": [noted]}
    if (chosen := runner(stage)) is not None:
        options["task_runner"] = chosen
    of_cell: Callable[..., Any] = made.with_options(**options)
    try:
        arguments = (room, way, base, customer, ledger)
        called = of_cell(*arguments)
        # On a loop of its own, as a script of the user's would.
        return str(asyncio.run(called) if room in _ASYNC else called), ""
    except KeyguardError as error:
        return seen[0], type(error).__name__
    except Exception as error:
        refusal = keyguard.refusal_of(error)
        return seen[0] if seen else "", f"{type(error).__name__}: {error}" if refusal is None else type(refusal).__name__


def main() -> None:
    """Answer until stdin ends."""
    first = json.loads(sys.stdin.readline())
    answers = sys.stdout
    # Prefect's children and runners print.
    sys.stdout = sys.stderr
    with neighbour(first["ledger"]):
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            run_id, error = play(**json.loads(line))
            print(json.dumps({"run_id": run_id, "error": error}), file=answers, flush=True)
    keyguard.uninstall()


if __name__ == "__main__":
    main()
