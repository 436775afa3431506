"""Stripe's money flows through the whole guard: one call and its answer as a case, and what is proved of each. Holds no case itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin, get_type_hints

import pytest

from keyguard import context
from keyguard.drivers import drive
from keyguard.errors import SpendCapExceeded
from keyguard.model import Attempt, Call, Reply
from tests.support_guard import CENT, World
from tests.support_stripe_spec import check, operations, schema, stripe_spec, synthesized

if TYPE_CHECKING:
    from keyguard.context import Ticket

Body = Mapping[str, Any]
_PLENTY = 1_000_000  # dollars
_LATEST = {"v2.money_management.outbound_payment": "OutboundPayment", "v2.money_management.payout_intent": "PayoutIntent",
           "v2.money_management.inbound_transfer": "InboundTransfer"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """
    One call, and what it does to the money of a run that has made the calls before it. Amounts are US cents, totals of the run.

    Attributes:
        name: The operation.
        request: `POST /v1/transfers`.
        form: Its parameters; of v2, its JSON.
        answer: What Stripe answers: an object that its OpenAPI allows there, or the status of a refusal.
        quoted: What is held for the call while it is on its way, an adopted hold included.
        spent, held, refunded: What the run's budget says afterwards.
        reads: What the guard asks Stripe before the send, by path.
        before: The calls that come first.
        recurring: Stripe will charge again by itself.
        note: What is special about it, for the test's name.
    """

    name: str
    request: str
    form: Body
    answer: Body | int
    quoted: int = 0
    spent: int = 0
    held: int = 0
    refunded: int = 0
    reads: Mapping[str, Body | int] = field(default_factory=dict[str, "Body | int"])
    before: tuple[Case, ...] = ()
    recurring: bool = False
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.note}".strip().replace(" ", "-")

    @property
    def call(self) -> Call:
        """The request as the vendor will see it; a DELETE's parameters are in its query, as the SDK sends them."""
        method, path = self.request.split(" ")
        if path.startswith("/v2/"):
            return Call("stripe", method, "https", "api.stripe.com", path, document=dict(self.form), idempotency_key="k")
        pairs = tuple(flattened(self.form))
        query, body = (pairs, ()) if method == "DELETE" else ((), pairs)
        return Call("stripe", method, "https", "api.stripe.com", path, query=query, body=body, idempotency_key="k")

    @property
    def reply(self) -> Reply:
        """What Stripe answers, checked against its OpenAPI."""
        if isinstance(self.answer, int):
            return Reply(self.answer, {}, b'{"error": {"type": "card_error"}}')
        return Reply(200, {"request-id": "req_1"}, json.dumps(answered(self.request, self.answer)).encode())


def flattened(found: Body, place: str = "") -> list[tuple[str, str]]:
    """Return parameters as a form has them: `items[0][price]`."""
    pairs: list[tuple[str, str]] = []
    for name, value in found.items():
        full = f"{place}[{name}]" if place else name
        if isinstance(value, list):
            pairs += flattened({str(index): member for index, member in enumerate(value)}, full)
        elif isinstance(value, dict):
            pairs += flattened(cast("Body", value), full)
        else:
            pairs.append((full, str(value).lower() if isinstance(value, bool) else str(value)))
    return pairs


def answered(request: str, fields: Body) -> dict[str, Any]:
    """Build what an operation answers, from the schema that the OpenAPI names for it (v2's money: the SDK's class)."""
    method, _, path = request.partition(" ")
    if path.startswith("/v2/"):
        return _by_class(fields)
    wanted = _answer_schema(method, path.partition("?")[0])
    named = [option for option in wanted.get("anyOf", [wanted]) if "$ref" in option]
    for option in named:
        name = str(option["$ref"]).rpartition("/")[2]
        if set(fields) <= set(schema(name)["properties"]):
            return synthesized(name, **fields)
    body = {"object": "list", "has_more": False, "url": path, **fields}
    check(body, wanted, request)
    return body


def _answer_schema(method: str, path: str) -> dict[str, Any]:
    # The newest SDK has a write that the OpenAPI at hand lacks; it answers like its neighbour.
    wanted = path.replace("/pause", "/resume") if path.startswith("/v1/subscriptions/") else path
    found = [template for verb, template in operations() if verb == method and _pattern(template).fullmatch(wanted)]

    assert found, f"the OpenAPI has no {method} {path}"
    template = min(found, key=lambda text: text.count("{"))
    content = stripe_spec()["paths"][template][method.lower()]["responses"]["200"]["content"]
    return cast("dict[str, Any]", content["application/json"]["schema"])


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(template)))


