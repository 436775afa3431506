"""The aiohttp seam: vendors by host, each request and each try where it leaves, foreign hosts untouched."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
from typing import TYPE_CHECKING, Any

import aiohttp
import aiohttp_retry
import pytest
from aiohttp import web
from yarl import URL

import keyguard
from keyguard.errors import EndpointNotAllowed, Refused
from keyguard.patches.aiohttp import patch
from tests.doors.vendors import STRIPE, Vendor
from tests.support_json_server import Answer, JsonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USD = 1_000_000  # micro-USD
FORM = {"amount": "100", "currency": "usd", "confirm": "true"}
TEXT = "amount=100&currency=usd&confirm=true"
AUTH = {"Authorization": "Bearer sk_test_real"}
FORM_TYPE = {"Content-Type": "application/x-www-form-urlencoded"}
SETTLED, DOUBT, NOTHING = (USD, 0, 0), (0, 0, USD), (0, 0, 0)


@pytest.fixture
def vendor() -> Vendor:
    """What Stripe executed."""
    return Vendor(STRIPE)


@pytest.fixture
def server(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """Its loopback server, listed as Stripe's own."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_real")
    with JsonServer(vendor.answer) as found:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={found.host}")
        yield found


@pytest.fixture
def nobody() -> Iterator[JsonServer]:
    """A host that is no vendor's."""
    with JsonServer(lambda _: Answer(200, {"token": "fetched"})) as found:
        yield found


@pytest.fixture
def url(server: JsonServer) -> str:
    """Where a charge goes."""
    return f"{server.url}/v1/payment_intents"


@pytest.fixture
def run(server: JsonServer) -> Iterator[Callable[..., keyguard.Installation]]:
    """Install a run's guard."""
    with keyguard.run("run-1"):
        yield lambda **policy: keyguard.install(**{"run_usd_cap": 10, **policy})


def counted(installed: keyguard.Installation) -> tuple[int, int, int]:
    """Return spent, held and doubt in micro-USD."""
    usage = installed.usage()
    return usage.spent, usage.held, usage.doubt


def post(url: Any, session: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """Make one POST with a session of its own; returns the answer, read."""

    async def main() -> Any:
        async with aiohttp.ClientSession(**(session or {})) as client, client.post(url, **kwargs) as response:
            await response.read()
            return response

    return asyncio.run(main())


# -- what is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"data": FORM},
        {"data": list(FORM.items())},
        {"data": lambda: aiohttp.FormData(FORM)},
        {"data": lambda: aiohttp.BytesPayload(TEXT.encode())},
        {"data": TEXT, "headers": FORM_TYPE},
        {"data": TEXT.encode(), "headers": FORM_TYPE},
        {"data": bytearray(TEXT.encode()), "headers": FORM_TYPE},
        {"data": FORM, "compress": "deflate"},
    ],
    ids=["dict", "pairs", "FormData", "payload", "text", "bytes", "bytearray", "compressed"],
)
def test_a_charge_is_settled_from_its_answer(run: Any, url: str, vendor: Vendor, body: dict[str, Any]) -> None:
    """A form in any of its writings; the answer is the caller's, read as ever."""
    installed = run()

    async def main() -> Any:
        data = body["data"]() if callable(body["data"]) else body["data"]
        headers = AUTH | (FORM_TYPE if isinstance(data, aiohttp.BytesPayload) else {}) | body.get("headers", {})
        sent = {"data": data, "headers": headers, "compress": body.get("compress")}
        async with aiohttp.ClientSession() as session, session.post(url, **sent) as response:
            return type(response), await response.json()

    kind, document = asyncio.run(main())

    assert (kind, document["id"]) == (aiohttp.ClientResponse, "pi_1")
    assert (counted(installed), vendor.executed) == (SETTLED, 1)


def test_a_body_that_only_the_wire_reads_is_refused_and_not_consumed(run: Any, url: str, server: JsonServer) -> None:
    """Generators, files and parts have no amount that is known: nothing is sent."""
    run()

    async def parts() -> Any:
        yield b"amount=100"

    def form() -> aiohttp.FormData:
        found = aiohttp.FormData({"amount": "100"})
        found.add_field("file", io.BytesIO(b"x"), filename="x")
        return found

    for body in (parts, lambda: io.BytesIO(TEXT.encode()), form):
        with pytest.raises(Refused, match="could not be read"):
            post(url, data=body(), headers=AUTH)

    assert server.requests == []


