"""What happens to one call once a seam handed it over: ticket, span, whose key, drive. Holds no state of its own."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from keyguard import context, telemetry
from keyguard.drivers import adrive, drive
from keyguard.errors import told_while_observing
from keyguard.guard import Finder, Identify, guarded
from keyguard.vendors import vendor_named

_logger = logging.getLogger("keyguard")

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keyguard.guard import Flow
    from keyguard.patches import Outgoing


class CallHandler:
    """
    Guards every call the same way.

    Args:
        finder_for: Makes the function that finds a call's payer, from what the seam read.
        identity: Names a logical charge.
        only_observes: Says whether everything armed only observes.
    """

    def __init__(self, finder_for: Callable[[Outgoing], Finder], identity: Identify, only_observes: Callable[[], bool]) -> None:
        self._finder_for = finder_for
        self._identity = identity
        self._only_observes = only_observes

    def handle(self, outgoing: Outgoing, send: Callable[[context.Ticket], Any]) -> Any:
        """Guard one blocking call; returns what the client's own method returned."""
        ticket, flow = self._opened(outgoing)
        with telemetry.span(ticket), context.under(ticket):
            return drive(flow, ticket, send, outgoing.ask)

    async def ahandle(self, outgoing: Outgoing, send: Callable[[context.Ticket], Awaitable[Any]]) -> Any:
        """Guard one awaited call."""
        ticket, flow = self._opened(outgoing)
        with telemetry.span(ticket), context.under(ticket):
            return await adrive(flow, ticket, send, outgoing.ask)

    def tolerates(self, error: Exception) -> bool:
        """Let a call that cannot be guarded pass, unbooked and with a WARNING, where everything only observes."""
        if not self._only_observes():
            return False
        _logger.warning("observe mode: this call is not booked. Enforcing would have stopped it: %s", told_while_observing(error))
        return True

    def _opened(self, outgoing: Outgoing) -> tuple[context.Ticket, Flow]:
        ticket = context.Ticket(outgoing.call)
        flow = guarded(ticket, vendor_named(outgoing.call.vendor), self._finder_for(outgoing), identity=self._identity)
        ticket.flow = weakref.ref(flow)
        return ticket, flow
