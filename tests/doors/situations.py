"""The columns: what the vendors answer, and what must come of one call then. Each says it of the call, not of how it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.doors import Ask, Expected, Situation
from tests.doors.vendors import NOWHERE
from tests.support_json_server import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.doors import Door
    from tests.doors.vendors import Kind, World

_TURNS_TO_GET = frozenset({301, 302, 303})


def _unfollowed(door: Door) -> tuple[str, ...]:
    """Return what the caller gets where a redirect is not followed, or not to its end: the SDK's own error, or the client's."""
    return () if door.takes_any else ("Error", "Exception", "Redirects")


def _plain(world: World, door: Door) -> tuple[Ask, Expected]:
    return Ask(world.of(door.kind).url, door.kind.secret), Expected()


def _refused(world: World, door: Door) -> tuple[Ask, Expected]:
    """Nothing is sent, and the caller gets the refusal itself; no client tries again."""
    ask = Ask(world.of(door.kind).url, door.kind.secret, retries=2)
    return ask, Expected(sent=0, executed=0, kept=0, counted=0, raises=("SpendCapExceeded",))


def _moved(status: int) -> Callable[[World, Door], tuple[Ask, Expected] | None]:
    """Answer once that the request belongs elsewhere at the same vendor: executed once, or turned into a question that costs nothing."""

    def prepare(world: World, door: Door) -> tuple[Ask, Expected] | None:
        server = world.of(door.kind)
        server.scripted = [Answer(status, {}, {"Location": f"{server.url}{door.kind.path}"})]
        ask = Ask(server.url, door.kind.secret)
        if door.kind.name == "stripe" and "urllib" in door.name and status in _TURNS_TO_GET:
            # It follows these alone, as a GET.
            return ask, Expected(sent=2, executed=0, counted=1)
        if not door.follows:
            # 303 is the answer to a request that was executed, as far as anybody knows.
            return ask, Expected(executed=0, kept=int(status == 303), counted=int(status == 303), raises=_unfollowed(door))
        if status not in _TURNS_TO_GET:
            return ask, Expected(sent=2)
        # A question, which is kept as a call without cost; an SDK tells its answer as that of the call, which says nothing about it.
        is_counted = status == 303 or not door.sees_hops
        return ask, Expected(sent=2, executed=0, kept=1 + (status == 303) if door.sees_hops else 2, counted=int(is_counted))

    return prepare


def _to_the_vendor(world: World, door: Door) -> tuple[Ask, Expected] | None:
    """A host of nobody's sends the call on to the vendor."""
    if not door.follows:
        return None
    world.nobody.scripted = [Answer(307, {}, {"Location": f"{world.of(door.kind).url}{door.kind.path}"})]
    return Ask(world.nobody.url, "not a secret"), Expected(elsewhere=1)


def _to_nobody(world: World, door: Door) -> tuple[Ask, Expected]:
    """The vendor sends the call away to a host of nobody's: not executed; the vendor's secret stays at home."""
    server = world.of(door.kind)
    server.scripted = [Answer(307, {}, {"Location": f"{world.nobody.url}/else"})]
    ask = Ask(server.url, door.kind.secret)
    if not door.follows:
        return ask, Expected(executed=0, kept=0, counted=0, raises=_unfollowed(door))
    # An SDK tells what nobody answered as if the vendor had said it.
    in_doubt = int(not door.sees_hops)
    return ask, Expected(executed=0, kept=in_doubt, counted=in_doubt, elsewhere=1)


def _to_another_vendor(world: World, door: Door) -> tuple[Ask, Expected]:
    """The vendor sends the call to another one, who is guarded too: what is no call of that one's is refused as such."""
    server = world.of(door.kind)
    server.scripted = [Answer(307, {}, {"Location": f"{world.others(door.kind)[0].url}/nothing/of/its"})]
    ask = Ask(server.url, door.kind.secret, retries=2)
    if not door.follows:
        return ask, Expected(executed=0, kept=0, counted=0, raises=_unfollowed(door))
    in_doubt = int(not door.sees_hops)
    return ask, Expected(executed=0, kept=in_doubt, counted=in_doubt, raises=("UnpricedCall", "MalformedCall"))