def test_a_body_that_its_header_cuts_is_not_known(run: Any, url: str, server: JsonServer) -> None:
    """A Content-Length below the body's makes the vendor read another call than was written."""
    run()
    with pytest.raises(Refused, match="could not be read"):
        post(url, data=FORM, headers=AUTH | {"Content-Length": "10"})

    assert server.requests == []


def test_what_a_session_adds_is_read_as_it_is_sent(run: Any, server: JsonServer) -> None:
    """Base, headers, parameters and cookies of the session; amounts in a query are refused as everywhere."""
    installed = run()
    post("v1/payment_intents", {"base_url": f"{server.url}/", "headers": AUTH | {"Idempotency-Key": "k"}, "cookies": {"a": "b"}}, data=FORM)
    with pytest.raises(Refused):
        post("v1/payment_intents", {"base_url": f"{server.url}/"}, data=FORM, params={"amount": "1"})

    assert (server.requests[0].headers["idempotency-key"], server.requests[0].headers["cookie"]) == ("k", "a=b")
    assert counted(installed) == SETTLED


def test_a_question_takes_the_way_of_its_call(run: Any, server: JsonServer) -> None:
    """What a confirm costs is asked of the vendor through the same session, with its credentials and without the write's own headers."""
    installed = run()
    intent = {"id": "pi_9", "object": "payment_intent", "amount": 100, "currency": "usd", "status": "requires_confirmation"}
    server.scripted = [Answer(200, intent), Answer(200, {**intent, "status": "succeeded", "amount_received": 100})]
    post(
        f"{server.url}/stripe/v1/payment_intents/pi_9/confirm",
        {"headers": {"X-Mine": "1"}},
        data={"return_url": "x"},
        headers={"Authorization": f"Bearer {installed.key.token}", "Idempotency-Key": "k", "Stripe-Account": "acct_1"},
    )
    question, confirm = server.requests

    assert (question.method, question.path) == ("GET", "/stripe/v1/payment_intents/pi_9")
    assert [arrived.headers["authorization"] for arrived in (question, confirm)] == ["Bearer sk_test_real"] * 2
    assert (question.headers["stripe-account"], question.headers["x-mine"]) == ("acct_1", "1")
    assert not {"idempotency-key", "content-type", "content-length"} & question.headers.keys()
    assert (counted(installed), installed.usage().calls) == (SETTLED, 1)


# -- tries and hops ----------------------------------------------------------------------------------


