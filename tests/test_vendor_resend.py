"""The Resend plug: every write of the SDK classified, recipients counted, quotes driven by hand, and what replies say."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import context
from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Call, Fact, Operation, Outcome, Quote, Reply
from keyguard.patches._headers import read_body
from keyguard.vendors import _resend_paths as paths
from keyguard.vendors import claimed_hosts, vendor_named
from keyguard.vendors.resend import vendor
from tests.support_resend_sdk import UNREADABLE, requests

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = 900  # micro-USD
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
ONE = {"from": "a@example.com", "to": "b@example.com", "subject": "s"}
LATER = {**ONE, "scheduled_at": "2027-01-01T00:00:00Z"}
ID = "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"


def call(path: str = "/emails", document: Any = None, method: str = "POST", key: str | None = None) -> Call:
    """Return a call to Resend, its body read as a seam reads it."""
    body, parsed = read_body("" if document is None else json.dumps(document), "application/json")
    return Call("resend", method, "https", "api.resend.com", path, body=body, document=parsed, idempotency_key=key)


def quoted(made: Call) -> Quote:
    """Drive a quote by hand: it asks nothing."""
    quoting = vendor.quote(made, vendor.classify(made))
    with pytest.raises(StopIteration) as stopped:
        next(quoting)
    found: Quote = stopped.value.value
    return found


def answered(made: Call, status: int, body: Any) -> Outcome:
    """Return what the plug reads from a reply with this body (bytes as they are)."""
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    return vendor.read(made, vendor.classify(made), quoted(made), Reply(status, {}, content))


@pytest.fixture
def dear() -> Iterator[None]:
    """Let a recipient cost one cent."""
    context.set_unit_prices({"resend": 10_000})
    yield
    context.set_unit_prices({})


# -- every write is classified -----------------------------------------------------------------------


def test_every_write_of_the_installed_sdk_is_classified() -> None:
    """A new version of the package with a write that no row names fails here."""
    made = requests()
    writes = {request for request in made if request[0] not in {"GET", "HEAD"}}

    assert len(writes) >= 70
    assert [request for request in made if UNREADABLE in "".join(request)] == []
    assert sorted(request for request in writes if request not in paths.writes()) == []


def test_every_read_of_the_installed_sdk_has_a_name() -> None:
    """Names of reads come from the second table, which misses none."""
    reads = {path for method, path in requests() if method == "GET"}
    named = {path: vendor.classify(call(path.replace("*", "x1"), method="GET")).name for path in reads}

    assert {path: name for path, name in named.items() if name == "unknown.get" or not NAME.fullmatch(name)} == {}


@pytest.mark.parametrize(("method", "path"), sorted(paths.writes()))
def test_each_row_is_what_its_class_says(method: str, path: str) -> None:
    """Priced and free rows quote, flat ones are the policy's, refused ones say why; each with a name that policies can list."""
    for row in paths.writes()[method, path]:
        set_field = {row.field: ["x"] if row.field == "actions" else True} if row.field else None
        body: Any = {**ONE, **(set_field or {})} if set_field or row.kind == "priced" else None
        made = call(path.replace("*", "x1"), [body] if path == "/emails/batch" else body, method)
        operation = vendor.classify(made)

        assert (operation.name, operation.known) == (row.operation, row.kind != "flat")
        assert NAME.fullmatch(row.operation)
        if row.kind == "refused":
            with pytest.raises(UnpricedCall, match="nothing was sent"):
                next(vendor.quote(made, operation))
        elif row.kind != "flat":
            assert quoted(made).amount == (UNIT if row.kind == "priced" else 0)


@pytest.mark.parametrize(
    ("method", "path", "document", "name", "known"),
    [
        ("POST", "/broadcasts", {"subject": "s"}, "broadcasts.create", True),
        ("POST", "/broadcasts", {"send": False}, "broadcasts.create", True),
        ("POST", "/broadcasts", {"send": True}, "broadcasts.send", False),
        ("POST", "/broadcasts", {"send": "yes"}, "broadcasts.send", False),
        ("POST", "/broadcasts", [], "broadcasts.send", False),
        ("POST", "/broadcasts/x1/send", None, "broadcasts.send", False),
        ("POST", "/automations", {"status": "disabled"}, "automations.create", True),
        ("PATCH", "/automations/x1", {"status": "enabled"}, "automations.enable", True),
        ("PATCH", "/inboxes/x1/agent", {"actions": []}, "inboxes.agent.update", True),
        ("PATCH", "/inboxes/x1/agent", {"actions": ["forward_thread"]}, "inboxes.agent.enable", True),
        ("POST", "/emails/x1/cancel", None, "emails.cancel", True),
        ("POST", "/nothing", None, "unknown.post", False),
        ("POST", "/emails/x1/resend", None, "unknown.post", False),
        ("BREW", "/emails", None, "unknown.other", False),
        ("DELETE", "/Emails/x1", None, "unknown.delete", False),
    ],
)
def test_what_a_write_is_may_depend_on_a_field(method: str, path: str, document: Any, name: str, known: bool) -> None:
    """A broadcast that is created and sent at once is a send; what nobody classified is never free."""
    operation = vendor.classify(call(path, document, method))

    assert (operation.name, operation.known) == (name, known)


