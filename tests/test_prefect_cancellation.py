"""A Prefect run that is cancelled, or over, sends nothing more: real flows on the session's server, fabricated contexts for the rules."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import timeit
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard import context
from keyguard.errors import KeyRevoked
from keyguard.prefect import activate, cancellation, leaving
from keyguard.prefect.states import state_of
from tests.support_cancel import wait_for
from tests.support_forks import charge, figures, fork
from tests.support_forwarder import Forwarder
from tests.support_prefect import flow_run, in_flow, in_task, task_run
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("prefect_home")
# How often the API is asked here; a machine under load may take a hundred times as long, which no test minds.
PERIOD = 0.2
_tick = threading.Event()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[cancellation.Watch]:
    """The process's watch, with a short period; empty before and after."""
    monkeypatch.setenv("KEYGUARD_STATE_POLL_SECONDS", str(PERIOD))
    activate()
    cancellation.watch.end()
    yield cancellation.watch
    cancellation.watch.end()


@pytest.fixture
def armed(watch: cancellation.Watch) -> cancellation.Watch:
    """The same, with keyguard armed for the process's own run."""
    keyguard.install(run_usd_cap=100)
    return watch


def why() -> str | None:
    """Return what a guarded call would be told here."""
    run = context.current_run()
    return context.why_stopped(run, run.run_id if run is not None else None)


def state(name: str) -> Any:
    """Return a state as Prefect's engine holds it."""
    from prefect import states

    return getattr(states, name)()


def set_state(run_id: object, name: str) -> None:
    """Set a run's state as a person does in Prefect's UI."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, state(name), force=True)  # type: ignore[arg-type]  # -- an id as it comes


def refused(call: Callable[[], Any]) -> str:
    """Call until it is refused as revoked; returns the refusal's words."""
    words: list[str] = []

    def is_refused() -> bool:
        try:
            call()
        except KeyRevoked as error:
            words.append(str(error))
        return bool(words)

    assert wait_for(is_refused)
    return words[0]


def passes(call: Callable[[], Any]) -> None:
    """Call until it goes through."""

    def is_through() -> bool:
        try:
            call()
        except KeyRevoked:
            return False
        return True

    assert wait_for(is_through)


# -- real flows ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("prefect_server", "watch")
def test_a_cancelled_run_sends_nothing_more_until_it_is_set_back() -> None:
    """Cancelled in the UI: KeyRevoked says where and what to do, no balance changes; set back to Running, it goes on within its budget."""
    from prefect import flow
    from prefect.runtime import flow_run as running

    seen: dict[str, Any] = {}

    @flow
    def root(base: str) -> str:
        installed = keyguard.install(run_usd_cap=100)
        charge(base, 1000)
        run_id = str(running.id)
        set_state(run_id, "Cancelling")
        seen["said"] = refused(lambda: charge(base, 1))
        before = figures(installed.usage())
        arrived = len(server.requests)
        with pytest.raises(KeyRevoked):
            charge(base, 2000)
        seen["is unchanged"] = (figures(installed.usage()), len(server.requests)) == (before, arrived)
        set_state(run_id, "Running")
        passes(lambda: charge(base, 3000))
        seen["spent"] = figures(installed.usage())[0] - before[0]
        return run_id

    with StripeServer() as server:
        run_id = root(server.url)

    assert f"flow run {run_id} (" in seen["said"]
    assert "is Cancelling in Prefect" in seen["said"]
    assert f"prefect flow-run retry {run_id}" in seen["said"]
    assert (seen["is unchanged"], seen["spent"]) == (True, 3000)


