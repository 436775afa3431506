"""No refusal is retried by Prefect, though the user forgot to say so, and the run is called by its name: real tasks, flows and server."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import wrapt

from keyguard.errors import SpendCapExceeded
from keyguard.prefect import activate, deactivate, engine, find_refusal, name_refused_state, retry_unless_refused
from tests.support_prefect import ENVIRONMENT

if TYPE_CHECKING:
    from pathlib import Path

TRIED = 3  # with two retries
REFUSED = ["refused", "from", "while handling", "group", "answer", "returned", "timeout from"]


# -- tasks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_refused_task_is_tried_once(refused: Any, *, is_async: bool) -> None:
    """With retries and no condition: a refusal, however it comes out of the task, is tried once; any other failure as often as asked."""
    others = ["planned", "timeout", "returned by itself"]
    states = refused.states_of([refused.made(how, is_async=is_async) for how in [*REFUSED, *others]])

    assert {how: refused.counted[how] for how in REFUSED} == dict.fromkeys(REFUSED, 1)
    assert {how: refused.counted[how] for how in others} == dict.fromkeys(others, TRIED)
    # "TimedOut" is Prefect's own name, and says more.
    named = {how: state[1] for how, state in states.items()}
    assert named == {
        **dict.fromkeys(REFUSED, "SpendCapExceeded"), **dict.fromkeys(others, "Failed"), "timeout from": "TimedOut", "timeout": "TimedOut",
    }  # fmt: skip
    assert [how for how in REFUSED if refused.TEXT not in states[how][2]] == []
    assert {state[0] for state in states.values()} == {"FAILED"}


@pytest.mark.parametrize("is_async", [pytest.param(False, id="sync"), pytest.param(True, id="async", marks=pytest.mark.ci)])
def test_no_condition_of_the_users_has_a_refusal_retried(refused: Any, *, is_async: bool) -> None:
    """Whatever it says, and whatever it is: Prefect would ask some, and ignore others."""
    tasks = [refused.made("refused", condition, is_async=is_async, name=name) for name, condition in refused.CONDITIONS.items()]
    states = refused.states_of(tasks)

    assert refused.counted["refused"] == len(refused.CONDITIONS) == 7
    assert {state[1] for state in states.values()} == {"SpendCapExceeded"}


@pytest.mark.ci
def test_other_failures_are_retried_as_prefect_does_it(refused: Any) -> None:
    """A condition is asked of them, if Prefect asks it: one that is no plain function has nothing retried, with keyguard and without."""
    counts = []
    for _ in range(2):
        tasks = [refused.made(name, condition, name=name) for name, condition in refused.CONDITIONS.items()]
        refused.states_of(tasks)
        counts.append({name: refused.counted[name] for name in refused.CONDITIONS})
        refused.counted.clear()
        deactivate()
    ignored = {"partial", "bound method", "object", "mistaken"}

    assert counts[0] == counts[1] == {name: 1 if name in ignored else TRIED for name in refused.CONDITIONS}


def test_a_task_that_is_not_retried_says_so_once(refused: Any) -> None:
    """In the task run's own log, with the amounts; not twice where the user has named the condition too, nor where no retry was left."""
    tasks = [refused.made("refused"), refused.made("from", retry_unless_refused), refused.made("answer", retries=0)]
    with refused.logged() as lines:
        refused.states_of(tasks)
    said = [(name.partition("-")[0], line.partition(" ")[2]) for name, line in lines if "is not retried" in line]

    assert sorted(said) == [(how, f"is not retried: SpendCapExceeded: {refused.TEXT}") for how in ("from", "refused")]


@pytest.mark.ci
def test_a_real_timeout_is_retried(refused: Any) -> None:
    """A task that waits for too long has no refusal behind it, so it is tried as often as asked."""
    import asyncio

    from prefect import task

    @task(retries=refused.RETRIES, retry_delay_seconds=0, timeout_seconds=0.05, name="slow")
    async def slow() -> None:
        refused.counted["slow"] += 1
        await asyncio.Event().wait()

    states = refused.states_of([slow])

    assert (refused.counted["slow"], states["slow"][1]) == (TRIED, "TimedOut")


# -- flows -----------------------------------------------------------------------------------------


BOTH = [pytest.param(False, id="sync"), pytest.param(True, id="async")]
ESCAPES = ["refused", "from", "task", "returned", "state of a task", "future of a task", "states of tasks"]


