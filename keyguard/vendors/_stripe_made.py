"""What calls to Stripe make, which events and lists show it, and what it did cost. Part of the stripe plug's inquiry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from keyguard.model import Call, Outcome, Quote
from keyguard.vendors._inquiry import Listing, listing

if TYPE_CHECKING:
    from keyguard.model import Doubt
    from keyguard.vendors._inquiry import Asking, Document

# Stripe says nothing of how late a request may still be executed; its own clients give up on one after 80 seconds.
MARGIN = 3600.0
_MOST = 100


@dataclass(frozen=True, slots=True)
class Made:
    """
    How an operation is found that makes an object.

    Attributes:
        kind: The object's.
        path: Its collection.
        events: The types that tell of it, whatever its state; () = it may be made without one, so that no event proves nothing.
    """

    kind: str
    path: str
    events: tuple[str, ...]


# Types by Stripe's API reference, "Types of events", read 2026-11-26.
MADE = {
    "payment_intents.create": Made(
        "payment_intent",
        "/v1/payment_intents",
        (
            "payment_intent.created", "payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.processing",
            "payment_intent.requires_action", "payment_intent.amount_capturable_updated", "payment_intent.canceled",
        ),
    ),
    "charges.create": Made("charge", "/v1/charges", ("charge.succeeded", "charge.failed", "charge.pending", "charge.captured")),
    "refunds.create": Made("refund", "/v1/refunds", ("refund.created", "refund.updated", "refund.failed", "charge.refunded")),
    "transfers.create": Made("transfer", "/v1/transfers", ("transfer.created",)),
    "payouts.create": Made("payout", "/v1/payouts", ("payout.created",)),
    "topups.create": Made("topup", "/v1/topups", ("topup.created", "topup.succeeded", "topup.failed")),
}  # fmt: skip


def listed(path: str, query: list[tuple[str, str]]) -> Asking[Listing]:
    """Read one of Stripe's lists to its end."""
    first = f"{path}?{urlencode([*query, ('limit', str(_MOST))])}"

    def following(page: Document, last: Document) -> str | None:
        return f"{first}&starting_after={last.get('id')}" if page.get("has_more") and last.get("id") else None

    return listing(first, lambda page: page.get("data"), following)


def outcome_of(doubt: Doubt, body: Document) -> Outcome | None:
    """Read what the call cost from what it made, as from its own answer."""
    from keyguard.vendors.stripe import FLOWS

    flow = FLOWS.get(doubt.operation)
    call = Call("stripe", doubt.method, "https", "api.stripe.com", "/v1")
    try:
        return None if flow is None else flow.settle(call, Quote(doubt.amount, object_id=doubt.object_id), body, doubt.request_id)
    except (ValueError, RecursionError):
        return None
