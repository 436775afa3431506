"""The backend contract, and the look-up by URL. Plugs are the other files of this folder.

A backend answers for money: the embedded local enforcer asks a ledger on this machine or network, a
remote proxy asks somebody else. Its methods block; the async driver runs them in worker threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from keyguard.context import Ticket
    from keyguard.model import Call, Child, Closing, Decision, Memory, Money, Order, Policy, Receipt, Usage, VaultKey
    from keyguard.routing import Route


class Backend(Protocol):
    """Who decides. Every method may raise `BackendError`, and then nothing was decided."""

    name: str
    url: str

    def issue(self, policy: Policy, run_id: str | None, child: Child | None = None) -> tuple[VaultKey, tuple[str, ...]]:
        """Return the run's, or a child's, key (made now or found again) and warnings; see `Ledger.issue`."""
        ...

    def find(
        self, *, token: str | None = None, key_id: str | None = None, run_id: str | None = None, fresh: bool = False
    ) -> VaultKey | None:
        """Return a key by one of its names; `fresh` skips what this process remembers. Asks `context.check_may_block` before any I/O."""
        ...

    def revoke(
        self,
        *,
        key_id: str | None = None,
        run_id: str | None = None,
        policy: str | None = None,
        state: Literal["revoked", "closed"] = "revoked",
        by: str = "",
    ) -> int:
        """Revoke (or close) keys; returns how many are not active because of the call's target."""
        ...

    def raise_cap(self, run_id: str, cap: Money, *, by: str) -> VaultKey:
        """Set a run's cap by a human's decision; also lowers."""
        ...

    def reserve(self, order: Order, ticket: Ticket) -> Decision:
        """Hold the order's money; the backend remembers the ticket until the close, so that a hold whose ticket died becomes doubt."""
        ...

    def close(self, closing: Closing) -> Receipt:
        """End a reservation."""
        ...

    def refuse(self, order: Order, reason: str) -> None:
        """Audit a refusal that was decided before the ledger was asked."""
        ...

    def recall(self, scope: str, vendor: str, account: str, object_id: str) -> Memory | None:
        """Say what the run remembers of a vendor object."""
        ...

    def usage(self, scope: str) -> Usage | None:
        """Return a budget's figures; None where the scope is unknown."""
        ...

    def route(self, key: VaultKey, call: Call, *, is_theirs: bool) -> Route | None:
        """
        Say how a call of a key goes to its vendor: None = straight there, else through a proxy.

        Args:
            key: Whose call it is.
            call: As its seam read it.
            is_theirs: It carries a vault key of the proxy's own, which stays.

        Raises:
            EndpointNotAllowed: it is for neither the vendor's own host nor the proxy. ProxyUnavailable: nobody issues a key now.
        """
        ...

    def shut(self) -> None:
        """Close what the backend holds open; it can be opened again."""
        ...
