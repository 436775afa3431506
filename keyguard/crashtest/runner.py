"""Plays the events one after the other, and returns what was found. Prints nothing, runs no guard."""

from __future__ import annotations

import inspect
import os
import random
import secrets
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyguard.crashtest.contract import EXTRAS, Shop, Terms, check_name
from keyguard.crashtest.events import EVENTS, Event
from keyguard.crashtest.judge import Findings, Row
from keyguard.crashtest.nursery import Nursery, WorkerFailed
from keyguard.crashtest.stage import Stage
from keyguard.errors import ConfigurationError, LedgerUnavailable, MissingExtra
from keyguard.testing.double import DoubleProcess, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.testing.double import Controls

_NEEDED = ("stripe", "requests")
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What is asked for.

    Attributes:
        guard: A name, or `module:Class`.
        ledger: A ledger's URL; "" = one for each event, which ends with it.
        is_quick: The short form.
        seed: Of what is random in it.
        only: Names of events, or how they begin; () = all.
    """

    guard: str = "keyguard"
    ledger: str = ""
    is_quick: bool = False
    seed: int = 0
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """
        Check what can be checked before anything starts.

        Raises:
            ConfigurationError: a guard or an event that is not there; a ledger in memory, or of a guard that has none.
        """
        check_name(self.guard)
        for name in self.only:
            if not any(event.name.startswith(name) for event in EVENTS) or not name:
                raise ConfigurationError(f"--only: no event is called {name!r}; there are {', '.join(event.name for event in EVENTS)}")
        parts = urlsplit(self.ledger)
        if parts.scheme.startswith("sqlite") and not parts.path.strip("/"):
            raise ConfigurationError(f"--ledger: {self.ledger} is in memory, and a crash test needs several processes; name a file")
        if self.ledger and ":" not in self.guard and self.guard != "keyguard":
            raise ConfigurationError(f"--ledger: {self.guard} keeps its figures in files of its own; leave the option out")

    @property
    def events(self) -> tuple[Event, ...]:
        """The events that are asked for, in their order."""
        return tuple(event for event in EVENTS if not self.only or any(event.name.startswith(name) for name in self.only))


def run(plan: Plan, tell: Callable[[Row], None]) -> Findings:
    """
    Play the events of a plan; `tell` is given each row when it is there. Every process it starts has ended when it returns or raises.

    Raises:
        MissingExtra: the Stripe SDK, or the package of the guard, is not installed.
        ConfigurationError: no such guard.
        KeyguardError: a process could not be started.
    """
    for name in _NEEDED:
        if find_spec(name) is None:
            raise MissingExtra('pip install "keyguard[stripe]"')
    begun = time.monotonic()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyguard-", dir=_short(), ignore_cleanup_errors=True)))
        double = stack.enter_context(DoubleProcess(place / "truth.jsonl"))
        nursery = stack.enter_context(Nursery(place, quiet_env(double.host)))
        rows = tuple(Played(plan, place, double, nursery).rows(tell))
    return Findings(plan.guard, plan.ledger, plan.seed, plan.is_quick, rows, time.monotonic() - begun)


def _short() -> str | None:
    """Return where temporary folders are to be made: a socket's path has about a hundred characters at most (unix(7))."""
    return None if len(tempfile.gettempdir()) <= _LONGEST else "/tmp"  # noqa: S108 -- the folder in it is ours alone


