"""Generic vendors: the table and its rows, quotes and costs driven by hand, and what no body can make of them."""

from __future__ import annotations

import functools
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keyguard
from keyguard import vendors
from keyguard.errors import ConfigurationError, MalformedCall, Refused, RuleViolated, UnpricedCall
from keyguard.guard import guarded
from keyguard.model import Call, Operation, Outcome, Quote, Reply
from keyguard.patches._headers import read_body
from tests.support_guard import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.vendors import Vendor

USD = 1_000_000
TABLE: dict[str, Any] = {
    "POST /v1/jobs": "0.05",
    "POST /v1/jobs/*": 0.2,
    "POST /v1/jobs/free": "free",
    "POST /v1/batches/*": lambda call: 0.05 * len(call.document["items"]),
    "POST /v1/orders": vendors.Row(Decimal("1.5"), name="orders.create", idempotent=True),
    "POST /v1/reports/**": "unpriced",
    "GET /v1/lookup/*": 0.01,
    "DELETE /**": "free",
    "* /v1/any": 3,
    "POST /v1/models/*:generate": 7,
    "POST /v1/nobody": lambda call: None,
}


def made(operations: Any = None, **more: Any) -> Vendor:
    """Make a plug of a table."""
    return vendors.generic("acme", **{"hosts": ["api.acme.example"], "operations": TABLE if operations is None else operations, **more})


ACME = made()


def call(path: str = "/v1/jobs", document: Any = None, method: str = "POST", key: str | None = None, **more: Any) -> Call:
    """Return a call with a JSON body, read as a seam reads it."""
    body, parsed = read_body("" if document is None else json.dumps(document), "application/json")
    return Call("acme", method, "https", "api.acme.example", path, body=body, document=parsed, idempotency_key=key, **more)


def quoted(asked: Call, plug: Vendor = ACME) -> Quote:
    """Drive a quote by hand: it asks nothing."""
    with pytest.raises(StopIteration) as stopped:
        next(plug.quote(asked, plug.classify(asked)))
    found: Quote = stopped.value.value
    return found


def ended(status: int, asked: Call | None = None, body: Any = None, headers: Any = None, plug: Vendor = ACME) -> Outcome:
    """Return what a plug reads from a reply with this body (bytes as they are)."""
    asked = asked or call()
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    return plug.read(asked, plug.classify(asked), quoted(asked, plug), Reply(status, headers or {}, content))


# -- which row ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "name", "amount"),
    [
        ("POST", "/v1/jobs", "v1.jobs.post", 50_000),
        ("POST", "/v1/jobs/", "v1.jobs.post", 50_000),
        ("POST", "/v1/jobs/7", "v1.jobs.any.post", 200_000),
        ("POST", "/v1/jobs/free", "v1.jobs.free.post", 0),
        ("POST", "/v1/orders", "orders.create", 1_500_000),
        ("GET", "/v1/lookup/x", "v1.lookup.any.get", 10_000),
        ("GET", "/v1/jobs/7", "unknown.get", 0),
        ("HEAD", "/v1/lookup/x", "unknown.head", 0),
        ("DELETE", "/v1/jobs/7", "all.delete", 0),
        ("GET", "/v1/any", "v1.any.call", 3 * USD),
        ("PATCH", "/v1/any", "v1.any.call", 3 * USD),
        ("DELETE", "/v1/any", "v1.any.call", 3 * USD),
        ("POST", "/v1/models/m-1:generate", "v1.models.any_generate.post", 7 * USD),
        ("GET", "/", "unknown.get", 0),
    ],
)
def test_the_row_that_is_literal_for_longest_decides(method: str, path: str, name: str, amount: int) -> None:
    """Whatever the order of the table; reads without a row are free, and no part of a path becomes part of a name."""
    for plug in (ACME, made(dict(reversed(TABLE.items())))):
        asked = call(path, method=method)

        assert (plug.classify(asked).name, plug.classify(asked).known, quoted(asked, plug).amount) == (name, True, amount)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/unheard", "unknown.post"),
        ("POST", "/v1/jobs/7/8", "unknown.post"),
        ("PUT", "/v1/jobs", "unknown.put"),
        ("BREW", "/v1/jobs", "unknown.other"),
        ("POST", "/V1/jobs", "unknown.post"),
        ("POST", "/v1/reports/a/b", "v1.reports.all.post"),
        ("POST", "/v1/models/m-1", "unknown.post"),
    ],
)
def test_a_write_that_no_row_prices_is_never_free(method: str, path: str, name: str) -> None:
    """It is the policy's to decide, and the reason says where it would have stood."""
    operation = ACME.classify(call(path, method=method))

    assert (operation.name, operation.known) == (name, False)
    assert operation.unbounded is not None
    assert "acme was registered" in operation.unbounded.reason


