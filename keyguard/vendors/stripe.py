"""The Stripe plug: which operations are priced, and the upper bound of each before the send."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Memory, Money, Quote
from keyguard.vendors import Ask, Recall
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_paths as paths
from keyguard.vendors import _stripe_replies as replies
from keyguard.vendors import _stripe_tags as tags
from keyguard.vendors._tables import parameters_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from keyguard.model import Call, Operation, Reply
    from keyguard.vendors import Quoting

_COLLECTIONS = {"payment_intent": "payment_intents", "charge": "charges"}


class Stripe:
    """Stripe, by the rules of its API reference. Stateless."""

    name = "stripe"
    hosts = frozenset({"api.stripe.com", "files.stripe.com", "connect.stripe.com", "meter-events.stripe.com"})
    secret_env = "STRIPE_SECRET_KEY"  # noqa: S105 -- the variable's name

    live_prefixes = ("sk_live_", "rk_live_")

    # The functions themselves: both are asked on every call.
    classify = staticmethod(paths.classify)
    read = staticmethod(replies.read)
    parameters = staticmethod(partial(parameters_of, "stripe"))
    tag = staticmethod(tags.tag)

    def quote(self, call: Call, operation: Operation) -> Quoting:
        """
        Bound the cost of a known operation; reads quote 0.

        Raises:
            MalformedCall: money parameters that cannot be read strictly.
            UnpricedCall: another currency than usd, or an object that nobody can tell the amount of.
        """
        if not call.is_write:
            return Quote(0)
        found = money.parameters(call)
        money.check_currency(found, required=operation.name in {"payment_intents.create", "charges.create"})
        bound = _QUOTES[operation.name](operation, found)
        return bound if isinstance(bound, Quote) else (yield from bound)


def _object_of(operation: Operation, kind: str) -> Generator[Recall | Ask, Any, tuple[Memory, Money]]:
    """Return what the object in the path is known to cost, and its prior where the run does not remember it."""
    return (yield from _known_object(kind, operation.object_id or ""))


def _known_object(kind: str, object_id: str, *, is_spent: bool = False) -> Generator[Recall | Ask, Any, tuple[Memory, Money]]:
    """Recall an object, else ask for it; `is_spent` = only money already spent on it tells what the caller needs."""
    memory: Memory | None = yield Recall(object_id)
    # An intent of ours may have been paid elsewhere since: a memory without spending bounds no whole refund.
    if memory is not None and memory.amount > 0 and (memory.spent > 0 or not is_spent):
        return memory, 0
    reply: Reply = yield Ask(f"/v1/{_COLLECTIONS[kind]}/{object_id}")
    asked = _asked(kind, object_id, reply)
    return asked, asked.spent


def _asked(kind: str, object_id: str, reply: Reply) -> Memory:
    """Read the answer to a read of our own as if it were remembered; nothing of it is this run's."""
    try:
        if not 200 <= reply.status < 300:
            raise ValueError(f"HTTP {reply.status}")
        body = money.parsed(reply.body)
        code = money.currency_of(body)
        if code in money.exponents() and not money.is_priced(code):
            raise money.foreign(code)
        if body.get("object") != kind or body.get("id") != object_id or not money.is_priced(code):
            raise ValueError("not the object that was asked for")
        fact = replies.intent_fact(body) if kind == "payment_intent" else replies.charge_fact(body, is_final=True)
    except (ValueError, RecursionError) as error:
        raise UnpricedCall(
            f"the cost of this call depends on {object_id}, which this run does not know and Stripe does not show ({error}); "
            "nothing was sent. Send the amount with the call, for an object that the same credentials can read."
        ) from None
    return Memory(
        object_id, spent=fact.spent, held=fact.held, amount=fact.amount, refunded=fact.refunded, status=fact.status, currency=code
    )


def _create(_operation: Operation, found: dict[str, str]) -> Quote:
    # Held even without `confirm`: the client_secret can be confirmed outside the guard.
    return Quote(money.required_amount(found, code=money.check_currency(found)))


