"""Money of Stripe's v2 API, whose bodies are JSON: `{"amount": {"value": 100, "currency": "usd"}}`. Part of the stripe plug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Fact, Memory, Outcome, Quote
from keyguard.vendors import Recall
from keyguard.vendors import _stripe_forms as forms
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_objects as objects
from keyguard.vendors import _stripe_replies as replies
from keyguard.vendors._stripe_objects import Flow

if TYPE_CHECKING:
    from keyguard.model import Call, Money, Operation
    from keyguard.vendors import Quoting

_PATH = "/v2/money_management"
_INTENT = "v2.money_management.payout_intent"


def _amount(call: Call) -> Money | None:
    found = forms.document(call)
    if "amount" not in found:
        return None
    count, code = found.below("amount").count("value"), found.below("amount").code()
    if count is None or code is None or count < 0:
        raise MalformedCall("'amount' must be an object such as {'value': 100, 'currency': 'usd'}; nothing was sent")
    return money.micros(count, code)


def _create(call: Call, operation: Operation) -> Quote:
    amount = _amount(call)
    if amount is None:
        raise UnpricedCall(f"{operation.name} without an 'amount' cannot be bounded; nothing was sent. Send {{'value': …, 'currency': …}}.")
    return Quote(amount)


def _change(call: Call, operation: Operation) -> Quoting:
    """Bound an update or a confirmation: by the new amount, or by that of the intent itself."""
    amount, object_id = _amount(call), operation.object_id or ""
    memory: Memory | None = yield Recall(object_id)
    if memory is None or not memory.amount:
        body = yield from objects.ask(f"{_PATH}/payout_intents/{object_id}", _INTENT, object_id)
        fact = _asked(body, object_id)
        memory = Memory(object_id, spent=fact.spent, amount=fact.amount)
    rest = max(0, memory.amount - memory.spent)
    return Quote(rest if amount is None else max(amount, rest), object_id=object_id, adopts=True, prior=memory.spent)


def _asked(body: dict[str, Any], object_id: str) -> Fact:
    try:
        return replies.payment_fact(body)
    except ValueError as error:
        raise objects.hidden(object_id, str(error)) from None


def _cancel(_call: Call, operation: Operation) -> Quote:
    return Quote(0, object_id=operation.object_id)


def _settled(call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    wanted = call.path.removeprefix(f"{_PATH}/").partition("/")[0].removesuffix("s")
    if body.get("object") != f"v2.money_management.{wanted}":
        raise ValueError(f"expected a {wanted}")
    fact = replies.payment_fact(body)
    if quote.object_id is not None and quote.object_id != fact.object_id:
        raise ValueError("the reply is about another object")
    return Outcome("settled", facts=(fact,), request_id=request_id)


def _pulled(call: Call, quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
    """Settle what is debited from a bank into the account: its answer has no status, or one for each step."""
    fact = _settled(call, quote, body, request_id).facts[0]
    return Outcome("settled", facts=(Fact(fact.object_id, fact.amount, 0, fact.amount, currency=fact.currency),), request_id=request_id)


FLOWS = {
    "v2.money_management.outbound_payments.create": Flow(_create, _settled),
    "v2.money_management.payout_intents.create": Flow(_create, _settled),
    "v2.money_management.payout_intents.update": Flow(_change, _settled),
    "v2.money_management.payout_intents.confirm": Flow(_change, _settled),
    "v2.money_management.payout_intents.cancel": Flow(_cancel, _settled),
    "v2.money_management.inbound_transfers.create": Flow(_create, _pulled),
}