@pytest.mark.parametrize(
    "path",
    ["/v1/../jobs", "//v1/jobs", "/v1//jobs", "/v1/jobs//", "/v1/%2e%2e/jobs", "/v1%2Fjobs", "/a b", "v1/jobs", "/v1/\\jobs", "/v1/."],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_path_that_others_may_read_differently_is_refused(path: str, method: str) -> None:
    """So no free or cheap row can be reached by a path that the vendor takes for another; the message does not repeat it."""
    with pytest.raises(MalformedCall, match="Nothing was sent") as error:
        ACME.classify(call(path, method=method))

    assert path not in str(error.value)


def test_only_declared_rows_with_a_key_are_idempotent() -> None:
    """A key is the vendor's to de-duplicate where the row says that it does; free reads can be repeated, paid ones cannot."""
    asked = [call("/v1/orders", key="k"), call("/v1/orders"), call("/v1/jobs", key="k"), call("/x", method="GET"),
             call("/v1/lookup/1", method="GET", key="k")]  # fmt: skip

    assert [ACME.classify(one).idempotent for one in asked] == [True, False, False, True, False]


# -- amounts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "micros"),
    [
        (lambda _: 0.05 * 3, 150_000),
        (lambda _: 0.1 + 0.2, 300_000),
        (lambda _: Decimal("0.0000001"), 1),
        (lambda _: Decimal("0.0000010000001"), 1),
        (lambda _: 1 / 3, 333_334),
        (lambda _: "2.50", 2_500_000),
        (lambda _: 0, 0),
        (lambda call: len(call.document["items"]), 2 * USD),
        (lambda call: call.document["hours"] * Decimal("0.01"), 15_000),
        (functools.partial(lambda unit, call: unit * len(call.document["items"]), 0.5), USD),
    ],
)
def test_what_a_function_returns_is_rounded_up(price: Callable[[Call], Any], micros: int) -> None:
    """To a whole micro-dollar, and not for the noise of floats."""
    plug = made({"POST /v1/jobs": price})

    assert quoted(call(document={"items": [1, 2], "hours": 1.5}), plug).amount == micros


def _raise(error: Exception) -> Any:
    raise error


class Nasty:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


@pytest.mark.parametrize(
    "price",
    [
        lambda call: call.document["items"],
        lambda call: len(call.document["nothing"]),
        lambda _: float("nan"),
        lambda _: float("inf"),
        lambda _: -1,
        lambda _: -0.000001,
        lambda _: True,
        lambda _: "cheap",
        lambda _: 2_000_000_000,
        lambda _: 10**5000,
        lambda _: Nasty(),
        lambda _: Decimal("sNaN"),
        lambda _: {"usd": 1},
        lambda _: _raise(ZeroDivisionError("+15551234567")),
        lambda _: _raise(RecursionError()),
    ],
)
def test_a_function_that_fails_refuses_the_call(price: Callable[[Call], Any]) -> None:
    """What it raises or returns is named by its class alone, because its words may repeat the request."""
    plug = made({"POST /v1/jobs": price})
    with pytest.raises(MalformedCall, match=r"acme v1\.jobs\.post could not make an amount") as error:
        quoted(call(document={"items": [1]}), plug)

    assert "5551234" not in str(error.value)


def test_a_function_may_refuse_by_itself() -> None:
    """A refusal that it raises is the caller's, word for word."""
    plug = made({"POST /v1/jobs": lambda _: _raise(UnpricedCall("no jobs on Sundays"))})
    with pytest.raises(UnpricedCall, match="no jobs on Sundays"):
        quoted(call(), plug)


