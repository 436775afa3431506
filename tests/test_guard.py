"""The one flow, driven by hand step by step, and by its drivers with a fault at every line."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from keyguard import drivers, guard
from keyguard.errors import (
    BackendError,
    EndpointNotAllowed,
    KeyRevoked,
    LedgerUnavailable,
    MalformedCall,
    SpendCapExceeded,
    UnpricedCall,
)
from keyguard.guard import Close, Find, Reserve, Send
from keyguard.model import Attempt, Call, Decision, Receipt, Reply
from tests.support_guard import CENT, Injected, Lost, World, create_call, intent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from keyguard.context import Ticket


# -- by hand ---------------------------------------------------------------------------------------


def test_the_steps_of_an_allowed_call() -> None:
    """A call finds its key, reserves its quote, is sent, and is closed with what the reply says."""
    world = World()
    ticket, flow = world.flow(create_call(2000))
    find = flow.send(None)
    reserve = flow.send(world.find(ticket, False))
    send = flow.send(Decision(granted=True, held_amount=2000 * CENT))
    with ticket.attempt() as ended:
        ended(Attempt(reply=Reply(200, {}, intent(2000))))
    close = flow.send("the client's own object")
    with pytest.raises(StopIteration) as stop:
        flow.send(Receipt(ticket.reservation_id or ""))

    assert isinstance(find, Find)
    assert isinstance(reserve, Reserve)
    assert reserve.order.quote.amount == 2000 * CENT
    assert isinstance(send, Send)
    assert isinstance(close, Close)
    assert close.closing.outcome.facts[0].spent == 2000 * CENT
    assert stop.value.value == "the client's own object"


def test_a_call_leaves_nothing_to_the_garbage_collector() -> None:
    """What a caller sent (customers, cards' ids) is gone with its call: nothing of it waits in a reference cycle."""
    world = World()
    world.call()
    gc.collect()
    gc.disable()
    try:
        world.call()

        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_refusal_ends_the_flow_before_send() -> None:
    """When the ledger refuses, the flow asks for the key once more (for the message) and raises; Send never comes."""
    world = World()
    ticket, flow = world.flow(create_call(2000))
    flow.send(None)
    flow.send(world.find(ticket, False))
    refused = Decision(granted=False, reason="cap_exceeded", scope="run:run-1", cap=500, spent=480, held=10, doubt=5, requested=20)
    find = flow.send(refused)
    with pytest.raises(SpendCapExceeded, match="raise --run run-1") as error:
        flow.send(world.find(ticket, False))

    assert isinstance(find, Find)
    assert find.fresh
    assert (error.value.cap, error.value.spent, error.value.remaining, error.value.requested) == (500, 480, 5, 20)


def test_a_stale_key_is_read_again_and_the_decision_redone() -> None:
    """`stale` makes the flow find the key afresh and reserve anew; five times in a row is an error that can be retried."""
    world = World()
    ticket, flow = world.flow(create_call(2000))
    step = flow.send(None)
    seen: list[str] = []
    with pytest.raises(BackendError, match="changed 5 times"):
        while True:
            seen.append(type(step).__name__)
            step = flow.send(world.find(ticket, False) if isinstance(step, Find) else Decision(granted=False, reason="stale"))

    assert seen == ["Find", *["Reserve", "Find"] * 5]


@pytest.mark.parametrize(
    ("policy", "call", "expected"),
    [
        ({"allowed_endpoints": ("GET /v1/**",)}, create_call(), EndpointNotAllowed),
        ({"vendor": "twilio"}, create_call(), EndpointNotAllowed),
        ({"call_usd_cap": 10}, create_call(2000), SpendCapExceeded),
        ({}, create_call(amount="10.5"), MalformedCall),
        ({}, create_call(amount="-1"), MalformedCall),
        ({}, create_call(currency="eur"), UnpricedCall),
        ({}, Call("stripe", "POST", "https", "api.stripe.com", "/v1/payouts", body=(("currency", "usd"),)), UnpricedCall),
        ({}, Call("stripe", "POST", "https", "api.stripe.com", "/v1/customers/../payment_intents"), MalformedCall),
    ],
)
def test_a_rule_that_refuses_is_audited_and_sends_nothing(policy: dict[str, Any], call: Call, expected: type[Exception]) -> None:
    """Each rule's refusal writes one audit row, changes no balance and never reaches Send."""
    world = World({"run_usd_cap": 100, **policy})
    with pytest.raises(expected) as error:
        world.call(call=call)
    rows = [row for row in world.ledger.entries() if row["kind"] == "refuse"]

    assert world.sent == 0
    assert world.counted == (0, 0, 0)
    assert len(rows) == 1
    assert error.value.run_id == "run-1"  # type: ignore[attr-defined]  # -- a Refused has it


def test_unpriced_writes_can_be_allowed_or_counted_flat() -> None:
    """`unpriced` lets an unknown write go free, or counts a flat amount for it."""
    unknown = Call("stripe", "POST", "https", "api.stripe.com", "/v1/invented", body=(("name", "x"),))
    free, flat = World({"unpriced": "allow"}), World({"unpriced": 2, "run_usd_cap": 3})
    free.call(free.charges(Reply(200, {}, b"{}")), unknown)
    flat.call(flat.charges(Reply(200, {}, b"{}")), unknown)
    with pytest.raises(SpendCapExceeded):
        flat.call(flat.charges(Reply(200, {}, b"{}")), unknown)

    assert free.counted == (0, 0, 0)
    assert flat.counted == (200 * CENT, 0, 0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429])
