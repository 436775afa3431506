"""What travels with a Prefect run, and what a process does that meets it: fabricated contexts, real ledgers, real vendor calls."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard import context
from keyguard.errors import Unattributed
from keyguard.ledgers import open_ledger
from keyguard.prefect import labels
from tests.support_forks import charge
from tests.support_prefect import flow_run, in_flow, in_task, task_run
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("prefect_home")
carrying = sys.modules["keyguard.prefect.carrying"]
roots = sys.modules["keyguard.prefect.roots"]


@pytest.fixture
def vendor() -> Iterator[StripeServer]:
    """A Stripe that executes everything."""
    with StripeServer() as started:
        yield started


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as one that nobody has armed, and that joins guarded runs, as the entry points make it."""
    import prefect.context  # noqa: F401 -- what is hooked

    keyguard.uninstall()
    monkeypatch.setattr(carrying._state, "joins", False)
    carrying.join_guarded_runs()
    yield
    monkeypatch.undo()
    carrying.unwatch()


def armed_elsewhere(url: str) -> Any:
    """Arm a root run as its own process does; returns its flow run, as Prefect would send it to another process."""
    run = flow_run()
    with in_flow(run):
        keyguard.install(url, run_usd_cap=5)
    keyguard.uninstall()
    return run.model_copy(update={"labels": dict(run.labels)})


# -- labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "travels"),
    [
        ("sqlite:////var/lib/ledger.db", "sqlite:////var/lib/ledger.db"),
        ("postgresql://guard@db.internal/ledger", "postgresql://guard@db.internal/ledger"),
        ("postgresql://guard:hunter2@db.internal/ledger", "env:KEYGUARD_URL"),
        ("redis://:hunter2@cache.internal/0", "env:KEYGUARD_URL"),
        ("postgresql://db.internal/ledger?user=guard&password=hunter2", "env:KEYGUARD_URL"),
        ("https://proxy.internal/?token=hunter2", "env:KEYGUARD_URL"),
    ],
)
def test_a_ledgers_url_travels_without_a_secret(url: str, travels: str) -> None:
    """A URL that holds a password, in whatever form, is not sent; the name of the setting is that must say it there."""
    assert labels.travelling(url) == travels


def test_marks_come_back_as_they_were_written() -> None:
    """Labels are flat strings; a run without them is not marked."""
    marks, found = labels.Marks("root", "token", "sqlite:////l.db"), dict[str, Any]()
    labels.write(found, marks)

    assert labels.read(found) == marks
    assert labels.read({"other": 1}) is None
    assert labels.read(None) is None


def test_the_servers_record_does_not_give_its_execution_to_the_next_one() -> None:
    """What is kept of a root's execution is read by the runs it started, never by its own next execution."""
    kept = labels.record(labels.Marks("root", "token", "sqlite:////l.db"))
    own, started = labels.read(kept), labels.recorded(kept)

    assert own is not None
    assert started is not None
    assert (own.execution, started.execution) == ("", "token")


def test_install_marks_the_run_with_its_ledger(url: str) -> None:
    """Root, execution and ledger are on the labels when install() returns: Prefect freezes them with the first task it sends away."""
    run = flow_run()
    with in_flow(run):
        keyguard.install(url, run_usd_cap=5)

    assert set(run.labels) == {labels.ROOT_LABEL, labels.EXECUTION_LABEL, labels.LEDGER_LABEL}
    assert (run.labels[labels.ROOT_LABEL], run.labels[labels.LEDGER_LABEL]) == (str(run.id), url)
    assert "vault_key" not in str(run.labels)


# -- leaving -------------------------------------------------------------------------------------------


def left(run: Any) -> dict[str, Any]:
    """Do what happens when a run's context is serialised."""
    with in_flow(run) as entered:
        carrying._before_leaving(entered)
    found: dict[str, Any] = run.labels
    return found


