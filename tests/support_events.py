"""A deployment that events start; `python -m tests.support_events` serves it. Imports Prefect, so no test imports it."""

from __future__ import annotations

import json
import sys
from typing import Any

from prefect import flow, serve, task
from prefect.cache_policies import NO_CACHE
from prefect.events import DeploymentEventTrigger

import keyguard
from keyguard.errors import Refused
from keyguard.prefect import retry_unless_refused
from tests.support_flows import create
from tests.support_gather import meet

EVENT = "invoices.due"


@task(retries=2, retry_delay_seconds=0, retry_condition_fn=retry_unless_refused, cache_policy=NO_CACHE)
def charge_invoice(url: str, customer: str, invoice: int) -> str:
    """Charge a customer a dollar for one invoice."""
    return create(url, customer, description=f"invoice {invoice}")


@flow(name="invoices")
def invoices(url: str, ledger: str, limits: dict[str, Any], customer: str, count: int, gathering: str) -> int:
    """Wait for the other runs; charge one customer's invoices until there is none left, or no money; returns how many it was."""
    keyguard.install(ledger, **limits)
    meet(gathering)
    for invoice in range(count):
        try:
            charge_invoice(url, customer, invoice)
        except Refused:
            return invoice
    return count


def main(name: str, parameters: str, limit: str) -> None:
    """Serve the flow: each event starts a run of its own, of which the event says the customer."""
    trigger = DeploymentEventTrigger(
        # Each event by itself: those of one bucket that come at the same moment fire it once together.
        expect={EVENT}, match={"prefect.resource.id": f"invoices.{name}.*"}, for_each={"prefect.resource.id"},
        parameters={"customer": {"__prefect_kind": "jinja", "template": "{{ event.payload.customer }}"}},
    )  # fmt: skip
    deployment: Any = invoices.to_deployment(name, triggers=[trigger], parameters=json.loads(parameters))
    serve(deployment, limit=int(limit), print_starting_message=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
