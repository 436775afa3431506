"""What an observer sees of a call: one INTERNAL span, and log records. Nothing here may break a call.

Attribute names are constants of this file. Never on a span or in a log: a key, a header, a body, a query
string, a full URL, the text of an exception (vendors quote keys and card data in theirs).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import SpanKind, Status, StatusCode

from keyguard.errors import KeyguardError, Refused
from keyguard.model import show, to_usd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span

    from keyguard.context import Ticket

VENDOR = "keyguard.vendor"
OPERATION = "keyguard.operation"
DECISION = "keyguard.decision"
REFUSAL_REASON = "keyguard.refusal.reason"
RUN_ID = "keyguard.run.id"
POLICY_ID = "keyguard.policy.id"
RESERVATION_ID = "keyguard.reservation.id"
RESERVATION_AMOUNT = "keyguard.reservation.amount"
COST_AMOUNT = "keyguard.cost.amount"
COST_CURRENCY = "keyguard.cost.currency"
COST_SOURCE = "keyguard.cost.source"
OUTCOME = "keyguard.settlement.outcome"
BUDGET_LIMIT = "keyguard.budget.limit"
BUDGET_REMAINING = "keyguard.budget.remaining"
ATTEMPTS = "keyguard.call.attempts"
REQUEST_ID = "keyguard.vendor.request_id"
# Names of OpenTelemetry's own conventions, stable since 1.23 (service.peer.name: development).
PEER, ADDRESS, PORT = "service.peer.name", "server.address", "server.port"
METHOD, STATUS, ERROR_TYPE = "http.request.method", "http.response.status_code", "error.type"

_logger = logging.getLogger("keyguard")
_tracer = trace.get_tracer("keyguard")


@contextmanager
def span(ticket: Ticket) -> Iterator[None]:
    """Open the call's span for the block; its attributes are set from the ticket when the block ends."""
    current = _started(ticket)
    token = attach(trace.set_span_in_context(current)) if current is not None else None
    raised: BaseException | None = None
    try:
        yield
    except BaseException as error:
        raised = error
        raise
    finally:
        if token is not None:
            detach(token)
        if current is not None:
            _finish(current, ticket, raised)
        _log(ticket)


def _started(ticket: Ticket) -> Span | None:
    try:
        return _tracer.start_span(ticket.call.vendor, kind=SpanKind.INTERNAL, record_exception=False, set_status_on_exception=False)
    except Exception:
        _logger.debug("a span could not be started", exc_info=True)
        return None


def _finish(current: Span, ticket: Ticket, raised: BaseException | None) -> None:
    try:
        if current.is_recording():
            current.update_name(f"{ticket.call.vendor} {ticket.operation.name}" if ticket.operation else ticket.call.vendor)
            current.set_attributes(_attributes(ticket))
            _set_status(current, ticket, raised)
        current.end()
    except Exception:
        _logger.debug("a span could not be finished", exc_info=True)


def _attributes(ticket: Ticket) -> dict[str, Any]:
    call, key = ticket.call, ticket.key
    host, _, port = call.host.partition(":")
    found: dict[str, Any] = {
        VENDOR: call.vendor,
        OPERATION: ticket.operation.name if ticket.operation else None,
        DECISION: "refused" if is_refused(ticket) else "allowed",
        RUN_ID: (key.run_id or key.key_id) if key is not None else None,
        POLICY_ID: key.policy_name if key is not None else None,
        PEER: call.vendor,
        ADDRESS: host,
        PORT: int(port) if port.isdigit() else {"https": 443, "http": 80}.get(call.scheme),
        METHOD: call.method,
        STATUS: next((attempt.reply.status for attempt in reversed(ticket.attempts) if attempt.reply is not None), None),
        ATTEMPTS: ticket.begun if ticket.begun > 1 else None,
        **_money(ticket),
        **dict(ticket.run.attributes if ticket.run is not None else ()),
    }
    return {name: value for name, value in found.items() if value is not None}


def _money(ticket: Ticket) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(ticket.refusal, KeyguardError):
        found[REFUSAL_REASON] = ticket.refusal.reason
    if ticket.decision is not None and ticket.decision.granted:
        found[RESERVATION_ID] = ticket.closing.reservation_id if ticket.closing is not None else ticket.reservation_id
        found[RESERVATION_AMOUNT] = to_usd(ticket.decision.held_amount)
    decision = ticket.decision
    if decision is not None and decision.limit is not None and decision.remaining is not None:
        found[BUDGET_LIMIT], found[BUDGET_REMAINING] = to_usd(decision.limit), to_usd(decision.remaining)
    if ticket.outcome is not None and ticket.receipt is not None:
        receipt, is_doubt = ticket.receipt, ticket.outcome.ending == "doubt"
        found[OUTCOME] = "in_doubt" if is_doubt else ticket.outcome.ending
        found[COST_AMOUNT] = to_usd(receipt.doubt if is_doubt else receipt.spent)
        found[COST_CURRENCY] = "USD"
        found[COST_SOURCE] = "held" if is_doubt else ticket.outcome.source
        found[REQUEST_ID] = ticket.outcome.request_id
    return found


def is_refused(ticket: Ticket) -> bool:
    """Say whether the call was stopped (a refusal that observe mode let pass was not)."""
    return ticket.refusal is not None and not ticket.begun and ticket.outcome is None


def _set_status(current: Span, ticket: Ticket, raised: BaseException | None) -> None:
    if raised is not None and not isinstance(raised, Exception | asyncio.CancelledError):
        return
    if isinstance(raised, asyncio.CancelledError):
        # A cancellation that the caller wanted is no error (OpenTelemetry HTTP conventions).
        return
    status = next((attempt.reply.status for attempt in reversed(ticket.attempts) if attempt.reply is not None), 0)
    if isinstance(raised, KeyguardError):
        current.set_attribute(ERROR_TYPE, raised.reason)
        current.set_status(Status(StatusCode.ERROR, raised.reason))
    elif raised is not None or status >= 400:
        current.set_attribute(ERROR_TYPE, type(raised).__qualname__ if raised is not None else str(status))
        current.set_status(Status(StatusCode.ERROR))


def _log(ticket: Ticket) -> None:
    """Write the log records of one call: WARNING for what a person should know, DEBUG for the rest."""
    receipt, outcome = ticket.receipt, ticket.outcome
    is_doubt = outcome is not None and outcome.ending == "doubt" and ticket.call.is_write
    if ticket.refusal is None and not is_doubt and not (receipt and receipt.overrun) and not _logger.isEnabledFor(logging.DEBUG):
        return
    name = f"{ticket.call.vendor} {ticket.operation.name if ticket.operation else ticket.call.method}"
    extra = {"keyguard_run_id": ticket.key.run_id if ticket.key else None, "keyguard_operation": name}
    if isinstance(ticket.refusal, Refused) and is_refused(ticket):
        _logger.warning("refused %s: %s", name, ticket.refusal, extra=extra)
    if receipt is None or outcome is None:
        return
    if receipt.overrun:
        _logger.warning("%s cost %s more than was held for it; the truth is booked in full", name, show(receipt.overrun), extra=extra)
    if is_doubt:
        _logger.warning("%s is in doubt: the vendor may have executed it; %s stays counted", name, show(receipt.doubt), extra=extra)
    _logger.debug("%s %s: %s spent, %s held", name, outcome.ending, show(receipt.spent), show(receipt.held), extra=extra)
