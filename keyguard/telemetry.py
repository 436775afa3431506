"""What an observer sees of a call: one INTERNAL span, and log records. Nothing here may break a call.

Attribute names are constants of this file. Never on a span or in a log: a key, a header, a body, a query
string, a full URL, the text of an exception (vendors quote keys and card data in theirs).
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import INVALID_SPAN, SpanKind, Status, StatusCode

from keyguard import context
from keyguard.errors import KeyguardError, Refused
from keyguard.model import show, to_usd

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    from keyguard.context import Ticket
    from keyguard.model import Call

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
RECURRING = "keyguard.cost.recurring"
REPLAYED = "keyguard.cost.replayed"
# Names of OpenTelemetry's own conventions, stable since 1.23 (service.peer.name: development).
PEER, ADDRESS, PORT = "service.peer.name", "server.address", "server.port"
METHOD, STATUS, ERROR_TYPE = "http.request.method", "http.response.status_code", "error.type"

_logger = logging.getLogger("keyguard")
_tracer = trace.get_tracer("keyguard")


class span:  # noqa: N801 -- read as `with span(ticket):`; written out, because it is entered on every call
    """Open the call's span for the block; its attributes are set from the ticket when the block, or the answer's rest, ends."""

    __slots__ = ("_current", "_ticket", "_token")

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket

    def __enter__(self) -> span:
        current = self._current = _started(self._ticket)
        # Without an SDK and without a caller's trace there is nothing that calls below could belong to.
        self._token = None if current is None or current is INVALID_SPAN else attach(trace.set_span_in_context(current))
        return self

    def __exit__(self, _kind: object, raised: BaseException | None, _traceback: object) -> None:
        if self._token is not None:
            detach(self._token)
        if raised is not None or self._ticket.rest is None:
            self.finish(raised)

    def finish(self, raised: BaseException | None = None) -> None:
        """End the span, and write the call's log records."""
        if self._current is not None:
            _finish(self._current, self._ticket, raised)
        _log(self._ticket)


def traceparent() -> str:
    """Return where in a trace the calling code is, as W3C writes it, for code elsewhere that belongs under it; "" = in none."""
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get("traceparent", "")


def _started(ticket: Ticket) -> Span | None:
    try:
        return _tracer.start_span(
            ticket.call.vendor, _parent(), kind=SpanKind.INTERNAL, record_exception=False, set_status_on_exception=False
        )
    except Exception:
        _logger.debug("a span could not be started", exc_info=True)
        return None


def _parent() -> Context | None:
    """Return what the span belongs under where the caller has none open: what came along with the run from another process."""
    carried = context.carried_trace()
    if not carried or trace.get_current_span() is not INVALID_SPAN:
        return None
    return _propagator().extract({"traceparent": carried})


def _propagator() -> TraceContextTextMapPropagator:
    # Loaded where a run travels; whatever the application propagates by, between our own processes it is W3C's.
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


def _finish(current: Span, ticket: Ticket, raised: BaseException | None) -> None:
    try:
        if current.is_recording():
            current.update_name(f"{ticket.call.vendor} {ticket.operation.name}" if ticket.operation else ticket.call.vendor)
            attributes = _attributes(ticket)
            error = _error_of(ticket, raised, attributes.get(STATUS))
            if error is not None:
                attributes[ERROR_TYPE] = error
                current.set_status(Status(StatusCode.ERROR, raised.reason if isinstance(raised, KeyguardError) else None))
            # In one call: an SDK takes its locks for each.
            current.set_attributes(attributes)
        current.end()
    except Exception:
        _logger.debug("a span could not be finished", exc_info=True)


def _attributes(ticket: Ticket) -> dict[str, Any]:
    found: dict[str, Any] = {DECISION: "refused" if is_refused(ticket) else "allowed", **_address(ticket.call)}
    if ticket.operation is not None:
        found[OPERATION] = ticket.operation.name
    if ticket.key is not None:
        found[RUN_ID], found[POLICY_ID] = ticket.key.root_id or ticket.key.key_id, ticket.key.policy_name
    for attempt in reversed(ticket.attempts):
        if attempt.reply is not None:
            found[STATUS] = attempt.reply.status
            break
    if ticket.begun > 1:
        found[ATTEMPTS] = ticket.begun
    _add_money(found, ticket)
    if ticket.run is not None:
        found.update(ticket.run.attributes)
    return found


