"""Logical charges under a real Prefect: retries of tasks and flows, other processes, lost answers. The double's truth is the judge."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

import keyguard
from keyguard import doubts
from keyguard.errors import AlreadyCharged, AmbiguousIdentity, DoubtPending
from keyguard.ledgers import open_ledger
from keyguard.testing.double import DoubleProcess, Fault, VendorDouble
from tests.support_prefect import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USD = 1_000_000
DAY = 86_400.0
INTENTS = "/v1/payment_intents"


@pytest.fixture
def flows(prefect_server: str) -> Iterator[Any]:
    """The flows, with nothing failed so far."""
    from tests import support_flows

    support_flows.begin_anew()
    yield support_flows
    keyguard.uninstall()


def ended(flow: Any, *arguments: Any) -> Any:
    """Run a flow to its end, and return its state."""
    return flow(*arguments, return_state=True)


def of_run(url: str, state: Any) -> Any:
    """Return what the ledger counts for a flow run."""
    ledger = open_ledger(url)
    usage = ledger.usage(f"run:{state.state_details.flow_run_id}")

    assert usage is not None
    assert ledger.verify() == []
    ledger.shut()
    return usage


class Watch:
    """Looks again and again whether the ledger counts what the vendor has executed."""

    def __init__(self, double: Any, url: str) -> None:
        self._double, self._ledger, self._over = double, open_ledger(url), threading.Event()
        self.seen: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._ledger.shut()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            # The truth first: what is executed meanwhile was counted before.
            truth = self._double.truth.charged()
            counted = [usage.spent + usage.held + usage.doubt for _, usage in self._ledger.runs()]
            self.seen.append((truth, sum(counted)))


@pytest.mark.parametrize(
    ("customers", "cap"), [pytest.param(36, 12, id="36-of-12"), pytest.param(300, 100, id="300-of-100", marks=pytest.mark.ci)]
)
def test_lost_answers_are_charged_once_and_counted_once(
    flows: Any, double: VendorDouble, url: str, monkeypatch: pytest.MonkeyPatch, customers: int, cap: int
) -> None:
    """
    Two of three answers are lost after the charge, tasks retry three times: the vendor's dollars stay within the cap, the ledger is never
    below them, and no customer is charged twice. What is in doubt at the end, the vendor tells: then the ledger says its dollars.
    """
    double.script(Fault("close_after", path=INTENTS, times=0, chance=0.67, seed=1))
    with Watch(double, url) as watch:
        state = ended(flows.lossy, double.url, url, customers, cap)
    usage, counts, truth = of_run(url, state), state.result(), double.truth

    assert (truth.charged(), max(truth.charges_by("customer").values())) == (cap * USD, 1)
    assert counts["charged"] + counts["lost"] == cap == customers - counts["refused"]
    assert usage.spent + usage.doubt == cap * USD
    assert usage.doubt == counts["lost"] * USD
    assert [pair for pair in watch.seen if pair[1] < pair[0]] == []
    assert double.struck() > cap
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_1")
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={double.host}")
    double.clear()
    done = doubts.reconcile(ledger=url)

    assert (len(done.answers), done.left) == (counts["lost"], ())
    assert counts["lost"] > 0
    assert (of_run(url, state).spent, of_run(url, state).doubt) == (truth.charged(), 0)


@pytest.mark.parametrize("failures", [pytest.param(0, marks=pytest.mark.ci), pytest.param(1, marks=pytest.mark.ci), 2])
def test_what_is_tried_again_as_a_whole_charges_once(flows: Any, double: VendorDouble, url: str, failures: int) -> None:
    """A subflow with retries, a task that calls tasks: every task run in them is new in a further try, and each charge is the same."""
    state = ended(flows.in_parts, double.url, url, failures)

    # By the flow itself 1; by the subflow 6, 3 of them alike with it; by the task 3 and the subflow's 6 once more.
    assert state.type.value == "COMPLETED", state.message
    assert double.truth.charges_by("customer") == {"cus_body": 1 + 3 + 3, "cus_1": 4, "cus_2": 2, "cus_deep": 3}
    assert of_run(url, state).spent == double.truth.charged() == 16 * USD
    assert len(flows.keys_sent(double)) == 16 + failures * (6 + 9)


def test_every_pass_sends_the_same_keys(flows: Any, double: VendorDouble, url: str, tmp_path: Path, prefect_server: str) -> None:
    """Task retry, flow retry, and a resume in a new process, with duplicates by `.map` and within one task: the same six keys each time."""
    marks = tmp_path / "marks"
    state = ended(flows.passes, double.url, url, str(marks), 2)
    both, passed = flows.keys_sent(double), len(double.requests())
    again = resumed(str(state.state_details.flow_run_id), "passes", prefect_server)
    third = flows.keys_sent(double, passed)

    # 4 of the map and a retry of one of them, 2 of one task; the second pass without the retry; the third, elsewhere, with one again.
    assert (state.type.value, again, marks.read_text().count("pass")) == ("FAILED", "FAILED", 3)
    assert [len(both), len(set(both)), len(set(both[:7])), len(set(both[7:]))] == [13, 6, 6, 6]
    assert (len(third), set(third)) == (7, set(both))
    assert (double.truth.charged(), dict(double.truth.charges_by("customer"))) == (
        6 * USD,
        {"cus_a": 2, "cus_b": 1, "cus_c": 1, "cus_d": 2},
    )
    assert (of_run(url, state).spent, of_run(url, state).doubt) == (6 * USD, 0)


def resumed(flow_run_id: str, name: str, server: str, module: str = "tests.support_flows") -> str:
    """Schedule a flow run again, as the UI's Retry does, and execute it in a process of its own; returns the state it comes to."""
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(flow_run_id), Scheduled(), force=True)
    with executing(flow_run_id, name, server, module) as worker:
        return str(worker.communicate("go\n", timeout=120)[0]).split()[-1]


