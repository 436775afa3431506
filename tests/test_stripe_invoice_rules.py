"""What follows an invoice's first call: reads that settle or free it, credit notes on it, and what has no bound."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Reply
from tests.support_guard import CENT
from tests.support_stripe_money import Case, Till, begun, prove
from tests.support_stripe_objects import DRAFT, FINAL, IN_1, INVOICES, LINE, PAY, PENDING, WAITS, invoice, unpaid, waiting
from tests.support_stripe_spec import statuses, synthesized

OURS = (DRAFT, LINE, FINAL)
READ = Case("invoices.retrieve", f"GET {IN_1}", {}, unpaid(500), held=500, before=OURS)
# status → (spent, held) of an open 500-cent invoice that this run made.
LATER: dict[str, tuple[dict[str, Any], int, int]] = {
    "draft": (unpaid(500, "draft"), 0, 500), "open": (unpaid(500), 0, 500), "void": (unpaid(500, "void"), 0, 0),
    "uncollectible": (unpaid(500, "uncollectible"), 0, 0), "paid": (invoice(amount_due=500, amount_paid=500), 500, 0),
}  # fmt: skip


def test_every_status_of_an_invoice_is_read() -> None:
    """A status that Stripe adds fails here until somebody decides what it means."""
    assert statuses("invoice") == set(LATER)


@pytest.mark.parametrize("status", sorted(LATER))
@pytest.mark.parametrize("request_of", [f"GET {IN_1}", f"GET {INVOICES}"], ids=["one", "list"])
def test_a_later_read_tells_what_became_of_it(status: str, request_of: str) -> None:
    """Paid settles, void and given up release, draft and open stay held."""
    body, spent, held = LATER[status]
    is_list = request_of == f"GET {INVOICES}"
    case = replace(READ, request=request_of, name="invoices.list" if is_list else READ.name, spent=spent, held=held)
    prove(replace(case, answer={"data": [body]} if is_list else body))


@pytest.mark.parametrize(("name", "status"), [("send", "open"), ("pay", "paid"), ("finalize", "open")])
def test_an_invoice_is_counted_once(name: str, status: str) -> None:
    """Sent, read and paid again, it is one amount."""
    body = invoice(amount_due=500, amount_paid=500) if status == "paid" else unpaid(500)
    world = begun(READ)
    for _ in range(2):
        world.run(Case(f"invoices.{name}", f"POST {IN_1}/{name}", {}, body))
        world.run(replace(READ, answer=body))

    assert world.whole == ((500 * CENT, 0, 0, 0) if status == "paid" else (0, 500 * CENT, 0, 0))


def test_an_invoice_paid_late_is_booked_although_it_was_given_up() -> None:
    """What was freed and is paid after all is spent."""
    given_up = Case("invoices.mark_uncollectible", f"POST {IN_1}/mark_uncollectible", {}, unpaid(500, "uncollectible"), before=OURS)
    world = begun(replace(READ, before=(*OURS, given_up)))
    assert world.whole == (0, 0, 0, 0)
    world.run(replace(READ, answer=invoice(amount_due=500, amount_paid=500)))

    assert world.whole == (500 * CENT, 0, 0, 0)


# -- credit notes --------------------------------------------------------------------------------------

NOTE = {"id": "cn_1", "amount": 400, "total": 400, "currency": "usd", "invoice": "in_1", "customer": "cus_1", "status": "issued"}
PAID = {IN_1: invoice(total=2000)}


def note(post: int, pre: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a credit note, so much of it after the invoice was paid."""
    return {**NOTE, "post_payment_amount": post, "pre_payment_amount": pre, **fields}


CREDIT = Case("credit_notes.create", "POST /v1/credit_notes", {"invoice": "in_1", "amount": 400, "refund_amount": 400}, note(400),
              quoted=400, spent=400, reads=PAID)  # fmt: skip
NOTES = [
    CREDIT,
    replace(CREDIT, spent=2000, refunded=400, before=(PAY,), note="on what this run charged"),
    replace(CREDIT, form={"invoice": "in_1", "refund_amount": 100, "credit_amount": 200, "out_of_band_amount": 100}, quoted=300, spent=300,
            answer=note(400, out_of_band_amount=100), note="partly elsewhere"),
    replace(CREDIT, form={"invoice": "in_1", "amount": 400, "out_of_band_amount": 400}, quoted=0, spent=0,
            answer=note(400, out_of_band_amount=400), note="elsewhere"),
    replace(CREDIT, form={"invoice": "in_1", "amount": 400}, note="of an amount"),
    replace(CREDIT, form={"invoice": "in_1", "lines": [{"type": "invoice_line_item", "invoice_line_item": "il_1", "quantity": 1}]},
            quoted=2000, note="of lines"),
    replace(CREDIT, form={"invoice": "in_1", "amount": 400}, spent=0, answer=note(0, 400), reads={IN_1: unpaid(2000, total=2000)},
            note="that makes an open invoice cheaper"),
]  # fmt: skip
CASES = [*NOTES]


@pytest.mark.parametrize("case", NOTES, ids=str)
def test_a_credit_note_counts_what_goes_back(case: Case) -> None:
    """Refunded or credited through Stripe; of an unpaid invoice nothing goes back, and what is settled elsewhere is no money of ours."""
    prove(case)


def test_a_credit_note_of_an_older_kind_counts_its_total() -> None:
    """Without its parts, all of it went back, up to what was asked for."""
    body = {key: value for key, value in {**synthesized("credit_note", **note(0)), "total": 300}.items() if "payment_amount" not in key}
    world = Till()
    world.run(CREDIT, Reply(200, {}, json.dumps(body).encode()))

    assert world.whole == (300 * CENT, 0, 0, 0)


# -- no bound ------------------------------------------------------------------------------------------