def _by_class(fields: Body) -> dict[str, Any]:
    """Check the fields of an object of v2's money, which the OpenAPI does not have, against the class of the installed SDK."""
    from stripe.v2 import money_management

    hints = get_type_hints(getattr(money_management, _LATEST[fields["object"]]))

    assert set(fields) <= set(hints), f"{fields['object']} has no {sorted(set(fields) - set(hints))}"
    for name, value in fields.items():
        words = [word for option in [hints[name], *get_args(hints[name])] if get_origin(option) is Literal for word in get_args(option)]
        assert not words or value in words, f"{name}: {value!r} is not in {words}"
    return dict(fields)


class Till(World):
    """A world whose vendor answers one case after the other, and is asked what a case allows."""

    def run(self, case: Case, reply: Reply | None = None, *, is_lost: bool = False) -> Ticket:
        """Guard one call of a case; the case's own answer, unless another is given or it is lost."""
        ticket, flow = self.flow(case.call)
        asked: list[str] = []

        def ask(path: str, _ticket: Ticket) -> Reply:
            asked.append(path)
            body = case.reads[path]
            return Reply(body, {}, b"{}") if isinstance(body, int) else Reply(200, {}, json.dumps(answered(f"GET {path}", body)).encode())

        def send(opened: Ticket) -> None:
            with opened.attempt() as ended:
                self.sent += 1
                if is_lost:
                    ended(Attempt(error="Lost", unsent=False))
                    return
                ended(Attempt(reply=reply or case.reply))

        with context.under(ticket):
            drive(flow, ticket, send, ask)

        assert asked == list(case.reads)
        return ticket

    def limit(self, cap: int) -> None:
        """Set the run's cap from now on: the calls before may have needed more while they were on their way."""
        self.ledger.raise_cap("run-1", cap, by="test")
        self.backend.find(key_id=self.key.key_id, fresh=True)

    @property
    def whole(self) -> tuple[int, int, int, int]:
        """The run's spent, held, doubt and refunded in micro-USD."""
        usage = self.backend.usage("run:run-1")

        assert usage is not None
        return usage.spent, usage.held, usage.doubt, usage.refunded


def begun(case: Case, **policy: Any) -> Till:
    """Return a world in which the calls before a case were made."""
    world = Till({"run_usd_cap": _PLENTY, **policy})
    for earlier in case.before:
        world.run(earlier)
    return world


def prove(case: Case) -> None:
    """
    Prove a case: quoted and settled as it says, and every other ending of the same call.

    It fits a budget that is just large enough, and not one that is a micro-dollar smaller, where nothing is sent. A lost answer
    leaves all of it in doubt, and a refusal by Stripe leaves the run as it was.
    """
    world = begun(case)
    ticket = world.run(case)
    decision, quote = ticket.decision, ticket.quote

    assert ticket.operation is not None
    assert ticket.operation.name == case.name
    assert decision is not None
    assert quote is not None
    assert decision.held_amount == case.quoted * CENT
    assert world.whole == (case.spent * CENT, case.held * CENT, 0, case.refunded * CENT)
    assert quote.recurring is case.recurring
    assert world.ledger.verify() == []
    _prove_limit(case, quote.pot, decision.held_amount - decision.adopted)
    _prove_other_endings(case, quote.pot, decision.held_amount, decision.adopted)


def _prove_limit(case: Case, pot: str, added: int) -> None:
    before = begun(case).whole
    needed = added + (before[3] if pot == "refund" else sum(before[:3]))
    if added:
        fitting = begun(case, **({"refund_usd_cap": needed / 1_000_000} if pot == "refund" else {}))
        if pot == "run":
            fitting.limit(needed)
        assert fitting.run(case).receipt is not None
        tight = begun(case, **({"refund_usd_cap": (needed - 1) / 1_000_000} if pot == "refund" else {}))
        if pot == "run":
            tight.limit(needed - 1)
        sent, counted = tight.sent, tight.whole
        with pytest.raises(SpendCapExceeded):
            tight.run(case)
        assert (tight.sent, tight.whole) == (sent, counted)


def _prove_other_endings(case: Case, pot: str, amount: int, adopted: int) -> None:
    before = begun(case).whole
    lost = begun(case)
    lost.run(case, is_lost=True)
    if pot == "run":
        assert lost.whole == (before[0], before[1] - adopted, before[2] + amount, before[3])
    assert lost.ledger.verify() == []
    for status in (400, 402, 429):
        refused = begun(case)
        refused.run(case, Reply(status, {}, b"{}"))
        assert refused.whole == before
    unreadable = begun(case)
    unreadable.run(case, Reply(200, {}, b"<html>"))
    assert unreadable.whole == lost.whole
