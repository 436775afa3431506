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

    from keyguard.model import Call, Operation
    from keyguard.vendors import Ask, Quoting
    from keyguard.vendors._stripe_forms import Fields


def _memory(object_id: str) -> Generator[Recall | Ask, Any, Memory]:
    """Return what is known of an invoice: what the run remembers, else what Stripe says."""
    memory: Memory | None = yield Recall(object_id)
    if memory is not None and memory.amount > 0:
        return memory
    body = yield from objects.ask(f"/v1/invoices/{object_id}", "invoice", object_id)
    try:
        fact = replies.invoice_fact(body)
    except ValueError as error:
        raise objects.hidden(object_id, str(error)) from None
    return Memory(object_id, spent=fact.spent, amount=fact.amount, currency=fact.currency)


def rest_of(memory: Memory) -> int:
    """Return what may still be charged of an invoice."""
    return memory.held or max(0, memory.amount - memory.spent)


def _due(call: Call, operation: Operation) -> Quoting:
    """Bound what makes an invoice final, or sends it: all of it may be paid from now on."""
    forms.fields(call)
    return (yield from _whole(operation))


def _whole(operation: Operation) -> Quoting:
    object_id = operation.object_id or ""
    memory = yield from _memory(object_id)
    return Quote(rest_of(memory), object_id=object_id, adopts=True, prior=memory.spent)


def _pay(call: Call, operation: Operation) -> Quoting:
    if forms.fields(call, "paid_out_of_band").is_true("paid_out_of_band"):
        memory: Memory | None = yield Recall(operation.object_id or "")
        return Quote(0, object_id=operation.object_id, adopts=True, prior=memory.spent if memory is not None else 0)
    return (yield from _whole(operation))


def _taken_back(_call: Call, operation: Operation) -> Quote:
    return Quote(0, object_id=operation.object_id)


def _update(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, "auto_advance", "automatically_finalizes_at", "shipping_cost", "automatic_tax", "default_tax_rates")
    if not found.tree:
        return Quote(0, object_id=operation.object_id)
    quote = yield from _whole(operation)
    cost = (yield from prices.shipping([found.below("shipping_cost")] if "shipping_cost" in found else [])) + prices.taxed(found)
    return _plus(quote, cost)


def _plus(quote: Quote, cost: prices.Cost) -> Quote:
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
        memory = yield from _memory(source)
        cost += prices.Cost(memory.amount)
    if "subscription" in found:
        cost += prices.Cost(0, "collects what is due of a subscription")
    return _plus(quote, cost)


def _pending(owner: tuple[str, str] | None, behavior: str | None) -> Quoting:
    """Bound what waits for the customer's next invoice; only what is asked for explicitly is asked of Stripe."""
    if owner is None or behavior == "exclude":
        return Quote(0)
    name, customer = owner
    held = yield from waiting.held(customer)
    quote = Quote(held, object_id=customer, adopts=True)
    # Old API versions include what is pending; what this run made is held already.
    return _plus(quote, (yield from waiting.items(customer, held, name))) if behavior == "include" else quote


def _add_lines(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, "lines")
    object_id = operation.object_id or ""
    memory = yield from _memory(object_id)
    cost = yield from prices.total(list(found.each("lines")), memory.currency)
    return _plus(Quote(rest_of(memory), object_id=object_id, adopts=True, prior=memory.spent), cost)


def _update_line(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, *prices.ITEM, "tax_amounts")
    object_id = operation.object_id or ""
    memory = yield from _memory(object_id)
    quote = Quote(rest_of(memory), object_id=object_id, adopts=True, prior=memory.spent)
    if not found.tree:
        return quote
    return _plus(quote, (yield from prices.total([found], memory.currency)))


def _add_item(call: Call, _operation: Operation) -> Quoting:
    found = forms.fields(call, *prices.ITEM, "invoice", "customer", "customer_account", "subscription")
    invoice = found.object_id("invoice")
    owner = invoice or found.object_id("customer") or found.object_id("customer_account")
    if owner is None:
        raise MalformedCall("an invoice item needs a 'customer' or an 'invoice', by its id; nothing was sent")
    if invoice is not None:
        memory = yield from _memory(invoice)
    else:
        memory = (yield Recall(owner)) or Memory(owner)
    code = memory.currency if invoice is not None else None
    cost = yield from prices.total([found], found.code(code))
    held = rest_of(memory) if invoice is not None else memory.held
    return _plus(Quote(held, object_id=owner, adopts=True, prior=memory.spent), cost)


