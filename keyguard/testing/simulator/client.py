"""The simulated clients: one guarded call as a generator, whose every step the scheduler may interleave with all others.

What decides is the real code: `guarded()`, the ticket, its payer and identity, the vendor's plug, the backend. Written anew here is only
what has threads and sockets under it in the product: the driver (keyguard.drivers), an SDK's retry loop with its seam
(keyguard.patches.stripe), and the question which of two guards covers a request (keyguard.patches.decided).
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import httpx

from keyguard import context
from keyguard.guard import Close, Reserve, Send, guarded
from keyguard.model import Attempt, Call, Reply
from keyguard.patches import Outgoing
from keyguard.patches._proof import is_unsent
from keyguard.payer import finder_for, identity
from keyguard.testing.simulator.machine import Killed, Struck, StruckHard
from keyguard.vendors import Ask, vendor_named

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from keyguard.context import Ticket
    from keyguard.guard import Flow, Step
    from keyguard.testing.simulator.exchange import Answer, Request
    from keyguard.testing.simulator.machine import Process

    Running: TypeAlias = Generator["Request | None", "Answer | None", Any]

_OK = 300
_SECRET = "sk_test_simulated"
_PATIENCE_SECONDS = 3600.0


class VendorError(Exception):
    """What an SDK makes of an answer that is no success."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class APIConnectionError(Exception):
    """What an SDK makes of a transport's error, whichever it was; the name says nothing of what was sent."""


class Network(Protocol):
    """What the clients send through; the simulation."""

    def post(self, thread: Thread, call: Call) -> Request:
        """
        Put a request on the wire.

        Raises:
            httpx.ConnectError: nothing left.
        """
        ...

    def ask(self, thread: Thread, path: str) -> Reply:
        """
        Answer a read of keyguard's own.

        Raises:
            httpx.TransportError: no answer came.
        """
        ...

    def new_id(self) -> str:
        """Make a reservation's id."""
        ...

    def uptime(self) -> float:
        """Return seconds of true time."""
        ...

    def note(self, text: str) -> None:
        """Remember what happened."""
        ...

    def lost(self, ticket: Ticket) -> None:
        """Take note that an exception struck beside the guard of a call."""
        ...

    def attempt_ended(self, ticket: Ticket, request: Request | None, answer: Answer | None) -> None:
        """Take note that a client's attempt ended: without a request it was never sent, without an answer nobody knows."""
        ...


@dataclass(slots=True)
class Thread:
    """
    One thread of a simulated process, and what is true of the code that runs in it.

    Attributes:
        job: What it does.
        run, scope: What its orchestrator, and the code itself, say about what it does now.
        succeeded: Its task has ended well; `is_overdue`: hours have passed, and it is given up.
        ticket: What the context variable of keyguard.context would hold.
        running: The code; None when it has ended.
        waits: The request that it waits for.
        sdk_retries: How often its SDK tries again by itself.
    """

    name: str
    job: str
    process: Process
    network: Network
    run: context.RunRef
    sdk_retries: int = 0
    scope: context.IdempotencyScope | None = None
    succeeded: bool = False
    is_overdue: bool = False
    ticket: Ticket | None = None
    running: Running | None = None
    waits: Request | None = None

    def __repr__(self) -> str:
        return self.name

    def resume(self, told: Answer | None, raised: BaseException | None = None) -> None:
        """
        Run it up to its next step.

        Raises:
            BaseException: what the code does not catch: Killed, or an error of the simulator's own.
        """
        running = self.running
        assert running is not None
        self.waits = None
        naming = contextlib.nullcontext() if self.scope is None else context.scoped(self.scope)
        with context.named_run(self.run), naming:
            try:
                self.waits = running.throw(raised) if raised is not None else running.send(told)
            except StopIteration:
                self.running = None


def send(thread: Thread, call: Call, *, has_own_key: bool = False) -> Running:
    """Let a request leave as `keyguard.patches.decided` does: under the open ticket where that covers it, else by a decision of its own."""
    ticket = thread.ticket
    if ticket is not None and ticket.covers(call.vendor, call.method, call.path):
        answer: Answer = yield from _sdk(thread, ticket, call)
    else:
        answer = yield from _guarded(thread, call, has_own_key=has_own_key)
    if answer.status >= _OK:
        raise VendorError(answer.status)
    return answer


