"""The heart: the steps, and one generator that decides a call. No I/O of its own; keyguard.drivers perform the steps.

`guarded()` yields steps and is told their answers; every decision about a call's money is in it, so it
can be driven by hand.

What holds however it ends: a refusal raises before `Send`; from the moment a hold may exist until the
ledger has confirmed its close, `ticket.reservation_id` names it, so that a hold whose ticket died is found
(keyguard.backends); once a byte may have left, only a reply or a proof frees money.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from keyguard import policy
from keyguard._values import frozen
from keyguard.context import MOVED, idempotency_scope, why_stopped
from keyguard.errors import BackendError, ConfigurationError, Refused, told_while_observing
from keyguard.identity import key_for, payee_of, principal_of
from keyguard.model import Closing, Decision, Operation, Order, Outcome, Quote, Reply
from keyguard.vendors import Ask, Recall

if TYPE_CHECKING:
    from keyguard.context import Ticket
    from keyguard.errors import KeyguardError
    from keyguard.model import Identity, Memory, Pairs, Receipt, VaultKey
    from keyguard.vendors import Paid, Tagging, Vendor, Window

Finder: TypeAlias = "Callable[[Ticket, bool], VaultKey | None]"
Identify: TypeAlias = "Callable[[Ticket, VaultKey], Identity | None]"

_logger = logging.getLogger("keyguard")
_STALE_TRIES = 5
_QUOTE_READ = "keyguard.quote_read"
_TOO_MANY, _SERVER_ERROR = 429, 500
_RELEASED = Outcome("released", source="local")
_DOUBT = Outcome("doubt", source="local")
_UNKNOWN, _NOTHING = Operation("unknown", known=False), Quote(0)
# In the place of a key until the ledger has said which charge the call is.
_TO_BE_DERIVED = "derived"


@frozen
class Find:
    """
    Step: find whose key pays; sets the ticket's backend, key and secret.

    Answer: VaultKey, or None to let an observed call go unbooked.
    """

    find: Finder
    fresh: bool = False

    def perform(self, ticket: Ticket) -> VaultKey | None:
        """Ask the installation."""
        return self.find(ticket, self.fresh)


@frozen
class Reserve:
    """Step: hold money. Answer: Decision."""

    order: Order

    def perform(self, ticket: Ticket) -> Decision:
        """Ask the backend."""
        decision: Decision = ticket.backend.reserve(self.order, ticket)
        return decision


@frozen
class Close:
    """Step: say how a hold ended. Answer: Receipt."""

    closing: Closing

    def perform(self, ticket: Ticket) -> Receipt:
        """Tell the backend."""
        receipt: Receipt = ticket.backend.close(self.closing)
        return receipt


@frozen
class Record:
    """Step: audit a refusal that the backend was not asked about. Answer: None."""

    order: Order
    reason: str

    def perform(self, ticket: Ticket) -> None:
        """Tell the backend."""
        ticket.backend.refuse(self.order, self.reason)


@frozen
class Remember:
    """Step: what does the payer's ledger know of a vendor object? Answer: Memory or None."""

    key: VaultKey
    object_id: str

    def perform(self, ticket: Ticket) -> Memory | None:
        """Ask the backend."""
        memory: Memory | None = ticket.backend.recall(self.key.scope, ticket.call.vendor, ticket.call.account, self.object_id)
        return memory


@frozen
class Inquire:
    """
    Step: ask the vendor what became of a reservation in doubt, for some seconds at most. Answer: None.

    Asked only where a further request of it cannot tell; whatever comes of it, the caller gets the answer of his own call.
    """

    reservation_id: str

    def perform(self, ticket: Ticket) -> None:
        """Ask, where somebody is there who knows how."""
        if ticket.inquire is not None:
            ticket.inquire(ticket, self.reservation_id)


@dataclass(frozen=True, slots=True)
class Send:
    """Step: let the request leave. Answer: whatever the client's own method returns."""


_SEND = Send()


BackendStep: TypeAlias = Find | Reserve | Close | Record | Remember | Inquire
Step: TypeAlias = BackendStep | Send | Ask
Flow: TypeAlias = Generator[Step, Any, Any]
Asker: TypeAlias = "Callable[[str, Ticket], Reply]"


def _new_id() -> str:
    return os.urandom(12).hex()


def new_id() -> str:
    """Make a reservation's id: unique, and in the order of time, because a ledger's index grows most cheaply at its end."""
    return f"{time.time_ns():016x}{os.urandom(6).hex()}"