def test_a_documented_refusal_of_an_unpriced_write_gives_the_flat_amount_back(status: int) -> None:
    """A flat-priced write that the vendor refused to execute costs nothing."""
    world = World({"unpriced": 2, "run_usd_cap": 3})
    world.call(
        world.charges(Reply(status, {}, b"{}")), Call("stripe", "POST", "https", "api.stripe.com", "/v1/invented", body=(("name", "x"),))
    )

    assert world.counted == (0, 0, 0)


# -- endings ---------------------------------------------------------------------------------------


def _attempts(*attempts: Attempt, error: BaseException | None = None) -> Callable[[Ticket], Any]:
    def send(ticket: Ticket) -> Any:
        for attempt in attempts:
            with ticket.attempt() as ended:
                ended(attempt)
        if error is not None:
            raise error
        return "reply"

    return send


UNSENT, LOST = Attempt(unsent=True, error="NewConnectionError"), Attempt(error="ReadTimeout")
PAID, BROKEN = Attempt(reply=Reply(200, {}, intent())), Attempt(reply=Reply(500, {}, b"{}"))
DECLINED = Attempt(reply=Reply(402, {}, b'{"error": {"code": "card_declined"}}'))


@pytest.mark.parametrize(
    ("attempts", "raised", "expected"),
    [
        ((PAID,), False, "settled"),
        ((BROKEN, PAID), False, "settled"),
        ((LOST, PAID), False, "settled"),
        ((DECLINED,), False, "released"),
        ((UNSENT,), True, "released"),
        ((UNSENT, UNSENT), True, "released"),
        ((), True, "released"),
        ((LOST,), True, "doubt"),
        ((LOST, UNSENT), True, "doubt"),
        ((UNSENT, LOST), True, "doubt"),
        ((BROKEN,), False, "doubt"),
        ((BROKEN, UNSENT), True, "doubt"),
        # Stripe answers each request of one key with the first result: the lost one was declined too.
        ((LOST, DECLINED), False, "released"),
        ((Attempt(reply=Reply(409, {}, b"{}")),), False, "doubt"),
        ((Attempt(reply=Reply(200, {}, b"<html>")),), False, "doubt"),
        ((Attempt(reply=Reply(200, {}, None)),), False, "doubt"),
        ((), False, "doubt"),
    ],
)
def test_a_ticket_ends_as_all_its_attempts_say(attempts: tuple[Attempt, ...], raised: bool, expected: str) -> None:
    """Released only if every attempt is; one answer that was lost makes doubt, whatever came after it but the answer itself."""
    world = World()
    error = Lost() if raised else None
    try:
        world.call(_attempts(*attempts, error=error))
    except Lost:
        assert raised
    amount = 2000 * CENT
    expected_counts = {"settled": (amount, 0, 0), "released": (0, 0, 0), "doubt": (0, 0, amount)}[expected]

    assert world.counted == expected_counts


def test_an_attempt_that_began_and_was_never_seen_to_end_is_doubt() -> None:
    """An exception that no seam classified, after an attempt began, frees nothing."""
    world = World()

    def send(ticket: Ticket) -> Any:
        with ticket.attempt():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.call(send)

    assert world.counted == (0, 0, 2000 * CENT)


def test_a_timeout_then_a_refused_connection_frees_nothing() -> None:
    """The vendor charged and the answer timed out, then a second call could not connect: the first stays in doubt."""
    world = World()
    with pytest.raises(Lost):
        world.call(world.charges(error=Lost()))
    with pytest.raises(ConnectionError):
        world.call(_attempts(UNSENT, error=ConnectionError()))
    spent, held, doubt = world.counted

    assert world.truth == 2000 * CENT
    assert (spent, held, doubt) == (0, 0, 2000 * CENT)


# -- ledger faults ---------------------------------------------------------------------------------


