"""Exceptions injected into a guarded Stripe call: at a counted place of keyguard's code, or at a step of its ledger. Judges nothing."""

from __future__ import annotations

import ctypes
import dis
import fcntl
import gc
import sys
import threading
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import stripe

import keyguard
from keyguard.context import Ticket
from keyguard.ledgers._sqlite_lock import ProcessLock
from tests.support_forks import PATIENCE, Gate, untraced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

    from tests.support_stripe_server import StripeServer

ROOT = f"{Path(keyguard.__file__).parent}/"
CENT = 10_000
CHARGE = 100 * CENT


class Injected(BaseException):
    """As Prefect's own: no `except Exception` catches it."""


class InjectedError(Exception):
    """As an alarm's handler may raise it: an ordinary error."""


class Place(NamedTuple):
    """Where an exception strikes: at a function's first instruction, or behind a call or a jump back in it."""

    file: str
    function: str
    offset: int

    def __str__(self) -> str:
        return f"{self.file}, {self.function}+{self.offset}"


class Striking:
    """
    Traces this thread, in keyguard's code only: records the places it passes, and raises at one of them.

    A place is where the interpreter itself looks for an exception to raise (signals, PyThreadState_SetAsyncExc). Lines will not do:
    a tracer may raise at `try:`, or where a `with` block ends, outside of the protection that Python gives there.

    Args:
        at: The number of the place to raise at, from 0; None = only record.
        error: What to raise.
    """

    def __init__(self, at: int | None = None, error: type[BaseException] = Injected) -> None:
        self._at, self.error = at, error
        self._called: dict[FrameType, int] = {}
        self.places: list[Place] = []
        self.struck: Place | None = None

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> Any:
        """Be a trace function."""
        name = frame.f_code.co_filename
        if not name.startswith(ROOT) or self.struck is not None:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if self._is_place(frame, event):
            place = Place(name[len(ROOT) :], frame.f_code.co_name, frame.f_lasti)
            self.places.append(place)
            if len(self.places) - 1 == self._at:
                self.struck = place
                raise self.error(str(place))
        return self

    def _is_place(self, frame: FrameType, event: str) -> bool:
        entries, calling, handlers = _anatomy(frame.f_code)
        if event != "opcode":
            # A generator that something is thrown into is entered where it stands, and looks for nothing first.
            return event == "call" and frame.f_lasti in entries
        before = self._called.pop(frame, None)
        if frame.f_lasti in calling:
            self._called[frame] = frame.f_lasti
        return before is not None and handlers(before) == handlers(frame.f_lasti)

    def __enter__(self) -> Striking:
        # Garbage of an earlier call, collected while tracing, would be struck in this one's place.
        gc.disable()
        self._before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        self._called.clear()
        gc.enable()


@cache
def _anatomy(code: CodeType) -> tuple[frozenset[int], frozenset[int], Callable[[int], int | None]]:
    """Return the offsets where a function is entered, those of its calls and jumps back, and which handler protects an offset."""
    found = list(dis.get_instructions(code))
    entries = frozenset(one.offset for one in found if one.opname == "RESUME" and (one.arg or 0) < 2)
    calling = frozenset(
        one.offset for one in found if one.opname.startswith(("CALL", "JUMP_BACKWARD")) and not one.opname.startswith("CALL_INTRINSIC")
    )
    handlers = tuple(_handlers(iter(getattr(code, "co_exceptiontable", b""))))

    def handler_of(offset: int) -> int | None:
        return next((target for start, end, target in handlers if start <= offset < end), None)

    return entries, calling, handler_of


def _handlers(table: Iterator[int]) -> Iterator[tuple[int, int, int]]:
    """Read a function's exception table: (start, end, handler) in bytes (CPython: InternalDocs/exception_handling.md)."""

    def number() -> int:
        read = next(table)
        found = read & 63
        while read & 64:
            read = next(table)
            found = found << 6 | read & 63
        return found

    while True:
        try:
            start = number() * 2
        except StopIteration:
            return
        end, target, _ = start + number() * 2, number() * 2, number()
        yield start, end, target


