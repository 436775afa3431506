"""What all that happens in a simulation shares: its time, what it has told, the vendor and the wire. Decides nothing of what comes next."""

from __future__ import annotations

import hashlib
from collections import deque
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import httpx

from keyguard.model import Reply
from keyguard.testing.simulator.client import Network, Thread
from keyguard.testing.simulator.exchange import Request
from keyguard.testing.simulator.judge import Judge
from keyguard.testing.simulator.machine import Process, SimulatedLedger
from keyguard.testing.simulator.swarm import draw_weather
from keyguard.testing.simulator.vendor import Vendor

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.context import Ticket
    from keyguard.model import Call
    from keyguard.testing.simulator.exchange import Answer
    from keyguard.testing.simulator.runs import Run

NOON = 20_000 * 86_400.0 + 43_200.0
HOUR = 3600.0
_SHOWN_EVENTS = 40


class World(Network):
    """
    The world of one seed.

    Args:
        seed: From which everything follows.
        folder: An empty folder for the ledger's file; on a disk of memory it is quickest.

    Attributes:
        number: Steps made.
        events: What happened last, newest at the end.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.rng, self._path = seed, Random(seed), folder / "ledger.db"  # noqa: S311 -- repeatable, and no secret
        self.number = self.calls = 0
        self.events: deque[str] = deque(maxlen=_SHOWN_EVENTS)
        self._hash = hashlib.blake2b(digest_size=16)
        self._true, self._offset, self._latest = NOON, 0.0, 0.0
        self._ids, self._names = count(1), count(1)
        self.weather = draw_weather(self.rng)
        self.judge = Judge(self.clock, lambda: self._latest)
        self.vendor = self.judge.vendor = Vendor(lambda: self._true, self.judge, self.weather.vendor)
        # Whoever measures a window with a wrong clock may come after the vendor has forgotten a key.
        self.vendor.forgets = self.weather.has_right_clock
        self.processes: list[Process] = []
        self.threads: list[Thread] = []
        self.orphans: list[Request] = []
        self.is_calm = False
        self.operator = self._process("operator")

    def _process(self, name: str) -> Process:
        ledger = SimulatedLedger(self._path, name, clock=self.clock, durability=self.weather.durability, watcher=self.judge)
        return Process(name, ledger, lambda: self._true)

    # -- time ---------------------------------------------------------------------------------------

    def clock(self) -> float:
        """Return what the machine's clock says."""
        now = self._true + self._offset
        self._latest = max(self._latest, now)
        return now

    def uptime(self) -> float:
        """Return seconds of true time, which no machine knows."""
        return self._true

    def _pass(self, seconds: float) -> None:
        """Let true time pass; nothing stays on the wire for an hour."""
        if seconds >= HOUR:
            for request in [*self.orphans, *(thread.waits for thread in self.threads if thread.waits is not None)]:
                while request.state != "done":
                    self._move(request)
            self.orphans.clear()
            for thread in self.threads:
                # What was under way is given up: nobody waits for hours, nor sends after them.
                thread.is_overdue = thread.ticket is not None
        self._true += seconds

    def _verify(self) -> None:
        for run in self.judge.runs.values():
            self.judge.look(self.operator.ledger, run)
            self.judge.check(run)
        wrong = [one for one in self.operator.ledger.verify() if not ("at its peak" in one and self.judge.tolerates("stale answer"))]
        if wrong:
            raise self.judge.broken("I7", "; ".join(wrong[:3]))

    def note(self, text: str) -> None:
        """Remember what happened; the seed's hash is over all of it."""
        self.events.append(f"{self.number}: {text}")
        self._hash.update(text.encode())

    @property
    def digest(self) -> str:
        """The hash of all that happened."""
        return self._hash.hexdigest()

    # -- the network --------------------------------------------------------------------------------

    def new_id(self) -> str:
        """Make a reservation's id."""
        return f"r{next(self._ids):06d}"

    def _run_of(self, thread: Thread) -> Run:
        return self.judge.runs[thread.run.run_id or ""]

    def post(self, thread: Thread, call: Call) -> Request:
        """Put a request on the wire, or find that nobody listens."""
        rng = self.rng
        self.calls += 1
        if not self.is_calm and rng.random() < self.weather.refused:
            self.note(f"{thread} is refused a connection")
            raise httpx.ConnectError("simulated: connection refused")
        run = self._run_of(thread)
        charge = self.judge.sends(run, thread.ticket)
        request = Request(
            next(self._names), call.method, call.path, call.body or (), call.idempotency_key, call.account, charge, rng.random()
        )
        self.note(
            f"{thread} {charge.id} sends #{request.number} {call.method} {call.path} {dict(request.params)} {call.account} {request.key}"
        )
        if call.is_write:
            run.pending.append(request)
        self.judge.check(run)
        return request

    def ask(self, thread: Thread, path: str) -> Reply:
        """Answer a read of keyguard's own at once, or not at all."""
        if not self.is_calm and self.rng.random() < self.weather.lost:
            raise httpx.ReadTimeout("simulated: no answer")
        account = thread.ticket.call.account if thread.ticket is not None else ""
        request = Request(0, "GET", path, (), None, account, None, self.rng.random())
        self.vendor.begin(request)
        assert request.answer is not None
        return Reply(request.answer.status, {}, request.answer.body)

    def lost(self, ticket: Ticket) -> None:
        """Take note of it."""
        self.judge.lost(ticket)

    def attempt_ended(self, ticket: Ticket, request: Request | None, answer: Answer | None) -> None:
        """Take note of it; a request that nobody waits for any more goes on alone."""
        self.judge.attempt_ended(ticket, request, answer)
        if request is not None and request.state != "done":
            self.orphans.append(request)

    def _move(self, request: Request) -> None:
        """Let a request come one step further: begun, executed, or lost."""
        roll = self.rng.random()
        if request.state == "wire" and roll < self.weather.dropped:
            request.state = "done"
        elif request.state == "wire":
            self.vendor.begin(request)
        else:
            self.vendor.finish(request)
        self.note(f"#{request.number} {request.state} {request.answer.status if request.answer is not None else ''}")
        if request.by is not None:
            self.judge.check(request.by.run)

    def _move_orphan(self) -> None:
        request = self.orphans[int(self.rng.random() * len(self.orphans))]
        self._move(request)
        if request.state == "done":
            self.orphans.remove(request)
