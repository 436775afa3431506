"""What Stripe's replies say about money: facts of payments, and of whatever a read shows. Part of the stripe plug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from keyguard.model import Fact
from keyguard.vendors import _stripe_money as money

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Call, Money, Reply

_COUNTED_READS = (
    "/v1/payment_intents",
    "/v1/charges",
    "/v1/invoices",
    "/v1/checkout/sessions",
    "/v1/subscriptions",
    "/v2/money_management",
)
_LONGEST_LIST = 100
_DECLINED = 402
_SENT, _RETURNED = frozenset({"posted", "processing"}), frozenset({"failed", "canceled", "returned"})
_CLOSED_INVOICES = frozenset({"paid", "void", "uncollectible", "deleted"})


def is_final(call: Call, reply: Reply) -> bool:
    """
    Say whether a refusal, or an error, is what Stripe answers to this Idempotency-Key from now on.

    No other request of a key that was refused was executed then.

    "The result of the first request made for any given idempotency key, regardless of whether it succeeds or fails" is saved once its
    execution began, and a declined payment's did (docs.stripe.com/api/idempotent_requests, November 2026). Of v2, a retry after a failure
    is executed again.
    """
    is_kept = reply.status == _DECLINED or reply.headers.get("idempotent-replayed") == "true"
    return is_kept and call.path.startswith("/v1/") and bool(call.idempotency_key)


def intent_fact(body: dict[str, Any]) -> Fact:
    """
    Read a PaymentIntent's totals.

    Raises:
        ValueError: its id or an amount cannot be read.
    """
    status, amount = str(body.get("status")), money.units(body, "amount")
    spent = money.units(body, "amount_received", amount if status == "succeeded" else 0)
    rest = max(0, amount - spent)
    if status in {"canceled", "succeeded"}:
        held = 0
    elif status == "requires_capture":
        held = money.units(body, "amount_capturable", rest)
    else:
        # Its client_secret can be confirmed elsewhere, so every other status may still cost the rest.
        held = rest
    charge = money.id_of(body.get("latest_charge"))
    return Fact(_own_id(body), spent, held, amount, status=status, aliases=(charge,) if charge else (), currency=money.currency_of(body))


def charge_fact(body: dict[str, Any], *, is_final: bool) -> Fact:
    """
    Read a charge's totals; `is_final` = what was not captured now never will be.

    Raises:
        ValueError: its id or an amount cannot be read.
    """
    status, amount = str(body.get("status")), money.units(body, "amount")
    refunded = money.units(body, "amount_refunded", 0)
    spent = held = 0
    if status == "succeeded" and body.get("captured") is not False:
        spent = money.units(body, "amount_captured", amount)
        held = 0 if is_final else max(0, amount - spent)
    elif status != "failed" and not (body.get("refunded") is True or refunded):
        held = amount
    intent = money.id_of(body.get("payment_intent"))
    return Fact(_own_id(body), spent, held, amount, refunded, status, aliases=(intent,) if intent else (), currency=money.currency_of(body))


def invoice_fact(body: dict[str, Any]) -> Fact:
    """
    Read an invoice's totals: from its draft on, what is left of it may be paid.

    Raises:
        ValueError: its id or an amount cannot be read.
    """
    status, amount = str(body.get("status")), money.units(body, "amount_due")
    # What the customer paid elsewhere was never charged here.
    elsewhere = money.units(body, "amount_paid_off_stripe", 0)
    spent = 0 if body.get("paid_out_of_band") is True else max(0, money.units(body, "amount_paid", 0) - elsewhere)
    held = 0 if status in _CLOSED_INVOICES else money.units(body, "amount_remaining", max(0, amount - spent))
    found = (money.id_of(body.get(name)) for name in ("payment_intent", "charge"))
    aliases = tuple(name for name in found if name is not None)
    return Fact(_own_id(body), spent, held, amount, status=status, aliases=aliases, currency=_currency(body))


def session_fact(body: dict[str, Any], *, bound: Money = 0) -> Fact:
    """
    Read a Checkout session's total; `bound` = what was held for it, which its customer may still choose up to.

    Raises:
        ValueError: its id or its total cannot be read.
    """
    status, amount = str(body.get("status")), money.units(body, "amount_total", 0)
    is_paid = status == "complete" and str(body.get("payment_status")) in {"paid", "no_payment_required"}
    held = 0 if is_paid or status == "expired" else amount if status == "complete" else max(amount, bound)
    aliases = tuple(name for name in (money.id_of(body.get(key)) for key in ("payment_intent", "invoice")) if name is not None)
    code = _currency(body) if amount else "usd"
    return Fact(_own_id(body), amount if is_paid else 0, held, max(amount, held), status=status, aliases=aliases, currency=code)


def payment_fact(body: dict[str, Any]) -> Fact:
    """
    Read a payment of v2, or an intent to make one; a status nobody knows may still cost all of it.

    Raises:
        ValueError: its id or its amount cannot be read.
    """
    amount = body.get("amount")
    if not isinstance(amount, dict):
        raise ValueError("no amount")
    found = cast("dict[str, Any]", amount)
    total, code, status = money.units(found, "value"), _currency(found), str(body.get("status") or "")
    spent = total if status in _SENT else 0
    held = 0 if status in _SENT or status in _RETURNED else total
    names = (money.id_of(body.get(name)) for name in ("payout_intent", "latest_payout"))
    return Fact(_own_id(body), spent, held, total, status=status, aliases=tuple(name for name in names if name), currency=code)


def _currency(body: dict[str, Any]) -> str:
    code = money.currency_of(body)
    if not money.is_priced(code):
        raise ValueError("answered in a currency that nobody priced")
    return code


def _own_id(body: dict[str, Any]) -> str:
    found = money.id_of(body.get("id"))
    if found is None:
        raise ValueError("an object without an id")
    return found


def facts_of_read(call: Call, reply: Reply) -> tuple[Fact, ...]:
    """Return what a read shows of objects that cost money; what it cannot be read from says nothing."""
    is_counted = any(call.path == path or call.path.startswith(f"{path}/") for path in _COUNTED_READS)
    if not is_counted or not 200 <= reply.status < 300:
        return ()
    try:
        body = money.parsed(reply.body)
    except (ValueError, RecursionError):
        return ()
    # Of v2, a list is no object of its own.
    found = body.get("data") if str(body.get("object")) in {"list", "search_result", "None"} else [body]
    items = cast("list[object]", found)[:_LONGEST_LIST] if isinstance(found, list) else []
    return tuple(fact for item in items if isinstance(item, dict) and (fact := _fact(cast("dict[str, Any]", item))) is not None)


def _fact(item: dict[str, Any]) -> Fact | None:
    """Read one object of a read; what is in a currency without a rate, or unreadable, says nothing."""
    read = _READERS.get(str(item.get("object")))
    try:
        return None if read is None else read(item)
    except ValueError:
        return None


def _read_intent(item: dict[str, Any]) -> Fact:
    _currency(item)
    return intent_fact(item)


def _read_charge(item: dict[str, Any]) -> Fact | None:
    _currency(item)
    is_of_intent = money.id_of(item.get("payment_intent")) is not None
    fact = charge_fact(item, is_final=not is_of_intent)
    # A failed or reversed charge of an intent does not end it: only the intent's own state frees its hold.
    return None if is_of_intent and not (fact.spent or fact.held) else fact


def _read_subscription(item: dict[str, Any]) -> Fact | None:
    invoice = item.get("latest_invoice")
    return invoice_fact(cast("dict[str, Any]", invoice)) if isinstance(invoice, dict) else None


def _read_session(item: dict[str, Any]) -> Fact | None:
    # An open one says less than what is held for it.
    return session_fact(item) if item.get("status") != "open" else None


def _read_payment(item: dict[str, Any]) -> Fact | None:
    fact = payment_fact(item)
    # A try that failed says nothing about the next one of its intent.
    return None if item.get("payout_intent") and not fact.spent else fact


_READERS: dict[str, Callable[[dict[str, Any]], Fact | None]] = {
    "payment_intent": _read_intent,
    "charge": _read_charge,
    "invoice": invoice_fact,
    "subscription": _read_subscription,
    "checkout.session": _read_session,
    "v2.money_management.payout_intent": payment_fact,
    "v2.money_management.outbound_payment": _read_payment,
}
