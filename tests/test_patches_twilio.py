"""The Twilio seams, through the real SDK over real HTTP: what a call is read as, refusals, tokens, tickets, and clients of users' own."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp
import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twilio.base.client_base import ClientBase
from twilio.base.exceptions import TwilioRestException
from twilio.credential.client_credential_provider import ClientCredentialProvider
from twilio.credential.credential_provider import CredentialProvider
from twilio.http import AsyncHttpClient, HttpClient
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.client_token_manager import ClientTokenManager
from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.http.validation_client import ValidationClient, ValidationPayload
from twilio.jwt.validation import ClientValidationJwt
from twilio.rest import Client

import keyguard
from keyguard import patches, telemetry
from keyguard.errors import ConfigurationError, EndpointNotAllowed, MalformedCall, RuleViolated
from keyguard.patches.twilio import aread, patch
from tests.support_json_server import Answer, JsonServer
from tests.support_twilio_clients import FROM, MESSAGE, STYLES, TO, awaited, client_for, everywhere, pointed, send
from tests.support_twilio_server import ACCOUNT, INVALID, SERVICE, SUBACCOUNT, TOKEN, Twilio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.ledgers import Ledger

UNIT = 14_800  # micro-USD: a segment to the US, with what carriers add
MESSAGES = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
each_style = pytest.mark.parametrize("style", STYLES)


@pytest.fixture
def vendor() -> Twilio:
    """What was bought."""
    return Twilio()


@pytest.fixture
def server(vendor: Twilio, monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """A loopback Twilio that is listed."""
    for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_REGION", "TWILIO_EDGE"):
        monkeypatch.delenv(name, raising=False)
    with JsonServer(vendor.answer) as found:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"twilio={found.host}")
        yield found


@pytest.fixture
def run(server: JsonServer) -> Iterator[Callable[..., keyguard.Installation]]:
    """Install a run's guard."""
    with keyguard.run("run-1"):
        yield lambda **policy: keyguard.install(**{"run_usd_cap": 5, **policy})


def counted(installed: keyguard.Installation) -> tuple[float, float, float]:
    """Return what is spent, held and in doubt, in segments."""
    usage = installed.usage()
    return usage.spent / UNIT, usage.held / UNIT, usage.doubt / UNIT


def authorizations(server: JsonServer) -> list[str]:
    """Return what came as credentials, Basic decoded."""
    found = [arrived.headers.get("authorization", "").partition(" ") for arrived in server.requests]
    return [base64.b64decode(value).decode() if scheme == "Basic" else value for scheme, _, value in found]


# -- reading ---------------------------------------------------------------------------------------


@each_style
def test_a_message_costs_its_segments(run: Any, server: JsonServer, vendor: Twilio, style: str, keyguard_ledger: Ledger) -> None:
    """Two segments are two units, one call, one request; the SDK's answer is the vendor's."""
    installed = run()
    answer = send(server.url, style, body="x" * 200)

    assert counted(installed) == (2, 0, 0) == (vendor.segments, 0, 0)
    assert (installed.usage().calls, len(server.requests)) == (1, 1)
    assert answer.sid in vendor.messages
    assert keyguard_ledger.verify() == []


@each_style
def test_the_form_is_read_as_it_is_sent(run: Any, server: JsonServer, style: str) -> None:
    """Text of the world, lists, booleans, numbers: a rule on each field sees what the vendor got."""
    run(rules={"messages.create": {"MediaUrl": ["https://example.com/a b"], "ProvideFeedback": ["true"], "ValidityPeriod": {"max": 60}}})
    fields: dict[str, Any] = {"media_url": ["https://example.com/a b"], "provide_feedback": True, "validity_period": 60, "body": "ü€ & =?"}
    send(server.url, style, **fields)
    with pytest.raises(RuleViolated, match="MediaUrl"):
        send(server.url, style, **fields | {"media_url": ["https://example.com/a b", "https://example.com/c"]})

    assert len(server.requests) == 1
    assert server.requests[0].form == {
        "To": TO, "From": FROM, "Body": "ü€ & =?", "MediaUrl": "https://example.com/a b", "ProvideFeedback": "true", "ValidityPeriod": "60",
    }  # fmt: skip


