"""The rows: what goes wrong, really, and what must come of one call then. Each says it of the call, not of how it is made."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import stripe

import keyguard
from keyguard.testing.double import Fault as Strike
from tests.double.support import raw
from tests.endings import IMPATIENCE, PATIENCE, Ask, Expected, Fault, Impossible
from tests.endings.clients import STRIPE
from tests.support_timeouts import Injected, strike

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.endings import Client
    from tests.endings.world import World

_keys = itertools.count(1)
# Seconds: longer than a client waits; on a busy machine a request may come to the double when all that wait were let go already.
_BRIEFLY = 3.0
_SETTLED, _RELEASED = Expected(1, 1), Expected()
_LOST, _IN_DOUBT = Expected(1, doubt=1), Expected(doubt=1)
_ANSWERED = Expected(1, 1, raises=False)


def _always(expected: Expected) -> Callable[[Client], Expected]:
    return lambda _: expected


def _ask(*faults: Strike, **more: Any) -> Callable[[World, Client], Ask]:
    """Ask the double, which plays some faults."""

    def prepare(world: World, client: Client) -> Ask:
        return Ask(world.script(client.kind, *faults).url, **more)

    return prepare


def _own_key(*faults: Strike, **more: Any) -> Callable[[World, Client], Ask]:
    """Do the same with an idempotency key of the caller's own, where the vendor knows such keys."""

    def prepare(world: World, client: Client) -> Ask:
        key = f"own-{next(_keys)}" if client.kind.keeps_keys else ""
        return Ask(world.script(client.kind, *faults).url, key=key, **more)

    return prepare


# -- the vendor answers ---------------------------------------------------------------------------------


def _refused(client: Client) -> Expected:
    """A refusal is the SDK's error, and a raw client's answer."""
    return Expected(raises=client.is_sdk)


def _only_stripe(expected: Expected, reason: str) -> Callable[[Client], Expected | Impossible]:
    return lambda client: expected if client.kind is STRIPE else Impossible(reason)


def _raised_meanwhile(world: World, client: Client) -> Ask:
    """Make an intent of one unit, which the run holds, and have somebody else raise it to three; the call confirms it."""
    double = world.script(client.kind)
    made = _made(double.url)
    status, _, _ = raw(double.host, "POST", f"/v1/payment_intents/{made}", {"amount": 300}, Authorization=f"Bearer {STRIPE.secret}")
    assert status == 200
    return Ask(double.url, intent=made)


def _made(url: str) -> str:
    own = stripe.RequestsClient()
    client = stripe.StripeClient(STRIPE.secret, base_addresses={"api": url}, http_client=own)
    try:
        return client.v1.payment_intents.create({"amount": 100, "currency": "usd"}).id
    finally:
        own.close()  # type: ignore[no-untyped-call]  # -- stripe's own


# -- nothing is sent -----------------------------------------------------------------------------------


def _closed(world: World, client: Client) -> Ask:
    double = world.script(client.kind)
    double.refuse()
    return Ask(double.url)


def _unseen(client: Client) -> Expected | Impossible:
    """Of several tries an error shows only the last: whether an earlier one was executed, nobody knows."""
    return _IN_DOUBT if client.hides else Impossible("each of its tries is seen")


def _hiding(world: World, client: Client) -> Ask:
    return replace(_closed(world, client), hides=True)


def _nameless(world: World, client: Client) -> Ask:
    return Ask(world.nowhere(client.kind.name))


def _never_accepted(world: World, client: Client) -> Ask:
    return Ask(world.full[client.kind.name].url, IMPATIENCE)


def _distrusted(world: World, client: Client) -> Ask:
    return Ask(world.distrusted[client.kind.name].url)


def _connecting(client: Client) -> Expected:
    """Where the timeout is of the whole call, nothing proves that it was not the answer that did not come."""
    return _IN_DOUBT if client.times_whole else _RELEASED


def _pool(client: Client) -> Expected | Impossible:
    """The first call takes the only connection, and settles; the second never gets one."""
    return Impossible(client.no_pool) if client.no_pool else _SETTLED


def _crowd(world: World, client: Client) -> Ask:
    return Ask(world.script(client.kind, Strike("hold_after")).url, pool=IMPATIENCE, room=world.room(client.kind))


# -- the same key twice -----------------------------------------------------------------------------------


def _conflict(client: Client) -> Expected | Impossible:
    """The first one is executed once and settles; the second is told that the first is still running."""
    if not client.kind.keeps_keys:
        return Impossible("the vendor knows no idempotency keys")
    return Expected(1, 1, raises=client.is_sdk)


def _first(world: World, client: Client) -> Ask:
    """Let another thread make the call first, and be held in it."""
    double = world.script(client.kind, Strike("hold_after"))
    ask = Ask(double.url, key=f"own-{next(_keys)}")
    world.companion = threading.Thread(target=keyguard.wrap(client.call), args=(ask,))
    world.companion.start()
    double.wait_until_held(1, PATIENCE)
    return ask


# -- from outside the call ----------------------------------------------------------------------------------