@pytest.mark.ci
def test_a_run_under_the_default_policy_is_given_its_key_before_it_leaves(url: str) -> None:
    """A flow that never called install() in a process that did: its key is issued when its first task is sent away, and found there."""
    keyguard.install(url, run_usd_cap=5)
    run = flow_run()
    found = left(run)
    keyguard.uninstall()

    assert found[labels.LEDGER_LABEL] == url
    ledger = open_ledger(url)
    key = ledger.key(run_id=str(run.id))
    ledger.shut()

    assert key is not None
    assert key.policy.run_usd_cap == 5_000_000


def test_a_run_without_a_key_leaves_marked_all_the_same(url: str) -> None:
    """Where a process is armed for another run, this one is marked without a ledger: refused wherever it comes."""
    with keyguard.run("another"):
        keyguard.install(url, run_usd_cap=5)
    run = flow_run()
    found = left(run)

    assert found[labels.ROOT_LABEL] == str(run.id)
    assert labels.LEDGER_LABEL not in found


def test_a_run_of_a_process_that_is_not_armed_leaves_as_it_is() -> None:
    """Who does not use keyguard has no labels of ours."""
    keyguard.uninstall()

    assert left(flow_run()) == {}


@pytest.mark.usefixtures("prefect_server")
def test_prefects_own_serialisation_marks(url: str) -> None:
    """The hook is on the method by which Prefect sends a context, to the process that a flow never told; if this fails, Prefect changed."""
    from prefect import flow
    from prefect.context import serialize_context

    keyguard.install(url, run_usd_cap=5)

    @flow
    def root() -> Any:
        sent: Any = serialize_context()
        return sent["flow_run_context"]["flow_run"]["labels"]

    found: Any = root()

    assert found[labels.LEDGER_LABEL] == url


# -- arriving ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("elsewhere")
def test_a_process_that_meets_a_guarded_run_is_armed_and_charges_it(vendor: StripeServer, url: str) -> None:
    """Nobody called install() here: a bare call in the run is paid by the run's key, and the one beyond its cap is refused."""
    sent = armed_elsewhere(url)
    with in_flow(sent):
        charge(vendor.url, 400)
        with pytest.raises(keyguard.SpendCapExceeded) as refused:
            charge(vendor.url, 400)

    assert [form["amount"] for form in vendor.charges] == ["400"]
    assert (refused.value.run_id, refused.value.spent, refused.value.requested) == (str(sent.id), 4_000_000, 4_000_000)


@pytest.mark.usefixtures("elsewhere")
def test_a_process_that_meets_no_guarded_run_stays_as_it_is(vendor: StripeServer) -> None:
    """Roots, tasks and marked-by-nobody runs arm nothing: keyguard is merely installed."""
    with in_flow(flow_run()), in_task(task_run()):
        charge(vendor.url, 100)

    assert context.handler() is None
    assert len(vendor.charges) == 1


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("ledger", "said"),
    [
        ("env:KEYGUARD_URL", "set KEYGUARD_URL to it here"),
        ("sqlite://", "in the memory of the process that armed it"),
        ("sqlite:///{place}/absent.db", "set KEYGUARD_URL to the ledger that both processes share"),
        ("", "never called keyguard.install"),
    ],
)
def test_a_run_whose_ledger_is_not_here_is_refused(vendor: StripeServer, tmp_path: Path, ledger: str, said: str) -> None:
    """The call and the guarded function are refused, with what to set; no file is made in the ledger's place."""
    marks = labels.Marks("root-1", "token", ledger.format(place=tmp_path))
    sent = flow_run(is_child=True)
    labels.write(sent.labels, marks)
    with in_flow(sent):
        for call in (charge, keyguard.guarded(charge)):
            with pytest.raises(Unattributed, match="root-1") as refused:
                call(vendor.url, 100)
            assert said in str(refused.value)

    assert vendor.charges == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("elsewhere")
