"""One behaviour in three set-ups: calls, decisions, errors, totals and keys are the same without a proxy and through one."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest
import requests
import stripe

from keyguard.testing.double import Fault
from tests.proxy.support import PAY, Proxy
from tests.remote.support import KINDS, World, armed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keyguard.testing.double import VendorDouble
    from keyguard.testing.double.faults import Kind

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
MANUAL = {**PAY, "capture_method": "manual"}


# -- what a run does ---------------------------------------------------------------------------------


def pay(world: World, **fields: Any) -> Callable[[], Any]:
    """Return what charges two dollars."""
    return lambda: world.stripe().v1.payment_intents.create({**PAY, **fields})


def raw(world: World, send: Callable[..., Any]) -> Callable[[], Any]:
    """Return what charges two dollars by a library of no vendor's."""
    form = {"amount": "200", "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}

    def paying() -> Any:
        return send(f"{world.stripe_url}/v1/payment_intents", data=form, headers={"Authorization": f"Bearer {world.token}"})

    return paying


def charges_to_the_cap(world: World) -> list[Any]:
    """Two charges fit, the third would pass the cap."""
    return [world.said(pay(world, description=f"{n}")) for n in range(3)]


def awaited_charges(world: World) -> list[Any]:
    """The same, awaited."""

    async def paying(n: int) -> Any:
        client = stripe.HTTPXClient()
        try:
            return await world.stripe(http_client=client).v1.payment_intents.create_async({**PAY, "description": f"{n}"})
        finally:
            await client.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own

    return [world.said(lambda n=n: asyncio.run(paying(n))) for n in range(3)]  # type: ignore[misc]  # -- a default in a lambda


def raw_charges(world: World) -> list[Any]:
    """Raw requests of three libraries are decided like the SDK's."""

    async def awaiting(url: str, **options: Any) -> Any:
        async with aiohttp.ClientSession() as session, session.post(url, **options) as answer:
            return await answer.json()

    def by_httpx(url: str, **options: Any) -> Any:
        with httpx.Client(trust_env=False) as client:
            return client.post(url, **options).raise_for_status()

    def by_requests(url: str, **options: Any) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            session.post(url, **options).raise_for_status()

    return [world.said(raw(world, send)) for send in (by_httpx, by_requests, lambda url, **options: asyncio.run(awaiting(url, **options)))]


def forbidden_endpoints(world: World) -> list[Any]:
    """What is not on the list is refused, and what is on it passes."""
    client = world.stripe().v1
    return [world.said(lambda: client.customers.create({"name": "x"})), world.said(pay(world))]


def broken_rules(world: World) -> list[Any]:
    """A rule holds, and lets through what keeps it."""
    return [world.said(pay(world, amount=300)), world.said(pay(world, currency="eur")), world.said(pay(world))]


def dear_calls(world: World) -> list[Any]:
    """A call above what one may cost is refused, and those after too many."""
    return [world.said(pay(world, amount=500)), world.said(pay(world)), world.said(pay(world, description="x"))]


def declines(world: World) -> list[Any]:
    """A decline is the vendor's own error; the same charge may be made again, as the next generation."""
    world.double.script(Fault("decline", vendor="stripe"))
    first = world.said(pay(world))
    with world.again():
        return [first, world.said(pay(world))]


def vendors_own_refusals(world: World) -> list[Any]:
    """What the vendor itself refuses is its own error, whatever its status."""
    kinds: tuple[Kind, ...] = ("unauthorized", "forbidden", "rate_limit", "missing", "unavailable")
    world.double.script(*(Fault(kind, vendor="stripe", times=1) for kind in kinds))
    return [world.said(pay(world, description=kind)) for kind in kinds]


def lost_answers(world: World) -> list[Any]:
    """A charge whose answer was lost stays counted, and a retry of the run does not make it again."""
    world.double.script(Fault("error_after", vendor="stripe", times=1))
    first = world.said(pay(world))
    totals = world.totals
    with world.again():
        return [first, totals, world.said(pay(world))]


def refunds(world: World) -> list[Any]:
    """A whole refund, whose amount is not in it, and a part of one; more than was charged is the vendor's to refuse."""
    client = world.stripe().v1
    made = [client.payment_intents.create({**PAY, "description": f"{n}"}).id for n in range(2)]
    return [
        world.said(lambda: client.refunds.create({"payment_intent": made[0]})),
        world.said(lambda: client.refunds.create({"payment_intent": made[1], "amount": 50})),
        world.said(lambda: client.refunds.create({"payment_intent": made[1], "amount": 500})),
    ]


def captures(world: World) -> list[Any]:
    """Money that was only authorized is held, and a part of it captured."""
    client = world.stripe().v1
    intent = client.payment_intents.create(MANUAL)
    before = world.totals
    return [before, world.said(lambda: client.payment_intents.capture(intent.id, {"amount_to_capture": 150}))]


def unpriced(world: World) -> list[Any]:
    """A write that nobody priced is refused, and so is one that cannot be read strictly."""
    client = world.stripe()
    return [
        world.said(lambda: client.raw_request("post", "/v1/things_of_the_future", amount=1)),
        world.said(lambda: client.raw_request("post", "/v1/payment_intents?amount=1", amount=2, currency="usd")),
    ]


def own_keys(world: World) -> list[Any]:
    """A caller's own key is one charge however often it is sent, and none with other parameters."""
    client, options = world.stripe().v1, {"idempotency_key": f"{world.run}-mine"}
    return [
        world.said(lambda: client.payment_intents.create({**PAY}, options)),
        world.said(lambda: client.payment_intents.create({**PAY}, options)),
        world.said(lambda: client.payment_intents.create({**PAY, "amount": 100}, options)),
    ]


def messages(world: World) -> list[Any]:
    """Messages are counted each; what Twilio refuses is its own error."""
    world.double.script(Fault("forbidden", vendor="twilio", after=1, times=1))
    return [world.said(world.message) for _ in range(3)]


def emails(world: World) -> list[Any]:
    """E-mails are counted by recipients, up to how many may be sent."""
    return [world.said(lambda: world.email(to=["a@example.com", "b@example.com"])), world.said(world.email), world.said(world.email)]


def ended(world: World) -> list[Any]:
    """After a revoke nothing leaves."""
    first = world.said(pay(world))
    world.installed.revoke()
    return [first, world.said(pay(world, description="later"))]


def observed(world: World) -> list[Any]:
    """Nothing is refused where everything only observes, and the truth is counted."""
    return [world.said(pay(world, description=f"{n}")) for n in range(3)]


def uncapped(world: World) -> list[Any]:
    """A policy may have no dollar cap, and stop at others alone."""
    return [world.said(pay(world, amount=500)), world.said(pay(world)), world.said(pay(world, description="x"))]


SCENARIOS: dict[Callable[[World], list[Any]], dict[str, Any]] = {
    charges_to_the_cap: {"run_usd_cap": 5},
    awaited_charges: {"run_usd_cap": 5},
    raw_charges: {"run_usd_cap": 5},
    forbidden_endpoints: {"run_usd_cap": 5, "allowed_endpoints": ["POST /v1/payment_intents"]},
    broken_rules: {"run_usd_cap": 50, "rules": {"payment_intents.create": {"amount": {"max": 200}, "currency": ["usd"]}}},
    dear_calls: {"run_usd_cap": 50, "call_usd_cap": 4, "max_calls": 1},
    declines: {"run_usd_cap": 5},
    vendors_own_refusals: {"run_usd_cap": 50},
    lost_answers: {"run_usd_cap": 5},
    refunds: {"run_usd_cap": 5},
    captures: {"run_usd_cap": 5},
    unpriced: {"run_usd_cap": 5},
    own_keys: {"run_usd_cap": 50},
    messages: {"run_usd_cap": 50, "vendor": "twilio"},
    emails: {"run_usd_cap": 50, "max_emails": 2, "vendor": "resend"},
    ended: {"run_usd_cap": 50},
    observed: {"run_usd_cap": 3, "mode": "observe"},
    uncapped: {"call_usd_cap": 4, "max_calls": 1},
}


def played(
    scenario: Callable[[World], list[Any]], policy: dict[str, Any], kind: Any, double: VendorDouble, proxy: Proxy, folder: Path
) -> Any:
    """Play a scenario in one set-up, and return all that can be seen of it."""
    with armed(kind, double, proxy, folder, **policy) as world:
        said = scenario(world)
        return {"said": said, "executed": world.truth, "sent": world.sent, "totals": world.totals, "spans": world.spans}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_three_set_ups_behave_alike(scenario: Callable[[World], list[Any]], double: VendorDouble, proxy: Proxy, tmp_path: Path) -> None:
    """What is said, executed, sent and counted is the same without a proxy, through one, and with a ledger in front of one."""
    seen = {}
    for kind in KINDS:
        seen[kind] = played(scenario, SCENARIOS[scenario], kind, double, proxy, tmp_path)
        double.clear()

    assert seen["remote"] == seen["local"]
    assert seen["front"] == seen["local"]


# -- what differs ------------------------------------------------------------------------------------

# Each is argued in `keyguard.backends.keybrake`; the allowlist's is in test_totals.py, other machines' spending too.
DIFFERENCES: dict[str, tuple[Fault, dict[str, Any]]] = {
    "lost-before-the-proxy": (
        Fault("close_after", vendor="stripe", times=1),
        {"local": "APIConnectionError None", "remote": "APIError 502", "front": "APIError 502"},
    ),
    "kept-error-and-a-retry-of-the-sdks": (
        Fault("error_after", vendor="stripe", times=1),
        {"local": "APIError 500", "remote": "AlreadyCharged", "front": "AlreadyCharged"},
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_where_set_ups_differ(name: str, double: VendorDouble, proxy: Proxy, tmp_path: Path) -> None:
    """The words of a lost answer are the proxy's; an error that the vendor keeps is found out between two tries. Money is the same."""
    fault, expected = DIFFERENCES[name]
    for kind in KINDS:
        with armed(kind, double, proxy, tmp_path, run_usd_cap=5) as world:
            double.script(fault)
            client = world.stripe(max_network_retries=2 if name.startswith("kept") else 0)
            said = world.said(partial(client.v1.payment_intents.create, PAY))
            totals = world.totals
            double.clear()

            assert (kind, said if isinstance(said, str) else said[0]) == (kind, expected[kind])
            assert [row[2] for row in world.truth] == [2_000_000]
            assert totals["spent"] + totals["doubt"] == 2_000_000
