"""Real set-ups in which a Prefect run is stopped: who runs it, how it is stopped, and a vendor that notes when each call arrived."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

ROOT = Path(__file__).resolve().parent.parent
# Of a process that is about to begin, or to end: the machine may be loaded.
PATIENCE = 120.0
# Imported, not run as `__main__`: a served flow is pickled by reference then.
_RUN = [sys.executable, "-c", "import sys; from tests.cancel_flows import main; main(*sys.argv[1:])"]
_tick = threading.Event()


class Arrivals(list[Any]):
    """The requests that a vendor got; `times` says when, seconds since the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, request: Any) -> None:
        """Note one."""
        self.times.append(time.time())
        super().append(request)


@dataclass(frozen=True)
class Setup:
    """
    One way to run a flow and to stop it.

    Attributes:
        name: For people.
        runner: `script`, `serve` or `worker`.
        flow: Its name in `tests.cancel_flows`.
        stop: `api` (what Prefect's UI does), `sigterm`, `ctrl-c`.
    """

    name: str
    runner: str
    flow: str
    stop: str


SETUPS = (
    Setup("`.serve()`, cancelled in the UI", "serve", "charging", "api"),
    Setup("process worker, cancelled in the UI", "worker", "charging", "api"),
    Setup("`.serve()`, ProcessPool, cancelled in the UI", "serve", "charging-pool", "api"),
    Setup("script, cancelled in the UI", "script", "charging", "api"),
    Setup("script, ProcessPool, cancelled in the UI", "script", "charging-pool", "api"),
    Setup("script, SIGTERM", "script", "charging", "sigterm"),
    Setup("script, ProcessPool, SIGTERM", "script", "charging-pool", "sigterm"),
    Setup("script, Ctrl-C", "script", "charging", "ctrl-c"),
    Setup("script, awaited, Ctrl-C", "script", "charging-awaited", "ctrl-c"),
)


@dataclass(frozen=True)
class Stopped:
    """
    What came of it, seconds from the stop.

    Attributes:
        last_call: When the last call arrived; 0 = none after it.
        calls: How many arrived after it.
        over: When the run's process had ended, or (where a runner runs it) the run had a final state; None = not within the time.
        state: The run's state at the end, as Prefect shows it.
        said: What a script printed: the refusal that reached it.
    """

    last_call: float
    calls: int
    over: float | None
    state: str
    said: str = ""


def wait_for(what: Any, seconds: float = PATIENCE, every: float = 0.05) -> bool:
    """Wait until something holds; says whether it came."""
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            return False
        _tick.wait(every)
    return True


def environment(api: str, home: Path, **more: str) -> dict[str, str]:
    """Return what a process needs that talks to the test session's server, and looks for work often."""
    return {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
        "PREFECT_CLI_COLORS": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        **more,
    }


