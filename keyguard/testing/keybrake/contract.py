"""
What the double makes of a request for a key, and of a call that carries one: pure, with the time as an argument. Reconstructed from
public pages of keybrake.com, read in November 2026; this is not Keybrake.

Seen there: the five fields of a request and the names of what is answered (two forms), both syntaxes of `allowed_endpoints`, the
bodies of a 403 and of a 429. Chosen here, because nothing is to be seen: a field that nobody knows is ignored; a key may have no cap
and no list; `*` is one segment; a day is a UTC day; an amount counts as dollars and cents whatever its currency; refunds and reads
count nothing; what the vendor answers with 400 or more is given back; the words of every 401, and of a bad request.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Mapping

_DAY = 86_400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY}
# "Twilio $0.0079, Resend $0.0004": /tools/blowout-calculator/.
_MESSAGE, _EMAIL = Decimal("0.0079"), Decimal("0.0004")
_STRIPES = re.compile(r"/v\d/(?P<resource>\w+)(?:/(?P<object>[^/]+)(?:/(?P<action>\w+))?)?")
_VERBS = {"POST": ("create", "update"), "GET": ("list", "retrieve"), "DELETE": ("delete", "delete")}


class Unreadable(ValueError):
    """A request for a key that makes none; its text is what is answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the double's own: HTTP status, and a JSON object; where it refuses, its `error` is a flat text."""

    status: int
    body: dict[str, Any]


@dataclass(slots=True)
class IssuedKey:
    """
    A key that was issued.

    Attributes:
        key_id, token: Its handle and its secret.
        dialect: By which form it was asked for: `vault` or `v1`.
        asked: The body of that request, unknown fields too.
        vendor: The one that it is for.
        daily_usd_cap: US dollars a UTC day; None = without.
        allowed_endpoints: As they were asked for; empty = all.
        expires_at: POSIX seconds; None = never.
        agent_run_label: Free text.
        is_revoked: Whether it was revoked.
        day, spent: A UTC day's number, and the US dollars that were counted on it.
    """

    key_id: str
    token: str
    dialect: str
    asked: Mapping[str, Any]
    vendor: str
    daily_usd_cap: Decimal | None
    allowed_endpoints: tuple[str, ...]
    expires_at: float | None
    agent_run_label: str
    is_revoked: bool = False
    day: int = 0
    spent: Decimal = field(default=Decimal(0))

    def spent_today(self, now: float) -> Decimal:
        """Return what was counted on the day of a moment, in US dollars."""
        return self.spent if self.day == int(now // _DAY) else Decimal(0)

    def count(self, usd: Decimal, now: float) -> None:
        """Add US dollars (below 0: take them back) to the day of a moment."""
        self.spent = self.spent_today(now) + usd
        self.day = int(now // _DAY)


def read_key(content: bytes, dialect: str, key_id: str, token: str, now: float) -> IssuedKey:
    """
    Read a request for a key.

    Raises:
        Unreadable: with the text to answer.
    """
    try:
        asked = json.loads(content, parse_float=Decimal)
    except ValueError:
        asked = None
    if not isinstance(asked, dict) or not isinstance(asked.get("vendor"), str):
        raise Unreadable("vendor is required")
    endpoints: Any = asked.get("allowed_endpoints") or []
    if not isinstance(endpoints, list) or not all(isinstance(item, str) for item in endpoints):
        raise Unreadable("allowed_endpoints must be a list of strings")
    label = asked.get("agent_run_label", asked.get("label", ""))
    return IssuedKey(
        key_id, token, dialect, asked, asked["vendor"], _cap(asked.get("daily_usd_cap")), tuple(endpoints), _expiry(asked, now), str(label)
    )


def _cap(said: Any) -> Decimal | None:
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | Decimal) or said < 0:
        raise Unreadable("daily_usd_cap must be a number")
    return Decimal(said)


def _expiry(asked: Mapping[str, Any], now: float) -> float | None:
    said, instant = asked.get("expires_in"), asked.get("expires_at")
    if isinstance(said, int | Decimal):
        return now + float(said)
    if isinstance(said, str):
        found = re.fullmatch(r"(\d+)([smhd])", said)
        if found is None:
            raise Unreadable("expires_in must be a duration")
        return now + int(found[1]) * _UNITS[found[2]]
    if isinstance(instant, str):
        try:
            at = datetime.fromisoformat(instant.replace("Z", "+00:00"))
        except ValueError:
            raise Unreadable("expires_at must be an instant") from None
        return (at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)).timestamp()
    return None