def _address(call: Call) -> dict[str, Any]:
    return _address_of(call.vendor, call.method, call.scheme, call.host)


@lru_cache(maxsize=256)
def _address_of(vendor: str, method: str, scheme: str, host: str) -> dict[str, Any]:
    """Return what calls to one host have in common; for reading only."""
    name, _, port = host.partition(":")
    number = int(port) if port.isdigit() else {"https": 443, "http": 80}.get(scheme)
    found: dict[str, Any] = {VENDOR: vendor, PEER: vendor, METHOD: method, ADDRESS: name}
    return found if number is None else {**found, PORT: number}


def _add_money(found: dict[str, Any], ticket: Ticket) -> None:
    decision, outcome, receipt = ticket.decision, ticket.outcome, ticket.receipt
    if isinstance(ticket.refusal, KeyguardError):
        found[REFUSAL_REASON] = ticket.refusal.reason
        if is_refused(ticket):
            # What the ledger in front of a proxy has held meanwhile is nobody's money.
            return
    if decision is not None and decision.granted:
        reservation_id = ticket.closing.reservation_id if ticket.closing is not None else ticket.reservation_id
        if reservation_id is not None:
            found[RESERVATION_ID] = reservation_id
        found[RESERVATION_AMOUNT] = to_usd(decision.held_amount)
    if decision is not None and decision.limit is not None and decision.remaining is not None:
        found[BUDGET_LIMIT], found[BUDGET_REMAINING] = to_usd(decision.limit), to_usd(decision.remaining)
    if outcome is not None and receipt is not None:
        is_doubt = outcome.ending == "doubt"
        found[OUTCOME] = "in_doubt" if is_doubt else outcome.ending
        found[COST_AMOUNT] = to_usd(receipt.doubt if is_doubt else receipt.spent)
        found[COST_CURRENCY] = "USD"
        found[COST_SOURCE] = "held" if is_doubt else outcome.source
        if receipt.recurring:
            found[RECURRING] = True
        if receipt.replayed:
            # What was bought is in the span of the attempt that bought it.
            found[REPLAYED] = True
        if outcome.request_id is not None:
            found[REQUEST_ID] = outcome.request_id


def is_refused(ticket: Ticket) -> bool:
    """Say whether the call was stopped (a refusal that observe mode let pass was not)."""
    if ticket.refusal is None:
        return False
    by_proxy = ticket.route is not None and isinstance(ticket.refusal, Refused) and ticket.attempts[-1:] and ticket.attempts[-1].unsent
    return bool(by_proxy) or (not ticket.begun and ticket.outcome is None)


def _error_of(ticket: Ticket, raised: BaseException | None, status: int | None) -> str | None:
    """Say what kind of error the span is; None for success, and for what is no error of the call."""
    if isinstance(raised, KeyguardError):
        return raised.reason
    # A cancellation that the caller wanted is no error (OpenTelemetry HTTP conventions); asyncio's is no Exception, nor is trio's.
    if raised is not None:
        return type(raised).__qualname__ if isinstance(raised, Exception) else None
    return str(status) if status is not None and status >= 400 else None


def _log(ticket: Ticket) -> None:
    """Write the log records of one call: WARNING for what a person should know, DEBUG for the rest."""
    receipt, outcome = ticket.receipt, ticket.outcome
    is_doubt = outcome is not None and outcome.ending == "doubt" and ticket.call.is_write
    if ticket.refusal is None and not is_doubt and not (receipt and receipt.overrun) and not _logger.isEnabledFor(logging.DEBUG):
        return
    name = f"{ticket.call.vendor} {ticket.operation.name if ticket.operation else ticket.call.method}"
    extra = {"keyguard_run_id": ticket.key.root_id if ticket.key else None, "keyguard_operation": name}
    if isinstance(ticket.refusal, Refused) and is_refused(ticket):
        # Its words: a handler that keeps records would keep, with the error, all that its caller had in hand.
        _logger.warning("refused %s: %s", name, str(ticket.refusal), extra=extra)
    if receipt is None or outcome is None:
        return
    if receipt.overrun:
        _logger.warning("%s cost %s more than was held for it; the truth is booked in full", name, show(receipt.overrun), extra=extra)
    if is_doubt:
        _logger.warning("%s is in doubt: the vendor may have executed it; %s stays counted", name, show(receipt.doubt), extra=extra)
    _logger.debug("%s %s: %s spent, %s held", name, outcome.ending, show(receipt.spent), show(receipt.held), extra=extra)
