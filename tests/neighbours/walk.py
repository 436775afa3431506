"""One neighbour, one order, every client: the walk through install, both, one alone, none; collects faults, decides nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import keyguard
from tests.neighbours import Cell
from tests.neighbours.canary import tried_seams
from tests.neighbours.clients import CLIENTS
from tests.support_guard import CENT
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from keyguard.install import Installation
    from tests.neighbours import Neighbour, Order
    from tests.neighbours.clients import Client

_CAP_USD = 40
_ABOVE_CAP = 5_000
_PHASES = ("both", "alone", "none")
# A call that comes round the seam has an amount of its own too.
_OCCASIONS = (*_PHASES, "round")
# The discard port, where nothing listens.
_NOBODY = "127.0.0.1:9"


def walk(neighbour: Neighbour, order: Order, url: str) -> dict[str, Cell]:
    """Take every client through one order; the process is spoilt afterwards."""
    with StripeServer() as server, keyguard.run("run-1"):
        os.environ["KEYGUARD_VENDOR_HOSTS"] = f"stripe={server.host},stripe={_NOBODY}"
        return _Walk(neighbour, order, server).go(url)


def _cents(occasion: str, client: Client) -> int:
    """Return an amount that no other call of the walk has, so that an answer cannot be another's."""
    return 100 + 10 * _OCCASIONS.index(occasion) + CLIENTS.index(client)


