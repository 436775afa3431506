"""The local backend: holds of dead tickets, remembered keys, and forks."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any

from keyguard.errors import LedgerUnavailable
from keyguard.guard import Reserve, Send
from keyguard.model import Policy
from tests.support_guard import CENT, World, create_call

if TYPE_CHECKING:
    from keyguard import context


def _reserved(world: World) -> tuple[context.Ticket, Any]:
    """Drive a flow by hand up to its Send."""
    ticket, flow = world.flow(create_call())
    step = flow.send(None)
    while not isinstance(step, Send):
        step = flow.send(step.perform(ticket))  # type: ignore[union-attr]  # -- no Ask in this flow
    return ticket, flow


def test_a_hold_of_an_open_ticket_is_left_alone() -> None:
    """A call in flight keeps its hold while others come and go."""
    world = World()
    ticket, flow = _reserved(world)
    world.call()

    assert world.counted == (2000 * CENT, 2000 * CENT, 0)
    assert not ticket.closed
    flow.close()


def test_a_dead_ticket_that_sent_nothing_is_released() -> None:
    """An exception that killed the flow before the first attempt leaves nothing held at the next call."""
    world = World()
    _, flow = _reserved(world)
    flow.close()
    world.call()

    assert world.counted == (2000 * CENT, 0, 0)


def test_a_dead_ticket_that_may_have_sent_is_doubt() -> None:
    """Once an attempt began, a killed flow's hold becomes doubt at the next call; it is never freed."""
    world = World()
    ticket, flow = _reserved(world)
    with ticket.attempt():
        pass
    flow.close()
    world.call()

    assert world.counted == (2000 * CENT, 0, 2000 * CENT)


def test_a_flow_that_was_garbage_is_dead() -> None:
    """A flow nobody holds any more is found by its weak reference."""
    world = World()
    ticket, flow = _reserved(world)
    del flow
    gc.collect()
    world.backend.sweep()

    assert ticket.flow is not None
    assert world.counted == (0, 0, 0)


def test_a_ledger_that_stays_away_keeps_the_hold_counted() -> None:
    """A sweep that cannot close leaves the hold for the next one."""
    world = World()
    _, flow = _reserved(world)
    flow.close()
    real = world.backend.ledger

    class _Away:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def close(self, _closing: Any) -> Any:
            raise LedgerUnavailable("away")

    world.backend.ledger = _Away()
    world.backend.sweep()
    away = real.usage("run:run-1")
    world.backend.ledger = real
    world.backend.sweep()

    assert away is not None
    assert away.held == 2000 * CENT
    assert world.counted == (0, 0, 0)


def test_many_open_tickets_are_not_looked_at_before_every_reserve() -> None:
    """Above 64 open tickets the sweep waits a tenth of a second of the backend's clock; usage() always sweeps."""
    world = World({"run_usd_cap": 100_000})
    clock = [0.0]
    world.backend._monotonic = lambda: clock[0]
    flows = [_reserved(world) for _ in range(70)]
    world.backend.sweep(always=True)
    for _, flow in flows[:60]:
        flow.close()
    world.backend.sweep()
    before = world.ledger.usage("run:run-1")
    clock[0] += 0.2
    world.backend.sweep()
    after = world.ledger.usage("run:run-1")

    assert before is not None
    assert after is not None
    assert (before.held, after.held) == (70 * 2000 * CENT, 10 * 2000 * CENT)
    for _, flow in flows:
        flow.close()


def test_a_ticket_that_closes_during_the_sweep_is_no_error() -> None:
    """Other threads close their calls while this one looks at the open tickets."""
    world = World()
    first, first_flow = _reserved(world)
    other, other_flow = _reserved(world)
    alive = first.flow

    def close_other_then_look() -> Any:
        world.backend._open.pop(other.reservation_id or "", None)
        return alive() if alive is not None else None

    first.flow = close_other_then_look  # type: ignore[assignment]  # -- called in the middle of the sweep, as another thread would
    world.backend.sweep()

    assert list(world.backend._open) == [first.reservation_id]
    first_flow.close()
    other_flow.close()


def test_a_hold_that_commits_after_its_call_was_given_up_is_found() -> None:
    """A coroutine is closed while a thread reserves for it, and a sweep comes before the thread is done."""
    world = World()
    ticket, flow = world.flow(create_call())
    flow.send(None)
    reserve = flow.send(world.find(ticket, False))
    real = world.backend.ledger

    class _Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def reserve(self, order: Any) -> Any:
            flow.close()
            world.backend.sweep()
            return real.reserve(order)

    world.backend.ledger = _Slow()
    assert isinstance(reserve, Reserve)
    reserve.perform(ticket)
    world.backend.ledger = real

    assert world.counted == (0, 0, 0)


def test_a_forked_child_never_settles_its_parents_tickets() -> None:
    """After a fork the child forgets the parent's open tickets; the parent's hold is untouched."""
    world = World()
    ticket, flow = _reserved(world)
    child = os.fork()
    if not child:
        flow.close()
        world.backend.sweep(always=True)
        os._exit(len(world.backend._open))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert status == 0
    assert not ticket.closed
    assert world.counted == (0, 2000 * CENT, 0)
    flow.close()


def test_keys_are_remembered_by_every_name_until_asked_afresh() -> None:
    """find() answers from memory; `fresh` asks the ledger; a revoke empties the memory."""
    world = World()
    by_run = world.backend.find(run_id="run-1")
    world.ledger.raise_cap("run-1", 7, by="alice")
    remembered = world.backend.find(token=world.key.token)
    fresh = world.backend.find(key_id=world.key.key_id, fresh=True)
    world.backend.revoke(run_id="run-1")
    revoked = world.backend.find(run_id="run-1")

    assert by_run == remembered == world.key
    assert fresh is not None
    assert fresh.policy.run_usd_cap == 7
    assert revoked is not None
    assert revoked.state == "revoked"
    assert world.backend.find(run_id="nobody") is None


def test_raising_through_the_backend_is_remembered() -> None:
    """raise_cap returns the key in force, and so does the next find."""
    world = World()
    raised = world.backend.raise_cap("run-1", 300_000_000, by="alice")

    assert raised.policy.run_usd_cap == 300_000_000
    assert world.backend.find(run_id="run-1") == raised


def test_issuing_again_gives_the_same_key() -> None:
    """The backend passes the ledger's answer on, warnings included."""
    world = World()
    same, warnings = world.backend.issue(Policy(name="p", run_usd_cap=10**9), "run-1")

    assert same.key_id == world.key.key_id
    assert warnings