@pytest.mark.ci
@pytest.mark.usefixtures("prefect_server", "watch")
def test_a_neighbour_in_the_same_process_goes_on() -> None:
    """Two flows run in one process; one is cancelled, and the other's calls go out."""
    from prefect import flow
    from prefect.runtime import flow_run as running

    is_stopped, is_done = threading.Event(), threading.Event()

    @flow
    def cancelled(base: str) -> None:
        keyguard.install(run_usd_cap=100)
        charge(base, 1)
        set_state(running.id, "Cancelling")
        refused(lambda: charge(base, 1))
        is_stopped.set()
        is_done.wait(60)

    @flow
    def neighbour(base: str) -> int:
        installed = keyguard.install(run_usd_cap=100)
        charge(base, 1000)
        assert is_stopped.wait(60)
        for _ in range(3):
            charge(base, 1000)
            _tick.wait(PERIOD)
        is_done.set()
        return figures(installed.usage())[0]

    with StripeServer() as server:
        thread = threading.Thread(target=cancelled, args=(server.url,))
        thread.start()
        spent = neighbour(server.url)
        thread.join()

    assert spent == 4000


@pytest.mark.ci
@pytest.mark.usefixtures("prefect_server", "watch")
def test_a_cancelled_subflow_stops_alone_and_a_cancelled_root_with_its_subflows() -> None:
    """A subflow's own cancellation leaves its root alone; the root's stops what runs in it."""
    from prefect import flow
    from prefect.runtime import flow_run as running

    @flow
    def child(base: str, stopped_id: str) -> str:
        charge(base, 1)
        set_state(stopped_id or running.id, "Cancelling")
        said = refused(lambda: charge(base, 1))
        set_state(stopped_id or running.id, "Running")
        return said

    @flow
    def root(base: str) -> tuple[str, str, str]:
        keyguard.install(run_usd_cap=100)
        run_id = str(running.id)
        first = child(base, "")
        charge(base, 1000)
        second = child(base, run_id)
        passes(lambda: charge(base, 1000))
        return run_id, first, second

    with StripeServer() as server:
        run_id, first, second = root(server.url)

    assert run_id not in first.partition("See:")[0]
    assert f"flow run {run_id} (" in second


@pytest.mark.usefixtures("prefect_server", "watch")
def test_what_a_failed_flow_has_left_behind_stops_and_its_hooks_do_not() -> None:
    """A flow fails: its on_failure hook may still send (an alert), a task that it had submitted may not."""
    from prefect import flow, task

    has_begun = threading.Event()
    said: list[str] = []

    @task
    def lingering(base: str) -> None:
        charge(base, 1)
        has_begun.set()
        said.append(refused(lambda: charge(base, 1)))

    def alert(flow: Any, flow_run: Any, state: Any) -> None:
        _tick.wait(0.3)
        said.append(charge(server.url, 500))

    @flow(on_failure=[alert])
    def root(base: str) -> None:
        keyguard.install(run_usd_cap=100)
        lingering.submit(base)
        assert has_begun.wait(60)
        raise ValueError("planned")

    with StripeServer() as server:
        with pytest.raises(ValueError, match="planned"):
            root(server.url)

        amounts = [form["amount"] for form in server.charges]

    assert said[0].startswith("pi_")
    assert "has failed" in said[1]
    assert "500" in amounts


@pytest.mark.usefixtures("prefect_server", "watch")
def test_a_task_that_outlives_a_completed_flow_is_not_stopped() -> None:
    """A flow returns without waiting for a task: Prefect lets the task end, and so do we, although the API says Completed."""
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run as running

    ended: list[str] = []

    def is_completed(run_id: str) -> bool:
        with get_client(sync_client=True) as client:
            found = client.read_flow_run(run_id).state  # type: ignore[arg-type]  # -- an id as it comes
        return found is not None and found.is_completed()

    @task
    def outliving(base: str, run_id: str) -> None:
        charge(base, 1)
        assert wait_for(lambda: is_completed(run_id))
        for _ in range(4):
            _tick.wait(PERIOD)
            ended.append(charge(base, 1))

    @flow
    def root(base: str) -> str:
        keyguard.install(run_usd_cap=100)
        outliving.submit(base, str(running.id))
        return "done"

    with StripeServer() as server:
        root(server.url)

    assert len(ended) == 4


