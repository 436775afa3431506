"""
Processes that race or crash on a ledger, for the contract suite: `python -m keyguard.testing._crash race|campaign`.

A plan comes as one line of JSON on stdin, the result leaves as one line on stdout. `race` is one racer.
`campaign` starts workers, kills each with SIGKILL at a named step or at a random moment, and counts where they
died. Workers are forked before any ledger is opened, so that a hundred of them cost no hundred imports.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from keyguard.ledgers import open_ledger
from keyguard.model import Closing, Outcome, Quote
from keyguard.testing._till import Till

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.ledgers import Durability, Ledger
    from keyguard.model import Ending

OWN_STEPS = ("before reserve", "after reserve", "after send", "after close")
_PATIENCE = 60.0  # seconds that a victim may take to reach its step on a busy machine
_ENDLESS = 10_000  # grants after which a racer concludes that its cap does not hold
_TRIES = 400  # iterations after which a step that was not reached is reported as missed


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What a racer or a campaign is told.

    Attributes:
        url, durability, opener: How to open the ledger (see `LedgerPlace`).
        runs: The runs that pay, which have keys already.
        amount, cost: A racer's hold and settlement, micro-USD.
        folder: Where workers write what they know, one file each.
        kills: How many workers die at each step.
        steps: Names of the ledger's own steps, by operation.
        seed: Of the campaign's randomness.
    """

    url: str
    durability: Durability
    opener: str
    runs: tuple[str, ...]
    amount: int = 1
    cost: int = 1
    folder: str = ""
    kills: int = 0
    steps: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    seed: int = 0

    def line(self) -> str:
        """Write the plan as one line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    def open(self, on_step: Callable[[str], None]) -> Ledger:
        """Open the ledger as the plan says."""
        module, _, name = self.opener.partition(":")
        ledger: Ledger = getattr(importlib.import_module(module), name)(self.url, self.durability, on_step)
        return ledger

    def load(self) -> None:
        """Import what `open` needs, so that forked workers need not."""
        importlib.import_module(self.opener.partition(":")[0])


def open_plainly(url: str, durability: Durability, _on_step: Callable[[str], None]) -> Ledger:
    """Open a ledger by its URL; its inner steps stay unseen."""
    return open_ledger(url, durability=durability)


def race_until_refused(till: Till, amount: int, cost: int) -> dict[str, Any]:
    """Reserve and settle until refused; returns how often it was granted, and what remained at the refusal."""
    key = till.key
    for granted in range(_ENDLESS):
        order = till.order(Quote(amount), key=key)
        decision = till.ledger.reserve(order)
        if not decision.granted:
            return {"granted": granted, "reason": decision.reason, "left": decision.cap - decision.spent - decision.held - decision.doubt}
        till.settle(order.reservation_id, cost)
    raise AssertionError(f"{_ENDLESS} calls were granted and none refused")


@dataclass(slots=True)
class Worker:
    """One process that reserves, sends and closes in a loop, and may stop for ever at a named point."""

    plan: Plan
    number: int
    target: tuple[str, str] | None
    report: int
    leash: int
    doing: str = ""
    iteration: int = 0
    after: int = 0

    def work(self) -> None:
        """Loop until killed; every fact that is known is in the worker's file before the next thing happens."""
        rng = random.Random(f"{self.plan.seed}-{self.number}")  # noqa: S311 -- a repeatable test, not a secret
        self.after = rng.randint(1, 6)
        ledger = self.plan.open(self.at_step)
        tills = [Till(ledger, run, prefix=f"{self.number}/") for run in self.plan.runs]
        keys = [till.key for till in tills]
        notes = os.open(Path(self.plan.folder) / f"{self.number}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for self.iteration in count(1):
            at = rng.randrange(len(tills))
            self.once(rng, tills[at], tills[at].order(Quote(rng.randint(1, 9)), key=keys[at]), notes)
            if self.target and self.iteration > self.after + _TRIES:
                self.say("missed")

    def once(self, rng: random.Random, till: Till, order: Any, notes: int) -> None:
        """Make one guarded call; the vendor is the line `sent`."""
        amount = order.quote.amount
        self.at("own", "before reserve")
        with self.during("reserve"):
            decision = till.ledger.reserve(order)
        if not decision.granted:
            left = decision.cap - decision.spent - decision.held - decision.doubt
            if decision.reason != "cap_exceeded" or left >= amount:
                _note(notes, "false", order.reservation_id, order.scope, left, decision.reason)
            return
        _note(notes, "ack", order.reservation_id, order.scope, amount, "")
        self.at("own", "after reserve")
        ending: Ending = rng.choice(("settled", "settled", "settled", "released", "released", "doubt"))
        cost = rng.randint(0, amount) if ending != "released" else 0
        if ending != "released":
            _note(notes, "sent", order.reservation_id, order.scope, cost, ending)
        self.at("own", "after send")
        with self.during("close"):
            till.ledger.close(Closing(order.reservation_id, Outcome(ending, cost), unsent=ending == "released"))
        _note(notes, "closed", order.reservation_id, order.scope, cost, ending)
        self.at("own", "after close")

    @contextmanager
    def during(self, operation: Literal["reserve", "close"]) -> Iterator[None]:
        """Name the ledger's operation, so that its steps are told apart."""
        self.doing = operation
        yield
        self.doing = ""

    def at_step(self, step: str) -> None:
        """Take the name of a step inside the ledger."""
        self.at(self.doing, step)

    def at(self, operation: str, step: str) -> None:
        """Stop for ever if this is where the worker was told to stop."""
        if self.target == (operation, step) and self.iteration >= self.after:
            self.say("stopped")

    def say(self, word: str) -> None:
        """Report to the campaign and wait for its SIGKILL; when the campaign itself is gone, go."""
        os.write(self.report, word.encode())
        os.read(self.leash, 1)
        os._exit(1)


def _note(notes: int, word: str, reservation_id: str, scope: str, amount: int, ending: str) -> None:
    os.write(notes, f"{json.dumps([word, reservation_id, scope, amount, ending])}\n".encode())


class Campaign:
    """Starts and kills workers; two bystanders run all the time and die at random moments."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)  # noqa: S311 -- a repeatable test, not a secret
        self.numbers = count(1)
        self.deaths: Counter[str] = Counter()
        self.broken: list[str] = []
        self.leash, self.leash_end = os.pipe()
        self.bystanders: dict[int, tuple[int, float, int]] = {}  # pid → number, when it dies, its pipe

    def run(self) -> dict[str, Any]:
        """Kill every planned victim; returns the histogram and the workers that failed by themselves."""
        self.plan.load()
        own = [("own", step) for step in OWN_STEPS]
        targets = [*own, *((operation, step) for operation, steps in self.plan.steps.items() for step in steps)] * self.plan.kills
        self.rng.shuffle(targets)
        try:
            for target in targets:
                self.claim(target)
        finally:
            for pid in list(self.bystanders):
                self.end_bystander(pid)
        return {"deaths": dict(sorted(self.deaths.items())), "broken": self.broken, "workers": next(self.numbers) - 1}

    def claim(self, target: tuple[str, str]) -> None:
        """Start a victim, keep the bystanders going until it stands at its step, and kill it there."""
        pid, number, pipe = self.start(target)
        name, deadline, word = ": ".join(target).removeprefix("own: "), time.monotonic() + _PATIENCE, b""
        while time.monotonic() < deadline:
            self.tend_bystanders()
            soonest = min(due for _, due, _ in self.bystanders.values())
            if select.select([pipe], [], [], max(0.0, soonest - time.monotonic()))[0]:
                word = os.read(pipe, 16)
                break
        _kill(pid, pipe)
        if word == b"stopped":
            self.deaths[name] += 1
        else:
            self.broken.append(f"worker {number} at {name}: {word.decode() or 'failed or hung'}")

    def tend_bystanders(self) -> None:
        """Kill the bystanders whose moment has come, and replace them."""
        for pid, (_, due, _) in list(self.bystanders.items()):
            if due <= time.monotonic():
                self.end_bystander(pid)
        while len(self.bystanders) < 2:
            pid, number, pipe = self.start(None)
            self.bystanders[pid] = (number, time.monotonic() + self.rng.uniform(0.005, 0.25), pipe)

    def end_bystander(self, pid: int) -> None:
        """Kill one at whatever it is doing."""
        number, _, pipe = self.bystanders.pop(pid)
        if _kill(pid, pipe) != -signal.SIGKILL:
            self.broken.append(f"bystander {number} failed")
        self.deaths[f"random, after {self.last_word(number)}"] += 1

    def last_word(self, number: int) -> str:
        """Say what a worker wrote last."""
        log = Path(self.plan.folder) / f"{number}.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return str(json.loads(lines[-1])[0]) if lines else "start"

    def start(self, target: tuple[str, str] | None) -> tuple[int, int, int]:
        """Fork a worker; returns its pid, its number and the pipe on which it reports."""
        number, (pipe, report) = next(self.numbers), os.pipe()
        pid = os.fork()
        if pid == 0:
            # A child must never return into the campaign, whatever happens in it.
            try:
                os.close(self.leash_end)
                Worker(self.plan, number, target, report, self.leash).work()
            except BaseException as error:  # reported on stderr, then the process ends
                traceback.print_exception(error)
            finally:
                sys.stderr.flush()
                os._exit(1)
        os.close(report)
        return pid, number, pipe


def _kill(pid: int, pipe: int) -> int:
    """Kill and reap a child of ours; returns its exit code, negative for a signal."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(pipe)
    return os.waitstatus_to_exitcode(status)


def main(what: str) -> None:
    """Run one racer, or one campaign, by the plan on stdin."""
    fields: dict[str, Any] = json.loads(sys.stdin.readline())
    plan = Plan(**fields)
    if what == "campaign":
        print(json.dumps(Campaign(plan).run()))
        return
    till = Till(plan.open(lambda _: None), plan.runs[0], prefix=f"{os.getpid()}/")
    assert till.key.state == "active"
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(race_until_refused(till, plan.amount, plan.cost)))
    till.ledger.shut()


if __name__ == "__main__":
    main(sys.argv[1])