@pytest.mark.parametrize(("unpriced", "amount"), [("refuse", None), ("allow", 0), (2, 2 * USD)])
@pytest.mark.parametrize("path", ["/v1/nobody", "/v1/unheard", "/v1/reports/x"])
def test_the_policy_prices_what_nobody_can(path: str, unpriced: Any, amount: int | None) -> None:
    """A function's None, an `unpriced` row and a write without a row are refused, let through, or counted flat."""
    world = World({"run_usd_cap": 100, "unpriced": unpriced})

    def send(ticket: Any) -> int | None:
        return None if ticket.decision is None else int(ticket.decision.held_amount)

    ticket, flow = _flow(world, call(path))
    if amount is None:
        with pytest.raises(UnpricedCall, match="Nothing was sent"):
            _driven(ticket, flow, send)
    else:
        assert _driven(ticket, flow, send) == amount


def _flow(world: World, asked: Call) -> Any:
    ticket = keyguard.context.Ticket(asked)
    return ticket, guarded(ticket, ACME, world.find)


def _driven(ticket: Any, flow: Any, send: Any) -> Any:
    return keyguard.drivers.drive(flow, ticket, send, None)


def test_allowlist_rules_and_call_cap_know_the_operations() -> None:
    """By name, by method and path, by field; as for every other vendor."""
    for policy, error in (
        ({"allowed_endpoints": ["orders.create"]}, keyguard.errors.EndpointNotAllowed),
        ({"allowed_endpoints": ["acme:GET /v1/**"]}, keyguard.errors.EndpointNotAllowed),
        ({"rules": {"v1.jobs.post": {"size": {"max": 3}}}}, RuleViolated),
        ({"call_usd_cap": 0.01}, keyguard.SpendCapExceeded),
    ):
        ticket, flow = _flow(World({"run_usd_cap": 100, **policy}), call(document={"size": 4}))
        with pytest.raises(error):
            _driven(ticket, flow, None)


# -- endings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (200, "settled"), (201, "settled"), (202, "settled"), (204, "settled"), (303, "settled"),
        (400, "released"), (401, "released"), (403, "released"), (404, "released"), (422, "released"), (429, "released"),
        (408, "doubt"), (409, "doubt"), (499, "doubt"), (500, "doubt"), (502, "doubt"), (503, "doubt"), (101, "doubt"),
    ],
)  # fmt: skip
def test_the_status_says_how_a_paid_call_ended(status: int, ending: str) -> None:
    """Success settles at the quote, a client's error gives it back, and what may have been executed stays counted."""
    outcome = ended(status)

    assert (outcome.ending, outcome.cost) == (ending, 50_000 if ending == "settled" else 0)


def test_the_statuses_that_give_back_can_be_set() -> None:
    """A vendor that executes and then says 422, and one whose 409 means that nothing was done."""
    plug = made(not_executed=[409])

    assert [ended(status, plug=plug).ending for status in (409, 422)] == ["released", "doubt"]


def test_what_is_free_costs_nothing_whatever_is_answered() -> None:
    """A free write that failed leaves nothing to doubt."""
    free = call("/v1/jobs/free")

    assert [(one.ending, one.cost) for one in (ended(500, free), ended(200, free))] == [("settled", 0)] * 2


COSTED = made(cost=lambda _call, reply: vendors.documents(reply)[0]["cost"])


@pytest.mark.parametrize(
    ("body", "cost", "source"),
    [
        ({"cost": 0.02}, 20_000, "provider"),
        ({"cost": "0.0200001"}, 20_001, "provider"),
        ({"cost": 0}, 0, "provider"),
        ({"cost": 9}, 9 * USD, "provider"),
        ({"cost": None}, 50_000, "local"),
        ({"cost": -1}, 50_000, "local"),
        ({"cost": True}, 50_000, "local"),
        ({}, 50_000, "local"),
        (b"<html>", 50_000, "local"),
        (b"\xff\x00", 50_000, "local"),
        (b"[" * 100_000, 50_000, "local"),
        (None, 50_000, "local"),
    ],
)
def test_the_cost_is_what_the_answer_says_else_what_was_held(body: Any, cost: int, source: str) -> None:
    """More than was held is the truth as well; what cannot be read is the upper bound, never doubt and never nothing."""
    outcome = ended(200, body=body, plug=COSTED)

    assert (outcome.ending, outcome.cost, outcome.source) == ("settled", cost, source)