@pytest.mark.parametrize("is_async", BOTH)
@pytest.mark.parametrize("step", [pytest.param(step, marks=[] if step == "task" else pytest.mark.ci) for step in ESCAPES])
def test_a_refusal_that_ends_a_flow_is_not_retried(refused: Any, step: str, *, is_async: bool) -> None:
    """Raised, wrapped, returned as a state or a future: one pass, one failed state, named alike here, at the server and in hooks."""
    hooked: list[str] = []
    body = refused.Body(step)
    flow = refused.flow_of(body, is_async=is_async, on_failure=[lambda _flow, _run, state: hooked.append(state.name)])
    with refused.logged() as lines:
        state = refused.ended(flow)
    run = refused.at_server(state.state_details.flow_run_id)

    assert (body.passes, run.run_count, run.empirical_policy.retries) == (1, 1, 0)
    assert (state.type.value, state.name, run.state.type.value, run.state.name) == ("FAILED", "SpendCapExceeded") * 2
    assert refused.TEXT in state.message
    assert run.state.message == state.message
    assert (hooked, refused.history(run.id)) == (["SpendCapExceeded"], ["Pending", "Running", "SpendCapExceeded"])
    assert len([line for _, line in lines if line.startswith(f"{run.name} is not retried: SpendCapExceeded")]) == 1


@pytest.mark.parametrize("is_async", [pytest.param(False, id="sync"), pytest.param(True, id="async", marks=pytest.mark.ci)])
def test_a_flow_that_catches_a_refusal_keeps_its_retries(refused: Any, *, is_async: bool) -> None:
    """It goes on, and fails of something else: tried as often as asked, and called as Prefect calls it."""
    body = refused.Body("caught then fails")
    state = refused.ended(refused.flow_of(body, is_async=is_async))
    run = refused.at_server(state.state_details.flow_run_id)

    assert (body.passes, run.run_count, run.empirical_policy.retries) == (TRIED, TRIED, refused.RETRIES)
    assert (state.name, run.state.name, refused.counted["caught"]) == ("Failed", "Failed", TRIED)


@pytest.mark.ci
@pytest.mark.parametrize("is_async", BOTH)
@pytest.mark.parametrize(
    ("steps", "passes", "name"),
    [
        pytest.param(("planned", "refused"), 2, "SpendCapExceeded", id="refused in the second pass"),
        pytest.param(("planned", "caught"), 2, "Completed", id="caught in the second pass"),
        pytest.param(("planned", "planned", "refused"), 3, "SpendCapExceeded", id="refused in the last pass"),
        pytest.param(("timeout from",), 1, "TimedOut", id="a timeout in its handling"),
        pytest.param(("planned",), 3, "Failed", id="never refused"),
    ],
)
def test_the_passes_of_a_flow(refused: Any, steps: tuple[str, ...], passes: int, name: str, *, is_async: bool) -> None:
    """The passes before a refusal are what the user asked for; the one that is refused is the last."""
    body = refused.Body(*steps)
    state = refused.ended(refused.flow_of(body, is_async=is_async))
    run = refused.at_server(state.state_details.flow_run_id)

    assert (body.passes, run.run_count, state.name, run.state.name) == (passes, passes, name, name)


def test_what_a_refused_flow_raises_is_the_refusal(refused: Any) -> None:
    """The caller catches it as itself, with its fields."""
    body = refused.Body("task")
    with pytest.raises(SpendCapExceeded) as caught:
        refused.flow_of(body)()

    assert (caught.value.cap, caught.value.spent, caught.value.requested, body.passes) == (500_000_000, 480_000_000, 50_000_000, 1)


@pytest.mark.ci
@pytest.mark.parametrize("is_async", BOTH)
def test_a_subflow_has_retries_of_its_own(refused: Any, *, is_async: bool) -> None:
    """Refused, the subflow is not retried, nor the task run that stands for it; its parent that catches it is, for a later failure."""
    child = refused.Body("refused")
    inner = refused.flow_of(child, name="child")

    def parent() -> None:
        with pytest.raises(SpendCapExceeded):
            inner()
        refused.fail("planned")

    state = refused.ended(refused.flow_of(parent, name="parent", is_async=is_async))
    run = refused.at_server(state.state_details.flow_run_id)

    # A pass of the parent begins a new run of its child.
    assert (run.run_count, child.passes, state.name, run.state.name) == (TRIED, TRIED, "Failed", "Failed")


