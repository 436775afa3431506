"""Invoices and what stands on them: the run holds an invoice's amount from its first line until it is paid or void.

An item that waits for the customer's next invoice is held under the customer's id; an invoice or a subscription that
collects it takes that hold over. So nothing is counted twice, and what Stripe collects is what was held. Part of the stripe plug.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keyguard.errors import MalformedCall
from keyguard.model import Fact, Memory, Outcome, Quote
from keyguard.vendors import Recall
from keyguard.vendors import _stripe_forms as forms
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors import _stripe_prices as prices
from keyguard.vendors import _stripe_replies as replies
from keyguard.vendors import _stripe_waiting as waiting
from keyguard.vendors._stripe_objects import Flow

if TYPE_CHECKING:
    from collections.abc import Generator

    from keyguard.model import Call, Money, Operation
    from keyguard.vendors import Ask, Quoting
    from keyguard.vendors._stripe_prices import Costing


def known(object_id: str) -> Generator[Recall | Ask, Any, Memory]:
    """Return what is known of an invoice: what the run remembers, else what Stripe says."""
    memory: Memory | None = yield Recall(object_id)
    if memory is not None and memory.amount > 0:
        return memory
    return shown((yield from objects.ask(f"/v1/invoices/{object_id}", "invoice", object_id)))


def shown(body: dict[str, Any]) -> Memory:
    """
    Read an invoice that was asked for as if it were remembered; nothing of it is this run's.

    Raises:
        UnpricedCall: it has no amount that can be read.
    """
    try:
        fact = replies.invoice_fact(body)
    except ValueError as error:
        raise objects.hidden(str(body.get("id")), str(error)) from None
    return Memory(fact.object_id, spent=fact.spent, amount=fact.amount, currency=fact.currency)


def rest_of(memory: Memory) -> int:
    """Return what may still be charged of an invoice."""
    return memory.held or max(0, memory.amount - memory.spent)


def _due(call: Call, operation: Operation) -> Quoting:
    """Bound what makes an invoice final, or sends it: all of it may be paid from now on."""
    forms.fields(call)
    return (yield from _whole(operation))


def _whole(operation: Operation) -> Quoting:
    object_id = operation.object_id or ""
    memory = yield from known(object_id)
    return Quote(rest_of(memory), object_id=object_id, adopts=True, prior=memory.spent)


def _pay(call: Call, operation: Operation) -> Quoting:
    if _is_paid_elsewhere(call):
        memory: Memory | None = yield Recall(operation.object_id or "")
        return Quote(0, object_id=operation.object_id, adopts=True, prior=memory.spent if memory is not None else 0)
    return (yield from _whole(operation))


def _taken_back(_call: Call, operation: Operation) -> Quote:
    return Quote(0, object_id=operation.object_id)


def _update(call: Call, operation: Operation) -> Quoting:
    names = ("auto_advance", "automatically_finalizes_at", "shipping_cost", "automatic_tax", "default_tax_rates", "discounts", "coupon")
    found = forms.fields(call, *names)
    if not found.tree:
        return Quote(0, object_id=operation.object_id)
    quote = yield from _whole(operation)
    cost = (yield from prices.shipping([found.below("shipping_cost")] if "shipping_cost" in found else [])) + prices.taxed(found)
    if "discounts" in found or "coupon" in found:
        cost += yield from _undiscounted(operation.object_id or "", quote.amount)
    return plus(quote, cost)


def _undiscounted(object_id: str, known: Money) -> Costing:
    """Say how much more an invoice may cost without its discounts: its subtotal is "before any invoice level discount"."""
    body = yield from objects.ask(f"/v1/invoices/{object_id}", "invoice", object_id)
    parts = [objects.amount_in(body, name, 0) for name in ("subtotal", "amount_shipping")]
    owed = body.get("starting_balance")
    parts.append(objects.amount_in(body, "starting_balance", 0) if isinstance(owed, int) and owed > 0 else 0)
    taxes = prices.Cost(0, prices.TAXES) if body.get("total_taxes") or body.get("tax") else prices.Cost()
    return prices.Cost(max(0, sum(parts) - known)) + taxes


def plus(quote: Quote, cost: prices.Cost) -> Quote:
    """Add a cost to a quote."""
    larger = replace(quote, amount=quote.amount + cost.amount)
    return objects.unbounded(cost.why, base=larger) if cost.why else larger


def _create(call: Call, _operation: Operation) -> Quoting:
    found = forms.fields(
        call, "customer", "customer_account", "from_invoice", "subscription", "pending_invoice_items_behavior", "shipping_cost",
        "automatic_tax", "default_tax_rates",
    )  # fmt: skip
    quote = yield from _pending(waiting.customer_in(found), found.text("pending_invoice_items_behavior"))
    cost = (yield from prices.shipping([found.below("shipping_cost")] if "shipping_cost" in found else [])) + prices.taxed(found)
    source = found.object_id("from_invoice[invoice]")
    if source is not None:
        memory = yield from known(source)
        cost += prices.Cost(memory.amount)
    if "subscription" in found:
        cost += prices.Cost(0, "collects what is due of a subscription")
    return plus(quote, cost)


def _pending(owner: tuple[str, str] | None, behavior: str | None) -> Quoting:
    """Bound what waits for the customer's next invoice; only what is asked for explicitly is asked of Stripe."""
    if owner is None or behavior == "exclude":
        return Quote(0)
    name, customer = owner
    held = yield from waiting.held(customer)
    quote = Quote(held, object_id=customer, adopts=True)
    # Old API versions include what is pending; what this run made is held already.
    return plus(quote, (yield from waiting.items(customer, held, name))) if behavior == "include" else quote