@pytest.mark.ci
@pytest.mark.usefixtures("prefect_server", "watch")
def test_a_run_that_somebody_has_completed_while_it_runs_stops() -> None:
    """A person sets a running run to Completed in the UI: that is not the flow's own end, so its calls stop."""
    from prefect import flow
    from prefect.runtime import flow_run as running

    @flow
    def root(base: str) -> str:
        keyguard.install(run_usd_cap=100)
        charge(base, 1)
        set_state(running.id, "Completed")
        return refused(lambda: charge(base, 1))

    with StripeServer() as server:
        said = root(server.url)

    assert "is Completed in Prefect" in said


@pytest.mark.usefixtures("prefect_server", "watch")
def test_a_flow_whose_coroutine_is_cancelled_stops_its_submitted_tasks() -> None:
    """`asyncio.timeout` and the like end a flow's body while its tasks run in threads: they stop, and its on_crashed hook may send."""
    from prefect import flow, task

    said: list[str] = []
    has_begun = threading.Event()

    @task
    def lingering(base: str) -> None:
        charge(base, 1)
        has_begun.set()
        said.append(refused(lambda: charge(base, 1)))

    def alert(flow: Any, flow_run: Any, state: Any) -> None:
        said.append(charge(server.url, 500))

    @flow(on_crashed=[alert])
    async def root(base: str) -> None:
        keyguard.install(run_usd_cap=100)
        lingering.submit(base)
        await asyncio.sleep(60)

    async def cancelled(base: str) -> None:
        running = asyncio.ensure_future(root(base))
        await asyncio.to_thread(has_begun.wait, 60)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with StripeServer() as server:
        asyncio.run(cancelled(server.url))

    assert "is crashing: CancelledError ended its body" in said[0]
    assert said[1].startswith("pi_")


# -- the watcher, against the real API behind a door -------------------------------------------------


@contextmanager
def at_work(door: Forwarder, client: Any) -> Iterator[Any]:
    """Enter the context of a run that exists at the server, as a worker's process does; its API is behind the door."""
    from prefect import flow
    from prefect.settings import PREFECT_API_URL, temporary_settings

    @flow
    def known() -> None: ...

    run = client.create_flow_run(known, state=state("Running"))
    with temporary_settings({PREFECT_API_URL: door.url}), in_flow(run):
        yield run


@pytest.fixture
def api(prefect_server: str) -> Iterator[Any]:
    """A client of the session's server."""
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(prefect_server) as client:
        yield client


def polls(door: Forwarder) -> int:
    """Return how often states were asked for."""
    return sum(request == "POST /api/flow_runs/filter" for request in door.seen)


def test_runs_are_asked_for_once_a_period_all_together_and_only_while_at_work(
    prefect_server: str, api: Any, armed: cancellation.Watch
) -> None:
    """One request a period for two runs; none when neither is left, and none after uninstall()."""
    with Forwarder(prefect_server) as door:
        with at_work(door, api), at_work(door, api):
            for _ in range(100):
                assert why() is None
            begun = timeit.default_timer()
            assert wait_for(lambda: polls(door) >= 3)
            periods = (timeit.default_timer() - begun) / PERIOD
            while_at_work = polls(door)
        # One may have been on its way.
        _tick.wait(2 * PERIOD)
        after = polls(door)
        _tick.wait(4 * PERIOD)
        idle = polls(door)
        keyguard.uninstall()

        assert 3 <= while_at_work <= periods + 2
        assert after == idle
    assert not [thread for thread in threading.enumerate() if thread.name == "keyguard-prefect-states"]
    assert (armed.entered, armed.stopped) == ({}, {})


