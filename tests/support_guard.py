"""A world for guard tests: a real in-memory ledger, the real Stripe plug, and a vendor that keeps its own truth."""

from __future__ import annotations

import itertools
import json
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keyguard import context
from keyguard.backends.local import LocalBackend
from keyguard.drivers import adrive, drive
from keyguard.guard import Flow, guarded
from keyguard.ledgers import open_ledger
from keyguard.model import Attempt, Call, Policy, Reply, VaultKey
from keyguard.vendors import vendor_named

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.context import Ticket

CENT = 10_000
NOW = 1_795_000_000.0


class Injected(Exception):
    """What a test injects: never raised by anything else."""


class Lost(Exception):
    """The vendor's answer did not come."""


def intent(amount_cents: int = 2000, status: str = "succeeded", object_id: str = "pi_1") -> bytes:
    """Return a PaymentIntent as Stripe would answer it."""
    received = amount_cents if status == "succeeded" else 0
    body = {
        "id": object_id, "object": "payment_intent", "amount": amount_cents, "amount_received": received,
        "amount_capturable": amount_cents if status == "requires_capture" else 0, "currency": "usd", "status": status,
        "latest_charge": None,
    }  # fmt: skip
    return json.dumps(body).encode()


def create_call(amount_cents: int = 2000, **extra: str) -> Call:
    """Return a PaymentIntent create, confirmed at once."""
    body = {"amount": str(amount_cents), "currency": "usd", "confirm": "true", **extra}
    return Call("stripe", "POST", "https", "api.stripe.com", "/v1/payment_intents", body=tuple(body.items()), idempotency_key="k")


@dataclass
class World:
    """
    One ledger, one key, one vendor.

    Attributes:
        truth: Micro-USD the vendor really charged.
        sent: Requests that reached it.
    """

    policy: dict[str, Any] = field(default_factory=lambda: {"run_usd_cap": 100})
    truth: int = 0
    sent: int = 0
    now: float = NOW

    def __post_init__(self) -> None:
        self._ids = (f"r{n:05d}" for n in itertools.count())
        self.ledger = open_ledger("sqlite://", durability="process", clock=lambda: self.now)
        self.backend = LocalBackend(self.ledger)
        self.key, _ = self.backend.issue(Policy(name="p", **self.policy), "run-1")

    def find(self, ticket: Ticket, fresh: bool) -> VaultKey:
        """Answer Find as an installation would."""
        ticket.backend = self.backend
        ticket.key = self.backend.find(key_id=self.key.key_id, fresh=fresh)
        assert ticket.key is not None
        return ticket.key

    def flow(self, call: Call) -> tuple[Ticket, Flow]:
        """Open a ticket and its flow."""
        ticket = context.Ticket(call)
        flow = guarded(ticket, vendor_named(call.vendor), self.find, new_id=lambda: next(self._ids))
        ticket.flow = weakref.ref(flow)
        return ticket, flow

    def charges(self, reply: Reply | None = None, error: BaseException | None = None) -> Callable[[Ticket], Any]:
        """Return a send: the vendor charges what was asked, then answers, or the answer is lost."""

        def send(ticket: Ticket) -> Any:
            with ticket.attempt() as ended:
                self.sent += 1
                if error is None or isinstance(error, Lost):
                    self.truth += int(dict(ticket.call.body or ()).get("amount", "0")) * CENT
                if error is not None:
                    ended(Attempt(error=type(error).__name__, unsent=False))
                    raise error
                answer = reply or Reply(200, {}, intent(int(dict(ticket.call.body or ()).get("amount", "0")), object_id=f"pi_{self.sent}"))
                ended(Attempt(reply=answer))
                return answer

        return send

    def call(self, send: Callable[[Ticket], Any] | None = None, call: Call | None = None, ask: Any = None) -> Any:
        """Guard one blocking call."""
        ticket, flow = self.flow(call or create_call())
        with context.under(ticket):
            return drive(flow, ticket, send or self.charges(), ask)

    async def acall(self, send: Callable[[Ticket], Any] | None = None, call: Call | None = None) -> Any:
        """Guard one awaited call."""
        ticket, flow = self.flow(call or create_call())
        blocking = send or self.charges()

        async def asend(opened: Ticket) -> Any:
            return blocking(opened)

        with context.under(ticket):
            return await adrive(flow, ticket, asend, None)

    @property
    def counted(self) -> tuple[int, int, int]:
        """The run's spent, held and doubt in micro-USD."""
        usage = self.backend.usage("run:run-1")
        assert usage is not None
        return usage.spent, usage.held, usage.doubt