def _round(world: World, door: Door) -> tuple[Ask, Expected]:
    """The vendor sends the call round and round, until the client gives up: never executed."""
    server = world.of(door.kind)
    server.scripted = [Answer(307, {}, {"Location": f"{server.url}{door.kind.path}"}) for _ in range(60)]
    ask = Ask(server.url, door.kind.secret)
    # Of a client's error an SDK cannot tell what was before it.
    in_doubt = int(door.follows and not door.sees_hops)
    return ask, Expected(sent=None, executed=0, kept=in_doubt, counted=in_doubt, raises=_unfollowed(door))


def _failing(status: int, *, with_key: bool) -> Callable[[World, Door], tuple[Ask, Expected] | None]:
    """Answer twice that it failed, and then well, to a client that tries again."""

    def prepare(world: World, door: Door) -> tuple[Ask, Expected] | None:
        if not door.retries or (status == 429 and not door.repeats_429) or (not with_key and door.has_key):
            # Stripe's SDK makes a key where there is none.
            return None
        if with_key and not door.kind.is_idempotent:
            return None
        server = world.of(door.kind)
        server.scripted = [Answer(status, {"error": {"type": "api_error", "message": "m"}}) for _ in range(2)]
        ask = Ask(server.url, door.kind.secret, key="k1" if with_key else "", retries=2)
        # Without a key each send may be executed; after a 429 none was.
        sends = 1 if with_key or status == 429 else 3
        return ask, Expected(sent=3, kept=sends, counted=sends)

    return prepare


def _refused_on_the_way(world: World, door: Door) -> tuple[Ask, Expected] | None:
    """Two units are allowed, and the third send would be a third: it is refused, and not made."""
    found = _failing(503, with_key=False)(world, door)
    if found is None:
        return None
    return found[0], Expected(sent=2, executed=0, kept=2, counted=2, raises=("SpendCapExceeded",))


def _with_token(world: World, door: Door) -> tuple[Ask, Expected]:
    """The call carries a vault token: on the wire stands the real secret. After the first hop leaves the vendor, neither does."""
    server = world.of(door.kind)
    server.scripted = [
        Answer(307, {}, {"Location": f"{server.url}{door.kind.path}"}),
        Answer(307, {}, {"Location": f"{world.nobody.url}/else"}),
    ]
    ask = Ask(server.url, "TOKEN")
    if not door.follows:
        return ask, Expected(executed=0, kept=0, counted=0, raises=_unfollowed(door))
    in_doubt = int(not door.sees_hops)
    return ask, Expected(sent=2, executed=0, kept=in_doubt, counted=in_doubt, elsewhere=1)


def _by_proxy(world: World, door: Door) -> tuple[Ask, Expected] | None:
    """The environment names a proxy, which stands in for the vendor here: decided by the URL, whoever answers."""
    return (Ask(NOWHERE[door.kind.name], door.kind.secret), Expected()) if door.knows_proxies else None


def _one_unit(kind: Kind) -> dict[str, Any]:
    return {"run_usd_cap": kind.unit / 2_000_000}


def _two_units(kind: Kind) -> dict[str, Any]:
    return {"run_usd_cap": kind.unit * 2 / 1_000_000}


SITUATIONS = (
    Situation("plain", _plain),
    Situation("refused", _refused, _one_unit),
    *(Situation(str(status), _moved(status)) for status in (301, 302, 303, 307, 308)),
    Situation("from nobody", _to_the_vendor),
    Situation("to nobody", _to_nobody),
    Situation("to another", _to_another_vendor),
    Situation("round", _round),
    Situation("500s, key", _failing(500, with_key=True)),
    Situation("503s, no key", _failing(503, with_key=False)),
    Situation("429s, no key", _failing(429, with_key=False)),
    Situation("capped retry", _refused_on_the_way, _two_units),
    Situation("token, away", _with_token),
    Situation("by proxy", _by_proxy, environment=lambda world, kind: {"http_proxy": world.of(kind).url}),
)