class Books(NamedTuple):
    """What the run's books and the server say, in micro-USD."""

    spent: int
    held: int
    doubt: int
    truth: int

    def __sub__(self, other: tuple[int, ...]) -> Books:
        return Books(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass
class World:
    """A server, a ledger file, an armed run with a cap (micro-USD) that is never reached, and one client with its connection."""

    server: StripeServer
    url: str
    cap: int = 1_000_000_000_000
    installed: keyguard.Installation = field(init=False)
    ledger: Any = field(init=False)

    def __post_init__(self) -> None:
        self.installed = keyguard.install(self.url, run_usd_cap=self.cap // 1_000_000)
        armed: Any = import_module("keyguard.install")._armed
        self.ledger = armed.backends[self.url].ledger
        self._lock = ProcessLock(f"{self.url.removeprefix('sqlite:///')}.lock", seconds=1)
        self._client = stripe.StripeClient("sk_test_12345", base_addresses={"api": self.server.url}, max_network_retries=0)
        # What is imported and remembered once must not count as a place.
        for _ in range(3):
            self.charge()

    def charge(self) -> str:
        """Charge a dollar, guarded."""
        return self._client.v1.payment_intents.create({"amount": 100, "currency": "usd", "confirm": True}).id

    def books(self, *, swept: bool) -> Books:
        """Return the books; `swept` asks the installation, which first closes what dead calls left, else the ledger alone."""
        usage = self.installed.usage() if swept else self.ledger.usage("run:run-1")
        return Books(usage.spent, usage.held, usage.doubt, self.server.total * CENT)

    def is_lock_free(self) -> bool:
        """Say whether another process could write now."""
        if not self._lock._try():
            return False
        fcntl.flock(self._lock._fd, fcntl.LOCK_UN)
        return True

    def close(self) -> None:
        """Close what is this world's own."""
        self._lock.close()


# -- vendor's endings ---------------------------------------------------------------------------------


def paid(_world: World) -> None:
    """The call is executed and answered."""


def lost(world: World) -> None:
    """The call is executed, its answer lost."""
    world.server.drop_answers = True


def declined(world: World) -> None:
    """The call is refused by the vendor, nothing is charged."""
    world.server.statuses = [402]


def renewed(world: World) -> None:
    """The run's cap was raised by somebody else: the key is read again, in the middle of the call, and the call is paid."""
    world.cap += 1
    world.ledger.raise_cap("run-1", world.cap, by="alice")


ENDINGS: dict[str, Callable[[World], None]] = {"paid": paid, "lost": lost, "declined": declined, "renewed": renewed}


@dataclass
class Cell:
    """
    What came of one struck call.

    Attributes:
        error: What was injected, and `raised`, what reached the caller.
        began: The call had come to its send, or requests reached the server.
        change: What the books gained by it, after the next guarded call (whose dollar is taken off) or usage().
        following: What the next guarded call added to them.
        is_locked: The ledger's file was left locked.
    """

    place: Place
    ending: str
    error: type[BaseException]
    raised: BaseException | None
    began: bool
    change: Books
    following: Books
    is_locked: bool

    @property
    def outcome(self) -> str:
        """How the hold ended."""
        return "settled" if self.change.spent else "doubt" if self.change.doubt else "nothing"

    @property
    def faults(self) -> list[str]:
        """Everything that must not be."""
        counted = self.change.spent + self.change.doubt
        wrong = {
            # An ordinary error is what keyguard's own handlers are for: the ledger's gives it another name, a span's drops it.
            "the exception was hidden": self.error is Injected and not isinstance(self.raised, Injected),
            "a hold was leaked": self.change.held != 0 or self.following.held != 0,
            "money was freed that the server took": counted < self.change.truth,
            "money stayed counted of a call that never began": not self.began and counted != 0,
            "the next call was not guarded": self.following != Books(CHARGE, 0, 0, CHARGE),
            "the ledger stayed locked": self.is_locked,
        }
        return [f"{self.ending}, struck at {self.place}: {text}" for text, is_so in wrong.items() if is_so]


def struck(world: World, ending: str, striking: Striking | Watched | Hanging, *, sweeps_first: bool) -> Cell | None:
    """Strike one call, then look: None where it ended before its place was reached."""
    server, before, sent = world.server, world.books(swept=True), len(world.server.requests)
    ENDINGS[ending](world)
    raised: BaseException | None = None
    try:
        with striking:
            world.charge()
    except (Injected, InjectedError, stripe.StripeError, keyguard.KeyguardError) as error:
        # Kept, with its frames, while the books are looked at: an orchestrator keeps it in the state of the task.
        raised = error
    server.drop_answers, server.statuses = False, []
    began = len(server.requests) > sent or _has_begun(raised)
    is_locked = not world.is_lock_free()
    if striking.struck is None:
        return None
    if sweeps_first:
        between = world.books(swept=True)
        world.charge()
        after = world.books(swept=False)
        return Cell(striking.struck, ending, striking.error, raised, began, between - before, after - between, is_locked)
    truth = server.total * CENT
    world.charge()
    after = world.books(swept=False)
    following = Books(CHARGE, 0, 0, after.truth - truth)
    # One call's dollar more: if it was not guarded, it is missing from the books and the change is short of the truth.
    return Cell(striking.struck, ending, striking.error, raised, began, (after - before) - following, following, is_locked)


def _has_begun(raised: BaseException | None) -> bool:
    """Look for the call's ticket in the frames that an exception came through."""
    frames = [frame for frame, _ in traceback.walk_tb(raised.__traceback__ if raised is not None else None)]
    return any(isinstance(ticket := frame.f_locals.get("ticket"), Ticket) and ticket.begun > 0 for frame in frames)


def table(cells: list[Cell]) -> str:
    """Show at how many places of each file a struck call ended settled/in doubt/with nothing held, for each ending of the vendor."""
    endings, files = (list(dict.fromkeys(named)) for named in ([cell.ending for cell in cells], [cell.place.file for cell in cells]))
    counts = Counter((cell.place.file, cell.ending, cell.outcome) for cell in cells)

    def row(file: str) -> str:
        ended = (["/".join(str(counts[file, ending, outcome]) for outcome in ("settled", "doubt", "nothing"))] for ending in endings)
        return f"{file:28}" + "".join(f"{text:>12}" for (text,) in ended)

    head = f"{'settled/doubt/nothing held':28}" + "".join(f"{ending:>12}" for ending in endings)
    return "\n".join(
        [head, *(row(file) for file in files), f"{len(cells)} places, {sum(bool(cell.faults) for cell in cells)} with a fault"]
    )


def sweep(world: World, ending: str, error: type[BaseException], *, first: int = 0, every: int = 1) -> list[Cell]:
    """Strike call after call, each at the next place, or some places further, until one ends before it reaches its place."""
    cells: list[Cell] = []
    while True:
        number = first + every * len(cells)
        cell = struck(world, ending, Striking(number, error), sweeps_first=bool(number % 2))
        if cell is None:
            return cells
        cells.append(cell)


# -- by the interpreter itself ---------------------------------------------------------------------------

STEPS = ("queued", "locked", "begun", "written", "committed", "unlocked", "synced", "answered")


class Watched:
    """
    Strikes this thread from another one, as an orchestrator's watcher does, when it is at one step of the ledger's n-th operation.

    Args:
        world: Its ledger's steps are listened to inside the block.
        step: The step's name.
        operation: The number of the operation among those that come to this step, from 1: a call's reserve, then its close.
    """

    error: type[BaseException] = Injected

    def __init__(self, world: World, step: str, operation: int) -> None:
        self._ledger, self._name, self._operation, self._seen = world.ledger, step, operation, 0
        self.struck: Place | None = None

    def _step(self, name: str) -> None:
        if name != self._name:
            return
        self._seen += 1
        if self._seen == self._operation:
            self.struck = Place(f"the ledger's {name!r}", "operation", self._operation)
            watcher = threading.Thread(target=strike, args=(threading.get_ident(), self.error))
            watcher.start()
            # Here at the latest the exception comes.
            watcher.join(PATIENCE)

    def __enter__(self) -> Watched:
        self._before = self._ledger._step
        self._ledger._step = self._ledger._queue._step = self._step
        return self

    def __exit__(self, *_: object) -> None:
        self._ledger._step = self._ledger._queue._step = self._before


class Hanging:
    """Strikes this thread while its request waits for the server's answer, which comes afterwards; or never came, if it was dropped."""

    error: type[BaseException] = Injected

    def __init__(self, world: World) -> None:
        self._server, self._thread = world.server, threading.get_ident()
        self.struck: Place | None = None

    def _when_it_waits(self) -> None:
        self._gate.await_request()
        strike(self._thread, self.error)
        self.struck = Place("the send", "recv", 0)
        self._gate.set()

    def __enter__(self) -> Hanging:
        self._gate = self._server.delay = Gate()
        self._watcher = threading.Thread(target=self._when_it_waits)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.delay = None
        self._watcher.join(PATIENCE)


def strike(thread: int, error: type[BaseException]) -> None:
    """Let the interpreter raise an exception in another thread, whatever it does next in Python; this one is traced no longer."""
    untraced()
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error)) == 1