@each_style
def test_a_field_that_is_left_out_is_added_by_the_policys_rule(run: Any, server: JsonServer, style: str) -> None:
    """A call without TimeLimit is sent with the policy's, and quoted by it: two minutes."""
    installed = run(rules={"calls.create": {"TimeLimit": {"default": 120, "max": 120}}})
    fields: dict[str, Any] = {"to": TO, "from_": FROM, "twiml": "<Response/>"}
    if style == "sync":
        client_for(server.url).calls.create(**fields)
    else:
        awaited(server.url, lambda client: client.calls.create_async(**fields))

    assert server.requests[0].form["TimeLimit"] == "120"
    assert installed.usage().spent == 2 * 14_000


def test_a_raw_form_is_completed_in_the_kind_that_it_was(run: Any, server: JsonServer) -> None:
    """A mapping, a list of pairs, a text and nothing at all each go out with the rule's field."""
    run(rules={"messages.create": {"ValidityPeriod": {"default": 60, "max": 60}}})
    client, form = client_for(server.url), {"To": TO, "From": FROM, "Body": "hi"}
    for data in (form, list(form.items()), urlencode(form)):
        assert client.request("POST", server.url + MESSAGES, data=data).status_code == 201
    with pytest.raises(MalformedCall, match="To is missing"):
        client.request("POST", server.url + MESSAGES)

    assert [arrived.form["ValidityPeriod"] for arrived in server.requests] == ["60"] * 3
    assert form == {"To": TO, "From": FROM, "Body": "hi"}


def test_a_body_that_only_the_library_can_write_is_refused(run: Any, server: JsonServer) -> None:
    """A file or a generator cannot be read twice: nothing of it is read here, and nobody can price it."""
    run()
    for data in (iter([("To", TO)]), {"To": iter([TO])}):
        with pytest.raises(MalformedCall):
            client_for(server.url).request("POST", server.url + MESSAGES, data=data)

    assert server.requests == []


@each_style
def test_json_is_read_from_what_the_sdk_was_given(run: Any, server: JsonServer, style: str) -> None:
    """Twilio's 9.13 writes JSON as a form where it is awaited; the call is the same one here."""
    installed = run(unpriced="0.02")
    document = {"phone_numbers": [{"phone_number": TO, "fields": ["caller_name"]}]}
    headers = {"Content-Type": "application/json"}
    url = f"{server.url}/v2/batch/query"
    if style == "sync":
        client_for(server.url).request("POST", url, data=document, headers=headers)
    else:
        awaited(server.url, lambda client: client.request_async("POST", url, data=document, headers=headers))

    assert len(server.requests) == 1
    assert installed.usage().calls == 1


