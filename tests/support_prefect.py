"""What tests with a real Prefect or a real Stripe stand-in share: its home, its server, fabricated contexts, the stand-in."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

import keyguard.demo
from keyguard.demo.children import started

if TYPE_CHECKING:
    from collections.abc import Iterator

API_KEY = "sk_test_12345"
ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "DO_NOT_TRACK": "1",
}


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Prefect home of the test session's own; request it before Prefect is imported."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "PREFECT_HOME": str(home)}.items():
            patch.setenv(name, value)
        yield home


@pytest.fixture(scope="session")
def prefect_server(prefect_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's URL of the session's one Prefect server (13 s to start), which this process uses; whichever worker asks first starts it."""
    from prefect.context import _temporary_global_settings_context, get_settings_context
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = _hosted(tmp_path_factory.getbasetemp())
    with temporary_settings(updates={PREFECT_API_URL: url}), _temporary_global_settings_context(get_settings_context()):
        yield url


def _hosted(base: Path) -> str:
    """Return the URL of the session's server, started where no worker has done it yet; it ends with the session's process."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    place, session = (base.parent, os.getppid()) if is_worker else (base, os.getpid())
    known = place / "prefect-server"
    with (place / "prefect-server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not known.exists():
            with (place / "prefect-server.log").open("wb") as log:
                host = subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("prefect_host.py")), str(session)],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                )  # fmt: skip
            assert host.stdout is not None
            known.write_text(host.stdout.readline().strip())
            # Not awaited, and not complained of: it outlives the worker that has started it.
            host.stdout.close()
            host.returncode = 0
    return known.read_text()


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a stateful Stripe stand-in on a loopback port."""
    script = Path(keyguard.demo.__file__).parent / "standin.py"
    with started([sys.executable, str(script)], log=tmp_path_factory.mktemp("standin") / "log") as child:
        yield f"http://127.0.0.1:{int(child.readline())}"


def make_customers(standin: str, count: int) -> list[str]:
    """Make customers at an emptied stand-in."""
    with httpx.Client(base_url=standin, auth=(API_KEY, "")) as client:
        client.delete("/_config/data").raise_for_status()
        return [client.post("/v1/customers", data={"name": f"C{number}"}).json()["id"] for number in range(count)]


def flow_run(*, name: str = "unit", is_child: bool = False, **fields: Any) -> Any:
    """Return a flow run as Prefect's engine holds it, without a server."""
    from prefect.client.schemas import FlowRun

    known: dict[str, Any] = {"labels": {}, "tags": [], "parameters": {}, "run_count": 1, "deployment_id": None}
    known["parent_task_run_id"] = uuid4() if is_child else None
    return FlowRun.model_construct(id=uuid4(), name=name, **{**known, **fields})


def task_run(flow_run_id: Any = None, *, name: str = "t-0", run_count: int = 1) -> Any:
    """Return a task run as Prefect's engine holds it, without a server."""
    from prefect.client.schemas import TaskRun

    return TaskRun.model_construct(id=uuid4(), name=name, run_count=run_count, flow_run_id=flow_run_id, dynamic_key="0")


def in_flow(run: Any, flow: Any = None) -> Any:
    """Return the context that Prefect enters around a flow's body."""
    from prefect.context import FlowRunContext

    return FlowRunContext.model_construct(flow_run=run, flow=flow, parameters={})


def in_task(run: Any) -> Any:
    """Return the context that Prefect enters around a task's body."""
    from prefect.context import TaskRunContext

    return TaskRunContext.model_construct(task_run=run, task=None, parameters={})
