"""What is true of the running code right now: the open ticket, the key in use, the run; with install.py the only module state.

Nothing here decides or sends. Context variables reach asyncio tasks, `asyncio.to_thread` and
whatever copies its context; they do not reach plain threads or executors (`keyguard.wrap` does),
and they leak: a sync Prefect flow leaves its values behind. So a ticket also knows its process and
its thread, and a run is always asked of a provider, never remembered here.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from keyguard._values import frozen

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager
    from pathlib import Path

    from keyguard.fx import Rates
    from keyguard.model import Attempt, Call, Closing, Decision, Operation, Outcome, Pairs, Quote, Receipt, Subflow, VaultKey
    from keyguard.slots import Slot
    from keyguard.vendors import Vendor


# Answers of which no vendor says that the request was executed: it belongs elsewhere, or lacks a credential, or came too often.
MOVED = frozenset({301, 302, 307, 308})
_NOT_EXECUTED = frozenset({401, 407, 429})


@frozen
class RunRef:
    """
    What an orchestrator says about the running code.

    Attributes:
        run_id: The root run; None when the provider sees a run but cannot name its root.
        engine: `prefect`, `keyguard`, `env`, `process`.
        name: For people.
        is_root: False in a child run; it shares its root's budget, or has one within it.
        budget: The child's budget that the running code pays from, by its key's run id; "" = the run's own.
        execution: Token of this entry of the run's body: a re-execution has another one.
        unit: The retryable unit (task run) within it, and `attempt`, its number from 1.
        task: What the unit is called in every execution; `persists` = its result may be kept, so that the next one skips it.
        attributes: Span attributes of that engine (`prefect.flow_run.id`, …).
        ledger: The URL under which its budget is counted, where that came along with the run (another process took it over);
            `env:NAME` = it was kept back because it holds a password, and the setting NAME must say it here; "" = nobody said.
        passes: What this unit lies in and Prefect may repeat as a whole (a subflow, a task that calls tasks): its id, and which try of it
            this is, from 1. In a further try everything in it has new ids.
    """

    run_id: str | None
    engine: str
    name: str = ""
    flow_name: str = ""
    is_root: bool = True
    execution: str = ""
    unit: str = ""
    attempt: int = 1
    task: str = ""
    persists: bool = False
    attributes: tuple[tuple[str, str], ...] = ()
    ledger: str = ""
    budget: str = ""
    passes: tuple[tuple[str, int], ...] = ()

    @property
    def entry(self) -> str:
        """The execution, another one in each further try of what this unit lies in: what it asks for then has been asked for before."""
        tries = [one for one in self.passes if one[1] > 1] if self.passes else ()
        if not tries:
            return self.execution
        return f"{self.execution}.{hashlib.blake2b(ascii(sorted(tries)).encode(), digest_size=4, key=b'keyguard tries').hexdigest()}"


class RunProvider(Protocol):
    """Says which run the calling code belongs to; None where its orchestrator is not running here."""

    def __call__(self) -> RunRef | None: ...


@frozen
class Place:
    """
    A child run, as it asks for a budget of its own.

    Attributes:
        subflow: Which one it is.
        above: The budget that its caller pays from, as `RunRef.budget`.
        pays_from: To be told which budget the child run and whatever it calls pays from, from now on.
    """

    subflow: Subflow
    above: str
    pays_from: Callable[[str], None]


class SubflowProvider(Protocol):
    """Says which child run the calling code is in; None where it is in none of its orchestrator's. Asked by `install()` only."""

    def __call__(self) -> Place | None: ...


