"""Flows over process pools, and their tasks; imports Prefect, so imported within tests, after its home is set."""

from __future__ import annotations

import json
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner

import keyguard
from keyguard.errors import SpendCapExceeded
from tests.support_flows import create
from tests.support_gather import meet


@task(cache_policy=NO_CACHE)
def charge_and_trace(url: str) -> list[dict[str, Any]]:
    """Charge in a process that exports its spans; returns which they were."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    create(url, "cus_1")
    return [json.loads(span.to_json()) for span in exporter.get_finished_spans()]


_pool_of_one: Any = ProcessPoolTaskRunner(max_workers=1)


@flow(name="traced", task_runner=_pool_of_one)
def traced(url: str, ledger: str) -> list[dict[str, Any]]:
    """Charge in a pool's process."""
    keyguard.install(ledger, run_usd_cap=5)
    return charge_and_trace.submit(url).result()


@task(cache_policy=NO_CACHE)
def charge_to_the_end(url: str, customer: str, gathering: str) -> list[str]:
    """Wait for the others, and charge a dollar again and again until it is refused; returns whose caps refused it."""
    meet(gathering)
    number = 0
    while True:
        number += 1
        try:
            create(url, customer, description=f"{number}")
        except SpendCapExceeded as error:
            return [str(error.scope)]


_pool_of_four: Any = ProcessPoolTaskRunner(max_workers=4)


@flow(name="part", task_runner=_pool_of_four)
def part(url: str, name: str, cap: int, gathering: str) -> list[str]:
    """Charge in four processes, within a budget of its own; returns whose caps refused them."""
    keyguard.install(run_usd_cap=cap)
    futures = charge_to_the_end.map(url, [f"cus_{name}_{number}" for number in range(4)], gathering)
    return [scope for found in futures.result() for scope in found]


@task(cache_policy=NO_CACHE)
def as_task(url: str, name: str, cap: int, gathering: str) -> list[str]:
    """Call the subflow, in a thread of the flow's runner."""
    return part(url, name, cap, gathering)


@flow(name="parted")
def parted(url: str, ledger: str, cap: int, caps: list[int], gathering: str) -> list[list[str]]:
    """Two subflows at once, four processes each."""
    keyguard.install(ledger, run_usd_cap=cap)
    futures = [as_task.submit(url, f"{number}", own, gathering) for number, own in enumerate(caps)]
    return [future.result() for future in futures]