def _update(operation: Operation, found: dict[str, str]) -> Quoting:
    count = money.count_of(found, "amount")
    if count is None and "currency" not in found:
        return Quote(0, object_id=operation.object_id)
    memory, prior = yield from _object_of(operation, "payment_intent")
    if count is not None:
        bound = money.micros(count, money.check_currency(found, default=memory.currency))
    elif money.check_currency(found) == memory.currency:
        bound = memory.amount
    else:
        raise MalformedCall("a change of the currency needs the amount too, else the new cost cannot be bounded; nothing was sent")
    return Quote(bound, object_id=operation.object_id, adopts=True, prior=prior)


def _confirm(operation: Operation, found: dict[str, str]) -> Quoting:
    count = money.count_of(found, "amount_to_confirm")
    memory, prior = yield from _object_of(operation, "payment_intent")
    rest = max(0, memory.amount - memory.spent)
    bound = rest if count is None else money.micros(count, memory.currency)
    return Quote(bound, object_id=operation.object_id, adopts=True, prior=prior)


def _capture(operation: Operation, found: dict[str, str]) -> Quoting:
    count = money.count_of(found, "amount_to_capture")
    memory, prior = yield from _object_of(operation, "payment_intent")
    bound = _capturable(memory) if count is None else money.micros(count, memory.currency)
    return Quote(bound, object_id=operation.object_id, adopts=True, prior=prior)


def _capture_charge(operation: Operation, found: dict[str, str]) -> Quoting:
    count = money.count_of(found, "amount")
    memory, prior = yield from _object_of(operation, "charge")
    bound = _capturable(memory) if count is None else money.micros(count, memory.currency)
    return Quote(bound, object_id=operation.object_id, adopts=True, prior=prior)


def _capturable(memory: Memory) -> Money:
    # Without an open hold the rest of the amount is still an upper bound.
    return memory.held or max(0, memory.amount - memory.spent)


def _increment(operation: Operation, found: dict[str, str]) -> Quoting:
    # "The updated total amount you intend to collect", not the difference.
    count = money.required_count(found)
    memory, prior = yield from _object_of(operation, "payment_intent")
    return Quote(money.micros(count, memory.currency), object_id=operation.object_id, adopts=True, prior=prior)


def _cancel(operation: Operation, _found: dict[str, str]) -> Quote:
    return Quote(0, object_id=operation.object_id)


def _refund(operation: Operation, found: dict[str, str]) -> Quoting:
    kind, object_id = _refunded_object(operation, found)
    count = money.count_of(found, "amount")
    memory, prior = yield from _known_object(kind, object_id, is_spent=count is None)
    rest = max(0, max(memory.own, memory.spent) - memory.refunded)
    bound = rest if count is None else money.micros(count, memory.currency)
    return Quote(bound, "refund" if memory.own > 0 else "run", object_id, prior=prior)


def _refunded_object(operation: Operation, found: dict[str, str]) -> tuple[str, str]:
    """Return kind and id of the one object that a refund names, in its path or its body."""
    named = [(kind, found[kind]) for kind in _COLLECTIONS if kind in found]
    if operation.object_id is not None:
        named.append(("charge", operation.object_id))
    if len(named) != 1 or not paths.is_object_id(named[0][1]):
        raise MalformedCall("a refund must name exactly one charge or payment_intent, by its id; nothing was sent")
    return named[0]


# A quote that asks nothing is no generator.
_QUOTES: dict[str, Callable[[Operation, dict[str, str]], Quoting | Quote]] = {
    "payment_intents.create": _create,
    "payment_intents.update": _update,
    "payment_intents.confirm": _confirm,
    "payment_intents.capture": _capture,
    "payment_intents.increment_authorization": _increment,
    "payment_intents.cancel": _cancel,
    "charges.create": _create,
    "charges.capture": _capture_charge,
    "refunds.create": _refund,
}

vendor = Stripe()