class StopSign(Protocol):
    """
    An orchestrator's word on whether the running code has been stopped: asked before each send, never remembered by the core.

    It runs within every guarded call, on whatever thread makes it: it reads memory, and asks nobody. A stop lasts for as long as the
    orchestrator says so; the run's budget and key stay as they are.
    """

    def __call__(self, run: RunRef | None, payer: str | None, /) -> str | None:
        """
        Say why nothing may be sent, and what to do, in a clause that follows "… was not sent: "; None = go on.

        Args:
            run: What the providers say about the calling code.
            payer: The run whose key pays; it may be known where the calling code's is not (a bare thread).
        """
        ...

    def end(self) -> None:
        """Leave off watching: keyguard is being uninstalled. Asked again later, it watches again."""
        ...


class Ticket:
    """
    The open guard around one logical call. Mutable; belongs to one thread of one process.

    Attributes:
        call: The logical call; an inner seam's request is covered only if it is the same one.
        idempotent: The vendor executes repeated attempts of this call once.
        is_decided: The flow has come to its send; before that nothing may leave under this ticket.
        begun: Attempts that were started; more than `len(attempts)` means one whose ending nobody saw.
        attempts: The attempts that ended.
        in_attempt: A seam is reporting the current attempt already; seams below it stay silent.
        is_writable: Its seam can add pairs to its form.
        defaults: Pairs of the policy's rules that were added to the call; with them it is decided.
        tags: Pairs that name the run in the vendor's object; outside of what is decided.
        secret: The vendor's real secret, when the caller carries a vault token; `principal`, a hash of the owner of what is sent.
        takes_key: Its seam can write `idempotency_key` into the request; `has_own_key` = the caller has given it one himself.
        window: Seconds for which the vendor executes one Idempotency-Key once; 0 = it does not, or there is none.
        idempotency_key: The derived one, once the ledger has said which.
        slot: The number that this call has taken among identical ones.
        good_until: When the vendor may forget the key, POSIX seconds; 0 = nothing rests on it.
        again: Asks of this ticket whether one more attempt may leave; awaited in async seams. None where nobody needs to be asked.
        inquire: Asks the vendor what became of a reservation, blocking. None where nobody knows how.
        route: How it goes through a proxy (`keyguard.routing.Route`), with that one's vault key as `secret`; None = straight to the vendor.
        backend: Who decides this call; set when its payer is known.
        reservation_id: Set from before the reserve until the ledger has confirmed the close.
        closing: How it ends, once that is known.
        tail: The answer's unread rest, while the caller has it (keyguard.patches._tail); its end closes the hold.
        rest: What is to be done then; set by who opened the ticket.
    """

    __slots__ = (
        "__weakref__", "again", "attempts", "backend", "begun", "call", "closed", "closing", "decision", "defaults", "flow", "good_until",
        "has_own_key", "idempotency_key", "idempotent", "in_attempt", "inquire", "is_decided", "is_writable", "key", "operation",
        "outcome", "owner", "pid", "principal", "quote", "receipt", "refusal", "reservation_id", "rest", "route", "run", "secret", "slot",
        "tags", "tail", "takes_key", "window",
    )  # fmt: skip

    def __init__(self, call: Call) -> None:
        self.call = call
        self.pid = os.getpid()
        self.owner = threading.get_ident()
        self.closed = False
        self.idempotent = self.is_decided = False
        self.begun = 0
        self.attempts: list[Attempt] = []
        self.in_attempt = False
        self.secret: str | None = None
        self.is_writable = self.takes_key = self.has_own_key = False
        self.window = 0.0
        self.principal = ""
        self.idempotency_key: str | None = None
        self.slot: Slot | None = None
        self.good_until = 0.0
        self.again: Callable[[Ticket], Any] | None = None
        self.inquire: Callable[[Ticket, str], None] | None = None
        self.route: Any = None
        self.defaults: Pairs = ()
        self.tags: Pairs = ()
        self.backend: Any = None
        self.flow: weakref.ref[Any] | None = None
        # What the guard learns on the way, for spans and logs.
        self.key: VaultKey | None = None
        self.run: RunRef | None = None
        self.operation: Operation | None = None
        self.quote: Quote | None = None
        self.reservation_id: str | None = None
        self.decision: Decision | None = None
        self.outcome: Outcome | None = None
        self.closing: Closing | None = None
        self.receipt: Receipt | None = None
        self.refusal: BaseException | None = None
        self.tail: weakref.ref[Any] | None = None
        self.rest: Rest | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Ticket {self.call.method} {self.call.vendor}{self.call.path} {state}, {self.begun} attempts>"

    @property
    def added(self) -> Pairs:
        """What the seam adds to the form."""
        return (*self.defaults, *self.tags)

    @property
    def must_ask(self) -> bool:
        """Whether the next attempt is a further one, or so late that the first may be forgotten: then `again` says whether it may leave."""
        is_late = self.begun > 0 or 0 < self.good_until < time.time()
        return is_late and not self.in_attempt and self.again is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent under it any more; an injected exception may have struck whatever would have closed it."""
        if self.closed:
            return True
        flow = self.flow() if self.flow is not None else None
        return self.flow is not None and (flow is None or flow.gi_frame is None)

    @property
    def is_dead(self) -> bool:
        """Whether nobody is left who would close its hold: while the caller has its answer's rest, he will."""
        # While a call is open its client may drop an answer and try again.
        return self.is_over and (self.tail is None or self.tail() is None)

    def covers(self, vendor: str, method: str, path: str) -> bool:
        """Say whether a request seen by an inner seam is an attempt of this very ticket; the method in upper case."""
        return (
            # An exception that struck on the way in or out of the guard leaves the ticket behind for whatever this context does next.
            self.is_decided
            and not self.is_over
            and self.pid == os.getpid()
            and self.owner == threading.get_ident()
            and (self.call.path, self.call.method, self.call.vendor) == (path, method, vendor)
            and (self.in_attempt or self.idempotent or self.begun == sum(_gives_back(attempt) for attempt in self.attempts))
        )

    def attempt(self) -> AbstractContextManager[Callable[[Attempt], None]]:
        """
        Report one attempt: yields the function to call with its ending.

        An attempt left without an ending (an exception nobody classified) stays counted in `begun`
        and makes the ticket doubtful. Inside an attempt that an outer seam reports, reports nothing.
        """
        return _UNREPORTED if self.in_attempt else _Reported(self)


