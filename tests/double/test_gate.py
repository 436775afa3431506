"""Where requests are held: who was struck before a release does not wait for the next."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from keyguard.testing.double.world import Closing, Gate


def test_a_release_between_the_strike_and_the_hold_is_not_lost() -> None:
    """The ticket is of the strike: it does not wait; the next one does."""
    gate = Gate()
    early = gate.ticket()
    gate.release()
    gate.hold(early, 60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gate.hold, gate.ticket(), 60)
        assert gate.wait_until_held(1, 30)
        assert not waiting.done()
        gate.release()
        waiting.result(30)

    assert gate.held == 0


def test_nobody_is_held_by_a_closed_gate() -> None:
    """Whoever waits, and whoever comes, is told."""
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gate.hold, gate.ticket(), 60)
        assert gate.wait_until_held(1, 30)
        gate.close()
        with pytest.raises(Closing):
            waiting.result(30)
    with pytest.raises(Closing):
        gate.hold(gate.ticket(), 60)


def test_a_hold_has_an_end_of_its_own() -> None:
    """After its seconds it goes on, without anybody."""
    gate = Gate()
    gate.hold(gate.ticket(), 0.01)

    assert not gate.wait_until_held(1, 0.01)
