"""httpx2: the same classes under another name, guarded by the same file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard import context
from keyguard.errors import EndpointNotAllowed, SpendCapExceeded
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

httpx2 = pytest.importorskip("httpx2", reason="httpx2 needs Python 3.11")
USD = 1_000_000  # micro-USD
FORM = {"amount": "100", "currency": "usd", "confirm": "true"}


@pytest.fixture
def server() -> Iterator[StripeServer]:
    """A loopback Stripe that is listed as Stripe's own."""
    with StripeServer() as found:
        yield found
    keyguard.uninstall()


def _post(url: str, **more: Any) -> Any:
    with httpx2.Client() as client:
        return client.post(url, **more)


def _apost(url: str, **more: Any) -> Any:
    async def main() -> Any:
        async with httpx2.AsyncClient() as client:
            return await client.post(url, **more)

    return asyncio.run(main())


@pytest.fixture(params=[_post, _apost], ids=["sync", "async"])
def post(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Post by either client."""
    found: Callable[..., Any] = request.param
    return found


def test_a_call_is_charged_once_and_stops_at_the_cap(server: StripeServer, post: Callable[..., Any]) -> None:
    """Cost and answer are right, the refusal is itself, and nothing of it was sent."""
    with keyguard.run("run-1"):
        installed = keyguard.install("sqlite://", run_usd_cap=1.5)
        context.set_vendor_hosts({server.host: "stripe"})
        answered = post(f"{server.url}/v1/payment_intents", data=FORM)
        with pytest.raises(SpendCapExceeded):
            post(f"{server.url}/v1/payment_intents", data=FORM)

    assert answered.json()["status"] == "succeeded"
    assert server.total == 100
    assert installed.usage().spent == USD
    assert installed.seams["httpx2.sync"]
    assert installed.seams["httpx2.async"]


def test_a_refused_connection_gives_the_money_back(post: Callable[..., Any]) -> None:
    """Its own errors prove that nothing was sent."""
    with keyguard.run("run-1"):
        installed = keyguard.install("sqlite://", run_usd_cap=1.5)
        context.set_vendor_hosts({"127.0.0.1:9": "stripe"})
        with pytest.raises(httpx2.ConnectError):
            post("http://127.0.0.1:9/v1/payment_intents", data=FORM)
    usage = installed.usage()
    keyguard.uninstall()

    assert (usage.spent, usage.held, usage.doubt, usage.calls) == (0, 0, 0, 0)


def test_a_foreign_host_passes_but_never_with_a_vault_token(server: StripeServer, post: Callable[..., Any]) -> None:
    """What nobody guards is not counted; a token may not go there."""
    with keyguard.run("run-1"):
        installed = keyguard.install("sqlite://", run_usd_cap=1)
        status = post(f"{server.url}/v1/payment_intents", data=FORM).status_code
        with pytest.raises(EndpointNotAllowed, match="vault token"):
            post(f"{server.url}/v1/payment_intents", data=FORM, headers={"Authorization": f"Bearer {installed.key.token}"})

    assert status == 200
    assert server.total == 100
    assert installed.usage().calls == 0