def refused(name: str, request: str, form: dict[str, Any], message: str, reads: Any = None) -> Case:
    """Return a case that must be refused."""
    return Case(name, request, form, {}, reads=reads or {}, note=message)


OPEN = {IN_1: unpaid(2000)}
DEAR = {IN_1: unpaid(2000, subtotal=2500, starting_balance=100, total_taxes=[])}
REFUSED = [
    refused("hidden", f"POST {IN_1}/pay", {}, "depends on in_1", {IN_1: 404}),
    refused("another's", f"POST {IN_1}/finalize", {}, "no exchange rate is pinned for 'eur'", {IN_1: unpaid(2000, currency="eur")}),
    refused("unreadable items", f"POST {INVOICES}", {"customer": "cus_1", "pending_invoice_items_behavior": "include"}, "cannot be read",
            {PENDING: 403}),
    refused("more items", f"POST {INVOICES}", {"customer": "cus_1", "pending_invoice_items_behavior": "include"}, "cannot be read",
            {PENDING: {"data": [waiting(5)], "has_more": True}, f"{PENDING}&pending=true": {"data": [], "has_more": True}}),
    refused("a subscription", f"POST {INVOICES}", {"customer": "cus_1", "subscription": "sub_1"}, "collects what is due of a subscription"),
    refused("taxes", f"POST {INVOICES}", {"automatic_tax": {"enabled": True}}, "adds taxes"),
    refused("later taxes", f"POST {IN_1}", {"default_tax_rates": ["txr_1"]}, "adds taxes", OPEN),
    refused("taxes on a line", f"POST {IN_1}/add_lines", {"lines": [{"amount": 5, "tax_rates": ["txr_1"]}]}, "adds taxes", OPEN),
    refused("taxes in a line", f"POST {IN_1}/lines/il_1", {"tax_amounts": [{"amount": 5}]}, "taxes", OPEN),
    refused("taxes of an item", "POST /v1/invoiceitems/ii_1", {"tax_rates": ["txr_1"]}, "adds taxes",
            {"/v1/invoiceitems/ii_1": waiting(5)}),
    refused("a quantity", f"POST {IN_1}/update_lines", {"lines": [{"id": "il_1", "quantity": 5}]}, "whose price cannot be read", OPEN),
    refused("an unseen line", f"POST {IN_1}/remove_lines", {"lines": [{"id": "il_9", "behavior": "delete"}]}, "may be a credit", OPEN),
    refused("nobody's item", "POST /v1/invoiceitems", {"amount": 5, "currency": "usd"}, "needs a 'customer' or an 'invoice'"),
    refused("no currency", "POST /v1/invoiceitems", {"customer": "cus_1", "amount": 5}, "in a currency that the request does not name"),
    refused("words", "POST /v1/invoiceitems", {"customer": "cus_1", "amount": "five", "currency": "usd"}, "a whole number"),
    refused("a hidden rate", f"POST {INVOICES}", {"shipping_cost": {"shipping_rate": "shr_1"}}, "ships at a rate that cannot be read",
            {"/v1/shipping_rates/shr_1": 404}),
    refused("no rate", f"POST {INVOICES}", {"shipping_cost": {"shipping_rate_data": {"display_name": "x"}}}, "ships at a rate"),
    refused("no invoice", "POST /v1/credit_notes", {"amount": 5}, "a credit note needs an 'invoice'"),
    refused("a hidden invoice", "POST /v1/credit_notes", {"invoice": "in_1"}, "depends on in_1", {IN_1: 404}),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name.replace(" ", "-"))
def test_what_has_no_bound_is_refused(case: Case) -> None:
    """Nothing is sent or counted, and the message says what is missing."""
    world = Till()
    with pytest.raises((UnpricedCall, MalformedCall), match=case.note):
        world.run(case)

    assert (world.sent, world.whole) == (0, (0, 0, 0, 0))


UPDATE = Case("invoices.update", f"POST {IN_1}", {"discounts": ""}, unpaid(2600), quoted=2600, held=2600, reads=DEAR)


@pytest.mark.parametrize("form", [{"discounts": ""}, {"discounts": [{"coupon": "half"}]}])
def test_other_discounts_may_make_an_invoice_dearer(form: dict[str, Any]) -> None:
    """Up to what it costs without any: its subtotal, and what the customer owes."""
    draft = replace(DRAFT, answer=unpaid(2000, "draft"), held=2000)
    prove(replace(UPDATE, form=form, before=(draft,)))


def test_discounts_of_a_taxed_invoice_have_no_bound() -> None:
    """The taxes on what was discounted are not in the request."""
    tax = {"amount": 100, "tax_behavior": "exclusive", "taxability_reason": "standard_rated", "taxable_amount": 1000,
           "tax_rate_details": None, "type": "tax_rate_details"}  # fmt: skip
    taxed = unpaid(2000, subtotal=2500, total_taxes=[tax])
    with pytest.raises(UnpricedCall, match="adds taxes"):
        begun(replace(UPDATE, before=(replace(DRAFT, answer=unpaid(2000, "draft")),))).run(replace(UPDATE, reads={IN_1: taxed}))


@pytest.mark.parametrize(
    "answer",
    [{"object": "charge"}, {**synthesized("invoice", id="in_2", amount_due=5, currency="usd")}, {"object": "invoice", "id": "in_1"}],
)
@pytest.mark.parametrize("case", [PAY, replace(WAITS, spent=0)], ids=str)
def test_an_answer_about_something_else_is_doubt(case: Case, answer: dict[str, Any]) -> None:
    """Another object, another invoice, or one without an amount says nothing."""
    world = Till()
    world.run(case, Reply(200, {}, json.dumps(answer).encode()))

    assert world.whole == (0, 0, case.quoted * CENT, 0)
