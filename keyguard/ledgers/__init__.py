"""The ledger contract, and the look-up by URL. Plugs are the other files of this folder.

A ledger counts: it holds, fixes, frees and remembers money, one atomic transaction an operation.
It decides nothing but arithmetic ("does it fit") and liveness ("is this key still good"); which
budgets a call touches is `keyguard.policy`'s business.

Every reservation has three parts, all in micro-USD: `spent`, `held`, `doubt`. A budget's figures are
the sums over its reservations, and `spent + held + doubt + new <= cap` is checked for every leg of
an order inside the transaction that books it. Budgets are rows (scope, window); a reservation keeps
the rows it was booked on, so whatever comes later posts to the windows of the reservation.

The protocol, in order, for one call:

1. `reserve(order)`: all legs or none. When it returns granted, the hold survives what the chosen
   durability promises. The answer `stale` means that the key's version moved: read the key, redo.
2. the request is sent.
3. `close(closing)`: `settled` books the cost, `released` frees what this call itself reserved (an
   adopted hold goes back to being an open intent), `doubt` keeps all of it counted. A second close
   of the same reservation may only add knowledge: doubt → settled/released. Settled or released again
   is a no-op that returns the receipt. An unknown id returns `found=False`.

What a process reserved and did not close before it ended, however it ended, is in doubt: `usage` and `runs`
show it so, and so does whatever the next process reserves. A process that lives may have it held for ever.

Children: an order may have the legs of several run budgets, a child's and those that it lies in (keyguard.policy.legs). Its objects and
charges are the root run's (`order.scope`), so that whoever goes on with them finds them. Money that moves on, because an open hold is
adopted or a charge is moved to another day, stays on each child's budget that it was on, and is booked on the order's own besides.

Adoption (order.quote.adopts): the open hold of (scope, vendor, account, object_id), if there is
one, moves from its own reservation and windows to the new one, whose amount becomes
max(quote.amount, adopted); the whole must fit the new windows, else nothing moves.

Identity (order.identity): requests of one logical charge have one reservation, and are attempts of it (`keyguard.identity.verdict`
says which). The first one holds. A further one within the vendor's window holds nothing: it is granted under the same `generation`,
hence the same Idempotency-Key, and closed by its own id. The reservation is settled by the first attempt that is, and released only
when no attempt is open or in doubt, or by a final answer. Once it is released a further request holds anew, as the next generation:
one transaction compares and advances, so that two processes of a run come to the same. Of a number that another unit of the
same execution has taken, the ledger takes the next free one (`decision.n`).

Doubt: `doubts` lists, `resolve` ends one by what a vendor or a human said. Truth that comes after a release, or a dearer truth
after a settlement, is booked all the same, as overrun.

Facts (outcome.facts): totals of vendor objects. The closing reservation books spent = fact.spent - what
was known of the object before, held = fact.held. A fact about an object whose open hold belongs
to another reservation of the same scope updates that reservation. Facts about objects this scope neither
made nor adopted change nothing.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

from keyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from keyguard.model import Child, Closing, Decision, Doubt, Memory, Money, Order, Outcome, Policy, Receipt, Usage, VaultKey
    from keyguard.remote import RemoteKey

Durability = Literal["power", "process"]
Question = Literal["doubt", "open", "estimate", "presumed"]


@runtime_checkable
class Ledger(Protocol):
    """What every ledger plug does. All methods are thread-safe, blocking, and raise `LedgerUnavailable`."""

    url: str

    # -- keys -------------------------------------------------------------------------------------
    def issue(self, policy: Policy, run_id: str | None, child: Child | None = None) -> tuple[VaultKey, tuple[str, ...]]:
        """
        Return the run's key, made now or found again, and warnings.

        For a run that has a key: equal arguments change nothing; narrower ones narrow the policy in
        force; wider ones are ignored with a warning. A human's raise stays in force. `run_id=None`
        always makes a new key with a budget of its own.

        With a `child`, whose `run_id` is None, it is the child's: made within the parent's under a name of the ledger's own (`run_id` of
        the key), or found again in a later try of the same child run. Without arguments, or with those of an outer install, it is
        the innermost outer key itself. A child ends with its parent, by revocation, closing or expiry, and not the other way about.

        Raises:
            ConfigurationError: no such parent; a run that is called as a child's budget is.
        """
        ...

    def key(
        self, *, token: str | None = None, key_id: str | None = None, run_id: str | None = None, minted: str | None = None
    ) -> VaultKey | None:
        """
        Return the key by exactly one of its names; None where there is none (or the token is forged).

        `token` is the key's own, which this ledger can always say again; `minted`, one that `mint` made.
        """
        ...

    def mint(self, key_id: str, *, by: str) -> str:
        """
        Make a further token of a key, for a process that does not have the ledger: random, kept as its hash alone, so shown once.

        `by` is who asked for it, for the audit.

        Raises:
            ConfigurationError: no such key.
        """
        ...

    def keep_remote(self, key_id: str, remote: RemoteKey, *, instead: str = "") -> RemoteKey:
        """
        Keep the vault key of a proxy through which the calls of a key to one vendor go, in the place of the one with the token `instead`.

        Returns what is kept now: where another process was first, its key. The token is in no row of the log.

        Raises:
            ConfigurationError: no such key.
        """
        ...

    def remote_keys(self, *, key_id: str | None = None, run_id: str | None = None, policy: str | None = None) -> list[RemoteKey]:
        """Return the vault keys of proxies that a key, a run's key, or every key of a policy has."""
        ...

    def revoke(
        self,
        *,
        key_id: str | None = None,
        run_id: str | None = None,
        policy: str | None = None,
        label: str | None = None,
        state: Literal["revoked", "closed"] = "revoked",
        by: str = "",
    ) -> int:
        """
        Revoke (or close) keys by exactly one of these; durable when it returns. `label` is their whole `agent_run_label`.

        Returns how many keys are not active because of the call's target.
        """
        ...

    def raise_cap(self, run_id: str | None, cap: Money, *, by: str, key_id: str | None = None) -> VaultKey:
        """
        Set the cap of a run, or of a key, by a human's decision, audited; renews `expires_in`. Also lowers.

        Raises:
            ConfigurationError: no such run, or key.
        """
        ...

    # -- money ------------------------------------------------------------------------------------
    def reserve(self, order: Order) -> Decision:
        """Hold the order's money against all its legs, or none; durable when it returns."""
        ...

    def close(self, closing: Closing) -> Receipt:
        """End a reservation; a second close of the same one changes nothing."""
        ...

    def refuse(self, order: Order, reason: str) -> None:
        """Audit a refusal that was decided before the ledger was asked; at most one row a second, key and reason, the rest counted."""
        ...

    def recall(self, scope: str, vendor: str, account: str, object_id: str) -> Memory | None:
        """Say what the scope remembers of a vendor object, by any of its ids."""
        ...

    def resolve(self, reservation_id: str, outcome: Outcome, *, by: str, reason: str, attempts: int | None = None) -> Receipt:
        """
        End a reservation in doubt from outside, audited with who said so and why; `settled` or `released`.

        What is settled already, or was released, only takes more cost than it has (late truth); an open call is left to its process.
        An open intent learns from the facts as from a read, and what was settled at an estimate takes the vendor's price, also a lower one.
        An object that another reservation has bought settles nothing: then nothing changes, and the receipt says `replayed`.
        `attempts` is how many there were when the vendor was asked: its answer says nothing about one that was made since.

        Raises:
            ConfigurationError: no such reservation, one whose call is still open or that has had another attempt, or a doubt as the
                outcome.
        """
        ...

    # -- reading ----------------------------------------------------------------------------------
    def doubts(self, scope: str | None = None, *, kind: Question = "doubt") -> list[Doubt]:
        """
        Return what the vendor can be asked about, oldest first; also what processes left that have ended since.

        `doubt`: nobody knows whether it was executed. `open`: money held for an object whose last state is not final. `estimate`: settled
        at a price of our own. `presumed`: released within the last two days because the vendor did not show it. Of `open` and `estimate`
        `object_id` is the object, and `amount` what is held, or spent, now.
        """
        ...

    def claimed(self, vendor: str, account: str, object_ids: Collection[str]) -> frozenset[str]:
        """Return which of these vendor objects, by any of their names, a reservation of any scope has bought."""
        ...

    def usage(self, scope: str) -> Usage | None:
        """Return a budget's figures (`run:…`, a child's too, `key:…`, or `policy:<name>` for today's); None where nothing is known."""
        ...

    def runs(self, limit: int = 50, *, run_id: str | None = None) -> list[tuple[VaultKey, Usage]]:
        """Return the latest runs' keys with their figures, newest first, behind each those of its children; or of one run, or child."""
        ...

    def entries(self, scope: str | None = None, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the audit log behind the row `after`, oldest first, as plain rows; they fold into every balance."""
        ...

    def verify(self) -> list[str]:
        """Refold the log and compare with the balances, the chain and the caps; returns what is wrong."""
        ...

    def now(self) -> float:
        """The ledger's clock: POSIX seconds, never going back."""
        ...

    def shut(self) -> None:
        """Release file handles and connections; the ledger opens again on its next use."""
        ...


def open_ledger(url: str, *, durability: Durability = "power", clock: Callable[[], float] | None = None) -> Ledger:
    """
    Open the ledger that a URL names: the scheme is the plug's file name, or an entry point in `keyguard.ledgers`.

    Raises:
        ConfigurationError: unknown scheme; lists the known ones.
        MissingExtra: the plug's library is not installed.
        LedgerUnavailable: the ledger cannot be opened.
    """
    scheme = urlsplit(url).scheme.partition("+")[0]
    known = {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}
    if scheme in known:
        opener = importlib.import_module(f"{__name__}.{scheme}").open_url
    else:
        # Reading every installed distribution's entry points takes tens of milliseconds: only for others' plugs.
        plugs = {point.name: point for point in entry_points(group="keyguard.ledgers")}
        if scheme not in plugs:
            raise ConfigurationError(f"unknown ledger URL scheme {scheme!r} in {url!r}; known: {', '.join(sorted(known | set(plugs)))}")
        opener = plugs[scheme].load()
    ledger: Ledger = opener(url, durability=durability, clock=clock)
    return ledger
