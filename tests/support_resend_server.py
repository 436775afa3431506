"""A Resend of memory for the loopback server: sends, batches, schedules and cancels, with keys replayed as Resend documents it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support_json_server import Answer

if TYPE_CHECKING:
    from tests.support_json_server import Arrived


@dataclass
class Resend:
    """
    What a team at Resend has sent.

    Attributes:
        mails: By id: each e-mail that was accepted, with its `last_event`.
        lost: Hang up on the next send, after it was executed.
    """

    mails: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: bool = False
    _replays: dict[str, tuple[Any, Answer]] = field(default_factory=dict)
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def recipients(self) -> int:
        """Recipients of all e-mails that were not cancelled: the truth."""
        return sum(_count(mail) for mail in self.mails.values() if mail["last_event"] != "canceled")

    def answer(self, arrived: Arrived) -> Answer:
        """Answer one request."""
        if arrived.headers.get("authorization") != "Bearer re_12345":
            return Answer(403, {"statusCode": 403, "name": "invalid_api_key", "message": "API key is invalid"})
        path = arrived.path.partition("?")[0]
        if arrived.method == "POST" and path in {"/emails", "/emails/batch"}:
            return self._once(arrived)
        if arrived.method == "POST" and path.endswith("/cancel"):
            self.mails[path.split("/")[2]]["last_event"] = "canceled"
            return Answer(200, {"object": "email", "id": path.split("/")[2]})
        if arrived.method == "GET" and path.startswith("/emails/"):
            return Answer(200, self.mails[path.split("/")[2]])
        return Answer(200, {"id": "x1", "object": "list", "data": [], "has_more": False})

    def _once(self, arrived: Arrived) -> Answer:
        key = arrived.headers.get("idempotency-key", "")
        if key in self._replays:
            before, answer = self._replays[key]
            return answer if before == arrived.document else Answer(409, {"statusCode": 409, "name": "invalid_idempotent_request"})
        answer = self._sent(arrived)
        if key and answer.status == 200:
            self._replays[key] = (arrived.document, answer)
        if self.lost:
            self.lost = False
            return Answer(0)
        return answer

    def _sent(self, arrived: Arrived) -> Answer:
        if arrived.path == "/emails":
            return Answer(200, {"id": self._accept(arrived.document)}) if _is_good(arrived.document) else _refused()
        bad = [n for n, mail in enumerate(arrived.document) if not _is_good(mail)]
        is_permissive = arrived.headers.get("x-batch-validation") == "permissive"
        if bad and not is_permissive:
            return _refused()
        body: dict[str, Any] = {"data": [{"id": self._accept(mail)} for mail in arrived.document if _is_good(mail)]}
        if is_permissive:
            body["errors"] = [{"index": n, "message": "Invalid `to` field"} for n in bad]
        return Answer(200, body)

    def _accept(self, mail: dict[str, Any]) -> str:
        mail_id = f"00000000-0000-4000-8000-{next(self._ids):012d}"
        self.mails[mail_id] = {
            **mail,
            "id": mail_id,
            "last_event": "scheduled" if mail.get("scheduled_at") else "sent",
        }
        return mail_id


def _refused() -> Answer:
    return Answer(422, {"statusCode": 422, "name": "validation_error", "message": "Invalid `to` field"})


def _is_good(mail: dict[str, Any]) -> bool:
    return _count(mail) > 0 and "nobody" not in str(mail.get("to"))


def _count(mail: dict[str, Any]) -> int:
    # Plain lists and texts of one address, which is all that the tests send here.
    found = [mail.get(name) or [] for name in ("to", "cc", "bcc")]
    return sum(1 if isinstance(value, str) else len(value) for value in found)
