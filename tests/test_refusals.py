"""A refusal as an answer: what each client gets, what it says, and that the refusal is found behind it. Nothing of it is ever sent."""

from __future__ import annotations

import asyncio
import builtins
import datetime as dt
import io
import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest
import requests

import keyguard
from keyguard import context
from keyguard.errors import EndpointNotAllowed, KeyRevoked, LedgerUnavailable, Refused, SpendCapExceeded, UnpricedCall
from keyguard.prefect import find_refusal, retry_unless_refused
from keyguard.refusals import HEADER, answer_of
from tests.support_acme import POSTS, Said, acme
from tests.support_json_server import Answer, JsonServer
from tests.support_libraries import HTTPX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENTS = pytest.mark.parametrize("post", POSTS.values(), ids=POSTS)
JOBS = "/v1/jobs"
REFUSAL = SpendCapExceeded(
    "payment_intents.create for $20.00 würde\nzu viel", scope="run:r", cap=5, spent=1, held=2, doubt=0, requested=20, remaining=2,
    key_id="k", run_id="r", operation="jobs.create", resets_at=1.5,
)  # fmt: skip


@pytest.fixture
def server() -> Iterator[JsonServer]:
    """Acme's stand-in."""
    with JsonServer(lambda _: Answer(200, {"ok": True})) as found:
        yield found


# -- what a client gets --------------------------------------------------------------------------------


@CLIENTS
def test_a_refusal_is_the_clients_own_answer(server: JsonServer, post: Callable[..., Said]) -> None:
    """403, JSON with type, code and words, a header that forbids retries and one that tells the refusal; nothing is sent."""
    with acme(server, on_refused="response") as installed:
        first = post(f"{server.url}{JOBS}", json={})
        said = post(f"{server.url}{JOBS}", json={})
        usage = installed.usage()
    body, refusal = json.loads(said.text), keyguard.refusal_of(said.native)

    assert (first.status, said.status, len(server.requests)) == (200, 403, 1)
    assert (usage.spent, usage.held, usage.calls) == (1_000_000, 0, 1)
    assert keyguard.refusal_of(first.native) is None
    assert (body["error"]["type"], body["error"]["code"], body["type"]) == ("spend_cap_exceeded", "cap_exceeded", "error")
    assert body["error"]["message"] == str(refusal)
    assert (body["keyguard"]["requested"], body["keyguard"]["remaining"]) == (1_000_000, 500_000)
    assert (said.headers["x-should-retry"], said.headers["content-type"]) == ("false", "application/json")
    assert isinstance(refusal, SpendCapExceeded)
    assert (refusal.cap, refusal.spent, refusal.operation, refusal.scope) == (1_500_000, 1_000_000, "v1.jobs.post", "run:run-1")
    assert type(said.native) is type(first.native)


@CLIENTS
def test_every_refusal_of_the_vendor_is_answered(server: JsonServer, post: Callable[..., Said]) -> None:
    """A write that nobody priced, a path that cannot be read, a key that was revoked."""
    with acme(server, on_refused="response") as installed:
        found = [post(f"{server.url}/v1/unheard", json={}), post(f"{server.url}/v1/jobs%2Fx", json={})]
        installed.revoke()
        found.append(post(f"{server.url}{JOBS}", json={}))
    kinds = [type(keyguard.refusal_of(one.native)).__name__ for one in found]

    assert ([one.status for one in found], kinds) == ([403] * 3, ["UnpricedCall", "MalformedCall", "KeyRevoked"])
    assert server.requests == []


@CLIENTS
def test_a_refusal_is_raised_where_nothing_else_was_said(server: JsonServer, post: Callable[..., Said]) -> None:
    """As itself."""
    with acme(server, cap=0.5), pytest.raises(SpendCapExceeded):
        post(f"{server.url}{JOBS}", json={})

    assert server.requests == []


