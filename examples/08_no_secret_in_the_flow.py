"""
A Prefect flow that charges through a proxy, and then looks for a secret of Stripe's in all that its process holds.

    KEYBRAKE_API_KEY=$(openssl rand -hex 32) STRIPE_SECRET_KEY=sk_test_… keyguard proxy
    KEYBRAKE_API_KEY=… KEYGUARD_URL=http://127.0.0.1:8420 python examples/08_no_secret_in_the_flow.py 500 cus_1 cus_2 cus_3

Each customer is charged $20; the first argument is the budget in dollars. It looks in the environment, in every object of Python's (those
of the SDK, of its HTTP client and of Prefect among them), in the spans and in what was logged, and ends with 2 where it has found one.

What the process does hold is `KEYBRAKE_API_KEY`, by which keys are issued. Where that is too much, issue the key elsewhere, and give it to
the flow as `stripe.api_key`, with `stripe.api_base` at the proxy (examples/07_vault_key_over_http.py).
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
from types import CodeType
from typing import TYPE_CHECKING, Any

import stripe
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prefect import flow, task

import keyguard

if TYPE_CHECKING:
    from collections.abc import Iterator

# Stripe's secret and restricted keys, by the form that its documentation gives them (docs.stripe.com/keys, read November 2026).
SECRET = re.compile(rb"\b[rs]k_(live|test)_[0-9A-Za-z_]{16}")
SPANS = InMemorySpanExporter()
LINES: list[str] = []


class Keeping(logging.Handler):
    """Keeps each line that is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        LINES.append(self.format(record))


def watch() -> None:
    """Keep the spans and the log lines of this process."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(SPANS))
    trace.set_tracer_provider(provider)
    # Prefect's loggers hand nothing on to the root.
    for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs", "stripe", "keyguard"):
        logging.getLogger(name).addHandler(Keeping(logging.DEBUG))
    logging.getLogger("stripe").setLevel(logging.DEBUG)


@task(retries=3, retry_delay_seconds=10)
def charge_customer(customer_id: str, amount_cents: int) -> str:
    """Charge one customer at the vendor's own address; keyguard sends it to the proxy, with the proxy's key."""
    return stripe.PaymentIntent.create(
        amount=amount_cents, currency="usd", customer=customer_id, payment_method="pm_card_visa", confirm=True, off_session=True
    ).id


@flow(name="billing-flow")
def billing_flow(customer_ids: list[str], amount_cents: int, budget_usd: float) -> None:
    """Charge all customers, as far as the budget goes."""
    installation = keyguard.install(run_usd_cap=budget_usd, expires_in="4h", allowed_endpoints=["POST /v1/payment_intents"])
    # Of this machine's ledger, and good for this run alone.
    stripe.api_key = installation.key.token
    for customer_id in customer_ids:
        charge_customer(customer_id, amount_cents)


def places() -> list[str]:
    """Return where in this process a secret of Stripe's is; never the secret."""
    found = [f"the environment: {name}" for name, value in os.environ.items() if has_secret(value)]
    found += [f"a span: {span.name}" for span in SPANS.get_finished_spans() if has_secret(span.to_json())]
    if any(has_secret(line) for line in LINES):
        found.append("what was logged")
    return [*found, *(f"memory: {kind}" for kind in sorted(set(holders())))]


def has_secret(text: str | bytes | bytearray) -> bool:
    """Say whether one is in a text."""
    return SECRET.search(text.encode(errors="replace") if isinstance(text, str) else text) is not None


def holders() -> Iterator[str]:
    """Name the types of the objects that refer to one: all objects are looked at, and what the garbage collector does not list."""
    gc.collect()
    todo: list[Any] = gc.get_objects()
    seen = {id(todo)}
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for inside in one.co_consts if isinstance(one, CodeType) else gc.get_referents(one):
            if isinstance(inside, str | bytes | bytearray):
                if has_secret(inside):
                    yield type(one).__qualname__
            elif not gc.is_tracked(inside) and isinstance(inside, tuple | dict | CodeType):
                # Of texts alone, and so left out by the collector: headers, and the constants of functions.
                todo.append(inside)


def main() -> None:
    """Charge the customers that are named, then look; the first argument is the budget in dollars."""
    watch()
    budget, *customer_ids = sys.argv[1:]
    stopped = ""
    try:
        billing_flow(customer_ids, amount_cents=2000, budget_usd=float(budget))
    except keyguard.SpendCapExceeded as refusal:
        stopped = f"stopped: {refusal}"
    if found := places():
        print("a vendor secret is in this process:", *found, sep="\n", file=sys.stderr)
        sys.exit(2)
    print(f"no vendor secret in this process ({len(SPANS.get_finished_spans())} spans, {len(LINES)} lines of log)")
    sys.exit(stopped or None)


if __name__ == "__main__":
    main()
