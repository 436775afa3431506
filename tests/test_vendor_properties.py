"""Random requests and replies against the plugs: a quote is never below a cost, and nothing but a refusal comes out of a plug."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml  # type: ignore[import-untyped]  # -- it has no types
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import context
from keyguard.drivers import drive
from keyguard.errors import Refused
from keyguard.fx import load_rates
from keyguard.model import Attempt, Call, Memory, Outcome, Quote, Reply
from keyguard.patches._headers import read_body
from keyguard.vendors import Recall, vendor_named
from keyguard.vendors import _resend_paths as resend_paths
from keyguard.vendors import _stripe_money as money
from keyguard.vendors import _stripe_paths as stripe_paths
from keyguard.vendors import _twilio_paths as twilio_paths
from keyguard.vendors._tables import parameters_of
from tests.support_cassettes import FOLDER
from tests.support_guard import World
from tests.support_stripe_model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.vendors import Vendor

CENT = 10_000
RATES = load_rates({"date": "2026-11-20", "usd_per_unit": {"eur": "1.0842", "jpy": "0.0064713", "kwd": "3.2511"}})


@pytest.fixture(autouse=True)
def rates() -> Iterator[None]:
    """Pin rates of a currency with cents, one without and one with thousandths."""
    context.set_rates(RATES)
    yield
    context.set_rates(None)


def quoted(vendor: Vendor, call: Call, answer: Any) -> Quote:
    """Drive a quote; each question is answered by a function of it."""
    quoting, told = vendor.quote(call, vendor.classify(call)), None
    while True:
        try:
            question = quoting.send(told)
        except StopIteration as stop:
            found: Quote = stop.value
            return found
        told = answer(question)


# -- odd requests and odd replies ----------------------------------------------------------------------

_HOSTS = {"stripe": "api.stripe.com", "resend": "api.resend.com", "twilio": "api.twilio.com"}
_TWILIO = sorted(twilio_paths.writes())
_PRICED = [row for row in _TWILIO if twilio_paths.writes()[row].kind == "priced"]
_writes = st.one_of(
    st.sampled_from([("stripe", _HOSTS["stripe"], *row) for row in sorted(stripe_paths.writes())]),
    st.sampled_from([("resend", _HOSTS["resend"], *row) for row in sorted(resend_paths.writes())]),
    # Nearly all of Twilio's thousand writes are free: the others are asked as often as all.
    st.sampled_from([("twilio", f"{product}.twilio.com", method, path) for method, product, path in _PRICED]),
    st.sampled_from([("twilio", f"{product}.twilio.com", method, path) for method, product, path in _TWILIO]),
)
_INNER = ("", "[0][amount]", "[]", "[x][y]")
_NAMES = sorted(
    {f"{name}{inner}" for names in parameters_of("stripe").values() for name in names or () for inner in _INNER}
    | {name for names in parameters_of("twilio").values() for name in names or ()}
)
_ASKED = ["To", "From", "Body", "MediaUrl", "TimeLimit", "SendAt", "ContentSid", "Channel", "PhoneNumber", "Url", "amount", "currency"]
_odd = (
    st.text(max_size=12)
    | st.sampled_from(
        ["0", "100", "99999999", "-1", "1e3", "usd", "eur", "USD", "xxx", "true", "pi_1", "ch_1", "in_1", "٣", "\x00", "\ud800"]
    )
    | st.sampled_from(["+12125550123", "+999", "sip:a@x", "client:x", "whatsapp:+12125550123", "12345", "sms", "call", "0", "14400", "hi"])
    | st.integers(0, 10**9).map(str)
)
_pairs = st.lists(st.tuples(st.sampled_from(_ASKED) | st.sampled_from(_NAMES) | st.text(max_size=8), _odd), max_size=8).map(tuple)
_words = st.sampled_from(
    ["id", "object", "amount", "currency", "status", "data", "value", "to", "amount_received", "lines", "total", "errors"]
)
_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _odd,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words | st.sampled_from(_NAMES) | st.text(max_size=5), inner, max_size=6),
    max_leaves=16,
)
_bodies = st.one_of(
    st.tuples(_pairs, st.none()), st.tuples(st.none(), st.none()), st.tuples(_pairs, _documents), st.tuples(st.just(()), _documents)
)


def _bytes(document: Any) -> bytes:
    return json.dumps(document).encode()


_replies = st.builds(
    Reply,
    st.sampled_from([0, 101, 200, 201, 204, 303, 400, 402, 404, 408, 409, 429, 499, 500, 503, 599]),
    st.dictionaries(st.sampled_from(["request-id", "content-type", "idempotent-replayed"]), st.text(max_size=8), max_size=2),
    st.none() | st.binary(max_size=20) | _documents.map(_bytes) | st.dictionaries(_words, _odd | st.integers(), max_size=8).map(_bytes),
)
_micros = st.integers(0, 10**9)
_memories = st.none() | st.builds(
    Memory,
    st.just("pi_1"),
    own=_micros,
    spent=_micros,
    held=_micros,
    amount=_micros,
    currency=st.sampled_from(["usd", "eur", "jpy", "xxx"]),
)


@settings(max_examples=400)
@given(_writes, _bodies, _pairs, st.sampled_from(["pi_1", "x", "é", "a b", "%41"]), st.data())
def test_no_request_makes_a_plug_raise_anything_but_a_refusal(
    row: tuple[str, str, str, str], body: Any, query: Any, object_id: str, data: st.DataObject
) -> None:
    """Every write of the tables with any body, query and id, whatever the ledger and the vendor answer to a quote's questions."""
    name, host, method, template = row
    vendor, quote = vendor_named(name), Quote(0)
    path = re.sub(r"\*|\{\w+\}", object_id, template)
    call = Call(
        name,
        method,
        "https",
        host,
        path,
        query=query,
        body=body[0],
        document=body[1],
        idempotency_key=data.draw(st.none() | st.text(max_size=4)),
    )
    try:
        operation = vendor.classify(call)
        if operation.known:
            quote = quoted(vendor, call, lambda question: data.draw(_memories if isinstance(question, Recall) else _replies))
    except Refused as refusal:
        assert "othing was sent" in str(refusal)  # noqa: PT017 -- most of these do not raise
        return

    assert quote.amount >= 0
    assert isinstance(vendor.read(call, operation, quote, data.draw(_replies)), Outcome)