def _gives_back(attempt: Attempt) -> bool:
    """Say whether an attempt surely was not executed, so that the next one is covered by the same reservation."""
    return attempt.unsent or (attempt.reply is not None and (attempt.reply.status in MOVED or attempt.reply.status in _NOT_EXECUTED))


# Written out: `@contextmanager` costs a microsecond more, and these are entered on every call.
class _Reported:
    """An attempt that this seam reports."""

    __slots__ = ("_ticket",)

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket

    def __enter__(self) -> Callable[[Attempt], None]:
        ticket = self._ticket
        ticket.begun += 1
        ticket.in_attempt = True
        return ticket.attempts.append

    def __exit__(self, *_: object) -> None:
        self._ticket.in_attempt = False


class _Unreported:
    """An attempt that an outer seam reports already."""

    __slots__ = ()

    def __enter__(self) -> Callable[[Attempt], None]:
        return _silent

    def __exit__(self, *_: object) -> None:
        return


def _silent(_: Attempt) -> None:
    """Swallow a report that an outer seam makes."""


_UNREPORTED = _Unreported()


def is_silent(ended: Callable[[Attempt], None]) -> bool:
    """Say whether a report of an attempt is made by an outer seam."""
    return ended is _silent


@frozen
class IdempotencyScope:
    """
    One entry of `with keyguard.idempotency_scope(name)`.

    Attributes:
        name: The same for every try of the same charges.
        entry: Of this try: requests are numbered within it.
    """

    name: str
    entry: str