def guarded(
    ticket: Ticket,
    vendor: Vendor,
    find: Finder,
    *,
    new_id: Callable[[], str] = _new_id,
    identity: Identify = lambda _ticket, _key: None,
) -> Flow:
    """
    Decide one call, let it leave, and settle it. Returns what the client's method returned.

    Args:
        ticket: The open ticket; filled with what is learned on the way.
        vendor: The plug of the call's vendor.
        find: Finds the paying key (`fresh` = do not trust what this process remembers).
        new_id: Makes reservation ids.
        identity: Names the logical charge; None = each request is one of its own.

    Raises:
        Refused: and nothing was sent.
        BackendError: nobody could decide, and nothing was sent.
        BaseException: whatever the client's method raised, as itself.
    """
    key: VaultKey | None = yield Find(find)
    if key is not None:
        yield from _admit(ticket, vendor, find, key, new_id, identity)
    ticket.is_decided = True
    try:
        native = yield _SEND
    except GeneratorExit:
        # Nobody drives this flow any more; the backend finds the hold by its dead ticket.
        raise
    except BaseException as error:
        yield from _close(ticket, ending(ticket, vendor, raised=True))
        if key is not None and error is ticket.refusal and isinstance(error, Refused):
            yield from _refused_elsewhere(ticket, key, error, new_id)
        raise
    if ticket.tail is None:
        yield from answered(ticket, vendor)
    else:
        # What its head alone says, for an answer that nobody reads to its end.
        ticket.closing = ending(ticket, vendor, raised=False)
    return native


def _refused_elsewhere(ticket: Ticket, key: VaultKey, error: Refused, new_id: Callable[[], str]) -> Generator[Step, Any, None]:
    """Audit what a proxy refused, and say of whom in words that are known here."""
    operation = ticket.operation or _UNKNOWN
    error.key_id, error.run_id, error.operation = key.key_id, key.root_id, operation.name
    yield from _audit_refusal(_order(ticket, key, operation, ticket.quote or _NOTHING, new_id()), error)


def answered(ticket: Ticket, vendor: Vendor) -> Flow:
    """Close a call that was answered: at once, or when its caller has read the answer."""
    closing = ending(ticket, vendor, raised=False)
    yield from _close(ticket, closing)
    if closing is not None and _is_stuck(ticket, closing.outcome):
        yield Inquire(_hold_of(ticket, closing))


def _is_stuck(ticket: Ticket, outcome: Outcome) -> bool:
    """Say whether a call is in doubt, and every retry of it would be told the same as this one."""
    key = ticket.key
    return outcome.ending == "doubt" and outcome.is_final and key is not None and key.policy.mode == "enforce"


def _hold_of(ticket: Ticket, closing: Closing) -> str:
    """Return the reservation that the call is an attempt of."""
    return (ticket.decision.hold if ticket.decision is not None else "") or closing.reservation_id


def _admit(
    ticket: Ticket, vendor: Vendor, find: Finder, key: VaultKey, new_id: Callable[[], str], identity: Identify
) -> Generator[Step, Any, None]:
    """Decide and hold; redo both when the key's policy changed in between."""
    try:
        for _ in range(_STALE_TRIES):
            order = yield from _decide(ticket, vendor, key, new_id, identity)
            decision = ticket.decision = yield from _reserve(ticket, order)
            if decision.granted:
                _learn(ticket, order.identity, decision)
                yield from _check_after_hold(ticket, key, order)
                return
            _give_back(ticket)
            key = yield Find(find, fresh=True)
            if decision.reason != "stale":
                raise policy.refusal(decision, key, ticket.operation or Operation(order.operation))
        raise BackendError(f"the policy of key {key.key_id} changed {_STALE_TRIES} times during one call; nothing was sent")
    except (Refused, BackendError) as error:
        _give_back(ticket)
        _tolerate(key, error, ticket)


def check_stop(ticket: Ticket, key: VaultKey) -> None:
    """
    Refuse where the orchestrator has stopped the run that the calling code belongs to.

    Raises:
        KeyRevoked: says who stopped it, and how it goes on.
    """
    why = why_stopped(ticket.run, key.root_id)
    if why is not None:
        raise policy.stopped(key, ticket.operation or _UNKNOWN, why)


def _check_after_hold(ticket: Ticket, key: VaultKey, order: Order) -> Generator[Step, Any, None]:
    """Give back what was just held where the run was stopped meanwhile: a reserve may have waited long for the ledger."""
    if key.policy.mode == "observe":
        # It was said before the hold, or is said at the next call; the hold is what an observed call is booked on.
        return
    try:
        check_stop(ticket, key)
    except Refused as error:
        yield from _close(ticket, Closing(order.reservation_id, _RELEASED, unsent=True))
        yield from _audit_refusal(order, error)
        raise