@settings(max_examples=200)
@given(
    st.sampled_from(["stripe", "resend"]), st.text(max_size=40) | st.lists(st.text(max_size=6), max_size=6).map("/".join), _bodies, _replies
)
def test_no_path_makes_a_plug_raise_anything_but_a_refusal(name: str, path: str, body: Any, reply: Reply) -> None:
    """A path of no table, however it is written, is malformed, a read, or a write that nobody priced."""
    vendor = vendor_named(name)
    for method in ("GET", "POST", "PUT", "X"):
        call = Call(name, method, "https", _HOSTS[name], path, body=body[0], document=body[1])
        try:
            operation = vendor.classify(call)
        except Refused as refusal:
            assert "othing was sent" in str(refusal)  # noqa: PT017 -- most of these do not raise
        else:
            assert isinstance(vendor.read(call, operation, Quote(0), reply), Outcome)


# -- valid requests, and replies as the vendor gives them -----------------------------------------------

_amounts = st.integers(1, 99_999_999)
_currencies = st.sampled_from(["usd", "USD", "eur", "jpy", "kwd"])
_steps = st.lists(
    st.tuples(
        st.sampled_from(["create", "confirm", "capture", "increment_authorization", "cancel", "update", "refund"]),
        st.integers(0, 3), _amounts, _currencies, st.booleans(), st.booleans(), st.sampled_from(["answered", "answered", "lost", "500"]),
    ),
    max_size=10,
)  # fmt: skip


def _made(step: Any, model: Model) -> Call | None:
    """Return the call of one step; None where there is no intent yet that it could be about."""
    kind, which, amount, currency, flag, other, _ = step
    ids = list(model.intents)
    if kind == "create":
        form = {
            "amount": str(amount),
            "currency": currency,
            "confirm": str(flag).lower(),
            "capture_method": "manual" if other else "automatic",
        }
        return _call("/v1/payment_intents", form)
    if not ids:
        return None
    object_id = ids[which % len(ids)]
    named = {"capture": "amount_to_capture", "increment_authorization": "amount", "update": "amount", "refund": "amount"}
    # Mostly within what there is, as a caller would ask.
    about = 1 + amount % max(1, model.intents[object_id]["amount"]) if kind != "increment_authorization" else amount
    form = {named[kind]: str(about)} if kind in named and (flag or kind == "increment_authorization") else {}
    if kind == "refund":
        return _call("/v1/refunds", {"payment_intent": object_id, **form})
    return _call(f"/v1/payment_intents/{object_id}" + ("" if kind == "update" else f"/{kind}"), form)


def _call(path: str, form: dict[str, str]) -> Call:
    return Call("stripe", "POST", "https", "api.stripe.com", path, body=tuple(form.items()), idempotency_key="k")