class _Walk:
    """What the walk knows: who is here now, and what each client met so far."""

    def __init__(self, neighbour: Neighbour, order: Order, server: StripeServer) -> None:
        self._neighbour, self._order, self._server = neighbour, order, server
        self._is_armed = self._is_beside = False
        self._calls = {client.name: 0 for client in CLIENTS}
        self._reserved = dict(self._calls)
        self._faults: dict[str, list[str]] = {client.name: [] for client in CLIENTS}
        self._installation: Installation

    def go(self, url: str) -> dict[str, Cell]:
        """Walk, and return what was found."""
        self._neighbour.prepare(self._rehearse)
        for arrive in (self._arrive, lambda: self._arm(url)) if self._order.is_inner else (lambda: self._arm(url), self._arrive):
            arrive()
        self._phase("both")
        self._failures()
        first, last = (self._leave, self._disarm) if self._order.leaves_first else (self._disarm, self._leave)
        first()
        self._phase("alone")
        last()
        self._phase("none")
        self._check_gone()
        return {name: Cell(self._calls[name], self._reserved[name], tuple(self._faults[name])) for name in self._calls}

    # -- who comes and goes --------------------------------------------------------------------

    def _arrive(self) -> None:
        self._neighbour.install()
        self._is_beside = True

    def _leave(self) -> None:
        self._neighbour.remove()
        self._is_beside = False

    def _arm(self, url: str) -> None:
        self._installation = keyguard.install(url, run_usd_cap=_CAP_USD)
        self._is_armed = True

    def _disarm(self) -> None:
        keyguard.uninstall()
        self._is_armed = False

    def _rehearse(self) -> None:
        for occasion in _OCCASIONS:
            for client in CLIENTS:
                client.charge(self._server.url, _cents(occasion, client))

    # -- what each client meets ----------------------------------------------------------------

    def _phase(self, phase: str) -> None:
        for client in CLIENTS:
            if self._is_answered(client.seam):
                self._faults[client.name] += [f"{phase}: {fault}" for fault in self._come_round(client, _cents("round", client))]
        tried = self._try_seams()
        for client in CLIENTS:
            # What is answered above the seam, the seam does not see, and nobody sends.
            known = [one for one in _of(client, tried) if not self._is_answered(one[0])]
            faults = [f"seams says {name}: {said}, not {stands}" for name, (said, stands) in known if said != stands]
            if not self._is_answered(client.seam):
                faults += self._charge(client, _cents(phase, client))
                faults += self._refuse(client) if self._is_armed else []
            self._faults[client.name] += [f"{phase}: {fault}" for fault in faults]

    def _is_answered(self, seam: str) -> bool:
        """Say whether the neighbour answers whatever would come to a seam."""
        return self._is_armed and self._is_beside and self._neighbour.answers and seam in self._neighbour.hides

    def _come_round(self, client: Client, cents: int) -> list[str]:
        """Make a call that does not come to the seam: the neighbour answers it."""
        before = self._books()
        raised = _raised(client, self._server.url, cents)
        changed = tuple(now - then for now, then in zip(self._books()[:3], before, strict=False))
        faults = [] if changed == (0, 0, 0) else [f"a call round the seam was (reserved, counted, charged) {changed}"]
        return [*faults, f"a call round the seam ended with {raised[:1]}"] if raised else faults

    def _try_seams(self) -> dict[str, tuple[bool, bool]]:
        return tried_seams(lambda: self._installation.seams)

    def _books(self) -> tuple[int, int, int, int]:
        """Return reservations, spent micro-USD, what the server charged, what the neighbour saw."""
        backend: Any = self._installation._backend
        reserved = sum(entry["kind"] == "reserve" for entry in backend.ledger.entries())
        usage = self._installation.usage()
        return reserved, usage.spent + usage.held + usage.doubt, len(self._server.charges), self._neighbour.seen()

    def _charge(self, client: Client, cents: int) -> list[str]:
        before = self._books()
        told = client.charge(self._server.url, cents)
        reserved, counted, charged, seen = (now - then for now, then in zip(self._books(), before, strict=True))
        is_seen = self._is_beside and bool(self._neighbour.hooks & client.layers)
        self._calls[client.name] += self._is_armed
        self._reserved[client.name] += reserved
        expected = {
            "reservations": (reserved, int(self._is_armed)),
            "micro-USD counted": (counted, cents * CENT * self._is_armed),
            "charges at the server": (charged, int(not (is_seen and self._neighbour.answers))),
            "seen by the neighbour": (seen, int(is_seen)),
            "amount and status returned": (told[1:], (cents, "succeeded")),
        }
        return [f"{what}: {found}, not {right}" for what, (found, right) in expected.items() if found != right]

    def _refuse(self, client: Client) -> list[str]:
        """Ask for more than the cap: it must be refused, and nothing may be sent or counted."""
        before = self._books()
        raised = _raised(client, self._server.url, _ABOVE_CAP)
        after = self._books()
        faults = [] if before[:3] == after[:3] else [f"a refused call changed {before[:3]} to {after[:3]}"]
        if not any(isinstance(error, keyguard.SpendCapExceeded) for error in raised):
            return [*faults, f"UNGUARDED: a call above the cap ended with {raised[:1] or 'an answer'}"]
        # Without the SDK's own seam the refusal comes from the wire below, and Stripe wraps it.
        is_itself = isinstance(raised[0], keyguard.SpendCapExceeded) or not self._installation.seams[client.seam]
        return faults if is_itself else [*faults, f"the refusal reached the caller as {raised[0]!r}"]

    def _failures(self) -> None:
        """Make calls that fail on the wire, where the neighbour leaves it in place: what is not proven unsent stays counted."""
        for client in CLIENTS:
            if self._neighbour.answers and self._neighbour.hooks & client.layers:
                continue
            cents = 50 + CLIENTS.index(client)
            self._server.drop_answers = True
            faults = self._fail(client, self._server.url, cents, (1, cents * CENT, 1))
            self._server.drop_answers = False
            faults += self._fail(client, f"http://{_NOBODY}", cents, (1, 0, 0))
            self._faults[client.name] += [f"both: {fault}" for fault in faults]

    def _fail(self, client: Client, url: str, cents: int, right: tuple[int, int, int]) -> list[str]:
        before = self._books()
        raised = _raised(client, url, cents)
        found = tuple(now - then for now, then in zip(self._books()[:3], before, strict=False))
        faults = [] if raised else [f"a call to {url} that must fail was answered"]
        return (
            faults if found == right else [*faults, f"a call ended by {raised[:1]} was (reserved, counted, charged) {found}, not {right}"]
        )

    def _check_gone(self) -> None:
        # What somebody had wrapped over is taken away when it is outermost again.
        keyguard.uninstall()
        tried = self._try_seams()
        for client in CLIENTS:
            self._faults[client.name] += [f"gone: {name} still stands" for name, (_, stands) in _of(client, tried) if stands]


def _of(client: Client, tried: dict[str, tuple[bool, bool]]) -> list[tuple[str, tuple[bool, bool]]]:
    """Return the seams that a client's calls pass."""
    return [(name, found) for name, found in tried.items() if name.partition(".")[0] in client.layers]


def _raised(client: Client, url: str, cents: int) -> list[BaseException]:
    """Return what a call raises, and what that was made from; nothing where it is answered."""
    try:
        client.charge(url, cents)
    except Exception as error:
        chain: list[BaseException] = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        return chain
    return []
