"""Task timeouts: an exception injected anywhere into a guarded call, through the real Stripe seam and a real ledger file."""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import keyguard
from tests.support_forks import PATIENCE
from tests.support_stripe_server import StripeServer
from tests.support_timeouts import ENDINGS, STEPS, Cell, Hanging, Injected, InjectedError, Striking, Watched, World, struck, sweep, table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Where the interpreter looks for exceptions is read from the code as 3.11 and later compile it.
pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the code of Python 3.10 has no exception tables")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Armed in this thread, with a cap that is never reached; without syncs, which strike nobody."""
    monkeypatch.setenv("KEYGUARD_DURABILITY", "process")
    with StripeServer() as server, keyguard.run("run-1"):
        made = World(server, f"sqlite:///{tmp_path}/ledger.db")
        yield made
        made.close()


# The long form strikes at every place. Odd, because a place's number decides which look at the books is first.
@pytest.mark.parametrize("every", [pytest.param(3, marks=pytest.mark.ci), 7])
def test_an_exception_anywhere_frees_leaks_and_hides_nothing(world: World, capsys: pytest.CaptureFixture[str], every: int) -> None:
    """Wherever in keyguard's code it strikes: the caller sees it, the truth stays counted, nothing stays held, the next call is guarded."""
    cells = sweep(world, "paid", Injected, every=every)
    # Before the request leaves, the vendor's ending makes no difference.
    sent = every * next(number for number, cell in enumerate(cells) if cell.began)
    cells += [
        cell
        for ending, first in (("lost", sent + 1), ("declined", sent + 2))
        for cell in sweep(world, ending, Injected, first=first, every=every)
    ]
    with capsys.disabled():
        print(f"\n{table(cells)}")

    assert [fault for cell in cells for fault in cell.faults] == []
    assert world.ledger.verify() == []
    assert {cell.outcome for cell in cells} == {"settled", "doubt", "nothing"}
    assert len(cells) > 600 / every


def _is_told(raised: BaseException | None, error: type[BaseException]) -> bool:
    """Say whether the caller was told of an error: as itself, or as the cause of the SDK's own."""
    return raised is not None and (isinstance(raised, error) or _is_told(raised.__cause__, error))


@pytest.mark.slow
@pytest.mark.parametrize("error", [Injected, InjectedError])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_and_kind_of_exception(
    world: World, ending: str, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """The long form: each ending from the first place on, also by an ordinary error, with both looks at the books."""
    cells = sweep(world, ending, error)
    with capsys.disabled():
        seen = sum(isinstance(cell.raised, error) for cell in cells)
        print(f"\n{error.__name__}: {len(cells)} places, at {seen} of them the caller saw it as itself\n{table(cells)}")

    assert [fault for cell in cells for fault in cell.faults] == []
    # Telemetry swallows every ordinary error, because its own may break no call; what strikes below Stripe's client, that makes its own of.
    assert {cell.place.file for cell in cells if not _is_told(cell.raised, error)} <= {"telemetry.py"}
    assert world.ledger.verify() == []
    assert len(cells) > 500


def test_an_exception_from_another_thread_at_each_step_of_the_ledger(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """As Prefect does it (PyThreadState_SetAsyncExc), in a worker thread: in mid-reserve, in mid-close, and while the call hangs."""

    def cells() -> Iterator[Cell | None]:
        for ending in ENDINGS:
            for step, operation, sweeps_first in itertools.product(STEPS, (1, 2), (True, False)):
                yield struck(world, ending, Watched(world, step, operation), sweeps_first=sweeps_first)
        for ending, sweeps_first in itertools.product(("paid", "renewed"), (True, False)):
            yield struck(world, ending, Hanging(world), sweeps_first=sweeps_first)

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(keyguard.wrap(lambda: list(cells()))).result(PATIENCE)
    cut = [cell for cell in found if cell is not None]
    with capsys.disabled():
        print(f"\n{table(cut)}")

    assert len(cut) == len(found) == len(ENDINGS) * len(STEPS) * 4 + 4
    assert [fault for cell in cut for fault in cell.faults] == []
    assert {cell.outcome for cell in cut if cell.place.file == "the send"} == {"doubt"}
    assert world.ledger.verify() == []


@pytest.mark.parametrize("verb", ["key", "raise_cap"])
def test_a_struck_operation_leaves_the_ledger_to_others(world: World, verb: str) -> None:
    """One that no close comes after: the lock between processes is free at once, not only when this process comes again."""
    for number in itertools.count():
        striking = Striking(number)
        try:
            with striking:
                world.ledger.key(run_id="run-1") if verb == "key" else world.ledger.raise_cap("run-1", world.cap, by="alice")
        except Injected:
            assert world.is_lock_free(), striking.struck
            assert world.ledger.key(run_id="run-1") is not None
        if striking.struck is None:
            break

    assert number > 30
    assert world.ledger.verify() == []