class _Faulty:
    """A ledger whose named method raises, the other methods being the real one's."""

    def __init__(self, ledger: Any, method: str, error: BaseException) -> None:
        self._ledger, self._method, self._error = ledger, method, error
        self.faults = 1

    def __getattr__(self, name: str) -> Any:
        if name == self._method and self.faults:
            self.faults -= 1
            raise self._error
        return getattr(self._ledger, name)


def test_a_ledger_that_cannot_reserve_refuses_the_call() -> None:
    """LedgerUnavailable before the send reaches the caller, and nothing is sent."""
    world = World()
    world.backend.ledger = _Faulty(world.ledger, "reserve", LedgerUnavailable("disk full"))
    with pytest.raises(LedgerUnavailable):
        world.call()

    assert world.sent == 0
    assert world.counted == (0, 0, 0)


def test_a_ledger_that_cannot_close_never_hides_the_reply() -> None:
    """The reply reaches the caller; the hold stays counted and is settled as known at the next guarded call."""
    world = World()
    world.backend.ledger = _Faulty(world.ledger, "close", LedgerUnavailable("disk full"))
    reply = world.call()
    before = world.ledger.usage("run:run-1")
    world.call()

    assert reply.status == 200
    assert before is not None
    assert before.held == 2000 * CENT
    assert world.counted == (4000 * CENT, 0, 0)


def test_a_ledger_that_cannot_close_never_hides_the_vendors_error() -> None:
    """The vendor's own exception reaches the caller even if the ledger fails after it."""
    world = World()
    world.backend.ledger = _Faulty(world.ledger, "close", LedgerUnavailable("disk full"))
    with pytest.raises(Lost):
        world.call(world.charges(error=Lost()))

    assert world.counted == (0, 0, 2000 * CENT)


def test_an_exception_injected_into_the_close_reaches_the_caller_and_the_money_is_settled() -> None:
    """A task timeout that strikes while the ledger closes is the caller's own error; the close is done all the same."""
    world = World()
    world.backend.ledger = _Faulty(world.ledger, "close", Injected())
    with pytest.raises(Injected):
        world.call()

    assert world.counted == (2000 * CENT, 0, 0)


def test_an_exception_injected_after_the_reserve_gives_the_hold_back() -> None:
    """An exception in place of the reserve's answer: nothing was sent, so nothing stays held."""
    world = World()
    real = world.ledger.reserve

    class _Lossy:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.ledger, name)

        def reserve(self, order: Any) -> Any:
            real(order)
            raise Injected

    world.backend.ledger = _Lossy()
    with pytest.raises(Injected):
        world.call()

    assert world.sent == 0
    assert world.counted == (0, 0, 0)


def test_a_revoked_key_refuses_and_says_so() -> None:
    """After a revoke the next reserve is refused, although this process still remembers the key."""
    world = World()
    world.ledger.revoke(key_id=world.key.key_id)
    with pytest.raises(KeyRevoked, match="keyguard status"):
        world.call()

    assert world.sent == 0


# -- observe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", [create_call(20_000), create_call(currency="eur"), create_call(amount="x")], ids=["over cap", "unpriced", "malformed"]
)
def test_observe_mode_refuses_nothing_and_books_the_truth(call: Call) -> None:
    """What enforcing would refuse goes out, and what the vendor says it cost is booked."""
    world = World({"mode": "observe", "run_usd_cap": 100})
    reply = Reply(200, {}, intent(20_000))
    world.call(_attempts(Attempt(reply=reply)), call)

    assert world.counted == (20_000 * CENT, 0, 0)


def test_observe_mode_goes_on_without_a_ledger() -> None:
    """An unavailable ledger stops no call of an observing key."""
    world = World({"mode": "observe"})
    world.backend.ledger = _Faulty(world.ledger, "reserve", LedgerUnavailable("gone"))
    reply = world.call()

    assert reply.status == 200


# -- quote reads -----------------------------------------------------------------------------------

CONFIRM = Call("stripe", "POST", "https", "api.stripe.com", "/v1/payment_intents/pi_9/confirm", idempotency_key="k")