def test_a_body_that_cannot_be_read_may_hold_the_field() -> None:
    """An upload, or a stream, to a path that can be a send is taken for one."""
    made = Call("resend", "POST", "https", "api.resend.com", "/broadcasts", body=None)

    assert vendor.classify(made) == Operation("broadcasts.send", known=False)


@pytest.mark.parametrize("path", ["/emails/", "//emails", "/emails/../emails", "/emails/%2e%2e/x", "/emails%2Fbatch", "/a b", "emails"])
def test_a_path_that_others_may_read_differently_is_refused(path: str) -> None:
    """Dot segments, empty ones and encoded slashes are malformed; the message does not repeat the path, which may hold an address."""
    with pytest.raises(MalformedCall, match="Nothing was sent") as error:
        vendor.classify(call(path))

    assert path not in str(error.value)


@pytest.mark.parametrize("path", ["/contacts/steve@example.com", "/suppressions/steve%40example.com", "/emails/steve@example.com"])
def test_no_address_becomes_part_of_an_operation(path: str) -> None:
    """Contacts may be named by their address in a path; neither the name nor the object's id repeats it."""
    operation = vendor.classify(call(path, method="DELETE" if "emails" not in path else "PATCH"))

    assert "steve" not in f"{operation.name} {operation.object_id}"


def test_only_documented_keys_make_a_call_idempotent() -> None:
    """A key on a send is Resend's to de-duplicate; elsewhere, or empty, it promises nothing."""
    made = [call(document=ONE, key="k"), call("/emails/batch", [ONE], key="k"), call(document=ONE), call(document=ONE, key=""),
            call("/contacts", {}, key="k"), call("/emails", method="GET")]  # fmt: skip

    assert [vendor.classify(one).idempotent for one in made] == [True, True, False, False, False, True]


def test_the_plug_is_found_by_its_host() -> None:
    """Requests to Resend's API are Resend's."""
    assert claimed_hosts()["api.resend.com"] == "resend"
    assert vendor_named("resend") is vendor


# -- recipients --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"to": "a@x.io"}, 1),
        ({"to": ["a@x.io", "Bea <b@x.io>"]}, 2),
        ({"to": "a@x.io", "cc": "b@x.io", "bcc": ["c@x.io", "d@x.io"]}, 4),
        ({"to": ["a@x.io"], "cc": None, "bcc": []}, 1),
        ({"to": ["a@x.io", "a@x.io"]}, 2),
        ({"to": "a@x.io, b@x.io"}, 2),
        ({"to": "Doe, John <j@x.io>"}, 1),
        ({"to": '"a@x, b@x" <j@x.io>'}, 1),
        ({"to": "nobody"}, 1),
        ({"to": []}, 1),
        ({}, 1),
        ({"to": "a@x.io", "reply_to": ["r@x.io"], "from": "Me <m@x.io>"}, 1),
        ({"to": [f"u{n}@x.io" for n in range(50)]}, 50),
    ],
)
def test_each_recipient_is_one_unit(fields: dict[str, Any], count: int) -> None:
    """To, cc and bcc count alike, as text or list, with or without a name; the sender and reply-to do not."""
    assert quoted(call(document=fields)).amount == count * UNIT


def test_a_batch_is_the_sum_of_its_emails() -> None:
    """100 e-mails of two recipients each are 200 units."""
    assert quoted(call("/emails/batch", [{**ONE, "cc": "c@x.io"}] * 100)).amount == 200 * UNIT


def test_the_unit_price_is_the_settings(dear: None) -> None:
    """`KEYGUARD_RESEND_UNIT_USD` replaces the list price."""
    assert quoted(call(document=ONE)).amount == 10_000


