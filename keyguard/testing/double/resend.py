"""
Resend's e-mails: sends and batches with keys of 24 hours, reads, lists, cancelled schedules. Pure; see `messages.Vendor`.

Sources: resend.com/docs "Idempotency Keys", "List Sent Emails", "Errors" (read 2026-11). It keeps what was sent: "we check if an
email with the same idempotency key has already been sent in the last 24 hours"; a refusal is not kept.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from keyguard.testing.double.keys import DAY, Keys
from keyguard.testing.double.messages import Answer, Execution, Work, answered, undeclined

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.testing.double.messages import Ids, Request

_UNIT = 900  # micro-USD a recipient: overage of $0.90 per 1,000
_MOST_RECIPIENTS, _MOST_MAILS = 50, 100
_LONGEST_KEY = 256
_LIST, _LARGEST_LIST = 20, 100
_OPERATIONS = {"/emails": "emails.send", "/emails/batch": "emails.batch"}
_FAILURES = {
    401: ("missing_api_key", "Missing API Key"),
    403: ("invalid_api_key", "API key is invalid"),
    404: ("not_found", "The requested endpoint does not exist."),
    409: ("concurrent_idempotent_requests", "Another request with the same idempotency key is currently in progress"),
    429: ("rate_limit_exceeded", "Too many requests. You can only make 5 requests per second."),
    500: ("internal_server_error", "An unexpected error occurred."),
    503: ("service_unavailable", "Service unavailable."),
}


@dataclass(slots=True)
class _Team:
    """What an API key's team has sent, in order; and the answers that are kept when the request in flight is finished."""

    mails: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    sent: dict[str, Answer] = field(default_factory=dict[str, Answer])


class Resend:
    """
    A Resend of memory; each API key `re_…` has a team of its own.

    Args:
        record: Takes each execution, before the answer is known; if it raises, nothing happened.
        ids: Where ids come from.
        window: Seconds for which an idempotency key is kept.
        unit: Micro-USD a recipient costs.
    """

    name = "resend"

    def __init__(self, record: Callable[[Execution], None], ids: Ids, *, window: float = DAY, unit: int = _UNIT) -> None:
        self.keys = Keys(window)
        self._record, self._ids, self._unit = record, ids, unit
        self._teams: dict[str, _Team] = {}

    def begin(self, request: Request, now: float) -> Answer | Work:
        """Check credentials, path and e-mails, then claim the key."""
        scheme, secret, _ = request.credentials
        if scheme != "bearer" or not secret:
            return _refused(401, "missing_api_key", "Missing API Key")
        if not secret.startswith("re_"):
            return _refused(403, "invalid_api_key", "API key is invalid")
        account = f"team_{hashlib.sha256(secret.encode()).hexdigest()[:16]}"
        team = self._teams.setdefault(account, _Team())
        path = request.path.rstrip("/")
        if request.method == "POST" and path in _OPERATIONS:
            return self._sending(request, account, team, now)
        match [request.method, *path.split("/")[2:]]:
            case ["GET"]:
                return Work(request, undeclined(lambda now: _listed(team, request.params, now)))
            case ["GET", mail_id] if mail_id in team.mails:
                return Work(request, undeclined(lambda now: answered(200, _shown(team.mails[mail_id], now))))
            case ["POST", mail_id, "cancel"] if mail_id in team.mails:
                return Work(request, undeclined(lambda now: self._cancel(request, account, team, mail_id, now)))
            case _:
                return _refused(404, "not_found", "Email not found")

    def execute(self, work: Work, now: float, *, declined: bool = False) -> Answer:
        """Send, read or cancel; `declined`: the team may not send to these recipients."""
        return work.run(now, declined=declined)

    def finish(self, work: Work, answer: Answer, now: float) -> Answer:
        """Keep what was sent under the key, whatever is answered now; where nothing was sent, the key is free again."""
        _ = now
        if work.key is not None:
            kept = self._teams[work.key[0]].sent.pop(work.key[1], None)
            if kept is None:
                self.keys.forget(work.key)
            else:
                self.keys.keep(work.key, kept)
        return answer

    def abandon(self, work: Work) -> None:
        """Forget the key."""
        if work.key is not None:
            self.keys.forget(work.key)

    def failure(self, status: int) -> Answer:
        """Word a failure by its name."""
        return _refused(status, *_FAILURES[status])

    def _sending(self, request: Request, account: str, team: _Team, now: float) -> Answer | Work:
        key, is_batch = request.headers.get("idempotency-key"), request.path.rstrip("/") == "/emails/batch"
        if key is not None and not 1 <= len(key) <= _LONGEST_KEY:
            return _refused(400, "invalid_idempotency_key", f"The key must be between 1-{_LONGEST_KEY} chars.")
        mails: Any = request.document if is_batch else [request.document]
        if not isinstance(mails, list) or not 1 <= len(mails) <= _MOST_MAILS:
            return _refused(422, "validation_error", f"A batch has 1 to {_MOST_MAILS} e-mails.")
        wrong = {n: found for n, mail in enumerate(mails) if (found := _wrong(mail))}
        is_permissive = is_batch and request.headers.get("x-batch-validation") == "permissive"
        if wrong and not is_permissive:
            return _refused(422, *next(iter(wrong.values())))
        good = [mail for n, mail in enumerate(mails) if n not in wrong]
        errors = {"errors": [{"index": n, "message": words} for n, (_, words) in wrong.items()]} if is_permissive else {}

        def run(now: float, *, declined: bool) -> Answer:
            if declined:
                self._executed(request, account, "declined", "", "", 0, now)
                return _refused(403, "validation_error", "You can only send testing emails to your own email address.")
            made = [{"id": self._send(request, account, team, mail, now)} for mail in good]
            answer = answered(200, {"data": made, **errors} if is_batch else made[0])
            if key is not None:
                team.sent[key] = answer
            return answer

        return self._claimed(Work(request, run, key=None if key is None else (account, key)), now)

    def _claimed(self, work: Work, now: float) -> Answer | Work:
        """Look the key up: new, replayed, in flight, or used for something else."""
        if work.key is None:
            return work
        asked = f"{work.request.path.rstrip('/')} {json.dumps(work.request.document, sort_keys=True)}"
        kept = self.keys.claim(work.key, asked, now)
        if kept is None:
            return work
        if kept.fingerprint != asked:
            return _refused(409, "invalid_idempotent_request", "This key was already used on a request that had a different payload.")
        return kept.answer or self.failure(409)

    def _send(self, request: Request, account: str, team: _Team, mail: dict[str, Any], now: float) -> str:
        """Accept one e-mail; each recipient is an execution of its own, because each is billed."""
        mail_id = str(uuid.UUID(self._ids.hexadecimal()))
        for recipient in _recipients(mail):
            self._executed(request, account, "charge", mail_id, recipient, self._unit, now)
        event = "scheduled" if mail.get("scheduled_at") else "sent"
        team.mails[mail_id] = {**mail, "id": mail_id, "created_at": _iso(now), "last_event": event}
        return mail_id

    def _cancel(self, request: Request, account: str, team: _Team, mail_id: str, now: float) -> Answer:
        mail = team.mails[mail_id]
        if _event(mail, now) != "scheduled":
            return _refused(422, "validation_error", "Only scheduled e-mails can be cancelled.")
        for recipient in _recipients(mail):
            self._executed(request, account, "refund", mail_id, recipient, -self._unit, now)
        mail["last_event"] = "canceled"
        return answered(200, {"object": "email", "id": mail_id})

    def _executed(self, request: Request, account: str, kind: str, mail_id: str, recipient: str, micros: int, now: float) -> None:
        operation = _OPERATIONS.get(request.path.rstrip("/"), "emails.cancel")
        key = request.headers.get("idempotency-key", "")
        self._record(Execution("resend", account, operation, kind, mail_id, micros, "usd", "", key, recipient, request.number, now))


