"""Resend's e-mails, through Resend's own SDK in both colours: each recipient is billed, keys last a day, lists find what was sent."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
import resend
from resend.emails._email import Email
from resend.exceptions import ResendError

from keyguard.testing.double import Fault, VendorDouble
from keyguard.testing.double.messages import Answer, Ids, Request, Work, respond
from keyguard.testing.double.resend import Resend

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = 900  # micro-USD
MAIL: Any = {"from": "me@example.com", "to": ["a@example.com", "b@example.com"], "cc": "c@example.com", "subject": "s", "html": "<p>x</p>"}
STYLES = ("sync", "async")


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[VendorDouble]:
    """A double, to which the SDK is pointed."""
    with VendorDouble() as found:
        monkeypatch.setattr(resend, "api_url", found.url)
        monkeypatch.setattr(resend, "api_key", "re_double")
        yield found


def send(style: str = "sync", key: str | None = None, **fields: Any) -> Any:
    """Send one e-mail in a style."""
    options: Any = {"idempotency_key": key} if key else None
    if style == "sync":
        return resend.Emails.send(MAIL | fields, options)
    return asyncio.run(resend.Emails.send_async(MAIL | fields, options))


@pytest.mark.parametrize("style", STYLES)
def test_each_recipient_is_billed_once_a_key(double: VendorDouble, style: str) -> None:
    """To, Cc and Bcc count; the same key and payload is the same e-mail, without a key it is another."""
    first, again, other = send(style, "k"), send(style, "k"), send(style)

    assert first["id"] == again["id"] != other["id"]
    assert double.truth.charged(vendor="resend") == 6 * UNIT
    assert double.truth.charges_by("customer") == {"a@example.com": 2, "b@example.com": 2, "c@example.com": 2}
    assert double.truth.executions_of("k") == 1


def test_a_key_is_of_one_payload_for_a_day(double: VendorDouble) -> None:
    """409 for another; after a day the key is free."""
    send(key="k")
    with pytest.raises(ResendError) as refused:
        send(key="k", subject="another")
    assert (refused.value.code, refused.value.error_type) == (409, "invalid_idempotent_request")

    double.advance(86_400)
    send(key="k", subject="another")
    assert double.truth.executions_of("k") == 2


def test_a_key_in_flight_is_in_use(double: VendorDouble) -> None:
    """409, which may be asked again later: then it is the first one's answer."""
    double.script(Fault("hold_before"))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, "sync", "k")
        double.wait_until_held()
        with pytest.raises(ResendError) as refused:
            send(key="k")
        double.release()
        sent = first.result()

    assert (refused.value.code, refused.value.error_type) == (409, "concurrent_idempotent_requests")
    assert (send(key="k")["id"], double.truth.charged()) == (sent["id"], 3 * UNIT)


@pytest.mark.parametrize(
    ("kind", "sent"), [("close_after", 1), ("error_after", 1), ("truncate", 1), ("close_before", 0), ("error_before", 0)]
)
def test_what_was_sent_is_kept_and_nothing_else(double: VendorDouble, kind: Any, sent: int) -> None:
    """Whatever became of its answer, the key gives the e-mail's id; where nothing was sent, the same key sends."""
    double.script(Fault(kind))
    with pytest.raises(ResendError):
        send(key="k")
    assert double.truth.charged() == sent * 3 * UNIT

    assert send(key="k")["id"] == double.truth.rows()[-1]["object"]
    assert double.truth.charged() == 3 * UNIT