def executing(flow_run_id: str, name: str, server: str, module: str = "tests.support_flows") -> subprocess.Popen[str]:
    """Start a process that will execute a flow run."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("KEYGUARD_")}
    env |= {**ENVIRONMENT, "PREFECT_API_URL": server}
    command = [sys.executable, "-m", module, name, flow_run_id]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_skipped_tasks_charge_is_not_taken_for_anothers(flows: Any, double: VendorDouble, url: str) -> None:
    """The first task is skipped in the second pass, because its result was kept: the other's identical charge is refused, not swallowed."""
    state = ended(flows.skipping, double.url, url, "")

    assert isinstance(state.result(raise_on_failure=False), AmbiguousIdentity)
    assert "idempotency_scope" in state.message
    assert (double.truth.charged(), of_run(url, state).spent) == (USD, USD)


def test_a_named_charge_beside_a_skipped_task_is_made(flows: Any, double: VendorDouble, url: str) -> None:
    """Under a name of its own the second charge is another one, and both are made, once."""
    state = ended(flows.skipping, double.url, url, "order-2")

    assert (state.type.value, len(set(state.result()))) == ("COMPLETED", 2)
    assert (double.truth.charged(), of_run(url, state).spent) == (2 * USD, 2 * USD)


def test_a_weekend_later_a_charge_is_not_made_again(
    flows: Any, double: VendorDouble, url: str, tmp_path: Path, prefect_server: str
) -> None:
    """A run that failed on Friday is resumed on Monday: Stripe has forgotten its keys, so what was charged is refused."""
    state = ended(flows.passes, double.url, url, str(tmp_path / "marks"), 2)
    double.advance(3 * DAY)
    with sqlite3.connect(tmp_path / "ledger.db") as books:
        books.execute("UPDATE holds SET at = at - ?", (3 * DAY,))
    books.close()
    charged, flow_run_id = double.truth.charged(), str(state.state_details.flow_run_id)

    assert resumed(flow_run_id, "passes", prefect_server) == "FAILED"
    assert (charged, double.truth.charged()) == (6 * USD, 6 * USD)
    refused = [row for row in open_ledger(url).entries(f"run:{flow_run_id}") if row["kind"] == "refuse"]
    assert {row["detail"]["reason"] for row in refused} == {"already_charged"}
    assert AlreadyCharged.reason == "duplicate"


def test_accounts_never_swap_keys(flows: Any, double: VendorDouble, url: str) -> None:
    """The same request at two accounts, in the other order in the second pass: each account sees its own key again, and charges once."""
    state = ended(flows.accounts, double.url, url)
    rows = double.truth.rows("charge")

    assert len(flows.keys_sent(double)) == 4
    assert (len(rows), len({row["account"] for row in rows}), len({row["key"] for row in rows})) == (2, 2, 2)
    assert (double.truth.charged(), of_run(url, state).spent) == (2 * USD, 2 * USD)


def test_a_retry_that_differs_only_in_its_note_is_refused(flows: Any, double: VendorDouble, url: str) -> None:
    """The answer to the first try was lost; the second has another description, hence another key: it may be the same charge."""
    double.script(Fault("close_after", path=INTENTS))
    state = ended(flows.notes, double.url, url)

    assert isinstance(state.result(raise_on_failure=False), DoubtPending)
    assert (len(flows.keys_sent(double)), double.truth.charged(), of_run(url, state).doubt) == (1, USD, USD)


@pytest.mark.parametrize("is_declined", [pytest.param(False, id="all-well", marks=pytest.mark.ci), pytest.param(True, id="one-declined")])
def test_two_processes_of_one_flow_run_charge_once(flows: Any, url: str, prefect_server: str, tmp_path: Path, *, is_declined: bool) -> None:
    """Two workers execute the same flow run at once, one of them is declined at its first try: each logical charge is made once."""
    from prefect.client.orchestration import get_client

    with DoubleProcess(tmp_path / "truth.jsonl") as double:
        if is_declined:
            double.script(Fault("decline", path=INTENTS, after=3))
        with get_client(sync_client=True) as client:
            parameters = {"url": double.url, "ledger": url, "customers": 8, "cap": 100}
            flow_run = client.create_flow_run(flows.lossy, parameters=parameters)
        workers = [executing(str(flow_run.id), "lossy", prefect_server) for _ in range(2)]
        try:
            ready = [worker.stdout.readline() for worker in workers if worker.stdout]
            states = [str(worker.communicate("go\n", timeout=120)[0]).split()[-1] for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        truth = double.truth
        ledger = open_ledger(url)
        usage = ledger.usage(f"run:{flow_run.id}")

        assert ready == ["ready\n"] * 2
        assert "COMPLETED" in states
        assert (truth.charged(), set(truth.charges_by("customer").values())) == (8 * USD, {1})
        assert usage is not None
        assert (usage.spent, usage.held, usage.doubt, ledger.verify()) == (8 * USD, 0, 0, [])
        ledger.shut()