def _learn(ticket: Ticket, identity: Identity | None, decision: Decision) -> None:
    """Take over which charge the ledger says the call is, and with it the key that it leaves with."""
    if identity is None:
        return
    if identity.window:
        ticket.good_until = (decision.at or time.time()) + identity.window
    if ticket.slot is not None and decision.n != identity.n:
        ticket.slot.moved(decision.n)
    if ticket.call.idempotency_key == _TO_BE_DERIVED:
        ticket.idempotency_key = key_for(identity.request, decision.n, decision.generation)
        ticket.call = replace(ticket.call, idempotency_key=ticket.idempotency_key)


def _give_back(ticket: Ticket) -> None:
    """Let the unit's next identical request be this one again: it has come to no known charge."""
    slot, ticket.slot = ticket.slot, None
    if slot is not None:
        slot.give_back()


def _tolerate(key: VaultKey, error: KeyguardError, ticket: Ticket) -> None:
    """Raise, unless the key only observes."""
    ticket.refusal = error
    if key.policy.mode != "observe":
        raise error
    _logger.warning("observe mode: enforcing would have stopped this call: %s", told_while_observing(error))


def _decide(ticket: Ticket, vendor: Vendor, key: VaultKey, new_id: Callable[[], str], identity: Identify) -> Generator[Step, Any, Order]:
    """Run the pure rules and the quote; a refusal is audited before it is raised."""
    operation, quote, made_key = _UNKNOWN, _NOTHING, ticket.call.idempotency_key
    try:
        _prepare_key(ticket, vendor, key)
        operation = ticket.operation = vendor.classify(ticket.call)
        ticket.idempotent = operation.idempotent
        # Before the quote, which may ask the vendor.
        check_stop(ticket, key)
        _complete(ticket, key, operation)
        quote = ticket.quote = yield from _quote(ticket, vendor, key, operation, new_id)
        if not (quote.amount or quote.units):
            # What costs nothing needs no identity, and must not be stopped for having been made before.
            ticket.call, ticket.window = replace(ticket.call, idempotency_key=made_key), 0.0
        policy.check_endpoint(key, ticket.call, operation)
        policy.check_rules(key, ticket.call, operation)
        policy.check_call_cap(key, operation, quote)
        ticket.tags = _tags(ticket, vendor, key, operation, quote)
    except Refused as error:
        error.key_id, error.run_id, error.operation = key.key_id, key.root_id, operation.name
        yield from _audit_refusal(_order(ticket, key, operation, quote, new_id()), error)
        # In observe mode the call goes on, and what it costs is booked above a hold of what could be quoted.
        _tolerate(key, error, ticket)
    except (BackendError, ConfigurationError) as error:
        # Nobody could bound the cost now, or here (a library is missing): no reason to stop an observed call.
        _tolerate(key, error, ticket)
    payee = _payee(ticket, vendor, key) if ticket.call.is_write else ""
    is_named = ticket.call.is_write and (quote.amount or quote.units)
    return _order(ticket, key, operation, quote, new_id(), identity(ticket, key) if is_named else None, payee)


def _prepare_key(ticket: Ticket, vendor: Vendor, key: VaultKey) -> None:
    """Find out whether the vendor executes a key once, and let the call have one where a retry of it can be told."""
    call = ticket.call
    window: Window | None = getattr(vendor, "window", None) if call.is_write else None
    ticket.window = 0.0 if window is None else window(call)
    if not (ticket.window and ticket.takes_key and not ticket.has_own_key) or call.body is None:
        # What cannot be read cannot be told from another request.
        return
    is_told = (ticket.run is not None and ticket.run.execution) or idempotency_scope() is not None
    if is_told and key.policy.idempotency == "derive" and key.policy.mode == "enforce":
        ticket.call = replace(call, idempotency_key=_TO_BE_DERIVED)


def _payee(ticket: Ticket, vendor: Vendor, key: VaultKey) -> str:
    payee: Paid | None = getattr(vendor, "payee", None)
    return "" if payee is None else payee_of(key.scope, payee(ticket.call))


def _complete(ticket: Ticket, key: VaultKey, operation: Operation) -> None:
    """Add what the policy's rules add, where the seam can: quote, rules and identity are of the call as it will be sent."""
    added = policy.additions(key, ticket.call, operation) if ticket.is_writable else ()
    if added:
        ticket.defaults = (*ticket.defaults, *added)
        ticket.call = replace(ticket.call, body=(*(ticket.call.body or ()), *added))


