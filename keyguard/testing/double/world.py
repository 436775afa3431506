"""
What a double is behind its socket: vendors, script, clock, truth file and the gate at which held requests wait.

Threads meet here, and only here: one lock around the vendors, one condition for the gate. No HTTP.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keyguard.testing.double.faults import Script
from keyguard.testing.double.messages import Answer, Ids, Request
from keyguard.testing.double.resend import Resend
from keyguard.testing.double.stripe import Stripe
from keyguard.testing.double.truth import TruthWriter
from keyguard.testing.double.twilio import Twilio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keyguard.testing.double.faults import Fault
    from keyguard.testing.double.messages import Vendor, Work

# Requests that `requests()` remembers: the last so many.
_REMEMBERED = 100_000
_TURNED_AWAY = {"unauthorized": 401, "forbidden": 403, "missing": 404, "conflict": 409, "rate_limit": 429, "unavailable": 503}


class Closing(Exception):
    """The double is being stopped while a request is held."""


class Gate:
    """Where requests are held until somebody releases them, or their time is over."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = self._released = 0
        self._is_closed = False

    @property
    def held(self) -> int:
        """How many requests wait now."""
        return self._held

    def ticket(self) -> int:
        """Return what `hold` needs; whoever releases after this releases its holder, even if that waits only later."""
        return self._released

    def hold(self, ticket: int, seconds: float) -> None:
        """
        Wait to be released, at most some seconds.

        Raises:
            Closing: the double was stopped meanwhile.
        """
        with self._changed:
            self._held += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_closed or self._released > ticket, seconds)
            self._held -= 1
            self._changed.notify_all()
            if self._is_closed:
                raise Closing

    def release(self) -> None:
        """Let all go that have a ticket."""
        with self._changed:
            self._released += 1
            self._changed.notify_all()

    def wait_until_held(self, count: int, timeout: float) -> bool:
        """Wait until at least so many requests wait; False if that did not come."""
        with self._changed:
            return self._changed.wait_for(lambda: self._held >= count, timeout)

    def close(self) -> None:
        """Let all go that wait, and whoever comes."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    What goes out.

    Attributes:
        answer: None = hang up without a word.
        fault: What struck the request; it says how the answer is delivered.
    """

    answer: Answer | None
    fault: Fault | None = None


@dataclass(slots=True)
class World:
    """
    Vendors, and all that is scripted of them.

    Args:
        truth: The truth file.
        clock: Seconds since the epoch; `advance` adds to it.
        window: Seconds for which vendors keep idempotency keys.
    """

    truth: Path
    clock: Callable[[], float] = time.time
    window: float = 86_400.0
    script: Script = field(default_factory=Script)
    gate: Gate = field(default_factory=Gate)
    arrived: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    broken: list[BaseException] = field(default_factory=list[BaseException])
    lock: threading.Lock = field(default_factory=threading.Lock)
    offset: float = 0.0
    is_closed: bool = False
    _number: int = field(init=False)
    _writer: TruthWriter = field(init=False)
    twilio: Twilio = field(init=False)
    _vendors: dict[str, Vendor] = field(init=False)

    def __post_init__(self) -> None:
        self._writer = TruthWriter(self.truth)
        # Beside what an earlier double wrote into the file, ids and numbers are still unique.
        ids, self._number = Ids(self._writer.rows), self._writer.last_request
        record = self._writer.record
        self.twilio = Twilio(record, ids)
        self._vendors = {
            "/v1": Stripe(record, ids, window=self.window),
            "/2010-04-01": self.twilio,
            "/emails": Resend(record, ids, window=self.window),
        }

    def now(self) -> float:
        """Return the time at the vendors."""
        return self.clock() + self.offset

    def vendor_for(self, path: str) -> Vendor | None:
        """Say whose path this is."""
        return self._vendors.get(path[: path.find("/", 1)] if path.count("/") > 1 else path)

    def play(self, method: str, target: str, headers: dict[str, str], content: bytes) -> Delivery:
        """Take one request through its vendor, and through what the script has for it."""
        with self._open():
            self._number += 1
            request = Request(method, target, headers, content, self._number)
            vendor = self.vendor_for(request.path)
            if vendor is None:
                return Delivery(Answer(404, b'{"message": "none of the doubles has this path"}'))
            begun = vendor.begin(request, self.now())
            fault = self.script.strike(vendor.name, request, executes=not isinstance(begun, Answer))
            # Now, under the lock: who empties the script and then releases must not leave one behind that was struck before.
            ticket = self.gate.ticket()
            self._remember(vendor, request, fault)
            if fault is not None and fault.kind in {"close_before", "reset_before", *_TURNED_AWAY}:
                if not isinstance(begun, Answer):
                    vendor.abandon(begun)
                status = _TURNED_AWAY.get(fault.kind)
                return Delivery(None if status is None else vendor.failure(status), fault)
        if isinstance(begun, Answer):
            if fault is not None and fault.kind == "hold_after":
                self.gate.hold(ticket, fault.seconds)
            return Delivery(begun, fault)
        try:
            return Delivery(self._executed(vendor, begun, fault, ticket), fault)
        except BaseException:
            with self.lock:
                vendor.abandon(begun)
            raise

    def close(self) -> None:
        """Let held requests go, unexecuted, and close the file."""
        self.gate.close()
        with self.lock:
            self.is_closed = True
            self._writer.close()

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the lock, while the double still executes."""
        with self.lock:
            if self.is_closed:
                raise Closing
            yield

    def _executed(self, vendor: Vendor, work: Work, fault: Fault | None, ticket: int) -> Answer:
        kind = "pass" if fault is None else fault.kind
        if fault is not None and kind == "hold_before":
            self.gate.hold(ticket, fault.seconds)
        with self._open():
            answer = None if kind == "error_before" else vendor.execute(work, self.now(), declined=kind == "decline")
        if fault is not None and kind == "hold_after":
            self.gate.hold(ticket, fault.seconds)
        with self._open():
            shown = vendor.failure(500) if answer is None or kind == "error_after" else answer
            return vendor.finish(work, shown, self.now())

    def _remember(self, vendor: Vendor, request: Request, fault: Fault | None) -> None:
        self.arrived.append({
            "number": request.number, "vendor": vendor.name, "method": request.method, "target": request.target,
            "headers": {name: value for name, value in request.headers.items() if name != "authorization"},
            "content": request.content.decode("utf-8", "replace"), "fault": None if fault is None else fault.kind,
        })  # fmt: skip
