"""The Stripe plug: one look-up from an operation to the money flow that bounds and reads it; the flows are its companions.

What Stripe charges by itself later (the next period of a subscription) needs no call of ours and is capped by nobody
here; the quotes of such writes say so with `recurring`.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING

from keyguard.model import Outcome, Quote
from keyguard.vendors import _stripe_checkout as checkout
from keyguard.vendors import _stripe_invoices as invoices
from keyguard.vendors import _stripe_lines as lines
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_paths as paths
from keyguard.vendors import _stripe_payments as payments
from keyguard.vendors import _stripe_payouts as payouts
from keyguard.vendors import _stripe_replies as replies
from keyguard.vendors import _stripe_schedules as schedules
from keyguard.vendors import _stripe_subscriptions as subscriptions
from keyguard.vendors import _stripe_tags as tags
from keyguard.vendors import _stripe_v2 as v2
from keyguard.vendors._tables import parameters_of

if TYPE_CHECKING:
    from keyguard.model import Call, Operation, Reply
    from keyguard.vendors import Inquiring, Quoting
    from keyguard.vendors._stripe_objects import Flow

# "Stripe 400/401/403/404/429 and declines": documented as not executed.
_NOT_EXECUTED = frozenset({400, 401, 402, 403, 404, 429})
FLOWS: dict[str, Flow] = {
    **payments.FLOWS, **payouts.FLOWS, **invoices.FLOWS, **lines.FLOWS, **subscriptions.FLOWS, **schedules.FLOWS, **checkout.FLOWS,
    **v2.FLOWS,
}  # fmt: skip


class Stripe:
    """Stripe, by the rules of its API reference. Stateless."""

    name = "stripe"
    hosts = frozenset({"api.stripe.com", "files.stripe.com", "connect.stripe.com", "meter-events.stripe.com"})
    secret_env = "STRIPE_SECRET_KEY"  # noqa: S105 -- the variable's name

    live_prefixes = ("sk_live_", "rk_live_")

    # The function itself: it is asked on every call.
    classify = staticmethod(paths.classify)
    parameters = staticmethod(partial(parameters_of, "stripe"))
    tag = staticmethod(tags.tag)
    window = staticmethod(paths.window)
    payee = staticmethod(money.payee)

    @property
    def inquiring(self) -> Inquiring:
        """How Stripe is asked what became of a call; loaded when it is."""
        from keyguard.vendors import _stripe_inquiry

        return _stripe_inquiry

    def quote(self, call: Call, operation: Operation) -> Quoting:
        """
        Bound the cost of a known operation; reads, and writes that cost nothing, quote 0.

        Raises:
            MalformedCall: money parameters that cannot be read strictly.
            UnpricedCall: another currency than usd, or an object that nobody can tell the amount of.
        """
        if not call.is_write or operation.name in paths.free():
            return Quote(0)
        bound = FLOWS[operation.name].quote(call, operation)
        return (yield from bound) if isinstance(bound, Generator) else bound

    def read(self, call: Call, operation: Operation, quote: Quote, reply: Reply) -> Outcome:
        """Say how an attempt with this reply ended. Never raises: what cannot be read is doubt."""
        request_id = reply.headers.get("request-id")
        if not call.is_write:
            return Outcome("settled", facts=replies.facts_of_read(call, reply), request_id=request_id)
        if reply.status in _NOT_EXECUTED:
            return Outcome("released", request_id=request_id, is_final=replies.is_final(call, reply))
        if not 200 <= reply.status < 300:
            return Outcome("doubt", request_id=request_id, is_final=replies.is_final(call, reply))
        flow = FLOWS.get(operation.name)
        if flow is None:
            return Outcome("settled", source="local", request_id=request_id)
        try:
            return flow.settle(call, quote, money.parsed(reply.body), request_id)
        except (ValueError, RecursionError):
            return Outcome("doubt", request_id=request_id)


vendor = Stripe()
