"""The billing flow of the demo: real Prefect, the real Stripe SDK, keyguard and spans. Run as a process of its own.

Takes its task as JSON in the first argument and tells what happens as JSON lines on stdout. Whatever
else would print there (Prefect, its server) goes to stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from typing import Any

import stripe
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prefect import flow, task
from prefect.runtime import flow_run

import keyguard
from keyguard.errors import SpendCapExceeded
from keyguard.model import Money, to_money, to_usd
from keyguard.prefect import retry_unless_refused

_COST = "keyguard.cost.amount"


class Billing:
    """
    One execution of the demo's flow, and what it saw.

    Attributes:
        tell: Where an event goes.
        exporter: Where the spans are.
        attempts: How often the task of each customer was executed.
        run_id: The flow run's id.
    """

    def __init__(self, plan: dict[str, Any], tell: Any, exporter: InMemorySpanExporter) -> None:
        self.plan, self.tell, self.exporter = plan, tell, exporter
        self.attempts: Counter[str] = Counter()
        self.run_id = ""

    def charge(self, customer: str) -> str:
        """Charge one customer, as any user of the SDK would."""
        self.attempts[customer] += 1
        intent = stripe.PaymentIntent.create(
            amount=self.plan["amount_cents"],
            currency="usd",
            customer=customer,
            payment_method="pm_card_visa",
            confirm=True,
            off_session=True,
        )
        cost = self.costs()[-1] if self.plan["guarded"] else self.plan["amount_cents"] * 10_000
        self.tell(event="charged", customer=customer, operation="payment_intents.create", object=intent.id, cost=cost)
        return str(intent.id)

    def bill(self) -> None:
        """Charge every customer in turn, under the cap; the body of the flow."""
        self.run_id = flow_run.id or ""
        self.tell(event="running", run_id=self.run_id, name=flow_run.name or "")
        if self.plan["guarded"]:
            cap = to_usd(self.plan["cap"])
            keyguard.install(self.plan["ledger"], run_usd_cap=cap, expires_in="1h", allowed_endpoints=["POST /v1/payment_intents"])
        charge_customer = task(retries=3, retry_delay_seconds=0.1, retry_condition_fn=retry_unless_refused)(self.charge)
        for customer in self.plan["customers"]:
            charge_customer(customer)

    def costs(self) -> list[Money]:
        """Return the cost on every span that has one, in the order of their ends."""
        spans = self.exporter.get_finished_spans()
        return [to_money(span.attributes[_COST]) for span in spans if span.attributes and _COST in span.attributes]

    def run(self) -> None:
        """Run the flow and tell how it ended."""
        try:
            flow(name="billing-flow")(self.bill)()
        except SpendCapExceeded as refusal:
            # The refused customer is the last one whose task was started.
            customer = next(reversed(self.attempts))
            self.tell(event="refused", customer=customer, message=str(refusal), attempts=self.attempts[customer])
        self.tell(event="end", run_id=self.run_id, spans=sum(self.costs()))


def collect_spans() -> InMemorySpanExporter:
    """Keep the spans of this process in memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def main() -> None:
    """Bill by the plan in the first argument."""
    # The copy is not inherited, so that Prefect's server does not keep the pipe open.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    plan = json.loads(sys.argv[1])
    stripe.api_key, stripe.api_base = plan["api_key"], plan["api_base"]

    def tell(**event: Any) -> None:
        """Write one event as a line."""
        print(json.dumps(event), file=events, flush=True)

    Billing(plan, tell, collect_spans()).run()


def _end_with_stdin() -> None:
    """End this process and Prefect's server, which is in the same group, when the demo itself is gone."""
    sys.stdin.read()
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    main()
