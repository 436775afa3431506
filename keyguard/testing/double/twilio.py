"""
Twilio's messages: no idempotency, a price that comes late, lists by recipient and time. Pure; see `messages.Vendor`.

Sources: Twilio's OpenAPI (`api_v2010`, @twilio/cli-core 8.3.2), its documentation of Message resources and of errors 20003, 20404,
20429, 21211, 21602, 21603, 21604, 21610 (read 2026-11).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from keyguard.testing.double._segments import segments
from keyguard.testing.double.messages import Answer, Execution, Work, answered, undeclined

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.testing.double.messages import Ids, Request

# Twilio's own magic number of test credentials that is "not a valid phone number".
_INVALID = "+15005550001"
_NUMBER = re.compile(r"(?:[a-z]+:)?\+[1-9][0-9]{6,14}")
_UNIT = 8_300  # micro-USD a segment: the US list price without carrier fees, 2026-10-08
# "price … may not be immediately available": nobody promises when.
_PRICED_AFTER = 3_600.0
_PAGE, _LARGEST_PAGE = 50, 1000
_FAILURES = {
    401: (20003, "Authenticate"), 403: (20403, "Forbidden"), 404: (20404, "The requested resource was not found"), 409: (20409, "Conflict"),
    429: (20429, "Too Many Requests"), 500: (20500, "Internal Server Error"), 503: (20503, "Service Unavailable"),
}  # fmt: skip


@dataclass(slots=True)
class _Message:
    """A message that was accepted: as it is shown, when it was made, and what it costs in micro-USD."""

    shown: dict[str, Any]
    made: float
    micros: int
    is_priced: bool = False


class Twilio:
    """
    A Twilio of memory, one per account in the path; credentials must be there, and are not checked.

    Args:
        record: Takes each execution, before the answer is known; if it raises, nothing happened.
        ids: Where sids come from.
        unit: Micro-USD a segment costs.
        priced_after: Seconds after which a message's price can be read; before that it is null.
    """

    name = "twilio"

    def __init__(self, record: Callable[[Execution], None], ids: Ids, *, unit: int = _UNIT, priced_after: float = _PRICED_AFTER) -> None:
        self._record, self._ids, self._unit, self._priced_after = record, ids, unit, priced_after
        self._messages: dict[str, dict[str, _Message]] = {}

    def begin(self, request: Request, now: float) -> Answer | Work:
        """Check credentials, path and parameters."""
        _ = now
        if not _has_credentials(request):
            return _refused(401, 20003, "Authenticate")
        match [request.method, *request.path.removesuffix(".json").split("/")[3:]]:
            case ["POST", account, "Messages"]:
                wrong = _wrong(request.params)
                return wrong or Work(request, partial(self._create, request, account))
            case ["POST", account, "Messages", sid]:
                return Work(request, undeclined(lambda now: self._update(request, account, sid, now)))
            case ["GET", account, "Messages"]:
                return Work(request, undeclined(lambda now: self._list(request, account, now)))
            case ["GET", account, "Messages", sid]:
                return Work(request, undeclined(lambda now: self._fetch(account, sid, now)))
            case _:
                return _refused(404, 20404, f"The requested resource {request.path} was not found")

    def execute(self, work: Work, now: float, *, declined: bool = False) -> Answer:
        """Send, read or cancel; `declined`: the recipient has opted out."""
        return work.run(now, declined=declined)

    def finish(self, work: Work, answer: Answer, now: float) -> Answer:
        """Answer; nothing is kept, and whoever asks again sends again."""
        _ = work, now
        return answer.added(Twilio_Request_Id=f"RQ{self._ids.hexadecimal()}")

    def abandon(self, work: Work) -> None:
        """Forget it; there is nothing to forget."""

    def failure(self, status: int) -> Answer:
        """Word a failure with its code."""
        return _refused(status, *_FAILURES[status])

    def settle_prices(self) -> None:
        """Let the price of every message so far be read."""
        for messages in self._messages.values():
            for message in messages.values():
                message.is_priced = True

    def _create(self, request: Request, account: str, now: float, *, declined: bool) -> Answer:
        form, sid = request.params, f"SM{self._ids.hexadecimal()}"
        to = form["To"]
        if declined:
            self._executed(request, account, "declined", sid, 0, now)
            return _refused(400, 21610, "Attempt to send to unsubscribed recipient")
        count = segments(form.get("Body", ""))
        self._executed(request, account, "charge", sid, count * self._unit, now)
        path = f"/2010-04-01/Accounts/{account}/Messages/{sid}"
        shown = {
            "account_sid": account, "api_version": "2010-04-01", "body": form.get("Body", ""), "date_created": _rfc_2822(now),
            "date_sent": None, "date_updated": _rfc_2822(now), "direction": "outbound-api", "error_code": None, "error_message": None,
            "from": form.get("From"), "messaging_service_sid": form.get("MessagingServiceSid"), "num_media": str(_media(form)),
            "num_segments": str(count), "price": None, "price_unit": "USD", "sid": sid,
            "status": "scheduled" if form.get("ScheduleType") else "queued", "subresource_uris": {"media": f"{path}/Media.json"},
            "to": to, "uri": f"{path}.json",
        }  # fmt: skip
        self._messages.setdefault(account, {})[sid] = _Message(shown, now, count * self._unit)
        # "For messages sent via a Messaging Service, num_segments is initially 0".
        return answered(201, shown | ({"num_segments": "0", "status": "accepted"} if form.get("MessagingServiceSid") else {}))

    def _update(self, request: Request, account: str, sid: str, now: float) -> Answer:
        """Cancel a message that is scheduled."""
        found = self._messages.get(account, {}).get(sid)
        if found is None:
            return _missing(sid)
        if request.params.get("Status") != "canceled" or found.shown["status"] != "scheduled":
            return _refused(400, 30409, "Message cannot be canceled")
        self._executed(request, account, "refund", sid, -found.micros, now, to=found.shown["to"])
        found.shown |= {"status": "canceled", "date_updated": _rfc_2822(now)}
        found.micros = 0
        return answered(200, found.shown)

    def _fetch(self, account: str, sid: str, now: float) -> Answer:
        found = self._messages.get(account, {}).get(sid)
        return _missing(sid) if found is None else answered(200, self._seen(found, now))

    def _list(self, request: Request, account: str, now: float) -> Answer:
        """Answer one page, newest first."""
        params, everything = request.params, self._messages.get(account, {})
        try:
            wanted = [one for one in reversed(everything.values()) if _meets(one, params)]
            size = min(max(int(params.get("PageSize", _PAGE)), 1), _LARGEST_PAGE)
            page = max(int(params.get("Page", 0)), 0)
        except ValueError as wrong:
            return _refused(400, 20001, f"Invalid parameter: {wrong}")
        sids = [one.shown["sid"] for one in wanted]
        # The token says after which message the page begins, so that new messages move nothing.
        after = params.get("PageToken", "").removeprefix("PA")
        start = sids.index(after) + 1 if after in sids else page * size
        taken = wanted[start : start + size]
        uri = request.path

        def page_uri(number: int, last: str = "") -> str:
            token = {"PageToken": f"PA{last}"} if last else {}
            kept = {name: value for name, value in params.items() if name not in {"Page", "PageToken", "PageSize"}}
            return f"{uri}?{urlencode({**kept, 'PageSize': size, 'Page': number, **token})}"

        return answered(200, {
            "messages": [self._seen(one, now) for one in taken], "start": start, "end": start + max(len(taken) - 1, 0), "page": page,
            "page_size": size, "uri": request.target, "first_page_uri": page_uri(0),
            "previous_page_uri": page_uri(page - 1) if page else None,
            "next_page_uri": page_uri(page + 1, taken[-1].shown["sid"]) if wanted[start + size :] else None,
        })  # fmt: skip

    def _seen(self, message: _Message, now: float) -> dict[str, Any]:
        """Return a message as it is read: sent by now; with its price, if that is known."""
        if message.shown["status"] in {"scheduled", "canceled"}:
            return message.shown
        message.is_priced = message.is_priced or now - message.made >= self._priced_after
        # Five decimals, as Twilio shows it; no float.
        shown = f"-{message.micros // 1_000_000}.{message.micros % 1_000_000 // 10:05d}"
        price = {"price": shown, "status": "delivered"} if message.is_priced else {"status": "sent"}
        return message.shown | {"date_sent": _rfc_2822(message.made), **price}

    def _executed(self, request: Request, account: str, kind: str, sid: str, micros: int, now: float, to: str = "") -> None:
        operation = "messages.update" if kind == "refund" else "messages.create"
        recipient = to or request.params["To"]
        self._record(Execution("twilio", account, operation, kind, sid, micros, "usd", "", "", recipient, request.number, now))


def _wrong(form: dict[str, str]) -> Answer | None:
    """Return the refusal of a message that cannot be sent."""
    to = form.get("To", "")
    if not to:
        return _refused(400, 21604, "A 'To' phone number is required.")
    if to == _INVALID or not _NUMBER.fullmatch(to):
        return _refused(400, 21211, f"The 'To' number {to} is not a valid phone number.")
    if not (form.get("From") or form.get("MessagingServiceSid")):
        return _refused(400, 21603, "A 'From' phone number is required.")
    if not (form.get("Body") or form.get("ContentSid") or _media(form)):
        return _refused(400, 21602, "Message body is required.")
    return None


def _media(form: dict[str, str]) -> int:
    return sum(1 for name in form if name.startswith("MediaUrl"))


def _meets(message: _Message, params: dict[str, str]) -> bool:
    """Say whether a message is asked for: by recipient, sender, and the date it was sent on."""
    sent = datetime.fromtimestamp(message.made, timezone.utc)
    if any(params.get(name) not in {None, message.shown[name.lower()]} for name in ("To", "From")):
        return False
    # "DateSent<=YYYY-MM-DD", "DateSent>=YYYY-MM-DD"; a day alone is from midnight to midnight, in GMT.
    exactly, until, since = (params.get(name) for name in ("DateSent", "DateSent<", "DateSent>"))
    if exactly is not None and sent.date() != _moment(exactly).date():
        return False
    if until is not None and not (sent <= _moment(until) or ("T" not in until and sent.date() == _moment(until).date())):
        return False
    return since is None or sent >= _moment(since)


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _rfc_2822(now: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(now), timezone.utc))


def _has_credentials(request: Request) -> bool:
    scheme, user, password = request.credentials
    return scheme == "basic" and user.startswith(("AC", "SK")) and bool(password)


def _missing(sid: str) -> Answer:
    return _refused(404, 20404, f"The requested resource {sid} was not found")


def _refused(status: int, code: int, message: str) -> Answer:
    return answered(status, {"code": code, "message": message, "more_info": f"https://www.twilio.com/docs/errors/{code}", "status": status})
