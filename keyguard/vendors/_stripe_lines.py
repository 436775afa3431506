"""What stands on an invoice, or waits for the customer's next one: lines and invoice items. Part of the stripe plug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from keyguard.errors import MalformedCall
from keyguard.model import Fact, Memory, Outcome, Quote
from keyguard.vendors import Recall
from keyguard.vendors import _stripe_forms as forms
from keyguard.vendors import _stripe_invoices as invoices
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors import _stripe_prices as prices
from keyguard.vendors._stripe_objects import Flow

if TYPE_CHECKING:
    from keyguard.model import Call, Operation
    from keyguard.vendors import Quoting
    from keyguard.vendors._stripe_forms import Fields
    from keyguard.vendors._stripe_prices import Costing

_COSTLY = (*prices.ITEM, "tax_amounts")


def _lines(call: Call, operation: Operation) -> Quoting:
    """Bound new lines, and changed ones as if they were new: what a changed line had cost is not taken off."""
    found, object_id = forms.fields(call, "lines"), operation.object_id or ""
    memory = yield from invoices.known(object_id)
    lines = list(found.each("lines"))
    cost = yield from prices.total([line for line in lines if any(name in line for name in _COSTLY)], memory.currency)
    for line in lines:
        if not any(name in line for name in _COSTLY):
            cost += yield from _assigned(line)
    return invoices.plus(Quote(invoices.rest_of(memory), object_id=object_id, adopts=True, prior=memory.spent), cost)


def _assigned(line: Fields) -> Costing:
    """Bound a line that is an invoice item which waited; one that only changes its words costs nothing."""
    named = line.object_id("invoice_item")
    if named is None:
        return prices.Cost()
    item = yield from objects.ask(f"/v1/invoiceitems/{named}", "invoiceitem", named)
    return prices.Cost(0 if _is_credit(item) else objects.amount_in(item, "amount"))


def _is_credit(item: dict[str, Any]) -> bool:
    amount = item.get("amount")
    return isinstance(amount, int) and amount < 0


def _removed(call: Call, operation: Operation) -> Quoting:
    """Bound the removal of lines: without a credit among them the invoice is dearer."""
    found, object_id = forms.fields(call, "lines"), operation.object_id or ""
    memory: Memory | None = yield Recall(object_id)
    body = yield from objects.ask(f"/v1/invoices/{object_id}", "invoice", object_id)
    listed = cast("dict[str, Any]", body.get("lines") or {}).get("data")
    seen = {str(line.get("id")): line for line in (listed if isinstance(listed, list) else []) if isinstance(line, dict)}
    cost = prices.Cost()
    for line in found.each("lines"):
        known = seen.get(line.text("id") or "")
        if known is None:
            cost += prices.Cost(0, "removes a line that one answer does not show, and which may be a credit")
        elif _is_credit(known):
            cost += prices.Cost(money.micros(-int(known["amount"]), money.currency_of(body)))
    memory = memory or invoices.shown(body)
    return invoices.plus(Quote(invoices.rest_of(memory), object_id=object_id, adopts=True, prior=memory.spent), cost)


def _update_line(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, *prices.ITEM, "tax_amounts")
    object_id = operation.object_id or ""
    memory = yield from invoices.known(object_id)
    quote = Quote(invoices.rest_of(memory), object_id=object_id, adopts=True, prior=memory.spent)
    if not found.tree:
        return quote
    return invoices.plus(quote, (yield from prices.total([found], memory.currency)))


def _add_item(call: Call, _operation: Operation) -> Quoting:
    found = forms.fields(call, *prices.ITEM, "invoice", "customer", "customer_account", "subscription")
    invoice = found.object_id("invoice")
    owner = invoice or found.object_id("customer") or found.object_id("customer_account")
    if owner is None:
        raise MalformedCall("an invoice item needs a 'customer' or an 'invoice', by its id; nothing was sent")
    if invoice is not None:
        memory = yield from invoices.known(invoice)
    else:
        memory = (yield Recall(owner)) or Memory(owner)
    code = memory.currency if invoice is not None else None
    cost = yield from prices.total([found], found.code(code))
    held = invoices.rest_of(memory) if invoice is not None else memory.held
    return invoices.plus(Quote(held, object_id=owner, adopts=True, prior=memory.spent), cost)


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
    return invoices.plus(Quote(memory.held, object_id=owner, adopts=True, prior=memory.spent), cost)


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


def _item_settled(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    """Hold it under the invoice or customer that it waits for."""
    if str(body.get("object")) not in {"invoiceitem", "line_item"}:
        raise ValueError("expected an invoice item")
    code = objects.priced_currency(body)
    amount = body.get("amount")
    own = 0 if isinstance(amount, int) and amount < 0 else money.units(body, "amount")
    held = max(quote.amount, own)
    fact = Fact(quote.object_id or "", quote.prior, held, quote.prior + held, status="pending", currency=code)
    return Outcome("settled", facts=(fact,), request_id=request_id)


FLOWS = {
    "invoices.add_lines": Flow(_lines, invoices.settled),
    "invoices.update_lines": Flow(_lines, invoices.settled),
    "invoices.remove_lines": Flow(_removed, invoices.settled),
    "invoices.lines.update": Flow(_update_line, _item_settled),
    "invoiceitems.create": Flow(_add_item, _item_settled),
    "invoiceitems.update": Flow(_update_item, _item_settled),
}