def _update_item(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, *prices.ITEM)
    object_id = operation.object_id or ""
    if not found.tree:
        return Quote(0, object_id=object_id)
    item = yield from objects.ask(f"/v1/invoiceitems/{object_id}", "invoiceitem", object_id)
    owner = money.id_of(item.get("invoice")) or money.id_of(item.get("customer")) or object_id
    memory: Memory = (yield Recall(owner)) or Memory(owner)
    code = money.currency_of(item) or None
    if any(name in found for name in ("amount", "price", "price_data", "pricing", "unit_amount", "unit_amount_decimal")):
        cost = yield from prices.total([found], code)
    else:
        cost = _more_of(item, found)
    return _plus(Quote(memory.held, object_id=owner, adopts=True, prior=memory.spent), cost)


def _more_of(item: dict[str, Any], found: Fields) -> prices.Cost:
    """Bound another quantity of an item at its own price."""
    pricing = item.get("pricing")
    unit = pricing.get("unit_amount_decimal") if isinstance(pricing, dict) else None
    price = {
        "currency": item.get("currency"),
        "unit_amount_decimal": unit or item.get("unit_amount_decimal"),
        "unit_amount": item.get("unit_amount"),
    }
    quantity = found.decimal("quantity_decimal") or found.decimal("quantity")
    taxes = prices.Cost(0, prices.TAXES) if "tax_rates" in found else prices.Cost()
    return taxes if quantity is None else taxes + prices.by_price(price, quantity)


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
    return Outcome("settled", cost=cost, refund_of=quote.object_id, request_id=request_id)


def _settled(call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "invoice":
        raise ValueError("expected an invoice")
    if body.get("deleted") is True:
        return Outcome("settled", facts=(Fact(objects.own_id(body), 0, 0, 0, status="deleted"),), request_id=request_id)
    fact = replies.invoice_fact(body)
    if dict(call.body or ()).get("paid_out_of_band", "false") not in {"false", "0", ""}:
        fact = replace(fact, spent=quote.prior, held=0)
    if quote.object_id is not None and quote.object_id.startswith("in_") and quote.object_id != fact.object_id:
        raise ValueError("the reply is about another object")
    return Outcome("settled", facts=(fact,), request_id=request_id)


def _created(call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    outcome = _settled(call, quote, body, request_id)
    (fact,) = outcome.facts
    if quote.amount and not fact.amount and quote.object_id is not None:
        # It left out what waits for the customer's next invoice, which stays held under the customer's id.
        fact = Fact(quote.object_id, 0, quote.amount, quote.amount, status="pending", currency=fact.currency)
    return replace(outcome, facts=(fact,))


def _item_settled(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    """Hold it under the invoice or customer that it waits for."""
    if body.get("object") not in {"invoiceitem", "line_item"}:
        raise ValueError("expected an invoice item")
    code = objects.priced_currency(body)
    amount = body.get("amount")
    own = 0 if isinstance(amount, int) and amount < 0 else money.units(body, "amount")
    held = max(quote.amount, own)
    fact = Fact(quote.object_id or "", quote.prior, held, quote.prior + held, status="pending", currency=code)
    return Outcome("settled", facts=(fact,), request_id=request_id)


FLOWS = {
    "invoices.create": Flow(_create, _created),
    "invoices.update": Flow(_update, _settled),
    "invoices.delete": Flow(_taken_back, _settled),
    "invoices.void": Flow(_taken_back, _settled),
    "invoices.mark_uncollectible": Flow(_taken_back, _settled),
    "invoices.pay": Flow(_pay, _settled),
    "invoices.finalize": Flow(_due, _settled),
    "invoices.send": Flow(_due, _settled),
    "invoices.add_lines": Flow(_add_lines, _settled),
    "invoices.update_lines": Flow(_add_lines, _settled),
    "invoices.remove_lines": Flow(_taken_back, _settled),
    "invoices.lines.update": Flow(_update_line, _item_settled),
    "invoiceitems.create": Flow(_add_item, _item_settled),
    "invoiceitems.update": Flow(_update_item, _item_settled),
    "credit_notes.create": Flow(_credit, _credited),
}