def test_a_ledger_of_another_place_is_found_by_the_setting(vendor: StripeServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file is mounted elsewhere, or the URL holds a password, `KEYGUARD_URL` says where the run's key is."""
    monkeypatch.setenv("KEYGUARD_URL", url)
    sent = armed_elsewhere(url)
    sent.labels[labels.LEDGER_LABEL] = "env:KEYGUARD_URL"
    with in_flow(sent):
        charge(vendor.url, 400)
    other = flow_run(labels={**sent.labels, labels.ROOT_LABEL: "root-2"}, is_child=True)
    with in_flow(other), pytest.raises(Unattributed, match="the one that is set has no such key"):
        charge(vendor.url, 400)

    assert len(vendor.charges) == 1


@pytest.mark.usefixtures("elsewhere")
def test_one_process_serves_runs_of_two_ledgers(vendor: StripeServer, tmp_path: Path) -> None:
    """A worker that lives long meets runs of several ledgers: each is charged on its own."""
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("a", "b")]
    sent = [armed_elsewhere(url) for url in urls]
    for number, run in enumerate(sent, 1):
        with in_flow(run):
            charge(vendor.url, 100 * number)
    ledgers = [open_ledger(url) for url in urls]
    spent = [[usage.spent for _, usage in ledger.runs()] for ledger in ledgers]
    for ledger in ledgers:
        ledger.shut()

    assert len(vendor.charges) == 2
    assert spent == [[1_000_000], [2_000_000]]


@pytest.mark.usefixtures("elsewhere")
def test_an_api_that_does_not_answer_lets_nobody_pay(vendor: StripeServer, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A run that a deployment started, whose root cannot be read: a line in the log, and every guarded call of it is refused."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(roots, "PATIENCE", 5.0)
    with (
        temporary_settings(updates={PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        caplog.at_level(logging.WARNING, logger="keyguard"),
        in_flow(flow_run(is_child=True)),
        pytest.raises(Unattributed, match="root run is not known"),
    ):
        charge(vendor.url, 100)

    assert vendor.charges == []
    assert "could not be read from Prefect's API" in caplog.messages[0]


def test_hooks_are_taken_away_with_the_arms(url: str) -> None:
    """`uninstall()` leaves Prefect's class as it was."""
    from prefect.context import FlowRunContext

    keyguard.uninstall()
    before = {name: vars(FlowRunContext).get(name) for name in ("serialize", "__enter__")}
    keyguard.install(url, run_usd_cap=5)
    during = {name: vars(FlowRunContext).get(name) for name in before}
    keyguard.uninstall()

    assert {name: vars(FlowRunContext).get(name) for name in before} == before
    assert [during[name] is before[name] for name in before] == [False, False]


def test_a_prefect_without_the_two_methods_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what is lost, and nothing breaks."""
    monkeypatch.setattr(carrying._state, "placed", {})
    with caplog.at_level(logging.WARNING, logger="keyguard"):
        carrying._hook(SimpleNamespace(FlowRunContext=None))

    assert len(caplog.records) == 1
    assert "keyguard.prefect.task" in caplog.messages[0]


@pytest.mark.usefixtures("prefect_server")
def test_a_subflow_that_installs_again_keeps_its_roots_ledger(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """install() in a subflow without a URL, where the setting names another ledger: its marks say where the run's key really is."""
    from prefect import flow
    from prefect.context import serialize_context

    monkeypatch.setenv("KEYGUARD_URL", f"sqlite:///{tmp_path / 'other.db'}")

    @flow
    def child() -> Any:
        keyguard.install(run_usd_cap=5)
        sent: Any = serialize_context()
        return sent["flow_run_context"]["flow_run"]["labels"]

    @flow
    def root() -> Any:
        keyguard.install(url, run_usd_cap=5)
        return child()

    found: Any = root()

    assert found[labels.LEDGER_LABEL] == url