def test_a_quote_read_is_asked_once_audited_and_bounds_the_call() -> None:
    """Confirming an intent of another run asks Stripe for its amount, with a row of its own in the log."""
    world = World()
    asked: list[str] = []

    def ask(path: str, _secret: str | None) -> Reply:
        asked.append(path)
        return Reply(200, {}, intent(1500, "requires_confirmation", "pi_9"))

    world.call(_attempts(Attempt(reply=Reply(200, {}, intent(1500, object_id="pi_9")))), CONFIRM, ask)

    assert asked == ["/v1/payment_intents/pi_9"]
    assert world.counted == (1500 * CENT, 0, 0)
    assert any(row["operation"] == "keyguard.quote_read" for row in world.ledger.entries())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_quote_read_without_an_answer_can_be_retried(status: int) -> None:
    """A vendor that cannot say what a call costs now is no refusal: BackendError, nothing sent, nothing held."""
    world = World()
    with pytest.raises(BackendError, match="try again"):
        world.call(_attempts(PAID), CONFIRM, lambda _path, _secret: Reply(status, {}, b"{}"))

    assert world.counted == (0, 0, 0)


def test_a_transport_error_of_a_quote_read_reaches_the_caller_as_itself() -> None:
    """The client's own exception from the quote read is the caller's; nothing stays held."""
    world = World()

    def ask(_path: str, _secret: str | None) -> Reply:
        raise Lost

    with pytest.raises(Lost):
        world.call(_attempts(PAID), CONFIRM, ask)

    assert world.counted == (0, 0, 0)


@pytest.mark.parametrize("status", [0, 503], ids=["lost", "unavailable"])
def test_a_quote_read_that_fails_stops_no_observed_call(status: int) -> None:
    """Observe mode adds a read of its own, so that read's failure is not the caller's: the call goes out and its truth is booked."""
    world = World({"mode": "observe"})

    def ask(_path: str, _secret: str | None) -> Reply:
        if not status:
            raise Lost
        return Reply(status, {}, b"{}")

    # The vendor's object was not known before, so what it made of the confirm is all that is seen.
    world.call(_attempts(Attempt(reply=Reply(200, {}, intent(1500, object_id="pi_9")))), CONFIRM, ask)
    rows = [row for row in world.ledger.entries() if row["operation"] == "payment_intents.confirm"]

    assert [row["kind"] for row in rows] == ["reserve", "settle"]
    assert world.counted == (1500 * CENT, 0, 0)


# -- a fault after every line ----------------------------------------------------------------------

_TRACED = {
    function.__code__
    for function in (
        drivers.drive, drivers.adrive, guard.guarded, drivers._aperform, drivers.whole, guard._admit, guard._decide,
        guard._reserve, guard._close, guard.ending, guard._outcomes, guard._combined, guard._order, guard._quote,
    )
}  # fmt: skip


class _Line:
    """A trace function that raises at the n-th traced line, once."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if frame.f_code not in _TRACED:
            return None
        if event == "line" and self.left > 0:
            self.left -= 1
            if self.left == 0:
                self.where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise Injected(self.where)
        return self


def _declining(world: World) -> Callable[[Ticket], Any]:
    def send(ticket: Ticket) -> Any:
        world.sent += 1
        return _attempts(DECLINED)(ticket)

    return send


def _vendor_cases() -> Iterator[tuple[str, Callable[[World], Callable[[Ticket], Any]]]]:
    yield "paid", lambda world: world.charges()
    yield "lost", lambda world: world.charges(error=Lost())
    yield "declined", _declining


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("send_of", [send for _, send in _vendor_cases()], ids=[name for name, _ in _vendor_cases()])
def test_an_exception_after_any_line_hides_nothing_leaks_nothing_forgets_nothing(
    send_of: Callable[[World], Callable[[Ticket], Any]], is_async: bool
) -> None:
    """Whatever line the exception strikes: the caller sees it, the truth stays counted, and no hold outlives the next call."""
    struck: list[str] = []
    for n in range(1, 1000):
        world, line = World(), _Line(n)
        send = send_of(world)
        raised = _raised_under(line, world, send, is_async)
        if not line.where:
            break
        struck.append(line.where)
        truth, sent = world.truth, world.sent
        world.call(_attempts(DECLINED))
        spent, held, doubt = world.counted

        assert isinstance(raised, Injected | Lost), line.where
        assert spent + doubt >= truth, f"forgot money at {line.where}"
        assert held == 0, f"leaked a hold at {line.where}"
        assert sent or spent + doubt == 0, f"kept money of an unsent call at {line.where}"
        assert world.ledger.verify() == []

    assert len(struck) > 60
    assert any(where.startswith("adrive" if is_async else "drive") for where in struck)


def _raised_under(line: _Line, world: World, send: Callable[[Ticket], Any], is_async: bool) -> BaseException | None:
    previous = sys.gettrace()
    # Garbage of an earlier line's flow, collected while tracing, would be struck in this one's place.
    gc.disable()
    sys.settrace(line)
    try:
        if is_async:
            anyio.run(world.acall, send)
        else:
            world.call(send)
    except (Injected, Lost) as error:
        return error
    finally:
        sys.settrace(previous)
        gc.enable()
    return None
