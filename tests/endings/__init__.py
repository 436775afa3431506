"""Endings: every way in which an attempt can end, by a real fault, with every client that keyguard guards.

Here stand the words: a client, a fault, what must come of them and what came. `clients.py` has the columns, `faults.py` the rows,
`world.py` what the clients meet on loopback, `matrix.py` walks and prints: `python -m tests.endings [WORD …]`. The judge is the
truth file of the vendors' double; keyguard's ledger is the accused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.endings.world import Room, World

# Seconds: for what must come, and for what never comes.
PATIENCE, IMPATIENCE = 20.0, 0.15


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One vendor.

    Attributes:
        name: As its plug has it.
        path: Where the call goes that costs one unit.
        unit: What that is in keyguard's books, and `true_unit` at the double, in micro-USD.
        secret: A credential that the double takes.
        wrong: What it answers to a call that is wrong.
        declined: What it answers where somebody else has declined.
        keeps_keys: It executes a call with the same idempotency key once; `keeps_refusals`, also one that it refused.
    """

    name: str
    path: str
    unit: int
    true_unit: int
    secret: str
    wrong: int
    declined: int
    keeps_keys: bool = True
    keeps_refusals: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """
    One logical call that costs one unit.

    Attributes:
        base: Where to, with the scheme.
        timeout: Seconds that the client waits for a connection, and for each read; `pool`, for a place in its pool of one connection.
        retries: How often it may try again, by whatever way it has.
        key: Its idempotency key, "" = none of the caller's own.
        is_wrong: The vendor refuses the call as it stands.
        is_declined: The card that is charged is always declined.
        intent: Confirm this PaymentIntent instead of making one.
        hides: The client is given something of the user's own, which may try again without anybody seeing it.
        cancel: When an awaited call is cancelled.
        room: Where requests are held, for a client that must know when its own one is.
    """

    base: str
    timeout: float = PATIENCE
    pool: float | None = None
    retries: int = 0
    key: str = ""
    is_wrong: bool = False
    is_declined: bool = False
    intent: str = ""
    hides: bool = False
    cancel: Literal["", "before", "waiting"] = ""
    room: Room | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """
    One column: a client in one of its styles.

    Attributes:
        name: In the table.
        kind: The vendor that it calls.
        call: Makes the call; returns the status of its answer (an SDK's: 200), raises what the client raises.
        is_async: It is awaited.
        is_sdk: The vendor's own, which raises where the answer is no success.
        once: Why it tries once; "" where it has a way to try again, and `again` says after what.
        no_pool: Why no call can wait for a place in its pool and give up; "" where it can.
        hides: It takes a session or transport of the user's own, whose tries nobody sees.
        times_whole: Its timeout is of the whole call, and neither the error nor a seam below tells how far the call had come.
    """

    name: str
    kind: Kind
    call: Callable[[Ask], int]
    is_async: bool = False
    is_sdk: bool = False
    once: str = ""
    again: Literal["lost", "5xx"] = "lost"
    no_pool: str = ""
    hides: bool = False
    times_whole: bool = False


@dataclass(frozen=True, slots=True)
class Impossible:
    """A fault that a client cannot have, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Expected:
    """
    What must come of one call, once everything is quiet.

    Attributes:
        executed: Units that the vendor has taken.
        spent: Units that are spent then, and `doubt`, in doubt; nothing is held.
        raises: The client raises something; what, is what it raises without keyguard.
    """

    executed: int = 0
    spent: int = 0
    doubt: int = 0
    raises: bool = True

    @property
    def ending(self) -> str:
        """In DESIGN's words."""
        return " and ".join(name for name, units in (("settled", self.spent), ("doubt", self.doubt)) if units) or "released"


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One row.

    Attributes:
        name: In the table.
        expected: What must come of it with a client.
        ask: What is asked of the client; the faults of the double are scripted here.
        meanwhile: Done by another thread while the call is made.
        is_slow: A client waits for its own timeout.
        dies: The call is made by a process that is killed.
    """

    name: str
    expected: Callable[[Client], Expected | Impossible]
    ask: Callable[[World, Client], Ask]
    meanwhile: Callable[[World, Client], None] | None = None
    is_slow: bool = False
    dies: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """
    What came of one fault with one client.

    Attributes:
        executed, spent, doubt: Units, once everything was quiet.
        came: What reached the caller: the name of an exception, or a status.
        wrong: What was not as it must be, one sentence each.
        reason: Why there is nothing; "" where there is.
    """

    executed: float = 0
    spent: float = 0
    doubt: float = 0
    came: str = ""
    wrong: tuple[str, ...] = ()
    reason: str = ""