@pytest.mark.ci
def test_an_api_that_is_away_stops_nobody_and_is_asked_less_and_less(
    prefect_server: str, api: Any, armed: cancellation.Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Unreachable: calls go on, one WARNING, fewer requests; back again, a cancellation is seen."""
    with Forwarder(prefect_server) as door, caplog.at_level(logging.WARNING, logger="keyguard"), at_work(door, api) as run:
        door.is_shut = True
        assert why() is None
        assert wait_for(lambda: len(door.seen) >= 3)
        first, begun = len(door.seen), timeit.default_timer()
        _tick.wait(10 * PERIOD)
        rate = (len(door.seen) - first) / ((timeit.default_timer() - begun) / PERIOD)
        assert why() is None
        door.is_shut = False
        api.set_flow_run_state(run.id, state("Cancelling"), force=True)
        assert wait_for(lambda: why() is not None)

        assert "is Cancelling in Prefect" in str(why())
        assert armed.is_up
    assert rate < 0.5
    assert len([message for message in caplog.messages if "Prefect's API does not say" in message]) == 1


@pytest.mark.usefixtures("armed")
def test_an_api_that_answers_slowly_is_asked_less(prefect_server: str, api: Any) -> None:
    """Many processes that ask a busy server are not to keep it busy: it gets twenty times as long to rest as it took."""
    with Forwarder(prefect_server) as door, at_work(door, api):
        door.delay = 2 * PERIOD
        assert why() is None
        assert wait_for(lambda: polls(door) >= 1)
        _tick.wait(12 * PERIOD)

        assert polls(door) == 1


def test_without_a_poll_nothing_is_watched(
    prefect_server: str, api: Any, monkeypatch: pytest.MonkeyPatch, watch: cancellation.Watch
) -> None:
    """`KEYGUARD_STATE_POLL_SECONDS=0`: no thread, and states are not asked for."""
    monkeypatch.setenv("KEYGUARD_STATE_POLL_SECONDS", "0")
    keyguard.install(run_usd_cap=1)
    with Forwarder(prefect_server) as door, at_work(door, api):
        assert why() is None
        _tick.wait(0.5)

        assert polls(door) == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "keyguard-prefect-states"]


def test_a_forked_child_watches_for_itself(prefect_server: str, api: Any, armed: cancellation.Watch) -> None:
    """The parent's thread does not come along; the child's first call begins a watch of its own, which sees the cancellation."""
    with Forwarder(prefect_server) as door, at_work(door, api) as run:
        assert why() is None
        assert armed.entered

        def in_the_child() -> list[Any]:
            before = [len(armed.entered), why(), len(armed.entered)]
            stopped = wait_for(lambda: why() is not None, 20)
            return [*before, stopped]

        child = fork(in_the_child)
        api.set_flow_run_state(run.id, state("Cancelling"), force=True)
        found = child.result()

    assert found == [0, None, 1, True]


# -- the rules, with fabricated contexts -------------------------------------------------------------


def test_the_runners_intent_stops_every_call_of_the_process(armed: cancellation.Watch) -> None:
    """What the runner says before it kills the process is read within each call, also in bare threads; taken back, calls go on."""
    from prefect._internal import control_listener

    with in_flow(flow_run()):
        before = why()
        control_listener._set_intent("cancel")
        try:
            during = [str(why())]
            thread = threading.Thread(target=lambda: during.append(str(context.why_stopped(None, None))))
            thread.start()
            thread.join()
            control_listener._set_intent("reschedule")
            during.append(str(why()))
        finally:
            control_listener.clear_intent()
        assert wait_for(lambda: not armed.is_up or bool(armed.stopped))

    assert before is None
    assert ["Prefect's runner is cancelling" in said for said in during] == [True, True, False]
    assert "ending (reschedule)" in during[2]


def test_prefect_still_shows_its_intent_where_it_is_read() -> None:
    """The private place where the intent is read follows the runner's message; if this fails, Prefect changed."""
    from prefect._internal import control_listener

    found = leaving.control_listener()
    control_listener._set_intent("cancel")
    try:
        assert (found, found._intent, control_listener.get_intent()) == (control_listener, "cancel", "cancel")
    finally:
        control_listener.clear_intent()
    assert found._intent is None


def test_prefect_still_cancels_a_flows_tasks_when_its_body_has_ended() -> None:
    """Threads: their runner calls its own `cancel_all` when it is left, with the exception at hand; if this fails, Prefect changed."""
    from prefect.task_runners import ThreadPoolTaskRunner

    seen: list[str] = []

    def left(_: Any, by: str) -> str:
        seen.append(by)
        return ""

    runner: Any = ThreadPoolTaskRunner()
    holder = in_flow(flow_run())
    holder.task_runner = runner
    leaving.tell(holder, left)
    leaving.tell(holder, lambda _, by: left(None, f"twice: {by}"))
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), runner:
            raise error
    with runner:
        pass

    assert seen == ["KeyboardInterrupt", "", ""]


