"""Races, retries and duplicates that users of other tools have reported; ours is held against the double's truth."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

import pytest
import stripe

import keyguard
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.testing.double import Fault
from tests.support_shop import CENT, DAY, Shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Open a shop."""
    with Shop(tmp_path) as opened:
        yield opened


def _pods(shop: Shop, cap: int, replay: str, customers: list[str], *faults: Fault) -> list[dict[str, int]]:
    """Run two processes of one run, whose first requests are at Stripe at the same time; return what each did."""
    shop.double.script(*faults, Fault("hold_after", times=2))
    command = [sys.executable, "-m", "tests.worker_pod", shop.double.url, shop.url, str(cap), replay, *customers]
    pods = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        ready = [pod.stdout.readline() for pod in pods if pod.stdout]
        assert ready == ["ready\n"] * 2
        for pod in pods:
            assert pod.stdin is not None
            pod.stdin.write("go\n")
            pod.stdin.flush()
        shop.double.wait_until_held(2)
        shop.double.release()
        return [json.loads(pod.communicate(timeout=60)[0]) for pod in pods]
    finally:
        for pod in pods:
            pod.kill()
            pod.wait()


def _insistent(call: Callable[[], str], times: int = 3) -> str:
    """Call again where the answer was lost, as an agent does that knows nothing of keys."""
    for _ in range(times - 1):
        try:
            return call()
        except stripe.APIConnectionError:
            continue
    return call()


# -- races -----------------------------------------------------------------------------------------------


def test_between_the_check_and_the_count_nobody_slips_through(shop: Shop) -> None:
    """A session's budget was checked, then incremented (BerriAI/litellm#34732); here of 20 calls at once a cap of five admits five."""
    shop.double.script(Fault("hold_before", times=0))
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=5)
        with ThreadPoolExecutor(20) as pool:
            calls = [pool.submit(keyguard.wrap(shop.admitted), 1) for _ in range(20)]
            shop.double.wait_until_held(5)
            # Fifteen are refused while five are still in flight.
            ended = (call.result(30) for call in as_completed(calls, 30))
            assert [next(ended) for _ in range(15)] == [0] * 15
            assert shop.figures() == (0, 500, 0)
            shop.double.clear()
            shop.double.release()
            assert sum(call.result(30) for call in calls) == 5

    assert shop.figures() == (shop.truth, 0, 0) == (500, 0, 0)


def test_the_first_calls_of_a_new_run_have_one_budget(shop: Shop) -> None:
    """The first requests of a new user each made their own budget (BerriAI/litellm#40095); here eight threads arm a run at once."""

    def first() -> int:
        with keyguard.run("run-1"):
            shop.install(run_usd_cap=1)
            return shop.admitted(1)

    with ThreadPoolExecutor(8) as pool:
        assert sum(future.result() for future in [pool.submit(first) for _ in range(8)]) == 1

    assert shop.figures() == (shop.truth, 0, 0) == (100, 0, 0)


def test_replicas_have_no_counters_of_their_own(shop: Shop) -> None:
    """Each replica had a private counter: hundreds of dollars over, for months (BerriAI/litellm PR #30661); here two share one."""
    done = _pods(shop, 7, "", [f"cus_{n}" for n in range(6)])

    assert shop.figures() == (shop.truth, 0, 0) == (700, 0, 0)
    assert [sum(pod[name] for pod in done) for name in ("made", "refused")] == [7, 5]


def test_a_burst_is_held_at_its_bound_and_not_at_its_average(shop: Shop) -> None:
    """Holds of the average cost let a burst through (hugalafutro/model-hotel#994, askalf/dario#1378); here a dear call is held in full."""
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=20)
        assert shop.admitted(5) == 5
        shop.double.script(Fault("hold_before"))
        with ThreadPoolExecutor(1) as pool:
            dear = pool.submit(keyguard.wrap(shop.charge), 900)
            shop.double.wait_until_held()
            assert shop.figures() == (500, 900, 0)
            assert shop.admitted(1, 601) == 0
            assert shop.admitted(1, 600) == 1
            shop.double.release()
            dear.result(30)

    assert shop.figures() == (shop.truth, 0, 0) == (2000, 0, 0)


def test_a_budget_is_spent_when_the_call_returns(shop: Shop) -> None:
    """After some 110 calls a budget still read $0, because a projection never ran (langwatch/langwatch#6141); here nothing runs later."""
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=10)
        assert shop.admitted(110) == 10

    assert shop.figures() == (shop.truth, 0, 0) == (1000, 0, 0)


