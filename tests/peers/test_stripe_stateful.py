"""stripe-stateful-mock, which executes, declines, fails and replays as Stripe does: its own count is the ledger's, in every style."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import stripe

import keyguard
from tests.support_node import Missing, Peer, node_peer, skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]

_CODE = "require('http').createServer(require(process.argv[1]).createExpressApp()).listen(Number(process.argv[2]), '127.0.0.1')"
_SECRET = "sk_test_12345"
USD = 1_000_000


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """A fresh server, guarded like Stripe's own host."""
    try:
        with node_peer("stripe-stateful-mock", ["{port}"], code=_CODE) as found:
            monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={found.host}")
            yield found
    except Missing as missing:
        skip_or_fail(missing)
    finally:
        keyguard.uninstall()


@dataclass(frozen=True, slots=True)
class Style:
    """One way to call: `post` answers a path and a form with the object's fields, or raises what the client raises."""

    post: Callable[[str, dict[str, Any], str | None], Any]


def _sync(peer: Peer, own: stripe.HTTPClient | None) -> Style:
    client = stripe.StripeClient(_SECRET, base_addresses={"api": peer.url}, http_client=own, max_network_retries=0)

    def post(path: str, form: dict[str, Any], key: str | None) -> Any:
        return _answered(client, client.raw_request("post", path, **form, **_options(key)))

    return Style(post)


def _async(peer: Peer, make: Callable[[], stripe.HTTPClient]) -> Style:
    async def asked(path: str, form: dict[str, Any], key: str | None) -> Any:
        own = make()
        client = stripe.StripeClient(_SECRET, base_addresses={"api": peer.url}, http_client=own, max_network_retries=0)
        try:
            return _answered(client, await client.raw_request_async("post", path, **form, **_options(key)))
        finally:
            await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own

    return Style(lambda path, form, key: asyncio.run(asked(path, form, key)))


def _raw(peer: Peer) -> Style:
    def post(path: str, form: dict[str, Any], key: str | None) -> Any:
        headers = {} if key is None else {"idempotency-key": key}
        said = {name: str(value).lower() if isinstance(value, bool) else value for name, value in form.items()}
        return httpx.post(f"{peer.url}{path}", data=said, auth=(_SECRET, ""), headers=headers).raise_for_status().json()

    return Style(post)


def _options(key: str | None) -> dict[str, Any]:
    return {} if key is None else {"idempotency_key": key}


def _answered(client: stripe.StripeClient, answer: Any) -> Any:
    return client.deserialize(answer, api_mode="V1").to_dict()


_STYLES: dict[str, Callable[[Peer], Style]] = {
    "requests": lambda peer: _sync(peer, stripe.RequestsClient()),
    "urllib": lambda peer: _sync(peer, stripe.UrllibClient()),
    "httpx": lambda peer: _sync(peer, stripe.HTTPXClient(allow_sync_methods=True)),
    "async httpx": lambda peer: _async(peer, stripe.HTTPXClient),
    "async aiohttp": lambda peer: _async(peer, stripe.AIOHTTPClient),
    "raw httpx": _raw,
}


def _failing(call: Callable[[], Any]) -> int:
    """Return the status with which a call failed."""
    with pytest.raises((stripe.StripeError, httpx.HTTPStatusError)) as caught:
        call()
    error: Any = caught.value
    return int(error.response.status_code if isinstance(error, httpx.HTTPStatusError) else error.http_status)


def _truth(peer: Peer) -> tuple[int, int, int]:
    """Return what the vendor says: charged, given back, and how many charges were made, failed ones among them; in micro-USD."""
    found = httpx.get(f"{peer.url}/v1/charges", params={"limit": 100}, auth=(_SECRET, "")).raise_for_status().json()["data"]
    paid = [charge for charge in found if charge["status"] == "succeeded" and charge["captured"]]
    captured = sum(charge["amount_captured"] for charge in paid)
    # What a partial capture lets go of is in `amount_refunded` too.
    released = sum(charge["amount"] - charge["amount_captured"] for charge in paid)
    return captured * 10_000, (sum(charge["amount_refunded"] for charge in paid) - released) * 10_000, len(found)


@pytest.mark.parametrize("style", _STYLES)
def test_the_vendors_count_is_the_ledgers(peer: Peer, style: str) -> None:
    """Charges, a partial capture, a decline, a server's failure, a replay, refunds and a refusal: to the cent, after each step."""
    post = _STYLES[style](peer).post
    charge = {"amount": 2000, "currency": "usd", "source": "tok_visa"}
    installed = keyguard.install("sqlite://", run_usd_cap=60)

    first = post("/v1/charges", charge, "key-1")
    again = post("/v1/charges", charge, "key-1")
    assert (again["id"], installed.usage().spent, _truth(peer)) == (first["id"], 20 * USD, (20 * USD, 0, 1))

    kept = post("/v1/charges", {**charge, "capture": False}, None)
    assert (installed.usage().spent, installed.usage().held) == (20 * USD, 20 * USD)
    post(f"/v1/charges/{kept['id']}/capture", {"amount": 700}, None)
    assert (installed.usage().spent, installed.usage().held, _truth(peer)[0]) == (27 * USD, 0, 27 * USD)

    assert _failing(lambda: post("/v1/charges", {**charge, "source": "tok_chargeDeclined"}, None)) == 402
    assert (installed.usage().held, installed.usage().doubt, _truth(peer)[0]) == (0, 0, installed.usage().spent)
    assert _failing(lambda: post("/v1/charges", {**charge, "source": "tok_500"}, None)) == 500
    assert (installed.usage().held, installed.usage().doubt, _truth(peer)[0]) == (0, 20 * USD, installed.usage().spent)

    post("/v1/refunds", {"charge": first["id"], "amount": 300}, None)
    post("/v1/refunds", {"charge": first["id"]}, None)
    assert (installed.usage().refunded, _truth(peer)[1]) == (20 * USD, 20 * USD)

    made = _truth(peer)[2]
    with pytest.raises(keyguard.SpendCapExceeded) as refused:
        post("/v1/charges", charge, None)

    assert (refused.value.remaining, _truth(peer)[2], _truth(peer)[0]) == (13 * USD, made, installed.usage().spent)
