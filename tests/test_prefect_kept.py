"""What Prefect keeps, rolls back, and is asked: results that are found again, transactions, requests. The vendor's log is the judge."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import keyguard
from keyguard.errors import SpendCapExceeded
from keyguard.ledgers import open_ledger
from keyguard.testing.double import DoubleProcess, VendorDouble
from tests.support_prefect import ENVIRONMENT
from tests.support_relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USD = 1_000_000


@pytest.fixture
def flows(prefect_server: str) -> Iterator[Any]:
    """The flows, with nothing failed so far."""
    from tests import support_flows, support_kept

    support_flows.begin_anew()
    support_kept.pulled.clear()
    yield support_kept
    keyguard.uninstall()


@pytest.fixture
def customer() -> str:
    """A customer of this test's own: Prefect keeps results by the arguments."""
    return f"cus_{uuid4().hex}"


def figures(url: str, state: Any) -> tuple[int, int, int]:
    """Return what the ledger has spent, held and in doubt for a flow run, in dollars; its books are in order."""
    ledger = open_ledger(url)
    usage = ledger.usage(f"run:{state.state_details.flow_run_id}")

    assert usage is not None
    assert ledger.verify() == []
    ledger.shut()
    return usage.spent // USD, usage.held // USD, usage.doubt // USD


def writes(double: VendorDouble) -> list[str]:
    """Return what arrived at the vendor to change something there."""
    return [request["target"] for request in double.requests() if request["method"] == "POST"]


# -- results that are kept -------------------------------------------------------------------------


def test_a_kept_result_is_no_call_in_the_same_run(flows: Any, double: VendorDouble, url: str, customer: str) -> None:
    """The second identical task of a run finds the first one's result: one call, one charge, counted once."""
    state = flows.twice(double.url, url, customer, return_state=True)
    first, second = state.result()

    assert first == second
    assert (writes(double), double.truth.charged(), figures(url, state)) == (["/v1/payment_intents"], USD, (1, 0, 0))


@pytest.mark.ci
def test_a_kept_result_is_no_call_in_the_next_pass(flows: Any, double: VendorDouble, url: str, customer: str) -> None:
    """The flow is retried, and its task is not executed again."""
    state = flows.again(double.url, url, customer, return_state=True)

    assert (state.name, len(writes(double)), double.truth.charged(), figures(url, state)) == ("Completed", 1, USD, (1, 0, 0))


def test_a_result_kept_for_every_run_is_no_call_in_a_new_one(flows: Any, double: VendorDouble, url: str, customer: str) -> None:
    """Another run with the same arguments makes no call, spends nothing of its own budget and holds nothing; the first keeps its cost."""
    first = flows.once(double.url, url, customer, 100, return_state=True)
    second = flows.once(double.url, url, customer, 0.01, return_state=True)
    ledger = open_ledger(url)
    kinds = [{row["kind"] for row in ledger.entries(f"run:{state.state_details.flow_run_id}")} for state in (first, second)]
    ledger.shut()

    assert ["reserve" in found for found in kinds] == [True, False]
    assert (first.name, second.name) == ("Completed", "Completed")
    assert first.state_details.flow_run_id != second.state_details.flow_run_id
    assert (len(writes(double)), double.truth.charged()) == (1, USD)
    # A cent would not have paid for it.
    assert (figures(url, first), figures(url, second)) == ((1, 0, 0), (0, 0, 0))


@pytest.mark.ci
def test_a_result_kept_for_every_run_is_no_call_in_a_new_async_one(flows: Any, double: VendorDouble, url: str, customer: str) -> None:
    """The same of an async task in an async flow."""
    import asyncio

    states = [asyncio.run(flows.aonce(double.url, url, customer, return_state=True)) for _ in range(2)]

    assert (len(writes(double)), double.truth.charged()) == (1, USD)
    assert [figures(url, state) for state in states] == [(1, 0, 0), (0, 0, 0)]


@pytest.mark.ci
def test_a_refusal_is_not_kept(flows: Any, double: VendorDouble, url: str, customer: str) -> None:
    """What was refused in one run is asked for again in the next, which may have the money."""
    refused = flows.once(double.url, url, customer, 0.5, return_state=True)
    charged = flows.once(double.url, url, customer, 100, return_state=True)

    with pytest.raises(SpendCapExceeded):
        refused.result()
    assert (refused.name, charged.name) == ("SpendCapExceeded", "Completed")
    assert (len(writes(double)), figures(url, refused), figures(url, charged)) == (1, (0, 0, 0), (1, 0, 0))