class Rest(Protocol):
    """What is left to do for a call whose answer the caller reads himself, when the answer has ended."""

    def close(self) -> None:
        """Close the hold and the span."""
        ...

    async def aclose(self) -> None:
        """Close them from a coroutine; done whole, whatever cancels it."""
        ...


class Handler(Protocol):
    """What a seam hands a call to while keyguard is armed (keyguard.handler)."""

    def handle(self, outgoing: Any, send: Callable[[Ticket], Any]) -> Any:
        """Guard one sync call; `send` performs it."""
        ...

    async def ahandle(self, outgoing: Any, send: Callable[[Ticket], Any]) -> Any:
        """Guard one async call; what `send` returns is awaited."""
        ...

    def tolerates(self, error: Exception) -> bool:
        """Say whether a call that cannot be guarded passes all the same, because everything armed only observes."""
        ...


@dataclass(slots=True)
class _State:
    """The process-wide part: one handler while armed, and the run-context providers."""

    handler: Handler | None = None
    providers: dict[str, RunProvider] = field(default_factory=dict[str, RunProvider])
    subflows: dict[str, SubflowProvider] = field(default_factory=dict[str, SubflowProvider])
    resolvers: dict[str, Callable[[], None]] = field(default_factory=dict[str, "Callable[[], None]"])
    stop_signs: dict[str, StopSign] = field(default_factory=dict[str, StopSign])
    asked_signs: tuple[StopSign, ...] = ()
    state_poll: float = 0.0
    vendor_hosts: dict[str, str] = field(default_factory=dict[str, str])
    proxies: set[str] = field(default_factory=set[str])
    rates: Rates | None = None
    unit_prices: Mapping[str, int] = field(default_factory=dict[str, int])
    price_files: Mapping[str, Path] = field(default_factory=dict[str, "Path"])
    vendors: Mapping[str, Vendor] = field(default_factory=dict[str, "Vendor"])
    registering: threading.RLock = field(default_factory=threading.RLock)
    carried_trace: Callable[[], str] | None = None
    memories: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


_state = _State()
_ticket: ContextVar[Ticket | None] = ContextVar("keyguard_ticket", default=None)
# Returns the ticket that the calling code runs under, closed or not; None = none. Every request of the process asks for it, so it is the
# variable's own method, which costs half of a function of ours.
open_ticket: Callable[[], Ticket | None] = _ticket.get
_key_in_use: ContextVar[VaultKey | None] = ContextVar("keyguard_key_in_use", default=None)
_named_run: ContextVar[RunRef | None] = ContextVar("keyguard_named_run", default=None)
_scope: ContextVar[IdempotencyScope | None] = ContextVar("keyguard_idempotency_scope", default=None)
_own_traffic: ContextVar[bool] = ContextVar("keyguard_own_traffic", default=False)
_may_block: ContextVar[bool] = ContextVar("keyguard_may_block", default=True)


class WouldBlock(Exception):
    """What was asked on an event loop's thread needs I/O; it is asked again where it may wait."""


def handler() -> Handler | None:
    """Return who decides calls now; None while keyguard is not armed."""
    return _state.handler


def deciding() -> Handler | None:
    """Return who decides a request that a seam sees now; None where it may pass: not armed, or keyguard's own."""
    return None if _own_traffic.get() else _state.handler


def set_handler(new: Handler | None) -> None:
    """Arm (or disarm) every seam at once."""
    _state.handler = new


def vendor_hosts() -> Mapping[str, str]:
    """Return the stand-ins and proxies that are treated as a vendor's own: host[:port] → vendor. Always the same object."""
    return _state.vendor_hosts


def set_vendor_hosts(hosts: Mapping[str, str]) -> None:
    """Replace the listed hosts (`KEYGUARD_VENDOR_HOSTS`)."""
    listed = _state.vendor_hosts
    with _state.registering:
        # In this order: a host that stays on the list is never off it for another thread.
        listed.update(hosts)
        for name in listed.keys() - hosts.keys():
            del listed[name]
        _forget()


