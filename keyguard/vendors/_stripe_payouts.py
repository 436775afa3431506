"""Money that leaves the balance or is pulled into it: transfers, payouts, top-ups, treasury, credits. Part of the stripe plug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Fact, Outcome, Quote
from keyguard.vendors import _stripe_forms as forms
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors._stripe_objects import Flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Call, Operation
    from keyguard.vendors import Quoting


def _sent(call: Call, operation: Operation) -> Quote:
    """Read what the request itself says: an amount and its currency."""
    found = forms.fields(call, "amount", "currency")
    count, code = found.count("amount"), found.code()
    if count is None:
        raise UnpricedCall(
            f"{operation.name} without an 'amount' sends whatever is there, so its cost cannot be bounded; nothing was sent. "
            "Send the amount, in the smallest unit of the currency."
        )
    if code is None:
        raise MalformedCall("'currency' is required: a three-letter code such as 'usd'; nothing was sent")
    if count < 0:
        raise MalformedCall(f"'amount' must be a whole number in digits only, got {count}; nothing was sent")
    return Quote(money.micros(count, code))


def _whole(parameter: str, path: str, kind: str) -> Callable[[Call, Operation], Quoting]:
    """Return the quote of a request that names an object, whose whole amount it moves."""

    def quote(call: Call, _operation: Operation) -> Quoting:
        object_id = forms.fields(call, parameter).object_id(parameter)
        if object_id is None:
            raise MalformedCall(f"{parameter!r} is required: the id of what is to be reversed; nothing was sent")
        body = yield from objects.ask(f"{path}/{object_id}", kind, object_id)
        return Quote(objects.amount_in(body, "amount"))

    return quote


def _refund_fee(call: Call, operation: Operation) -> Quoting:
    found, object_id = forms.fields(call, "amount"), operation.object_id or ""
    count = found.count("amount")
    # The fee says in which currency the amount is.
    fee = yield from objects.ask(f"/v1/application_fees/{object_id}", "application_fee", object_id)
    if count is not None:
        return Quote(money.micros(max(0, count), money.currency_of(fee)))
    return Quote(max(0, objects.amount_in(fee, "amount") - objects.amount_in(fee, "amount_refunded", 0)))


def _fee_refunded(call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") == "application_fee":
        # The older path answers with the fee, whose totals do not tell this refund from earlier ones.
        return objects.flat(call, quote, body, request_id)
    return objects.made("fee_refund")(call, quote, body, request_id)


def _approve(call: Call, operation: Operation) -> Quoting:
    found, object_id = forms.fields(call, "amount"), operation.object_id or ""
    count = found.count("amount")
    asked = yield from objects.ask(f"/v1/issuing/authorizations/{object_id}", "issuing.authorization", object_id)
    before, pending = objects.amount_in(asked, "amount", 0), asked.get("pending_request")
    if count is not None:
        bound = money.micros(max(0, count), money.currency_of(asked))
    elif isinstance(pending, dict):
        # "The additional amount Stripe will hold if the authorization is approved".
        bound = objects.amount_in({"currency": asked.get("currency"), **pending, "id": object_id}, "amount")
    else:
        bound = before
    return Quote(bound, object_id=object_id, adopts=True, prior=before if isinstance(pending, dict) else 0)


def _approved(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "issuing.authorization" or objects.own_id(body) != quote.object_id:
        raise ValueError("expected the authorization")
    if body.get("approved") is False:
        return Outcome("released", request_id=request_id)
    total, code = money.units(body, "amount"), objects.priced_currency(body)
    # What was approved may not have reached the total yet.
    total = total if total > quote.prior else quote.prior + quote.amount
    fact = Fact(quote.object_id or "", total, 0, total, status=str(body.get("status")), currency=code)
    return Outcome("settled", facts=(fact,), request_id=request_id)


def _order_climate(call: Call, _operation: Operation) -> Quote:
    found = forms.fields(call, "amount", "currency", "metric_tons")
    count, code = found.count("amount"), found.code()
    if count is None or code is None:
        raise UnpricedCall(
            "an order by 'metric_tons', or without a 'currency', costs what its product costs today, which cannot be bounded; nothing was "
            "sent. Order by 'amount' and 'currency'."
        )
    return Quote(money.micros(max(0, count), code))


def _grant_credit(call: Call, _operation: Operation) -> Quote:
    found = forms.fields(call, "amount").below("amount")
    count, code = found.count("monetary[value]"), found.code(name="monetary[currency]")
    if count is None or code is None:
        raise UnpricedCall(
            "a credit grant without 'amount[monetary][value]' and '[currency]' cannot be bounded; nothing was sent. Send both."
        )
    return Quote(money.micros(max(0, count), code))


def _granted(_call: Call, _quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    amount = body.get("amount")
    monetary = amount.get("monetary") if isinstance(amount, dict) else None
    if body.get("object") != "billing.credit_grant" or not isinstance(monetary, dict):
        raise ValueError("expected a credit grant")
    cost, code = money.units(monetary, "value"), objects.priced_currency(monetary)
    return Outcome("settled", facts=(Fact(objects.own_id(body), cost, 0, cost, currency=code),), request_id=request_id)


def _credit_customer(call: Call, _operation: Operation) -> Quote:
    # "A negative amount is a credit": what the customer need not pay later.
    found = forms.fields(call, "amount", "currency")
    count, code = found.count("amount"), found.code()
    if count is None or code is None:
        raise MalformedCall("'amount' and 'currency' are required: a whole number in the currency's smallest unit; nothing was sent")
    return Quote(money.micros(max(0, -count), code))


def _credited(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "customer_balance_transaction":
        raise ValueError("expected a balance transaction")
    # Its own amount has a sign, and says the same.
    fact = Fact(objects.own_id(body), quote.amount, 0, quote.amount, currency=objects.priced_currency(body))
    return Outcome("settled", facts=(fact,), source="local", request_id=request_id)


def _customer(call: Call, _operation: Operation) -> Quote:
    """Let a customer be made or changed; a balance in their favour is money, and older API versions subscribe them on the way."""
    found = forms.fields(call, "balance", "account_balance", "plan")
    if "plan" in found:
        return objects.unbounded("subscribes the customer to a plan, whose price is not in the request", recurring=True)
    if min(found.count(name) or 0 for name in ("balance", "account_balance")) < 0:
        return objects.unbounded(
            "gives the customer a credit in a currency that the request does not name; POST /v1/customers/ID/balance_transactions does"
        )
    return Quote(0)


def _free_without(reason: str, *names: str) -> Flow:
    """Return the flow of a harmless change that stops being one with a parameter of these names."""

    def quote(call: Call, _operation: Operation) -> Quote:
        found = forms.fields(call, *{name.partition("[")[0] for name in names})
        return objects.unbounded(reason, is_by_design=True) if any(name in found for name in names) else Quote(0)

    return Flow(quote, objects.flat)


_FAILED = ("failed", "canceled", "returned", "reversed")
_FORWARDS = _free_without("sends what the account receives, or all that is left in it, elsewhere", "forwarding_settings")
_PAYS_OUT = _free_without(
    "changes where and when the account's whole balance is paid out", "external_account", "bank_account", "settings[payouts]"
)
_SPENDS = _free_without("changes what a card may spend", "spending_controls")

FLOWS = {
    "transfers.create": Flow(_sent, objects.made("transfer")),
    "payouts.create": Flow(_sent, objects.made("payout", *_FAILED)),
    "topups.create": Flow(_sent, objects.made("topup", *_FAILED)),
    "treasury.outbound_payments.create": Flow(_sent, objects.made("treasury.outbound_payment", *_FAILED)),
    "treasury.outbound_transfers.create": Flow(_sent, objects.made("treasury.outbound_transfer", *_FAILED)),
    "treasury.inbound_transfers.create": Flow(_sent, objects.made("treasury.inbound_transfer", *_FAILED)),
    "treasury.credit_reversals.create": Flow(
        _whole("received_credit", "/v1/treasury/received_credits", "treasury.received_credit"),
        objects.made("treasury.credit_reversal", *_FAILED),
    ),
    "treasury.debit_reversals.create": Flow(
        _whole("received_debit", "/v1/treasury/received_debits", "treasury.received_debit"),
        objects.made("treasury.debit_reversal", *_FAILED),
    ),
    "treasury.financial_accounts.update": _FORWARDS,
    "treasury.financial_accounts.close": _FORWARDS,
    "application_fees.refund": Flow(_refund_fee, _fee_refunded),
    "application_fees.refunds.create": Flow(_refund_fee, _fee_refunded),
    "issuing.authorizations.approve": Flow(_approve, _approved),
    "issuing.cards.update": _SPENDS,
    "issuing.cardholders.update": _SPENDS,
    "accounts.create": _PAYS_OUT,
    "accounts.update": _PAYS_OUT,
    "climate.orders.create": Flow(_order_climate, objects.made("climate.order", *_FAILED, amount="amount_total")),
    "billing.credit_grants.create": Flow(_grant_credit, _granted),
    "customers.balance_transactions.create": Flow(_credit_customer, _credited),
    "customers.create": Flow(_customer, objects.flat),
    "customers.update": Flow(_customer, objects.flat),
}
