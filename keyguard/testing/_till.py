"""Short words for orders and closings on one run's key; used by the contract suite and by its worker processes, so without pytest."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from keyguard import policy as rules
from keyguard.model import Child, Closing, Fact, Order, Outcome, Policy, Quote, Subflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.ledgers import Ledger
    from keyguard.model import Decision, Memory, Money, Receipt, Usage, VaultKey

NAME = "contract-flow"


def limits(name: str = NAME, **fields: Any) -> Policy:
    """Make a policy from amounts in micro-USD, so that tests can count in single micros."""
    return Policy.restored({"name": name, **fields})


@dataclass(slots=True)
class Till:
    """
    One run's key on one handle, with short words for orders and closings. Amounts are micro-USD.

    Attributes:
        ledger: The handle.
        run_id: The run that pays.
        prefix: Makes reservation ids that differ between tills.
    """

    ledger: Ledger
    run_id: str
    prefix: str = ""
    account: str = ""
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def key(self) -> VaultKey:
        """The key as the ledger has it now."""
        found = self.ledger.key(run_id=self.run_id)

        assert found is not None
        return found

    @property
    def usage(self) -> Usage:
        """The run's, or the child's, figures now."""
        return figures(self.ledger, f"run:{self.run_id}")

    def order(self, quote: Quote, *, enforce: bool = True, key: VaultKey | None = None, method: str = "POST") -> Order:
        """Build the order of one call, under the key as it is now unless another is given; `GET` makes it a read."""
        key = key or self.key
        return Order(
            f"{self.prefix}{self.run_id}-{next(self.numbers)}", key.key_id, key.version, key.scope, "stripe", self.account,
            "things.create", method, quote, rules.legs(key, quote), enforce=enforce,
            budgets=() if key.parent is None else tuple(one.budget for one in key.chain),
        )  # fmt: skip

    def ask(self, amount: Money, *, object_id: str | None = None, pot: Literal["run", "refund"] = "run") -> Decision:
        """Reserve and return the answer; with an object, adopt its open hold (a refund adopts nothing)."""
        return self.ledger.reserve(self.order(Quote(amount, pot, object_id, adopts=object_id is not None and pot == "run")))

    def hold(self, amount: Money, *, object_id: str | None = None, pot: Literal["run", "refund"] = "run") -> str:
        """Reserve what must be granted; returns the reservation's id."""
        order = self.order(Quote(amount, pot, object_id, adopts=object_id is not None and pot == "run"))
        decision = self.ledger.reserve(order)

        assert decision.granted, decision
        return order.reservation_id

    def settle(self, reservation_id: str, cost: Money = 0, *facts: Fact, refund_of: str | None = None) -> Receipt:
        """Close as settled."""
        return self.ledger.close(Closing(reservation_id, Outcome("settled", cost, facts, refund_of)))

    def release(self, reservation_id: str, *, unsent: bool = False) -> Receipt:
        """Close as released."""
        return self.ledger.close(Closing(reservation_id, Outcome("released"), unsent=unsent))

    def doubt(self, reservation_id: str) -> Receipt:
        """Close as doubt."""
        return self.ledger.close(Closing(reservation_id, Outcome("doubt")))

    def open_intent(self, object_id: str, amount: Money) -> str:
        """Make a call that leaves an open hold on a vendor object; returns its reservation's id."""
        reservation_id = self.hold(amount)
        self.settle(reservation_id, 0, Fact(object_id, 0, amount, amount, status="requires_confirmation"))
        return reservation_id

    def read(self, *facts: Fact) -> Receipt:
        """Make a free read whose reply says something about objects."""
        order = self.order(Quote(0), method="GET")

        assert self.ledger.reserve(order).granted
        return self.settle(order.reservation_id, 0, *facts)

    def charge(self, object_id: str, amount: Money, *aliases: str) -> str:
        """Make a call that charges at once."""
        reservation_id = self.hold(amount)
        self.settle(reservation_id, 0, Fact(object_id, amount, 0, amount, status="succeeded", aliases=aliases))
        return reservation_id

    def recall(self, object_id: str) -> Memory | None:
        """Ask what the run's ledger remembers of an object."""
        return self.ledger.recall(self.key.scope, "stripe", self.account, object_id)


def figures(ledger: Ledger, scope: str) -> Usage:
    """Return the figures of a scope that must be known."""
    usage = ledger.usage(scope)

    assert usage is not None, scope
    return usage


def parts(usage: Usage | Receipt) -> tuple[int, int, int]:
    """Return (spent, held, doubt)."""
    return usage.spent, usage.held, usage.doubt


def today(ledger: Ledger, name: str = NAME) -> tuple[int, int, int]:
    """Return (spent, held, doubt) of today's day budget; zeros where nothing was booked yet."""
    usage = ledger.usage(f"policy:{name}")
    return parts(usage) if usage is not None else (0, 0, 0)


def open_till(ledger: Ledger, run_id: str = "run-1", **fields: Any) -> Till:
    """Issue a key to a run under limits in micro-USD."""
    ledger.issue(limits(**fields), run_id)
    return Till(ledger, run_id)


def subflow(run: str = "try-1", name: str = "mails", **more: str) -> Subflow:
    """Name a child run, called out of a flow of its own unless told otherwise."""
    return Subflow(**{"name": name, "parameters": "p", "run": run, "caller": "caller", "entry": "e1", "execution": "x1", **more})


def open_child(parent: Till, asked: Subflow | None = None, **fields: Any) -> Till:
    """Issue a child's key within a till's budget, under limits in micro-USD."""
    policy = limits(**{"name": "child", **fields})
    key, _ = parent.ledger.issue(policy, None, Child(parent.key.key_id, asked or subflow()))

    assert key.run_id is not None
    return Till(parent.ledger, key.run_id, parent.prefix)


def folded(ledger: Ledger, scope: str) -> tuple[int, int, int]:
    """Return (spent, held, doubt) of a scope from the log alone: a reservation is (`hold`) where its last row left it."""
    last = {row["hold"]: row for row in ledger.entries(scope) if row["hold"] is not None}
    spent, held, doubt = (sum(row[part] for row in last.values()) for part in ("spent", "held", "doubt"))
    return spent, held, doubt
