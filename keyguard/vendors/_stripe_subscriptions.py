"""Subscriptions: the first period is bounded, and whatever a change may charge; later periods are Stripe's own. Part of the stripe plug.

A quote is `recurring` where Stripe will charge again at the end of a period: no call of ours, and no cap stops it. What an
answer does not show stays held: of a new subscription until its first invoice is read, of a changed one under its own id.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from keyguard.model import Fact, Outcome, Quote
from keyguard.vendors import _stripe_forms as forms
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors import _stripe_prices as prices
from keyguard.vendors import _stripe_replies as replies
from keyguard.vendors import _stripe_waiting as waiting
from keyguard.vendors._stripe_forms import Fields
from keyguard.vendors._stripe_objects import Flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Call, Operation
    from keyguard.vendors import Quoting
    from keyguard.vendors._stripe_objects import Asking
    from keyguard.vendors._stripe_prices import Cost, Costing

_ITEMS = ("items", "add_invoice_items", "plan", "price", "quantity", "currency", "automatic_tax", "default_tax_rates", "tax_percent")
# What else makes Stripe invoice at once, or more than before.
_TURNS = (
    "trial_end", "trial_from_plan", "billing_cycle_anchor", "proration_behavior", "proration_date", "cancel_at", "billing_schedules",
)  # fmt: skip
_ENDED = frozenset({"canceled", "incomplete_expired"})
_USAGE = "invoices what was used since the last period, which is not in the request"


def quoted(cost: Cost, base: Quote | None = None, *, recurring: bool = True) -> Quote:
    """Return the quote of what begins or changes a subscription, on top of a base."""
    known = replace(base or Quote(0), recurring=recurring)
    larger = replace(known, amount=known.amount + cost.amount)
    return objects.unbounded(cost.why, base=larger) if cost.why else larger


def items_in(found: Fields, code: str | None) -> Costing:
    """Add up the items of a new subscription, or of a phase of one; `plan` and `quantity` are the older form of one item."""
    listed = [item for name in ("items", "plans") for item in found.each(name) if not item.is_true("deleted")]
    older = [found] if "plan" in found or "price" in found else []
    cost = yield from prices.total([*listed, *older, *found.each("add_invoice_items")], code)
    taxes = prices.Cost(0, prices.TAXES) if "tax_percent" in found else prices.taxed(found)
    ahead = prices.Cost(0, "bills several periods at once") if found.below("billing_schedules").tree else prices.Cost()
    return cost + taxes + ahead


def _create(call: Call, operation: Operation) -> Quoting:
    roots = (*_ITEMS, "customer", "customer_account", "backdate_start_date", "proration_behavior", "billing_schedules")
    found = forms.fields(call, *roots)
    name, customer = waiting.customer_in(found) or ("customer", operation.object_id)
    cost = yield from items_in(found, found.code())
    if "backdate_start_date" in found and found.text("proration_behavior") != "none":
        cost += prices.Cost(0, "charges for the time since 'backdate_start_date'; with proration_behavior=none it does not")
    if customer is None:
        return quoted(cost)
    # The first invoice collects what waits for the customer's next one.
    held = yield from waiting.held(customer)
    more = yield from waiting.collected(customer, held, name)
    return quoted(cost + more, Quote(held, object_id=customer, adopts=True))


def _update(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, *_ITEMS, *_TURNS)
    object_id = call.path.rpartition("/")[2]
    if not found.tree:
        return Quote(0, object_id=object_id)
    old = yield from _asked(call, operation, object_id)
    is_whole = any(name in found for name in ("plan", "price", "quantity"))
    replaced = frozenset(str(item.get("id")) for item in listed(old)) if is_whole else _named(found)
    # A period that begins anew is charged whole, with the items that stay as they were.
    cost = yield from items_in(_repriced(found, old), found.code())
    cost += running(old, without=replaced)
    if _invoices_now(found):
        cost += yield from collecting(old)
    if "billing_cycle_anchor" in found and any(_is_metered(item) for item in listed(old)):
        cost += prices.Cost(0, _USAGE)
    return (yield from on_top(object_id, cost))


def on_top(object_id: str, cost: Cost, *, recurring: bool = True) -> Quoting:
    """Return the quote of a change whose cost its answer will not show: it adds to what is held for earlier ones."""
    held = yield from waiting.held(object_id)
    return quoted(cost, Quote(held, object_id=object_id, adopts=True), recurring=recurring)


def _named(found: Fields) -> frozenset[str]:
    return frozenset(item.text("id") or "" for item in found.each("items"))


def _asked(call: Call, operation: Operation, object_id: str) -> Asking:
    path = call.path if operation.name.startswith("customers.") else f"/v1/subscriptions/{object_id}"
    return (yield from objects.ask(path, "subscription", object_id))


def _invoices_now(found: Fields) -> bool:
    """Say whether a change may be invoiced at once: another quantity alone waits for the period's end, unless that is asked for."""
    if found.text("proration_behavior") == "always_invoice" or any(name in found for name in ("plan", "price")):
        return True
    if any(name in found for name in ("billing_cycle_anchor", "trial_end", "trial_from_plan", "add_invoice_items", "billing_schedules")):
        return True
    return any({"price", "plan", "price_data"} & set(item.tree) for item in found.each("items"))


def collecting(subscription: dict[str, Any]) -> Costing:
    """Say what an invoice of a subscription collects beside its items, and beyond what the run holds for its customer."""
    customer = money.id_of(subscription.get("customer"))
    if customer is None:
        return prices.Cost(0, "collects what waits for a customer that cannot be read")
    held = yield from waiting.held(customer)
    return (yield from waiting.collected(customer, held))


