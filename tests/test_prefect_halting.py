"""What the process of a flow that crashes says to the others that run tasks of it, on the same machine: who hears it, and for how long."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard import context
from keyguard.errors import KeyRevoked
from keyguard.prefect import cancellation, halting, labels
from tests.support_cancel import wait_for
from tests.support_forks import charge
from tests.support_prefect import flow_run, in_flow
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("prefect_home")
HOW = "is crashing: TerminationSignal ended its body"


@pytest.fixture
def armed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[cancellation.Watch]:
    """This process's watch, which does not ask the API, with a temporary folder of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("KEYGUARD_STATE_POLL_SECONDS", "3600")
    cancellation.watch.end()
    keyguard.install(f"sqlite:///{tmp_path / 'ledger.db'}", run_usd_cap=100)
    yield cancellation.watch
    cancellation.watch.end()


def sent(run: Any) -> Any:
    """Return the context of a run as it comes to a pool's process."""
    copy = in_flow(run.model_copy(update={"labels": dict(run.labels)}))
    copy.detached = True
    return copy


def marked(**fields: Any) -> Any:
    """Return a root run that was sent away."""
    run = flow_run(**fields)
    labels.write(run.labels, labels.Marks(str(run.id), f"entry-{run.id}"))
    return run


def why() -> str | None:
    """Return what a guarded call would be told here."""
    run = context.current_run()
    return context.why_stopped(run, run.run_id if run is not None else None)


def test_a_task_elsewhere_stops_when_its_flow_says_that_it_crashes(armed: cancellation.Watch) -> None:
    """Within a look, though the API says that it runs; the next task that the pool gets is stopped before its first call."""
    run = marked()
    with sent(run):
        before = why()
        with halting.said(run, HOW):
            stopped = wait_for(lambda: why() is not None, 20)
            # It is not asked about any more, so that the API's word, which comes later, does not take it back.
            said, alive = why(), armed.look()
            with sent(run):
                following = why()

    assert (before, stopped, alive) == (None, True, set())
    assert f"flow run {run.id} {HOW}" in str(said)
    assert following == said


@pytest.mark.usefixtures("armed")
def test_its_calls_are_refused() -> None:
    """A task of a pool that goes on charging is told why, and nothing of it is sent."""
    run = marked()
    with StripeServer() as server, halting.said(run, HOW), sent(run):

        def is_refused() -> bool:
            try:
                charge(server.url, 100)
            except KeyRevoked as error:
                return HOW in str(error)
            return False

        assert wait_for(is_refused, 20)
        arrived = len(server.requests)
        with pytest.raises(KeyRevoked):
            charge(server.url, 100)

        assert len(server.requests) == arrived


def test_what_a_root_says_its_subflows_tasks_hear(armed: cancellation.Watch) -> None:
    """A task of a subflow belongs to the root that crashes; the subflow's own word stops the root's other tasks not."""
    root = marked()
    child = flow_run(is_child=True)
    labels.write(child.labels, labels.Marks(str(root.id), root.labels[labels.EXECUTION_LABEL]))
    found: list[bool] = []
    for speaker in (root, child):
        for run in (child, root):
            armed.end()
            with halting.said(speaker, HOW), sent(run):
                why()
                armed.look()
                found.append(why() is not None)

    assert found == [True, True, True, False]


def test_the_next_entry_of_the_body_hears_nothing_of_the_last(armed: cancellation.Watch) -> None:
    """A run that is retried has another token: what is said of the entry before is not said of it, nor of a neighbour."""
    run = marked()
    again = run.model_copy(update={"labels": {**run.labels, labels.EXECUTION_LABEL: "another"}})
    with halting.said(run, HOW):
        for other in (again, marked()):
            with sent(other):
                why()
                armed.look()

                assert why() is None


def test_nothing_is_left_and_nobody_else_can_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file goes with the block; a folder that others can write to, or that is a link, is neither written nor read."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = marked()
    with halting.said(run, HOW):
        (file,) = tmp_path.glob("keyguard-*/*")
        during, mode = halting.heard(str(run.id), run), file.parent.stat().st_mode & 0o777
    assert (during, mode, list(tmp_path.glob("keyguard-*/*"))) == (HOW, 0o700, [])

    folder = file.parent
    folder.chmod(0o777)
    (folder / file.name).write_text("anybody's word")
    with halting.said(run, HOW):
        assert halting.heard(str(run.id), run) == ""
        assert (folder / file.name).read_text() == "anybody's word"
    (folder / file.name).unlink()
    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with halting.said(run, HOW):
        assert (halting.heard(str(run.id), run), list(elsewhere.iterdir())) == ("", [])


@pytest.mark.parametrize("has", [{}, None], ids=["unmarked", "without labels"])
def test_an_unmarked_run_says_and_hears_nothing(has: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that never had a key has no name to say it under; and where no folder can be made, nothing fails."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = flow_run(labels=has)
    with halting.said(run, HOW):
        assert (halting.heard(str(run.id), run), list(tmp_path.iterdir())) == ("", [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "is not there"))
    known = marked()
    with halting.said(known, HOW):
        assert halting.heard(str(known.id), known) == ""


@pytest.mark.usefixtures("armed")
def test_prefects_pool_still_says_when_a_flows_body_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process pools: their runner calls its own `cancel_all` when it is left, with the error at hand; if this fails, Prefect changed."""
    from prefect.task_runners import ProcessPoolTaskRunner

    run, heard, shut = marked(), list[str](), ProcessPoolTaskRunner.cancel_all

    def shut_and_listen(runner: Any) -> None:
        heard.append(halting.heard(str(run.id), run))
        shut(runner)

    monkeypatch.setattr(ProcessPoolTaskRunner, "cancel_all", shut_and_listen)
    runner: Any = ProcessPoolTaskRunner(max_workers=1)
    holder = in_flow(run)
    holder.task_runner = runner
    with holder:
        assert why() is None
        with pytest.raises(KeyboardInterrupt), runner:
            raise KeyboardInterrupt

    assert heard == ["is crashing: KeyboardInterrupt ended its body"]
    assert halting.heard(str(run.id), run) == ""
