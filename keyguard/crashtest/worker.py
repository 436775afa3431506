"""One process that spends: it opens a guard, does what it is told line by line, and stands still for ever where it is told to."""

from __future__ import annotations

import atexit
import json
import os
import resource
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyguard.crashtest.client import client, pay
from keyguard.crashtest.contract import Charge, Shop, Terms, extras_of, find
from keyguard.errors import ConfigurationError, LedgerUnavailable, MissingExtra
from keyguard.ledgers import open_ledger

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_WORDS = frozenset(
    {
        "describe",
        "rehearse",
        "open",
        "spend",
        "figure",
        "set_clock",
        "limit_files",
        "revoke",
        "reconcile",
        "release_rest",
        "verify",
        "hold_store",
    }
)
_real_time = time.time


@dataclass(slots=True)
class _Tally:
    """What came of a number of charges; see `Spending` in `stage.py`."""

    charged: int = 0
    capped: int = 0
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    failed: Counter[str] = field(default_factory=Counter[str])
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Worker:
    """A forked child; `work` returns when it is told to end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lines = connection, connection.makefile("rb")
        self._step = ""
        self._guard: Any = None
        self._client: Any = None
        self._offset = 0.0
        # The clock of this process, which can be stepped; a guard may bind it when it is opened.
        time.time = lambda: _real_time() + self._offset

    def work(self) -> None:
        """Do one line after the other; what goes wrong is an answer too."""
        self._say(pid=os.getpid())
        for words in self._told():
            try:
                self._say(**(getattr(self, f"_{words.pop('do')}")(**words) or {}))
            except Exception as error:
                traceback.print_exc()
                self._say(broken=f"{type(error).__name__}: {error}")

    def leave(self) -> None:
        """End as a process does whose work is done; only that modules are not taken apart one by one, which takes longer than the work."""
        atexit._run_exitfuncs()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] -- what os._exit leaves out
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def _told(self) -> Iterator[dict[str, Any]]:
        for line in self._lines:
            words = json.loads(line)
            if words["do"] == "end":
                return
            if words["do"] not in _WORDS:
                raise ValueError(f"a worker does not know how to {words['do']}")
            yield words

    def _say(self, **words: Any) -> None:
        self._connection.sendall(json.dumps(words).encode() + b"\n")

    def _at(self, step: str) -> None:
        """Stand still for ever, if this is where that was asked for; and end when nobody is left who could want anything."""
        if step == self._step:
            self._say(at=step)
            self._connection.recv(1)
            os._exit(1)

    # -- words --------------------------------------------------------------------------------------

    def _describe(self, guard: str, url: str) -> dict[str, Any]:
        """Say what a guard can do, or why it is not there, or why a ledger is not."""
        try:
            found = find(guard)
            if url:
                open_ledger(url).shut()
        except (MissingExtra, ConfigurationError, LedgerUnavailable) as error:
            return {"error": type(error).__name__, "words": str(error)}
        return {"error": "", "extras": sorted(extras_of(found)), "is_shared": bool(found.is_shared)}

    def _rehearse(self, guard: str, terms: dict[str, Any], shop: dict[str, Any]) -> dict[str, Any]:
        """Do most of what the others will do, and say which modules that loaded."""
        before = set(sys.modules)
        self._open(guard, terms, shop)
        self._once(Charge("cus_rehearsal", 1_000_000, is_named=True), 1, _Tally())
        if hasattr(self._guard, "reconcile"):
            self._reconcile()
        return {"modules": sorted(set(sys.modules) - before)}

    def _open(self, guard: str, terms: dict[str, Any], shop: dict[str, Any], offset: float = 0.0) -> None:
        self._set_clock(offset)
        found = find(guard)
        os.environ["STRIPE_SECRET_KEY"] = shop["api_key"]
        self._terms = Terms(**terms)
        self._guard = found(self._terms)
        self._client = client(Shop(**shop), self._at)

    def _spend(
        self,
        names: list[str],
        amount: int,
        threads: int = 1,
        tries: int = 1,
        step: str = "",
        entries: int = 0,
        *,
        named: bool = True,
    ) -> dict[str, Any]:
        """Charge customers, each tried again after a failure; with `entries`, all over again from the first one until none fails."""
        self._step = step
        tally = _Tally()
        if entries:
            for _ in range(entries):
                entry = getattr(self._guard, "entry", nullcontext)
                before = sum(tally.failed.values())
                with entry():
                    for name in names:
                        self._once(Charge(name, amount, is_named=False), 1, tally)
                if sum(tally.failed.values()) == before:
                    break
        else:
            self._side_by_side([Charge(name, amount, named) for name in names], threads, tries, tally)
        return {
            "charged": tally.charged, "capped": tally.capped, "wrong": tally.wrong, "refused": dict(tally.refused),
            "failed": dict(tally.failed), "slowest": tally.slowest, "figure": None if self._guard.is_shared else self._guard.spent(),
        }  # fmt: skip

    def _side_by_side(self, charges: list[Charge], threads: int, tries: int, tally: _Tally) -> None:
        gate = threading.Barrier(threads)

        def some(number: int) -> None:
            """Charge one thread's share; all begin at once."""
            gate.wait()
            for charge in charges[number::threads]:
                self._once(charge, tries, tally)

        others = [threading.Thread(target=some, args=(number,)) for number in range(1, threads)]
        for other in others:
            other.start()
        some(0)
        for other in others:
            other.join()

    def _once(self, charge: Charge, tries: int, tally: _Tally) -> None:
        guard: Any = self._guard
        begun = time.monotonic()
        for _ in range(tries):
            self._at("before reserve")
            try:
                guard.call(charge, lambda: pay(self._client, charge.name, charge.amount))
            except guard.refusals as error:
                with tally.lock:
                    self._count_refusal(error, charge, tally)
                break
            except BaseException as error:
                with tally.lock:
                    tally.failed[type(error).__name__] += 1
                continue
            self._at("after settle")
            with tally.lock:
                tally.charged += 1
            break
        tally.slowest = max(tally.slowest, time.monotonic() - begun)

    def _count_refusal(self, error: Any, charge: Charge, tally: _Tally) -> None:
        tally.refused[type(error).__name__] += 1
        if isinstance(error, getattr(self._guard, "cap_errors", self._guard.refusals)):
            tally.capped += 1
            room = getattr(error, "remaining", None)
            tally.wrong += room is not None and room >= charge.amount

    def _figure(self) -> dict[str, Any]:
        return {"figure": self._guard.spent()}

    def _set_clock(self, offset: float) -> None:
        """Step the clock: so many seconds from the true time."""
        self._offset = offset

    def _limit_files(self, room: int | None) -> dict[str, Any]:
        """Let no file grow beyond the largest that the guard has now and so many bytes; None lifts it. The kernel says EFBIG."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if room is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            return {}
        ledger = Path(self._terms.url.removeprefix("sqlite:///"))
        files = [*Path(self._terms.folder).iterdir(), *ledger.parent.glob(f"{ledger.name}*")]
        size = max((path.stat().st_size for path in files), default=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
        return {"limit": size + room}

    def _revoke(self) -> dict[str, Any]:
        self._guard.revoke()
        return self._figure()

    def _reconcile(self) -> dict[str, Any]:
        return {"left": self._guard.reconcile()}

    def _release_rest(self, reason: str) -> None:
        self._guard.release_rest(reason)

    def _verify(self) -> dict[str, Any]:
        return {"wrong": self._guard.verify()}

    def _hold_store(self) -> None:
        self._guard.hold_store()
