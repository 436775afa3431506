"""One Stripe account: its objects, its events, and the one place from which its executions are recorded. No HTTP."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keyguard.testing.double import _stripe_forms as forms
from keyguard.testing.double.messages import Execution

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.testing.double.messages import Ids

_VERSION = "2026-05-27.dahlia"


@dataclass(frozen=True, slots=True)
class Moment:
    """
    The circumstances of one execution.

    Attributes:
        now: Seconds since the epoch.
        operation: As keyguard names it.
        request_id, key: Stripe's id of the request, and its idempotency key ("" without).
        number: The request's place among all that arrived.
        declined: The issuer declines whatever is tried.
        version: The API version that was asked for.
    """

    now: float
    operation: str
    request_id: str
    key: str
    number: int
    declined: bool = False
    version: str = ""


@dataclass(slots=True)
class Books:
    """
    What an account has. Objects by id, in order of creation; events in order of occurrence.

    Attributes:
        account: `acct_…`.
        ids: Where ids come from.
        record: Takes each execution; if it raises, nothing happened.
    """

    account: str
    ids: Ids
    record: Callable[[Execution], None]
    payment_intents: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    charges: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    refunds: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    customers: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    events: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])

    def new_id(self, prefix: str) -> str:
        """Return an id like Stripe's."""
        return f"{prefix}_{self.ids.hexadecimal()}"

    def found(self, kind: str, object_id: str) -> dict[str, Any]:
        """Return an object by its kind (`payment_intent`) and id, or refuse."""
        found: dict[str, Any] | None = getattr(self, f"{kind}s").get(object_id)
        if found is None:
            raise forms.missing(kind, object_id)
        return found

    def executed(self, moment: Moment, kind: str, thing: dict[str, Any], amount: int, parent: str | None = None) -> None:
        """Record what is about to happen to an object; `amount` in minor units, 0 where no money moves."""
        currency = thing.get("currency") or "usd"
        self.record(
            Execution(
                "stripe", self.account, moment.operation, kind, thing["id"], forms.micros(amount, currency), currency, parent or "",
                moment.key, thing.get("customer") or "", moment.number, moment.now,
            )
        )  # fmt: skip

    def happened(self, moment: Moment, kind: str, thing: dict[str, Any]) -> None:
        """Add an event, with the object as it is now."""
        event_id = self.new_id("evt")
        self.events[event_id] = {
            "id": event_id, "object": "event", "api_version": moment.version or _VERSION, "created": int(moment.now),
            "data": {"object": copy.deepcopy(thing)}, "livemode": False, "pending_webhooks": 0,
            "request": {"id": moment.request_id, "idempotency_key": moment.key or None}, "type": kind,
        }  # fmt: skip
