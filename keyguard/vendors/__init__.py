"""The vendor contract, the look-up by name and host, and the registration of vendors by the user. Plugs are the other files.

A vendor plug knows money: from method, path and parameters alone it names the operation, bounds the
cost before the send (a generator, because some quotes must ask what the run's ledger remembers, or
the vendor itself), and reads the cost from the reply. It never sends anything and never sees a
ledger. It raises `MalformedCall` and `UnpricedCall`, never a bare exception.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from keyguard import context
from keyguard._values import frozen
from keyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import date
    from decimal import Decimal
    from importlib.metadata import EntryPoint

    from keyguard.model import Call, Doubt, Fact, Operation, Outcome, Pairs, Quote, Reply
    from keyguard.vendors._inquiry import Asking, Inquiry

    Usd: TypeAlias = int | float | Decimal | str
    Pricing: TypeAlias = Callable[[Call], Usd | None]
    Costing: TypeAlias = Callable[[Call, Reply], Usd | None]
    Priced: TypeAlias = Usd | Pricing


@frozen
class Recall:
    """Asked by a quote: what does this run's ledger remember of the object? Answer: Memory or None."""

    object_id: str


@frozen
class Ask:
    """Asked by a quote: GET this path from the vendor with the caller's own credentials. Answer: Reply."""

    path: str


Quoting: TypeAlias = Generator["Recall | Ask", Any, "Quote"]


class Vendor(Protocol):
    """
    What every vendor plug offers, as a module-level object named `vendor`.

    It may also have `tag` (Tagging), `account` (Accounting), `prices` (Dated), `window` (Window), `payee` (Paid), `inquiring` (Inquiring),
    `credential_headers`, the names in lower case of the headers that may carry its credential (without it, `authorization`), and
    `on_refused`: `response` where a refusal is to reach the client as an answer, and
    `on_lost`: `hang up` where its SDK sends a write again at any 5xx, so that a proxy must not answer one for an answer that it lost.
    """

    @property
    def name(self) -> str:
        """The word in policies, spans and tables."""
        ...

    @property
    def hosts(self) -> frozenset[str]:
        """The vendor's own API hosts, lower case; `*.example.com` stands for every name below that one."""
        ...

    @property
    def secret_env(self) -> str:
        """Environment variable of the real secret; "" where there is none."""
        ...

    def classify(self, call: Call) -> Operation:
        """
        Name the operation. Unknown writes come back with `known=False`, never as free.

        Raises:
            MalformedCall: dot segments, encoded dots or slashes, empty segments.
        """
        ...

    def quote(self, call: Call, operation: Operation) -> Quoting:
        """
        Bound the cost of a known operation; reads quote 0.

        Raises:
            MalformedCall: an amount that is not a digit string, or money parameters that are duplicated or in a POST's query.
            UnpricedCall: no bound can be had (unknown object, currency without a rate).
        """
        ...

    def read(self, call: Call, operation: Operation, quote: Quote, reply: Reply) -> Outcome:
        """Say how an attempt that got this reply ended. Never raises: what cannot be read is doubt."""
        ...

    def parameters(self) -> Mapping[str, frozenset[str] | None]:
        """Return each operation that a policy may have `rules` for, with its top-level parameters; None = the plug does not know them."""
        ...


class Tagging(Protocol):
    """What a vendor plug may offer as `tag`, where objects at the vendor can carry a run's id."""

    def __call__(self, call: Call, operation: Operation, quote: Quote, run_id: str, /) -> Pairs:
        """Return the pairs to add to the call's form before it is sent, () = none. Never raises."""
        ...


class Accounting(Protocol):
    """What a vendor plug may offer as `account`, where the path says whose money it is."""

    def __call__(self, path: str, /) -> str:
        """Return the account that a call to this path bills, "" = the path names none. Never raises."""
        ...


class Window(Protocol):
    """What a vendor plug may offer as `window`, where the vendor executes requests with the same Idempotency-Key once."""

    def __call__(self, call: Call, /) -> float:
        """Return for how many seconds after the first send of a key that holds for this write, less what clocks differ; 0 = it does not."""
        ...


class Paid(Protocol):
    """What a vendor plug may offer as `payee`, where a write says whom it charges, pays or writes to."""

    def __call__(self, call: Call, /) -> str:
        """Return what names them in the request, "" = nobody. Hashed at once, and kept nowhere else. Never raises."""
        ...


