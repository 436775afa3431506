"""Calls to Stripe that bear no mark: looked for by amount, customer and time. Reads only; part of the stripe plug."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.identity import payee_of
from keyguard.vendors import _stripe_money as money
from keyguard.vendors._inquiry import AHEAD, SKEW, Candidate, Finding
from keyguard.vendors._stripe_made import MARGIN, Made, listed, outcome_of

if TYPE_CHECKING:
    from keyguard.model import Doubt
    from keyguard.vendors._inquiry import Document, Inquiry


def by_likeness(doubt: Doubt, made: Made) -> Inquiry:
    """Look for whatever the call may have made: of its amount, its customer, its time."""
    since, until = int(doubt.at - AHEAD), int(doubt.sent_at + MARGIN + SKEW) + 1
    query = [("created[gte]", str(since)), ("created[lte]", str(until))]
    if made.kind == "refund" and doubt.object_id:
        query.append(("payment_intent" if doubt.object_id.startswith("pi_") else "charge", doubt.object_id))
    found = yield from listed(made.path, query)
    if not found.is_whole:
        return Finding(words=found.why)
    alike = [candidate for body in found.items if (candidate := _candidate(doubt, body)) is not None]
    unsure = next((one for one in alike if isinstance(one, str)), None)
    ours = tuple(one for one in alike if isinstance(one, Candidate))
    if unsure is not None:
        return Finding(words=f"{unsure} was made then, and may or may not be of this call; look at it, and settle or release by hand")
    return Finding(words=f"of its {len(found.items)} {made.kind}s of that time {len(ours)} look like it", candidates=ours, is_whole=True)


def _candidate(doubt: Doubt, body: Document) -> Candidate | str | None:
    """Return an object that looks like the call's; only its name, where nobody can tell; None = it surely is another's."""
    object_id, path = money.id_of(body) or "an object without an id", f"/v1/{body.get('object')}s"
    named = [f"{path} {name}={value}" for name in money.PAYEES if (value := money.id_of(body.get(name)))]
    is_named = doubt.payee in {payee_of(doubt.scope, one) for one in named} if doubt.payee else not _customer_in(body)
    if not is_named and _customer_in(body):
        # Of those who can be named a customer comes first, in the request as in what was made of it: this one is another's.
        return None
    outcome = outcome_of(doubt, body)
    if outcome is None or money.currency_of(body) != "usd":
        # What it counted by when it was sent need not be what is counted by now.
        return object_id
    if money.units(body, "amount") != doubt.amount:
        return None
    if not is_named or body.get("object") == "refund":
        # A card is written otherwise in what it paid. And refunds that were answered are not known to the ledger by their ids.
        return object_id
    created = body.get("created")
    return Candidate(object_id, outcome, float(created) if isinstance(created, int) else 0.0)


def _customer_in(body: Document) -> bool:
    return bool(body.get("customer") or body.get("customer_account"))
