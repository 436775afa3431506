"""What goes over the simulated wire: requests, answers, and the objects that they are about. Values only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

CENT = 10_000  # micro-USD
Status = Literal["requires_confirmation", "requires_action", "requires_payment_method", "requires_capture", "succeeded", "canceled"]


@dataclass(slots=True)
class Intent:
    """
    One PaymentIntent as the vendor has it; amounts in micro-USD.

    Attributes:
        received: What was really charged.
        is_loose: Its very creation was declined: nobody but the vendor knows its id.
        raised: What somebody elsewhere has added to its amount, since it was last set from here.
        version: Grows with each change, so that an older answer can be told from a newer one.
    """

    id: str
    account: str
    amount: int
    is_manual: bool
    received: int = 0
    refunded: int = 0
    status: Status = "requires_confirmation"
    is_loose: bool = False
    version: int = 0
    raised: int = 0

    @property
    def open(self) -> int:
        """What it may still cost."""
        return 0 if self.status in {"succeeded", "canceled"} else self.amount - self.received


@dataclass(slots=True)
class Request:
    """
    One request on its way: `wire`, `running`, or `done`.

    Attributes:
        by: Whoever must know of its effects (the judge's record); opaque here.
        answer: What the vendor answered, once it has.
        luck: How it will go: drawn when it is made, so that its path does not change another's.
    """

    number: int
    method: str
    path: str
    params: tuple[tuple[str, str], ...]
    key: str | None
    account: str
    by: Any
    luck: float = 0.0
    state: Literal["wire", "running", "done"] = "wire"
    answer: Answer | None = None
    client: Any = None

    @property
    def words(self) -> list[str]:
        """The path's parts behind the version."""
        return self.path.split("/")[2:]


@dataclass(frozen=True, slots=True)
class Seen:
    """What an answer shows of an intent, and how old that is."""

    intent: Intent
    spent: int
    open: int
    version: int


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One answer.

    Attributes:
        seen: The intent in its body, if any.
        refund: Micro-USD that it says were given back, by the refund `refund_id`.
        is_replay: It is the stored answer of an earlier request.
    """

    status: int
    body: bytes
    seen: Seen | None = None
    refund: int = 0
    refund_id: str = ""
    is_replay: bool = False
    headers: dict[str, str] = field(default_factory=dict[str, str])


def shown(intent: Intent) -> Answer:
    """Return an intent as an answer shows it now."""
    body = {
        "id": intent.id, "object": "payment_intent", "amount": intent.amount // CENT, "amount_received": intent.received // CENT,
        "amount_capturable": intent.amount // CENT if intent.status == "requires_capture" else 0, "currency": "usd",
        "status": intent.status, "latest_charge": f"ch_{intent.id[3:]}" if intent.status in {"requires_capture", "succeeded"} else None,
    }  # fmt: skip
    return Answer(200, json.dumps(body).encode(), Seen(intent, intent.received, intent.open, intent.version))


def failure(status: int, code: str) -> Answer:
    """Return an error as an answer says it."""
    return Answer(status, json.dumps({"error": {"code": code}}).encode())
