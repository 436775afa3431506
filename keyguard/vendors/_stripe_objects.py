"""What the money flows of the stripe plug share: one read of an object, one way to settle what was made. Knows no operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from keyguard.errors import UnpricedCall
from keyguard.model import Call, Fact, Memory, Operation, Outcome, Quote, Unbounded
from keyguard.vendors import Ask, Quoting, Recall
from keyguard.vendors import _stripe_money as money

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from keyguard.model import Money, Reply

Asking: TypeAlias = "Generator[Recall | Ask, Any, dict[str, Any]]"
Remembering: TypeAlias = "Generator[Recall | Ask, Any, Memory | None]"


@dataclass(frozen=True, slots=True)
class Flow:
    """
    How one operation is bounded and read.

    Attributes:
        quote: Bounds a call; a quote that asks nothing is no generator.
        settle: Says how a call with this 2xx answer ended, given its request id. Raises ValueError for what cannot be read.
    """

    quote: Callable[[Call, Operation], Quoting | Quote]
    settle: Callable[[Call, Quote, dict[str, Any], str | None], Outcome]


def ask(path: str, kind: str, object_id: str) -> Asking:
    """
    Read an object from Stripe.

    Raises:
        UnpricedCall: Stripe does not show it, or shows an amount in a currency without a rate.
    """
    reply: Reply = yield Ask(path)
    try:
        if not 200 <= reply.status < 300:
            raise ValueError(f"HTTP {reply.status}")
        body = money.parsed(reply.body)
        if body.get("object") != kind or body.get("id") != object_id:
            raise ValueError("not the object that was asked for")
        _check_currency(money.currency_of(body))
    except (ValueError, RecursionError) as error:
        raise hidden(object_id, str(error)) from None
    return body


def _check_currency(code: str) -> None:
    if code in money.exponents() and not money.is_priced(code):
        raise money.foreign(code)
    if code and not money.is_priced(code):
        raise ValueError("its currency is unknown")


def hidden(object_id: str, why: str) -> UnpricedCall:
    """Return the refusal of a call whose cost depends on an object that nobody can read."""
    return UnpricedCall(
        f"the cost of this call depends on {object_id}, which this run does not know and Stripe does not show ({why}); nothing was "
        "sent. Send the amount with the call, for an object that the same credentials can read."
    )


def amount_in(body: dict[str, Any], name: str, default: Money | None = None) -> Money:
    """
    Return an amount of an object that was asked for.

    Raises:
        UnpricedCall: it has none that can be read.
    """
    try:
        return money.units(body, name, default)
    except ValueError as error:
        raise hidden(str(body.get("id")), str(error)) from None


def unbounded(reason: str, *, base: Quote | None = None, recurring: bool = False, is_by_design: bool = False) -> Quote:
    """Return the quote of a request that has no bound; `base` is what is known of it."""
    known = base or Quote(0)
    return Quote(
        known.amount, known.pot, known.object_id, known.adopts, known.prior, Unbounded(reason, is_by_design), known.recurring or recurring
    )


def flat(_call: Call, quote: Quote, _body: dict[str, Any], request_id: str | None) -> Outcome:
    """Settle at the quote: the answer says nothing of the cost."""
    return Outcome("settled", cost=quote.amount, source="local", request_id=request_id)


def made(kind: str, *dead: str, amount: str = "amount") -> Callable[[Call, Quote, dict[str, Any], str | None], Outcome]:
    """Return how to settle the making of an object whose whole amount leaves at once, unless its status is one of the dead."""

    def settle(_call: Call, _quote: Quote, body: dict[str, Any], request_id: str | None) -> Outcome:
        if body.get("object") != kind:
            raise ValueError(f"expected a {kind}")
        if body.get("status") in dead:
            return Outcome("released", request_id=request_id)
        cost = money.units(body, amount)
        fact = Fact(own_id(body), cost, 0, cost, status=str(body.get("status") or ""), currency=priced_currency(body))
        return Outcome("settled", facts=(fact,), request_id=request_id)

    return settle


def own_id(body: dict[str, Any]) -> str:
    """
    Return an object's id.

    Raises:
        ValueError: it has none.
    """
    found = money.id_of(body.get("id"))
    if found is None:
        raise ValueError("an object without an id")
    return found


def priced_currency(body: dict[str, Any]) -> str:
    """
    Return an object's currency.

    Raises:
        ValueError: it names none, or one without a rate.
    """
    code = money.currency_of(body)
    if not money.is_priced(code):
        raise ValueError("answered in a currency that nobody priced")
    return code