def test_a_cost_that_cannot_be_read_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """One WARNING with the class of what went wrong; none for an answer that nobody read."""
    ended(200, body={"other": "+15551234567"}, plug=COSTED)
    ended(200, body=None, plug=COSTED)

    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("the cost of acme v1.jobs.post could not be read from its answer (KeyError); it is settled at the 50000 micro")


def test_a_cost_may_be_in_a_header_and_a_row_may_have_its_own() -> None:
    """A header is read where there is no body; a row's function goes before the vendor's."""
    row = vendors.Row(1, cost=lambda _, reply: reply.headers["x-cost"])
    plug = made({"POST /v1/jobs": row, "POST /v1/other": 1}, cost=lambda _call, _reply: 0.5)

    assert ended(204, headers={"x-cost": "0.25"}, plug=plug).cost == 250_000
    assert ended(204, call("/v1/other"), plug=plug).cost == 500_000


def test_what_is_free_is_not_asked_what_it_cost_and_what_costs_nothing_yet_is() -> None:
    """`free` is a promise; 0 is an amount, above which an answer may say more."""
    plug = made({"POST /v1/free": "free", "POST /v1/jobs": 0}, cost=lambda _call, _reply: 0.5)

    assert [ended(200, call(path), plug=plug).cost for path in ("/v1/free", "/v1/jobs")] == [0, 500_000]


@pytest.mark.parametrize("name", ["x-request-id", "request-id"])
def test_the_vendors_name_for_the_request_is_kept(name: str) -> None:
    """For its support."""
    assert [ended(status, headers={name: "req_1"}).request_id for status in (200, 400, 500)] == ["req_1"] * 3


def test_documents_of_a_stream_are_those_of_its_events() -> None:
    """Lines that are no JSON, and those that lost a part, are left out."""
    body = b'event: a\ndata: {"n": 1}\n\n: note\ndata:{"n": 2.5}\r\n\r\ndata: {"n": 3, "lo\nst"}\n\ndata: [DONE]\n\n'

    assert vendors.documents(Reply(200, {}, body)) == [{"n": 1}, {"n": Decimal("2.5")}]
    assert vendors.documents(Reply(200, {}, b'{"n": 1}')) == [{"n": 1}]
    assert vendors.documents(Reply(200, {}, b"")) == vendors.documents(Reply(200)) == []


# -- what cannot be a vendor -------------------------------------------------------------------------


_TAKES_ONE: Any = lambda reply: 1  # noqa: E731 -- as a user would write it


async def _awaited(_call: Call) -> int:
    return 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"operations": {"/v1/jobs": 1}}, "no endpoint"),
        ({"operations": {"POST v1/jobs": 1}}, "no endpoint"),
        ({"operations": {"POST /v1/jobs?x=1": 1}}, "no endpoint"),
        ({"operations": {"POST /v1/../jobs": 1}}, "no endpoint"),
        ({"operations": {"BREW /v1/jobs": 1}}, "no endpoint"),
        ({"operations": {7: 1}}, "no endpoint"),
        ({"operations": {"POST /v1/jobs": "cheap"}}, "expected an amount in US dollars"),
        ({"operations": {"POST /v1/jobs": -1}}, "between 0"),
        ({"operations": {"POST /v1/jobs": "0.0000001"}}, "more than six decimals"),
        ({"operations": {"POST /v1/jobs": None}}, "expected an amount"),
        ({"operations": {"POST /v1/jobs": lambda: 1}}, r"must take \(call\)"),
        ({"operations": {"POST /v1/jobs": lambda call, reply: 1}}, r"must take \(call\)"),
        ({"operations": {"POST /v1/jobs": _awaited}}, "coroutine function"),
        ({"operations": {"POST /v1/jobs": vendors.Row(1, name="jobs")}}, "cannot be named 'jobs'"),
        ({"operations": {"POST /v1/jobs": vendors.Row(1, name="unknown.post")}}, "cannot be named"),
        ({"operations": {"POST /v1/jobs": vendors.Row(1, name="Jobs.Create")}}, "cannot be named"),
        ({"operations": {"POST /v1/jobs": vendors.Row(1, cost=_TAKES_ONE)}}, r"must take \(call, reply\)"),
        ({"operations": {"POST /v1/jobs": 1, "post /v1/jobs/": 2}}, "is there twice"),
        ({"operations": {"POST /a/any": 1, "POST /a/*": 2}}, "both named 'a.any.post'"),
        ({"operations": ["POST /v1/jobs"]}, "a mapping of endpoints"),
        ({"cost": 5}, r"cost must be a function of \(call, reply\), got int"),
        ({"on_refused": "ignore"}, "'raise' or 'response'"),
        ({"hosts": []}, "at least one"),
        ({"hosts": "api.acme.example"}, "hosts is a list"),
        ({"hosts": [b"api.acme.example"]}, "hosts is a list"),
        ({"hosts": ["https://api.acme.example"]}, "without scheme, path and port"),
        ({"hosts": ["api.acme.example:8443"]}, "KEYGUARD_VENDOR_HOSTS"),
        ({"hosts": ["*.example"]}, "expected a host"),
        ({"hosts": ["*"]}, "expected a host"),
        ({"hosts": ["api.*.example"]}, "expected a host"),
        ({"hosts": ["bücher.example"]}, "expected a host"),
        ({"hosts": ["a.acme.example", "*.acme.example"]}, "one claim twice"),
        ({"secret_env": "sk_live_abc def"}, "the name of an environment variable"),
        ({"credential_headers": "x-api-key"}, "a list of names"),
        ({"credential_headers": ["x api key"]}, "names of headers"),
        ({"not_executed": [200]}, "from 300 on"),
        ({"not_executed": 400}, "from 300 on"),
        ({"not_executed": ["400"]}, "from 300 on"),
    ],
)
def test_what_cannot_be_read_says_what_is_expected(more: dict[str, Any], says: str) -> None:
    """At once, by the vendor's name, and not at the first call."""
    with pytest.raises(ConfigurationError, match=says) as error:
        made(**more)

    assert str(error.value).startswith("vendor 'acme': ")
    assert "sk_live" not in str(error.value)