@pytest.mark.parametrize("is_async", [pytest.param(False, id="sync"), pytest.param(True, id="async", marks=pytest.mark.ci)])
def test_a_refusal_that_escapes_two_flows_ends_both(refused: Any, *, is_async: bool) -> None:
    """Subflow, the task run that stands for it, and parent: one pass each, and the same name."""
    from prefect.client.orchestration import get_client

    child, ids = refused.Body("refused"), []
    inner = refused.flow_of(child, name="child", on_failure=[lambda _flow, run, _state: ids.append(run.id)])
    parent = refused.Body("done")

    def outer() -> None:
        parent()
        inner()

    state = refused.ended(refused.flow_of(outer, name="parent", is_async=is_async))
    below = refused.at_server(ids[0])
    with get_client(sync_client=True) as client:
        standing = client.read_task_run(below.parent_task_run_id).state

    assert (child.passes, parent.passes, len(ids)) == (1, 1, 1)
    above = refused.at_server(state.state_details.flow_run_id).state

    assert [one and one.name for one in (below.state, standing, above)] == ["SpendCapExceeded"] * 3
    assert below.empirical_policy.retries == 0


@pytest.mark.ci
def test_another_process_reads_the_refusal(refused: Any, prefect_home: Path, prefect_server: str) -> None:
    """From the run's state at the server: its class, its message and its fields."""
    state = refused.ended(refused.flow_of(refused.Body("task")))
    script = (
        "import json, sys; from uuid import UUID; from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as client: state = client.read_flow_run(UUID(sys.argv[1])).state\n"
        "error = state.result(raise_on_failure=False)\n"
        "print(json.dumps([state.name, type(error).__name__, str(error), error.scope, error.cap, error.spent, error.requested]))"
    )
    env = {**os.environ, **ENVIRONMENT, "PREFECT_HOME": str(prefect_home), "PREFECT_API_URL": prefect_server}
    command = [sys.executable, "-c", script, str(state.state_details.flow_run_id)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)

    assert json.loads(done.stdout or "null") == [
        "SpendCapExceeded", "SpendCapExceeded", refused.TEXT, "run:r-1", 500_000_000, 480_000_000, 50_000_000,
    ], done.stderr  # fmt: skip


def test_a_state_from_the_server_tells_by_its_name(refused: Any) -> None:
    """Its exception is in a storage, which is not read for this; a state that a user has called so, and kept here, is his own."""
    from prefect.states import Failed

    state = refused.ended(refused.flow_of(refused.Body("refused")))
    found = find_refusal(refused.at_server(state.state_details.flow_run_id).state)

    assert isinstance(found, SpendCapExceeded)
    assert (refused.TEXT in str(found), found.cap) == (True, None)
    assert find_refusal(Failed(name="KeyExpired", message="the customer's door key")) is None


@pytest.mark.ci
def test_the_server_has_a_refused_task_run_by_its_name(refused: Any) -> None:
    """Task runs are told to the server by events; it shows the same name and message as the flow's process."""
    import threading

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter
    from prefect.client.schemas.sorting import TaskRunSort

    state = refused.ended(refused.flow_of(refused.Body("state of a task")))
    task_state, pause, found = state.data.result, threading.Event(), list[Any]()
    wanted = TaskRunFilter.model_validate({"id": {"any_": [task_state.state_details.task_run_id]}})
    with get_client(sync_client=True) as client:
        # The server writes what events tell it in batches.
        while not found or not found[0].state.is_final():
            pause.wait(0.1)
            found = client.read_task_runs(task_run_filter=wanted, sort=TaskRunSort.ID_DESC, limit=1)

    told = found[0].state
    assert (told.type.value, told.name, told.message) == ("FAILED", "SpendCapExceeded", task_state.message)


# -- a Prefect that is not as known ----------------------------------------------------------------


def test_prefects_engine_is_as_known(refused: Any) -> None:
    """Every method that keyguard changes is there, with the parameters that it had; if this fails, Prefect changed."""
    deactivate()
    known = {f"{seam.owner}.{seam.method}": engine._is_known(seam, sys.modules[seam.module]) for seam in engine._SEAMS}
    activate()

    assert known == dict.fromkeys(known, True)
    assert (len(known), engine.is_patched()) == (6, True)