def test_what_a_middleware_sends_again_is_a_charge_of_its_own(run: Any, url: str, server: JsonServer) -> None:
    """A retry between the session and the wire is decided try by try; above the cap it is refused as itself, and not sent."""
    installed = run(run_usd_cap=2)
    server.scripted = [Answer(500, {}) for _ in range(3)]

    async def retry(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        while True:
            response: aiohttp.ClientResponse = await handler(request)
            if response.status < 500:
                return response
            await response.read()

    with pytest.raises(keyguard.SpendCapExceeded):
        post(url, {"middlewares": (retry,)}, data=FORM, headers=AUTH)

    assert (counted(installed), len(server.requests)) == ((0, 0, 2 * USD), 2)


def test_a_middleware_of_one_call_replaces_the_sessions_and_not_the_guard(run: Any, url: str, server: JsonServer) -> None:
    """aiohttp lets a call have its own instead, also none at all; one that answers by itself sends nothing and reserves nothing."""
    installed = run()
    seen: list[str] = []

    async def noting(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        seen.append(request.method)
        found: aiohttp.ClientResponse = await handler(request)
        return found

    async def main() -> None:
        async with aiohttp.ClientSession(middlewares=(noting,)) as session:
            for own in (None, (), (noting, noting)):
                async with session.post(url, data=FORM, headers=AUTH, middlewares=own) as response:
                    await response.read()

    asyncio.run(main())

    assert (seen, counted(installed)) == (["POST"] * 3, (3 * USD, 0, 0))


@pytest.mark.parametrize("where", ["vendor", "nobody"])
def test_a_token_that_is_fetched_inside_the_call_is_a_call_of_its_own(
    run: Any, url: str, server: JsonServer, nobody: JsonServer, where: str
) -> None:
    """A credential provider asks the vendor, or somebody else, first: one reservation for the charge, however it came to its key."""
    installed = run()
    asked = f"{server.url}/v1/account" if where == "vendor" else f"{nobody.url}/token"

    async def authorize(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        async with aiohttp.ClientSession() as session, session.get(asked) as response:
            await response.read()
        request.headers["Authorization"] = AUTH["Authorization"]
        found: aiohttp.ClientResponse = await handler(request)
        return found

    post(url, {"middlewares": (authorize,)}, data=FORM)

    assert [arrived.method for arrived in server.requests] == (["GET", "POST"] if where == "vendor" else ["POST"])
    assert (counted(installed), installed.usage().calls) == (SETTLED, 2 if where == "vendor" else 1)


def test_digest_asks_again_under_one_charge(run: Any, url: str, server: JsonServer, vendor: Vendor) -> None:
    """A 401 gives its money back."""
    installed = run()
    server.scripted = [Answer(401, {}, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})]
    post(url, {"middlewares": (aiohttp.DigestAuthMiddleware("u", "p"),)}, data=FORM)

    assert (len(server.requests), vendor.executed, counted(installed)) == (2, 1, SETTLED)


def test_aiohttp_retry_reserves_for_each_try_and_does_not_repeat_a_refusal(run: Any, url: str, server: JsonServer) -> None:
    """As Twilio's own async client uses it: two fail, the third would pass the cap."""
    installed = run(run_usd_cap=2)
    server.scripted = [Answer(500, {}) for _ in range(2)]

    async def main() -> None:
        options = aiohttp_retry.ExponentialRetry(attempts=4, start_timeout=0.001)
        async with aiohttp_retry.RetryClient(retry_options=options) as client, client.post(url, data=FORM, headers=AUTH):
            pass

    with pytest.raises(keyguard.SpendCapExceeded):
        asyncio.run(main())

    assert (sum(counted(installed)), len(server.requests)) == (2 * USD, 2)


def test_a_request_that_aiohttp_sends_again_itself_is_two(run: Any, server: JsonServer) -> None:
    """On a connection that was closed meanwhile it repeats a DELETE: each is decided."""
    installed = run(unpriced="1.00")
    server.scripted = [Answer(0), Answer(200, {})]

    async def main() -> None:
        async with aiohttp.ClientSession() as session, session.delete(f"{server.url}/v1/invented/x_1", headers=AUTH) as response:
            await response.read()

    asyncio.run(main())

    assert (len(server.requests), counted(installed)) == (2, (USD, 0, USD))


def test_a_websocket_to_a_vendor_is_a_question(run: Any, server: JsonServer) -> None:
    """Its handshake is a GET, decided as one; what goes through it then nobody sees."""
    installed = run()

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"{server.url}/v1/events", headers=AUTH)

    asyncio.run(main())

    assert (len(server.requests), installed.usage().calls, counted(installed)) == (1, 1, NOTHING)


@pytest.mark.parametrize(("status", "expected"), [(402, NOTHING), (500, DOUBT)])
def test_a_session_that_raises_for_status_ends_by_the_status(
    run: Any, url: str, server: JsonServer, status: int, expected: tuple[int, int, int]
) -> None:
    """The answer is thrown away before anybody has read it."""
    installed = run()
    server.scripted = [Answer(status, {"error": {"type": "card_error"}})]
    with pytest.raises(aiohttp.ClientResponseError) as raised:
        post(url, {"raise_for_status": True}, data=FORM, headers=AUTH)

    assert (raised.value.status, counted(installed)) == (status, expected)


def test_an_answer_that_was_expected_with_100_is_settled(run: Any, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head goes first, the body when the vendor says so; aiohttp's own server says it."""
    installed: list[keyguard.Installation] = []

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(STRIPE.answer(1) if (await request.post())["amount"] == "100" else {})

    async def main() -> int:
        app = web.Application()
        app.router.add_post("/v1/payment_intents", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host = f"127.0.0.1:{runner.addresses[0][1]}"
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={host}")
        with keyguard.run("run-2"):
            installed.append(keyguard.install(run_usd_cap=10))
            to = f"http://{host}/v1/payment_intents"
            async with aiohttp.ClientSession() as session, session.post(to, data=FORM, expect100=True) as response:
                await response.read()
        await runner.cleanup()
        return response.status

    assert asyncio.run(main()) == 200
    assert counted(installed[0]) == SETTLED


# -- tokens ------------------------------------------------------------------------------------------


def test_a_token_is_replaced_on_every_hop_and_put_back(run: Any, url: str, server: JsonServer, nobody: JsonServer) -> None:
    """The vendor sees the secret; the answers that the caller keeps show the token; the host of nobody's sees neither."""
    installed = run()
    server.scripted = [Answer(308, {}, {"Location": url}), Answer(307, {}, {"Location": f"{nobody.url}/x"})]
    response = post(url, data=FORM, headers={"Authorization": f"Bearer {installed.key.token}"})

    assert [arrived.headers["authorization"] for arrived in server.requests] == ["Bearer sk_test_real"] * 2
    assert {one.request_info.headers["Authorization"] for one in response.history} == {f"Bearer {installed.key.token}"}
    assert "authorization" not in nobody.requests[0].headers
    assert counted(installed) == NOTHING


def test_a_token_in_the_address_is_replaced(run: Any, url: str, server: JsonServer) -> None:
    """`https://key@host`, as curl users write it."""
    installed = run()
    post(url.replace("://", f"://{installed.key.token}:@"), data=FORM)

    assert base64.b64decode(server.requests[0].headers["authorization"].removeprefix("Basic ")) == b"sk_test_real:"
    assert counted(installed) == SETTLED


@pytest.mark.parametrize("number", range(3))
def test_a_token_to_a_foreign_host_is_refused(run: Any, nobody: JsonServer, number: int) -> None:
    """In any header, of the call or of the session, in clear or in Basic."""
    token = run().key.token
    basic = base64.b64encode(f"me:{token}".encode()).decode()
    headers = [{"Authorization": f"Bearer {token}"}, {"Authorization": f"Basic {basic}"}, {"X-Key": token}][number]
    with pytest.raises(EndpointNotAllowed, match="vault token") as refusal:
        post(f"{nobody.url}/x", {"headers": headers})

    assert (nobody.requests, token in str(refusal.value)) == ([], False)


# -- the connector -----------------------------------------------------------------------------------


def test_a_question_needs_no_second_place_in_the_pool(run: Any, server: JsonServer) -> None:
    """It is asked before its call has a connection: a session with one is enough for both."""
    installed = run()
    intent = {"id": "pi_9", "object": "payment_intent", "amount": 100, "currency": "usd", "status": "requires_confirmation"}
    server.scripted = [Answer(200, intent), Answer(200, {**intent, "status": "succeeded", "amount_received": 100})]

    async def main() -> None:
        confirm, waiting = f"{server.url}/v1/payment_intents/pi_9/confirm", aiohttp.ClientTimeout(total=20)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1), timeout=waiting) as session,
            session.post(confirm, headers=AUTH) as response,
        ):
            await response.read()

    asyncio.run(main())

    assert ([arrived.method for arrived in server.requests], counted(installed)) == (["GET", "POST"], SETTLED)