@CLIENTS
def test_that_nobody_could_decide_is_raised_all_the_same(
    server: JsonServer, post: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later try may help, so whatever retries may."""

    def broken(*_: Any) -> Any:
        raise LedgerUnavailable("the disk is full")

    with acme(server, on_refused="response") as installed:
        monkeypatch.setattr(type(installed._backend), "reserve", broken)
        with pytest.raises(LedgerUnavailable, match="the disk is full"):
            post(f"{server.url}{JOBS}", json={})

    assert server.requests == []


@CLIENTS
def test_observing_answers_nothing(server: JsonServer, post: Callable[..., Said]) -> None:
    """What would have been refused is sent."""
    with acme(server, cap=0.5, on_refused="response"):
        keyguard.uninstall()
        keyguard.install("sqlite://", run_usd_cap=0.5, mode="observe")
        context.set_vendor_hosts({server.host: "acme"})

        assert post(f"{server.url}{JOBS}", json={}).status == 200


def test_a_refusal_is_logged_once(server: JsonServer, caplog: pytest.LogCaptureFixture) -> None:
    """As one that is raised."""
    with acme(server, cap=0.5, on_refused="response"):
        httpx.post(f"{server.url}{JOBS}", json={})
    refused = [record for record in caplog.records if record.getMessage().startswith("refused acme v1.jobs.post: ")]

    assert len(refused) == 1


# -- as the library's own ------------------------------------------------------------------------------


@pytest.mark.parametrize("library", HTTPX.values(), ids=HTTPX)
def test_httpx_gets_a_whole_response(server: JsonServer, library: Any) -> None:
    """With its request, its time, its hooks, and readable as a stream."""
    seen: list[Any] = []
    with acme(server, cap=0.5, on_refused="response"), library.Client(event_hooks={"response": [seen.append]}) as client:
        response = client.post(f"{server.url}{JOBS}", json={"a": 1})
        with client.stream("POST", f"{server.url}{JOBS}") as streamed:
            parts = b"".join(streamed.iter_bytes())

    assert (response.request.url.path, response.elapsed, response.is_closed) == (JOBS, dt.timedelta(0), True)
    assert (response.reason_phrase, response.is_error, seen) == ("Forbidden", True, [response, streamed])
    assert json.loads(parts)["error"]["type"] == "spend_cap_exceeded"
    with pytest.raises(library.HTTPStatusError) as caught:
        response.raise_for_status()
    assert isinstance(keyguard.refusal_of(caught.value), SpendCapExceeded)


@pytest.mark.parametrize("library", HTTPX.values(), ids=HTTPX)
def test_httpx_gets_it_awaited_too(server: JsonServer, library: Any) -> None:
    """Read part by part, and closed."""

    async def main() -> bytes:
        async with library.AsyncClient() as client, client.stream("POST", f"{server.url}{JOBS}") as streamed:
            return b"".join([part async for part in streamed.aiter_bytes()])

    with acme(server, cap=0.5, on_refused="response"):
        assert json.loads(asyncio.run(main()))["error"]["code"] == "cap_exceeded"


def test_requests_gets_a_whole_response(server: JsonServer) -> None:
    """With its request, URL, reason and hooks, and readable as a stream."""
    seen: list[Any] = []
    with acme(server, cap=0.5, on_refused="response"), requests.Session() as session:
        response = session.post(f"{server.url}{JOBS}", json={}, hooks={"response": lambda found, **_: seen.append(found)})
        with session.post(f"{server.url}{JOBS}", json={}, stream=True) as streamed:
            parts = b"".join(streamed.iter_content(7))
            lines = list(streamed.iter_lines())

    assert (response.url, response.request.method, response.reason) == (f"{server.url}{JOBS}", "POST", "Forbidden")
    assert response.elapsed >= dt.timedelta(0)
    assert seen == [response]
    assert json.loads(parts) == json.loads(lines[0]) == response.json()
    assert isinstance(response.raw, io.BytesIO)
    with pytest.raises(requests.HTTPError, match="403 Client Error: Forbidden") as caught:
        response.raise_for_status()
    assert isinstance(keyguard.refusal_of(caught.value), SpendCapExceeded)


@pytest.mark.parametrize("where", ["call", "session"])
def test_aiohttp_raises_for_the_status_where_it_was_asked_to(server: JsonServer, where: str) -> None:
    """Its own error, behind which the refusal is found by its headers."""
    wanted: dict[str, Any] = {"raise_for_status": True}
    for_session, for_call = (wanted, {}) if where == "session" else ({}, wanted)

    async def main() -> None:
        async with aiohttp.ClientSession(**for_session) as session:
            await session.post(f"{server.url}{JOBS}", json={}, **for_call)

    with acme(server, cap=0.5, on_refused="response"), pytest.raises(aiohttp.ClientResponseError) as caught:
        asyncio.run(main())

    assert (caught.value.status, caught.value.request_info.method) == (403, "POST")
    assert isinstance(keyguard.refusal_of(caught.value), SpendCapExceeded)


def test_aiohttp_gets_a_whole_response(server: JsonServer) -> None:
    """With its request and method, readable once as a stream; the caller's own check is asked."""
    asked = []

    async def check(found: aiohttp.ClientResponse) -> None:
        asked.append(found.status)

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{server.url}{JOBS}", json={}, raise_for_status=check) as found:
                parts = b"".join([part async for part in found.content.iter_chunked(9)])
                assert json.loads(parts)["error"]["type"] == "spend_cap_exceeded"
                assert (str(found.url), found.method, found.ok, found.reason) == (f"{server.url}{JOBS}", "POST", False, "Forbidden")
                assert found.request_info.headers is not None
                assert (found.history, len(found.cookies), found.closed) == ((), 0, True)
            other = await session.get(f"{server.url}/v1/unheard")
            assert other.status == 200
            other.release()

    with acme(server, cap=0.5, on_refused="response"):
        asyncio.run(main())

    assert asked == [403]


@CLIENTS
def test_a_hop_that_is_refused_ends_the_redirects(server: JsonServer, post: Callable[..., Said]) -> None:
    """The first hop gives its money back; the second is answered by us, with the first in its history."""
    server.answer = lambda _: Answer(307, {}, {"Location": "/v1/unheard"})
    more: dict[str, Any] = {"follow_redirects": True} if "httpx" in post.__qualname__ or "_ahttpx" in post.__qualname__ else {}
    with acme(server, on_refused="response") as installed:
        said = post(f"{server.url}{JOBS}", json={}, **more)
        usage = installed.usage()

    assert (said.status, len(said.native.history), len(server.requests)) == (403, 1, 1)
    assert isinstance(keyguard.refusal_of(said.native), UnpricedCall)
    assert (usage.spent, usage.held, usage.doubt) == (0, 0, 0)


def test_a_refusal_of_another_call_is_not_taken_for_ones_own(server: JsonServer) -> None:
    """What a call of another vendor, made inside the transport, is refused, is raised as ever."""

    class Pays(httpx.BaseTransport):
        def handle_request(self, _: httpx.Request) -> httpx.Response:
            return httpx.post("https://api.stripe.com/v1/payment_intents", data={"amount": "999999", "currency": "usd", "confirm": "true"})

    with acme(server, on_refused="response") as installed, httpx.Client(transport=Pays()) as client:
        with pytest.raises(SpendCapExceeded, match=r"payment_intents\.create"):
            client.post(f"{server.url}{JOBS}")
        usage = installed.usage()

    # Nobody can say what else the transport did.
    assert (usage.spent, usage.doubt) == (0, 1_000_000)


# -- what it is made of, and found behind --------------------------------------------------------------


def test_a_refusal_comes_back_as_it_was() -> None:
    """Class, words and figures; what a ledger decided stays behind. Its header is one line of ASCII."""
    answer = answer_of(REFUSAL)
    found = keyguard.refusal_of(SimpleNamespace(headers=answer.headers))

    assert found is not None
    assert (type(found), str(found), vars(found)) == (type(REFUSAL), str(REFUSAL), vars(REFUSAL))
    assert answer.headers[HEADER].isascii()
    assert answer.headers[HEADER].isprintable()
    assert int(answer.headers["content-length"]) == len(answer.body)


@pytest.mark.parametrize("kind", [Refused, EndpointNotAllowed, KeyRevoked, UnpricedCall])
def test_each_class_of_refusal_is_itself(kind: type[Refused]) -> None:
    """Also one whose only content is its message."""
    assert type(keyguard.refusal_of(SimpleNamespace(headers=answer_of(kind("no")).headers))) is kind


def test_a_refusal_of_the_users_own_is_a_refusal() -> None:
    """Its class is found again, and one that is not here is at least `Refused`."""

    class NotOnSundays(Refused):
        """Raised by a function that prices."""

    answer = answer_of(NotOnSundays("no"))
    other = answer.headers[HEADER].replace("NotOnSundays", "NotOnMondays")

    assert type(keyguard.refusal_of(SimpleNamespace(headers=answer.headers))) is NotOnSundays
    assert type(keyguard.refusal_of(SimpleNamespace(headers={HEADER: other}))) is Refused


class Odd:
    """An answer whose attributes raise."""

    @property
    def headers(self) -> Any:
        """Raise what nobody expects."""
        raise RuntimeError("no")

    response = headers


@pytest.mark.parametrize(
    "found",
    [
        None, 7, "text", Odd(), SimpleNamespace(headers=None), SimpleNamespace(headers={}), SimpleNamespace(headers={HEADER: "{"}),
        SimpleNamespace(headers={HEADER: "[1]"}), SimpleNamespace(headers={HEADER: "null"}), SimpleNamespace(headers=7),
        ValueError("x"), type("E", (Exception,), {"response": Odd(), "headers": Odd()})(), LedgerUnavailable("down"),
    ],
)  # fmt: skip
def test_what_is_no_refusal_is_none(found: Any) -> None:
    """Whatever it is."""
    assert keyguard.refusal_of(found) is None


def test_fields_of_a_forged_header_are_plain_data() -> None:
    """What is no text and no number is left out, as is what the class does not have."""
    said = {"error": "SpendCapExceeded", "message": "x", "cap": {"a": 1}, "spent": 3, "evil": 1}
    found = keyguard.refusal_of(SimpleNamespace(headers={HEADER: json.dumps(said)}))

    assert isinstance(found, SpendCapExceeded)
    assert (found.cap, found.spent, hasattr(found, "evil")) == (None, 3, False)


def _caused(by: BaseException) -> BaseException:
    try:
        raise RuntimeError("outer") from by
    except RuntimeError as error:
        return error


def test_a_refusal_is_found_behind_what_a_client_made_of_it() -> None:
    """Behind causes, in the response of an error, and both."""
    response = SimpleNamespace(headers=answer_of(REFUSAL).headers)
    native = type("PermissionDeniedError", (Exception,), {"response": response})()

    for found in (REFUSAL, _caused(REFUSAL), native, _caused(native)):
        assert isinstance(keyguard.refusal_of(found), SpendCapExceeded)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups are built in from 3.11 on")
def test_a_refusal_is_found_in_a_group() -> None:
    """Of tasks that failed together."""
    native = type("E", (Exception,), {"response": SimpleNamespace(headers=answer_of(REFUSAL).headers)})()
    group = builtins.ExceptionGroup("both", [ValueError("x"), native])  # type: ignore[attr-defined]  # -- 3.11

    assert isinstance(keyguard.refusal_of(group), SpendCapExceeded)


def test_prefect_does_not_retry_what_was_answered(server: JsonServer) -> None:
    """The condition finds the refusal behind an SDK's own error, in an exception and in a result record; another 403 may be retried."""
    with acme(server, cap=0.5, on_refused="response"), httpx.Client() as client:
        refused = client.post(f"{server.url}{JOBS}", json={})
    server.scripted.append(Answer(403, {}))
    denied = httpx.post(f"{server.url}{JOBS}")

    def retried(response: httpx.Response) -> tuple[bool, bool]:
        with pytest.raises(httpx.HTTPStatusError) as caught:
            response.raise_for_status()
        state = SimpleNamespace(data=SimpleNamespace(result=caught.value))
        return retry_unless_refused(None, None, SimpleNamespace(data=caught.value)), find_refusal(state.data) is None

    assert (retried(refused), retried(denied)) == ((False, False), (True, True))