def test_an_unknown_engine_is_left_alone_and_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A method with other parameters, one that is awaited now, or a class that is gone: one line that says what to do instead."""

    class SyncTaskRunEngine:
        def can_retry(self, failure: object, budget: int) -> bool:
            return True

        async def set_state(self, state: object, force: bool) -> object:
            return state

    before = dict(vars(SyncTaskRunEngine))
    module = ModuleType("prefect.task_engine")
    module.SyncTaskRunEngine = SyncTaskRunEngine  # type: ignore[attr-defined]  # -- what another Prefect may have
    monkeypatch.setitem(sys.modules, "prefect.task_engine", module)
    monkeypatch.setattr(engine._state, "is_told", False)
    monkeypatch.setattr(engine._state, "is_active", True)
    with caplog.at_level(logging.WARNING, logger="keyguard"):
        engine._patch_module(module)
        engine._patch_module(module)

    assert dict(vars(SyncTaskRunEngine)) == before
    assert len(caplog.messages) == 1
    assert "retry_unless_refused" in caplog.messages[0]
    assert "SyncTaskRunEngine.can_retry, AsyncTaskRunEngine.can_retry, SyncTaskRunEngine.set_state" in caplog.messages[0]


def test_uninstalling_puts_prefects_methods_back(prefect_home: Path) -> None:
    """Each is the very object that it was; twice on and twice off change nothing more."""
    from prefect.flow_engine import AsyncFlowRunEngine, FlowRunEngine
    from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine

    def methods() -> list[Any]:
        owners = (FlowRunEngine, AsyncFlowRunEngine, SyncTaskRunEngine, AsyncTaskRunEngine)
        return [vars(owner).get(name) for owner in owners for name in ("set_state", "can_retry")]

    deactivate()
    before = methods()
    activate()
    activate()
    changed = [now is not then for now, then in zip(methods(), before, strict=True)]
    deactivate()
    deactivate()

    assert [now is then for now, then in zip(methods(), before, strict=True)] == [True] * 8
    assert changed == [True, False, True, False, True, True, True, True]


def test_what_another_library_put_over_ours_stays(prefect_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wrapper is not taken away with ours, which then passes everything; on again, it is not put there twice."""
    from prefect.task_engine import SyncTaskRunEngine

    activate()
    theirs: Any = wrapt.FunctionWrapper(vars(SyncTaskRunEngine)["can_retry"], lambda wrapped, _it, args, kwargs: wrapped(*args, **kwargs))
    monkeypatch.setattr(SyncTaskRunEngine, "can_retry", theirs)
    deactivate()
    passive = engine.is_patched(), vars(SyncTaskRunEngine)["can_retry"] is theirs
    placed = len(engine._state.placed)
    activate()

    assert passive == (False, True)
    assert (placed, len(engine._state.placed), engine.is_patched()) == (1, 6, True)
    assert vars(SyncTaskRunEngine)["can_retry"] is theirs
    monkeypatch.undo()
    deactivate()
    assert engine._state.placed == []


@pytest.mark.parametrize("is_async", [pytest.param(False, id="sync"), pytest.param(True, id="async", marks=pytest.mark.ci)])
def test_a_hook_names_the_state_where_the_engine_is_not_changed(refused: Any, *, is_async: bool) -> None:
    """`on_failure=[name_refused_state]`: a second state, named, that still has the refusal; a changed engine leaves it nothing to do."""
    deactivate()
    state = refused.ended(refused.flow_of(refused.Body("refused"), retries=0, is_async=is_async, on_failure=[name_refused_state]))
    run = refused.at_server(state.state_details.flow_run_id)
    activate()
    again = refused.ended(refused.flow_of(refused.Body("refused"), is_async=is_async, on_failure=[name_refused_state]))

    assert (state.name, run.state.name, run.state.type.value) == ("SpendCapExceeded", "SpendCapExceeded", "FAILED")
    assert refused.history(run.id) == ["Pending", "Running", "Failed", "SpendCapExceeded"]
    assert run.state.result(raise_on_failure=False).cap == 500_000_000
    assert refused.history(again.state_details.flow_run_id) == ["Pending", "Running", "SpendCapExceeded"]
