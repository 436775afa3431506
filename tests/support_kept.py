"""Real Prefect flows whose tasks keep results, or roll back; imports Prefect, so it is imported within tests."""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow, task
from prefect.cache_policies import INPUTS, NO_CACHE
from prefect.transactions import Transaction, get_transaction, transaction

import keyguard
from tests.support_flows import DOLLAR, create, fails, vendor

pulled: list[str] = []


@task(persist_result=True)
def keep(url: str, customer: str) -> str:
    """Charge, with a result that is kept for the same run."""
    return create(url, customer)


@task(persist_result=True, cache_policy=INPUTS)
def keep_for_ever(url: str, customer: str) -> str:
    """Charge, with a result that is kept for every run with the same arguments."""
    return create(url, customer)


@task(persist_result=True, cache_policy=INPUTS)
async def akeep_for_ever(url: str, customer: str) -> str:
    """Charge from an async task, with a result that is kept for every run."""
    return create(url, customer)


@flow(name="twice")
def twice(url: str, ledger: str, customer: str) -> list[str]:
    """Charge twice alike in one run."""
    keyguard.install(ledger, run_usd_cap=100)
    return [keep(url, customer), keep.submit(url, customer).result()]


@flow(name="again", retries=1, retry_delay_seconds=0)
def again(url: str, ledger: str, customer: str) -> str:
    """Charge, and fail once afterwards."""
    keyguard.install(ledger, run_usd_cap=100)
    intent = keep(url, customer)
    fails("after the charge", 1)
    return intent


@flow(name="once")
def once(url: str, ledger: str, customer: str, cap: float) -> Any:
    """Charge once for all runs; with its state, where it was refused."""
    keyguard.install(ledger, run_usd_cap=cap)
    return keep_for_ever(url, customer, return_state=True)


@flow(name="aonce")
async def aonce(url: str, ledger: str, customer: str) -> str:
    """Charge once for all runs, in an async flow."""
    keyguard.install(ledger, run_usd_cap=100)
    return await akeep_for_ever(url, customer)


# -- transactions ------------------------------------------------------------------------------------


@task(cache_policy=NO_CACHE)
def pay(url: str, customer: str) -> str:
    """Charge within a transaction."""
    intent = create(url, customer)
    current = get_transaction()
    assert current is not None
    current.set("paid", (url, intent))
    return intent


@pay.on_rollback
def give_back(rolled_back: Transaction) -> None:
    """Refund, with a name that makes a repeated refund the same one."""
    url, intent = rolled_back.get("paid")
    pulled.append(intent)
    client: Any = vendor(url)
    with keyguard.idempotency_scope(f"refund of {intent}"):
        client.v1.refunds.create({"payment_intent": intent, "amount": DOLLAR})


@task(retries=1, retry_delay_seconds=0, cache_policy=NO_CACHE)
def deliver(failures: int) -> None:
    """Fail so often."""
    fails("the delivery", failures)


@flow(name="order")
def order(url: str, ledger: str, failures: int, refunds: float | None) -> str:
    """Charge, then deliver, or roll back."""
    keyguard.install(ledger, run_usd_cap=100, refund_usd_cap=refunds)
    with transaction():
        intent = pay(url, "cus_1")
        deliver(failures)
    return intent


@flow(name="rolled-back-twice")
def rolled_back_twice(url: str, ledger: str) -> None:
    """Roll the same charge back again, as a resumed flow would."""
    keyguard.install(ledger, run_usd_cap=100)
    with transaction() as outer:
        pay(url, "cus_1")
    for _ in range(2):
        give_back(outer.children[0])


@flow(name="order-again", retries=1, retry_delay_seconds=0)
def order_again(url: str, ledger: str, *, names_its_pass: bool) -> str:
    """Charge, fail and roll back in the first pass; charge anew in the second."""
    from prefect.runtime import flow_run

    keyguard.install(ledger, run_usd_cap=100)
    with transaction():
        if names_its_pass:
            with keyguard.idempotency_scope(f"pass {flow_run.run_count}"):
                intent = pay(url, "cus_1")
        else:
            intent = pay(url, "cus_1")
        fails("the delivery", 1)
    return intent


# -- calls of Prefect's API --------------------------------------------------------------------------


@task(cache_policy=NO_CACHE)
def charge_all(url: str, customers: list[str]) -> None:
    """Charge customers in one task."""
    for customer in customers:
        create(url, customer)


@flow(name="many")
def many(url: str, ledger: str, calls: int) -> None:
    """Make so many guarded calls, half of them in a task."""
    keyguard.install(ledger, run_usd_cap=1000)
    for number in range(calls // 2):
        create(url, f"cus_{number}")
    charge_all(url, [f"cus_t{number}" for number in range(calls // 2)])


def _main(url: str, ledger: str, *calls: str) -> None:
    """Run the flow for each number of calls, and wait after each until the counting is done."""
    for count in calls:
        many(url, ledger, int(count))
        print(count, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    _main(*sys.argv[1:])
