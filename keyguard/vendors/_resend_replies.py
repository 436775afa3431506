"""What Resend's replies say about money: which e-mails were accepted, endings of attempts. Part of the resend plug."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from keyguard.errors import MalformedCall
from keyguard.model import Fact, Outcome
from keyguard.vendors import _resend_money as money
from keyguard.vendors import _resend_paths as paths

if TYPE_CHECKING:
    from keyguard.model import Call, Money, Operation, Quote, Reply

# Of 4xx these say nothing about what was done: a gateway's patience ended, or the client's.
_TIMED_OUT = frozenset({408, 499})
# The request is to be made elsewhere; 303 would be the answer to one that was executed.
_MOVED = frozenset({301, 302, 307, 308})
_CONFLICT = 409
_LONGEST_LIST = 100
# "Same idempotency key used with a different request payload": this one was not executed. Its sibling
# `concurrent_idempotent_requests` says that the first is still running, and this one may have been it.
_REUSED = "invalid_idempotent_request"
_DOUBT = Outcome("doubt", source="local")
_RELEASED = Outcome("released", source="local")
_FREE = Outcome("settled", source="local")


def read(call: Call, operation: Operation, quote: Quote, reply: Reply) -> Outcome:
    """Say how an attempt with this reply ended. Never raises: what cannot be read is doubt."""
    try:
        if not call.is_write:
            return Outcome("settled", facts=_facts(operation, reply), source="local")
        if not 200 <= reply.status < 300:
            return _RELEASED if _is_not_executed(reply) else _DOUBT
        write = paths.write_of(call)
        if write is None or write.kind != "priced":
            return _cancelled(operation) if operation.name == "emails.cancel" else _FREE
        return _sent(call, operation, quote, json.loads(reply.body or b""))
    except (ValueError, RecursionError, MalformedCall):
        return _DOUBT


def _is_not_executed(reply: Reply) -> bool:
    if reply.status == _CONFLICT:
        body = json.loads(reply.body or b"")
        return isinstance(body, dict) and cast("dict[str, Any]", body).get("name") == _REUSED
    return reply.status in _MOVED or (400 <= reply.status < 500 and reply.status not in _TIMED_OUT)


def _sent(call: Call, operation: Operation, quote: Quote, body: Any) -> Outcome:
    """Settle what was accepted, as a fact about one object: a replay of the same call answers with the same ids."""
    counts = money.emails(call, is_batch=operation.name == "emails.batch")
    # By what the quote was made of: the unit may have been set anew since.
    unit = quote.amount // sum(counts)
    if operation.name != "emails.batch":
        return Outcome("settled", facts=(_fact(call, _id(body), unit * counts[0]),), source="local")
    ids, refused = _batch(body, len(counts))
    accepted = sum(count for index, count in enumerate(counts) if index not in refused)
    cost = unit * accepted
    # Not one fact an e-mail: what a call bought is one object in the books.
    return Outcome("settled", facts=(Fact(ids[0], cost, 0, cost, status="sent"),) if ids else (), source="local", units=accepted)


def _fact(call: Call, email_id: str, cost: Money) -> Fact:
    # A scheduled one can still be cancelled, and is not sent then.
    if cast("dict[str, Any]", call.document).get("scheduled_at"):
        return Fact(email_id, 0, cost, cost, status="scheduled")
    return Fact(email_id, cost, 0, cost, status="sent")


def _batch(body: Any, size: int) -> tuple[list[str], set[int]]:
    """Return the ids of the accepted e-mails of a batch, and the positions of those that a permissive batch refused."""
    found = cast("dict[str, Any]", body if isinstance(body, dict) else {})
    data, errors = found.get("data"), found.get("errors") or []
    if not isinstance(data, list) or not isinstance(errors, list):
        raise ValueError("no batch")
    ids, refused = [_id(item) for item in data], {_index(item, size) for item in errors}
    if len(ids) + len(refused) != size:
        raise ValueError("not every e-mail of the batch is answered for")
    return ids, refused


def _index(error: Any, size: int) -> int:
    found = cast("dict[str, Any]", error).get("index") if isinstance(error, dict) else None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < size:
        raise ValueError("an error of no e-mail")
    return found


def _id(body: Any) -> str:
    found = cast("dict[str, Any]", body).get("id") if isinstance(body, dict) else None
    if not isinstance(found, str) or not paths.is_object_id(found):
        raise ValueError("no id")
    return found


def _cancelled(operation: Operation) -> Outcome:
    facts = (Fact(operation.object_id, 0, 0, 0, status="canceled"),) if operation.object_id else ()
    return Outcome("settled", facts=facts, source="local")


def _facts(operation: Operation, reply: Reply) -> tuple[Fact, ...]:
    # A read that cannot be read has told nothing, and cost nothing all the same.
    try:
        return _facts_of_read(operation, reply)
    except (ValueError, RecursionError):
        return ()


def _facts_of_read(operation: Operation, reply: Reply) -> tuple[Fact, ...]:
    """Read what became of e-mails: while one is scheduled, or once it was cancelled, nothing is spent on it."""
    if operation.name not in {"emails.get", "emails.list"} or not 200 <= reply.status < 300:
        return ()
    body = json.loads(reply.body or b"")
    found = cast("dict[str, Any]", body).get("data") if isinstance(body, dict) and operation.name == "emails.list" else [body]
    items: list[Any] = found[:_LONGEST_LIST] if isinstance(found, list) else []
    return tuple(fact for item in items if (fact := _seen(item)) is not None)


def _seen(email: Any) -> Fact | None:
    try:
        status, email_id, cost = _last_event(email), _id(email), money.unit() * money.recipients(email)
    except (ValueError, MalformedCall):
        return None
    if status in {"scheduled", "canceled"}:
        return Fact(email_id, 0, cost if status == "scheduled" else 0, cost, status=status)
    return Fact(email_id, cost, 0, cost, status=status)


def _last_event(email: Any) -> str:
    found = cast("dict[str, Any]", email).get("last_event") if isinstance(email, dict) else None
    if not isinstance(found, str):
        raise ValueError("no event")
    return found
