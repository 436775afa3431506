"""What backends with a ledger share: the ledger, and this process's memory of open tickets."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Literal

from keyguard import context
from keyguard.errors import BackendError
from keyguard.model import Closing, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.context import Ticket
    from keyguard.ledgers import Ledger
    from keyguard.model import Child, Decision, Memory, Money, Order, Policy, Receipt, Usage, VaultKey

_logger = logging.getLogger("keyguard")
# Above this many open tickets, looking at each before every reserve would cost more than the reserve.
_SWEEP_ALWAYS = 64
_SWEEP_EVERY = 0.1
_KEYS_KEPT = 10_000


class LedgerBackend:
    """
    Keeps calls in a ledger.

    A hold whose ticket died without a confirmed close (an exception injected by an orchestrator, a ledger that
    was away for a moment) is closed at the next guarded call of this process: as it is known to have
    ended, else released if no attempt had begun, else doubt.
    """

    name = "ledger"

    def __init__(self, ledger: Ledger, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.ledger = ledger
        self.url = ledger.url
        self._monotonic = monotonic
        self._next_sweep = 0.0
        self._pid = os.getpid()
        self._open: dict[str, Ticket] = {}
        self._keys: dict[tuple[str, str], VaultKey] = {}

    def issue(self, policy: Policy, run_id: str | None, child: Child | None = None) -> tuple[VaultKey, tuple[str, ...]]:
        """Issue, or find again, a run's or a child's key."""
        key, warnings = self.ledger.issue(policy, run_id, child)
        self._remember(key)
        return key, warnings

    def find(
        self, *, token: str | None = None, key_id: str | None = None, run_id: str | None = None, fresh: bool = False
    ) -> VaultKey | None:
        """Return a key by one of its names; what this process remembers is enough, because every reserve checks its version."""
        kind, name = ("key_id", key_id) if key_id is not None else ("token", token) if token is not None else ("run_id", run_id)
        if name is None:
            raise ValueError("find() needs one of token, key_id and run_id")
        known = None if fresh else self._keys.get((kind, name))
        if known is not None:
            return known
        context.check_may_block()
        key = self.ledger.key(**{kind: name})
        if key is not None:
            self._remember(key)
        return key

    def _remember(self, key: VaultKey) -> None:
        if len(self._keys) > _KEYS_KEPT:
            # A long-lived worker meets many runs; what is forgotten is read again from the ledger.
            self._keys.clear()
        self._keys["token", key.token] = key
        self._keys["key_id", key.key_id] = key
        if key.run_id is not None:
            self._keys["run_id", key.run_id] = key

    def revoke(
        self,
        *,
        key_id: str | None = None,
        run_id: str | None = None,
        policy: str | None = None,
        state: Literal["revoked", "closed"] = "revoked",
        by: str = "",
    ) -> int:
        """Revoke keys; when it returns, no new reservation of theirs commits in any process."""
        count = self.ledger.revoke(key_id=key_id, run_id=run_id, policy=policy, state=state, by=by)
        self._keys.clear()
        return count

    def raise_cap(self, run_id: str, cap: Money, *, by: str) -> VaultKey:
        """Set a run's cap by a human's decision."""
        key = self.ledger.raise_cap(run_id, cap, by=by)
        self._remember(key)
        return key

    def reserve(self, order: Order, ticket: Ticket) -> Decision:
        """Hold money for a ticket; holds of dead tickets are closed first, so that they cause no false refusal."""
        # Asked here too: with no other call open there is nothing to look at, and a call is one of a hundred small costs.
        if self._open or self._pid != os.getpid():
            self.sweep()
        self._open[order.reservation_id] = ticket
        decision = self.ledger.reserve(order)
        if decision.granted:
            # Again: a coroutine that was closed meanwhile is dead, and a sweep may have closed its hold before it was there.
            self._open[order.reservation_id] = ticket
        else:
            self._open.pop(order.reservation_id, None)
        return decision

    def close(self, closing: Closing) -> Receipt:
        """Close a hold. An id of another process (a fork's parent) is none of ours, and is left to it."""
        if self._pid != os.getpid():
            self._forget_parent()
        receipt = self.ledger.close(closing)
        self._open.pop(closing.reservation_id, None)
        return receipt

    def refuse(self, order: Order, reason: str) -> None:
        """Audit a refusal."""
        self.ledger.refuse(order, reason)

    def recall(self, scope: str, vendor: str, account: str, object_id: str) -> Memory | None:
        """Return what the scope's ledger remembers of a vendor object."""
        return self.ledger.recall(scope, vendor, account, object_id)

    def usage(self, scope: str) -> Usage | None:
        """Return a budget's figures."""
        self.sweep(always=True)
        return self.ledger.usage(scope)

    def shut(self) -> None:
        """Close what dead tickets left, and the ledger's handles."""
        self.sweep(always=True)
        self.ledger.shut()

    def sweep(self, *, always: bool = False) -> None:
        """Close the holds of this process whose ticket is dead."""
        if self._pid != os.getpid():
            self._forget_parent()
        if not self._open:
            return
        if not (always or len(self._open) <= _SWEEP_ALWAYS or self._monotonic() >= self._next_sweep):
            return
        self._next_sweep = self._monotonic() + _SWEEP_EVERY
        # A copy, made in one step: other threads open and close tickets while this one looks at theirs.
        dead = [(name, ticket) for name, ticket in self._open.copy().items() if ticket.is_dead]
        for reservation_id, ticket in dead:
            if not self._close_dead(reservation_id, ticket):
                # A ledger that is away lets each wait for as long as the first.
                break

    def _close_dead(self, reservation_id: str, ticket: Ticket) -> bool:
        closing = ticket.closing
        if closing is None or closing.reservation_id != reservation_id:
            sent = ticket.begun > 0
            closing = Closing(reservation_id, Outcome("doubt" if sent else "released", source="local"), unsent=not sent)
        try:
            self.close(closing)
        except BackendError as error:
            _logger.warning("a hold of a call that ended could not be closed yet, it stays counted: %s", error)
            return False
        ended = closing.outcome.ending
        _logger.warning("closed reservation %s of %r, whose call ended without an answer: %s", reservation_id, ticket, ended)
        return True

    def _forget_parent(self) -> None:
        # A forked child never settles its parent's tickets.
        self._pid, self._open = os.getpid(), {}