@pytest.mark.parametrize(
    ("kind", "status", "name"),
    [
        ("unauthorized", 401, "missing_api_key"),
        ("forbidden", 403, "invalid_api_key"),
        ("missing", 404, "not_found"),
        ("rate_limit", 429, "rate_limit_exceeded"),
        ("decline", 403, "validation_error"),
        ("conflict", 409, "concurrent_idempotent_requests"),
        ("unavailable", 503, "service_unavailable"),
    ],
)
def test_what_is_refused_by_script_sends_nothing(double: VendorDouble, kind: Any, status: int, name: str) -> None:
    """And leaves the key free."""
    double.script(Fault(kind, vendor="resend", method="POST"))
    with pytest.raises(ResendError) as refused:
        send(key="k")

    assert (refused.value.code, refused.value.error_type, double.truth.charged()) == (status, name, 0)
    send(key="k")
    assert double.truth.charged() == 3 * UNIT


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"to": []}, "missing_required_field"),
        ({"from": ""}, "missing_required_field"),
        ({"subject": ""}, "missing_required_field"),
        ({"to": "nobody"}, "validation_error"),
        ({"to": ["a@example.com"] * 51}, "validation_error"),
    ],
)
def test_an_email_that_cannot_be_sent_is_refused(double: VendorDouble, wrong: dict[str, Any], name: str) -> None:
    """422; nothing sent."""
    with pytest.raises(ResendError) as refused:
        send(key="k", **wrong)

    assert (refused.value.code, refused.value.error_type, double.truth.rows()) == (422, name, [])


def test_a_batch_is_sent_whole_or_in_part(double: VendorDouble) -> None:
    """Strict: none if one is wrong; permissive: the good ones, and which were not."""
    good, bad = MAIL, MAIL | {"to": "nobody"}
    with pytest.raises(ResendError):
        resend.Batch.send([good, bad])
    assert double.truth.rows() == []

    permissive: Any = {"batch_validation": "permissive", "idempotency_key": "k"}
    sent: Any = resend.Batch.send([good, bad, good], permissive)
    again: Any = resend.Batch.send([good, bad, good], permissive)
    assert [one["id"] for one in sent["data"]] == [one["id"] for one in again["data"]]
    assert [one["index"] for one in sent["errors"]] == [1]
    assert double.truth.charged() == 6 * UNIT
    with pytest.raises(ResendError):
        resend.Batch.send([good] * 101)
    with pytest.raises(ResendError):
        resend.Batch.send([])


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'{"from": 1, "to": {"a": 1}, "subject": "s"}'])
@pytest.mark.parametrize("path", ["/emails", "/emails/batch"])
def test_what_is_no_email_is_refused(path: str, body: bytes) -> None:
    """422, whatever it is."""
    rows: list[Any] = []

    assert respond(Resend(rows.append, Ids()), Request("POST", path, {"authorization": "Bearer re_1"}, body), 0.0).status == 422
    assert rows == []


def test_what_was_sent_can_be_read_and_listed(double: VendorDouble) -> None:
    """Newest first, in pages; without its text in lists."""
    ids = [send(subject=str(n))["id"] for n in range(5)]
    found: Any = resend.Emails.get(ids[0])
    assert (found["subject"], found["to"], found["cc"], found["html"], found["last_event"]) == (
        "0", MAIL["to"], ["c@example.com"], "<p>x</p>", "sent",
    )  # fmt: skip

    def listed(**params: Any) -> tuple[list[str], bool]:
        asked: Any = params
        page: Any = resend.Emails.list(asked)
        return [mail["id"] for mail in page["data"]], page["has_more"]

    newest = list(reversed(ids))
    assert listed(limit=2) == (newest[:2], True)
    assert listed(limit=2, after=newest[1]) == (newest[2:4], True)
    assert listed(limit=2, after=newest[3]) == (newest[4:], False)
    assert listed(limit=2, before=newest[3]) == (newest[1:3], True)
    assert listed() == (newest, False)
    with pytest.raises(ResendError):
        listed(limit=101)
    with pytest.raises(ResendError):
        listed(after="nobody")
    with pytest.raises(ResendError):
        resend.Emails.get("nobody")