def _guarded(thread: Thread, call: Call, *, has_own_key: bool) -> Running:
    """Guard one call as `CallHandler.handle` does."""
    ticket, armed = context.Ticket(call), thread.process.armed
    ticket.takes_key, ticket.has_own_key = True, has_own_key
    find = finder_for(armed, Outgoing(call, _SECRET, takes_key=True, has_own_key=has_own_key))
    flow = guarded(ticket, vendor_named(call.vendor), find, new_id=thread.network.new_id, identity=partial(identity, armed))
    ticket.flow = weakref.ref(flow)
    before, thread.ticket = thread.ticket, ticket
    is_lost = False
    try:
        return (yield from _driven(thread, flow, ticket))
    except _Past as past:
        # It struck where nothing of the guard runs any more: the ticket stays behind in this context, its flow is collected.
        is_lost = True
        if ticket.closing is None:
            thread.network.lost(ticket)
        flow.close()
        raise past.error from None
    finally:
        if not is_lost:
            ticket.closed, thread.ticket = True, before


class _Past(Exception):
    """Carries an injected exception round the guard."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Beside(Exception):
    """Thrown by the scheduler: what it carries strikes the driver between two lines, so that the flow never hears of it."""

    def __init__(self, error: Struck | StruckHard) -> None:
        super().__init__()
        self.error = error


def _driven(thread: Thread, flow: Flow, ticket: Ticket) -> Running:
    """Perform a flow's steps as `keyguard.drivers.drive` does, with the scheduler between any two."""
    resume: Callable[[Any], Step] = flow.send
    told: Any = None
    while True:
        try:
            step = resume(told)
        except StopIteration as stop:
            return stop.value
        try:
            yield None
            told = yield from _performed(thread, step, ticket)
            resume = flow.send
        except (Killed, GeneratorExit):
            raise
        except Beside as beside:
            raise _Past(beside.error) from None
        except BaseException as raised:
            resume, told = flow.throw, raised


def _performed(thread: Thread, step: Step, ticket: Ticket) -> Running:
    if isinstance(step, Send):
        return (yield from _sdk(thread, ticket, ticket.call))
    if isinstance(step, Ask):
        return thread.network.ask(thread, step.path)
    answer = step.perform(ticket)
    thread.network.note(f"{thread} {_words(step, answer)}")
    return answer


def _words(step: Step, answer: Any) -> str:
    """Say what a step did."""
    if isinstance(step, Reserve):
        quote, given = step.order.quote, answer
        what = f"granted {given.held_amount}, {given.adopted} adopted" if given.granted else f"{given.reason} {given.scope}"
        return f"reserves {step.order.reservation_id} {step.order.operation} {quote.amount} {quote.pot} {quote.object_id or ''}: {what}"
    if isinstance(step, Close):
        return f"closes {answer.reservation_id} {step.closing.outcome.ending}: {answer.spent} + {answer.held} + {answer.doubt}"
    return type(step).__name__


def _sdk(thread: Thread, ticket: Ticket, call: Call) -> Running:
    """Try, and try again as Stripe's SDK does: on a broken connection, 409 and 5xx, with the same key."""
    began, tries = thread.network.uptime(), thread.sdk_retries
    while True:
        answer, problem = None, None
        try:
            answer = yield from _attempt(thread, ticket, call)
        except httpx.TransportError as error:
            problem = error
        if answer is not None and answer.status != 409 and answer.status < 500:
            return answer
        yield None
        tries -= 1
        # An SDK does not go on for hours: by then the vendor may have forgotten the key.
        if tries < 0 or thread.network.uptime() - began > _PATIENCE_SECONDS:
            if problem is not None:
                raise APIConnectionError from problem
            return answer


def _attempt(thread: Thread, ticket: Ticket, call: Call) -> Running:
    """Make one attempt, reported as the seam reports it."""
    network, request, answer = thread.network, None, None
    handled = sys.exc_info()[1]
    with ticket.attempt() as ended:
        try:
            request = network.post(thread, call)
            answer = yield request
        except Exception as error:
            ended(Attempt(error=type(error).__name__, unsent=is_unsent(error, handled)))
            raise
        else:
            assert answer is not None
            ended(Attempt(reply=Reply(answer.status, answer.headers, answer.body)))
        finally:
            network.attempt_ended(ticket, request, answer)
    return answer