def test_a_connector_of_ones_own_is_guarded_once(run: Any, url: str, vendor: Vendor) -> None:
    """What it does before and after aiohttp's own method is its own business; what it refuses itself is not sent, and holds nothing."""
    installed = run()

    class Checking(aiohttp.TCPConnector):
        async def connect(self, req: Any, *args: Any, **kwargs: Any) -> Any:
            if "refused" in req.headers:
                raise PermissionError
            found = await super().connect(req, *args, **kwargs)
            await asyncio.sleep(0)
            return found

    async def main() -> None:
        async with aiohttp.ClientSession(connector=Checking(), headers=AUTH) as session:
            async with session.post(url, data=FORM) as response:
                await response.read()
            with pytest.raises(aiohttp.ClientOSError):
                await session.post(url, data=FORM, headers={"refused": "1"})

    asyncio.run(main())

    assert (vendor.executed, counted(installed), installed.usage().calls) == (1, SETTLED, 1)


def test_what_a_connector_gives_up_late_covers_nothing_else(run: Any, url: str, vendor: Vendor) -> None:
    """It had a connection, and its request was never written: the same call, made again, is one of its own, and gives that hold back."""
    installed = run()

    class Failing(aiohttp.TCPConnector):
        fails = True

        async def connect(self, *args: Any, **kwargs: Any) -> Any:
            found = await super().connect(*args, **kwargs)
            if self.fails:
                found.close()
                raise PermissionError
            return found

    async def main() -> None:
        connector = Failing()
        async with aiohttp.ClientSession(connector=connector, headers=AUTH) as session:
            with pytest.raises(aiohttp.ClientOSError):
                await session.post(url, data=FORM)
            held = counted(installed)
            connector.fails = False
            gc.collect()
            for _ in range(2):
                async with session.post(url, data=FORM) as response:
                    await response.read()
            assert held == (0, USD, 0)

    asyncio.run(main())

    assert (vendor.executed, counted(installed)) == (2, (2 * USD, 0, 0))