@pytest.mark.parametrize(
    ("path", "document", "says"),
    [
        ("/emails/batch", [ONE] * 101, "at most 100 e-mails at Resend, this one has 101"),
        ("/emails/batch", [], "a JSON list of e-mails"),
        ("/emails/batch", ONE, "a JSON list of e-mails"),
        ("/emails/batch", [ONE, "x"], "a JSON object with `to`"),
        ("/emails", [ONE], "a JSON object with `to`"),
        ("/emails", None, "a JSON object with `to`"),
        ("/emails", {"to": 7}, "`to` as text or a list of texts"),
        ("/emails", {"to": "secret@x.io", "cc": [{"email": "secret@x.io"}]}, "`cc` as text or a list of texts"),
        ("/emails", {"to": [["secret@x.io"]]}, "`to` as text or a list of texts"),
    ],
)
def test_recipients_that_cannot_be_counted_are_refused(path: str, document: Any, says: str) -> None:
    """What Resend does not document is malformed; the message says what is, that nothing was sent, and no address."""
    made = call(path, document)
    with pytest.raises(MalformedCall, match=re.escape(says)) as error:
        next(vendor.quote(made, vendor.classify(made)))

    assert "othing was sent" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_form_is_no_body_of_resends() -> None:
    """Recipients are read from JSON alone."""
    body, document = read_body("to=a%40x.io", "application/x-www-form-urlencoded")
    made = Call("resend", "POST", "https", "api.resend.com", "/emails", body=body, document=document)

    with pytest.raises(MalformedCall, match="cannot be counted"):
        next(vendor.quote(made, vendor.classify(made)))


# -- replies -----------------------------------------------------------------------------------------


def test_an_accepted_email_is_spent_under_its_id() -> None:
    """The fact is about the e-mail, so that a replay, which answers with the same id, counts nothing."""
    assert answered(call(document=ONE), 200, {"id": ID}) == Outcome(
        "settled", facts=(Fact(ID, UNIT, 0, UNIT, status="sent"),), source="local"
    )


def test_a_scheduled_email_is_held_until_it_is_seen_sent_or_cancelled() -> None:
    """Scheduling spends nothing yet; a read tells what became of it, a cancel gives it back."""
    scheduled = answered(call(document=LATER), 200, {"id": ID})
    cancelled = answered(call(f"/emails/{ID}/cancel"), 200, {"object": "email", "id": ID})
    seen = [answered(call(f"/emails/{ID}", method="GET"), 200, {"id": ID, "to": ["b@x.io"], "last_event": event}).facts[0]
            for event in ("scheduled", "canceled", "delivered")]  # fmt: skip

    assert scheduled.facts == (Fact(ID, 0, UNIT, UNIT, status="scheduled"),)
    assert cancelled.facts == (Fact(ID, 0, 0, 0, status="canceled"),)
    assert quoted(call(f"/emails/{ID}/cancel")) == Quote(0, object_id=ID)
    assert [(fact.spent, fact.held) for fact in seen] == [(0, UNIT), (0, 0), (UNIT, 0)]


def test_a_list_tells_what_became_of_its_emails() -> None:
    """Each e-mail of a page that can be read is a fact; the others say nothing."""
    page = {"data": [{"id": ID, "to": ["b@x.io"], "last_event": "sent"}, {"id": "a@b", "to": "x", "last_event": "sent"}, 7]}

    assert answered(call(method="GET"), 200, page).facts == (Fact(ID, UNIT, 0, UNIT, status="sent"),)


@pytest.mark.parametrize(
    ("errors", "spent"),
    [(None, 6), ([], 6), ([{"index": 1, "message": "m"}], 4), ([{"index": 0, "message": "m"}, {"index": 1, "message": "m"}], 3)],
)
def test_a_permissive_batch_settles_what_was_accepted(errors: Any, spent: int) -> None:
    """Of e-mails with 1, 2 and 3 recipients the refused ones cost nothing."""
    batch = [{**ONE, "to": [f"u{n}@x.io" for n in range(size)]} for size in (1, 2, 3)]
    body = {"data": [{"id": f"id-{n}"} for n in range(3 - len(errors or []))], **({} if errors is None else {"errors": errors})}
    outcome = answered(call("/emails/batch", batch), 200, body)

    assert (outcome.ending, outcome.facts[0].object_id, outcome.facts[0].spent) == ("settled", "id-0", spent * UNIT)


def test_a_batch_of_which_nothing_was_accepted_costs_nothing() -> None:
    """A permissive batch may be answered 200 with errors alone."""
    outcome = answered(call("/emails/batch", [ONE]), 200, {"data": [], "errors": [{"index": 0, "message": "m"}]})

    assert outcome == Outcome("settled", source="local", units=0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422, 429, 451, 301, 307])
def test_what_resend_did_not_execute_is_released(status: int) -> None:
    """Its documented refusals, limits among them, and a request that is to be made elsewhere."""
    assert answered(call(document=ONE), status, {"name": "x", "message": "m"}).ending == "released"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"name": "application_error"}), (502, b"<html>"), (408, {}), (499, {}), (303, {}), (200, b"<html>"), (200, None),
        (200, {}), (200, []), (200, {"id": 7}), (200, {"id": "a@b.io"}), (200, {"statusCode": 422}),
        (409, {"name": "concurrent_idempotent_requests"}), (409, b""), (409, []),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_doubt(status: int, body: Any) -> None:
    """5xx, a timeout's status, a success that cannot be read, and a key that is in flight."""
    assert answered(call(document=ONE, key="k"), status, body).ending == "doubt"


