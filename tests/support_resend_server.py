"""The double's Resend behind the loopback server that keeps what arrived; what it does not know is answered as done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keyguard.testing.double import resend
from keyguard.testing.double.messages import Ids, Request, respond
from tests.support_json_server import Answer

if TYPE_CHECKING:
    from keyguard.testing.double.messages import Execution
    from tests.support_json_server import Arrived

SECRET = "re_12345"


@dataclass
class Resend:
    """
    What a team at Resend has sent.

    Attributes:
        executions: Everything that was executed, in order.
        lost: Hang up on the next send, after it was executed.
        now: The time at Resend, seconds since the epoch.
    """

    executions: list[Execution] = field(default_factory=list)
    lost: bool = False
    now: float = 1_795_600_000.0

    def __post_init__(self) -> None:
        self._double = resend.Resend(self.executions.append, Ids())

    @property
    def ids(self) -> set[str]:
        """The e-mails that were sent."""
        return {row.object for row in self.executions}

    @property
    def recipients(self) -> int:
        """Recipients of all e-mails that were not cancelled: the truth."""
        return sum({"charge": 1, "refund": -1}.get(row.kind, 0) for row in self.executions)

    def answer(self, arrived: Arrived) -> Answer:
        """Answer one request."""
        if arrived.headers.get("authorization") != f"Bearer {SECRET}":
            return Answer(403, {"statusCode": 403, "name": "invalid_api_key", "message": "API key is invalid"})
        if not arrived.path.startswith("/emails"):
            return Answer(200, {"id": "x1", "object": "list", "data": [], "has_more": False})
        found = respond(self._double, Request(arrived.method, arrived.path, arrived.headers, arrived.content), self.now)
        if self.lost and arrived.method == "POST":
            self.lost = False
            return Answer(0)
        return Answer(found.status, found.payload, dict(found.headers))