def test_a_connection_that_is_not_made_holds_nothing(run: Any, url: str, vendor: Vendor) -> None:
    """Whatever stopped it, a timeout of the whole call too: nothing was written."""
    installed = run()

    class Waiting(aiohttp.TCPConnector):
        async def _create_connection(self, *_: Any) -> Any:
            await asyncio.Event().wait()

    async def main(timeout: aiohttp.ClientTimeout) -> None:
        async with aiohttp.ClientSession(connector=Waiting(), timeout=timeout) as session:
            await session.post(url, data=FORM, headers=AUTH)

    for limits in ({"total": 1.0}, {"total": None, "connect": 0.05}):
        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(main(aiohttp.ClientTimeout(**limits)))

    assert (vendor.executed, counted(installed)) == (0, NOTHING)


@pytest.mark.parametrize("host", ["API.Stripe.com", "api\uff0estripe.com", "api.stripe.com."])
def test_a_host_that_is_not_read_by_aiohttp_is_read_by_us(run: Any, host: str) -> None:
    """`encoded=True` keeps a URL as it was written; what is looked up for it is the vendor's own host."""
    run(allowed_endpoints=[])
    with pytest.raises(EndpointNotAllowed, match="is not allowed by policy"):
        post(URL(f"https://{host}/v1/payment_intents", encoded=True), data=FORM, headers=AUTH)


# -- round the guard ---------------------------------------------------------------------------------


def test_a_request_method_of_somebody_else_leaves_the_guard_in_place(run: Any, url: str, server: JsonServer) -> None:
    """As vcrpy does, which puts back at the end of a cassette what stood there before install(): the guard is below it."""
    original = aiohttp.ClientSession._request
    installed = run(run_usd_cap=1)
    aiohttp.ClientSession._request = original  # type: ignore[method-assign]  # -- the point
    post(url, data=FORM, headers=AUTH)
    with pytest.raises(keyguard.SpendCapExceeded):
        post(url, data=FORM, headers=AUTH)

    assert (len(server.requests), counted(installed)) == (1, SETTLED)


def test_a_session_made_before_install_is_guarded(run: Any, url: str) -> None:
    """The seam is on the class; and after uninstall() the session is as it was."""

    async def main() -> keyguard.Installation:
        async with aiohttp.ClientSession() as session:
            installed: keyguard.Installation = run()
            async with session.post(url, data=FORM, headers=AUTH) as response:
                await response.read()
            usage = installed.usage()
            keyguard.uninstall()
            async with session.post(url, data=FORM, headers=AUTH) as response:
                await response.read()
        assert usage.calls == 1
        return installed

    asyncio.run(main())


def test_the_supported_versions_are_known() -> None:
    """From 3.8 on; what it was before has no wheels for a Python that is supported."""
    assert [patch.supports(version) for version in ("3.8.0", "3.12.0", "3.14.5", "4.0", "3.7.4", "unknown")] == [True] * 4 + [False] * 2


def test_many_at_once_stop_at_one_cap(run: Any, url: str, vendor: Vendor) -> None:
    """One session, 100 charges wanted at once: 25 go through, and nobody is refused while there is money."""
    installed = run(run_usd_cap=25)

    async def charge(session: aiohttp.ClientSession) -> bool:
        try:
            async with session.post(url, data=FORM, headers=AUTH) as response:
                await response.read()
        except keyguard.SpendCapExceeded:
            return False
        return True

    async def main() -> int:
        async with aiohttp.ClientSession() as session:
            return sum(await asyncio.gather(*(charge(session) for _ in range(100))))

    assert (asyncio.run(main()), vendor.executed, counted(installed)) == (25, 25, (25 * USD, 0, 0))