def _credit(call: Call, _operation: Operation) -> Quoting:
    found = forms.fields(
        call, "invoice", "amount", "refund_amount", "credit_amount", "out_of_band_amount", "lines", "shipping_cost", "refunds"
    )
    invoice = found.object_id("invoice")
    if invoice is None:
        raise MalformedCall("a credit note needs an 'invoice', by its id; nothing was sent")
    memory: Memory | None = yield Recall(invoice)
    body = yield from objects.ask(f"/v1/invoices/{invoice}", "invoice", invoice)
    amount, code = objects.amount_in(body, "total"), money.currency_of(body)
    given = [found.count(name) for name in ("refund_amount", "credit_amount")]
    if any(count is not None for count in given) or "out_of_band_amount" in found:
        amount = money.micros(sum(max(0, count or 0) for count in given), code)
    elif (count := found.count("amount")) is not None:
        amount = money.micros(max(0, count), code)
    return Quote(amount, "refund" if memory is not None and memory.own > 0 else "run", invoice)


def _credited(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "credit_note":
        raise ValueError("expected a credit note")
    objects.priced_currency(body)
    # What was settled outside Stripe is part of its total and not of the request's amounts.
    cost = min(quote.amount, money.units(body, "total"))
    if body.get("post_payment_amount") is not None:
        # The rest of it only makes an open invoice cheaper: "by which the invoice's amount_remaining and amount_due were reduced".
        cost = min(cost, max(0, money.units(body, "post_payment_amount") - money.units(body, "out_of_band_amount", 0)))
    return Outcome("settled", cost=cost, refund_of=quote.object_id, request_id=request_id, refund_id=money.id_of(body.get("id")))


def settled(call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    """Settle a write that answers with its invoice."""
    if body.get("object") != "invoice":
        raise ValueError("expected an invoice")
    if body.get("deleted") is True:
        return Outcome("settled", facts=(Fact(objects.own_id(body), 0, 0, 0, status="deleted"),), request_id=request_id)
    fact = replies.invoice_fact(body)
    if _is_paid_elsewhere(call):
        fact = replace(fact, spent=quote.prior, held=0)
    if quote.object_id is not None and quote.object_id.startswith("in_") and quote.object_id != fact.object_id:
        raise ValueError("the reply is about another object")
    return Outcome("settled", facts=(fact,), request_id=request_id)


def _is_paid_elsewhere(call: Call) -> bool:
    return call.path.endswith("/pay") and forms.fields(call, "paid_out_of_band").is_true("paid_out_of_band")


def _created(call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    outcome = settled(call, quote, body, request_id)
    (fact,) = outcome.facts
    if quote.amount and not fact.amount and quote.object_id is not None:
        # It left out what waits for the customer's next invoice, which stays held under the customer's id.
        fact = Fact(quote.object_id, 0, quote.amount, quote.amount, status="pending", currency=fact.currency)
    return replace(outcome, facts=(fact,))


FLOWS = {
    "invoices.create": Flow(_create, _created),
    "invoices.update": Flow(_update, settled),
    "invoices.delete": Flow(_taken_back, settled),
    "invoices.void": Flow(_taken_back, settled),
    "invoices.mark_uncollectible": Flow(_taken_back, settled),
    "invoices.pay": Flow(_pay, settled),
    "invoices.finalize": Flow(_due, settled),
    "invoices.send": Flow(_due, settled),
    "credit_notes.create": Flow(_credit, _credited),
}
