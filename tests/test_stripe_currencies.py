"""Every room of Stripe's money in other currencies than dollars: without decimals, with three, and where the request names none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keyguard import context
from keyguard.errors import UnpricedCall
from keyguard.fx import load_rates
from tests.support_stripe_money import Case, Till, prove
from tests.support_stripe_objects import IN_1, NOBODY, SUBS, invoice, item, priced, subscription, unpaid
from tests.support_stripe_rooms import CASES

if TYPE_CHECKING:
    from collections.abc import Iterator

# A yen, which has no smaller unit, is a US cent here; a fils, a thousandth of a dinar, is half a cent.
RATES = {"date": "2026-11-20", "usd_per_unit": {"jpy": "0.01", "kwd": "5", "eur": "1.20"}}


@pytest.fixture(autouse=True)
def rates() -> Iterator[None]:
    """Pin the rates, and forget them."""
    context.set_rates(load_rates(RATES))
    yield
    context.set_rates(None)


JPY, KWD = {"amount": 500, "currency": "jpy"}, {"amount": 5120, "currency": "kwd"}
V2 = {"amount": {"value": 500, "currency": "jpy"}}
YEN = {"id": "pi_1", "status": "succeeded", "amount_received": 500, "amount_capturable": 0, **JPY}
PAID = Case("payment_intents.create", "POST /v1/payment_intents", {**JPY, "confirm": True}, YEN, quoted=500, spent=500)
OPEN = replace(
    PAID, form=JPY, answer={**YEN, "status": "requires_capture", "amount_received": 0, "amount_capturable": 500}, spent=0, held=500
)
ITEM = {"price_data": {"currency": "kwd", "product": "prod_1", "unit_amount": 1000}, "quantity": 2}
FEE = {"id": "fee_1", "object": "application_fee", "amount": 900, "amount_refunded": 300, "currency": "kwd"}

IN_OTHERS = [
    Case("transfers.create", "POST /v1/transfers", {**KWD, "destination": "acct_1"}, {"id": "tr_1", **KWD}, quoted=2560, spent=2560),
    Case("payouts.create", "POST /v1/payouts", JPY, {"id": "po_1", "status": "paid", **JPY}, quoted=500, spent=500),
    Case("application_fees.refunds.create", "POST /v1/application_fees/fee_1/refunds", {"amount": 250},
         {"id": "fr_1", "amount": 250, "currency": "kwd"}, quoted=125, spent=125, reads={"/v1/application_fees/fee_1": FEE},
         note="that names no currency"),
    Case("customers.balance_transactions.create", "POST /v1/customers/cus_1/balance_transactions", {"amount": -500, "currency": "jpy"},
         {"id": "cbtxn_1", "amount": -500, "currency": "jpy", "type": "adjustment"}, quoted=500, spent=500),
    Case("billing.credit_grants.create", "POST /v1/billing/credit_grants", {"amount": {"monetary": {"value": 500, "currency": "jpy"}}},
         {"id": "credgr_1", "amount": {"monetary": {"value": 500, "currency": "jpy"}, "type": "monetary"}}, quoted=500, spent=500),
    PAID, OPEN,
    Case("payment_intents.capture", "POST /v1/payment_intents/pi_1/capture", {"amount_to_capture": 300}, {**YEN, "amount_received": 300},
         quoted=500, spent=300, before=(OPEN,), note="that names no currency"),
    Case("payment_intents.increment_authorization", "POST /v1/payment_intents/pi_1/increment_authorization", {"amount": 700},
         {**YEN, "status": "requires_capture", "amount": 700, "amount_received": 0, "amount_capturable": 700}, quoted=700, held=700,
         before=(OPEN,), note="that names no currency"),
    Case("refunds.create", "POST /v1/refunds", {"payment_intent": "pi_1", "amount": 200},
         {"id": "re_1", "status": "pending", "currency": "jpy", "amount": 200}, quoted=200, spent=500, refunded=200, before=(PAID,),
         note="that names no currency"),
    Case("invoiceitems.create", "POST /v1/invoiceitems", {"invoice": "in_1", "amount": 500}, {"id": "ii_1", "customer": "cus_1", **JPY},
         quoted=700, held=700, reads={IN_1: unpaid(200, "draft", currency="jpy")}, note="that names no currency"),
    Case("invoices.pay", f"POST {IN_1}/pay", {}, invoice(currency="kwd"), quoted=1000, spent=1000,
         reads={IN_1: unpaid(2000, currency="kwd")}),
    Case("subscriptions.create", f"POST {SUBS}", {"customer": "cus_1", "items": [{"price": "price_1"}]}, subscription(currency="jpy"),
         quoted=1000, held=1000, recurring=True, reads={"/v1/prices/price_1": priced(currency="jpy"), **NOBODY}),
    Case("subscription_items.update", "POST /v1/subscription_items/si_1", {"quantity": 3}, item(), quoted=1500, held=1500, recurring=True,
         reads={"/v1/subscription_items/si_1": item(price=priced(currency="kwd"))}),
    Case("checkout.sessions.create", "POST /v1/checkout/sessions", {"line_items": [ITEM]}, {"id": "cs_1", "amount_total": 2000,
         "currency": "kwd", "status": "open", "payment_status": "unpaid", "mode": "payment"}, quoted=1000, held=1000),
    Case("v2.money_management.outbound_payments.create", "POST /v2/money_management/outbound_payments", V2,
         {"id": "obp_1", "object": "v2.money_management.outbound_payment", "status": "posted", **V2}, quoted=500, spent=500),
]  # fmt: skip


@pytest.mark.parametrize("case", IN_OTHERS, ids=str)
def test_quote_and_settle(case: Case) -> None:
    """Counted in dollars by the pinned rate, whatever its smallest unit is; without a currency it is the object's own."""
    prove(case)


@pytest.mark.parametrize("case", [case for case in IN_OTHERS if not case.before and not case.reads], ids=str)
def test_without_a_rate_it_is_refused(case: Case) -> None:
    """And says how to pin one."""
    context.set_rates(None)
    with pytest.raises(UnpricedCall, match="no exchange rate is pinned"):
        Till().run(case)


def test_a_price_in_another_currency_than_the_request_has_no_bound() -> None:
    """Stripe charges the price's amount for that currency, which is another number."""
    case = Case("x", f"POST {SUBS}", {"customer": "cus_1", "currency": "eur", "items": [{"price": "price_1"}]}, {},
                reads={"/v1/prices/price_1": priced(), **NOBODY})  # fmt: skip
    with pytest.raises(UnpricedCall, match="another amount"):
        Till().run(case)


@pytest.mark.parametrize("name", ["transfers.create", "payouts.create", "invoices.pay", "charges.create"])
def test_an_answer_in_a_currency_without_a_rate_is_doubt(name: str) -> None:
    """Nobody can say what it cost in dollars."""
    case: Any = next(case for case in CASES if case.name == name)
    world = Till()
    world.run(replace(case, answer={**case.answer, "currency": "gbp"}))

    assert world.whole == (0, 0, case.quoted * 10_000, 0)
