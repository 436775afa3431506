"""What waits for a customer's next invoice, whoever makes it: items that were made before, and what the customer owes.

What the run itself made is held under the customer's id (`_stripe_invoices`); the rest Stripe is asked for. Part of the stripe plug.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from keyguard.vendors import Ask, Recall
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_prices as prices

if TYPE_CHECKING:
    from collections.abc import Generator

    from keyguard.model import Memory, Money, Reply
    from keyguard.vendors._stripe_forms import Fields
    from keyguard.vendors._stripe_prices import Cost, Costing

_LINES = 100  # the longest list that Stripe answers
_HIDDEN = "collects items that cannot be read"


def customer_in(found: Fields) -> tuple[str, str] | None:
    """Return the parameter that names whose invoice it is, and the id in it."""
    named = ((name, found.object_id(name)) for name in ("customer", "customer_account"))
    return next(((name, object_id) for name, object_id in named if object_id is not None), None)


def held(customer: str) -> Generator[Recall | Ask, Any, Money]:
    """Return what the run holds for a customer's next invoice."""
    memory: Memory | None = yield Recall(customer)
    return memory.held if memory is not None else 0


def items(customer: str, known: Money, name: str = "customer") -> Costing:
    """Say how far the items that wait for a customer's next invoice go beyond what is known of them."""
    # One list in most cases, which stand-ins for Stripe can give as well: not all of them know `pending`.
    place = f"/v1/invoiceitems?{name}={customer}&limit={_LINES}"
    asked, is_all = _listed((yield Ask(place)))
    if not is_all:
        asked, is_all = _listed((yield Ask(f"{place}&pending=true")))
    return prices.Cost(max(0, asked.amount - known), asked.why if is_all else _HIDDEN)


def owed(customer: str) -> Costing:
    """Say what a customer owes: "if positive, the customer has an amount owed that's added to their next invoice"."""
    reply: Reply = yield Ask(f"/v1/customers/{customer}")
    try:
        if not 200 <= reply.status < 300:
            raise ValueError(f"HTTP {reply.status}")
        body = money.parsed(reply.body)
        balance = body.get("balance", body.get("account_balance", 0))
        if body.get("object") != "customer" or body.get("id") != customer or not isinstance(balance, int):
            raise ValueError("not the customer that was asked for")
        return prices.Cost(money.units({"balance": balance, "currency": body.get("currency")}, "balance") if balance > 0 else 0)
    except (ValueError, RecursionError):
        return prices.Cost(0, "collects what the customer owes, which cannot be read")


def collected(customer: str, known: Money, name: str = "customer") -> Costing:
    """Say what an invoice that is made and charged at once collects beyond what is known."""
    cost = yield from items(customer, known, name)
    # An account that is a customer too has no balance of this kind.
    return cost + (yield from owed(customer)) if name == "customer" else cost


def _listed(reply: Reply) -> tuple[Cost, bool]:
    """Add up the items that wait, and say whether the list is whole."""
    try:
        if not 200 <= reply.status < 300:
            raise ValueError(f"HTTP {reply.status}")
        found = money.parsed(reply.body)
        listed = found.get("data")
        if not isinstance(listed, list):
            raise ValueError("no list")
        # A credit among them lowers what is charged, but is not read so.
        return sum((prices.Cost(_positive(item)) for item in listed), prices.Cost()), not found.get("has_more")
    except (ValueError, RecursionError):
        return prices.Cost(0, _HIDDEN), True


def _positive(item: Any) -> int:
    if not isinstance(item, dict):
        raise ValueError("no item")
    found = cast("dict[str, Any]", item)
    amount = found.get("amount")
    return 0 if found.get("invoice") is not None or (isinstance(amount, int) and amount < 0) else money.units(found, "amount")