@contextlib.contextmanager
def process(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own for the length of the block; what it says goes to a file."""
    with (
        log.open("wb") as said,
        subprocess.Popen(
            command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        ) as one,
    ):
        try:
            yield one
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(one.pid, signal.SIGKILL)


def run(setup: Setup, api: str, folder: Path, ledger: str, seconds: float, watched: float, **more: str) -> Stopped:
    """
    Run a flow that charges for so many seconds, stop it when both of its tasks have charged twice, and say what came of it.

    Args:
        setup: Who runs it, and how it is stopped.
        api: Prefect's.
        folder: For its logs, and a home of its own.
        ledger: "" = unguarded.
        seconds: For how long the flow would charge.
        watched: For how long after the stop calls are counted, at most.
        **more: For the environment.
    """
    arrivals = Arrivals()
    env = environment(api, folder / "home", **more)
    with StripeServer(requests=arrivals) as server, _client(api) as client, contextlib.ExitStack() as stack:
        log = folder / "log.txt"
        if setup.runner == "script":
            command = [*_RUN, "script", setup.flow, server.url, ledger, str(seconds)]
            child = stack.enter_context(process(command, env, log))
            _await_charges(arrivals, log)
            run_id = _running(client, setup.flow)
        else:
            child = None
            run_id = _deployed(setup, env, folder, stack, client, {"url": server.url, "ledger": ledger, "seconds": seconds})
            _await_charges(arrivals, log)
        stopped_at = _stop(setup, client, run_id, child)

        def is_over() -> bool:
            return child.poll() is not None if child is not None else _is_final(client, run_id)

        over = time.time() - stopped_at if wait_for(is_over, watched, 0.1) else None
        # Whatever is left of it may call yet.
        _tick.wait(1.5)
        late = [at - stopped_at for at in arrivals.times if at > stopped_at]
        state = client.read_flow_run(run_id).state
        said = log.read_text(errors="replace") if child is not None else ""
        return Stopped(max(late, default=0.0), len(late), over, state.name if state else "", said)


def _await_charges(arrivals: Arrivals, log: Path) -> None:
    if not wait_for(lambda: len(arrivals.times) >= 4):
        raise AssertionError(f"the flow did not begin to charge:\n{log.read_text(errors='replace')[-4000:]}")


def _stop(setup: Setup, client: Any, run_id: UUID, child: subprocess.Popen[bytes] | None) -> float:
    if setup.stop == "api":
        from prefect.client.schemas.objects import State, StateType

        # What `prefect flow-run cancel` and the UI's button send.
        client.set_flow_run_state(run_id, State(type=StateType.CANCELLING))
        return time.time()
    assert child is not None
    if setup.stop == "sigterm":
        child.terminate()
    else:
        # A terminal sends it to each process of the foreground group.
        os.killpg(child.pid, signal.SIGINT)
    return time.time()


@contextlib.contextmanager
def _client(api: str) -> Iterator[Any]:
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(api) as client:
        yield client


def _running(client: Any, flow: str) -> UUID:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}}),
        sort=FlowRunSort.START_TIME_DESC,
        limit=1,
    )
    run_id: UUID = found[0].id
    return run_id


def _is_final(client: Any, run_id: UUID) -> bool:
    state = client.read_flow_run(run_id).state
    return state is not None and bool(state.is_final())


def _deployed(
    setup: Setup, env: dict[str, str], folder: Path, stack: contextlib.ExitStack, client: Any, parameters: dict[str, Any]
) -> UUID:
    """Start who runs the flow, and give it a run to do."""
    log = folder / "log.txt"
    if setup.runner == "serve":
        stack.enter_context(process([*_RUN, "serve", setup.flow, "", "", ""], env, log))
        name = f"{setup.flow}/served"
    else:
        name = _in_pool(setup, env, folder, stack, client)
    found: list[Any] = []

    def is_there() -> bool:
        with contextlib.suppress(Exception):
            found.append(client.read_deployment_by_name(name))
        return bool(found)

    if not wait_for(is_there, every=0.3):
        raise AssertionError(f"nobody runs {name}:\n{log.read_text(errors='replace')[-4000:]}")
    run_id: UUID = client.create_flow_run_from_deployment(found[0].id, parameters=parameters).id
    return run_id


def _in_pool(setup: Setup, env: dict[str, str], folder: Path, stack: contextlib.ExitStack, client: Any) -> str:
    from prefect.client.schemas.actions import WorkPoolCreate

    pool = f"pool-{os.getpid()}-{time.monotonic_ns()}"
    client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    flow_id = client.create_flow_from_name(setup.flow)
    function = setup.flow.replace("-", "_")
    client.create_deployment(
        flow_id=flow_id, name=pool, work_pool_name=pool, path=str(ROOT), entrypoint=f"tests/cancel_flows.py:{function}",
        enforce_parameter_schema=False,
    )  # fmt: skip
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    stack.enter_context(process(command, env, folder / "log.txt"))
    return f"{setup.flow}/{pool}"