def test_answers_have_the_fields_of_the_sdks_types(double: VendorDouble) -> None:
    """Sent, batched, read, listed and cancelled: what its TypedDicts require is there; lists leave out what the e-mail says."""
    sent, batch = send(scheduled_at="2027-01-01T00:00:00Z"), resend.Batch.send([MAIL])
    read, listed = resend.Emails.get(sent["id"]), resend.Emails.list()

    assert set(read) >= Email.__required_keys__
    assert set(listed) >= resend.Emails.ListResponse.__required_keys__
    assert set(listed["data"][0]) >= Email.__required_keys__ - {"html", "text"}
    assert set(batch) >= resend.Batch.SendResponse.__required_keys__
    assert set(resend.Emails.cancel(sent["id"])) >= resend.Emails.CancelScheduledEmailResponse.__required_keys__


def test_a_scheduled_email_can_be_cancelled(double: VendorDouble) -> None:
    """Its money goes back; what was sent stays sent."""
    planned, sent = send(scheduled_at="in 1 hour"), send()
    resend.Emails.cancel(planned["id"])
    with pytest.raises(ResendError):
        resend.Emails.cancel(sent["id"])

    assert (double.truth.charged(), double.truth.refunded()) == (6 * UNIT, 3 * UNIT)
    assert resend.Emails.get(planned["id"])["last_event"] == "canceled"


@pytest.mark.parametrize(("secret", "status"), [("", 401), ("sk_1", 403)])
def test_credentials_must_be_resends(double: VendorDouble, monkeypatch: pytest.MonkeyPatch, secret: str, status: int) -> None:
    """Missing, or not `re_…`."""
    rows: list[Any] = []
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    answer = respond(Resend(rows.append, Ids()), Request("POST", "/emails", headers, json.dumps(MAIL).encode()), 0.0)

    assert (answer.status, rows) == (status, [])


def test_a_scheduled_email_is_sent_when_its_time_comes(double: VendorDouble) -> None:
    """By the vendors' clock; then it cannot be cancelled any more."""
    due = datetime.fromtimestamp(double.now() + 3_600, timezone.utc).isoformat()
    mail_id = send(scheduled_at=due)["id"]
    events = [resend.Emails.get(mail_id)["last_event"]]
    double.advance(3_600)
    events.append(resend.Emails.get(mail_id)["last_event"])
    with pytest.raises(ResendError):
        resend.Emails.cancel(mail_id)

    assert (events, double.truth.refunded()) == (["scheduled", "delivered"], 0)


def test_teams_are_apart(double: VendorDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """By API key: the same key of another team sends again."""
    first = send(key="k")
    monkeypatch.setattr(resend, "api_key", "re_other")

    assert send(key="k")["id"] != first["id"]
    assert len({row["account"] for row in double.truth.rows()}) == 2


@pytest.mark.parametrize(("length", "status"), [(256, 200), (257, 400), (0, 400)])
def test_a_key_has_1_to_256_characters(length: int, status: int) -> None:
    """Others are refused before anything is sent."""
    headers = {"authorization": "Bearer re_1", "idempotency-key": "k" * length}
    answer = respond(Resend(lambda _: None, Ids()), Request("POST", "/emails", headers, json.dumps(MAIL).encode()), 0.0)

    assert answer.status == status


def test_executing_and_answering_are_two_steps() -> None:
    """It can be driven without a server: in between, the key is in flight; abandoned, it is free."""
    rows: list[Any] = []
    vendor = Resend(rows.append, Ids(), window=10, unit=1)
    request = Request("POST", "/emails", {"authorization": "Bearer re_1", "idempotency-key": "k"}, json.dumps(MAIL).encode())
    begun = vendor.begin(request, 0.0)
    assert isinstance(begun, Work)
    in_flight = vendor.begin(request, 100.0)
    assert isinstance(in_flight, Answer)
    assert in_flight.status == 409
    vendor.abandon(begun)

    first = respond(vendor, request, 100.0)
    assert respond(vendor, request, 109.0) == first != respond(vendor, request, 110.0)
    assert [row.micros for row in rows] == [1] * 6
