"""What httpx and httpx2 do round a request, each with the real ledger: auth flows, event hooks, transports; one reservation a charge."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from tests.doors.vendors import STRIPE, Vendor
from tests.support_json_server import Answer, JsonServer
from tests.support_libraries import HTTPX

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator

USD = 1_000_000  # micro-USD
FORM = {"amount": "100", "currency": "usd", "confirm": "true"}
SETTLED, NOTHING = (USD, 0, 0), (0, 0, 0)
LIBRARIES = pytest.mark.parametrize("library", HTTPX.values(), ids=HTTPX)
STYLES = pytest.mark.parametrize("style", ["sync", "async"])


@pytest.fixture
def vendor() -> Vendor:
    """What Stripe executed."""
    return Vendor(STRIPE)


@pytest.fixture
def server(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """Its loopback server, listed as Stripe's own."""
    with JsonServer(vendor.answer) as found:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={found.host}")
        yield found


@pytest.fixture
def nobody() -> Iterator[JsonServer]:
    """A host that is no vendor's."""
    with JsonServer(lambda _: Answer(200, {"token": "fetched"})) as found:
        yield found


@pytest.fixture
def installed(server: JsonServer) -> Iterator[keyguard.Installation]:
    """A run's guard."""
    with keyguard.run("run-1"):
        yield keyguard.install(run_usd_cap=10)


def counted(installed: keyguard.Installation) -> tuple[int, int, int]:
    """Return spent, held and doubt in micro-USD."""
    usage = installed.usage()
    return usage.spent, usage.held, usage.doubt


def post(library: Any, style: str, url: str, hooks: Callable[..., Any] | None = None, **how: Any) -> Any:
    """Make one charge with a client of its own, blocking or awaited; a hook is made awaited for the awaiting one."""
    if style == "sync":
        with library.Client(event_hooks={"request": [hooks] if hooks else []}) as client:
            return client.post(url, data=FORM, **how)

    async def ahook(request: Any) -> None:
        assert hooks is not None
        hooks(request)

    async def main() -> Any:
        async with library.AsyncClient(event_hooks={"request": [ahook] if hooks else []}) as client:
            return await client.post(url, data=FORM, **how)

    return asyncio.run(main())


def _flow(library: Any, asked: str) -> Any:
    class Fetching(library.Auth):  # type: ignore[misc]  # -- of whichever library
        requires_response_body = True

        def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
            answer = yield library.Request("GET", asked)
            request.headers["Authorization"] = f"Bearer {answer.json().get('token', 'own')}"
            yield request

        async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
            flow = self.auth_flow(request)
            answer = yield next(flow)
            await answer.aread()
            yield flow.send(answer)

    return Fetching()


@LIBRARIES
@STYLES
@pytest.mark.parametrize("where", ["vendor", "nobody"])
def test_a_token_that_is_fetched_inside_the_call_is_a_call_of_its_own(
    installed: keyguard.Installation, server: JsonServer, nobody: JsonServer, library: Any, style: str, where: str
) -> None:
    """A credential provider asks the vendor, or somebody else, first: one reservation for the charge, however it came to its key."""
    auth = _flow(library, f"{server.url}/v1/account" if where == "vendor" else f"{nobody.url}/token")
    post(library, style, f"{server.url}/v1/payment_intents", auth=auth)

    assert [arrived.method for arrived in server.requests] == (["GET", "POST"] if where == "vendor" else ["POST"])
    assert (counted(installed), installed.usage().calls) == (SETTLED, 2 if where == "vendor" else 1)


@LIBRARIES
@STYLES
def test_digest_asks_again_under_one_charge(
    installed: keyguard.Installation, server: JsonServer, vendor: Vendor, library: Any, style: str
) -> None:
    """A 401 gives its money back."""
    server.scripted = [Answer(401, {}, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})]
    post(library, style, f"{server.url}/v1/payment_intents", auth=library.DigestAuth("u", "p"))

    assert (len(server.requests), vendor.executed, counted(installed)) == (2, 1, SETTLED)


@LIBRARIES
@STYLES
def test_a_hook_that_changes_the_address_changes_who_decides(
    installed: keyguard.Installation, server: JsonServer, nobody: JsonServer, library: Any, style: str
) -> None:
    """What counts is where a request goes at last: to the vendor it is a charge, away from it nobody's business."""

    def to(url: str) -> Callable[[Any], None]:
        def change(request: Any) -> None:
            request.url = library.URL(url)
            request.headers["Host"] = request.url.netloc.decode()

        return change

    post(library, style, f"{server.url}/v1/payment_intents", hooks=to(f"{nobody.url}/else"))
    away = counted(installed)
    post(library, style, f"{nobody.url}/else", hooks=to(f"{server.url}/v1/payment_intents"))

    assert (away, counted(installed)) == (NOTHING, SETTLED)
    assert (len(server.requests), len(nobody.requests)) == (1, 1)


@LIBRARIES
def test_a_transport_that_sends_nothing_is_guarded_as_one_that_does(installed: keyguard.Installation, library: Any) -> None:
    """A mock or a transport of the user's own answers for the vendor's own host: reserved, settled, refused above the cap."""
    transport = library.MockTransport(lambda _: library.Response(200, content=json.dumps(STRIPE.answer(1)).encode()))
    with library.Client(transport=transport, mounts={}) as client:
        client.post("https://api.stripe.com/v1/payment_intents", data=FORM)
        with pytest.raises(keyguard.SpendCapExceeded):
            client.post("https://api.stripe.com/v1/payment_intents", data=FORM | {"amount": "1000"})

    assert counted(installed) == SETTLED


@LIBRARIES
@pytest.mark.parametrize("status", [307, 308])
def test_a_redirected_body_is_read_where_it_is_in_memory(
    installed: keyguard.Installation, server: JsonServer, library: Any, status: int
) -> None:
    """Form, JSON and bytes go to the next hop as a stream that can be read again; a generator cannot, which httpx says itself."""
    url = f"{server.url}/v1/payment_intents"
    for body in (
        {"data": FORM},
        {"content": b"amount=100&currency=usd&confirm=true", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    ):
        server.scripted = [Answer(status, {}, {"Location": url})]
        with library.Client(follow_redirects=True) as client:
            client.post(url, **body)

    assert counted(installed) == (2 * USD, 0, 0)
