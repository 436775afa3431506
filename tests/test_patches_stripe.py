"""The Stripe seams, through the real SDK over real HTTP: each style once, each attempt seen, nothing changed."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest
import requests
import stripe
from requests.adapters import HTTPAdapter
from stripe import _http_client
from urllib3.util.retry import Retry

import keyguard
from keyguard import context, patches
from keyguard.errors import Refused
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from keyguard.patches import Outgoing


# Stripe's own use of httpx, seen only because warnings are errors here.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def asking(outgoing: Outgoing, secret: str | None = None) -> context.Ticket:
    """Return a ticket under which a question about a call is asked, with the secret in the place of the caller's credential."""
    ticket = context.Ticket(outgoing.call)
    ticket.secret = secret
    return ticket


class Recorder:
    """A handler that lets everything pass under a ticket, and keeps what it saw; or refuses."""

    def __init__(self, refusal: Exception | None = None, secret: str | None = None) -> None:
        self.seen: list[Outgoing] = []
        self.tickets: list[context.Ticket] = []
        self.refusal, self.secret = refusal, secret

    def _ticket(self, outgoing: Outgoing) -> context.Ticket:
        self.seen.append(outgoing)
        if self.refusal is not None:
            raise self.refusal
        ticket = context.Ticket(outgoing.call)
        ticket.idempotent, ticket.is_decided, ticket.secret = True, True, self.secret
        self.tickets.append(ticket)
        return ticket

    def handle(self, outgoing: Outgoing, send: Callable[[context.Ticket], Any]) -> Any:
        """Pass one blocking call."""
        ticket = self._ticket(outgoing)
        with context.under(ticket):
            return send(ticket)

    async def ahandle(self, outgoing: Outgoing, send: Callable[[context.Ticket], Awaitable[Any]]) -> Any:
        """Pass one awaited call."""
        ticket = self._ticket(outgoing)
        with context.under(ticket):
            return await send(ticket)

    def tolerates(self, error: Exception) -> bool:
        """Refuse what cannot be guarded, as when enforcing."""
        return False


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeServer]:
    """Point the SDK at a loopback Stripe, without waiting between its retries."""
    with StripeServer() as found:
        monkeypatch.setattr(stripe, "api_base", found.url)
        monkeypatch.setattr(stripe, "api_key", "sk_test_12345")
        monkeypatch.setattr(stripe, "default_http_client", None)
        monkeypatch.setattr(stripe, "max_network_retries", 2)
        monkeypatch.setattr(_http_client.HTTPClient, "INITIAL_DELAY", 0)
        monkeypatch.setattr(_http_client.HTTPClient, "MAX_DELAY", 0)
        yield found


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Arm the seams with a handler that records."""
    found = Recorder()
    patches.arm()
    context.set_handler(found)
    yield found
    context.set_handler(None)
    patches.disarm()


def _client(server: StripeServer, **options: Any) -> stripe.StripeClient:
    return stripe.StripeClient("sk_test_12345", base_addresses={"api": server.url, "files": server.url}, **options)


class _Custom(stripe.HTTPClient):
    """A user's own client: answers from memory."""

    name = "custom"

    def request(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> Any:
        """Answer without a wire."""
        return '{"id": "pi_1", "object": "payment_intent"}', 200, {"Request-Id": "req_1"}


async def _acreate(base: str, count: int = 1) -> list[Any]:
    """Make intents at once through Stripe's async client over httpx, and close it."""
    own = stripe.HTTPXClient()
    client = stripe.StripeClient("sk_test_12345", base_addresses={"api": base}, http_client=own, max_network_retries=0)
    calls = [client.v1.payment_intents.create_async({"amount": 100, "currency": "usd", "confirm": True}) for _ in range(count)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own
    return list(results)


def _first(results: list[Any]) -> Any:
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


STYLES: dict[str, Callable[[StripeServer], Any]] = {
    "module": lambda _: stripe.PaymentIntent.create(amount=100, currency="usd"),
    "instance": lambda _: stripe.PaymentIntent.construct_from({"id": "pi_1"}, "sk_test_12345").confirm(),
    "client v1": lambda server: _client(server).v1.payment_intents.create({"amount": 100, "currency": "usd"}),
    "raw_request": lambda server: _client(server).raw_request("post", "/v1/payment_intents", amount=100, currency="usd"),
    "save": lambda _: stripe.Customer.modify("cus_1", name="x"),
    "list": lambda _: list(stripe.PaymentIntent.list().auto_paging_iter()),
    "requests": lambda server: _client(server, http_client=stripe.RequestsClient()).v1.customers.retrieve("cus_1"),
    "urllib": lambda server: _client(server, http_client=stripe.UrllibClient()).v1.customers.retrieve("cus_1"),
    "httpx": lambda server: _client(server, http_client=stripe.HTTPXClient(allow_sync_methods=True)).v1.customers.retrieve("cus_1"),
    "async": lambda server: _first(asyncio.run(_acreate(server.url))),
}


@pytest.mark.parametrize("style", STYLES)
def test_each_style_passes_once_with_each_attempt_seen(server: StripeServer, recorder: Recorder, style: str) -> None:
    """One logical call is one handle(), and as many attempts as the wire saw."""
    STYLES[style](server)

    assert len(recorder.seen) == 1
    assert [ticket.begun for ticket in recorder.tickets] == [len(server.requests)] == [1]
    assert recorder.tickets[0].attempts[0].reply is not None
    assert recorder.tickets[0].attempts[0].reply.status == 200


def test_a_stream_is_one_call_whose_body_stays_the_callers(server: StripeServer, recorder: Recorder) -> None:
    """A streamed file is guarded as a call; its body is not read by keyguard."""
    requestor = stripe._api_requestor._APIRequestor._global_instance()  # type: ignore[no-untyped-call]  # -- stripe's own
    response = requestor.request_stream("get", "/v1/quotes/qt_1/pdf", base_address="api")

    assert len(recorder.seen) == 1
    assert recorder.tickets[0].attempts[0].reply is not None
    assert recorder.tickets[0].attempts[0].reply.body is None
    assert b"list" in response.io.read()


def test_a_custom_client_of_the_base_class_is_guarded(recorder: Recorder) -> None:
    """A subclass of stripe.HTTPClient that overrides request() passes the seam."""
    client = stripe.StripeClient("sk_test_12345", http_client=_Custom())
    intent = client.v1.payment_intents.create({"amount": 100, "currency": "usd"})

    assert intent.id == "pi_1"
    assert [ticket.begun for ticket in recorder.tickets] == [1]


def test_a_client_that_bypasses_the_base_class_is_refused(recorder: Recorder) -> None:
    """Overriding the retry methods, or duck typing, cannot be guarded: a clear error, nothing sent."""

    class Bypassing(_Custom):
        def request_with_retries(self, *args: Any, **kwargs: Any) -> Any:
            return self.request(*args[:4])

    class Duck:
        name = "duck"

        def request_with_retries(self, *_: Any, **__: Any) -> Any:
            return '{"id": "pi_1", "object": "payment_intent"}', 200, {}

    for client in (Bypassing(), Duck()):
        with pytest.raises(keyguard.ConfigurationError, match=type(client).__name__):
            sdk = stripe.StripeClient("sk_test_12345", http_client=client)  # type: ignore[arg-type]  # -- not every client here is one
            sdk.v1.payment_intents.create({"amount": 1, "currency": "usd"})

    assert recorder.seen == []


def test_the_sdks_retries_are_attempts_of_one_ticket(server: StripeServer, recorder: Recorder) -> None:
    """Two 500s and a 200 under max_network_retries=2: one call, three attempts, one idempotency key."""
    server.statuses = [500, 500]
    stripe.PaymentIntent.create(amount=100, currency="usd", confirm=True)
    statuses = [attempt.reply.status for attempt in recorder.tickets[0].attempts if attempt.reply]

    assert len(recorder.seen) == 1
    assert statuses == [500, 500, 200]
    assert len({headers["Idempotency-Key"] for _, _, headers in server.requests}) == 1


@pytest.mark.parametrize("style", STYLES)
def test_a_refusal_reaches_the_caller_as_itself_unretried(server: StripeServer, style: str) -> None:
    """The handler's exception is the caller's, the same object, without a cause; the server hears nothing."""
    refusal = Refused("no")
    recorder = Recorder(refusal)
    patches.arm()
    context.set_handler(recorder)
    try:
        with pytest.raises(Refused) as caught:
            STYLES[style](server)
    finally:
        context.set_handler(None)
        patches.disarm()

    assert caught.value is refusal
    assert caught.value.__cause__ is None
    assert len(recorder.seen) == 1
    assert server.requests == []


def test_what_the_vendor_will_see_is_what_was_read(server: StripeServer, recorder: Recorder) -> None:
    """Method, path, form, account, key and credential are read from the final request."""
    stripe.PaymentIntent.create(amount=100, currency="usd", metadata={"a": "b"}, stripe_account="acct_1", idempotency_key="k1")
    stripe.Customer.list(limit=3)
    first, second = recorder.seen[0], recorder.seen[1]

    assert (first.call.vendor, first.call.method, first.call.path) == ("stripe", "POST", "/v1/payment_intents")
    assert dict(first.call.body or ()) == {"amount": "100", "currency": "usd", "metadata[a]": "b"}
    assert (first.call.account, first.call.idempotency_key, first.credential) == ("acct_1", "k1", "sk_test_12345")
    assert (first.call.scheme, first.call.host) == ("http", server.host)
    assert (second.call.method, second.call.query) == ("GET", (("limit", "3"),))
    assert "sk_test_12345" not in repr(first)


def test_a_base_with_a_prefix_leaves_the_vendors_path(server: StripeServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind `https://proxy/stripe` the vendor's path begins at its version."""
    monkeypatch.setattr(stripe, "api_base", f"{server.url}/stripe")
    stripe.Customer.retrieve("cus_1")

    assert recorder.seen[0].call.path == "/v1/customers/cus_1"
    assert server.requests[0][1] == "/stripe/v1/customers/cus_1"


def test_of_bodies_that_are_no_forms_only_json_is_read(server: StripeServer, recorder: Recorder) -> None:
    """JSON of /v2 has the pairs of its leaves, a multipart upload none."""
    with contextlib.suppress(stripe.StripeError):
        _client(server).raw_request("post", "/v2/core/event_destinations", name="x")
    with contextlib.suppress(stripe.StripeError, TypeError, AttributeError):
        _client(server).v1.files.create({"purpose": "dispute_evidence", "file": b"x"})

    assert [(outgoing.call.body, outgoing.call.document) for outgoing in recorder.seen] == [((("name", "x"),), {"name": "x"}), (None, None)]


def test_a_basic_credential_is_its_user(server: StripeServer, recorder: Recorder) -> None:
    """`Authorization: Basic base64(key:)` carries the key as its user; what cannot be decoded is none, what names no scheme is one."""
    for header in ("Basic c2tfdGVzdF85Og==", "Basic !!", "Nonsense"):
        with contextlib.suppress(stripe.StripeError):
            _client(server).raw_request("get", "/v1/customers", headers={"Authorization": header})

    assert [outgoing.credential for outgoing in recorder.seen] == ["sk_test_9", "", "Nonsense"]


def test_the_secret_replaces_the_token_on_the_wire_only(server: StripeServer) -> None:
    """With a secret on the ticket each attempt carries it, and the SDK's own headers keep the token."""
    recorder = Recorder(secret="sk_test_real")
    patches.arm()
    context.set_handler(recorder)
    try:
        intent = stripe.PaymentIntent.create(amount=100, currency="usd", api_key="vault_key_x")
    finally:
        context.set_handler(None)
        patches.disarm()

    assert server.requests[0][2]["Authorization"] == "Bearer sk_test_real"
    assert recorder.seen[0].credential == "vault_key_x"
    assert "sk_test_real" not in repr(intent.__dict__)


def test_ask_reads_with_the_same_client_unseen_by_the_seams(server: StripeServer, recorder: Recorder) -> None:
    """A quote read goes to the same base with the same credentials, and is no call of its own."""
    stripe.PaymentIntent.create(amount=100, currency="usd", stripe_account="acct_1")
    ask = recorder.seen[0].ask
    assert ask is not None
    with context.own_traffic():
        reply = ask("/v1/payment_intents/pi_1", asking(recorder.seen[0], "sk_test_real"))
    method, path, headers = server.requests[-1]

    assert (reply.status, method, path) == (200, "GET", "/v1/payment_intents/pi_1")
    assert (headers["Authorization"], headers["Stripe-Account"]) == ("Bearer sk_test_real", "acct_1")
    assert "Idempotency-Key" not in headers
    assert len(recorder.seen) == 1


@pytest.mark.parametrize("client", [stripe.RequestsClient, stripe.UrllibClient, lambda: stripe.HTTPXClient(allow_sync_methods=True)])
def test_a_refused_connection_is_proven_unsent(recorder: Recorder, client: Callable[[], Any]) -> None:
    """Nobody listens: each HTTP library's error proves that nothing left, although Stripe's own class does not say so."""
    found = stripe.StripeClient("sk_test_12345", base_addresses={"api": "http://127.0.0.1:9"}, http_client=client(), max_network_retries=0)
    with pytest.raises(stripe.APIConnectionError):
        found.v1.customers.retrieve("cus_1")

    assert [attempt.unsent for attempt in recorder.tickets[0].attempts] == [True]


@pytest.mark.parametrize("client", [stripe.RequestsClient, stripe.UrllibClient, lambda: stripe.HTTPXClient(allow_sync_methods=True)])
def test_an_answer_that_never_came_is_not_proven_unsent(server: StripeServer, recorder: Recorder, client: Callable[[], Any]) -> None:
    """The server executed and hung up: no library's error is taken for proof."""
    server.drop_answers = True
    found = _client(server, http_client=client(), max_network_retries=0)
    # Stripe's urllib client lets this one through as it is.
    with pytest.raises((stripe.APIConnectionError, http.client.RemoteDisconnected)):
        found.v1.payment_intents.create({"amount": 100, "currency": "usd", "confirm": True})

    assert server.total == 100
    assert [attempt.unsent for attempt in recorder.tickets[0].attempts] == [False]


def test_an_async_refused_connection_is_proven_unsent(recorder: Recorder) -> None:
    """The async client's attempts are classified alike."""
    with pytest.raises(stripe.APIConnectionError):
        _first(asyncio.run(_acreate("http://127.0.0.1:9")))

    assert [attempt.unsent for attempt in recorder.tickets[0].attempts] == [True]


def test_an_exception_nobody_classified_leaves_the_attempt_open(recorder: Recorder) -> None:
    """A KeyboardInterrupt in the middle of an attempt is no ending: begun stays above what ended."""

    class Interrupted(_Custom):
        def request(self, *_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stripe.StripeClient("sk_test_12345", http_client=Interrupted()).v1.customers.retrieve("cus_1")

    assert (recorder.tickets[0].begun, recorder.tickets[0].attempts) == (1, [])


def test_async_calls_are_charged_once_through_the_whole_guard(server: StripeServer, tmp_path: Any) -> None:
    """Stripe's async client rides on httpx, whose seam stays silent under Stripe's: one reservation a call, exact cap."""
    with keyguard.run("run-1"):
        installed = keyguard.install(f"sqlite:///{tmp_path}/l.db", run_usd_cap=10)
        results = asyncio.run(_acreate(server.url, 20))
        usage = installed.usage()
    keyguard.uninstall()

    assert server.total == 1000
    assert sum(isinstance(result, keyguard.SpendCapExceeded) for result in results) == 10
    assert (usage.spent, usage.held, usage.doubt, usage.calls) == (10_000_000, 0, 0, 10)


def _once_then_gone(answer: bytes = b"") -> tuple[str, threading.Thread, list[bytes]]:
    """Take one request, give a raw answer or none, close and listen no more."""
    listening, got = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def serve() -> None:
        connection, _ = listening.accept()
        listening.close()
        with connection:
            got.append(connection.recv(65536))
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}", thread, got


def test_an_unrelated_refused_connection_proves_nothing(recorder: Recorder) -> None:
    """A charge made while the caller handles another service's refused connection: Python chains the two, keyguard does not."""
    # Executed, answered, and not to be decoded: an error that names neither a lost nor a refused connection.
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope"
    base, thread, got = _once_then_gone(answer)
    client = stripe.StripeClient("sk_test_12345", base_addresses={"api": base}, http_client=stripe.RequestsClient(), max_network_retries=0)
    try:
        raise ConnectionRefusedError("somebody else's cache")
    except ConnectionRefusedError:
        with pytest.raises(stripe.APIConnectionError):
            client.v1.payment_intents.create({"amount": 100, "currency": "usd", "confirm": True})
    thread.join(10)

    assert len(got) == 1
    assert [attempt.unsent for attempt in recorder.tickets[0].attempts] == [False]


def test_a_session_that_tries_again_proves_nothing(recorder: Recorder) -> None:
    """The first try was executed and lost, the second refused: urllib3 shows only the second."""
    base, thread, got = _once_then_gone()
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=Retry(total=2, allowed_methods=None, backoff_factor=0)))
    client = stripe.StripeClient(
        "sk_test_12345", base_addresses={"api": base}, http_client=stripe.RequestsClient(session=session), max_network_retries=0
    )
    with session, pytest.raises(stripe.APIConnectionError):
        client.v1.payment_intents.create({"amount": 100, "currency": "usd", "confirm": True})
    thread.join(10)

    assert len(got) == 1
    assert [attempt.unsent for attempt in recorder.tickets[0].attempts] == [False]


class _SessionOfMine(requests.Session):
    """A session class that could do anything."""


@pytest.mark.parametrize(("session", "unsent"), [(requests.Session, True), (_SessionOfMine, False)])
def test_an_ordinary_session_of_the_users_still_proves(recorder: Recorder, session: Callable[[], requests.Session], unsent: bool) -> None:
    """A plain session tries once, so its refused connection is proof; a subclass may do anything."""
    with session() as own:
        client = stripe.StripeClient(
            "sk_test_12345",
            base_addresses={"api": "http://127.0.0.1:9"},
            http_client=stripe.RequestsClient(session=own),
            max_network_retries=0,
        )
        with pytest.raises(stripe.APIConnectionError):
            client.v1.customers.retrieve("cus_1")

    assert [attempt.unsent for attempt in recorder.tickets[0].attempts] == [unsent]


def test_a_client_that_tries_again_by_itself_proves_nothing(server: StripeServer, recorder: Recorder) -> None:
    """A subclass whose request() makes two tries ends with a refused connection; the first try was executed."""

    class Twice(stripe.RequestsClient):
        def request(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> Any:
            with contextlib.suppress(stripe.APIConnectionError):
                super().request(method, url, headers, post_data)
            return super().request(method, "http://127.0.0.1:9/", headers, post_data)

    server.drop_answers = True
    with pytest.raises(stripe.APIConnectionError):
        _client(server, http_client=Twice(), max_network_retries=0).v1.payment_intents.create(
            {"amount": 100, "currency": "usd", "confirm": True}
        )

    assert server.total == 100
    assert [attempt.unsent for attempt in recorder.tickets[0].attempts] == [False]


def test_a_retry_method_set_on_the_client_object_is_refused(recorder: Recorder) -> None:
    """What goes round the class on the object itself is seen like a subclass that does."""
    client = stripe.RequestsClient()
    answer = ('{"id": "pi_1", "object": "payment_intent"}', 200, {"Request-Id": "req_1"})
    client.request_with_retries = lambda *_: answer  # type: ignore[method-assign]  # -- what a user should not do
    with pytest.raises(keyguard.ConfigurationError, match="RequestsClient"):
        stripe.StripeClient("sk_test_12345", http_client=client).v1.payment_intents.create({"amount": 1, "currency": "usd"})

    assert recorder.seen == []


def test_an_async_ask_uses_the_async_client(server: StripeServer, recorder: Recorder) -> None:
    """A client that is async only is asked on the event loop that waits for the answer."""

    async def main() -> Any:
        own = stripe.HTTPXClient()
        client = stripe.StripeClient("sk_test_12345", base_addresses={"api": server.url}, http_client=own)
        await client.v1.payment_intents.create_async({"amount": 100, "currency": "usd"})
        ask = recorder.seen[0].ask
        assert ask is not None
        reply = await anyio.to_thread.run_sync(ask, "/v1/payment_intents/pi_1", asking(recorder.seen[0], "sk_test_real"))
        await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own
        return reply

    reply = asyncio.run(main())
    method, path, headers = server.requests[-1]

    assert (reply.status, method, path) == (200, "GET", "/v1/payment_intents/pi_1")
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer sk_test_real"
    assert len(recorder.seen) == 1


@pytest.mark.parametrize("prefix", ["/stripe", "/proxy"])
def test_a_prefix_is_cut_alike_by_both_seams(server: StripeServer, recorder: Recorder, prefix: str) -> None:
    """Stripe's httpx client behind a listed proxy is one call, not one of the SDK and another of the wire."""
    context.set_vendor_hosts({server.host: "stripe"})
    client = stripe.StripeClient(
        "sk_test_12345", base_addresses={"api": f"{server.url}{prefix}"}, http_client=stripe.HTTPXClient(allow_sync_methods=True)
    )
    client.v1.customers.retrieve("cus_1")
    context.set_vendor_hosts({})

    assert [outgoing.call.path for outgoing in recorder.seen] == ["/v1/customers/cus_1"]
    assert [ticket.begun for ticket in recorder.tickets] == [1]


def test_an_async_stream_is_one_call_whose_body_stays_the_callers(server: StripeServer, recorder: Recorder) -> None:
    """The async twin of a streamed file."""

    async def main() -> bytes:
        own = stripe.HTTPXClient()
        requestor = stripe.StripeClient("sk_test_12345", base_addresses={"api": server.url}, http_client=own)._requestor
        response = await requestor.request_stream_async("get", "/v1/quotes/qt_1/pdf", base_address="api")
        content = await response.read_async()
        await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own
        return bytes(content)

    content = asyncio.run(main())

    assert b"list" in content
    assert len(recorder.seen) == 1
    assert recorder.tickets[0].attempts[0].reply is not None
    assert recorder.tickets[0].attempts[0].reply.body is None


def test_the_wire_seam_stays_silent_under_stripes_async_client(server: StripeServer, recorder: Recorder) -> None:
    """Stripe's async client rides on httpx: at a listed host both seams see the request, and it is one call with one attempt."""
    context.set_vendor_hosts({server.host: "stripe"})
    asyncio.run(_acreate(server.url))
    context.set_vendor_hosts({})

    assert len(recorder.seen) == 1
    assert [(ticket.begun, len(ticket.attempts)) for ticket in recorder.tickets] == [(1, 1)]