def _repriced(found: Fields, old: dict[str, Any]) -> Fields:
    """Give items that are only named by their id the price that they have."""
    known = {str(item.get("id")): _price_id(item) for item in listed(old)}
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


def listed(subscription: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a subscription's items."""
    items = subscription.get("items")
    data = cast("dict[str, Any]", items).get("data") if isinstance(items, dict) else None
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []


def running(subscription: dict[str, Any], *, without: frozenset[str] = frozenset()) -> Cost:
    """Say what a subscription's next period costs as it stands, without the items that a change replaces."""
    items = subscription.get("items")
    cost = prices.Cost()
    if not isinstance(items, dict) or cast("dict[str, Any]", items).get("has_more"):
        cost = prices.Cost(0, "has more items than one answer shows")
    for item in listed(subscription):
        if str(item.get("id")) not in without:
            cost += item_cost(item)
    tax = subscription.get("automatic_tax")
    is_taxed = bool(subscription.get("default_tax_rates")) or (isinstance(tax, dict) and cast("dict[str, Any]", tax).get("enabled"))
    return cost + prices.Cost(0, prices.TAXES) if is_taxed else cost


def item_cost(item: dict[str, Any]) -> Cost:
    """Say what a period of one item costs."""
    price, quantity = item.get("price") or item.get("plan"), item.get("quantity", 1)
    if not isinstance(price, dict) or not (quantity is None or isinstance(quantity, int)):
        return prices.Cost(0, "has an item whose price cannot be read")
    taxes = prices.Cost(0, prices.TAXES) if item.get("tax_rates") else prices.Cost()
    return taxes + prices.by_price(cast("dict[str, Any]", price), Fraction(1 if quantity is None else quantity))


def _is_metered(item: dict[str, Any]) -> bool:
    price = item.get("price") or item.get("plan")
    return isinstance(price, dict) and prices.is_metered(cast("dict[str, Any]", price))


def _resume(call: Call, operation: Operation) -> Quoting:
    forms.fields(call)
    object_id = operation.object_id or ""
    old = yield from objects.ask(f"/v1/subscriptions/{object_id}", "subscription", object_id)
    cost = running(old) + (yield from collecting(old))
    return (yield from on_top(object_id, cost))


def _pause(call: Call, _operation: Operation) -> Quote:
    found = forms.fields(call, "invoicing_behavior")
    return objects.unbounded(_USAGE) if found.text("invoicing_behavior") == "invoice" else Quote(0)


def _cancel(call: Call, operation: Operation) -> Quoting:
    """Let a subscription end; one that invoices what is open on its way charges, although it is a DELETE."""
    found = forms.fields(call, "invoice_now", "prorate")
    object_id = call.path.rpartition("/")[2]
    is_invoiced, is_prorated = found.is_true("invoice_now"), found.is_true("prorate")
    if not (is_invoiced or is_prorated):
        return Quote(0, object_id=object_id)
    old = yield from _asked(call, operation, object_id)
    cost = yield from ended(old, is_invoiced=is_invoiced, is_prorated=is_prorated)
    return (yield from on_top(object_id, cost, recurring=False))


def ended(subscription: dict[str, Any], *, is_invoiced: bool, is_prorated: bool) -> Costing:
    """Say what the end of a subscription costs: a last invoice of what is open, and what was paid and not used as a credit."""
    cost = running(subscription) if is_prorated else prices.Cost()
    if is_invoiced:
        cost += yield from collecting(subscription)
        if any(_is_metered(item) for item in listed(subscription)):
            cost += prices.Cost(0, f"{_USAGE}; without invoice_now it does not")
    return cost


def _created(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "subscription":
        raise ValueError("expected a subscription")
    invoice = body.get("latest_invoice")
    if isinstance(invoice, dict):
        fact = replies.invoice_fact(cast("dict[str, Any]", invoice))
    else:
        held = 0 if str(body.get("status")) in _ENDED else quote.amount
        fact = Fact(money.id_of(invoice) or objects.own_id(body), 0, held, held, status=str(body.get("status")))
    return Outcome("settled", facts=(fact,), request_id=request_id)


def changed(kind: str, *, is_new: bool = False) -> Callable[[Call, Quote, dict[str, Any], str | None], Outcome]:
    """
    Return how to settle a change of an object whose cost its answer does not show: what was quoted stays held under its id.

    One that is new may have taken over what waited for its customer.
    """

    def settle(call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
        if not quote.amount and not quote.adopts:
            return objects.flat(call, quote, body, request_id)
        if body.get("object") != kind or not (is_new or quote.object_id == objects.own_id(body)):
            raise ValueError(f"expected the {kind}")
        fact = Fact(objects.own_id(body), 0, quote.amount, quote.amount, status=str(body.get("status") or ""))
        return Outcome("settled", facts=(fact,), source="local", request_id=request_id)

    return settle


FLOWS = {
    "subscriptions.create": Flow(_create, _created),
    "subscriptions.update": Flow(_update, changed("subscription")),
    "subscriptions.delete": Flow(_cancel, changed("subscription")),
    "subscriptions.resume": Flow(_resume, changed("subscription")),
    "subscriptions.pause": Flow(_pause, objects.flat),
    "customers.subscriptions.create": Flow(_create, _created),
    "customers.subscriptions.update": Flow(_update, changed("subscription")),
    "customers.subscriptions.delete": Flow(_cancel, changed("subscription")),
}