def denied(key: IssuedKey, vendor: str, method: str, path: str, usd: Decimal, now: float, cap_status: int) -> Answer | None:
    """
    Say why a call is not forwarded; None = it is.

    Args:
        key: The key that it carries.
        vendor: Whose path it has.
        method: Of the call, as `path` is: the vendor's own, without a query.
        path: See there.
        usd: What it would count.
        now: POSIX seconds.
        cap_status: 429 (/app/ and most pages), 402 (/seo/ai-agent-error-handling) or 403 (/blog/agent-audit-trail-schema).
    """
    if key.is_revoked:
        return Answer(401, {"error": "This vault key has been revoked"})
    if key.expires_at is not None and key.expires_at <= now:
        return Answer(401, {"error": "This vault key has expired"})
    if key.vendor != vendor:
        return Answer(403, {"error": f"This vault key is not valid for {vendor}"})
    operation = operation_of(method, path)
    if key.allowed_endpoints and not any(_allows(item, method, path, operation) for item in key.allowed_endpoints):
        # /app/: word for word, and with operation names under both fields.
        text = f'Operation "{operation}" is not permitted by this vault key\'s policy'
        return Answer(403, {"error": text, "allowed_endpoints": list(key.allowed_endpoints), "attempted": operation})
    spent = key.spent_today(now)
    if key.daily_usd_cap is not None and usd and spent + usd > key.daily_usd_cap:
        # /app/: "Daily spend cap of $50 reached"; what is seen of the page ends within the name of the second field.
        return Answer(cap_status, {"error": f"Daily spend cap of {_dollars(key.daily_usd_cap)} reached", "spent_today_usd": float(spent)})
    return None


def operation_of(method: str, path: str) -> str:
    """Return the name of an operation as the pages write it, `payouts.create`; of a path of no such form, method and path."""
    found = _STRIPES.fullmatch(path)
    if found is None or method not in _VERBS:
        return f"{method} {path}"
    return f"{found['resource']}.{found['action'] or _VERBS[method][found['object'] is not None]}"


def _allows(item: str, method: str, path: str, operation: str) -> bool:
    """Match an item of a list: `METHOD /path` with globs, a path (/compare/litellm-vs-keybrake), or an operation's name (/app/)."""
    if "/" not in item:
        return item == operation
    wanted, _, glob = item.rpartition(" ")
    pattern = "[^/]*".join(re.escape(part) for part in glob.split("*"))
    return wanted.upper() in {"", method} and re.fullmatch(pattern, path) is not None


def usd_of(vendor: str, method: str, path: str, content: bytes) -> Decimal:
    """Return what a call counts before it is sent, in US dollars: "would push the total over" needs the request's own amount."""
    if method != "POST":
        return Decimal(0)
    if vendor == "resend":
        return _EMAIL * _emails(content) if path.startswith("/emails") else Decimal(0)
    if vendor == "twilio":
        return _MESSAGE if path.endswith("/Messages.json") else Decimal(0)
    amount = dict(parse_qsl(content.decode("latin-1"))).get("amount", "0")
    try:
        return Decimal(0) if "/refunds" in path else Decimal(int(amount)) / 100
    except (ValueError, InvalidOperation):
        return Decimal(0)


def _emails(content: bytes) -> int:
    try:
        said = json.loads(content)
    except ValueError:
        return 1
    return len(said) if isinstance(said, list) else 1


def _dollars(usd: Decimal) -> str:
    return f"${usd:.0f}" if usd == usd.to_integral_value() else f"${usd:.2f}"