@pytest.mark.parametrize("name", ["", "Acme", "9lives", "a:b", "a b", None, 7])
def test_a_name_is_a_word(name: Any) -> None:
    """Names stand before a colon in allowlists."""
    with pytest.raises(ConfigurationError, match="vendor's name"):
        vendors.generic(name, hosts=["api.acme.example"], operations={})


# -- no body, however odd ----------------------------------------------------------------------------

PRICES: list[Callable[[Call], Any]] = [
    lambda call: 0.05 * len(call.document["items"]),
    lambda call: call.document,
    lambda call: int(dict(call.body or ())["n"]) / 100,
    lambda call: sum(call.document.values()),
    lambda call: float(call.query[0][1]),
    lambda call: call.document[0]["usd"] ** 9,
    lambda call: None if call.document is None else str(call.document),
]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("items"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["items", "n", "usd", "a"]) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
_bodies = st.one_of(
    _json.map(lambda found: json.dumps(found).encode()), st.binary(max_size=60), st.text(max_size=40).map(str.encode), st.none()
)
_kinds = st.sampled_from(["application/json", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""])
_paths = st.sampled_from(["/v1/jobs", "/v1/x", "/", ""]) | st.text(max_size=12).map("/".__add__) | st.text(max_size=6)


@given(
    price=st.sampled_from(PRICES),
    content=_bodies,
    kind=_kinds,
    path=_paths,
    query=st.text(max_size=5),
    status=st.integers(100, 599),
    answer=_bodies,
)
def test_no_body_makes_a_plug_raise_anything_but_a_refusal(
    price: Callable[[Call], Any], content: bytes | None, kind: str, path: str, query: str, status: int, answer: bytes | None
) -> None:
    """Nor a path, nor an answer: what is quoted is an amount, and what is read is an ending that costs at least nothing."""
    plug = made({"POST /**": price}, cost=lambda call, reply: price(call) or vendors.documents(reply)[0]["usd"])
    body, document = read_body(content, kind)
    asked = Call("acme", "POST", "https", "api.acme.example", path, query=(("q", query),), body=body, document=document)
    try:
        operation = plug.classify(asked)
        quote = quoted(asked, plug) if operation.known else Quote(0)
    except Refused:
        operation, quote = Operation("unknown", known=False), Quote(0)

    assert 0 <= quote.amount <= 10**15
    outcome = plug.read(asked, operation, quote, Reply(status, {}, answer))
    assert outcome.ending in {"settled", "released", "doubt"}
    assert outcome.cost >= 0
