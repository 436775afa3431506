"""Objects of Stripe that tests of several rooms speak about, as its OpenAPI allows them. Asserts nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support_stripe_money import Case
from tests.support_stripe_spec import synthesized

SUBS, ITEMS, SCHEDULES = "/v1/subscriptions", "/v1/subscription_items", "/v1/subscription_schedules"
PENDING, CUSTOMER = "/v1/invoiceitems?customer=cus_1&limit=100", "/v1/customers/cus_1"
# A customer for whom nothing waits.
NOBODY: dict[str, Any] = {PENDING: {"data": []}, CUSTOMER: {"id": "cus_1", "balance": 0}}
LICENSED: dict[str, Any] = {"interval": "month", "interval_count": 1, "usage_type": "licensed", "trial_period_days": None, "meter": None}
METERED: dict[str, Any] = {**LICENSED, "usage_type": "metered", "meter": "mtr_1"}


def priced(object_id: str = "price_1", unit: int | None = 1000, **fields: Any) -> dict[str, Any]:
    """Return a price; of a month, unless told otherwise."""
    known = {"currency": "usd", "billing_scheme": "per_unit", "type": "recurring", "recurring": LICENSED, "unit_amount": unit,
             "unit_amount_decimal": None if unit is None else str(unit)}  # fmt: skip
    return synthesized("price", id=object_id, **{**known, **fields})


def item(object_id: str = "si_1", price: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Return a subscription's item."""
    known = {"price": price or priced(), "subscription": "sub_1", "quantity": 1}
    return synthesized("subscription_item", id=object_id, **{**known, **fields})


def subscription(*items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a subscription that runs."""
    listed = {"object": "list", "data": list(items) or [item()], "has_more": False, "url": "/v1/subscription_items"}
    known = {"id": "sub_1", "customer": "cus_1", "status": "active", "currency": "usd", "latest_invoice": "in_1", "items": listed}
    return synthesized("subscription", **{**known, **fields})


def waiting(amount: int, object_id: str = "ii_1", **fields: Any) -> dict[str, Any]:
    """Return an item that waits for the customer's next invoice, or for the invoice it names."""
    return synthesized("invoiceitem", id=object_id, amount=amount, **{"currency": "usd", "customer": "cus_1", **fields})


def invoice(**fields: Any) -> dict[str, Any]:
    """Return an invoice that is paid, unless told otherwise."""
    known = {"id": "in_1", "amount_due": 2000, "amount_paid": 2000, "amount_remaining": 0, "currency": "usd", "status": "paid"}
    return synthesized("invoice", **{**known, **fields})


def unpaid(amount: int, status: str = "open", **fields: Any) -> dict[str, Any]:
    """Return an invoice of which nothing is paid yet."""
    return invoice(**{"amount_due": amount, "amount_paid": 0, "amount_remaining": amount, "status": status, **fields})


FORM: dict[str, Any] = {"customer": "cus_1", "items": [{"price": "price_1", "quantity": 2}]}
SUBSCRIBE = Case("subscriptions.create", f"POST {SUBS}", FORM, subscription(), quoted=2000, held=2000, recurring=True,
                 reads={"/v1/prices/price_1": priced(), **NOBODY})  # fmt: skip
INLINE = {"price_data": {"currency": "usd", "product": "prod_1", "unit_amount": 300, "recurring": {"interval": "month"}}, "quantity": 3}
INVOICES, IN_1 = "/v1/invoices", "/v1/invoices/in_1"
DRAFT = Case("invoices.create", f"POST {INVOICES}", {"customer": "cus_1"}, unpaid(0, "draft"))
WAITS = Case("invoiceitems.create", "POST /v1/invoiceitems", {"customer": "cus_1", "amount": 500, "currency": "usd"}, waiting(500),
             quoted=500, held=500)  # fmt: skip
LINE = replace(WAITS, form={**WAITS.form, "invoice": "in_1"}, answer=waiting(500, invoice="in_1"), reads={IN_1: unpaid(0, "draft")},
               before=(DRAFT,), note="on an invoice")  # fmt: skip
FINAL = Case("invoices.finalize", f"POST {IN_1}/finalize", {}, unpaid(500), quoted=500, held=500, before=(DRAFT, LINE))
PAY = Case("invoices.pay", f"POST {IN_1}/pay", {}, invoice(), quoted=2000, spent=2000, reads={IN_1: unpaid(2000)})