def proxies() -> AbstractSet[str]:
    """Return the proxies that calls of this process go through: host[:port]. Always the same object."""
    return _state.proxies


def add_proxy(netloc: str) -> None:
    """Let requests to a proxy be looked at: what is for a vendor is guarded, also where its user has pointed an SDK there himself."""
    with _state.registering:
        _state.proxies.add(netloc)
        _forget()


def forget_proxies() -> None:
    """Let requests to every proxy pass again."""
    with _state.registering:
        _state.proxies.clear()
        _forget()


def remembers_hosts(memory: dict[str, Any]) -> None:
    """Empty a memory of what was found of hosts whenever that may have changed; it is filled under `registering()`."""
    _state.memories.append(memory)


def _forget() -> None:
    for memory in _state.memories:
        memory.clear()


def rates() -> Rates | None:
    """Return the pinned exchange rates; None = only US dollars are priced."""
    return _state.rates


def set_rates(new: Rates | None) -> None:
    """Pin exchange rates for this process."""
    _state.rates = new


def unit_prices() -> Mapping[str, int]:
    """Return what the settings say that one unit of a vendor costs: vendor → micro-USD; without an entry its dated list price holds."""
    return _state.unit_prices


def set_unit_prices(prices: Mapping[str, int]) -> None:
    """Replace the prices that the settings give."""
    _state.unit_prices = prices


def price_files() -> Mapping[str, Path]:
    """Return the price lists that the settings name: vendor → file; without an entry the list that keyguard comes with holds."""
    return _state.price_files


def set_price_files(files: Mapping[str, Path]) -> None:
    """Replace the price lists that the settings name."""
    _state.price_files = files


def registered_vendors() -> Mapping[str, Vendor]:
    """Return the vendors that the user's code has registered, by name; a change makes another mapping (keyguard.vendors)."""
    return _state.vendors


def set_registered_vendors(vendors: Mapping[str, Vendor]) -> None:
    """Replace the registered vendors; by who holds `registering()`."""
    _state.vendors = vendors
    _forget()


def registering() -> threading.RLock:
    """Return the lock of those who change what is registered or listed, or remember what they found in it."""
    return _state.registering


def renew_lock() -> None:
    """Take a new lock: in a forked child nobody is left to release the old one."""
    _state.registering = threading.RLock()


def register_provider(
    name: str, provider: RunProvider, resolve: Callable[[], None] | None = None, subflows: SubflowProvider | None = None
) -> None:
    """
    Add or replace a run-context provider; they are asked in the order of registration.

    `resolve` finds out, by whatever it takes, the root of a run that the provider could not name; then the provider can, or never will.
    `subflows` says of a child run which one it is, so that it may have a budget of its own.
    """
    _state.providers[name] = provider
    if resolve is not None:
        _state.resolvers[name] = resolve
    if subflows is not None:
        _state.subflows[name] = subflows


def current_run() -> RunRef | None:
    """Return the run that the calling code belongs to: `with keyguard.run(...)` first, then the providers."""
    named = _named_run.get()
    if named is not None:
        return named
    for provider in tuple(_state.providers.values()):
        found = provider()
        if found is not None:
            return found
    return None


def current_place() -> Place | None:
    """Return the child run that the calling code is in, where its orchestrator can say which."""
    if _named_run.get() is None:
        for provider in tuple(_state.subflows.values()):
            found = provider()
            if found is not None:
                return found
    return None


def resolved_run() -> RunRef | None:
    """
    Return the run that the calling code belongs to, its root asked of its orchestrator where that is needed. Never within a call.

    Raises:
        WouldBlock: inside `without_blocking`, where it is needed.
    """
    found = current_run()
    if found is None or found.run_id is not None:
        return found
    check_may_block()
    for resolve in tuple(_state.resolvers.values()):
        resolve()
    return current_run()


