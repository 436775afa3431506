"""The Resend seams, through the real SDK over real HTTP: each style once, endings, replays, refusals and tokens."""

from __future__ import annotations

import asyncio
import socket
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import resend
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from resend.exceptions import ResendError
from resend.http_client import HTTPClient

import keyguard
from keyguard import telemetry
from keyguard.errors import EndpointNotAllowed, IdentityConflict, Refused, UnpricedCall
from keyguard.patches.resend import patch
from tests.support_json_server import Answer, JsonServer
from tests.support_resend_server import Resend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.ledgers import Ledger

UNIT = 900  # micro-USD
MAIL: Any = {"from": "Me <me@example.com>", "to": ["Ann <ann@example.com>", "bob@example.com"], "subject": "s", "html": "<p>x</p>"}
ONE: Any = {**MAIL, "to": "ann@example.com"}
LATER: Any = {**ONE, "scheduled_at": "2027-01-01T00:00:00Z"}
NOBODY: Any = {**ONE, "to": "nobody"}


def _async(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: asyncio.run(call(*args, **kwargs))


SENDS: dict[str, Callable[..., Any]] = {"sync": resend.Emails.send, "async": _async(resend.Emails.send_async)}
BATCHES: dict[str, Callable[..., Any]] = {"sync": resend.Batch.send, "async": _async(resend.Batch.send_async)}
each_send = pytest.mark.parametrize("style", SENDS)


@pytest.fixture
def vendor() -> Resend:
    """What was sent."""
    return Resend()


@pytest.fixture
def server(vendor: Resend, monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """Point the SDK at a loopback Resend."""
    with JsonServer(vendor.answer) as found:
        monkeypatch.setattr(resend, "api_url", found.url)
        monkeypatch.setattr(resend, "api_key", "re_12345")
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"resend={found.host}")
        yield found


@pytest.fixture
def run(server: JsonServer) -> Iterator[Callable[..., keyguard.Installation]]:
    """Install a run's guard."""
    with keyguard.run("run-1"):
        yield lambda **policy: keyguard.install(**{"run_usd_cap": 1, **policy})


def counted(installed: keyguard.Installation) -> tuple[float, float, float]:
    """Return what is spent, held and in doubt, in recipients."""
    usage = installed.usage()
    return usage.spent / UNIT, usage.held / UNIT, usage.doubt / UNIT


@each_send
def test_a_send_costs_its_recipients(run: Any, server: JsonServer, vendor: Resend, style: str, keyguard_ledger: Ledger) -> None:
    """Two recipients are two units, one call, one request; the SDK's answer is the vendor's, with its headers."""
    installed = run()
    answer = SENDS[style](MAIL)

    assert counted(installed) == (2, 0, 0) == (vendor.recipients, 0, 0)
    assert (installed.usage().calls, len(server.requests)) == (1, 1)
    assert vendor.ids == {answer["id"]}
    assert answer["http_headers"]
    assert keyguard_ledger.verify() == []


@pytest.mark.parametrize("style", BATCHES)
def test_of_a_permissive_batch_the_accepted_part_is_spent(run: Any, vendor: Resend, style: str) -> None:
    """Three e-mails, one of them refused: two of them are counted, here and at the vendor."""
    installed = run()
    answer = BATCHES[style]([MAIL, NOBODY, ONE], {"batch_validation": "permissive"})

    assert [error["index"] for error in answer["errors"]] == [1]
    assert counted(installed) == (3, 0, 0) == (vendor.recipients, 0, 0)


@pytest.mark.parametrize("style", BATCHES)
def test_a_strict_batch_that_is_refused_costs_nothing(run: Any, vendor: Resend, style: str) -> None:
    """Without the option one bad e-mail refuses all."""
    installed = run()
    with pytest.raises(ResendError, match="Invalid `to`"):
        BATCHES[style]([MAIL, NOBODY])

    assert counted(installed) == (0, 0, 0) == (vendor.recipients, 0, 0)


@pytest.mark.parametrize("style", BATCHES)
def test_a_batch_of_101_is_refused_with_a_reason(run: Any, server: JsonServer, style: str) -> None:
    """The message says what is allowed; nothing is sent."""
    run()
    with pytest.raises(Refused, match="at most 100 e-mails at Resend, this one has 101; nothing was sent") as error:
        BATCHES[style]([ONE] * 101)

    assert server.requests == []
    assert "ann@" not in str(error.value)


@each_send
def test_a_replay_of_a_key_is_counted_once(run: Any, server: JsonServer, vendor: Resend, style: str) -> None:
    """The same key and request answer with the same id, which is paid already; another key is another e-mail."""
    installed = run()
    for key in ("k1", "k1", "k1", "k2"):
        SENDS[style](MAIL, {"idempotency_key": key})

    assert counted(installed) == (4, 0, 0) == (vendor.recipients, 0, 0)
    assert (installed.usage().calls, len(server.requests)) == (2, 4)


def test_a_replayed_batch_is_counted_once(run: Any, vendor: Resend) -> None:
    """A batch is one purchase, known by its first id."""
    installed = run()
    for _ in range(3):
        resend.Batch.send([MAIL, ONE], {"idempotency_key": "k"})

    assert counted(installed) == (3, 0, 0) == (vendor.recipients, 0, 0)


def test_a_key_used_for_another_request_is_refused(run: Any, server: JsonServer, vendor: Resend) -> None:
    """Resend would answer 409 `invalid_idempotent_request`; nothing is sent, and the message says what to do."""
    installed = run()
    resend.Emails.send(MAIL, {"idempotency_key": "k"})
    with pytest.raises(IdentityConflict, match="belongs to an earlier request with other parameters"):
        resend.Emails.send(ONE, {"idempotency_key": "k"})

    assert counted(installed) == (2, 0, 0) == (vendor.recipients, 0, 0)
    assert len(server.requests) == 1


def test_a_key_that_another_run_has_used_is_released(run: Any, vendor: Resend) -> None:
    """409 invalid_idempotent_request: this one was not executed."""
    first = run()
    resend.Emails.send(MAIL, {"idempotency_key": "k"})
    with keyguard.run("another"):
        other = keyguard.install(run_usd_cap=1)
        with pytest.raises(ResendError):
            resend.Emails.send(ONE, {"idempotency_key": "k"})

    assert (counted(first), counted(other)) == ((2, 0, 0), (0, 0, 0))
    assert vendor.recipients == 2


def test_a_scheduled_email_is_held_and_given_back_when_cancelled(run: Any, vendor: Resend) -> None:
    """Held while it waits, spent once it is seen sent, free once it is cancelled."""
    installed = run()
    first, second = resend.Emails.send(LATER)["id"], resend.Emails.send(LATER)["id"]
    before = counted(installed)
    resend.Emails.cancel(first)
    after_cancel = counted(installed)
    vendor.now = datetime(2027, 1, 1, tzinfo=timezone.utc).timestamp()
    resend.Emails.get(second)

    assert (before, after_cancel, counted(installed)) == ((0, 2, 0), (0, 1, 0), (1, 0, 0))
    assert vendor.recipients == 1


@each_send
def test_a_refusal_is_the_callers_own_and_nothing_is_sent(run: Any, server: JsonServer, style: str) -> None:
    """SpendCapExceeded itself, no ResendError around it, no request more than the cap allows, no address in its text."""
    installed = run(run_usd_cap="0.0045")
    for _ in range(2):
        SENDS[style](MAIL)
    with pytest.raises(keyguard.SpendCapExceeded) as caught:
        SENDS[style](MAIL)
    SENDS[style](ONE)

    assert caught.value.__cause__ is None
    assert not isinstance(caught.value, ResendError)
    assert (len(server.requests), counted(installed)) == (3, (5, 0, 0))
    assert "@" not in str(caught.value)


@pytest.mark.parametrize("unit", ["0.0009", "0"])
@each_send
def test_a_run_may_send_so_many_emails(
    run: Any, server: JsonServer, vendor: Resend, monkeypatch: pytest.MonkeyPatch, style: str, unit: str
) -> None:
    """Recipients are counted, also where they cost nothing: what was refused, or sent under the same key before, takes no place."""
    monkeypatch.setenv("KEYGUARD_RESEND_UNIT_USD", unit)
    installed = run(max_emails=5)
    for _ in range(2):
        SENDS[style](MAIL, {"idempotency_key": "k"})
    with pytest.raises(ResendError):
        SENDS[style](NOBODY)
    SENDS[style](MAIL)
    with pytest.raises(
        keyguard.SpendCapExceeded, match=r"for 2 e-mails would pass the max_emails of run run-1: cap 5 e-mails, 4 e"
    ) as caught:
        SENDS[style](MAIL)
    SENDS[style](ONE)

    assert (caught.value.remaining, caught.value.requested) == (1, 2)
    assert installed.usage().emails == vendor.recipients == 5
    assert len(server.requests) == 5


@pytest.mark.parametrize("style", BATCHES)
def test_of_a_permissive_batch_the_accepted_emails_are_counted(run: Any, vendor: Resend, style: str) -> None:
    """What Resend refused of it leaves room for another."""
    installed = run(max_emails=4)
    BATCHES[style]([MAIL, NOBODY, ONE], {"batch_validation": "permissive"})
    resend.Emails.send(ONE)

    assert installed.usage().emails == vendor.recipients == 4


def test_a_broadcast_is_the_policys(run: Any, server: JsonServer) -> None:
    """Refused where nobody says what it costs; counted flat where the policy does; a draft is free."""
    run()
    draft: Any = {"segment_id": "s", "from": "me@example.com", "subject": "s"}
    resend.Broadcasts.create(draft)
    with pytest.raises(UnpricedCall, match=r"broadcasts\.send"):
        resend.Broadcasts.create(draft | {"send": True})
    with pytest.raises(UnpricedCall, match=r"broadcasts\.send"):
        resend.Broadcasts.send({"broadcast_id": "b"})

    assert len(server.requests) == 1


def test_a_flat_amount_prices_a_broadcast(run: Any, server: JsonServer) -> None:
    """`unpriced=0.5` counts half a dollar for it."""
    installed = run(unpriced=0.5)
    resend.Broadcasts.send({"broadcast_id": "b"})

    assert installed.usage().spent == 500_000


def test_a_standing_order_is_refused_under_every_policy(run: Any, server: JsonServer) -> None:
    """An enabled automation mails by itself from then on: also `unpriced="allow"` does not let it pass."""
    run(unpriced="allow")
    with pytest.raises(UnpricedCall, match="no cap of a run can bound"):
        resend.Automations.create({"name": "a", "status": "enabled", "steps": [], "connections": []})

    assert server.requests == []


# -- endings -----------------------------------------------------------------------------------------


def _gone() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@each_send
def test_a_refused_connection_is_released(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    """The SDK makes a 500 of it; behind that stands the proof that nothing left, and no call is counted."""
    installed = run()
    monkeypatch.setattr(resend, "api_url", _gone())
    with pytest.raises(ResendError) as error:
        SENDS[style](MAIL)

    assert error.value.code == 500
    assert (counted(installed), installed.usage().calls) == ((0, 0, 0), 0)


@each_send
def test_a_lost_answer_is_in_doubt(run: Any, server: JsonServer, vendor: Resend, style: str) -> None:
    """Executed and hung up: the same 500 of the SDK's, and what was held stays counted."""
    installed = run()
    vendor.lost = True
    with pytest.raises(ResendError) as error:
        SENDS[style](MAIL)

    assert error.value.code == 500
    assert counted(installed) == (0, 0, 2)
    assert vendor.recipients == 2


@each_send
@pytest.mark.parametrize(
    ("status", "body", "ending"),
    [
        (422, {"statusCode": 422, "name": "missing_required_field", "message": "m"}, (0, 0, 0)),
        (429, {"statusCode": 429, "name": "rate_limit_exceeded", "message": "m"}, (0, 0, 0)),
        (403, b"<html>", (0, 0, 0)),
        (409, {"statusCode": 409, "name": "concurrent_idempotent_requests", "message": "m"}, (0, 0, 2)),
        (500, {"statusCode": 500, "name": "application_error", "message": "m"}, (0, 0, 2)),
        (502, b"<html>", (0, 0, 2)),
        (200, b"<html>", (0, 0, 2)),
        (200, b"{", (0, 0, 2)),
    ],
)
def test_each_answer_ends_as_resend_documents_it(run: Any, server: JsonServer, style: str, status: int, body: Any, ending: Any) -> None:
    """Also of what is no JSON the status is known; the caller gets the SDK's error."""
    installed = run()
    kind = "text/html" if isinstance(body, bytes) and body != b"{" else "application/json"
    server.scripted = [Answer(status, body, {"Content-Type": kind})]
    with pytest.raises(ResendError):
        SENDS[style](MAIL)

    assert counted(installed) == ending


def test_an_earlier_answer_of_a_request_object_says_nothing_about_the_next(run: Any, server: JsonServer, vendor: Resend) -> None:
    """Refused once, then executed with its answer lost: the second one is in doubt, though the object still knows the first's status."""
    installed = run()
    request = resend.request.Request[Any](path="/emails", params=MAIL, verb="post")
    server.scripted = [Answer(422, {"statusCode": 422, "name": "validation_error", "message": "m"})]
    vendor.lost = True
    for _ in range(2):
        with pytest.raises(ResendError):
            request.perform()

    assert counted(installed) == (0, 0, 2)


def test_a_client_of_the_users_own_is_guarded_and_its_errors_prove_nothing(run: Any, server: JsonServer, monkeypatch: Any) -> None:
    """It may have tried before: its refused connection is doubt."""

    class Own(HTTPClient):
        def request(self, *_: Any, **__: Any) -> Any:
            raise ConnectionRefusedError

    installed = run()
    monkeypatch.setattr(resend, "default_http_client", Own())
    with pytest.raises(ResendError):
        resend.Emails.send(MAIL)

    assert counted(installed) == (0, 0, 2)


def test_without_an_awaiting_client_nothing_is_sent(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK says so before it sends: released."""
    installed = run()
    monkeypatch.setattr(resend, "default_async_http_client", None)
    with pytest.raises(ResendError, match="No async HTTP client"):
        asyncio.run(resend.Emails.send_async(MAIL))

    assert counted(installed) == (0, 0, 0)


def test_what_the_caller_handles_meanwhile_proves_nothing(run: Any, server: JsonServer) -> None:
    """A retry inside `except` of a refused connection, answered in an encoding that cannot be undone, is in doubt all the same."""
    installed = run()
    server.scripted = [Answer(200, b"no gzip", {"Content-Encoding": "gzip"})]
    try:
        raise ConnectionRefusedError
    except ConnectionRefusedError:
        with pytest.raises(ResendError):
            resend.Emails.send(MAIL)

    assert counted(installed) == (0, 0, 2)


def test_parameters_that_are_no_json_are_refused_or_the_sdks_error(run: Any, server: JsonServer) -> None:
    """Of a send the recipients cannot be counted; a free write fails in the SDK as ever."""
    run()
    with pytest.raises(Refused, match="cannot be counted"):
        resend.Emails.send(MAIL | {"tags": [object()]})
    with pytest.raises(ResendError, match="not JSON serializable"):
        resend.Contacts.create({"email": "a@example.com", "first_name": object()})  # type: ignore[typeddict-item]  # -- the point

    assert server.requests == []


def test_a_hop_that_a_seam_below_refuses_is_the_callers_own(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that follows a redirect to another call: that one is decided anew, and its refusal is not the SDK's 500."""

    class Following(HTTPClient):
        def request(self, method: str, url: str, headers: Any, json: Any = None, files: Any = None, data: Any = None) -> Any:
            with httpx.Client(follow_redirects=True) as client:
                found = client.request(method, url, headers=headers, json=json)
                return found.content, found.status_code, found.headers

    run(allowed_endpoints=["POST /emails"])
    monkeypatch.setattr(resend, "default_http_client", Following())
    server.scripted = [Answer(307, {}, {"Location": f"{server.url}/domains"})]
    with pytest.raises(EndpointNotAllowed, match="POST /domains") as caught:
        resend.Emails.send(MAIL)

    assert len(server.requests) == 1
    assert caught.value.__cause__ is None


# -- tokens and traces -------------------------------------------------------------------------------


@each_send
def test_a_vault_token_is_replaced_on_the_wire_alone(run: Any, server: JsonServer, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RESEND_API_KEY goes out in its place; the request object keeps nothing of it."""
    installed = run()
    monkeypatch.setenv("RESEND_API_KEY", "re_12345")
    monkeypatch.setattr(resend, "api_key", installed.key.token)
    SENDS[style](MAIL)

    assert [arrived.headers["authorization"] for arrived in server.requests] == ["Bearer re_12345"]
    assert counted(installed) == (2, 0, 0)


def test_a_request_object_is_as_it_was_after_a_token_was_replaced(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its private method is the class's again, and it can be used twice."""
    installed = run()
    monkeypatch.setenv("RESEND_API_KEY", "re_12345")
    monkeypatch.setattr(resend, "api_key", installed.key.token)
    request = resend.request.Request[Any](path="/emails", params=MAIL, verb="post")
    request.perform()
    monkeypatch.setattr(resend, "api_key", "re_another")
    with pytest.raises(ResendError, match="API key is invalid"):
        request.perform()

    assert [arrived.headers["authorization"] for arrived in server.requests] == ["Bearer re_12345", "Bearer re_another"]
    assert counted(installed) == (2, 0, 0)


def test_no_address_is_in_a_span_or_a_row(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch, keyguard_ledger: Ledger) -> None:
    """Sends, a read by address, a refusal: spans, entries and messages hold no `@`."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))
    run(allowed_endpoints=["POST /emails", "resend:emails.*"])
    resend.Emails.send(MAIL)
    with pytest.raises(EndpointNotAllowed) as refusal:
        resend.Contacts.get(email="steve@example.com")
    provider.shutdown()
    traces = " ".join(span.to_json() for span in exporter.get_finished_spans())

    assert [span.name for span in exporter.get_finished_spans()] == ["resend emails.send", "resend contacts.get"]
    assert "example.com" not in traces
    assert "example.com" not in str(list(keyguard_ledger.entries()))
    assert "steve" not in str(refusal.value)


def test_a_proxys_prefix_is_not_part_of_the_vendors_path(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind `https://proxy/resend` the path is the SDK's own; its query is read apart."""
    run(allowed_endpoints=["GET /emails"])
    monkeypatch.setattr(resend, "api_url", f"{server.url}/resend")
    resend.Emails.list({"limit": 3})

    assert server.requests[0].path == "/resend/emails?limit=3"


def test_the_supported_versions_are_known() -> None:
    """The seams stand where we look from 2.20 on."""
    assert [patch.supports(version) for version in ("2.20.0", "2.52.0", "3.0", "2.19.9", "1.0", "unknown")] == [True] * 3 + [False] * 3
