"""Invoices and what stands on them: held from the first line on, until they are paid, void or given up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support_stripe_money import Case, prove
from tests.support_stripe_objects import DRAFT, FINAL, IN_1, LINE, PAY, PENDING, WAITS, invoice, priced, unpaid, waiting
from tests.support_stripe_spec import synthesized

WAITING = "/v1/invoiceitems"


def line(object_id: str, amount: int) -> dict[str, Any]:
    """Return a line of an invoice."""
    return synthesized("line_item", id=object_id, amount=amount, currency="usd")


def with_lines(*lines: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return an invoice that shows these lines."""
    return unpaid(2000, "draft", lines={"object": "list", "data": list(lines), "has_more": False, "url": f"{IN_1}/lines"}, **fields)


OPEN = {IN_1: unpaid(2000)}
OURS = (DRAFT, LINE, FINAL)
CASES = [
    DRAFT,
    replace(DRAFT, quoted=700, held=700, form={"customer": "cus_1", "pending_invoice_items_behavior": "include"}, note="of what waits",
            answer=unpaid(700, "draft"), reads={PENDING: {"data": [waiting(700), waiting(-100, "ii_2"), waiting(5, invoice="in_0")]}}),
    replace(DRAFT, quoted=700, held=700, form={"customer": "cus_1", "pending_invoice_items_behavior": "include"},
            answer=unpaid(700, "draft"), reads={PENDING: {"data": [waiting(5)], "has_more": True},
            f"{PENDING}&pending=true": {"data": [waiting(700)]}}, note="of what waits behind many others"),
    replace(DRAFT, form={"customer": "cus_1", "pending_invoice_items_behavior": "exclude"}, note="of nothing"),
    replace(DRAFT, quoted=500, held=500, form={"customer": "cus_1", "auto_advance": True}, answer=unpaid(500, "draft"), before=(WAITS,),
            note="of what this run made"),
    replace(DRAFT, quoted=500, held=500, before=(WAITS,), note="that leaves what waits"),
    replace(DRAFT, quoted=90, held=90, answer=unpaid(90, "draft"), note="with shipping",
            form={"shipping_cost": {"shipping_rate_data": {"fixed_amount": {"amount": 90, "currency": "usd"}}}}),
    replace(DRAFT, quoted=2000, held=2000, form={"from_invoice": {"invoice": "in_1", "action": "revision"}},
            answer=unpaid(2000, "draft", id="in_2"), reads=OPEN, note="that revises one"),
    Case("invoices.update", f"POST {IN_1}", {"description": "x"}, unpaid(2000), note="of words"),
    Case("invoices.update", f"POST {IN_1}", {"auto_advance": True}, unpaid(2000), quoted=2000, held=2000, reads=OPEN),
    Case("invoices.update", f"POST {IN_1}", {"shipping_cost": {"shipping_rate": "shr_1"}}, unpaid(2090), quoted=2090, held=2090,
         reads={**OPEN, "/v1/shipping_rates/shr_1": {"id": "shr_1", "fixed_amount": {"amount": 90, "currency": "usd"}}},
         note="of shipping"),
    Case("invoices.delete", f"DELETE {IN_1}", {}, {"id": "in_1", "deleted": True}, before=(DRAFT, LINE)),
    Case("invoices.void", f"POST {IN_1}/void", {}, unpaid(500, "void"), before=OURS),
    Case("invoices.mark_uncollectible", f"POST {IN_1}/mark_uncollectible", {}, unpaid(500, "uncollectible"), before=OURS),
    FINAL,
    replace(FINAL, quoted=2000, held=2000, answer=unpaid(2000), reads={IN_1: unpaid(2000, "draft")}, before=(), note="of another's"),
    Case("invoices.send", f"POST {IN_1}/send", {}, unpaid(500), quoted=500, held=500, before=OURS),
    PAY,
    replace(PAY, quoted=500, spent=500, answer=invoice(amount_due=500, amount_paid=500), reads={}, before=OURS, note="of this run's"),
    replace(PAY, quoted=1500, spent=1500, reads={IN_1: unpaid(2000, amount_paid=500, amount_remaining=1500)}, note="of the rest"),
    replace(PAY, spent=1200, held=800, answer=unpaid(2000, amount_paid=1200, amount_remaining=800), note="in part"),
    replace(PAY, spent=0, held=2000, answer=unpaid(2000), note="whose payment is on its way"),
    replace(PAY, spent=1200, answer=invoice(amount_paid_off_stripe=800), note="partly elsewhere"),
    replace(PAY, quoted=0, spent=0, form={"paid_out_of_band": True}, reads={}, note="elsewhere"),
    replace(PAY, quoted=500, spent=0, form={"paid_out_of_band": True}, answer=invoice(amount_due=500, amount_paid=500), reads={},
            before=OURS, note="elsewhere, of this run's"),
    replace(PAY, form={"paid_out_of_band": "False"}, note="here after all"),
    Case("invoices.add_lines", f"POST {IN_1}/add_lines", {"lines": [{"amount": 300}, {"price_data": {
         "currency": "usd", "product": "prod_1", "unit_amount_decimal": "0.5"}, "quantity": 5}, {"pricing": {"price": "price_1"}}]},
         unpaid(3303, "draft"), quoted=3303, held=3303, reads={**OPEN, "/v1/prices/price_1": priced()}),
    Case("invoices.add_lines", f"POST {IN_1}/add_lines", {"lines": [{"invoice_item": "ii_1"}]}, unpaid(2500, "draft"), quoted=2500,
         held=2500, reads={**OPEN, f"{WAITING}/ii_1": waiting(500)}, note="that waited"),
    Case("invoices.update_lines", f"POST {IN_1}/update_lines", {"lines": [{"id": "il_1", "amount": 900}]}, unpaid(2400, "draft"),
         quoted=2900, held=2400, reads=OPEN),
    Case("invoices.update_lines", f"POST {IN_1}/update_lines", {"lines": [{"id": "il_1", "description": "x"}]}, unpaid(2000, "draft"),
         quoted=2000, held=2000, reads=OPEN, note="of words"),
    Case("invoices.remove_lines", f"POST {IN_1}/remove_lines", {"lines": [{"id": "il_1", "behavior": "delete"}]}, unpaid(1700, "draft"),
         quoted=2000, held=1700, reads={IN_1: with_lines(line("il_1", 300))}),
    Case("invoices.remove_lines", f"POST {IN_1}/remove_lines", {"lines": [{"id": "il_1", "behavior": "delete"}]}, unpaid(2300, "draft"),
         quoted=2300, held=2300, reads={IN_1: with_lines(line("il_1", -300))}, note="that are a credit"),
    Case("invoices.lines.update", f"POST {IN_1}/lines/il_1", {"amount": 900}, line("il_1", 900), quoted=2900, held=2900, reads=OPEN),
    Case("invoices.lines.update", f"POST {IN_1}/lines/il_1", {"description": "x"}, line("il_1", 300), quoted=2000, held=2000, reads=OPEN,
         note="of words"),
    WAITS,
    replace(WAITS, quoted=1000, held=1000, before=(WAITS,), note="beside another"),
    replace(WAITS, quoted=0, held=0, form={**WAITS.form, "amount": -500}, answer=waiting(-500), note="that is a credit"),
    replace(WAITS, quoted=3, held=3, form={"customer": "cus_1", "currency": "usd", "unit_amount_decimal": "0.7", "quantity": 4},
            answer=waiting(3), note="in parts of a cent, rounded up"),
    replace(WAITS, quoted=3000, held=3000, form={"customer": "cus_1", "pricing": {"price": "price_1"}, "quantity_decimal": "2.5"},
            answer=waiting(3000), reads={"/v1/prices/price_1": priced(unit=1200)}, note="at a price"),
    replace(WAITS, form={"customer_account": "acct_1", "amount": 500, "currency": "usd"}, note="of an account"),
    LINE,
    Case("invoiceitems.update", f"POST {WAITING}/ii_1", {"description": "x"}, waiting(500), held=500, before=(WAITS,), note="of words"),
    Case("invoiceitems.update", f"POST {WAITING}/ii_1", {"amount": 800}, waiting(800), quoted=1300, held=1300, before=(WAITS,),
         reads={f"{WAITING}/ii_1": waiting(500)}),
    Case("invoiceitems.update", f"POST {WAITING}/ii_1", {"quantity": 3}, waiting(600), quoted=600, held=600, note="of the quantity",
         reads={f"{WAITING}/ii_1": waiting(200, pricing={"type": "price_details", "unit_amount_decimal": "200"})}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quote_and_settle(case: Case) -> None:
    """Held before the send, and until it is paid or can no longer be; freed by a refusal, kept when nobody knows."""
    prove(case)
