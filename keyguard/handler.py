"""What happens to one call once a seam handed it over: ticket, span, whose key, drive. Holds no state of its own."""

from __future__ import annotations

import logging
import os
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from keyguard import context, policy, telemetry
from keyguard.drivers import adrive, drive, whole
from keyguard.errors import KeyguardError, ProxyUnavailable, Refused, told_while_observing
from keyguard.guard import Finder, Identify, answered, check_stop, guarded
from keyguard.vendors import vendor_named

_logger = logging.getLogger("keyguard")

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keyguard.guard import Flow
    from keyguard.patches import Outgoing
    from keyguard.vendors import Vendor


class _Rest:
    """Closes the hold and the span of a call when its caller has read the answer, or let it go."""

    __slots__ = ("_span", "_ticket", "_vendor")

    def __init__(self, ticket: context.Ticket, span: telemetry.span, vendor: Vendor) -> None:
        self._ticket, self._span, self._vendor = ticket, span, vendor

    def close(self) -> None:
        """Close them, blocking."""
        # A forked child never closes its parent's calls.
        if self._ticket.pid == os.getpid():
            try:
                drive(self._flow(), self._ticket, _never_sent, None)
            finally:
                self._end()

    async def aclose(self) -> None:
        """Close them under asyncio or trio."""
        if self._ticket.pid == os.getpid():
            try:
                await adrive(self._flow(), self._ticket, _never_sent, None)
            finally:
                self._end()

    def _flow(self) -> Flow:
        return answered(self._ticket, self._vendor)

    def _end(self) -> None:
        # Not before: until its hold is closed, or could not be, a ticket is alive.
        self._ticket.tail = None
        self._span.finish()


def _is_answered(ticket: context.Ticket, vendor: Vendor) -> bool:
    """Say whether the client is to get a refusal as an answer: one of this very call, not of another that was made while it was sent."""
    return not ticket.is_decided and getattr(vendor, "on_refused", "raise") == "response"


def _check_reached(ticket: context.Ticket, error: Exception) -> None:
    """
    Let pass what a call ended with; of one that goes through a proxy, say it where that surely was not reached.

    Raises:
        ProxyUnavailable: it was not.
    """
    if ticket.route is None or not ticket.is_decided or isinstance(error, KeyguardError) or ticket.begun != len(ticket.attempts):
        return
    if all(attempt.unsent for attempt in ticket.attempts) and (ticket.attempts or isinstance(error, OSError)):
        raise ProxyUnavailable(
            f"the proxy at {ticket.route.base} could not be reached ({type(error).__name__}); nothing was sent, try again"
        ) from error


def _never_sent(_ticket: context.Ticket) -> Any:
    raise AssertionError("a call that was answered is not sent again")


def _check_again(ticket: context.Ticket) -> None:
    """Refuse a further attempt where its run was stopped or its key has ended since, or the vendor may take it for a new request."""
    key, operation = ticket.key, ticket.operation
    if key is None or operation is None or key.policy.mode == "observe":
        return
    check_stop(ticket, key)
    policy.check_again(ticket.backend.find(key_id=key.key_id, fresh=True) or key, operation, ticket.good_until, time.time())


def _inquire(ticket: context.Ticket, reservation_id: str) -> None:
    """Ask the vendor what became of a reservation in doubt, and let the ledger book it; blocks for some seconds at most."""
    # Loaded where something is asked: it brings an HTTP client.
    from keyguard.doubts._at_once import asker

    ledger = getattr(ticket.backend, "ledger", None)
    if ledger is not None:
        asker.ask(ledger, reservation_id)


async def _acheck_again(ticket: context.Ticket) -> None:
    await whole(partial(_check_again, ticket))


class CallHandler:
    """
    Guards every call the same way.

    Args:
        finder_for: Makes the function that finds a call's payer, from what the seam read.
        identity: Names a logical charge.
        only_observes: Says whether everything armed only observes.
        inquire: Asks the vendor what became of a ticket's reservation, blocking; None = by the environment's secrets.
    """

    def __init__(
        self,
        finder_for: Callable[[Outgoing], Finder],
        identity: Identify,
        only_observes: Callable[[], bool],
        inquire: Callable[[context.Ticket, str], None] | None = None,
    ) -> None:
        self._inquire = inquire or _inquire
        self._finder_for = finder_for
        self._identity = identity
        self._only_observes = only_observes

    def handle(self, outgoing: Outgoing, send: Callable[[context.Ticket], Any]) -> Any:
        """Guard one blocking call; returns what the client's own method returned, or the answer that stands for its refusal."""
        vendor = vendor_named(outgoing.call.vendor)
        ticket, flow = self._opened(outgoing, vendor)
        try:
            with telemetry.span(ticket) as span, context.under(ticket):
                ticket.again = _check_again
                native = drive(flow, ticket, send, outgoing.ask)
                if ticket.tail is not None:
                    ticket.rest = _Rest(ticket, span, vendor)
                return native
        except Refused as refusal:
            if outgoing.respond is None or not _is_answered(ticket, vendor):
                raise
            return outgoing.respond(refusal)
        except Exception as error:
            _check_reached(ticket, error)
            raise

    async def ahandle(self, outgoing: Outgoing, send: Callable[[context.Ticket], Awaitable[Any]]) -> Any:
        """Guard one awaited call."""
        vendor = vendor_named(outgoing.call.vendor)
        ticket, flow = self._opened(outgoing, vendor)
        try:
            with telemetry.span(ticket) as span, context.under(ticket):
                ticket.again = _acheck_again
                native = await adrive(flow, ticket, send, outgoing.ask)
                if ticket.tail is not None:
                    ticket.rest = _Rest(ticket, span, vendor)
                return native
        except Refused as refusal:
            if outgoing.respond is None or not _is_answered(ticket, vendor):
                raise
            return await outgoing.respond(refusal)
        except Exception as error:
            _check_reached(ticket, error)
            raise

    def tolerates(self, error: Exception) -> bool:
        """Let a call that cannot be guarded pass, unbooked and with a WARNING, where everything only observes."""
        if not self._only_observes():
            return False
        _logger.warning("observe mode: this call is not booked. Enforcing would have stopped it: %s", told_while_observing(error))
        return True

    def _opened(self, outgoing: Outgoing, vendor: Vendor) -> tuple[context.Ticket, Flow]:
        ticket = context.Ticket(outgoing.call)
        ticket.is_writable, ticket.takes_key, ticket.has_own_key = outgoing.is_writable, outgoing.takes_key, outgoing.has_own_key
        ticket.inquire = self._inquire
        flow = guarded(ticket, vendor, self._finder_for(outgoing), identity=self._identity)
        ticket.flow = weakref.ref(flow)
        return ticket, flow
