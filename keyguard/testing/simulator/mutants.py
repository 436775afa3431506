"""Planted mistakes, each of one rule: a simulator that does not find them proves nothing.

Each replaces a function of the real code for a while.
Those of the ledger are in `mutants_ledger.py`.
"""

# Mistakes are planted in private places, by functions of any shape.
# pyright: reportPrivateUsage=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from keyguard import guard, payer
from keyguard.backends._ledgered import LedgerBackend
from keyguard.context import Ticket
from keyguard.identity import canonical
from keyguard.model import Closing, Outcome
from keyguard.testing.simulator import client
from keyguard.testing.simulator.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.model import Call

Planting: TypeAlias = "Callable[[], contextlib.AbstractContextManager[None]]"


@dataclass(frozen=True, slots=True)
class Mutant:
    """
    One planted mistake.

    Attributes:
        says: What it does wrong, in a sentence.
        plant: Plants it for the length of a `with` block.
    """

    name: str
    says: str
    plant: Planting


@contextlib.contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """Put something else in the place of an attribute for the length of the block."""
    before = vars(owner)[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, before)


def replacing(owner: Any, name: str, new: Any) -> Planting:
    """Return what replaces an attribute."""
    return lambda: replaced(owner, name, new)


def _covers_by_path(self: Ticket, call: Call) -> bool:
    return (self.call.vendor, self.call.method, self.call.path) == (call.vendor, call.method, call.path)


def _unsent_by_name(error: BaseException, _handled: BaseException | None = None) -> bool:
    return type(error).__name__ in {"ConnectError", "ReadError", "RemoteProtocolError"}


def _free_the_dead(self: LedgerBackend, reservation_id: str, _ticket: Ticket) -> None:
    self.close(Closing(reservation_id, Outcome("released", source="local"), unsent=True))


def _forgetful_close(self: LedgerBackend, closing: Closing) -> Any:
    self._open.pop(closing.reservation_id, None)
    return self.ledger.close(closing)


_real_begin = vars(Fleet)["_begin"]


def _begin_anew(self: Fleet, plan: Any, token: str, thread: client.Thread, job: Any, attempt: int) -> None:
    _real_begin(self, plan, f"{token}+{thread.process.installs}", thread, job, attempt)


OF_GUARD = (
    Mutant("free-on-timeout", "a timeout gives the money back", replacing(guard, "_DOUBT", Outcome("released", source="local"))),
    Mutant(
        "release-by-last-exception", "the last of several tries says how all of them ended",
        replacing(guard, "_combined", lambda outcomes: outcomes[-1]),
    ),
    Mutant("stale-ticket", "a ticket covers a second call to the same path", replacing(Ticket, "covers", _covers_by_path)),
    Mutant(
        "unsent-by-class-name", "what is called a connection error proves that nothing was sent",
        replacing(client, "is_unsent", _unsent_by_name),
    ),
    Mutant(
        "dead-ticket-releases", "a call that was struck down gives its money back", replacing(LedgerBackend, "_close_dead", _free_the_dead)
    ),
    Mutant(
        "lost-close-forgotten", "a hold whose close failed is not closed again", replacing(LedgerBackend, "close", _forgetful_close)
    ),
    Mutant(
        "identity-without-account", "the same request to two accounts is one charge",
        replacing(payer, "canonical", lambda call: canonical(replace(call, account=""))),
    ),
    Mutant("execution-reset", "a second install begins a new execution", replacing(Fleet, "_begin", _begin_anew)),
    Mutant(
        "key-without-number", "two identical charges get one Idempotency-Key",
        replacing(guard, "key_for", lambda request, _n, generation: f"{request}.{generation}"),
    ),
)  # fmt: skip
