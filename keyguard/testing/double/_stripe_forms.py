"""How Stripe reads a form and words its answers: parameters, refusals, the objects' fields. Decides no money, keeps nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from keyguard.testing.double.messages import Answer, answered

if TYPE_CHECKING:
    from collections.abc import Mapping

# Minor units of a currency's unit, and the least charge (reference: Stripe, "Minimum and maximum charge amounts").
CURRENCIES = {"usd": (100, 50), "eur": (100, 50), "gbp": (100, 30), "jpy": (1, 50)}
# "a value up to eight digits" (PaymentIntent `amount`, OpenAPI 2026-05-27).
_LARGEST = 99_999_999
_BRACKETED = re.compile(r"metadata\[([^\]]+)\]")
# Stripe's test payment methods and tokens that are declined, by the end of their name → code, decline code.
_DECLINES = {
    "chargeDeclined": ("card_declined", "generic_decline"),
    "chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "chargeDeclinedLostCard": ("card_declined", "lost_card"),
    "chargeDeclinedStolenCard": ("card_declined", "stolen_card"),
    "chargeDeclinedExpiredCard": ("expired_card", "expired_card"),
}
DECLINED = _DECLINES["chargeDeclined"]


class Refused(Exception):
    """Stripe refuses; `answer` says how."""

    def __init__(self, status: int, message: str, **error: Any) -> None:
        super().__init__(message)
        body = {"type": "invalid_request_error", "message": message, **error}
        self.answer: Answer = answered(status, {"error": {name: value for name, value in body.items() if value is not None}})


def missing(kind: str, object_id: str) -> Refused:
    """Say that there is no such object."""
    return Refused(404, f"No such {kind}: '{object_id}'", code="resource_missing", param=kind)


def no_method() -> Refused:
    """Say that there is nothing to confirm with."""
    return Refused(400, "You cannot confirm this PaymentIntent because it's missing a payment method. Provide a `payment_method`.",
                   code="payment_intent_unexpected_state")  # fmt: skip


def unexpected(what: str, intent: dict[str, Any]) -> Refused:
    """Say that a PaymentIntent is in no state for this."""
    return Refused(400, f"You cannot {what} this PaymentIntent because it has a status of {intent['status']}.",
                   code="payment_intent_unexpected_state", payment_intent=intent)  # fmt: skip


def micros(amount: int, currency: str) -> int:
    """Turn an amount in a currency's minor units into millionths of its unit."""
    return amount * (1_000_000 // CURRENCIES[currency][0])


def decline(source: str) -> tuple[str, str] | None:
    """Return code and decline code of a payment method or token that is always declined."""
    return _DECLINES.get(source.rpartition("_")[2])


class Form:
    """The parameters of one request; each reader raises `Refused` for what Stripe would not begin with."""

    def __init__(self, params: Mapping[str, str]) -> None:
        self.params = params

    def text(self, name: str) -> str | None:
        """Return a parameter; None if it is absent or empty, which is how a form says null."""
        return self.params.get(name) or None

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean."""
        value = self.params.get(name, "true" if default else "false")
        if value not in {"true", "false"}:
            raise Refused(400, f"Invalid boolean: {value}", param=name)
        return value == "true"

    def choice(self, name: str, *choices: str) -> str:
        """Return one of some words, the first where it is absent."""
        value = self.text(name) or choices[0]
        if value not in choices:
            raise Refused(400, f"Invalid {name}: must be one of {', '.join(choices)}", param=name)
        return value

    def integer(self, name: str) -> int | None:
        """Return a positive integer of digits alone, in minor units where it is an amount."""
        value = self.params.get(name)
        if value is None:
            return None
        if not re.fullmatch(r"[0-9]+", value):
            raise Refused(400, f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
        if int(value) < 1:
            raise Refused(400, "Invalid positive integer", code="parameter_invalid_integer", param=name)
        if int(value) > _LARGEST:
            raise Refused(400, "Amount must be no more than $999,999.99", code="amount_too_large", param=name)
        return int(value)

    def timestamp(self, name: str) -> int | None:
        """Return seconds since the epoch."""
        value = self.text(name)
        if value is not None and not re.fullmatch(r"[0-9]{1,12}", value):
            raise Refused(400, f"Invalid timestamp: {value}", param=name)
        return None if value is None else int(value)

    def money(self) -> tuple[int, str]:
        """Return amount and currency of something new."""
        amount, currency = self.integer("amount"), (self.text("currency") or "").lower()
        if amount is None:
            raise Refused(400, "Missing required param: amount.", code="parameter_missing", param="amount")
        if not currency:
            raise Refused(400, "Missing required param: currency.", code="parameter_missing", param="currency")
        if currency not in CURRENCIES:
            known = ", ".join(CURRENCIES)
            raise Refused(400, f"Invalid currency: {currency}. Stripe currently supports these currencies: {known}", param="currency")
        least = CURRENCIES[currency][1]
        if amount < least:
            raise Refused(400, f"Amount must be at least {least} {currency}", code="amount_too_small", param="amount")
        return amount, currency

    def metadata(self) -> dict[str, str]:
        """Return `metadata[…]`."""
        named = ((_BRACKETED.fullmatch(name), value) for name, value in self.params.items())
        return {name[1]: value for name, value in named if name and value}


def intent(intent_id: str, form: Form, amount: int, currency: str, now: float) -> dict[str, Any]:
    """Return a new PaymentIntent."""
    method = form.text("payment_method")
    return {
        "id": intent_id, "object": "payment_intent", "amount": amount, "amount_capturable": 0, "amount_received": 0,
        "canceled_at": None, "cancellation_reason": None, "capture_method": form.choice("capture_method", "automatic", "automatic_async",
        "manual"), "client_secret": f"{intent_id}_secret_double", "confirmation_method": "automatic", "created": int(now),
        "currency": currency, "customer": form.text("customer"), "description": form.text("description"), "last_payment_error": None,
        "latest_charge": None, "livemode": False, "metadata": form.metadata(), "next_action": None, "payment_method": method,
        "payment_method_types": ["card"], "receipt_email": form.text("receipt_email"),
        "status": "requires_confirmation" if method else "requires_payment_method",
    }  # fmt: skip


def charge(charge_id: str, form: Form, amount: int, currency: str, now: float) -> dict[str, Any]:
    """Return a new charge, which nobody has paid yet."""
    return {
        "id": charge_id, "object": "charge", "amount": amount, "amount_captured": 0, "amount_refunded": 0, "balance_transaction": None,
        "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None}, "captured": False,
        "created": int(now), "currency": currency, "customer": form.text("customer"), "description": form.text("description"),
        "disputed": False, "failure_code": None, "failure_message": None, "livemode": False, "metadata": form.metadata(),
        "outcome": {"type": "authorized", "network_status": "approved_by_network", "risk_level": "normal"}, "paid": True,
        "payment_intent": None, "payment_method": form.text("payment_method") or form.text("source"),
        "receipt_email": form.text("receipt_email"), "refunded": False, "status": "succeeded",
    }  # fmt: skip


def refund(refund_id: str, form: Form, amount: int, paid: dict[str, Any], now: float) -> dict[str, Any]:
    """Return a new refund of a charge."""
    return {
        "id": refund_id, "object": "refund", "amount": amount, "balance_transaction": None, "charge": paid["id"], "created": int(now),
        "currency": paid["currency"], "metadata": form.metadata(), "payment_intent": paid["payment_intent"],
        "reason": form.text("reason"), "receipt_number": None, "source_transfer_reversal": None, "status": "succeeded",
        "transfer_reversal": None,
    }  # fmt: skip


def customer(customer_id: str, form: Form, now: float) -> dict[str, Any]:
    """Return a new customer."""
    return {
        "id": customer_id, "object": "customer", "address": None, "balance": 0, "created": int(now), "currency": None,
        "default_source": form.text("source"), "delinquent": False, "description": form.text("description"), "email": form.text("email"),
        "livemode": False, "metadata": form.metadata(), "name": form.text("name"), "phone": form.text("phone"), "shipping": None,
    }  # fmt: skip
