"""Doors: every client and style in which a vendor can be called, in every situation that sends one call more than once, or elsewhere.

Here stand the words: a door, a situation, what must come of them and what came. `vendors.py` has the vendors on loopback, `rows.py`
the doors, `situations.py` the columns, `matrix.py` walks and prints: `python -m tests.doors [WORD …]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.doors.vendors import Kind, World


@dataclass(frozen=True, slots=True)
class Ask:
    """
    One logical call that costs one unit.

    Attributes:
        base: Where to, with the scheme.
        credential: What stands in the call's credentials.
        key: Its idempotency key, "" = none of the caller's own.
        retries: How often the client may try again, by whatever way it has.
    """

    base: str
    credential: str
    key: str = ""
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Door:
    """
    One way to make that call.

    Attributes:
        name: In the table.
        kind: The vendor that it calls.
        call: Makes it; raises what the client raises where the answer is no success.
        follows: It follows redirects with the method and body that it had, as a 307 demands.
        sees_hops: Each hop is a call of its own; else an SDK stands above, which tells its last answer only.
        retries: It tries again after a 5xx.
        repeats_429: Also after a 429.
        has_key: It sends an idempotency key of its own where the caller gave none.
        takes_any: It takes a redirect that it does not follow for an answer.
        knows_proxies: It looks at the proxies of the environment.
    """

    name: str
    kind: Kind
    call: Callable[[Ask], Any]
    follows: bool = True
    sees_hops: bool = True
    retries: bool = False
    repeats_429: bool = False
    has_key: bool = False
    takes_any: bool = False
    knows_proxies: bool = True


@dataclass(frozen=True, slots=True)
class Expected:
    """
    What must come of one call.

    Attributes:
        sent: Requests that the vendor got, None = as many as the client likes.
        executed: Of these the vendor executed.
        kept: Reservations that were not given back: one a logical call, one more for each further send that may be executed again.
        counted: Units that are spent or in doubt afterwards.
        elsewhere: Requests that another host got.
        raises: Words of which one is in the name of what the caller gets, or in a cause of it; () = an answer.
    """

    sent: int | None = 1
    executed: int = 1
    kept: int = 1
    counted: int = 1
    elsewhere: int = 0
    raises: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Situation:
    """
    One column.

    Attributes:
        name: Over it.
        prepare: Tells the vendors what to answer; returns what to ask and what must come of it, None where it cannot happen to a door.
        policy: The run's, beside its cap.
        environment: Variables that are set meanwhile.
    """

    name: str
    prepare: Callable[[World, Door], tuple[Ask, Expected] | None]
    policy: Callable[[Kind], dict[str, Any]] = lambda _: {}
    environment: Callable[[World, Kind], dict[str, str]] = lambda _, __: {}


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one door in one situation, and what was not as it must be, one sentence each."""

    sent: int
    kept: int
    faults: tuple[str, ...] = ()
