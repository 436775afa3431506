"""How a double is scripted: the same words for one in this process and for one in its own. What they do is in `Commands`."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from keyguard.testing.double.faults import Fault, Scripted
from keyguard.testing.double.server import Listener
from keyguard.testing.double.truth import Truth
from keyguard.testing.double.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WAITING = 30.0  # seconds, for what a test waits for
# What `Controls` may ask of `Commands`, from another process too.
_NAMES = frozenset({
    "advance", "clear", "held", "listen", "now", "refuse", "release", "requests", "script", "scripted", "settle_prices", "wait_until_held",
    "wait_until_quiet",
})  # fmt: skip


class Controls:
    """
    A double, seen from whoever scripts it.

    Attributes:
        host: Where it listens, `127.0.0.1:port`, as `KEYGUARD_VENDOR_HOSTS` wants it.
        truth: What it executed.
    """

    host: str
    truth: Truth

    @property
    def url(self) -> str:
        """Its base: for `stripe.api_base`, `resend.api_url`, or the `base_url` of a product of Twilio's client."""
        return f"http://{self.host}"

    def script(self, *faults: Fault) -> None:
        """Append faults to the script; see `Fault` and `Script` for what strikes when."""
        self._do("script", faults=[asdict(fault) for fault in faults])

    def scripted(self) -> list[Scripted]:
        """Return the script, with how often each fault was met, and struck."""
        return [Scripted(Fault(**one["fault"]), one["seen"], one["struck"]) for one in self._do("scripted")]

    def struck(self) -> int:
        """Return how many requests were struck in all."""
        return sum(one.struck for one in self.scripted())

    def clear(self) -> None:
        """Empty the script; requests that are held stay so."""
        self._do("clear")

    def release(self) -> None:
        """Let all requests go that are held now, or were struck by now and are about to be held."""
        self._do("release")

    def held(self) -> int:
        """Return how many requests are held now."""
        return int(self._do("held"))

    def wait_until_held(self, count: int = 1, timeout: float = _WAITING) -> None:
        """
        Wait until at least so many requests are held.

        Raises:
            TimeoutError: that did not come.
        """
        if not self._do("wait_until_held", count=count, timeout=timeout):
            raise TimeoutError(f"{self.held()} requests are held, not {count}")

    def wait_until_quiet(self, timeout: float = _WAITING) -> None:
        """
        Wait until nobody is connected: what a client that went away had sent is executed then, or never.

        Raises:
            TimeoutError: somebody still is.
        """
        self._do("wait_until_quiet", timeout=timeout)

    def now(self) -> float:
        """Return the time at the vendors, seconds since the epoch."""
        return float(self._do("now"))

    def advance(self, seconds: float) -> None:
        """Move the vendors' clock on: keys are forgotten, late prices appear."""
        self._do("advance", seconds=seconds)

    def settle_prices(self) -> None:
        """Let the prices of all of Twilio's messages so far be read; without it they come an hour later, by the vendors' clock."""
        self._do("settle_prices")

    def requests(self) -> list[dict[str, Any]]:
        """Return what arrived, in order: number, vendor, method, target, headers (no credentials), content, and the fault it met."""
        found: list[dict[str, Any]] = self._do("requests")
        return found

    def refuse(self) -> None:
        """Stop listening, and shut every connection: from now on connections are refused, until `listen`."""
        self._do("refuse")

    def listen(self) -> None:
        """Listen again, on the same port."""
        self._do("listen")

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse connections during the block."""
        self.refuse()
        try:
            yield
        finally:
            self.listen()

    def _do(self, name: str, **arguments: Any) -> Any:
        raise NotImplementedError


class Commands:
    """What the words do to a world and its listener; arguments and answers are what JSON can hold."""

    def __init__(self, truth: Path, port: int, clock: Callable[[], float], window: float) -> None:
        self.world = World(truth, clock, window)
        try:
            listener = Listener(port, self.world)
        except BaseException:
            self.world.close()
            raise
        self.port, self._listeners = listener.server_port, [listener]
        self._listener: Listener | None = listener

    def do(self, name: str, arguments: dict[str, Any]) -> Any:
        """Do what one word says."""
        if name not in _NAMES:
            raise ValueError(f"no word is called {name!r}")
        return getattr(self, name)(**arguments)

    def close(self) -> None:
        """
        End it; held requests are not executed.

        Raises:
            Exception: what went wrong inside the double, if anything did: its figures are not to be trusted then.
        """
        self.refuse()
        self.world.close()
        for listener in self._listeners:
            listener.wait_until_ended()
        if self.world.broken:
            raise self.world.broken[0]

    def refuse(self) -> None:
        """See `Controls`."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None

    def listen(self) -> None:
        """See `Controls`."""
        if self._listener is None:
            self._listener = Listener(self.port, self.world)
            self._listeners.append(self._listener)

    def script(self, faults: list[dict[str, Any]]) -> None:
        """See `Controls`."""
        with self.world.lock:
            self.world.script.add(Fault(**fault) for fault in faults)

    def scripted(self) -> list[dict[str, Any]]:
        """See `Controls`."""
        with self.world.lock:
            return [asdict(entry) for entry in self.world.script.entries]

    def clear(self) -> None:
        """See `Controls`."""
        with self.world.lock:
            self.world.script.entries.clear()

    def advance(self, seconds: float) -> None:
        """See `Controls`."""
        with self.world.lock:
            self.world.offset += seconds

    def settle_prices(self) -> None:
        """See `Controls`."""
        with self.world.lock:
            self.world.twilio.settle_prices()

    def requests(self) -> list[dict[str, Any]]:
        """See `Controls`."""
        with self.world.lock:
            return list(self.world.arrived)

    def now(self) -> float:
        """See `Controls`."""
        return self.world.now()

    def held(self) -> int:
        """See `Controls`."""
        return self.world.gate.held

    def release(self) -> None:
        """See `Controls`."""
        self.world.gate.release()

    def wait_until_held(self, count: int, timeout: float) -> bool:
        """See `Controls`; whether it came."""
        return self.world.gate.wait_until_held(count, timeout)

    def wait_until_quiet(self, timeout: float) -> None:
        """See `Controls`."""
        if self._listener is not None:
            self._listener.wait_until_quiet(timeout)


class VendorDouble(Controls):
    """
    A double in this process, from `with` to its end.

    Args:
        truth: Its truth file, which is appended to; None = a file of its own, which ends with it.
        port: 0 = any that is free.
        clock: Seconds since the epoch.
        window: Seconds for which the vendors keep idempotency keys.
    """

    def __init__(
        self, truth: str | Path | None = None, *, port: int = 0, clock: Callable[[], float] = time.time, window: float = 86_400.0
    ) -> None:
        self._arguments = (truth, port, clock, window)

    def __enter__(self) -> VendorDouble:
        truth, port, clock, window = self._arguments
        with ExitStack() as stack:
            path = Path(stack.enter_context(TemporaryDirectory())) / "truth.jsonl" if truth is None else Path(truth)
            self._commands = stack.enter_context(closing(Commands(path, port, clock, window)))
            self._stack = stack.pop_all()
        self.truth, self.host = Truth(path), f"127.0.0.1:{self._commands.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _do(self, name: str, **arguments: Any) -> Any:
        return self._commands.do(name, arguments)