class Inquiring(Protocol):
    """
    What a vendor plug may offer as `inquiring`, where its vendor can be asked what became of a call: by reads alone.

    It says what the vendor shows (keyguard.vendors._inquiry); what that settles or releases is decided in keyguard.doubts.
    """

    @property
    def base(self) -> str:
        """Where the vendor answers: `https://api.stripe.com`."""
        ...

    @property
    def absence_margin(self) -> float | None:
        """Seconds after the last send from which on what is not shown was never executed; None = never, a human decides."""
        ...

    @property
    def history(self) -> float:
        """Seconds for which the vendor surely shows what it made; what is older may be gone from its lists."""
        ...

    @property
    def is_by_account(self) -> bool:
        """Whether the path of each question says whose calls it is about, so that any credential that may ask it sees the same."""
        ...

    def signed(self, doubt: Doubt, secret: str, environ: Mapping[str, str], /) -> tuple[Mapping[str, str], str]:
        """Return the headers of a question about a doubt, and the owner of the credential in them."""
        ...

    def inquire(self, doubt: Doubt, now: float, owners: Collection[str] = (), /) -> Inquiry:
        """
        Ask what became of a call. Never raises.

        `now` is the ledger's time before the first question; `owners` are the principals by whom its identity may be named.
        """
        ...

    def prices(self, doubts: Sequence[Doubt], /) -> Asking[Mapping[str, Fact]]:
        """Read from lists what many objects of one account cost now; one that is not found there, or has no price yet, is left out."""
        ...

    def place(self, doubt: Doubt, /) -> str | None:
        """Return the path under which the object of an open intent, or of an estimate, can be read; None = nowhere."""
        ...


class Dated(Protocol):
    """What a vendor plug may offer as `prices`, where it counts by a list of its own."""

    def __call__(self) -> tuple[date, str]:
        """Return when the list was read, and where."""
        ...


@frozen
class Row:
    """
    What one operation of a generic vendor costs, where more is to be said than an amount (`register`).

    Attributes:
        usd: Dollars (an upper bound), a function of the call that returns dollars, `free`, or `unpriced`: the policy's `unpriced` decides.
        name: The operation's, as in policies and spans: `jobs.create`. Without it a name is made of the words of the endpoint.
        idempotent: The vendor executes requests with the same Idempotency-Key once.
        cost: Reads from the answer what the call did cost; without it the vendor's.
    """

    usd: Priced
    name: str = ""
    idempotent: bool = False
    cost: Costing | None = None


def known_vendors() -> tuple[str, ...]:
    """Return the names of all vendor plugs: ours, those of entry points, and the registered ones."""
    return tuple(sorted({*_own(), *_plugged_in(), *context.registered_vendors()}))