def test_a_key_used_for_another_request_was_not_executed() -> None:
    """Of the two conflicts of a key this one refuses the request itself."""
    assert answered(call(document=ONE, key="k"), 409, {"name": "invalid_idempotent_request"}).ending == "released"


@pytest.mark.parametrize(
    "body",
    [{}, {"data": 3}, {"data": [{"id": "x"}]}, {"data": [], "errors": 1}, {"data": [{"id": "x"}], "errors": [{"index": 2}]},
     {"data": [{"id": "x"}], "errors": [{"index": True}]}, {"data": [{"id": "x"}, {"id": "y"}], "errors": [{"index": 0}]}, []],
)  # fmt: skip
def test_a_batch_that_is_not_answered_for_is_doubt(body: Any) -> None:
    """Each e-mail is either accepted or refused, by position; anything else may mean that all were sent."""
    assert answered(call("/emails/batch", [ONE, ONE]), 200, body).ending == "doubt"


def test_free_writes_settle_at_nothing() -> None:
    """What sends no mail costs nothing, whatever its answer looks like."""
    assert answered(call("/contacts", {"email": "a@x.io"}), 201, b"<html>") == Outcome("settled", source="local")


# -- random bodies -----------------------------------------------------------------------------------

texts = st.text(max_size=12) | st.sampled_from(["a@x.io", "Bea <b@x.io>", '"c, d@x" <e@x.io>', "a@x.io, b@x.io"])
emails = st.fixed_dictionaries(
    {"to": texts | st.lists(texts, max_size=5)},
    optional={"cc": texts | st.lists(texts, max_size=3) | st.none(), "bcc": st.lists(texts, max_size=3), "scheduled_at": texts},
)
names = st.sampled_from(["to", "cc", "bcc", "id", "data", "errors", "index", "send"]) | texts
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner),
    max_leaves=12,
)  # fmt: skip
written = sorted(paths.writes())


@given(st.lists(emails, min_size=1, max_size=6), st.data())
def test_no_reply_that_is_consistent_with_a_batch_costs_more_than_its_quote(batch: list[dict[str, Any]], data: st.DataObject) -> None:
    """Whatever part of a batch is accepted, what is booked is at most what was held, and all of it costs exactly that."""
    refused = data.draw(st.sets(st.sampled_from(range(len(batch))), max_size=len(batch)))
    made = call("/emails/batch", batch)
    ids = [{"id": f"id-{n}"} for n in range(len(batch) - len(refused))]
    outcome = answered(made, 200, {"data": ids, "errors": [{"index": n, "message": "m"} for n in refused]})
    cost = sum(fact.spent + fact.held for fact in outcome.facts)

    assert outcome.ending == "settled"
    assert (cost == quoted(made).amount) if not refused else (cost < quoted(made).amount)


@given(emails, st.sampled_from([200, 201]))
def test_no_reply_to_one_email_costs_more_than_its_quote(email: dict[str, Any], status: int) -> None:
    """What is spent or held for one e-mail is its quote, and at least one unit."""
    made = call(document=email)
    fact = answered(made, status, {"id": ID}).facts[0]

    assert fact.spent + fact.held == quoted(made).amount >= UNIT


@given(st.sampled_from(written), junk, st.integers(100, 599), junk | st.binary(max_size=40))
def test_no_body_makes_the_plug_raise_anything_but_a_refusal(row: tuple[str, str], body: Any, status: int, said: Any) -> None:
    """Odd requests are refused as malformed or unpriced; reading an odd reply never raises."""
    made = call(row[1].replace("*", "x1"), body, row[0])
    operation, quote = vendor.classify(made), Quote(0)
    try:
        quote = quoted(made)
    except (MalformedCall, UnpricedCall) as refusal:
        assert "othing was sent" in str(refusal)  # noqa: PT017 -- most of these do not raise
    content = said if isinstance(said, bytes) else json.dumps(said).encode()

    assert vendor.read(made, operation, quote, Reply(status, {}, content)).ending in {"settled", "released", "doubt"}


@given(st.text(max_size=30), st.sampled_from(["GET", "POST", "DELETE", "X"]))
def test_no_path_makes_the_plug_raise_anything_but_a_refusal(path: str, method: str) -> None:
    """Any text is a path with a name from the tables, or malformed."""
    try:
        assert NAME.fullmatch(vendor.classify(call(path, method=method)).name)
    except MalformedCall as refusal:
        assert "othing was sent" in str(refusal)  # noqa: PT017 -- most of these do not raise
