"""What became of a call to Stripe of which nobody knows: asked of its objects, events and lists. Reads only; part of the stripe plug.

An object that was there before the call (confirm, capture) says by its state what became of it. What a call made is found by the
call's Idempotency-Key, which the events carry: "request.idempotency_key: The idempotency key transmitted during the request, if any"
(API reference, event object, read 2026-11-26). Without a key that we know, it is looked for by amount, customer and time.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from keyguard.identity import key_for, request_of_key
from keyguard.model import Call, Outcome, Reply
from keyguard.vendors import _stripe_replies as replies
from keyguard.vendors._inquiry import AHEAD, Finding, Listing, Unread, document
from keyguard.vendors._stripe_likeness import by_likeness
from keyguard.vendors._stripe_made import MADE, MARGIN, Made, listed, outcome_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from keyguard.model import Doubt, Fact
    from keyguard.vendors._inquiry import Asking, Document, Inquiry

base = "https://api.stripe.com"
absence_margin: float | None = MARGIN
# "List events, going back up to 30 days" (API reference, read 2026-11-26); a day less, for those at the edge.
history = 29 * 86_400.0
is_by_account = False
_HOUR = 3600.0
# By its key a call is found whenever it was executed: Stripe forgets a key that it has not seen for a day.
_LATEST = 2 * 86_400.0
_DECLINED = "payment_intent.payment_failed"
# By state alone: what such a call does shows in the object that it is about.
_PAID = frozenset({"succeeded", "processing", "requires_capture", "requires_action", "canceled"})
_HAPPENED = {
    "payment_intents.confirm": _PAID,
    "payment_intents.verify_microdeposits": _PAID,
    "payment_intents.capture": frozenset({"succeeded", "canceled"}),
    "charges.capture": frozenset({"captured", "failed"}),
    "invoices.pay": frozenset({"paid", "void", "uncollectible"}),
    "invoices.finalize": frozenset({"open", "paid", "void", "uncollectible"}),
    "invoices.send": frozenset({"open", "paid", "void", "uncollectible"}),
}
# The amount tells: these set the object's own.
_RAISED = frozenset({"payment_intents.update", "payment_intents.increment_authorization"})
_PLACES = {
    "pi": "/v1/payment_intents/{}", "ch": "/v1/charges/{}", "py": "/v1/charges/{}", "in": "/v1/invoices/{}",
    "cs": "/v1/checkout/sessions/{}", "sub": "/v1/subscriptions/{}?expand[]=latest_invoice",
}  # fmt: skip


def signed(doubt: Doubt, secret: str, _environ: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
    """Return the headers of a question about a doubt: for its connected account (`acct_…`) or context (`acct_…/…`); and the owner."""
    headers = {"Authorization": f"Bearer {secret}"}
    if doubt.account:
        headers["Stripe-Context" if "/" in doubt.account else "Stripe-Account"] = doubt.account
    return headers, secret


def place(doubt: Doubt) -> str | None:
    """Return where the object of an open intent can be read."""
    return _place_of(doubt.object_id or "")


def prices(_doubts: Sequence[Doubt]) -> Asking[Mapping[str, Fact]]:
    """Read nothing: what Stripe says of a cost it says at once."""
    yield from ()
    return {}


def inquire(doubt: Doubt, now: float, owners: Collection[str] = ()) -> Inquiry:
    """Ask what became of a call."""
    try:
        if doubt.object_id and (doubt.operation in _HAPPENED or doubt.operation in _RAISED):
            return (yield from _of_object(doubt))
        if doubt.operation in MADE and not doubt.identity:
            return (yield from by_likeness(doubt, MADE[doubt.operation]))
        if doubt.identity and not doubt.operation.startswith("v2."):
            return (yield from _by_key(doubt, MADE.get(doubt.operation), now, {doubt.principal, *owners}))
    except Unread as unread:
        return Finding(words=str(unread))
    return Finding(words=f"it lists nothing by which this {doubt.operation} could be found; look in its Dashboard")


# -- objects that were there before ----------------------------------------------------------------


def _of_object(doubt: Doubt) -> Inquiry:
    path = place(doubt)
    if path is None:
        return Finding(words=f"{doubt.object_id} is no object that can be read; look in its Dashboard")
    body = yield from document(path)
    if body.get("id") != doubt.object_id:
        return Finding(words=f"its answer to GET {path} is about another object; try again later")
    facts = _facts(path, body)
    if not facts:
        return Finding(words=f"the amounts of {doubt.object_id} cannot be counted (a currency without a rate?)")
    state = _state(body)
    fact = facts[0]
    is_done = (
        state in _HAPPENED[doubt.operation]
        if doubt.operation in _HAPPENED
        else fact.amount == doubt.amount or state in {"succeeded", "canceled"}
    )
    if is_done:
        said = f"{fact.object_id} is {state}"
        return Finding(Outcome("settled", facts=facts), said, objects=(fact.object_id, *fact.aliases))
    return Finding(words=f"{fact.object_id} is still {state}", is_whole=True)


def _state(body: Document) -> str:
    if body.get("object") == "charge" and body.get("captured") is True:
        return "captured"
    return str(body.get("status"))


def _facts(path: str, body: Document) -> tuple[Fact, ...]:
    call = Call("stripe", "GET", "https", "api.stripe.com", path.partition("?")[0])
    return replies.facts_of_read(call, Reply(200, {}, json.dumps(body).encode()))


# -- objects that the call made --------------------------------------------------------------------


def _by_key(doubt: Doubt, made: Made | None, now: float, owners: Collection[str]) -> Inquiry:
    """Look for the call's Idempotency-Key among the events since it was sent."""
    if now - doubt.at > history:
        return Finding(words="it lists events of the last 30 days only, and this was sent before; look in its Dashboard")
    found = yield from _events(doubt, made)
    ours = [event for event in found.items if _is_of(event, doubt, owners)]
    if not ours:
        if any(isinstance(event.get("request"), str) for event in found.items):
            return Finding(words="its events are of an API version that does not name Idempotency-Keys; look in its Dashboard")
        if not found.is_whole or made is None or not made.events:
            return Finding(
                words=found.why or f"no event names the key of this {doubt.operation}, which proves nothing; look in its Dashboard"
            )
        return Finding(words=f"none of its {len(found.items)} events since then names the key of this call", is_whole=True)
    finding = yield from _made(doubt, made, ours)
    # A derived key is of one run in the world; a caller's own may be used at another account too.
    return replace(finding, needs_owner=not any(_is_derived(event, doubt) for event in ours))