@cache
def _own() -> frozenset[str]:
    return frozenset(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


@cache
def _plugged_in() -> Mapping[str, EntryPoint]:
    """Return the plugs of other distributions, read once: looking through everything installed takes ten milliseconds."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group="keyguard.vendors"):
        if point.name in found or point.name in _own():
            owner = "keyguard itself" if point.name in _own() else _distribution(found[point.name])
            raise ConfigurationError(f"two vendor plugs are named {point.name!r}: that of {_distribution(point)}, and that of {owner}")
        found[point.name] = point
    return found


def brought_by(name: str) -> str:
    """Return where a vendor plug comes from, for people: `the distribution acme-guard`; "" for ours and for registered ones."""
    return _distribution(_plugged_in()[name]) if name in _plugged_in() else ""


def _distribution(point: EntryPoint) -> str:
    return f"the distribution {point.dist.name}" if point.dist is not None else f"{point.value}"


def vendor_named(name: str) -> Vendor:
    """
    Return a vendor plug by its name.

    Raises:
        ConfigurationError: no such plug; lists the known ones.
    """
    registered = context.registered_vendors().get(name)
    return _installed(name) if registered is None else registered


def account_of(vendor: str, path: str) -> str:
    """Return the account that a path bills at a vendor; "" where the vendor's paths name none."""
    account: Accounting | None = getattr(vendor_named(vendor), "account", None)
    return "" if account is None else account(path)


@cache
def _installed(name: str) -> Vendor:
    if name in _own():
        ours: Vendor = importlib.import_module(f"{__name__}.{name}").vendor
        return ours
    point = _plugged_in().get(name)
    if point is None:
        raise ConfigurationError(
            f"unknown vendor {name!r}; known: {', '.join(known_vendors())}. One of your own is made known by keyguard.vendors.register()"
        )
    try:
        found: Vendor = point.load()
    except Exception as error:
        raise ConfigurationError(f"the vendor plug {name!r} of {_distribution(point)} cannot be loaded: {error!r}") from error
    if getattr(found, "name", None) != name:
        raise ConfigurationError(
            f"the entry point {name!r} of {_distribution(point)} must lead to a vendor plug of that name, such as "
            f"keyguard.vendors.generic({name!r}, ...); it leads to {point.value}"
        )
    return found


# -- by host -----------------------------------------------------------------------------------------


def claimed_hosts() -> Mapping[str, str]:
    """
    Return every host that a vendor plug claims, with the plug's name; `*.example.com` as it was written.

    Raises:
        ConfigurationError: two plugs claim the same.
    """
    return {**_installed_hosts(), **{host: name for name, vendor in context.registered_vendors().items() for host in vendor.hosts}}


@cache
def _installed_hosts() -> Mapping[str, str]:
    hosts: dict[str, str] = {}
    for name in (*_own(), *_plugged_in()):
        for host in _installed(name).hosts:
            other = next((taken for taken in hosts if overlap(taken, host)), None)
            if other is not None:
                raise ConfigurationError(f"two vendor plugs claim {host}: {hosts[other]} and {name}")
            hosts[host] = name
    return hosts


def overlap(one: str, other: str) -> bool:
    """Say whether two claims, `*.example.com` among them, have a host in common."""
    return one == other or _is_below(one, other) or _is_below(other, one)


def _is_below(host: str, wildcard: str) -> bool:
    return wildcard.startswith("*.") and host.endswith(wildcard[1:])


class _Claims(dict[str, "str | None"]):
    """Who claims each host that was asked for; forgotten when a vendor is registered."""

    def __missing__(self, host: str) -> str | None:
        # Before the lock: this imports plugs, and another thread's import may wait for the lock, to register one.
        _installed_hosts()
        with context.registering():
            if len(self) >= _MOST_HOSTS:
                self.clear()
            found = self[host] = _claimant(host.removesuffix("."), claimed_hosts())
        return found


def _claimant(name: str, claimed: Mapping[str, str]) -> str | None:
    if name in claimed:
        return claimed[name]
    labels = name.split(".")
    return next((found for at in range(1, len(labels)) if (found := claimed.get(".".join(["*", *labels[at:]]))) is not None), None)


# Most requests go to few hosts; a crawler's go to many.
_MOST_HOSTS = 4096
_claims = _Claims()
context.remembers_hosts(_claims)
# Returns the vendor that claims a host (lower case, without a port); None = nobody. A name with the root's dot is the same host.
claimant: Callable[[str], str | None] = _claims.__getitem__


# -- vendors of the user's own -----------------------------------------------------------------------

_CREDENTIAL_HEADERS = ("authorization", "x-api-key")
# RFC 9110, 15.5: each says that the server will not, or cannot, process the request. 408 and 409 do not say when it found out.
_NOT_EXECUTED = (400, 401, 402, 403, 404, 405, 410, 413, 415, 422, 429)


def register(
    name: str,
    *,
    hosts: Iterable[str],
    operations: Mapping[str, Priced | Row],
    cost: Costing | None = None,
    on_refused: Literal["raise", "response"] = "raise",
    secret_env: str = "",
    credential_headers: Iterable[str] = _CREDENTIAL_HEADERS,
    not_executed: Iterable[int] = _NOT_EXECUTED,
) -> Vendor:
    """
    Guard any HTTP API: from now on every request of this process to its hosts is decided, held and counted.

    >>> import httpx, keyguard
    >>> _ = keyguard.vendors.register("acme", hosts=["api.acme.example"], operations={
    ...     "POST /v1/jobs": "0.05",
    ...     "POST /v1/batches/*": lambda call: 0.05 * len(call.document["items"]),
    ...     "DELETE /**": "free",
    ... })

    That is all. Requests of httpx, httpx2, requests and aiohttp, and of SDKs that are made on them, are held against the run's caps:

    >>> client = httpx.Client(base_url="https://api.acme.example", transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    >>> with keyguard.run("docs"):
    ...     acme = keyguard.install("sqlite://", run_usd_cap=0.21)
    ...     for path, body in (("/v1/jobs", {}), ("/v1/batches/b1", {"items": [1, 2]}), ("/v1/batches/b1", {"items": [1, 2]})):
    ...         try:
    ...             print(client.post(path, json=body).status_code, acme.usage().spent)
    ...         except keyguard.SpendCapExceeded as refusal:
    ...             print(refusal.operation, refusal.requested, refusal.remaining)
    200 50000
    200 150000
    v1.batches.any.post 100000 60000

    A call's row is the one whose endpoint is literal for longest. Without a row a read is free, and a write is refused as `UnpricedCall`
    unless the policy's `unpriced` says otherwise. An amount is an *upper bound*, in dollars, never read as less than it is. A function of
    the call (`keyguard.model.Call`: `path`, `query`, `body`, and `document`, a JSON body whose fractions are Decimals) must be quick and
    without side effects: it may be asked more than once. None from it means "nobody can say", and the policy's `unpriced` decides; what
    it raises, or returns that is no amount, refuses the call as `MalformedCall`. Nothing is sent then. A path with empty or dot segments,
    or encoded dots or slashes, is refused as well.

    An answer of 2xx or 3xx settles at `cost(call, reply)` where that returns dollars, else at the amount held, which is never too little:
    also where it raises (a WARNING says so), or where nobody read the answer. `documents(reply)` gives the JSON of an answer, and of each
    event of a stream. A stream that its caller left ends where it was left: return None unless it says how it ended. The statuses of
    `not_executed` give the money back, and whatever else ends a paid call leaves it in doubt.

    Args:
        name: The word in policies (`acme:POST /v1/jobs`), spans and `KEYGUARD_VENDOR_HOSTS=acme=127.0.0.1:8000`, which names stand-ins.
        hosts: Its own, without scheme and port; `*.acme.example` stands for every name below that one.
        operations: `METHOD /path` (as in `allowed_endpoints`) → dollars, a function, `free`, `unpriced`, or a `Row`.
        cost: Reads what a call did cost, for all rows that have none of their own. More than was held is booked as overrun.
        on_refused: `raise` the refusal, or give it as a `response` of status 403, for SDKs that retry whatever is raised below them (those
            of Anthropic, and of OpenAI before 3): they report it once, as their own error, and `keyguard.refusal_of(error)` finds the
            refusal behind it. Where nobody could decide (`BackendError`) it is raised all the same: a later try may help.
        secret_env: The environment variable with the real secret, for calls that carry a vault token in its place.
        credential_headers: Where such a token may be.
        not_executed: Statuses that say that nothing was executed; without it 400 to 405, 410, 413, 415, 422 and 429.

    Returns:
        The plug. Doing it again with equal arguments changes nothing. It may be done before or after `install()`; a forked child inherits
        it, a process that is started anew does it itself. A distribution offers a vendor by an entry point of the group `keyguard.vendors`
        that leads to `keyguard.vendors.generic(...)`, which takes the same arguments and registers nothing.

    Raises:
        ConfigurationError: what cannot be read; a name or host that is taken.
    """
    plug = generic(
        name, hosts=hosts, operations=operations, cost=cost, on_refused=on_refused, secret_env=secret_env,
        credential_headers=credential_headers, not_executed=not_executed,
    )  # fmt: skip
    # Before the lock: see `_Claims`.
    _installed_hosts()
    with context.registering():
        known = context.registered_vendors()
        if name in known and known[name] == plug:
            return known[name]
        if name in known_vendors():
            raise ConfigurationError(
                f"a vendor named {name!r} is known already, with other arguments. Known: {', '.join(known_vendors())}. "
                "Use another name, or register it once"
            )
        taken = [(host, owner) for host, owner in claimed_hosts().items() if any(overlap(host, wanted) for wanted in plug.hosts)]
        if taken:
            said = ", ".join(f"{host} by {owner}" for host, owner in taken)
            raise ConfigurationError(f"vendor {name!r} cannot have these hosts: claimed already are {said}")
        context.set_registered_vendors({**known, name: plug})
    return plug


def generic(
    name: str,
    *,
    hosts: Iterable[str],
    operations: Mapping[str, Priced | Row],
    cost: Costing | None = None,
    on_refused: Literal["raise", "response"] = "raise",
    secret_env: str = "",
    credential_headers: Iterable[str] = _CREDENTIAL_HEADERS,
    not_executed: Iterable[int] = _NOT_EXECUTED,
) -> Vendor:
    """
    Make a vendor plug of a table, for an entry point; `register` says what the arguments mean.

    Raises:
        ConfigurationError: what cannot be read.
    """
    from keyguard.vendors._generic import made

    return made(
        name, hosts=hosts, operations=operations, cost=cost, on_refused=on_refused, secret_env=secret_env,
        credential_headers=credential_headers, not_executed=not_executed,
    )  # fmt: skip


def unregister(name: str) -> None:
    """
    Take a registered vendor away, for tests: its hosts are nobody's again, and requests to them go out unguarded.

    Raises:
        ConfigurationError: no vendor of that name is registered.
    """
    with context.registering():
        known = context.registered_vendors()
        if name not in known:
            raise ConfigurationError(f"no vendor named {name!r} is registered; registered: {', '.join(known) or 'none'}")
        context.set_registered_vendors({one: plug for one, plug in known.items() if one != name})


def documents(reply: Reply) -> list[Any]:
    """Return the JSON documents of an answer: one, or one for each event of a stream; none where it cannot be read."""
    from keyguard.vendors._generic import documents_of

    return documents_of(reply)
