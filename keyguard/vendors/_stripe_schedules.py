"""What begins or changes subscriptions by another name: their items, schedules and quotes. Part of the stripe plug."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from keyguard.model import Fact, Outcome, Quote
from keyguard.vendors import _stripe_forms as forms
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors import _stripe_prices as prices
from keyguard.vendors import _stripe_subscriptions as subscriptions
from keyguard.vendors import _stripe_waiting as waiting
from keyguard.vendors._stripe_objects import Flow

if TYPE_CHECKING:
    from keyguard.model import Call, Operation
    from keyguard.vendors import Quoting
    from keyguard.vendors._stripe_forms import Fields
    from keyguard.vendors._stripe_prices import Costing

_USAGE = "invoices what was used or changed since the last period, which is not in the request"
_NOW_SECONDS = 3600  # how far a start may lie behind our clock and still be "now"


def _delete_item(call: Call, operation: Operation) -> Quote:
    found = forms.fields(call, "proration_behavior")
    charges = found.text("proration_behavior") == "always_invoice"
    reason = f"{_USAGE}; with another proration_behavior it costs nothing"
    return objects.unbounded(reason, base=Quote(0, object_id=operation.object_id)) if charges else Quote(0)


def _add_item(call: Call, _operation: Operation) -> Quoting:
    found = forms.fields(call, *prices.ITEM, "subscription", "proration_behavior")
    cost = yield from prices.total([found])
    subscription = found.object_id("subscription")
    if found.text("proration_behavior") == "always_invoice":
        cost += yield from _collecting(subscription)
    return subscriptions.quoted(cost)


def _change_item(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, *prices.ITEM, "proration_behavior")
    object_id = operation.object_id or ""
    if not found.tree:
        return Quote(0, object_id=object_id)
    is_priced = any(name in found for name in ("price", "plan", "price_data"))
    old = yield from objects.ask(f"/v1/subscription_items/{object_id}", "subscription_item", object_id)
    if is_priced:
        # Without a new quantity the old one stays.
        quantity = {} if "quantity" in found else {"quantity": str(old.get("quantity") or 1)}
        cost = yield from prices.total([forms.Fields({**quantity, **found.tree})])
    else:
        count = found.decimal("quantity")
        cost = subscriptions.item_cost(old if count is None else {**old, "quantity": int(count)})
        cost += prices.Cost(0, prices.TAXES) if "tax_rates" in found else prices.Cost()
    if is_priced or found.text("proration_behavior") == "always_invoice":
        cost += yield from _collecting(money.id_of(old.get("subscription")))
    return (yield from subscriptions.on_top(object_id, cost))


def _collecting(subscription: str | None) -> Costing:
    """Say what a change that is invoiced at once collects beside it."""
    if subscription is None:
        return prices.Cost(0, "collects what waits for a customer that the request does not name")
    asked = yield from objects.ask(f"/v1/subscriptions/{subscription}", "subscription", subscription)
    return (yield from subscriptions.collecting(asked))


def _schedule(call: Call, operation: Operation) -> Quoting:
    """Bound a schedule by its phases, each as if it began now; one that follows a subscription costs nothing new."""
    found = forms.fields(call, "phases", "default_settings", "customer", "customer_account", "start_date", "from_subscription")
    cost = yield from _phases(found)
    if operation.object_id is not None:
        if not found.tree:
            return Quote(0, object_id=operation.object_id)
        return (yield from subscriptions.on_top(operation.object_id, cost))
    owner = waiting.customer_in(found)
    if _is_past(found.text("start_date")):
        cost += prices.Cost(0, "charges for the time since its 'start_date', which is past; send start_date=now")
    if owner is None or "from_subscription" in found:
        return subscriptions.quoted(cost)
    name, customer = owner
    held = yield from waiting.held(customer)
    more = yield from waiting.collected(customer, held, name)
    return subscriptions.quoted(cost + more, Quote(held, object_id=customer, adopts=True))


def _phases(found: Fields) -> Costing:
    cost = prices.taxed(found.below("default_settings"))
    for phase in found.each("phases"):
        cost += yield from subscriptions.items_in(phase, phase.code())
    return cost


def _is_past(start: str | None) -> bool:
    return start is not None and start.isdecimal() and int(start) < time.time() - _NOW_SECONDS


def _cancel_schedule(call: Call, operation: Operation) -> Quoting:
    # Both "default to true" where the schedule is active.
    found, object_id = forms.fields(call, "invoice_now", "prorate"), operation.object_id or ""
    is_invoiced = "invoice_now" not in found or found.is_true("invoice_now")
    is_prorated = "prorate" not in found or found.is_true("prorate")
    if not (is_invoiced or is_prorated):
        return Quote(0, object_id=object_id)
    asked = yield from objects.ask(f"/v1/subscription_schedules/{object_id}", "subscription_schedule", object_id)
    subscription = money.id_of(asked.get("subscription"))
    if subscription is None:
        return Quote(0, object_id=object_id)
    old = yield from objects.ask(f"/v1/subscriptions/{subscription}", "subscription", subscription)
    cost = yield from subscriptions.ended(old, is_invoiced=is_invoiced, is_prorated=is_prorated)
    return (yield from subscriptions.on_top(object_id, cost, recurring=False))


def _accept(call: Call, operation: Operation) -> Quoting:
    forms.fields(call)
    object_id = operation.object_id or ""
    asked = yield from objects.ask(f"/v1/quotes/{object_id}", "quote", object_id)
    cost = prices.Cost(max(objects.amount_in(asked, "amount_total"), _upfront(asked)))
    if not _part(asked, "recurring"):
        return subscriptions.quoted(cost, recurring=False)
    customer = money.id_of(asked.get("customer"))
    if customer is None:
        return subscriptions.quoted(cost)
    held = yield from waiting.held(customer)
    more = yield from waiting.collected(customer, held)
    return subscriptions.quoted(cost + more, Quote(held, object_id=customer, adopts=True))


def _upfront(asked: dict[str, Any]) -> int:
    return objects.amount_in({**_part(asked, "upfront"), "id": asked.get("id"), "currency": asked.get("currency")}, "amount_total", 0)


def _part(asked: dict[str, Any], name: str) -> dict[str, Any]:
    computed = asked.get("computed")
    found = cast("dict[str, Any]", computed).get(name) if isinstance(computed, dict) else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _accepted(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "quote":
        raise ValueError("expected a quote")
    objects.priced_currency(body)
    # Its invoice is a draft, or its subscription's first one.
    object_id = money.id_of(body.get("invoice")) or objects.own_id(body)
    held = max(quote.amount, money.units(body, "amount_total"))
    return Outcome("settled", facts=(Fact(object_id, 0, held, held, status=str(body.get("status"))),), request_id=request_id)


FLOWS = {
    "subscription_items.create": Flow(_add_item, subscriptions.changed("subscription_item", is_new=True)),
    "subscription_items.update": Flow(_change_item, subscriptions.changed("subscription_item")),
    "subscription_items.delete": Flow(_delete_item, objects.flat),
    "subscription_schedules.create": Flow(_schedule, subscriptions.changed("subscription_schedule", is_new=True)),
    "subscription_schedules.update": Flow(_schedule, subscriptions.changed("subscription_schedule")),
    "subscription_schedules.cancel": Flow(_cancel_schedule, subscriptions.changed("subscription_schedule")),
    "quotes.accept": Flow(_accept, _accepted),
}
