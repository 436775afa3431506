"""What the clients meet on loopback: a double for each vendor, a server that nobody trusts, one that never accepts, a name of nobody's."""

from __future__ import annotations

import gc
import logging
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import stripe

from keyguard.testing.double import VendorDouble
from tests.endings import PATIENCE
from tests.endings.clients import KINDS
from tests.endings.victims import Victims
from tests.support_wire import Wire, self_signed

if TYPE_CHECKING:
    import threading

    from keyguard.testing.double import Controls, Fault
    from tests.endings import Kind

# Longer than any name can be, so that the resolver refuses it itself: no name server is asked.
_TOO_LONG = ".".join(["a" * 60] * 6)


@dataclass(frozen=True, slots=True)
class Room:
    """Where a double holds requests."""

    double: Controls

    def await_held(self) -> None:
        """Wait until one more request is held."""
        self.double.wait_until_held(1, PATIENCE)

    def release(self) -> None:
        """Let them go."""
        self.double.release()


class Full:
    """Listens, and has no place for another connection: whoever connects waits."""

    def __enter__(self) -> Full:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=0)
        # Linux takes one connection more than the backlog has places for.
        self._first = socket.create_connection(self._listening.getsockname())
        return self

    def __exit__(self, *_: object) -> None:
        self._first.close()
        self._listening.close()

    @property
    def url(self) -> str:
        """Its base."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"


@dataclass
class World:
    """
    All that is met, from `with` to its end.

    Attributes:
        doubles: By vendor; `full`, `distrusted`, what stands in for it where no connection is made.
        victims: Makes processes that are killed.
        ledger: The URL of the ledger of all cells, a file.
        caller: The thread that makes the call, and `companion`, one that makes another one meanwhile.
    """

    doubles: dict[str, VendorDouble] = field(default_factory=dict)
    full: dict[str, Full] = field(default_factory=dict)
    distrusted: dict[str, Wire] = field(default_factory=dict)
    victims: Victims = field(default_factory=Victims)
    ledger: str = ""
    caller: int = 0
    companion: threading.Thread | None = None

    def __enter__(self) -> World:
        self._open = ExitStack()
        place = Path(self._open.enter_context(TemporaryDirectory()))
        self.ledger = f"sqlite:///{place}/ledger.db"
        certificate = self_signed(place / "vendor.pem")
        for kind in KINDS:
            self.doubles[kind.name] = self._open.enter_context(VendorDouble())
            self.full[kind.name] = self._open.enter_context(Full())
            self.distrusted[kind.name] = self._open.enter_context(Wire(certificate=certificate))
        self._open.enter_context(self.victims)
        # Stripe's SDK waits half a second before it tries again.
        patch = self._open.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)
        # A record of a try that failed has the error, and with it the connection; who keeps records (pytest) would keep it open.
        patch.setattr(logging.getLogger("urllib3.connectionpool"), "disabled", True)
        self._open.callback(gc.unfreeze)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def hosts(self) -> str:
        """As `KEYGUARD_VENDOR_HOSTS` wants them."""
        names = [kind.name for kind in KINDS]
        return ",".join(
            f"{name}={host}"
            for name in names
            for host in (self.of(name).host, self.full[name].url[7:], self.distrusted[name].host, self.nowhere(name)[7:])
        )

    def of(self, vendor: str) -> VendorDouble:
        """Return a vendor's double."""
        return self.doubles[vendor]

    def nowhere(self, vendor: str) -> str:
        """Return a base whose name cannot be resolved."""
        return f"http://{vendor}.{_TOO_LONG}"

    def room(self, kind: Kind) -> Room:
        """Return where a vendor's double holds requests."""
        return Room(self.of(kind.name))

    def script(self, kind: Kind, *faults: Fault) -> VendorDouble:
        """Have a double play these faults alone."""
        double = self.of(kind.name)
        double.clear()
        double.script(*faults)
        return double

    def charged(self, kind: Kind) -> float:
        """Return what a vendor has really taken, in units."""
        return self.of(kind.name).truth.charged() / kind.true_unit