def _tags(ticket: Ticket, vendor: Vendor, key: VaultKey, operation: Operation, quote: Quote) -> Pairs:
    tag: Tagging | None = getattr(vendor, "tag", None) if key.policy.tag_objects and ticket.is_writable else None
    return () if tag is None or key.root_id is None else tag(ticket.call, operation, quote, key.root_id)


def _audit_refusal(order: Order, error: Refused) -> Generator[Step, Any, None]:
    try:
        yield Record(order, error.reason)
    except BackendError as unavailable:
        # The call is refused either way; the missing row is said where people look.
        _logger.warning("a refusal could not be audited: %s", unavailable)


def _quote(ticket: Ticket, vendor: Vendor, key: VaultKey, operation: Operation, new_id: Callable[[], str]) -> Generator[Step, Any, Quote]:
    """Drive the plug's quote: its questions become steps."""
    if not operation.known:
        return policy.unpriced_quote(key, ticket.call, operation, operation.unbounded)
    quoting, answer = vendor.quote(ticket.call, operation), None
    while True:
        try:
            question = quoting.send(answer)
        except StopIteration as stop:
            found: Quote = stop.value
            return _bounded(ticket, key, operation, found)
        if isinstance(question, Recall):
            answer = yield Remember(key, question.object_id)
        else:
            answer = yield from _ask(ticket, key, question, new_id)


def _bounded(ticket: Ticket, key: VaultKey, operation: Operation, quote: Quote) -> Quote:
    """Put the policy's flat amount in the place of a bound that cannot be had; what is held already stays held."""
    if quote.unbounded is None:
        return quote
    flat = policy.unpriced_quote(key, ticket.call, operation, quote.unbounded)
    return replace(quote, amount=quote.amount + flat.amount)


def _ask(ticket: Ticket, key: VaultKey, question: Ask, new_id: Callable[[], str]) -> Generator[Step, Any, Reply]:
    """
    Make one read of our own: audited as a call that costs nothing, outside the allowlist and the call count.

    Raises:
        BackendError: the vendor could not answer now; a later try may succeed.
    """
    if key.policy.mode == "enforce":
        check_stop(ticket, key)
    order = _order(ticket, key, Operation(_QUOTE_READ), _NOTHING, new_id())
    order = replace(order, method="GET", legs=order.legs[:1])
    decision = yield from _reserve(ticket, order)
    if not decision.granted and decision.reason != "stale":
        raise policy.refusal(decision, key, Operation(_QUOTE_READ))
    # Nothing is bought by a read, whatever comes back.
    closing = ticket.closing = Closing(order.reservation_id, Outcome("settled", source="local"))
    try:
        reply: Reply = yield question
    except Exception as error:
        yield from _close(ticket, closing)
        if key.policy.mode == "observe":
            raise BackendError(f"the vendor could not be asked what {question.path} costs ({type(error).__name__})") from error
        # The client's own exception is the caller's, as it would be from the call itself.
        raise
    yield from _close(ticket, closing)
    denial = None if ticket.route is None else ticket.route.denied(reply.status, reply.headers, reply.body)
    if denial is not None:
        # Whoever wrote an allowlist of writes has not thought of the reads that say what some of them cost.
        name = (ticket.operation or _UNKNOWN).name
        raise type(denial.error)(
            f"{name} does not say its amount, and the proxy did not let GET {question.path} find it; {name} was not sent: {denial.error}"
        )
    if reply.status == _TOO_MANY or reply.status >= _SERVER_ERROR or not reply.status:
        raise BackendError(f"the vendor could not be asked what {question.path} costs (HTTP {reply.status}); nothing was sent, try again")
    return reply


def _reserve(ticket: Ticket, order: Order) -> Generator[Step, Any, Decision]:
    """Reserve once. If the answer is lost, whether it committed is unknown: nothing was sent, so give it back."""
    # Whoever reserves answers for the hold: a child that was forked from within the call goes on under the same ticket.
    ticket.pid = os.getpid()
    ticket.reservation_id = order.reservation_id
    ticket.closing = None
    try:
        decision: Decision = yield Reserve(order)
    except GeneratorExit:
        raise
    except BackendError:
        # It cannot be told now either, and would have its caller wait once more: the next guarded call closes what may be there.
        ticket.closing = Closing(order.reservation_id, _RELEASED, unsent=True)
        raise
    except BaseException:
        yield from _close(ticket, Closing(order.reservation_id, _RELEASED, unsent=True))
        raise
    if not decision.granted:
        ticket.reservation_id = None
    return decision


