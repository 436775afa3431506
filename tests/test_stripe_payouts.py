"""Money that leaves Stripe's balance or is pulled into it: transfers, payouts, top-ups, treasury, fees, credits, orders."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Reply
from tests.support_guard import CENT
from tests.support_stripe_money import Case, Till, begun, prove
from tests.support_stripe_spec import statuses

if TYPE_CHECKING:
    from collections.abc import Mapping

USD = {"amount": 500, "currency": "usd"}
ACCOUNT = {"financial_account": "fa_1"}
FEE = {"id": "fee_1", "object": "application_fee", "amount": 900, "amount_refunded": 300, "currency": "usd"}
CREDIT = {"id": "rc_1", "amount": 700, "currency": "usd", "status": "succeeded", "network": "ach"}
DEBIT = {"id": "rd_1", "amount": 600, "currency": "usd", "status": "succeeded", "network": "ach"}
PENDING = {"amount": 800, "currency": "usd", "is_amount_controllable": True, "merchant_amount": 800, "merchant_currency": "usd"}
ASKED = {"id": "iauth_1", "object": "issuing.authorization", "amount": 0, "currency": "usd", "status": "pending", "approved": False}
GRANT = {"monetary": {"value": 500, "currency": "usd"}, "type": "monetary"}


def sent(name: str, path: str, answer: Mapping[str, Any], **form: Any) -> Case:
    """Return a case of a request that says its amount, all of which leaves at once."""
    return Case(name, f"POST {path}", {**USD, **form}, {"id": "x_1", **USD, **answer}, quoted=500, spent=500)


CASES = [
    sent("transfers.create", "/v1/transfers", {}, destination="acct_1"),
    sent("payouts.create", "/v1/payouts", {"status": "in_transit"}, method="instant"),
    sent("topups.create", "/v1/topups", {"status": "pending"}),
    sent("treasury.outbound_payments.create", "/v1/treasury/outbound_payments", {"status": "processing"}, **ACCOUNT),
    sent("treasury.outbound_transfers.create", "/v1/treasury/outbound_transfers", {"status": "posted"}, **ACCOUNT),
    sent("treasury.inbound_transfers.create", "/v1/treasury/inbound_transfers", {"status": "succeeded"}, **ACCOUNT),
    Case("treasury.credit_reversals.create", "POST /v1/treasury/credit_reversals", {"received_credit": "rc_1"},
         {"id": "credrev_1", "amount": 700, "currency": "usd", "status": "posted"}, quoted=700, spent=700,
         reads={"/v1/treasury/received_credits/rc_1": CREDIT}),
    Case("treasury.debit_reversals.create", "POST /v1/treasury/debit_reversals", {"received_debit": "rd_1"},
         {"id": "debrev_1", "amount": 600, "currency": "usd", "status": "processing"}, quoted=600, spent=600,
         reads={"/v1/treasury/received_debits/rd_1": DEBIT}),
    Case("treasury.financial_accounts.update", "POST /v1/treasury/financial_accounts/fa_1", {"metadata": {"a": "b"}}, {"id": "fa_1"}),
    Case("treasury.financial_accounts.close", "POST /v1/treasury/financial_accounts/fa_1/close", {}, {"id": "fa_1"}),
    Case("application_fees.refunds.create", "POST /v1/application_fees/fee_1/refunds", {}, {"id": "fr_1", "amount": 600, "currency": "usd"},
         quoted=600, spent=600, reads={"/v1/application_fees/fee_1": FEE}, note="of the rest"),
    Case("application_fees.refunds.create", "POST /v1/application_fees/fee_1/refunds", {"amount": 250},
         {"id": "fr_1", "amount": 250, "currency": "usd"}, quoted=250, spent=250, reads={"/v1/application_fees/fee_1": FEE}),
    Case("application_fees.refund", "POST /v1/application_fees/fee_1/refund", {"amount": 250}, {**FEE, "amount_refunded": 550},
         quoted=250, spent=250, reads={"/v1/application_fees/fee_1": FEE}),
    Case("issuing.authorizations.approve", "POST /v1/issuing/authorizations/iauth_1/approve", {},
         {**ASKED, "amount": 800, "approved": True}, quoted=800, spent=800,
         reads={"/v1/issuing/authorizations/iauth_1": {**ASKED, "pending_request": PENDING}}),
    Case("issuing.authorizations.approve", "POST /v1/issuing/authorizations/iauth_1/approve", {"amount": 300},
         {**ASKED, "amount": 300, "approved": True}, quoted=300, spent=300,
         reads={"/v1/issuing/authorizations/iauth_1": {**ASKED, "pending_request": PENDING}}, note="in part"),
    Case("issuing.authorizations.approve", "POST /v1/issuing/authorizations/iauth_1/approve", {},
         {**ASKED, "amount": 1500, "approved": True}, quoted=800, spent=800,
         reads={"/v1/issuing/authorizations/iauth_1": {**ASKED, "amount": 700, "pending_request": PENDING}}, note="of more"),
    Case("issuing.authorizations.approve", "POST /v1/issuing/authorizations/iauth_1/approve", {},
         {**ASKED, "amount": 700, "approved": True}, quoted=800, spent=800,
         reads={"/v1/issuing/authorizations/iauth_1": {**ASKED, "amount": 700, "pending_request": PENDING}}, note="not in the total yet"),
    Case("issuing.authorizations.approve", "POST /v1/issuing/authorizations/iauth_1/approve", {}, ASKED, quoted=800,
         reads={"/v1/issuing/authorizations/iauth_1": {**ASKED, "pending_request": PENDING}}, note="declined by another rule"),
    Case("issuing.cards.update", "POST /v1/issuing/cards/ic_1", {"status": "inactive"}, {"id": "ic_1"}),
    Case("issuing.cardholders.update", "POST /v1/issuing/cardholders/ich_1", {"email": "a@example.com"}, {"id": "ich_1"}),
    Case("accounts.create", "POST /v1/accounts", {"type": "express", "settings": {"branding": {"icon": "f_1"}}},
         {"id": "acct_2"}),
    Case("accounts.update", "POST /v1/accounts/acct_2", {"email": "a@example.com"}, {"id": "acct_2"}),
    Case("climate.orders.create", "POST /v1/climate/orders", {**USD, "product": "climsku_1"},
         {"id": "climorder_1", "currency": "usd", "amount_total": 480, "amount_subtotal": 450, "amount_fees": 30, "status": "open"},
         quoted=500, spent=480),
    Case("billing.credit_grants.create", "POST /v1/billing/credit_grants", {"amount": GRANT, "category": "paid"},
         {"id": "credgr_1", "amount": GRANT}, quoted=500, spent=500),
    Case("customers.balance_transactions.create", "POST /v1/customers/cus_1/balance_transactions", {"amount": -500, "currency": "usd"},
         {"id": "cbtxn_1", "amount": -500, "currency": "usd", "type": "adjustment"}, quoted=500, spent=500, note="credit"),
    Case("customers.balance_transactions.create", "POST /v1/customers/cus_1/balance_transactions", USD,
         {"id": "cbtxn_1", "amount": 500, "currency": "usd", "type": "adjustment"}, note="debit"),
    Case("customers.create", "POST /v1/customers", {"email": "a@example.com"}, {"id": "cus_1"}),
    Case("customers.update", "POST /v1/customers/cus_1", {"balance": 500}, {"id": "cus_1"}, note="debit"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quote_and_settle(case: Case) -> None:
    """Held before the send, fixed by the answer, freed by a refusal, kept when nobody knows."""
    prove(case)


DEAD = {
    "payouts.create": {"failed", "canceled"}, "topups.create": {"failed", "canceled", "reversed"},
    "treasury.outbound_payments.create": {"failed", "canceled", "returned"},
    "treasury.outbound_transfers.create": {"failed", "canceled", "returned"}, "treasury.inbound_transfers.create": {"failed", "canceled"},
    "treasury.credit_reversals.create": {"canceled"}, "treasury.debit_reversals.create": {"failed"}, "climate.orders.create": {"canceled"},
}  # fmt: skip
KINDS = {
    "payouts.create": {"paid", "pending", "in_transit", "canceled", "failed"}, "topups.create": statuses("topup"),
    "treasury.outbound_payments.create": statuses("treasury.outbound_payment"),
    "treasury.outbound_transfers.create": statuses("treasury.outbound_transfer"),
    "treasury.inbound_transfers.create": statuses("treasury.inbound_transfer"),
    "treasury.credit_reversals.create": statuses("treasury.credit_reversal"),
    "treasury.debit_reversals.create": statuses("treasury.debit_reversal"), "climate.orders.create": statuses("climate.order"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "status"), [(name, status) for name in sorted(KINDS) for status in sorted(KINDS[name])])
def test_every_status_is_spent_or_released(name: str, status: str) -> None:
    """What failed, was canceled or came back at once costs nothing; everything else has left, or will."""
    case = next(case for case in CASES if case.name == name)
    assert isinstance(case.answer, dict)
    world = begun(case)
    world.run(replace(case, answer={**case.answer, "status": status}))

    assert world.whole == ((0 if status in DEAD[name] else case.spent * CENT), 0, 0, 0)


SENT = ["/v1/transfers", "/v1/payouts", "/v1/topups", "/v1/treasury/outbound_payments", "/v1/treasury/outbound_transfers",
        "/v1/treasury/inbound_transfers"]  # fmt: skip


@pytest.mark.parametrize("path", SENT)
@pytest.mark.parametrize(
    ("form", "kind", "message"),
    [
        ({"currency": "usd"}, UnpricedCall, "sends whatever is there"),
        ({"amount": 5}, MalformedCall, "'currency' is required"),
        ({"amount": -5, "currency": "usd"}, MalformedCall, "in digits only, got -5"),
        ({"amount": "1.5", "currency": "usd"}, MalformedCall, "a whole number"),
        ({"amount": "1234567890123", "currency": "usd"}, MalformedCall, "a whole number"),
        ({"amount": {"value": 5}, "currency": "usd"}, MalformedCall, "must be one value"),
        ({"amount": 5, "currency": "xxx"}, MalformedCall, "is unknown"),
        ({"amount": 5, "currency": "jpy"}, UnpricedCall, "no exchange rate is pinned for 'jpy'"),
    ],
)  # fmt: skip
def test_what_cannot_be_bounded_is_refused(path: str, form: dict[str, Any], kind: type[Exception], message: str) -> None:
    """An amount that is missing, negative, no whole number or in an unknown currency sends nothing and counts nothing."""
    world = Till()
    with pytest.raises(kind, match=message):
        world.run(Case("x", f"POST {path}", form, {}))

    assert (world.sent, world.whole) == (0, (0, 0, 0, 0))


def refused(request: str, form: dict[str, Any], message: str, **reads: Any) -> Case:
    """Return a case that must be refused."""
    return Case(message, request, form, {}, reads=reads.get("reads", {}))


REFUSED = [
    refused("POST /v1/treasury/credit_reversals", {}, "'received_credit' is required"),
    refused("POST /v1/treasury/credit_reversals", {"received_credit": "a/b"}, "the id of an object"),
    refused("POST /v1/treasury/debit_reversals", {"received_debit": "rd_1"}, "depends on rd_1",
            reads={"/v1/treasury/received_debits/rd_1": 404}),
    refused("POST /v1/application_fees/fee_1/refund", {}, "depends on fee_1", reads={"/v1/application_fees/fee_1": 403}),
    refused("POST /v1/application_fees/fee_1/refund", {}, "no exchange rate is pinned for 'eur'",
            reads={"/v1/application_fees/fee_1": {**FEE, "currency": "eur"}}),
    refused("POST /v1/issuing/authorizations/iauth_1/approve", {}, "depends on iauth_1",
            reads={"/v1/issuing/authorizations/iauth_1": 404}),
    refused("POST /v1/climate/orders", {"metric_tons": "0.5", "currency": "usd"}, "Order by 'amount' and 'currency'"),
    refused("POST /v1/climate/orders", {"amount": 5}, "Order by 'amount' and 'currency'"),
    refused("POST /v1/billing/credit_grants", {"amount": {"type": "monetary"}}, "Send both"),
    refused("POST /v1/customers/cus_1/balance_transactions", {"amount": -5}, "'amount' and 'currency' are required"),
    refused("POST /v1/customers", {"balance": -500}, "in a currency that the request does not name"),
    refused("POST /v1/customers/cus_1", {"account_balance": -500}, "in a currency that the request does not name"),
    refused("POST /v1/customers", {"plan": "gold"}, "subscribes the customer to a plan"),
    refused("POST /v1/accounts", {"external_account": "btok_1"}, "no cap can express"),
    refused("POST /v1/accounts/acct_1", {"settings": {"payouts": {"schedule": {"interval": "daily"}}}}, "no cap can express"),
    refused("POST /v1/accounts/acct_1", {"bank_account": {"country": "US"}}, "no cap can express"),
    refused("POST /v1/issuing/cards/ic_1", {"spending_controls": {"spending_limits": [{"amount": 1}]}}, "no cap can express"),
    refused("POST /v1/issuing/cardholders/ich_1", {"spending_controls": {"a": "b"}}, "no cap can express"),
    refused("POST /v1/treasury/financial_accounts/fa_1", {"forwarding_settings": {"type": "payment_method"}}, "no cap can express"),
    refused("POST /v1/treasury/financial_accounts/fa_1/close", {"forwarding_settings": {"type": "x"}}, "no cap can express"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.request}-{case.name}".replace(" ", "-"))
def test_a_refusal_says_what_is_missing(case: Case) -> None:
    """Nothing is sent, nothing is counted, and the message names what would help."""
    world = Till()
    with pytest.raises((MalformedCall, UnpricedCall), match=case.name):
        world.run(case)

    assert (world.sent, world.whole) == (0, (0, 0, 0, 0))


@pytest.mark.parametrize(
    "answer", [{"object": "payout"}, {"object": "transfer"}, {"id": "", **USD}, {"id": "x", "amount": 5, "currency": "eur"}]
)
def test_an_answer_of_another_kind_is_doubt(answer: dict[str, Any]) -> None:
    """No other object, and none without an id or in another currency, says what a transfer cost."""
    world = Till()
    world.run(CASES[0], Reply(200, {}, json.dumps({"object": "transfer", **answer}).encode()))

    assert world.whole == (0, 0, 500 * CENT, 0)


def test_a_second_approval_counts_what_it_adds() -> None:
    """The total of an authorization is counted once, however often it grows."""
    first, _, more, *_ = [case for case in CASES if case.name == "issuing.authorizations.approve"]
    second = replace(
        more, before=(first,), spent=800 + 800,
        reads={"/v1/issuing/authorizations/iauth_1": {**ASKED, "amount": 800, "pending_request": PENDING}},
        answer={**ASKED, "amount": 1600, "approved": True},
    )  # fmt: skip
    prove(second)