# -- transactions ----------------------------------------------------------------------------------


def test_a_rolled_back_charge_is_refunded(flows: Any, double: VendorDouble, url: str) -> None:
    """A later task fails: the charge is paid back, once; the refund draws on its own budget and gives none back."""
    state = flows.order(double.url, url, 2, None, return_state=True)

    assert (state.name, len(flows.pulled)) == ("Failed", 1)
    assert (double.truth.charged(), double.truth.refunded(), figures(url, state)) == (USD, USD, (1, 0, 0))


@pytest.mark.ci
def test_a_refund_that_is_refused_leaves_the_charge(flows: Any, double: VendorDouble, url: str) -> None:
    """Prefect logs what a hook raises, and the run fails of what it failed of: the money stays where it is, and in the books."""
    state = flows.order(double.url, url, 2, 0.5, return_state=True)

    assert (state.name, len(flows.pulled)) == ("Failed", 1)
    assert (double.truth.charged(), double.truth.refunded(), figures(url, state)) == (USD, 0, (1, 0, 0))
    assert writes(double) == ["/v1/payment_intents"]


@pytest.mark.ci
def test_a_refund_is_made_once_however_often_it_is_rolled_back(flows: Any, double: VendorDouble, url: str) -> None:
    """Twice the same hook of the same charge: the second refund leaves with the first one's key, and is counted once."""
    state = flows.rolled_back_twice(double.url, url, return_state=True)
    keys = [request["headers"]["idempotency-key"] for request in double.requests() if request["target"] == "/v1/refunds"]

    assert (state.name, len(flows.pulled), len(keys), len(set(keys))) == ("Completed", 2, 2, 1)
    assert (double.truth.refunded(), figures(url, state)) == (USD, (1, 0, 0))


@pytest.mark.ci
def test_prefect_rolls_back_at_the_first_failure_of_a_task_that_it_retries(flows: Any, double: VendorDouble, url: str) -> None:
    """Why nothing after the charge has retries in the recipe: the flow comes to a good end with a charge that was paid back."""
    state = flows.order(double.url, url, 1, None, return_state=True)

    assert (state.name, double.truth.charged(), double.truth.refunded()) == ("Completed", USD, USD)


@pytest.mark.ci
@pytest.mark.parametrize("names_its_pass", [True, False])
def test_a_retried_flow_charges_anew_where_it_names_its_pass(flows: Any, double: VendorDouble, url: str, *, names_its_pass: bool) -> None:
    """The first pass was rolled back. A charge is made once in a run, unless its name says that it is another one."""
    state = flows.order_again(double.url, url, names_its_pass=names_its_pass, return_state=True)
    charges = 2 if names_its_pass else 1

    assert (state.name, double.truth.charged(), double.truth.refunded()) == ("Completed", charges * USD, USD)
    assert figures(url, state) == (charges, 0, 0)


# -- Prefect's API ---------------------------------------------------------------------------------


@pytest.mark.ci
def test_guarded_calls_ask_prefects_api_nothing(prefect_server: str, tmp_path: Path, url: str) -> None:
    """
    A hundred guarded calls, in a flow's body and in a task, make not one request more than none; counted before Prefect's server.

    The watch for cancellations asks by time, not by call: it is off here.
    """
    with DoubleProcess(tmp_path / "truth.jsonl") as double, Relay(prefect_server) as relay:
        env = {name: value for name, value in os.environ.items() if not name.startswith("KEYGUARD_")}
        env |= {**ENVIRONMENT, "PREFECT_API_URL": relay.url, "KEYGUARD_STATE_POLL_SECONDS": "0"}
        command = [sys.executable, "-m", "tests.support_kept", double.url, url, "2", "0", "100", "0"]
        child = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None
        assert child.stdout is not None
        counts = []
        try:
            for _ in range(4):
                before = relay.requests.copy()
                assert child.stdout.readline().strip().isdigit()
                counts.append(relay.requests - before)
                child.stdin.write("go\n")
                child.stdin.flush()
            child.communicate(timeout=60)
        finally:
            child.kill()
            child.wait()
        charged = double.truth.charged()

    for count in counts:
        # Log lines leave in batches, by time; a run is marked beside it, once or twice, which may come to be counted with the next one.
        del count["POST /api/logs/"]
        assert count.pop("PATCH /api/flow_runs/{id}/labels", 0) <= 3
    # The first, with two calls, starts what lives as long as the process.
    assert counts[1] == counts[2] == counts[3]
    assert (counts[1]["POST /api/flow_runs/"], charged) == (1, 102 * USD)
    assert counts[0].total() > 5