def _close(ticket: Ticket, closing: Closing | None) -> Generator[Step, Any, None]:
    """
    Tell the ledger how the call ended; its errors never hide the caller's reply or error.

    Anything else that is raised meanwhile (a task timeout injected by an orchestrator) is the caller's
    own: the close is tried once more, and the exception goes on.
    """
    if closing is None:
        return
    if closing.outcome.ending != "settled":
        _give_back(ticket)
    if ticket.pid != os.getpid():
        _logger.warning("a process forked within %r goes on with the call: the hold is its parent's, who closes it", ticket)
        return
    ticket.closing = closing
    try:
        ticket.receipt = yield Close(closing)
    except GeneratorExit:
        raise
    except BackendError as error:
        _logger.error(  # noqa: TRY400 -- the ledger's own message says it all
            "the ledger could not close reservation %s (%s): it stays counted and is closed at the next guarded call. %s",
            closing.reservation_id, closing.outcome.ending, error,
        )  # fmt: skip
        return
    except BaseException:
        try:
            ticket.receipt = yield Close(closing)
            ticket.reservation_id = None
        except BackendError:
            _logger.exception("the ledger could not close reservation %s", closing.reservation_id)
        raise
    ticket.reservation_id = None


def _order(
    ticket: Ticket,
    key: VaultKey,
    operation: Operation,
    quote: Quote,
    reservation_id: str,
    identity: Identity | None = None,
    payee: str = "",
) -> Order:
    call = ticket.call
    return Order(
        reservation_id, key.key_id, key.version, key.scope, call.vendor, call.account, operation.name, call.method,
        quote, policy.legs(key, quote), key.policy.mode == "enforce", identity, payee,
        # Behind a vault token its secret, and not the variable's name: another account's may be there when the vendor is asked later.
        principal_of(ticket.secret) if ticket.secret and ticket.route is None else ticket.principal,
        () if key.parent is None else tuple(one.budget for one in key.chain),
    )  # fmt: skip


def ending(ticket: Ticket, vendor: Vendor, *, raised: bool) -> Closing | None:
    """
    Say how a ticket ended, from all its attempts; None when nothing was held.

    Settled if an attempt was (attempts share a ticket only where the vendor executes them once); released
    only if every attempt surely was not executed; doubt in every other case.
    """
    if ticket.reservation_id is None:
        return None
    outcomes = _outcomes(ticket, vendor)
    # Without an attempt seen, an exception came from before the wire; a normal return did not.
    outcome = _combined(outcomes) if outcomes else _RELEASED if raised else _DOUBT
    unsent = outcome.ending == "released" and ticket.begun == len(ticket.attempts) and all(a.unsent for a in ticket.attempts)
    if outcome.ending == "doubt" and not ticket.call.is_write and not (ticket.quote and ticket.quote.amount):
        # A free read that got no answer leaves nothing to doubt.
        outcome = Outcome("settled", source="local", request_id=outcome.request_id)
    ticket.outcome = outcome
    return Closing(ticket.reservation_id, outcome, unsent=unsent)


def _outcomes(ticket: Ticket, vendor: Vendor) -> list[Outcome]:
    operation, quote = ticket.operation or _UNKNOWN, ticket.quote or _NOTHING
    found = [_DOUBT] * (ticket.begun - len(ticket.attempts))
    for attempt in ticket.attempts:
        if attempt.reply is not None:
            found.append(_read(ticket, vendor, operation, quote, attempt.reply))
        else:
            found.append(_RELEASED if attempt.unsent else _DOUBT)
    return found


def _read(ticket: Ticket, vendor: Vendor, operation: Operation, quote: Quote, reply: Reply) -> Outcome:
    if reply.status in MOVED:
        # The vendor asks for the request elsewhere, and has not executed it; 303 is the answer to one that was.
        return _RELEASED
    if not operation.known:
        # Nobody can read the cost of a write nobody priced: the flat amount is its cost once it was answered.
        refused = reply.status in {400, 401, 403, 404, 429}
        return Outcome("released" if refused else "settled" if reply.status < 400 else "doubt", cost=quote.amount, source="local")
    return vendor.read(ticket.call, operation, quote, reply)


def _combined(outcomes: list[Outcome]) -> Outcome:
    if len(outcomes) == 1:
        return outcomes[0]
    for ends in (_is_settled, _is_final, _is_doubt):
        for outcome in reversed(outcomes):
            if ends(outcome):
                return outcome
    return outcomes[-1]


def _is_settled(outcome: Outcome) -> bool:
    return outcome.ending == "settled"


def _is_final(outcome: Outcome) -> bool:
    # What answers every request of the same key answers those of this ticket.
    return outcome.is_final


def _is_doubt(outcome: Outcome) -> bool:
    return outcome.ending == "doubt"
