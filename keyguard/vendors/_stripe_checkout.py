"""Pages on which a customer pays later: Checkout sessions and payment links, held from the day they are made. Part of the stripe plug."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keyguard.model import Fact, Outcome, Quote
from keyguard.vendors import _stripe_forms as forms
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors import _stripe_prices as prices
from keyguard.vendors import _stripe_replies as replies
from keyguard.vendors._stripe_objects import Flow

if TYPE_CHECKING:
    from keyguard.model import Call, Operation
    from keyguard.vendors import Quoting
    from keyguard.vendors._stripe_forms import Fields
    from keyguard.vendors._stripe_prices import Costing

_BOUGHT = ("line_items", "optional_items", "shipping_options", "currency", "automatic_tax", "mode", "subscription_data")


def _basket(found: Fields) -> Costing:
    """Add up what a customer may buy at most: every item that is offered, shipped the dearest way."""
    code = found.code()
    begun = found.below("subscription_data")
    # Older API versions name a subscription's items here.
    items = [*found.each("line_items"), *found.each("optional_items"), *begun.each("items")]
    cost = yield from prices.total(items, code)
    cost += yield from prices.shipping(list(found.each("shipping_options")), code)
    return cost + prices.taxed(found) + prices.taxed(begun)


def _recurs(found: Fields) -> bool:
    return (
        found.text("mode") == "subscription"
        or "subscription_data" in found
        or any("price_data[recurring]" in item for item in found.each("line_items"))
    )


def _quoted(cost: prices.Cost, base: Quote) -> Quote:
    larger = replace(base, amount=base.amount + cost.amount)
    return objects.unbounded(cost.why, base=larger) if cost.why else larger


def _create_session(call: Call, _operation: Operation) -> Quoting:
    found = forms.fields(call, *_BOUGHT)
    if found.text("mode") == "setup":
        return Quote(0)
    return _quoted((yield from _basket(found)), Quote(0, recurring=_recurs(found)))


def _update_session(call: Call, operation: Operation) -> Quoting:
    found = forms.fields(call, *_BOUGHT)
    object_id = operation.object_id or ""
    if not found.tree:
        return Quote(0, object_id=object_id)
    # What stays as it was is in the session's own total.
    session = yield from objects.ask(f"/v1/checkout/sessions/{object_id}", "checkout.session", object_id)
    base = Quote(objects.amount_in(session, "amount_total", 0), object_id=object_id, adopts=True)
    cost = yield from _basket(found)
    if any("id" in item and "price" not in item and "price_data" not in item for item in found.each("line_items")):
        cost += prices.Cost(0, "changes the quantity of items whose price is not in the request")
    return _quoted(cost, base)


def _expire(_call: Call, operation: Operation) -> Quote:
    return Quote(0, object_id=operation.object_id)


def _session(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "checkout.session":
        raise ValueError("expected a Checkout session")
    fact = replies.session_fact(body, bound=quote.amount)
    if quote.object_id is not None and quote.object_id != fact.object_id:
        raise ValueError("the reply is about another object")
    # A change that was quoted at nothing leaves what is held as it is.
    facts = () if quote.object_id is not None and not quote.adopts and fact.status == "open" else (fact,)
    return Outcome("settled", facts=facts, request_id=request_id)


def _create_link(call: Call, _operation: Operation) -> Quoting:
    found = forms.fields(call, *_BOUGHT, "restrictions")
    cost = yield from _basket(found)
    times = found.count("restrictions[completed_sessions][limit]")
    if times is None:
        cost += prices.Cost(0, "can be paid any number of times; send restrictions[completed_sessions][limit]")
    return _quoted(prices.Cost(cost.amount * max(1, times or 1), cost.why), Quote(0, recurring=_recurs(found)))


def _update_link(call: Call, _operation: Operation) -> Quote:
    found = forms.fields(call, "line_items", "optional_items", "shipping_options", "automatic_tax", "restrictions", "active")
    if found.tree and set(found.tree) != {"active"}:
        return objects.unbounded("changes what a link sells, or how often; make another link and switch this one off")
    if found.is_true("active"):
        return objects.unbounded("lets a link be paid again")
    return Quote(0)


def _linked(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    """Hold what a link may be paid; it never ends by itself."""
    if body.get("object") != "payment_link":
        raise ValueError("expected a payment link")
    fact = Fact(objects.own_id(body), 0, quote.amount, quote.amount, status="open")
    return Outcome("settled", facts=(fact,), source="local", request_id=request_id)


FLOWS = {
    "checkout.sessions.create": Flow(_create_session, _session),
    "checkout.sessions.update": Flow(_update_session, _session),
    "checkout.sessions.expire": Flow(_expire, _session),
    "payment_links.create": Flow(_create_link, _linked),
    "payment_links.update": Flow(_update_link, objects.flat),
}