def _events(doubt: Doubt, made: Made | None) -> Asking[Listing]:
    # In whole hours, so that doubts of the same time ask the same question, whose answer is had already.
    since = int((doubt.at - AHEAD) // _HOUR * _HOUR)
    until = int(-((doubt.sent_at + _LATEST) // -_HOUR) * _HOUR)
    types = [(f"types[{index}]", name) for index, name in enumerate(made.events)] if made is not None else []
    return listed("/v1/events", [("created[gte]", str(since)), ("created[lte]", str(until)), *types])


def _key_of(event: Document) -> str:
    request = event.get("request")
    key = cast("Document", request).get("idempotency_key") if isinstance(request, dict) else None
    return key if isinstance(key, str) else ""


def _is_derived(event: Document, doubt: Doubt) -> bool:
    """Say whether an event carries the key that was derived for the call in doubt."""
    return doubt.n >= 0 and _key_of(event) == key_for(doubt.identity, doubt.n, doubt.generation)


def _is_of(event: Document, doubt: Doubt, owners: Collection[str]) -> bool:
    """Say whether an event is of the call in doubt: by the key that was derived for it, or the caller's own."""
    key = _key_of(event)
    if not key or _is_derived(event, doubt):
        return bool(key)
    return any(request_of_key(doubt.scope, owner, "stripe", doubt.account, key) == doubt.identity for owner in owners)


def _made(doubt: Doubt, made: Made | None, ours: list[Document]) -> Inquiry:
    """Read the object that the events are about as it is now, and say what the call cost by it."""
    shown = [thing for event in ours if (thing := _object_in(event)) is not None]
    wanted = made.kind if made is not None else None
    ids = {str(thing["id"]) for thing in shown if wanted in {None, thing.get("object")}}
    if len(ids) != 1:
        said = "nothing that it made" if not ids else f"{len(ids)} objects that it made"
        return Finding(words=f"it shows the key of this call, and {said}: settle it by hand, by what its Dashboard shows")
    (object_id,) = ids
    path = f"{made.path}/{object_id}" if made is not None else _place_of(object_id)
    if path is None:
        return Finding(words=f"this call made {object_id}; settle it by hand, by what that did cost")
    body = yield from document(path)
    outcome = outcome_of(doubt, body)
    if outcome is None:
        return Finding(words=f"this call made {object_id}, whose cost cannot be read; settle it by hand")
    is_declined = any(event.get("type") == _DECLINED for event in ours) or (
        body.get("object") == "charge" and body.get("status") == "failed"
    )
    if is_declined and not any(fact.spent for fact in outcome.facts) and body.get("status") != "requires_capture":
        return Finding(Outcome("released", is_final=True), f"the payment was declined ({object_id})", objects=(object_id,))
    return Finding(outcome, f"this call made {object_id}, which is {_state(body)}", objects=(object_id, *_aliases(outcome)))


def _object_in(event: Document) -> Document | None:
    data = event.get("data")
    thing = cast("Document", data).get("object") if isinstance(data, dict) else None
    return cast("Document", thing) if isinstance(thing, dict) and isinstance(cast("Document", thing).get("id"), str) else None


def _place_of(object_id: str) -> str | None:
    prefix = object_id.partition("_")[0]
    return _PLACES[prefix].format(object_id) if prefix in _PLACES else None


def _aliases(outcome: Outcome) -> tuple[str, ...]:
    return tuple(name for fact in outcome.facts for name in fact.aliases)
