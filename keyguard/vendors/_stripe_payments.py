"""Payments: intents, charges, their refunds and disputes, and what a card reader does with them. Part of the stripe plug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Fact, Memory, Money, Operation, Outcome, Quote
from keyguard.vendors import Ask, Recall
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors import _stripe_paths as paths
from keyguard.vendors import _stripe_replies as replies
from keyguard.vendors._stripe_objects import Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from keyguard.model import Call, Reply
    from keyguard.vendors import Quoting

_COLLECTIONS = {"payment_intent": "payment_intents", "charge": "charges"}


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
    if found.get("origin") == "customer_balance" and operation.object_id is None:
        # Out of what the customer has paid in; it names no charge.
        return Quote(money.required_amount(found, code=money.check_currency(found, required=True)))
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


def _apply_balance(operation: Operation, found: dict[str, str]) -> Quoting:
    count = money.count_of(found, "amount")
    memory, prior = yield from _object_of(operation, "payment_intent")
    rest = max(0, memory.amount - memory.spent)
    bound = rest if count is None else money.micros(count, money.check_currency(found, default=memory.currency))
    return Quote(bound, object_id=operation.object_id, adopts=True, prior=prior)


def _close_dispute(call: Call, operation: Operation) -> Quoting:
    # "Closing the dispute … is irreversible": what the bank took is given up.
    money.parameters(call)
    object_id = operation.object_id or ""
    dispute = yield from objects.ask(f"/v1/disputes/{object_id}", "dispute", object_id)
    return Quote(objects.amount_in(dispute, "amount"))


def _close_dispute_of_charge(call: Call, operation: Operation) -> Quoting:
    # Of the older path, which names the charge: no dispute is about more than that.
    money.parameters(call)
    memory, _ = yield from _object_of(operation, "charge")
    return Quote(memory.amount)


def _process(_operation: Operation, found: dict[str, str]) -> Quoting:
    object_id = found.get("payment_intent", "")
    if not paths.is_object_id(object_id):
        raise MalformedCall("'payment_intent' must be the id of one, which the reader is to charge; nothing was sent")
    memory, prior = yield from _known_object("payment_intent", object_id)
    quote = Quote(max(0, memory.amount - memory.spent), object_id=object_id, adopts=True, prior=prior or memory.spent)
    if any(name.startswith("process_config[tipping]") for name in found):
        return objects.unbounded("lets the customer add a tip; without process_config[tipping] it does not", base=quote)
    return quote


def _on_reader(operation: Operation, found: dict[str, str]) -> Quoting:
    # The object in the path is the reader.
    return (yield from _refund(Operation(operation.name), found))


def _settled(kind: str) -> Callable[[Call, Quote, dict[str, Any], str | None], Outcome]:
    def settle(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
        objects.priced_currency(body)
        if body.get("object") != kind:
            raise ValueError(f"expected a {kind}")
        fact = replies.intent_fact(body) if kind == "payment_intent" else replies.charge_fact(body, is_final=True)
        if quote.object_id is not None and quote.object_id != fact.object_id:
            raise ValueError("the reply is about another object")
        return Outcome("settled", facts=(fact,), request_id=request_id)

    return settle


def _refunded(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    objects.priced_currency(body)
    kind = str(body.get("object"))
    if kind not in {"refund", "charge"}:
        raise ValueError("expected a refund, or the charge that it is of")
    if kind == "refund" and str(body.get("status")) in {"failed", "canceled"}:
        return Outcome("released", request_id=request_id)
    # The older path answers with the charge, whose totals do not tell this refund from earlier ones.
    cost = money.units(body, "amount") if kind == "refund" else quote.amount
    charge = body if kind == "charge" else body.get("payment_intent") or body.get("charge")
    refund_id = money.id_of(body.get("id")) if kind == "refund" else None
    return Outcome("settled", cost=cost, refund_of=quote.object_id or money.id_of(charge), request_id=request_id, refund_id=refund_id)


def _processing(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    """Keep the hold: the reader's answer comes before its customer's; a later read of the intent tells."""
    if body.get("object") != "terminal.reader":
        raise ValueError("expected a reader")
    fact = Fact(quote.object_id or "", quote.prior, quote.amount, quote.prior + quote.amount, status="processing")
    return Outcome("settled", facts=(fact,), request_id=request_id)


def _reader_refunded(_call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    if body.get("object") != "terminal.reader":
        raise ValueError("expected a reader")
    return Outcome("settled", cost=quote.amount, refund_of=quote.object_id, source="local", request_id=request_id)


def _flow(
    quoting: Callable[[Operation, dict[str, str]], Quoting | Quote],
    settle: Callable[[Call, Quote, dict[str, Any], str | None], Outcome],
    *,
    required: bool = False,
) -> Flow:
    """Read the money parameters before anything is quoted; `required` = the currency is."""

    def quote(call: Call, operation: Operation) -> Quoting | Quote:
        found = money.parameters(call)
        money.check_currency(found, required=required)
        return quoting(operation, found)

    return Flow(quote, settle)


_INTENT, _CHARGE = _settled("payment_intent"), _settled("charge")
FLOWS = {
    "payment_intents.create": _flow(_create, _INTENT, required=True),
    "payment_intents.update": _flow(_update, _INTENT),
    "payment_intents.confirm": _flow(_confirm, _INTENT),
    "payment_intents.verify_microdeposits": _flow(_confirm, _INTENT),
    "payment_intents.apply_customer_balance": _flow(_apply_balance, _INTENT),
    "payment_intents.capture": _flow(_capture, _INTENT),
    "payment_intents.increment_authorization": _flow(_increment, _INTENT),
    "payment_intents.cancel": _flow(_cancel, _INTENT),
    "charges.create": _flow(_create, _CHARGE, required=True),
    "charges.capture": _flow(_capture_charge, _CHARGE),
    "refunds.create": _flow(_refund, _refunded),
    "disputes.close": Flow(_close_dispute, objects.made("dispute")),
    "charges.dispute.close": Flow(_close_dispute_of_charge, objects.made("dispute")),
    "terminal.readers.process_payment_intent": _flow(_process, _processing),
    "terminal.readers.confirm_payment_intent": _flow(_process, _processing),
    "terminal.readers.refund_payment": _flow(_on_reader, _reader_refunded),
}
