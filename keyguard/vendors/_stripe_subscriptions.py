"""Subscriptions, their items and schedules, and quotes: the first period is bounded, later ones are Stripe's own. Part of the stripe plug.

Every quote here is `recurring`: what Stripe charges at the end of a period is no call of ours, and no cap stops it. What the
answer to a new subscription does not show (its first invoice, unless expanded) stays held until that invoice is read.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from keyguard.model import Fact, Memory, Outcome, Quote
from keyguard.vendors import Recall
from keyguard.vendors import _stripe_forms as forms
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors import _stripe_prices as prices
from keyguard.vendors import _stripe_replies as replies
from keyguard.vendors._stripe_forms import Fields
from keyguard.vendors._stripe_objects import Flow

if TYPE_CHECKING:
    from keyguard.model import Call, Operation
    from keyguard.vendors import Quoting
    from keyguard.vendors._stripe_prices import Costing

_ITEMS = ("items", "add_invoice_items", "plan", "price", "quantity", "currency", "automatic_tax", "default_tax_rates")
# What else makes Stripe invoice at once, or more than before.
_TURNS = ("trial_end", "trial_from_plan", "billing_cycle_anchor", "proration_behavior", "proration_date", "tax_percent", "cancel_at")
_ENDED = frozenset({"canceled", "incomplete_expired"})
_USAGE = "invoices what was used or changed since the last period, which is not in the request"


def _quoted(cost: prices.Cost, base: Quote | None = None) -> Quote:
    known = replace(base or Quote(0), recurring=True)
    larger = replace(known, amount=known.amount + cost.amount)
    return objects.unbounded(cost.why, base=larger, recurring=True) if cost.why else larger


def _items(found: Fields, code: str | None) -> Costing:
    """Add up the items of a new subscription, or of a phase of one; `plan` and `quantity` are the older form of one item."""
    listed = [item for item in found.each("items") if not item.is_true("deleted")]
    older = [found] if "plan" in found or "price" in found else []
    cost = yield from prices.total([*listed, *older, *found.each("add_invoice_items")], code)
    taxes = prices.Cost(0, prices.TAXES) if "tax_percent" in found else prices.taxed(found)
    return cost + taxes


def _create(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, *_ITEMS, "tax_percent", "customer", "customer_account")
    customer = found.object_id("customer") or found.object_id("customer_account") or operation.object_id
    cost = yield from _items(found, found.code())
    if customer is None:
        return _quoted(cost)
    # The first invoice collects what waits for the customer's next one.
    memory: Memory | None = yield Recall(customer)
    held = memory.held if memory is not None else 0
    return _quoted(cost, Quote(held, object_id=customer, adopts=True))


def _update(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, *_ITEMS, *_TURNS)
    if not found.tree:
        return Quote(0, recurring=True)
    object_id = call.path.rpartition("/")[2]
    path = call.path if operation.name.startswith("customers.") else f"/v1/subscriptions/{object_id}"
    old = yield from objects.ask(path, "subscription", object_id)
    new = yield from _items(_repriced(found, old), found.code())
    # A period that begins anew is charged whole, with the items that stay as they were.
    return _quoted(_running(old) + new)


def _repriced(found: Fields, old: dict[str, Any]) -> Fields:
    """Give items that are only named by their id the price that they have."""
    known = {str(item.get("id")): _price_id(item) for item in _listed(old)}
    tree = dict(found.tree)
    items = tree.get("items")
    if isinstance(items, dict):
        tree["items"] = {index: _with_price(item, known) for index, item in items.items()}
    elif "quantity" in found and "plan" not in found and len(known) == 1:
        tree["price"] = next(iter(known.values()))
    return Fields(tree)


def _with_price(item: forms.Tree | str, known: dict[str, str]) -> forms.Tree | str:
    if isinstance(item, str) or {"price", "plan", "price_data"} & set(item):
        return item
    return {**item, "price": known.get(str(item.get("id")), "")}


def _price_id(item: dict[str, Any]) -> str:
    return money.id_of(item.get("price")) or money.id_of(item.get("plan")) or ""


def _listed(subscription: dict[str, Any]) -> list[dict[str, Any]]:
    items = subscription.get("items")
    data = cast("dict[str, Any]", items).get("data") if isinstance(items, dict) else None
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []


def _running(subscription: dict[str, Any]) -> prices.Cost:
    """Say what a subscription's next period costs as it stands."""
    items = subscription.get("items")
    cost = prices.Cost()
    if not isinstance(items, dict) or cast("dict[str, Any]", items).get("has_more"):
        cost = prices.Cost(0, "has more items than one answer shows")
    for item in _listed(subscription):
        cost += _item_cost(item)
    tax = subscription.get("automatic_tax")
    is_taxed = bool(subscription.get("default_tax_rates")) or (isinstance(tax, dict) and cast("dict[str, Any]", tax).get("enabled"))
    return cost + prices.Cost(0, prices.TAXES) if is_taxed else cost


def _item_cost(item: dict[str, Any]) -> prices.Cost:
    price, quantity = item.get("price") or item.get("plan"), item.get("quantity", 1)
    if not isinstance(price, dict) or not (quantity is None or isinstance(quantity, int)):
        return prices.Cost(0, "has an item whose price cannot be read")
    return prices.by_price(cast("dict[str, Any]", price), Fraction(1 if quantity is None else quantity))