@dataclass(slots=True)
class Played:
    """
    One run of a plan.

    Attributes:
        place: A folder for what it makes.
        double, nursery: The vendor, and where workers are born; of all events, and of later runs.
        name: How its runs' ids begin.
    """

    plan: Plan
    place: Path
    double: Controls
    nursery: Nursery
    name: str = field(default_factory=lambda: f"crash-test-{secrets.token_hex(4)}")

    def rows(self, tell: Callable[[Row], None]) -> Iterator[Row]:
        """Play all events; those that only wait do so while the others play."""
        known = self._known()
        played = [_Event(event, self._stage(event, known)) for event in self.plan.events]
        for one in played:
            if one.may_wait:
                one.begin()
        for one in played:
            if not one.may_wait:
                one.begin()
            one.end()
            tell(one.stage.row)
            yield one.stage.row

    def _known(self) -> dict[str, Any]:
        """Ask what the guard can do; the first worker imports it, and this process never does."""
        first = self.nursery.born()
        known = first.ask("describe", guard=self.plan.guard, url=self.plan.ledger)
        for kind in (MissingExtra, ConfigurationError, LedgerUnavailable):
            if known["error"] == kind.__name__:
                raise kind(known["words"])
        folder = self.place / f"{self.name}-rehearsal"
        folder.mkdir()
        terms = Terms(1_000_000, f"{self.name}-rehearsal", f"sqlite:///{folder / 'ledger.db'}", str(folder))
        shop = Shop("sk_test_rehearsal", self.double.url)
        # So that there is something in doubt, and the vendor is asked.
        self.double.script(Fault("close_after", method="POST"))
        # A guard that fails here fails in every event, and there it is found out what that means.
        with suppress(WorkerFailed):
            self.nursery.learn(first.ask("rehearse", guard=self.plan.guard, terms=asdict(terms), shop=asdict(shop))["modules"])
        first.end()
        self.double.clear()
        return known

    def _stage(self, event: Event, known: dict[str, Any]) -> Stage:
        folder = self.place / f"{self.name}-{event.name}"
        folder.mkdir()
        row = Row(event.name, event.words)
        lacking = event.needs - set(known["extras"])
        if lacking:
            row.skipped = "; ".join(EXTRAS[name] for name in sorted(lacking))
        elif self.plan.ledger and event.spares:
            row.skipped = event.spares
        elif self.plan.ledger and event.is_of_files and not self.plan.ledger.startswith("sqlite"):
            row.skipped = "the ledger is no file of this machine"
        return Stage(
            row, self.double, self.nursery, self.plan.guard, frozenset(known["extras"]), known["is_shared"],
            run=f"{self.name}-{event.name}",
            url=self.plan.ledger or f"sqlite:///{folder / 'ledger.db'}",
            folder=folder,
            is_own=not self.plan.ledger,
            is_quick=self.plan.is_quick,
            rng=random.Random(f"{self.plan.seed}/{event.name}"),  # noqa: S311 -- a repeatable test, not a secret
            is_daily=event.is_daily,
            is_faulty=event.is_faulty,
            justified=event.justified,
        )  # fmt: skip


class _Event:
    """One event on its stage."""

    def __init__(self, event: Event, stage: Stage) -> None:
        self.stage, self._play = stage, event.play
        self.may_wait = inspect.isgeneratorfunction(event.play)
        self._waiting: Iterator[None] | None = None

    def begin(self) -> None:
        """Play it, or the part of it after which it waits."""
        if not self.stage.row.skipped:
            with self._watched():
                self._waiting = self._play(self.stage)
                if self._waiting is not None:
                    next(self._waiting)

    def end(self) -> None:
        """Play the rest, and compare."""
        if self.stage.row.skipped:
            return
        with self._watched():
            for _ in self._waiting or ():
                pass
            self.stage.finish()
        self.stage.close()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Count the seconds; a process that fails is what the event came to, and not the end of the others."""
        begun, row = time.monotonic(), self.stage.row
        try:
            yield
        except (WorkerFailed, TimeoutError, RuntimeError) as error:
            row.broke("run", str(error))
            row.vendor = self.stage.till.look()
            # Whatever was scripted for it is not for the next one.
            self.stage.double.clear()
            self.stage.double.release()
        row.tested |= {"run"}
        row.seconds += time.monotonic() - begun


def quiet_env(host: str) -> dict[str, str]:
    """Return the workers' environment: none of the user's keys, runs, budgets or exporters; the double is Stripe."""
    foreign = ("KEYGUARD_", "OTEL_", "STRIPE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign) or name == "KEYGUARD_DURABILITY"}
    return kept | {"KEYGUARD_VENDOR_HOSTS": f"stripe={host}", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