def register_stop(name: str, sign: StopSign) -> None:
    """Add or replace a stop sign; the first that says stop is heard."""
    _state.stop_signs[name] = sign
    # A call that is asking meanwhile goes through a whole one.
    _state.asked_signs = tuple(_state.stop_signs.values())


def why_stopped(run: RunRef | None, payer: str | None) -> str | None:
    """Say why the calling code may send nothing more, in the words of who stopped it; None = nobody did."""
    for sign in _state.asked_signs:
        why = sign(run, payer)
        if why is not None:
            return why
    return None


def end_stops() -> None:
    """Let every stop sign leave off watching."""
    for sign in _state.asked_signs:
        sign.end()


def state_poll() -> float:
    """Return how often an orchestrator is asked for the states of the runs at work here, seconds; 0 = never."""
    return _state.state_poll


def set_state_poll(seconds: float) -> None:
    """Set how often it is asked (`KEYGUARD_STATE_POLL_SECONDS`)."""
    _state.state_poll = seconds


def carried_trace() -> str:
    """
    Return where in a trace the calling code belongs if it runs under no span of its own process; "" = nothing says.

    It is a `traceparent` (W3C Trace Context) that came along with its run from the process that sent it here.
    """
    ask = _state.carried_trace
    return "" if ask is None else ask()


def register_carried_trace(ask: Callable[[], str] | None) -> None:
    """Let an orchestrator's integration say it, in a process that a run was sent to, or nobody; it reads memory, within each call."""
    _state.carried_trace = ask


def key_in_use() -> VaultKey | None:
    """Return the key of the innermost `with use(key)`."""
    return _key_in_use.get()


def idempotency_scope() -> IdempotencyScope | None:
    """Return what names the charges of the calling code, innermost first; None where nothing does."""
    return _scope.get()


def is_own_traffic() -> bool:
    """Say whether the running request is keyguard's own (a quote read), which seams let pass."""
    return _own_traffic.get()


def _take_back(variable: ContextVar[Any], token: Token[Any]) -> None:
    try:
        variable.reset(token)
    except ValueError:
        # A coroutine that Python collects ends in a foreign context, where there is nothing to take back.
        return


class under:  # noqa: N801 -- read as `with under(ticket):`
    """Run the block under a ticket; the ticket is closed when the block ends, however it ends."""

    __slots__ = ("_before", "_opened")

    def __init__(self, ticket: Ticket) -> None:
        self._opened = ticket

    def __enter__(self) -> None:
        self._before = _ticket.set(self._opened)

    def __exit__(self, *_: object) -> None:
        self._opened.closed = True
        _take_back(_ticket, self._before)


@contextmanager
def using(key: VaultKey) -> Iterator[VaultKey]:
    """Make a key pay for the calls of the block."""
    token = _key_in_use.set(key)
    try:
        yield key
    finally:
        _take_back(_key_in_use, token)


@contextmanager
def named_run(run: RunRef) -> Iterator[RunRef]:
    """Make the block part of a run that the user named."""
    token = _named_run.set(run)
    try:
        yield run
    finally:
        _take_back(_named_run, token)


@contextmanager
def scoped(scope: IdempotencyScope) -> Iterator[IdempotencyScope]:
    """Make a scope name the charges of the block."""
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _take_back(_scope, token)


@contextmanager
def own_traffic() -> Iterator[None]:
    """Mark the block's requests as keyguard's own."""
    token = _own_traffic.set(True)
    try:
        yield
    finally:
        _take_back(_own_traffic, token)


@contextmanager
def without_blocking() -> Iterator[None]:
    """Let whoever needs I/O in the block raise `WouldBlock` instead."""
    token = _may_block.set(False)
    try:
        yield
    finally:
        _take_back(_may_block, token)


def check_may_block() -> None:
    """
    Say that I/O comes next.

    Raises:
        WouldBlock: inside `without_blocking`.
    """
    if not _may_block.get():
        raise WouldBlock