def _cancelled(expected: Expected) -> Callable[[Client], Expected | Impossible]:
    return lambda client: expected if client.is_async else Impossible("it is not awaited")


def _cancelling(when: Any) -> Callable[[World, Client], Ask]:
    return lambda world, client: Ask(world.script(client.kind, Strike("hold_after")).url, cancel=when, room=world.room(client.kind))


def _injected(client: Client) -> Expected | Impossible:
    return Impossible("it is cancelled instead, see above") if client.is_async else _LOST


def _inject(world: World, client: Client) -> None:
    """Strike the calling thread while its request waits, as an orchestrator's watcher does; then let it be answered."""
    double = world.of(client.kind.name)
    double.wait_until_held(1, PATIENCE)
    strike(world.caller, Injected)
    double.release()


# -- the client tries again ------------------------------------------------------------------------------------


def _again(client: Client) -> Expected | Impossible:
    """With a key the vendor executes both sends once; without one each send counts."""
    if client.once:
        return Impossible(client.once)
    return _ANSWERED if client.kind.keeps_keys else Expected(2, 1, 1, raises=False)


def _lose_first(world: World, client: Client) -> Ask:
    """Execute the first send and lose its answer, in a way that the client tries again after."""
    return _own_key(Strike("close_after" if client.again == "lost" else "error_after"), retries=1)(world, client)


def _refused_again(client: Client) -> Expected | Impossible:
    """The last attempt is proven unsent, and the first one may have been executed: it was."""
    if client.once or client.again == "5xx":
        return Impossible(client.once or "it tries again after a 5xx alone")
    return _LOST


def _declined_again(client: Client) -> Expected | Impossible:
    """A declined payment is what its key answers from then on: the lost send was declined as well."""
    if client.kind is not STRIPE or client.once:
        return Impossible(client.once or "only Stripe keeps a refusal under a key")
    return Expected(raises=client.is_sdk)


def _vanish(world: World, client: Client) -> None:
    """When the request was executed, hang up, and let nobody connect any more."""
    double = world.of(client.kind.name)
    double.wait_until_held(1, PATIENCE)
    double.refuse()


# -- the table ---------------------------------------------------------------------------------------------------


FAULTS = (
    Fault("2xx", _always(_ANSWERED), _ask()),
    Fault(
        "2xx above the quote",
        _only_stripe(Expected(3, 3, raises=False), "its answers name no price; what is learned later is booked by reconcile"),
        _raised_meanwhile,
    ),
    Fault("400 or 422", _refused, _ask(is_wrong=True)),
    Fault("401", _refused, _ask(Strike("unauthorized"))),
    Fault("402 or declined", _refused, _ask(Strike("decline"))),
    Fault("403", _refused, _ask(Strike("forbidden"))),
    Fault("404", _refused, _ask(Strike("missing"))),
    Fault("429", _refused, _ask(Strike("rate_limit"))),
    Fault("connection refused", _always(_RELEASED), _closed),
    Fault("refused, tries unseen", _unseen, _hiding),
    Fault("name not resolved", _always(_RELEASED), _nameless),
    Fault("connect timeout", _connecting, _never_accepted, is_slow=True),
    Fault("pool timeout", _pool, _crowd, is_slow=True),
    Fault("certificate", _always(_RELEASED), _distrusted),
    Fault("read timeout", _always(_LOST), _ask(Strike("hold_after", seconds=_BRIEFLY), timeout=IMPATIENCE), is_slow=True),
    Fault("read timeout, then executed", _always(_LOST), _ask(Strike("hold_before", seconds=_BRIEFLY), timeout=IMPATIENCE), is_slow=True),
    Fault("closed before reading", _always(_IN_DOUBT), _ask(Strike("close_before"))),
    Fault("closed after executing", _always(_LOST), _ask(Strike("close_after"))),
    Fault("reset after executing", _always(_LOST), _ask(Strike("reset_after"))),
    Fault("body cut short", _always(_LOST), _ask(Strike("truncate"))),
    Fault("500, not executed", lambda client: Expected(doubt=1, raises=client.is_sdk), _ask(Strike("error_before"))),
    Fault("500, executed", lambda client: Expected(1, doubt=1, raises=client.is_sdk), _ask(Strike("error_after"))),
    Fault("503", lambda client: Expected(doubt=1, raises=client.is_sdk), _ask(Strike("unavailable"))),
    Fault("409, key in flight", _conflict, _first),
    Fault("unreadable 2xx", lambda client: Expected(1, doubt=1, raises=client.is_sdk), _ask(Strike("garble"))),
    Fault("cancelled before the send", _cancelled(_RELEASED), _cancelling("before")),
    Fault("cancelled while waiting", _cancelled(_LOST), _cancelling("waiting")),
    Fault("exception injected", _injected, _ask(Strike("hold_after")), _inject),
    Fault("process killed", _always(_LOST), _ask(Strike("hold_after")), dies=True),
    Fault("lost, then refused", _refused_again, _own_key(Strike("hold_after"), retries=1), _vanish),
    Fault("lost, then declined", _declined_again, _own_key(Strike("close_after"), retries=1, is_declined=True)),
    Fault("lost, then sent again", _again, _lose_first),
)