# -- retries and duplicates ------------------------------------------------------------------------------


def test_an_agent_that_calls_its_tool_again_charges_once(shop: Shop) -> None:
    """An agent's own retry makes a new key, so a second charge (stripe/ai#402); here it is the same charge with the same key."""
    shop.double.script(Fault("close_after"))
    with keyguard.run("run-1", replay=True):
        shop.install(run_usd_cap=10)
        _insistent(lambda: shop.charge(customer="cus_1"))

    assert shop.figures() == (shop.truth, 0, 0) == (100, 0, 0)


def test_what_is_not_told_to_be_a_retry_is_charged_and_counted_twice(shop: Shop) -> None:
    """Where nothing says that a second call is a retry, it is none (stripe/ai#402): never less counted than was charged."""
    shop.double.script(Fault("close_after"))
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=10)
        _insistent(lambda: shop.charge(customer="cus_1"))

    assert shop.truth == 200
    assert shop.figures() == (100, 0, 100)


def test_the_claim_is_on_disk_before_the_effect(shop: Shop) -> None:
    """A comment gives the rule: the claim is the first durable write (stripe/ai#402); here others see it before Stripe executes."""
    shop.double.script(Fault("hold_before"))
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=10)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(keyguard.wrap(shop.charge))
            shop.double.wait_until_held()
            seen = SqliteLedger(shop.path).usage("run:run-1")
            assert seen is not None
            assert (shop.truth, seen.held) == (0, 100 * CENT)
            shop.double.release()
            call.result(30)

    assert shop.figures() == (shop.truth, 0, 0) == (100, 0, 0)


def test_what_is_pending_does_not_fail_by_getting_old(shop: Shop) -> None:
    """An orphaned pending charge was to count as failed after a window (crewAIInc/crewAI#5802); here it counts until somebody knows."""
    shop.double.script(Fault("close_after"))
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=1)
        with pytest.raises(stripe.APIConnectionError):
            shop.charge()
        shop.now += 400 * DAY
        assert shop.admitted(1) == 0

    assert shop.truth == 100
    assert shop.figures() == (0, 0, 100)


def test_each_call_inside_a_run_has_a_key_of_its_own(shop: Shop) -> None:
    """A workflow's key did not cover the calls inside it (triggerdotdev/trigger.dev#4627, #4952); here each has one, at every entry."""
    seen: list[list[str]] = []
    for _ in range(3):
        before = len(shop.double.requests())
        with keyguard.run("run-1", replay=True):
            shop.install(run_usd_cap=10)
            for customer in ("cus_1", "cus_2", "cus_2"):
                shop.charge(customer=customer)
        seen.append([request["headers"]["idempotency-key"] for request in shop.double.requests()[before:]])

    assert seen[0] == seen[1] == seen[2]
    assert len(set(seen[0])) == 3
    assert shop.figures() == (shop.truth, 0, 0) == (300, 0, 0)


def test_no_customer_is_charged_two_or_three_times(shop: Shop) -> None:
    """Customers were charged two and three times (akash-network/console#3449); here every answer is lost twice, and each pays once."""
    customers = [f"cus_{name}" for name in ("ann", "bob", "cyd", "dee")]
    shop.double.script(*[Fault(kind) for _ in customers for kind in ("close_after", "reset_after", "pass")])
    with keyguard.run("run-1", replay=True):
        shop.install(run_usd_cap=4)
        for customer in customers:
            _insistent(lambda customer=customer: shop.charge(customer=customer))  # type: ignore[misc]  # -- mypy cannot infer it

    assert shop.double.truth.charges_by("customer") == dict.fromkeys(customers, 1)
    assert shop.figures() == (shop.truth, 0, 0) == (400, 0, 0)


@pytest.mark.parametrize("faults", [(), (Fault("decline"),)], ids=["paid", "one is declined at first"])
def test_two_pods_of_one_flow_run_charge_each_customer_once(shop: Shop, faults: tuple[Fault, ...]) -> None:
    """Two pods ran the same flow run (PrefectHQ/prefect#12509): a cap in one process is no cap; here both make the same charges once."""
    customers = [f"cus_{n}" for n in range(5)]
    done = _pods(shop, 5, "replay", customers, *faults)

    assert shop.double.truth.charges_by("customer") == dict.fromkeys(customers, 1)
    assert shop.figures() == (shop.truth, 0, 0) == (500, 0, 0)
    assert done == [{"made": 5, "refused": 0}] * 2
