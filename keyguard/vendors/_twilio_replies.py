"""What Twilio's replies say: how attempts ended, which objects were made, and prices once they are known. Part of the twilio plug.

A reply to a create has no price yet ("price … may be null until the message is sent"), so what was accepted is settled at its
estimate. A price that a later read shows is the truth about the object; above the estimate it is booked. Below it only reconciling
corrects it, and only of what was marked as an estimate: a price may lack parts that are charged apart (recording, machine detection).
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, cast

from keyguard.errors import KeyguardError
from keyguard.model import Fact, Outcome, to_money
from keyguard.vendors import _twilio_calls as calls
from keyguard.vendors import _twilio_fields as fields
from keyguard.vendors import _twilio_messages as messages
from keyguard.vendors import _twilio_paths as paths

if TYPE_CHECKING:
    from keyguard.model import Call, Money, Operation, Quote, Reply

# Of 4xx these say nothing about what was done: a gateway's patience ended, or the client's.
_TIMED_OUT = frozenset({408, 499})
_DOUBT = Outcome("doubt", source="local")
_LONGEST_LIST = 100
_LISTS = {"messages.list": "messages", "calls.list": "calls"}
_READS = frozenset({"messages.fetch", "calls.fetch"})
_SEGMENTS = re.compile(r"[1-9][0-9]?", re.ASCII)
_STATUS = re.compile(r"[a-z_-]{1,30}", re.ASCII)
_KINDS = ("", "local.", "mobile.", "toll_free.")
# Whose ids are made anew for each request. Not Verify's: a second attempt within ten minutes answers with the first one's.
_MADE = frozenset({"calls.create", "conferences.participants.create"} | {f"incoming_phone_numbers.{kind}create" for kind in _KINDS})
_FINAL = frozenset({"sent", "delivered", "undelivered", "failed", "read", "completed", "busy", "no-answer", "partially_delivered"})


def read(call: Call, operation: Operation, quote: Quote, reply: Reply) -> Outcome:
    """Say how an attempt with this reply ended. Never raises: what cannot be read is doubt."""
    request_id = reply.headers.get("twilio-request-id")
    try:
        outcome = _read(call, operation, quote, reply)
    except (ValueError, RecursionError, KeyguardError):
        outcome = _DOUBT
    return outcome if request_id is None else replace(outcome, request_id=request_id)


def _read(call: Call, operation: Operation, quote: Quote, reply: Reply) -> Outcome:
    if not call.is_write and not quote.amount:
        return Outcome("settled", facts=_seen(operation, reply), source="local")
    if not 200 <= reply.status < 300:
        # "429 requests are never processed and always safe to retry" (errors/20429); a 4xx made nothing.
        return Outcome("released", source="local") if 400 <= reply.status < 500 and reply.status not in _TIMED_OUT else _DOUBT
    if not quote.amount:
        return _changed(call, operation)
    if "xml" in reply.headers.get("content-type", ""):
        # The older API's other form, for paths without `.json`: accepted, at the estimate.
        return Outcome("settled", cost=quote.amount, source="local")
    body = json.loads(reply.body or b"")
    if not isinstance(body, dict):
        raise ValueError("no object")
    return _made(call, operation, quote, cast("dict[str, Any]", body))


def _made(call: Call, operation: Operation, quote: Quote, body: dict[str, Any]) -> Outcome:
    """Settle what was accepted at its estimate, corrected by the segments that Twilio has counted."""
    if operation.name == "messages.create":
        return Outcome("settled", facts=(_message(call, quote, body),), source="local", is_estimate=messages.is_plain(call))
    if operation.name in _MADE:
        object_id = body.get("call_sid", body.get("sid"))
        fact = _fact(object_id, quote.amount, word(body.get("status")))
        return Outcome("settled", facts=(fact,), source="local", is_estimate=operation.name == "calls.create" and calls.is_plain(call))
    return Outcome("settled", cost=quote.amount, source="local")


def _message(call: Call, quote: Quote, body: dict[str, Any]) -> Fact:
    bill, cost, status = messages.bill_of(call), quote.amount, word(body.get("status"))
    counted = _SEGMENTS.fullmatch(str(body.get("num_segments")))
    # "0", through a Messaging Service or for later, says nothing; and a flat amount of the policy is no price of ours.
    if counted and bill.amount == cost:
        cost = bill.of_segments(int(counted[0]))
    if bill.is_scheduled and status == "scheduled":
        return Fact(_fact(body.get("sid"), cost, status).object_id, 0, cost, cost, status=status)
    return _fact(body.get("sid"), cost, status)


def _fact(object_id: object, cost: Money, status: str) -> Fact:
    if not paths.is_object_id(object_id):
        raise ValueError("no id")
    return Fact(str(object_id), cost, 0, cost, status=status)


def word(status: object) -> str:
    """Return a status as it may be kept: one of Twilio's words, and nothing that looks otherwise."""
    return status if isinstance(status, str) and _STATUS.fullmatch(status) else ""


def _changed(call: Call, operation: Operation) -> Outcome:
    """Settle what costs nothing; a message that was cancelled gives back what is held for it."""
    if operation.name == "messages.update" and operation.object_id and fields.Fields(call, "Status").text("Status") == "canceled":
        return Outcome("settled", facts=(Fact(operation.object_id, 0, 0, 0, status="canceled"),), source="local")
    return Outcome("settled", source="local")


def _seen(operation: Operation, reply: Reply) -> tuple[Fact, ...]:
    """Read what became of messages and calls; a read that cannot be read has told nothing, and cost nothing all the same."""
    if not 200 <= reply.status < 300 or operation.name not in {*_LISTS, *_READS}:
        return ()
    try:
        body = json.loads(reply.body or b"")
    except (ValueError, RecursionError):
        return ()
    whole = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    found = whole.get(_LISTS[operation.name]) if operation.name in _LISTS else [whole]
    items: list[Any] = found[:_LONGEST_LIST] if isinstance(found, list) else []
    return tuple(fact for item in items if isinstance(item, dict) and (fact := priced(cast("dict[str, Any]", item))) is not None)


def priced(item: dict[str, Any]) -> Fact | None:
    """Read the price of a message or call, of a cancelled one nothing; None while it has none."""
    object_id, status = item.get("sid"), word(item.get("status"))
    if not paths.is_object_id(object_id) or not status:
        return None
    if status == "canceled" and str(object_id)[:2] in {"SM", "MM"}:
        return Fact(str(object_id), 0, 0, 0, status=status)
    price = _usd(item.get("price"), item.get("price_unit"))
    return Fact(str(object_id), price, 0, price, status=status) if price is not None and status in _FINAL else None


def _usd(price: object, unit: object) -> Money | None:
    """Return a price in micro-USD, rounded up; Twilio writes it as a negative text, in the account's currency."""
    if not isinstance(price, str) or str(unit or "").upper() != "USD":
        return None
    try:
        amount = abs(Decimal(price))
        return to_money(amount.quantize(Decimal("0.000001"), rounding="ROUND_CEILING"))
    except (InvalidOperation, ValueError):
        return None
