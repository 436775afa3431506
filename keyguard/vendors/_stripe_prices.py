"""What a list of items costs: prices in the request or by their id, quantities, shipping. Part of the stripe plug."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from keyguard.errors import UnpricedCall
from keyguard.vendors import Ask, Recall
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors._stripe_paths import is_object_id

if TYPE_CHECKING:
    from collections.abc import Generator

    from keyguard.model import Money
    from keyguard.vendors._stripe_forms import Fields

ITEM = (
    "price", "plan", "price_data", "pricing", "amount", "currency", "quantity", "quantity_decimal", "unit_amount", "unit_amount_decimal",
    "tax_rates",
)  # fmt: skip
TAXES = "adds taxes that are not in the request"
_NO_PRICE = "has an item whose price cannot be read"
_TIERED = "has a price by tiers or by the customer's choice"
_MANY = 99  # "By default this value is 99": what a customer may order where no maximum was sent


@dataclass(frozen=True, slots=True)
class Cost:
    """
    What some items cost together.

    Attributes:
        amount: Micro-USD of all that can be told.
        why: Why there may be more; "" where there is not.
    """

    amount: Money = 0
    why: str = ""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.amount + other.amount, self.why or other.why)


Costing: TypeAlias = "Generator[Recall | Ask, Any, Cost]"


def total(items: list[Fields], code: str | None = None) -> Costing:
    """Add up items, each with a price of its own, by id or in the request; `code` = what they are charged in, where that was said."""
    cost, known = Cost(), dict[str, "dict[str, Any] | None"]()
    for item in items:
        cost += yield from _cost(item, code, known)
    return cost


def _cost(item: Fields, code: str | None, known: dict[str, dict[str, Any] | None]) -> Costing:
    quantity = _quantity(item)
    taxes = Cost(0, TAXES) if any(name in item for name in ("tax_rates", "dynamic_tax_rates", "tax_amounts")) else Cost()
    if "amount" in item:
        # Of an invoice item a total, of Checkout's items in older API versions a unit's.
        return taxes + _in(item.code(code), (item.count("amount") or 0) * max(Fraction(1), quantity))
    data = item.below("price_data") if "price_data" in item else item
    unit = _unit(data)
    if unit is not None:
        return taxes + _in(data.code(code), unit * quantity)
    named = item.text("price") or item.text("pricing[price]") or item.text("plan") or ""
    kind = "plan" if item.text("plan") else "price"
    if not is_object_id(named):
        return taxes + Cost(0, _NO_PRICE)
    if named not in known:
        known[named] = yield from _asked(f"/v1/{kind}s/{named}", kind, named)
    found = known[named]
    return taxes + (Cost(0, _NO_PRICE) if found is None else by_price(found, quantity, code))


def _asked(path: str, kind: str, object_id: str) -> Generator[Recall | Ask, Any, dict[str, Any] | None]:
    try:
        return (yield from objects.ask(path, kind, object_id))
    except UnpricedCall:
        return None


def by_price(price: dict[str, Any], quantity: Fraction, code: str | None = None) -> Cost:
    """Say what so many of a price (or a plan, its older form) cost."""
    if (code or money.currency_of(price)) != money.currency_of(price):
        return Cost(0, "charges in a currency for which its price has another amount")
    if is_metered(price):
        # What was used is charged later, by Stripe itself.
        return Cost()
    unit = _decimal(price.get("unit_amount_decimal", price.get("amount_decimal")))
    if unit is None:
        unit = _decimal(price.get("unit_amount", price.get("amount")))
    if unit is None or price.get("billing_scheme") == "tiered":
        highest = _decimal(_nested(price, "custom_unit_amount").get("maximum"))
        return Cost(0, _TIERED) if highest is None else _in(money.currency_of(price), highest * quantity)
    return _in(money.currency_of(price), unit * quantity)


def is_metered(price: dict[str, Any]) -> bool:
    """Say whether a price (or a plan) charges what was used, at the end of a period."""
    return _nested(price, "recurring").get("usage_type", price.get("usage_type")) == "metered"


def _unit(data: Fields) -> Fraction | None:
    count = data.count("unit_amount")
    return data.decimal("unit_amount_decimal") if count is None else Fraction(count)


def _quantity(item: Fields) -> Fraction:
    """Return the most of an item that may be bought."""
    quantity = item.decimal("quantity_decimal")
    if quantity is None:
        quantity = item.decimal("quantity")
    if quantity is None:
        quantity = Fraction(1)
    if item.is_true("adjustable_quantity[enabled]"):
        return max(quantity, item.decimal("adjustable_quantity[maximum]") or Fraction(_MANY))
    return quantity


def _in(code: str | None, count: Fraction) -> Cost:
    """Turn an amount in the smallest unit of a currency into a cost; a credit lowers nothing."""
    if code is None:
        return Cost(0, "is in a currency that the request does not name")
    return Cost(money.micros(max(0, math.ceil(count)), code))


def _decimal(value: object) -> Fraction | None:
    """Read an amount of an object: an int, or digits with decimals."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return Fraction(value)
    except (ValueError, ZeroDivisionError):
        return None


def _nested(found: dict[str, Any], name: str) -> dict[str, Any]:
    value = found.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def shipping(options: list[Fields], code: str | None = None) -> Costing:
    """Say what the dearest of some ways to ship costs."""
    dearest, why = 0, ""
    for option in options:
        amount = option.below("shipping_rate_data[fixed_amount]")
        named = option.text("shipping_rate")
        if "amount" in amount:
            cost = _in(amount.code(code), Fraction(amount.count("amount") or 0))
        elif named and is_object_id(named):
            rate = yield from _asked(f"/v1/shipping_rates/{named}", "shipping_rate", named)
            fixed = _nested(rate or {}, "fixed_amount")
            unit = _decimal(fixed.get("amount"))
            cost = Cost(0, "ships at a rate that cannot be read") if unit is None else _in(money.currency_of(fixed) or None, unit)
        else:
            cost = Cost(0, "ships at a rate that cannot be read")
        dearest, why = max(dearest, cost.amount), why or cost.why
    return Cost(dearest, why)


def taxed(found: Fields) -> Cost:
    """Say whether a whole request adds taxes to its items."""
    is_taxed = found.is_true("automatic_tax[enabled]") or bool(found.below("default_tax_rates").tree)
    return Cost(0, TAXES) if is_taxed else Cost()
