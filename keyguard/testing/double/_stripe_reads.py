"""What Stripe's reads answer: one object, or a page of them, newest first. Changes nothing."""

from __future__ import annotations

import copy
import operator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from keyguard.testing.double._stripe_forms import Refused, missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.testing.double._stripe_books import Books, Moment
    from keyguard.testing.double._stripe_forms import Form
    from keyguard.testing.double._stripe_writes import Execute

FILTERS = {
    "payment_intent": ("customer",),
    "charge": ("customer", "payment_intent"),
    "refund": ("charge", "payment_intent"),
    "customer": ("email",),
    "event": ("type",),
}
_COMPARED = {"gte": operator.ge, "gt": operator.gt, "lte": operator.le, "lt": operator.lt}
# "List events, going back up to 30 days" (Stripe API reference, events).
_EVENTS_KEPT = 30 * 86_400
_MOST, _USUAL = 100, 10


def retrieve(kind: str) -> Callable[[Form, str], Execute]:
    """Make the read of one object of a kind."""

    def reading(_form: Form, object_id: str) -> Execute:
        def execute(books: Books, moment: Moment) -> dict[str, Any]:
            found = books.found(kind, object_id)
            if kind == "event" and found["created"] < moment.now - _EVENTS_KEPT:
                raise missing(kind, object_id)
            return copy.deepcopy(found)

        return execute

    return reading


def listing(kind: str) -> Callable[[Form, str], Execute]:
    """Make the list of a kind."""

    def reading(form: Form, _id: str) -> Execute:
        limit, created = form.integer("limit") or _USUAL, _created(form)
        if limit > _MOST:
            raise Refused(400, f"Limit may not be greater than {_MOST}", code="parameter_invalid_integer", param="limit")

        def execute(books: Books, moment: Moment) -> dict[str, Any]:
            everything: dict[str, dict[str, Any]] = getattr(books, f"{kind}s")
            oldest = moment.now - _EVENTS_KEPT if kind == "event" else 0
            wanted = [one for one in reversed(everything.values()) if one["created"] >= oldest and _meets(one, kind, form, created)]
            page, more = _page(wanted, kind, form, limit)
            return {"object": "list", "data": copy.deepcopy(page), "has_more": more, "url": f"/v1/{kind}s"}

        return execute

    return reading


def balance(_form: Form, _id: str) -> Execute:
    """GET /v1/balance: what was charged and not given back, without fees, available at once."""

    def execute(books: Books, _moment: Moment) -> dict[str, Any]:
        sums = {"usd": 0}
        for charge in books.charges.values():
            sums[charge["currency"]] = sums.get(charge["currency"], 0) + charge["amount_captured"]
        for refund in books.refunds.values():
            if books.charges[refund["charge"]]["captured"]:
                sums[refund["currency"]] -= refund["amount"]
        available = [{"amount": amount, "currency": currency, "source_types": {"card": amount}} for currency, amount in sums.items()]
        return {"object": "balance", "available": available, "livemode": False, "pending": []}

    return execute


def _meets(one: dict[str, Any], kind: str, form: Form, created: list[tuple[str, int]]) -> bool:
    if not all(_COMPARED[how](one["created"], value) for how, value in created):
        return False
    types = [value for name, value in form.params.items() if name.startswith("types[")]
    if kind == "event" and types and one["type"] not in types:
        return False
    return all(fnmatchcase(str(one[name]), value) for name in FILTERS[kind] if (value := form.text(name)) is not None)


def _created(form: Form) -> list[tuple[str, int]]:
    bounds = [("gte", "created"), ("lte", "created"), *((how, f"created[{how}]") for how in _COMPARED)]
    return [(how, value) for how, name in bounds if (value := form.timestamp(name)) is not None]


def _page(wanted: list[dict[str, Any]], kind: str, form: Form, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Cut a page out of what is wanted, and say whether there is more beyond it."""
    ids = [one["id"] for one in wanted]
    after, before = form.text("starting_after"), form.text("ending_before")
    for cursor in (after, before):
        if cursor is not None and cursor not in ids:
            raise missing(kind, cursor)
    if before is not None:
        rest = wanted[: ids.index(before)]
        return rest[-limit:], len(rest) > limit
    rest = wanted[ids.index(after) + 1 :] if after is not None else wanted
    return rest[:limit], len(rest) > limit