def _resume(call: Call, operation: Operation) -> Quoting:
    forms.fields(call)
    object_id = operation.object_id or ""
    return _quoted(_running((yield from objects.ask(f"/v1/subscriptions/{object_id}", "subscription", object_id))))


def _pause(call: Call, _operation: Operation) -> Quote:
    found = forms.fields(call, "invoicing_behavior")
    return _quoted(prices.Cost(0, _USAGE)) if found.text("invoicing_behavior") == "invoice" else Quote(0, recurring=True)


def _cancel(call: Call, _operation: Operation) -> Quote:
    """Let a subscription end; one that invoices what is open on its way charges, although it is a DELETE."""
    found = forms.fields(call, "invoice_now", "prorate")
    charges = found.is_true("invoice_now") or found.is_true("prorate")
    return objects.unbounded(f"{_USAGE}; without invoice_now and prorate it costs nothing") if charges else Quote(0)


def _cancel_schedule(call: Call, _operation: Operation) -> Quote:
    # "Defaults to true", as `prorate` does, which alone invoices nothing.
    found = forms.fields(call, "invoice_now")
    charges = "invoice_now" not in found or found.is_true("invoice_now")
    return objects.unbounded(f"{_USAGE}; with invoice_now=false it costs nothing") if charges else Quote(0)


def _delete_item(call: Call, _operation: Operation) -> Quote:
    found = forms.fields(call, "proration_behavior")
    charges = found.text("proration_behavior") == "always_invoice"
    return objects.unbounded(f"{_USAGE}; with another proration_behavior it costs nothing") if charges else Quote(0)


def _add_item(call: Call, _operation: Operation) -> Quoting:
    found = forms.fields(call, *prices.ITEM)
    return _quoted((yield from prices.total([found])))


def _change_item(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, *prices.ITEM, "proration_behavior")
    object_id = operation.object_id or ""
    if not found.tree:
        return Quote(0, recurring=True)
    if any(name in found for name in ("price", "plan", "price_data")):
        return _quoted((yield from prices.total([found])))
    item = yield from objects.ask(f"/v1/subscription_items/{object_id}", "subscription_item", object_id)
    quantity = found.decimal("quantity")
    cost = _item_cost(item if quantity is None else {**item, "quantity": int(quantity)})
    return _quoted(cost + (prices.Cost(0, prices.TAXES) if "tax_rates" in found else prices.Cost()))


def _schedule(call: Call, _operation: Operation) -> Quoting:
    """Bound a schedule by its phases, each as if it began now; one that follows a subscription costs nothing new."""
    found = forms.fields(call, "phases", "default_settings")
    cost = prices.taxed(found.below("default_settings"))
    for phase in found.each("phases"):
        cost += yield from _items(phase, phase.code())
    return _quoted(cost)


def _accept(call: Call, operation: Operation) -> Quoting:
    forms.fields(call)
    object_id = operation.object_id or ""
    asked = yield from objects.ask(f"/v1/quotes/{object_id}", "quote", object_id)
    return Quote(max(objects.amount_in(asked, "amount_total"), _upfront(asked)), recurring=True)


def _upfront(asked: dict[str, Any]) -> int:
    computed = asked.get("computed")
    upfront = cast("dict[str, Any]", computed).get("upfront") if isinstance(computed, dict) else None
    return (
        objects.amount_in({**cast("dict[str, Any]", upfront), "currency": asked.get("currency")}, "amount_total", 0)
        if isinstance(upfront, dict)
        else 0
    )


def _accepted(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "quote":
        raise ValueError("expected a quote")
    objects.priced_currency(body)
    # Its invoice is a draft, or its subscription's first one.
    object_id = money.id_of(body.get("invoice")) or objects.own_id(body)
    held = max(quote.amount, money.units(body, "amount_total"))
    return Outcome("settled", facts=(Fact(object_id, 0, held, held, status=str(body.get("status"))),), request_id=request_id)


def _created(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "subscription":
        raise ValueError("expected a subscription")
    invoice = body.get("latest_invoice")
    if isinstance(invoice, dict):
        fact = replies.invoice_fact(cast("dict[str, Any]", invoice))
    else:
        held = 0 if body.get("status") in _ENDED else quote.amount
        fact = Fact(money.id_of(invoice) or objects.own_id(body), 0, held, held, status=str(body.get("status")))
    return Outcome("settled", facts=(fact,), request_id=request_id)


FLOWS = {
    "subscriptions.create": Flow(_create, _created),
    "subscriptions.update": Flow(_update, objects.flat),
    "subscriptions.delete": Flow(_cancel, objects.flat),
    "subscriptions.resume": Flow(_resume, objects.flat),
    "subscriptions.pause": Flow(_pause, objects.flat),
    "customers.subscriptions.create": Flow(_create, _created),
    "customers.subscriptions.update": Flow(_update, objects.flat),
    "customers.subscriptions.delete": Flow(_cancel, objects.flat),
    "subscription_items.create": Flow(_add_item, objects.flat),
    "subscription_items.update": Flow(_change_item, objects.flat),
    "subscription_items.delete": Flow(_delete_item, objects.flat),
    "subscription_schedules.create": Flow(_schedule, objects.flat),
    "subscription_schedules.update": Flow(_schedule, objects.flat),
    "subscription_schedules.cancel": Flow(_cancel_schedule, objects.flat),
    "quotes.accept": Flow(_accept, _accepted),
}