@each_style
@pytest.mark.parametrize("name", ["my doc", "dö/k", "a+b@c", "%41"])
def test_a_path_is_the_one_on_the_wire(run: Any, server: JsonServer, style: str, name: str) -> None:
    """What the HTTP library quotes is one call here and one there, not two."""
    installed = run(unpriced="0.02")
    url = f"{server.url}/v1/Services/{SERVICE}/Documents/{name}"
    if style == "sync":
        client_for(server.url).request("GET", url)
    else:
        awaited(server.url, lambda client: client.request_async("GET", url))

    assert (installed.usage().calls, len(server.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("path", "account"),
    [
        (f"/2010-04-01/Accounts/{SUBACCOUNT}/Messages.json", SUBACCOUNT),
        (f"/2010-04-01/Accounts/{SUBACCOUNT}.json", SUBACCOUNT),
        (f"/v2/PhoneNumbers/{TO}", ACCOUNT),
    ],
)
def test_a_subaccount_is_billed_for_what_its_path_names(path: str, account: str) -> None:
    """Whoever authenticates; where a path names none it is the client's account, also behind an API key."""
    read = aread(Client("SK1", TOKEN, ACCOUNT), ("POST", f"https://api.twilio.com{path}"), {})

    assert read is not None
    assert read.call.account == account


def test_a_region_and_an_edge_are_part_of_the_host(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`get_hostname` is applied inside the SDK's request: the vendor's host is the final one, and a vault token may go there."""
    sent: list[str] = []

    class Recording(HttpClient):  # type: ignore[misc]  # -- the SDK has no types
        def __init__(self) -> None:
            super().__init__(None, is_async=False)

        def request(self, method: str, uri: str, **options: Any) -> Response:
            sent.extend([uri, *options["auth"]])
            return Response(201, json.dumps({"sid": f"SM{1:032x}", "num_segments": "1", "status": "queued"}))

    installed = run()
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    Client(ACCOUNT, installed.key.token, region="ie1", edge="dublin", http_client=Recording()).messages.create(**MESSAGE)

    assert sent == [f"https://api.dublin.ie1.twilio.com{MESSAGES}", ACCOUNT, TOKEN]
    assert counted(installed) == (1, 0, 0)


def test_a_proxys_prefix_is_not_part_of_the_vendors_path(run: Any, server: JsonServer) -> None:
    """Behind `https://proxy/twilio` the path is Twilio's own, for the SDK and for the wire below it."""
    installed = run(allowed_endpoints=["POST /2010-04-01/Accounts/*/Messages.json"])
    server.answer = lambda _: Answer(201, {"sid": f"SM{1:032x}", "num_segments": "1", "status": "queued"})
    for style in STYLES:
        send(f"{server.url}/twilio", style)

    assert [arrived.path for arrived in server.requests] == [f"/twilio{MESSAGES}"] * 2
    assert installed.usage().calls == 2


@each_style
def test_a_host_that_the_client_rewrites_keeps_the_vendors_own_path(run: Any, server: JsonServer, style: str) -> None:
    """A proxy put in by `get_hostname`, the original host before the path: one call, known by the path that Twilio documents."""

    class Proxied(Client):  # type: ignore[misc]  # -- the SDK has no types
        def get_hostname(self, uri: str) -> str:
            return uri.replace("https://", f"{server.url}/twilio/")

    installed = run(allowed_endpoints=["POST /2010-04-01/Accounts/*/Messages.json"])
    server.answer = lambda _: Answer(201, {"sid": f"SM{1:032x}", "num_segments": "1", "status": "queued"})
    if style == "sync":
        Proxied(ACCOUNT, TOKEN).messages.create(**MESSAGE)
    else:

        async def asked() -> None:
            async with AsyncTwilioHttpClient() as http_client:
                await Proxied(ACCOUNT, TOKEN, http_client=http_client).messages.create_async(**MESSAGE)

        asyncio.run(asked())

    assert [arrived.path for arrived in server.requests] == [f"/twilio/api.twilio.com{MESSAGES}"]
    assert (installed.usage().calls, counted(installed)) == (1, (1, 0, 0))


def test_arguments_that_are_none_are_the_sdks_own_error(run: Any, server: JsonServer) -> None:
    """A missing method or a URL that is none raises what it raises without keyguard, and nothing is held."""
    installed = run()
    client = client_for(server.url)
    with pytest.raises(TypeError):
        client.request("POST")
    with pytest.raises(requests.exceptions.RequestException):
        client.request("POST", "http://[::1", data={})
    with pytest.raises(requests.exceptions.RequestException):
        client.request("POST", "no url", data={})

    assert (counted(installed), server.requests) == ((0, 0, 0), [])


def test_what_cannot_be_read_is_not_left_to_a_client_that_nobody_guards(run: Any, server: JsonServer) -> None:
    """A user's own client might make something of it: refused, with what is allowed."""
    run()
    client = client_for(server.url, http_client=Urllib())
    for arguments in (("POST", b"https://api.twilio.com/x"), ("POST", "no url"), ("POST", server.url + MESSAGES, [1])):
        with pytest.raises(ConfigurationError, match="must be text"):
            client.request(*arguments)

    assert server.requests == []


# -- refusals --------------------------------------------------------------------------------------


@each_style
def test_a_refusal_is_the_callers_own_and_nothing_is_sent(run: Any, server: JsonServer, style: str) -> None:
    """SpendCapExceeded itself, nothing around it, no request more than the cap allows, no number in its text."""
    installed = run(run_usd_cap="0.0296")
    for _ in range(2):
        send(server.url, style)
    with pytest.raises(keyguard.SpendCapExceeded) as caught:
        send(server.url, style)

    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert (len(server.requests), counted(installed)) == (2, (2, 0, 0))
    assert "+1" not in str(caught.value)


def test_a_refusal_is_not_retried_by_an_awaited_client(run: Any, server: JsonServer) -> None:
    """With `max_retries` on, the first try is refused once and for all."""
    run(run_usd_cap="0.01")
    with pytest.raises(keyguard.SpendCapExceeded):
        awaited(server.url, lambda client: client.messages.create_async(**MESSAGE), max_retries=5)

    assert server.requests == []


@each_style
def test_observing_refuses_nothing_and_books_the_truth(run: Any, server: JsonServer, style: str) -> None:
    """Above its cap the call goes out, and is counted."""
    installed = run(run_usd_cap="0.01", mode="observe")
    for _ in range(2):
        send(server.url, style)

    assert (counted(installed), len(server.requests)) == ((2, 0, 0), 2)


def test_an_awaited_client_that_is_not_awaited_is_refused(run: Any, server: JsonServer) -> None:
    """What the blocking method would return is sent when nobody guards it any more; the message says what to call."""
    installed = run()

    async def asked() -> None:
        async with AsyncTwilioHttpClient() as http_client:
            client_for(server.url, http_client=http_client).messages.create(**MESSAGE)

    with pytest.raises(ConfigurationError, match="request_async"):
        asyncio.run(asked())

    assert (counted(installed), server.requests) == ((0, 0, 0), [])


def test_a_blocking_client_that_is_awaited_is_the_sdks_own_error(run: Any, server: JsonServer) -> None:
    """It says so before it sends: what was held is given back."""
    installed = run()
    with pytest.raises(RuntimeError, match="must be asynchronous"):
        asyncio.run(client_for(server.url).messages.create_async(**MESSAGE))

    assert (counted(installed), installed.usage().calls) == ((0, 0, 0), 0)


# -- tickets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_listed", [True, False])
def test_each_send_of_an_awaited_client_reserves(run: Any, server: JsonServer, vendor: Twilio, monkeypatch: Any, is_listed: bool) -> None:
    """It sends a message again on a 5xx, executed or not: three sends, three reservations, two of them in doubt. Listed or not."""
    if not is_listed:
        monkeypatch.delenv("KEYGUARD_VENDOR_HOSTS")
    installed, vendor.unstable = run(), 2
    awaited(server.url, lambda client: client.messages.create_async(**MESSAGE), max_retries=3)

    assert counted(installed) == (1, 0, 2)
    assert (installed.usage().calls, len(server.requests), vendor.segments) == (3, 3, 3)


def test_each_send_again_is_in_doubt_as_soon_as_it_failed(run: Any, server: JsonServer, vendor: Twilio) -> None:
    """Its answer is dropped unread: two sends fit, the third is refused, and no hold of theirs waits for the next call."""
    installed, vendor.unstable = run(run_usd_cap="0.03"), 3
    with pytest.raises(keyguard.SpendCapExceeded):
        awaited(server.url, lambda client: client.messages.create_async(**MESSAGE), max_retries=3)

    assert (counted(installed), len(server.requests)) == ((0, 0, 2), 2)


@pytest.mark.parametrize("retries", [None, 3])
def test_without_aiohttps_seam_a_client_that_sends_again_is_refused(
    run: Any, server: JsonServer, vendor: Twilio, monkeypatch: pytest.MonkeyPatch, retries: int | None
) -> None:
    """Where another library has restored it: a single send is seen by the SDK's own seam."""
    installed = run()
    monkeypatch.setattr(aiohttp.BaseConnector, "connect", inspect.unwrap(vars(aiohttp.BaseConnector)["connect"]))
    if retries is None:
        awaited(server.url, lambda client: client.messages.create_async(**MESSAGE))
    else:
        with pytest.raises(ConfigurationError, match="max_retries"):
            awaited(server.url, lambda client: client.messages.create_async(**MESSAGE), max_retries=retries)

    assert (counted(installed), len(server.requests)) == (((1, 0, 0), 1) if retries is None else ((0, 0, 0), 0))


def test_a_send_again_that_does_not_fit_is_refused(run: Any, server: JsonServer, vendor: Twilio) -> None:
    """The second send is over the cap: the caller gets the refusal, and the first is in doubt."""
    installed, vendor.unstable = run(run_usd_cap="0.02"), 2
    with pytest.raises(keyguard.SpendCapExceeded):
        awaited(server.url, lambda client: client.messages.create_async(**MESSAGE), max_retries=3)

    assert (counted(installed), len(server.requests)) == ((0, 0, 1), 1)


def test_a_client_of_the_users_own_that_sends_again_reserves_again(run: Any, server: JsonServer, vendor: Twilio) -> None:
    """A subclass with a retry of its own over the SDK's: each of its sends is seen."""

    class Stubborn(TwilioHttpClient):  # type: ignore[misc]  # -- the SDK has no types
        def request(self, *args: Any, **options: Any) -> Any:
            answer = super().request(*args, **options)
            return answer if answer.status_code < 500 else self.request(*args, **options)

    installed, vendor.unstable = run(), 1
    client_for(server.url, http_client=Stubborn()).messages.create(**MESSAGE)

    assert (counted(installed), len(server.requests)) == ((1, 0, 1), 2)


@each_style
def test_a_token_that_is_fetched_inside_is_a_call_of_its_own(run: Any, server: JsonServer, style: str, keyguard_ledger: Ledger) -> None:
    """A credential provider POSTs to `oauth` within the request: it is free, and the message is reserved exactly once."""
    installed = run()
    manager = ClientTokenManager("client_credentials", "OQ1", "s3cret")
    pointed(manager.client, **everywhere(server.url))
    provider = ClientCredentialProvider("OQ1", "s3cret", manager)
    if style == "sync":
        client = pointed(Client(account_sid=ACCOUNT, credential_provider=provider), **everywhere(server.url))
        client.messages.create(**MESSAGE)
    else:

        async def asked() -> None:
            async with AsyncTwilioHttpClient() as http_client:
                client = Client(account_sid=ACCOUNT, credential_provider=provider, http_client=http_client)
                await pointed(client, **everywhere(server.url)).messages.create_async(**MESSAGE)

        asyncio.run(asked())

    reserved = [(row["operation"], row["amount"]) for row in keyguard_ledger.entries("run:run-1") if row["kind"] == "reserve"]
    assert sorted(reserved) == [("messages.create", UNIT), ("oauth.token.create", 0)]
    assert [arrived.path for arrived in server.requests] == ["/v2/token", MESSAGES]
    assert counted(installed) == (1, 0, 0)
    assert "s3cret" not in str(list(keyguard_ledger.entries()))


@each_style
@pytest.mark.parametrize("status", [302, 307])
def test_redirects_are_not_followed_and_cost_nothing(run: Any, server: JsonServer, style: str, status: int) -> None:
    """The SDK follows none: what was asked elsewhere was not executed."""
    installed = run()
    server.scripted = [Answer(status, {}, {"Location": f"{server.url}{MESSAGES}"})]
    with pytest.raises(TwilioRestException, match="Unable to create record"):
        send(server.url, style)

    assert (counted(installed), len(server.requests)) == ((0, 0, 0), 1)


@each_style
def test_a_redirect_that_is_followed_is_decided_hop_by_hop(run: Any, server: JsonServer, style: str) -> None:
    """`allow_redirects=True`, given to the client's own method: a moved message is covered by its reservation."""
    installed = run()
    server.scripted = [Answer(307, {}, {"Location": f"{server.url}{MESSAGES}"})]
    form = {"To": TO, "From": FROM, "Body": "hi"}
    if style == "sync":
        client_for(server.url).request("POST", server.url + MESSAGES, data=form, allow_redirects=True)
    else:
        awaited(server.url, lambda client: client.request_async("POST", server.url + MESSAGES, data=form, allow_redirects=True))

    assert (counted(installed), len(server.requests)) == ((1, 0, 0), 2)


# -- clients of users' own -------------------------------------------------------------------------


class Urllib(HttpClient):  # type: ignore[misc]  # -- the SDK has no types
    """A user's client over a library that no seam stands in."""

    def __init__(self) -> None:
        super().__init__(None, is_async=False)
        self.asked: list[dict[str, Any]] = []

    def request(self, method: str, uri: str, **options: Any) -> Response:
        """Send by urllib."""
        self.asked.append(options)
        user, password = options["auth"]
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        data = urlencode(options["data"], doseq=True).encode() if options["data"] else None
        request = urllib.request.Request(uri, data, {**options["headers"], "Authorization": f"Basic {basic}"}, method=method)
        with urllib.request.urlopen(request, timeout=10) as found:
            return Response(found.status, found.read().decode(), dict(found.headers))


def test_a_client_over_another_library_is_seen_by_the_sdks_seam(run: Any, server: JsonServer, vendor: Twilio) -> None:
    """Nothing below tells of its attempt, so the SDK's seam does: settled by the answer it returns."""
    installed = run()
    client_for(server.url, http_client=Urllib()).messages.create(**MESSAGE)

    assert (counted(installed), vendor.segments) == ((1, 0, 0), 1)


def test_an_awaited_client_over_another_library_is_seen_too(run: Any, server: JsonServer) -> None:
    """The same, awaited."""

    class Threaded(AsyncHttpClient):  # type: ignore[misc]  # -- the SDK has no types
        def __init__(self) -> None:
            super().__init__(None, is_async=True)

        async def request(self, method: str, uri: str, **options: Any) -> Response:
            return await asyncio.to_thread(Urllib().request, method, uri, **options)

    installed = run()
    asyncio.run(client_for(server.url, http_client=Threaded()).messages.create_async(**MESSAGE))

    assert (counted(installed), len(server.requests)) == ((1, 0, 0), 1)


def test_the_error_of_a_client_that_nobody_sees_proves_nothing(run: Any, server: JsonServer) -> None:
    """It may have tried before: its refused connection is doubt."""

    class Refused(Urllib):
        def request(self, method: str, uri: str, **options: Any) -> Response:
            raise ConnectionRefusedError

    installed = run()
    with pytest.raises(ConnectionRefusedError):
        client_for(server.url, http_client=Refused()).messages.create(**MESSAGE)

    assert counted(installed) == (0, 0, 1)


@pytest.mark.parametrize(("is_own", "expected"), [(True, (0, 0, 1)), (False, (0, 0, 0))])
def test_the_error_of_a_connector_that_nobody_sees_proves_nothing(
    run: Any, server: JsonServer, *, is_own: bool, expected: tuple[int, int, int]
) -> None:
    """It has a method in the place of aiohttp's own, where the seam is: what it did before it failed, nobody knows."""

    async def lost(*_: Any, **__: Any) -> Any:
        raise RuntimeError

    installed, connecting = run(), type("Own", (aiohttp.TCPConnector,), {"connect" if is_own else "_create_connection": lost})

    async def main() -> None:
        async with AsyncTwilioHttpClient() as http_client:
            await http_client.session.close()
            http_client.session = aiohttp.ClientSession(connector=connecting())
            await client_for(server.url, http_client=http_client).messages.create_async(**MESSAGE)

    with pytest.raises(RuntimeError):
        asyncio.run(main())

    assert (counted(installed), server.requests) == (expected, [])


@each_style
def test_the_sdks_http_client_called_directly_is_guarded_on_the_wire(run: Any, server: JsonServer, style: str) -> None:
    """It passes no client's method: one reservation by the wire seam, and the same operation."""
    installed = run(allowed_endpoints=["twilio:messages.create"])
    request: dict[str, Any] = {
        "method": "POST",
        "url": server.url + MESSAGES,
        "data": {"To": TO, "From": FROM, "Body": "hi"},
        "auth": (ACCOUNT, TOKEN),
    }
    if style == "sync":
        client_for(server.url).http_client.request(**request)
    else:
        awaited(server.url, lambda client: client.http_client.request(**request))

    assert (counted(installed), installed.usage().calls, len(server.requests)) == ((1, 0, 0), 1, 1)


def test_pages_pass_by_their_absolute_urls(run: Any, server: JsonServer) -> None:
    """The next page is asked of the client's method with the URL that the vendor gave: each page is one free call."""
    installed = run()
    pages = [
        {"messages": [], "next_page_uri": f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json?Page=1"},
        {"messages": [], "next_page_uri": None},
    ]
    server.scripted = [Answer(200, page) for page in pages]
    client_for(server.url).messages.list()

    assert (installed.usage().calls, len(server.requests), counted(installed)) == (2, 2, (0, 0, 0))


# -- tokens and traces -----------------------------------------------------------------------------


@each_style
def test_a_vault_token_is_replaced_on_the_wire_alone(run: Any, server: JsonServer, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TWILIO_AUTH_TOKEN goes out in its place, behind the same account."""
    installed = run()
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    send(server.url, style, installed.key.token)

    assert authorizations(server) == [f"{ACCOUNT}:{TOKEN}"]
    assert counted(installed) == (1, 0, 0)


def test_the_sdks_client_never_holds_the_secret(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the last request that it was given: with the token, as the caller gave it."""
    installed = run()
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    client = client_for(server.url, installed.key.token)
    client.messages.create(**MESSAGE)
    last = client.http_client._test_only_last_request

    assert authorizations(server) == [f"{ACCOUNT}:{TOKEN}"]
    assert last.auth == (ACCOUNT, installed.key.token)
    assert TOKEN not in str(vars(last))


def test_the_policys_secret_is_another_variable(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`secret="env:NAME"` names it; an API key's user stays, and the account is given apart."""
    installed = run(secret="env:TWILIO_SUB_SECRET")
    monkeypatch.setenv("TWILIO_SUB_SECRET", TOKEN)
    pointed(Client("SK1", installed.key.token, ACCOUNT), **everywhere(server.url)).messages.create(**MESSAGE)

    assert authorizations(server) == [f"SK1:{TOKEN}"]


def test_a_token_in_a_header_of_the_callers_is_replaced(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without credentials, whose caller writes Authorization himself: the caller's dictionary stays as it is."""
    installed = run()
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    written = "Basic " + base64.b64encode(f"{ACCOUNT}:{installed.key.token}".encode()).decode()
    headers = {"Authorization": written}
    for http_client in (TwilioHttpClient(), type("Own", (TwilioHttpClient,), {"__module__": "mine"})()):
        Client(http_client=http_client).request("POST", server.url + MESSAGES, data={"To": TO, "From": FROM, "Body": "x"}, headers=headers)

    assert authorizations(server) == [f"{ACCOUNT}:{TOKEN}"] * 2
    assert headers["Authorization"] == written


def test_a_client_of_the_users_own_gets_the_secret_in_place_of_the_token(run: Any, server: JsonServer, monkeypatch: Any) -> None:
    """Nobody could put it in below: the copy of the options that it is handed has it, behind the same account."""
    installed = run()
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    own = Urllib()
    client_for(server.url, installed.key.token, http_client=own).messages.create(**MESSAGE)

    assert own.asked[0]["auth"] == (ACCOUNT, TOKEN)
    assert authorizations(server) == [f"{ACCOUNT}:{TOKEN}"]


def test_a_client_that_signs_its_requests_signs_the_real_secret(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Public key client validation hashes the credentials: with the token's hash Twilio would refuse what arrives."""
    installed = run()
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    signing = ValidationClient(ACCOUNT, "SK1", "CR1", pem)
    client_for(server.url, installed.key.token, http_client=signing).messages.create(**MESSAGE)
    (arrived,) = server.requests
    signed = jwt.decode(arrived.headers["twilio-client-validation"], key.public_key(), algorithms=["RS256"], options={"verify_aud": False})
    sent = ValidationPayload("POST", MESSAGES, "", arrived.headers, ["authorization", "host"], arrived.content.decode())

    assert authorizations(server) == [f"{ACCOUNT}:{TOKEN}"]
    assert signed["rqh"] == ClientValidationJwt(ACCOUNT, "SK1", "CR1", pem, sent)._generate_payload()["rqh"]
    assert counted(installed) == (1, 0, 0)


def test_a_token_of_a_credential_provider_is_refused(run: Any, server: JsonServer) -> None:
    """Whose key pays is known before a provider is asked, so a token from there would be nobody's; the message says where it belongs."""
    installed = run()

    class Static(CredentialProvider):  # type: ignore[misc]  # -- the SDK has no types
        def to_auth_strategy(self) -> Any:
            return type("Strategy", (), {"get_auth_string": lambda _: f"Bearer {installed.key.token}"})()

    client = pointed(Client(account_sid=ACCOUNT, credential_provider=Static(None)), **everywhere(server.url))
    with pytest.raises(ConfigurationError, match=r"Client\(account_sid, token\)") as caught:
        client.messages.create(**MESSAGE)

    assert (counted(installed), server.requests) == ((0, 0, 0), [])
    assert installed.key.token not in str(caught.value)


@each_style
def test_a_token_goes_to_no_host_that_is_not_listed(run: Any, server: JsonServer, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK pointed elsewhere is refused, and the message says how to list the host."""
    monkeypatch.delenv("KEYGUARD_VENDOR_HOSTS")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    installed = run()
    with pytest.raises(EndpointNotAllowed, match=f"KEYGUARD_VENDOR_HOSTS=twilio={server.host}"):
        send(server.url, style, installed.key.token)

    assert server.requests == []


@pytest.mark.parametrize("client", ["requests", "aiohttp"])
def test_a_raw_request_with_a_token_as_basics_password_is_the_sdks_call(
    run: Any, server: JsonServer, client: str, monkeypatch: Any
) -> None:
    """The half with the token is replaced, the account stays; the call is the same operation."""
    installed = run(allowed_endpoints=["twilio:messages.create"])
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    form, url, token = {"To": TO, "From": FROM, "Body": "hi"}, server.url + MESSAGES, installed.key.token

    async def post() -> None:
        async with aiohttp.ClientSession() as session:
            await (await session.post(url, data=form, auth=aiohttp.BasicAuth(ACCOUNT, token))).read()

    if client == "requests":
        requests.post(url, data=form, auth=(ACCOUNT, token), timeout=10)
    else:
        asyncio.run(post())

    assert authorizations(server) == [f"{ACCOUNT}:{TOKEN}"]
    assert counted(installed) == (1, 0, 0)


def test_no_number_is_in_a_span_or_a_row(run: Any, server: JsonServer, monkeypatch: pytest.MonkeyPatch, keyguard_ledger: Ledger) -> None:
    """A message, a lookup by number, a refusal by Twilio and one of ours: nobody's number, and no text, is kept."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))
    run(allowed_endpoints=["twilio:messages.create", "twilio:lookups.phone_numbers.fetch"])
    client = client_for(server.url)
    client.messages.create(**MESSAGE | {"body": "top secret"})
    client.lookups.v2.phone_numbers(TO).fetch(fields="line_type_intelligence")
    with pytest.raises(TwilioRestException, match="is not a valid phone number"):
        client.messages.create(**MESSAGE | {"to": INVALID})
    with pytest.raises(EndpointNotAllowed) as refusal:
        client.calls.create(to=TO, from_=FROM, twiml="<Response/>", time_limit=60)
    provider.shutdown()
    kept = " ".join([*(span.to_json() for span in exporter.get_finished_spans()), str(list(keyguard_ledger.entries())), str(refusal.value)])

    assert [found for found in (TO[2:], FROM[2:], INVALID[2:], "top secret") if found in kept] == []


# -- arming ----------------------------------------------------------------------------------------


def test_the_seam_stands_in_the_class_that_defines_the_method_and_goes_away() -> None:
    """`Client` inherits it: the base class is patched, and gets its very function back."""
    before = [vars(ClientBase)[name] for name in ("request", "request_async")]
    patches.arm()
    live, during = patches.live_seams(), [vars(ClientBase)[name] for name in ("request", "request_async")]
    patches.disarm()

    assert (live["twilio.sync"], live["twilio.async"]) == (True, True)
    assert [one is other for one, other in zip(before, during, strict=True)] == [False, False]
    assert [vars(ClientBase)[name] for name in ("request", "request_async")] == before
    assert not {"request", "request_async"} & set(vars(Client))


@pytest.mark.parametrize("first", ["twilio.rest", "twilio.base.client_base", "twilio.rest.api"])
def test_a_client_that_is_imported_later_is_guarded_then(first: str) -> None:
    """In whatever order its modules come."""
    code = f"import keyguard, {{}}; keyguard.install('sqlite://'); import {first}, twilio.rest; print(keyguard.install('sqlite://').seams)"
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code.format("sys")], capture_output=True, text=True, timeout=60, check=True
    ).stdout

    assert "'twilio.sync': True, 'twilio.async': True" in said


def test_an_older_client_fails_every_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """7 has no class that could be patched here: install() says what is supported, each time."""
    found = vars(patches)["version"]
    monkeypatch.setattr(patches, "version", lambda name: "7.17.0" if name == "twilio" else found(name))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"twilio 7\.17\.0 is not supported .*twilio>=8"):
            patches.arm()
    patches.disarm()


def test_the_supported_versions_are_known() -> None:
    """The seams stand where we look from 8 on."""
    assert [patch.supports(version) for version in ("8.0.0", "9.13.0", "10.0", "7.17.0", "unknown")] == [True, True, True, False, False]
