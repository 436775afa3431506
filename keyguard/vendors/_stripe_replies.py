"""What Stripe's replies say about money: facts of objects, endings of attempts. Part of the stripe plug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from keyguard.model import Fact, Outcome
from keyguard.vendors import _stripe_money as money

if TYPE_CHECKING:
    from keyguard.model import Call, Operation, Quote, Reply

# "Stripe 400/401/403/404/429 and declines": documented as not executed.
_NOT_EXECUTED = frozenset({400, 401, 402, 403, 404, 429})
_COUNTED_READS = ("/v1/payment_intents", "/v1/charges")
_LONGEST_LIST = 100


def read(call: Call, operation: Operation, quote: Quote, reply: Reply) -> Outcome:
    """Say how an attempt with this reply ended. Never raises: what cannot be read is doubt."""
    request_id = reply.headers.get("request-id")
    if not call.is_write:
        return Outcome("settled", facts=_facts_of_read(call, reply), request_id=request_id)
    if reply.status in _NOT_EXECUTED:
        return Outcome("released", request_id=request_id)
    if not 200 <= reply.status < 300:
        return Outcome("doubt", request_id=request_id)
    try:
        return _settled(operation, quote, money.parsed(reply.body), request_id)
    except (ValueError, RecursionError):
        return Outcome("doubt", request_id=request_id)


def _settled(operation: Operation, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if not money.is_priced(money.currency_of(body)):
        raise ValueError("answered in a currency that nobody priced")
    kind = str(body.get("object"))
    if operation.name == "refunds.create" and kind in {"refund", "charge"}:
        return _refunded(quote, body, kind, request_id)
    expected = "payment_intent" if operation.name.startswith("payment_intents.") else "charge"
    if kind != expected:
        raise ValueError(f"expected a {expected}")
    fact = intent_fact(body) if kind == "payment_intent" else charge_fact(body, is_final=True)
    if quote.object_id is not None and quote.object_id != fact.object_id:
        raise ValueError("the reply is about another object")
    return Outcome("settled", facts=(fact,), request_id=request_id)


def _refunded(quote: Quote, body: dict[str, Any], kind: str, request_id: str | None) -> Outcome:
    if kind == "refund" and body.get("status") in {"failed", "canceled"}:
        return Outcome("released", request_id=request_id)
    # The older path answers with the charge, whose totals do not tell this refund from earlier ones.
    cost = money.units(body, "amount") if kind == "refund" else quote.amount
    charge = body if kind == "charge" else body.get("payment_intent") or body.get("charge")
    return Outcome("settled", cost=cost, refund_of=quote.object_id or money.id_of(charge), request_id=request_id)


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


def _own_id(body: dict[str, Any]) -> str:
    found = money.id_of(body.get("id"))
    if found is None:
        raise ValueError("an object without an id")
    return found


def _facts_of_read(call: Call, reply: Reply) -> tuple[Fact, ...]:
    is_counted = any(call.path == path or call.path.startswith(f"{path}/") for path in _COUNTED_READS)
    if not is_counted or not 200 <= reply.status < 300:
        return ()
    try:
        body = money.parsed(reply.body)
    except (ValueError, RecursionError):
        return ()
    found = body.get("data") if body.get("object") in {"list", "search_result"} else [body]
    items = cast("list[object]", found)[:_LONGEST_LIST] if isinstance(found, list) else []
    return tuple(fact for item in items if isinstance(item, dict) and (fact := _fact(cast("dict[str, Any]", item))) is not None)


def _fact(item: dict[str, Any]) -> Fact | None:
    """Read one object of a read; what is in a currency without a rate, or unreadable, says nothing."""
    if not money.is_priced(money.currency_of(item)):
        return None
    try:
        if item.get("object") == "payment_intent":
            return intent_fact(item)
        if item.get("object") == "charge":
            return _read_charge(item)
    except ValueError:
        return None
    return None


def _read_charge(item: dict[str, Any]) -> Fact | None:
    is_of_intent = money.id_of(item.get("payment_intent")) is not None
    fact = charge_fact(item, is_final=not is_of_intent)
    # A failed or reversed charge of an intent does not end it: only the intent's own state frees its hold.
    return None if is_of_intent and not (fact.spent or fact.held) else fact
