"""What holds for every priced operation of Stripe: it has a case, and neither odd requests nor odd answers get round the flows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.errors import Refused
from keyguard.model import Call, Quote, Reply
from keyguard.vendors import Ask
from keyguard.vendors import _stripe_paths as paths
from keyguard.vendors.stripe import vendor
from tests.support_guard import CENT
from tests.support_stripe_money import Case, begun
from tests.support_stripe_rooms import CASES


def test_every_priced_operation_has_a_case() -> None:
    """Whoever prices another write says, and proves, what is held for it and what becomes of that."""
    priced = {write.name for write in paths.writes().values() if write.kind == "priced"}

    assert sorted(priced - {case.name for case in CASES}) == []
    assert sorted({case.name for case in CASES} - priced) == []


def test_every_priced_path_has_a_case() -> None:
    """Also where two paths are one operation."""
    rows = {(method, path) for (method, path), write in paths.writes().items() if write.kind == "priced"}
    asked = {(method, paths._match(path.split("/")[1:])) for method, path in (case.request.split(" ") for case in CASES)}

    assert rows - asked == set()


def test_cases_are_told_apart() -> None:
    """A name and a note are one case's only."""
    names = [str(case) for case in CASES]

    assert sorted({name for name in names if names.count(name) > 1}) == []


COSTLY = [case for case in CASES if case.quoted and not case.refunded and case.name != "refunds.create"]


@pytest.mark.parametrize("case", COSTLY, ids=str)
@pytest.mark.parametrize("body", [b'{"object": "coupon", "id": "x_1"}', b"{}", b"[]", b'{"id": 5, "object": []}'])
def test_an_answer_of_another_kind_is_doubt(case: Case, body: bytes) -> None:
    """What was held stays counted: nobody knows what was done."""
    world = begun(case)
    world.run(case, Reply(200, {}, body))

    assert world.whole[2] == case.quoted * CENT


# Their answer is the object that their path names.
OWN = (
    "payment_intents.", "charges.capture", "invoices.", "checkout.", "subscriptions.", "customers.subscriptions.", "subscription_items.",
    "subscription_schedules.", "issuing.", "v2.",
)  # fmt: skip
OF_ONE = [
    case for case in COSTLY
    if case.name.startswith(OWN) and ".lines." not in case.name and f"/{dict(case.answer).get('id')}" in case.request
]  # fmt: skip


@pytest.mark.parametrize("case", OF_ONE, ids=str)
def test_an_answer_about_another_object_is_doubt(case: Case) -> None:
    """A change of one object is not settled by another."""
    world = begun(case)
    world.run(case, Reply(200, {}, json.dumps(json.loads(case.reply.body or b"") | {"id": "in_other"}).encode()))

    assert world.whole[2] == case.quoted * CENT


# -- odd requests and answers ----------------------------------------------------------------------------

ODD = st.sampled_from(
    ["", "x", "-5", "1.5", "1e9", "999999999999999", "١٢", "true", "TRUE", "null", "usd", "xxx", "a/b", "price_1"]
) | st.text(max_size=6)
TAILS = st.sampled_from(
    ["", "", "[]", "[0]", "[0][price]", "[0][amount]", "[0][quantity]", "[price_data][unit_amount]", "[", "[x", "]", "[a][b"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.sampled_from(["usd", "price_1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "currency", "x", "amount"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def quoted(made: Call, answer: Reply, memory: Any = None) -> Quote | None:
    """Drive a quote with the same answer to each question; None = refused."""
    try:
        quoting = vendor.quote(made, vendor.classify(made))
        question = next(quoting)
        for _ in range(200):
            question = quoting.send(answer if isinstance(question, Ask) else memory)
    except StopIteration as stop:
        found: Quote = stop.value
        return found
    except Refused:
        return None
    raise AssertionError("a quote that never ends")


@given(st.data())
def test_an_odd_request_is_refused_or_quoted(data: st.DataObject) -> None:
    """Nothing but a refusal is raised, and no quote is below zero, whatever is sent and whatever Stripe says when it is asked."""
    case = data.draw(st.sampled_from(CASES))
    made = case.call
    names = sorted(vendor.parameters().get(case.name) or {"amount"})
    pairs = tuple(data.draw(st.lists(st.tuples(st.tuples(st.sampled_from(names), TAILS).map("".join), ODD), max_size=4)))
    own = made.body or ()
    body = data.draw(st.sampled_from([(*own, *pairs), pairs, None]))
    if made.path.startswith("/v2/"):
        made = replace(made, document=data.draw(JSON | st.fixed_dictionaries({"amount": JSON})))
    else:
        made = replace(made, body=body, query=data.draw(st.sampled_from([made.query, pairs])))
    kind = data.draw(st.sampled_from(["price", "invoice", "subscription", "customer", "list", "quote", "charge", "payment_intent"]))
    answer = {
        "object": kind,
        **data.draw(st.dictionaries(st.sampled_from(["id", "amount", "amount_due", "currency", "items", "lines"]), JSON)),
    }
    found = quoted(made, Reply(data.draw(st.sampled_from([200, 200, 404])), {}, json.dumps(answer).encode()))

    assert found is None or (found.amount >= 0 and found.prior >= 0)


@given(st.data())
def test_an_odd_answer_never_raises(data: st.DataObject) -> None:
    """Whatever stands in the fields of an answer, it is settled, released or doubted, and nothing of it is below zero."""
    case = data.draw(st.sampled_from([case for case in CASES if isinstance(case.answer, dict)]))
    made = case.call
    body = json.loads(case.reply.body or b"")
    for name in data.draw(st.lists(st.sampled_from(sorted(body)), min_size=1, max_size=3)):
        body[name] = data.draw(JSON)
    quote = Quote(
        case.quoted * CENT, object_id=data.draw(st.sampled_from([None, "x_1", body.get("id") or "x_1"])), adopts=data.draw(st.booleans())
    )
    outcome = vendor.read(made, vendor.classify(made), quote, Reply(200, {}, json.dumps(body).encode()))

    assert outcome.ending in {"settled", "released", "doubt"}
    assert outcome.cost >= 0
    assert all(fact.spent >= 0 and fact.held >= 0 for fact in outcome.facts)
