"""What goes wrong, and when: frozen faults, and the script that a double plays. Pure; striking is the server's."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keyguard.testing.double.messages import Request

Kind: TypeAlias = Literal[
    "pass", "close_before", "reset_before", "unauthorized", "forbidden", "missing", "conflict", "rate_limit", "unavailable",
    "hold_before", "error_before", "error_after", "decline",
    "close_after", "reset_after", "hold_after", "truncate", "garble", "drip",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)
# These need something to execute: a replay, a refusal is not struck, and does not use them up.
EXECUTING = frozenset({"hold_before", "error_before", "error_after", "decline"})


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One thing that goes wrong.

    Not executed, and nothing kept under the key: `close_before` hangs up without a word; `reset_before` resets the connection, as a
    server does that closes before it has read the request; `unauthorized` answers 401, `forbidden` 403, `missing` 404; `conflict`
    answers 409, as while the same key is in flight; `rate_limit` answers 429; `unavailable` answers 503, from before the API.

    While executing: `hold_before` waits, then executes and answers (the client may be long gone);
    `error_before` answers 500 although nothing was executed; `error_after` answers 500 although it was executed
    (Stripe keeps and replays both: "including 500 errors"); `decline` has the card's issuer decline (Stripe: 402, kept).

    After everything was executed and kept: `close_after` hangs up, `reset_after` resets the connection; `truncate` sends half of
    the body and hangs up; `garble` sends half of it as if it were the whole; `drip` sends the body a byte at a time;
    `hold_after` executes, and waits *before* the answer is kept, so that the key is in flight meanwhile.

    `pass` lets a request through, to place faults in a sequence.

    Attributes:
        kind: One of the above.
        vendor, method: Only these; "" = any.
        path: Only paths that begin so.
        after: So many matching requests pass first.
        times: How often it strikes; 0 = without end.
        every: It strikes each so-manieth of the matching requests after those.
        chance: Probability with which it then strikes, drawn from `seed` and the number of the match.
        seed: See there.
        seconds: `hold_*`: how long at most, if nobody releases it; `drip`: pause before each byte.
    """

    kind: Kind
    vendor: str = ""
    method: str = ""
    path: str = ""
    after: int = 0
    times: int = 1
    every: int = 1
    chance: float = 1.0
    seed: int = 0
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}; there are {', '.join(KINDS)}")
        if self.after < 0 or self.times < 0 or self.every < 1 or not 0 <= self.chance <= 1 or self.seconds < 0:
            raise ValueError(f"a number is out of its range in {self}")

    def concerns(self, vendor: str, request: Request, *, executes: bool) -> bool:
        """Say whether a request is one of those that this fault may strike."""
        return (
            self.vendor in {"", vendor}
            and self.method.upper() in {"", request.method}
            and request.path.startswith(self.path)
            and (executes or self.kind not in EXECUTING)
        )


@dataclass(slots=True)
class Scripted:
    """
    A fault in a script.

    Attributes:
        seen: How many matching requests came to it.
        struck: How many of them it struck.
    """

    fault: Fault
    seen: int = 0
    struck: int = 0

    @property
    def is_spent(self) -> bool:
        """Whether it will never strike again."""
        return 0 < self.fault.times <= self.struck

    def strikes(self) -> bool:
        """Count one matching request, and say whether it is struck."""
        fault, self.seen = self.fault, self.seen + 1
        place = self.seen - fault.after
        if place < 1 or place % fault.every or self.is_spent:
            return False
        # By the number of the match, not by order of threads: the same seed strikes the same matches.
        if random.Random(f"{fault.seed}/{self.seen}").random() >= fault.chance:  # noqa: S311 -- a repeatable test, not a secret
            return False
        self.struck += 1
        return True


@dataclass(slots=True)
class Script:
    """
    Faults in their order. Each request goes down the list, past what is spent or does not concern it, to the first that strikes;
    so several faults that strike once each are taken one after the other.
    """

    entries: list[Scripted] = field(default_factory=list[Scripted])

    def add(self, faults: Iterable[Fault]) -> None:
        """Append faults."""
        self.entries += [Scripted(fault) for fault in faults]

    def strike(self, vendor: str, request: Request, *, executes: bool) -> Fault | None:
        """Return what strikes this request, and count it; None (or a `pass`) leaves it alone."""
        for entry in self.entries:
            if not entry.is_spent and entry.fault.concerns(vendor, request, executes=executes) and entry.strikes():
                return entry.fault
        return None
