"""Real Prefect flows that charge at the vendor double; imports Prefect, so imported within tests, after its home is set."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

import stripe
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

import keyguard
from keyguard.errors import Refused
from keyguard.prefect import retry_unless_refused

if TYPE_CHECKING:
    from keyguard.testing.double import Controls

DOLLAR = 100
_FAILURES: dict[str, int] = {}


class Planned(Exception):
    """What a task or flow raises because the test said so."""


def vendor(url: str, key: str = "sk_test_1") -> stripe.StripeClient:
    """Return a client that sends each request once."""
    return stripe.StripeClient(key, base_addresses={"api": url}, max_network_retries=0)


def create(url: str, customer: str, key: str = "sk_test_1", **more: Any) -> str:
    """Charge a customer a dollar, at once."""
    params = {"amount": DOLLAR, "currency": "usd", "customer": customer, "payment_method": "pm_card_visa", "confirm": True, **more}
    client: Any = vendor(url, key)
    return str(client.v1.payment_intents.create(params).id)


def fails(name: str, times: int) -> None:
    """Raise the first so many times that a name comes here, in this process."""
    _FAILURES[name] = seen = _FAILURES.get(name, 0) + 1
    if seen <= times:
        raise Planned(name)


def begin_anew() -> None:
    """Forget what has failed so far."""
    _FAILURES.clear()


@task(retries=3, retry_delay_seconds=0, retry_condition_fn=retry_unless_refused, cache_policy=NO_CACHE)
def charge(url: str, customer: str) -> str:
    """Charge one customer; lost answers are retried."""
    return create(url, customer)


@flow(name="lossy")
def lossy(url: str, ledger: str, customers: int, cap: int) -> dict[str, int]:
    """Charge each customer once; returns how many were charged, were refused, and were lost for good."""
    keyguard.install(ledger, run_usd_cap=cap)
    ended = {"charged": 0, "refused": 0, "lost": 0}
    for number in range(customers):
        try:
            charge(url, f"cus_{number}")
            ended["charged"] += 1
        except Refused:
            ended["refused"] += 1
        except stripe.APIConnectionError:
            ended["lost"] += 1
    return ended


@task(retries=1, retry_delay_seconds=0, cache_policy=NO_CACHE)
def charge_then_fail(url: str, customer: str, place: int) -> str:
    """Charge one customer, and fail once in the second of four."""
    found = create(url, customer)
    if place == 1:
        fails(f"after the charge of {place}", 1)
    return found


@task(cache_policy=NO_CACHE)
def charge_twice(url: str, customer: str) -> list[str]:
    """Make two intended identical charges."""
    return [create(url, customer) for _ in range(2)]


@flow(name="passes", retries=1, retry_delay_seconds=0)
def passes(url: str, ledger: str, marks: str, failures: int) -> None:
    """Charge with duplicates by map and within a task; fail at the end of so many passes. Each pass writes what it sent."""
    keyguard.install(ledger, run_usd_cap=100)
    charge_then_fail.map(url, ["cus_a", "cus_b", "cus_a", "cus_c"], [0, 1, 2, 3]).wait()
    charge_twice(url, "cus_d")
    with open(marks, "a", encoding="utf-8") as file:  # noqa: PTH123 -- one line a pass
        file.write("pass\n")
    fails("the end of the flow", failures)


@task(persist_result=True)
def charge_and_keep(url: str, customer: str) -> str:
    """Charge a customer, with a result that is kept."""
    return create(url, customer)


@task(cache_policy=NO_CACHE)
def charge_later(url: str, customer: str, name: str) -> str:
    """Fail before the charge in the first pass; then charge, under a name where there is one."""
    fails("before the second charge", 1)
    if not name:
        return create(url, customer)
    with keyguard.idempotency_scope(name):
        return create(url, customer)


@flow(name="skipping", retries=1, retry_delay_seconds=0)
def skipping(url: str, ledger: str, name: str) -> list[str]:
    """Two tasks charge the same customer alike; the first is skipped in the second pass."""
    keyguard.install(ledger, run_usd_cap=100)
    return [charge_and_keep(url, "cus_1"), charge_later(url, "cus_1", name)]


@task(cache_policy=NO_CACHE)
def charge_account(url: str, key: str) -> str:
    """Charge the same customer at one of two accounts."""
    return create(url, "cus_1", key)


@flow(name="accounts", retries=1, retry_delay_seconds=0)
def accounts(url: str, ledger: str) -> None:
    """Charge alike at two accounts, in the other order in the second pass."""
    keyguard.install(ledger, run_usd_cap=100)
    keys = ["sk_test_a", "sk_test_b"]
    for key in keys if not _FAILURES else reversed(keys):
        charge_account(url, key)
    fails("the end of the flow", 1)


@task(retries=2, retry_delay_seconds=0, retry_condition_fn=retry_unless_refused, cache_policy=NO_CACHE)
def charge_with_note(url: str, customer: str) -> str:
    """Charge with a parameter that differs at each try."""
    _FAILURES["note"] = note = _FAILURES.get("note", 0) + 1
    return create(url, customer, description=f"try {note}")


@flow(name="notes")
def notes(url: str, ledger: str) -> str:
    """Charge one customer with a note."""
    keyguard.install(ledger, run_usd_cap=100)
    return charge_with_note(url, "cus_1")


def keys_sent(double: Controls, since: int = 0) -> list[str]:
    """Return the Idempotency-Keys of the writes that arrived, in order."""
    return [request["headers"].get("idempotency-key", "") for request in double.requests()[since:] if request["method"] == "POST"]


def execute(flows: dict[str, Any], name: str, flow_run_id: str) -> None:
    """Execute a flow run that exists already, as a worker's process does."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    with get_client(sync_client=True) as client:
        found = client.read_flow_run(UUID(flow_run_id))
    print("ready", flush=True)
    sys.stdin.readline()
    state: Any = run_flow(flows[name], flow_run=found, parameters=found.parameters, return_type="state")
    print(state.type.value, flush=True)


if __name__ == "__main__":
    execute(globals(), *sys.argv[1:])


@flow(name="billing-part", retries=2, retry_delay_seconds=0)
def billing_part(url: str, failures: int) -> None:
    """Charge in its own body, in tasks, and alike; fail at the end of so many tries."""
    create(url, "cus_body")
    charge.map(url, ["cus_1", "cus_2", "cus_1"]).wait()
    charge_twice(url, "cus_body")
    fails("the end of the subflow", failures)


@task(retries=2, retry_delay_seconds=0, cache_policy=NO_CACHE)
def charges_by_tasks(url: str, failures: int) -> None:
    """Charge by tasks of its own and by a subflow, and fail at the end of so many tries."""
    charge_twice(url, "cus_deep")
    charge(url, "cus_deep")
    billing_part(url, 0)
    fails("the end of the task", failures)


@flow(name="in-parts")
def in_parts(url: str, ledger: str, failures: int) -> None:
    """Charge once as the subflow will; then by a subflow, and by a task, each of which is tried again as a whole."""
    keyguard.install(ledger, run_usd_cap=100)
    create(url, "cus_body")
    billing_part(url, failures)
    begin_anew()
    charges_by_tasks(url, failures)