@settings(max_examples=150)
@given(_steps, st.lists(st.sampled_from(["succeeded", "succeeded", "declined", "requires_action", "processing"]), min_size=20, max_size=20))
def test_no_life_of_a_payment_costs_more_than_its_quotes(steps: list[Any], answers: list[str]) -> None:
    """Creates, confirms, captures, cancels and refunds in any order, some answers lost: no overrun, and never less counted than taken."""
    world = World({"run_usd_cap": 10**9, "refund_usd_cap": 10**9})
    model = Model(iter(answers * 20).__next__)
    for step in steps:
        call = _made(step, model)
        if call is None:
            continue
        ticket, flow = world.flow(call)

        def send(ticket: context.Ticket, call: Call = call, ending: str = step[-1]) -> Any:
            with ticket.attempt() as ended:
                reply = model.execute(call)
                if ending == "lost":
                    ended(Attempt(error="ReadTimeout"))
                else:
                    ended(Attempt(reply=reply if ending == "answered" else Reply(500, {}, b"{}")))
                return reply

        try:
            drive(flow, ticket, send, lambda path, _: model.show(path))
        except Refused as refusal:
            # An intent that is final has nothing left to bound; its call is never refused for want of money.
            assert refusal.reason != "cap"  # noqa: PT017 -- most of these do not raise
        usage = world.ledger.usage(f"run:{world.key.run_id}")
        truth = sum(money.micros(count, currency) for count, currency in model.charged())

        assert usage is not None
        assert usage.overrun == 0
        assert usage.spent + usage.held + usage.doubt >= truth
    assert world.ledger.verify() == []


@settings(max_examples=100)
@given(
    st.sampled_from([("/v1/transfers", "transfer"), ("/v1/payouts", "payout"), ("/v1/topups", "topup"), ("/v1/charges", "charge")]),
    _amounts, _currencies, st.data(),
)  # fmt: skip
def test_what_is_made_with_an_amount_costs_at_most_that(made: tuple[str, str], amount: int, currency: str, data: st.DataObject) -> None:
    """Whatever status such an object comes with, and whatever part of a charge is captured at once."""
    vendor = vendor_named("stripe")
    path, kind = made
    status = data.draw(st.sampled_from(["succeeded", "pending", "paid", "in_transit", "failed", "canceled", "reversed"]))
    body = {"id": "x_1", "object": kind, "amount": amount, "currency": currency.lower(), "status": status}
    if kind == "charge":
        captured = data.draw(st.integers(0, amount))
        body |= {"captured": data.draw(st.booleans()), "amount_captured": captured, "amount_refunded": data.draw(st.integers(0, captured))}
    call = _call(path, {"amount": str(amount), "currency": currency})
    quote = quoted(vendor, call, lambda _: None)
    outcome = vendor.read(call, vendor.classify(call), quote, Reply(200, {}, _bytes(body)))

    assert outcome.ending in {"settled", "released"}
    assert (
        outcome.cost + sum(fact.spent + fact.held for fact in outcome.facts[:1]) <= quote.amount == money.micros(amount, currency.lower())
    )


# -- what the peers have answered ------------------------------------------------------------------------


_VENDORS = {"resend-local": "resend", "prism-twilio": "twilio"}


def _recorded() -> Iterator[Any]:
    for file in sorted(FOLDER.glob("*/*.yaml")):
        for number, one in enumerate(yaml.safe_load(file.read_text(encoding="utf-8"))["interactions"]):
            if one["request"]["method"] == "POST":
                yield pytest.param(file, number, id=f"{file.parent.name}-{file.stem}-{number}")


@pytest.mark.parametrize(("file", "number"), list(_recorded()))
def test_no_reply_of_a_peer_costs_more_than_the_quote_of_its_request(file: Any, number: int) -> None:
    """Every write in every cassette, also under any other status than the peer's own."""
    interactions = yaml.safe_load(file.read_text(encoding="utf-8"))["interactions"]
    request, answer = interactions[number]["request"], interactions[number]["response"]
    vendor = vendor_named(_VENDORS.get(file.parent.name, "stripe"))
    pairs, document = read_body(request["body"] or "", request["headers"]["Content-Type"][0])
    call = Call(vendor.name, "POST", "https", _HOSTS[vendor.name], urlsplit(request["uri"]).path, body=pairs, document=document)

    assert vendor.classify(call).known
    # A question about an object is answered with what the peer last said of it.
    before = [one["response"]["body"]["string"].encode() for one in interactions[:number]]
    quote = quoted(vendor, call, lambda question: None if isinstance(question, Recall) else Reply(200, {}, _of(before, question.path)))
    for status in (answer["status"]["code"], 200, 402, 409, 500):
        reply = Reply(status, {}, answer["body"]["string"].encode())
        outcome = vendor.read(call, vendor.classify(call), quote, reply)
        costs = [fact.spent + fact.held - (quote.prior if fact is outcome.facts[0] else 0) for fact in outcome.facts[:1]]

        assert outcome.cost + sum(costs) <= quote.amount


def _of(bodies: list[bytes], path: str) -> bytes:
    wanted = path.rpartition("/")[2]
    return next((body for body in reversed(bodies) if json.loads(body).get("id") == wanted), b"{}")