def _recipients(mail: dict[str, Any]) -> list[Any]:
    """Return everyone who gets it: "To, Cc and Bcc each count"; texts, once `_wrong` found nothing wrong."""
    found = [mail.get(name) or [] for name in ("to", "cc", "bcc")]
    return [one for value in found for one in (value if isinstance(value, list) else [value])]


def _wrong(mail: Any) -> tuple[str, str] | None:
    """Return the name and words of what is wrong with an e-mail; None if nothing is."""
    if not isinstance(mail, dict):
        return "validation_error", "An e-mail is an object."
    for name in ("from", "to", "subject"):
        if not mail.get(name) and not (name == "subject" and mail.get("template")):
            return "missing_required_field", f"Missing `{name}` field."
    everyone = _recipients(mail)
    is_good = len(everyone) <= _MOST_RECIPIENTS and all(isinstance(one, str) and "@" in one for one in everyone)
    return None if is_good else ("validation_error", "Invalid `to` field.")


def _event(mail: dict[str, Any], now: float) -> str:
    """Say what became of an e-mail by now: one whose scheduled time (ISO 8601) has come is delivered."""
    if mail["last_event"] != "scheduled":
        return str(mail["last_event"])
    try:
        due = datetime.fromisoformat(str(mail["scheduled_at"]).replace("Z", "+00:00"))
    except ValueError:
        # "in 1 hour": Resend reads such words, the double leaves them for ever.
        return "scheduled"
    return "delivered" if due.timestamp() <= now else "scheduled"


def _listed(team: _Team, params: dict[str, str], now: float) -> Answer:
    """Answer one page, newest first."""
    mails = [_shown(mail, now, is_listed=True) for mail in reversed(team.mails.values())]
    ids, limit = [mail["id"] for mail in mails], params.get("limit", str(_LIST))
    if not limit.isdecimal() or not 1 <= int(limit) <= _LARGEST_LIST:
        return _refused(422, "validation_error", f"The limit is from 1 to {_LARGEST_LIST}.")
    after, before = params.get("after"), params.get("before")
    if (after or before) and (after or before) not in ids:
        return _refused(422, "validation_error", "The cursor is the id of an e-mail.")
    if before:
        rest = mails[: ids.index(before)]
        return _page(rest[-int(limit) :], more=len(rest) > int(limit))
    rest = mails[ids.index(after) + 1 :] if after else mails
    return _page(rest[: int(limit)], more=len(rest) > int(limit))


def _page(mails: list[dict[str, Any]], *, more: bool) -> Answer:
    return answered(200, {"object": "list", "has_more": more, "data": mails})


def _shown(mail: dict[str, Any], now: float, *, is_listed: bool = False) -> dict[str, Any]:
    """Return an e-mail as it is read; lists leave out what it says."""
    lists = {name: [mail[name]] if isinstance(mail.get(name), str) else mail.get(name) for name in ("to", "cc", "bcc", "reply_to")}
    plain = {name: mail.get(name) for name in ("id", "from", "subject", "created_at", "scheduled_at")}
    plain["message_id"] = f"<{mail['id']}@double.invalid>"
    said = {} if is_listed else {"object": "email", **{name: mail.get(name) for name in ("html", "text")}}
    return {**plain, "last_event": _event(mail, now), **lists, **said}


def _iso(now: float) -> str:
    return datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f+00")


def _refused(status: int, name: str, message: str) -> Answer:
    return answered(status, {"statusCode": status, "name": name, "message": message})