@pytest.mark.parametrize("shows", ["a function", "nothing"])
def test_a_prefect_that_hides_its_intent_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shows: str
) -> None:
    """Without the variable its function is asked; without both there is no intent, and one WARNING says so."""
    import prefect._internal
    from prefect._internal import control_listener

    class Renamed:
        get_intent = staticmethod(lambda: "cancel")

    monkeypatch.setattr(leaving._state, "said", set())
    stand_in: Any = Renamed() if shows == "a function" else None
    monkeypatch.setattr(prefect._internal, "control_listener", stand_in)
    monkeypatch.setitem(sys.modules, "prefect._internal.control_listener", stand_in)
    with caplog.at_level(logging.WARNING, logger="keyguard"):
        found = [leaving.control_listener()._intent for _ in range(2)]

    assert found == (["cancel"] * 2 if shows == "a function" else [None] * 2)
    assert len(caplog.messages) == (0 if shows == "a function" else 1)
    assert control_listener.get_intent() is None


def test_a_run_that_cannot_be_watched_is_said_once_and_goes_on(
    armed: cancellation.Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a later Prefect does to its objects, a guarded call does not fail by it."""
    monkeypatch.setattr(leaving._state, "said", set())
    monkeypatch.delattr("keyguard.prefect.cancellation.source_of")
    with caplog.at_level(logging.WARNING, logger="keyguard"), in_flow(flow_run()):
        assert why() is None
    with in_flow(flow_run()):
        assert why() is None

    assert len([message for message in caplog.messages if "cannot be watched" in message]) == 1


def test_ctrl_c_stops_the_threads_and_not_the_tidying_up(armed: cancellation.Watch) -> None:
    """While the main thread is being ended by Ctrl-C, threads of its runs send nothing; the main thread itself may."""
    with in_flow(flow_run()):
        run = context.current_run()
        assert run is not None
        assert why() is None
        said: list[str | None] = []
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert wait_for(lambda: armed.is_up)
            thread = threading.Thread(target=lambda: said.append(context.why_stopped(None, run.run_id)))
            thread.start()
            thread.join()
            said.append(why())
        assert wait_for(lambda: not armed.is_up)

        assert "told to end (Ctrl-C)" in str(said[0])
        assert (said[1], why()) == (None, None)


def test_sigterm_is_known_by_prefects_own_signal() -> None:
    """What Prefect's handler of SIGTERM raises is told, also from beneath another error; any other error is none."""
    from prefect.exceptions import TerminationSignal

    found: list[str] = [leaving.interruption()]
    try:
        try:
            raise TerminationSignal(15)
        finally:
            found.append(leaving.interruption())
            try:
                raise ValueError
            except ValueError:
                found.append(leaving.interruption())
    except TerminationSignal:
        pass
    try:
        raise ValueError
    except ValueError:
        found.append(leaving.interruption())

    assert found == ["", "SIGTERM", "SIGTERM", ""]


def test_a_new_execution_lifts_what_stopped_the_one_before(armed: cancellation.Watch) -> None:
    """The same run, begun anew in this process (a retry in the UI), is not stopped by what its earlier execution was."""
    first = flow_run()
    with in_flow(first):
        assert why() is None
        armed.learn({str(first.id)}, {str(first.id): state_of(first.model_copy(update={"state": state("Cancelled")}))})
        stopped = why()
    with in_flow(first.model_copy(update={"labels": {}})):
        again = why()

    assert "is Cancelled in Prefect" in str(stopped)
    assert again is None


def test_a_stop_is_a_runs_and_of_what_runs_in_it(armed: cancellation.Watch) -> None:
    """A subflow's stop is its own, a root's is its subflows' too, and neither is a neighbour's; a copy in another process inherits it."""
    root, child, neighbour = flow_run(), flow_run(is_child=True), flow_run()

    def stopped() -> list[bool]:
        found: list[bool] = []
        with in_flow(neighbour):
            found.append(why() is not None)
        with in_flow(root):
            found.append(why() is not None)
            with in_task(task_run(root.id)), in_flow(child):
                found.append(why() is not None)
        return found

    def cancelled(run: Any) -> dict[str, Any]:
        return {str(run.id): state_of(run.model_copy(update={"state": state("Cancelling")}))}

    asked = {str(run.id) for run in (root, child, neighbour)}
    seen = [stopped()]
    for run in (child, root, neighbour):
        armed.learn(asked, cancelled(run))
        seen.append(stopped())
    copy = in_flow(neighbour.model_copy())
    copy.detached = True
    with copy:
        inherited = why()

    assert seen == [[False, False, False], [False, False, True], [False, True, True], [True, False, False]]
    assert inherited is not None


def test_a_copy_that_was_left_again_is_not_asked_about(armed: cancellation.Watch) -> None:
    """A pool's child or a task worker that has ended a task asks nothing more, whenever Python collects what is left of the run."""
    run = flow_run()
    copy = in_flow(run)
    copy.detached = True
    with copy:
        assert why() is None
        during = armed.look()

    assert (during, armed.look()) == ({str(run.id)}, set())


@pytest.mark.parametrize(("name", "here", "elsewhere"), [
    ("Cancelled", [True, True], [True, True]), ("Crashed", [True, True], [True, True]), ("Completed", [False, True], [False, False]),
    ("Failed", [False, True], [False, False]),
])  # fmt: skip
def test_an_end_stops_what_it_should(armed: cancellation.Watch, name: str, here: list[bool], elsewhere: list[bool]) -> None:
    """Seen twice in the API while its body runs here, an end is somebody else's; in a pool's child, or a `.delay()`ed task, it is none."""
    found: dict[bool, list[bool]] = {}
    for is_detached in (False, True):
        run = flow_run()
        holder = in_flow(run)
        holder.detached = is_detached
        seen = {str(run.id): state_of(run.model_copy(update={"state": state(name)}))}
        with holder:
            assert why() is None
            found[is_detached] = []
            for _ in range(2):
                armed.learn({str(run.id)}, seen)
                found[is_detached].append(why() is not None)

    assert (found[False], found[True]) == (here, elsewhere)


def test_a_run_named_otherwise_within_a_cancelled_flow_is_stopped(armed: cancellation.Watch) -> None:
    """`with keyguard.run(...)` in a flow, and a bare thread for which its run pays, belong to what Prefect has stopped."""
    run = flow_run()
    with in_flow(run), in_task(task_run(run.id)):
        with keyguard.run("inside"):
            before = why()
            armed.learn({str(run.id)}, {str(run.id): state_of(run.model_copy(update={"state": state("Crashed")}))})
            inside = why()
        payer = context.why_stopped(None, str(run.id))
        other = context.why_stopped(None, "another")

    assert before is None
    assert "is Crashed in Prefect" in str(inside)
    assert "is Crashed in Prefect" in str(payer)
    assert other is not None
    assert context.why_stopped(None, "another") is None


def test_asking_costs_little(watch: cancellation.Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question within each call reads flags: far below what a lock or a request would take."""
    monkeypatch.setenv("KEYGUARD_STATE_POLL_SECONDS", "0")
    keyguard.install(run_usd_cap=1)
    with in_flow(flow_run()):
        run = context.current_run()
        seconds = min(timeit.repeat(lambda: context.why_stopped(run, "x"), number=1000, repeat=10)) / 1000

    assert seconds < 5e-6
