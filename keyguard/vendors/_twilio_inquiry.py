"""What became of a message or call of which nobody knows: looked for in Twilio's lists. Reads only; part of the twilio plug.

"There is no idempotency key", and whom it was sent to is kept only as a hash, so the lists are read and each recipient in them is
hashed. They are read without a filter by date: that one is by the date of sending, which what still waits does not have.
"""

from __future__ import annotations

import base64
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyguard.identity import payee_of
from keyguard.model import Fact, Outcome
from keyguard.vendors import _twilio_paths as paths
from keyguard.vendors import _twilio_places as places
from keyguard.vendors import _twilio_replies as replies
from keyguard.vendors._inquiry import AHEAD, Candidate, Finding, Listing, listing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from keyguard.model import Doubt, Money
    from keyguard.vendors._inquiry import Asking, Document, Inquiry

base = "https://api.twilio.com"
# "Messages can only be queued for 10 hours and then they automatically fail" (errors/30001, read 2026-11-26): until then one may wait
# that the list, which is in the order of sending, does not show where it is looked for. An hour more, for the request itself.
_MARGIN = 11 * 3600.0
absence_margin: float | None = _MARGIN
# Twilio keeps its records until they are deleted, but whoever uses it may delete them.
history = 30 * 86_400.0
is_by_account = True
_LISTS = {"messages.create": ("Messages", "messages"), "calls.create": ("Calls", "calls")}
_PLACES = {"SM": "Messages", "MM": "Messages", "CA": "Calls"}
_DAY = 86_400.0


def signed(doubt: Doubt, secret: str, environ: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
    """Return the headers of a question, signed by the account of the environment, else by the doubt's own; and that account."""
    user = environ.get("TWILIO_ACCOUNT_SID") or doubt.account
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()}, user


def place(doubt: Doubt) -> str | None:
    """Return where a message or call can be read."""
    kind = _PLACES.get((doubt.object_id or "")[:2])
    is_known = paths.is_object_id(doubt.object_id) and paths.is_object_id(doubt.account)
    return f"/2010-04-01/Accounts/{doubt.account}/{kind}/{doubt.object_id}.json" if kind and is_known else None


def inquire(doubt: Doubt, _now: float, _owners: Collection[str] = ()) -> Inquiry:
    """Look for whatever a call may have made: to the same recipient, at that time."""
    resource, name = _LISTS.get(doubt.operation, ("", ""))
    if not resource or not paths.is_object_id(doubt.account) or not doubt.payee:
        return Finding(words=f"it cannot be asked what became of a {doubt.operation}; look in its Console")
    path = f"/2010-04-01/Accounts/{doubt.account}/{resource}.json"
    since = doubt.at - AHEAD
    found = yield from _listed(path, name, since)
    if not found.is_whole:
        return Finding(words=found.why)
    if any(_instant(item.get("date_created")) is None or not isinstance(item.get("to"), str) for item in found.items):
        return Finding(words=f"one of the {name} that it lists cannot be read; look in its Console")
    alike = [candidate for item in found.items if (candidate := _candidate(doubt, item, since)) is not None]
    words = f"of the {len(found.items)} {name} that it lists {len(alike)} went to that recipient then"
    return Finding(words=words, candidates=tuple(alike), is_whole=True)


def _listed(path: str, name: str, since: float) -> Asking[Listing]:
    """Read a list from its newest on to where everything was surely made before a time."""
    return listing(
        f"{path}?PageSize=1000",
        lambda page: page.get(name),
        lambda page, _: _next(page, path),
        # Whole days: a message is listed by when it was sent, up to ten hours after it was asked for.
        is_enough=lambda item: (sent := _instant(item.get("date_sent") or item.get("start_time"))) is not None and sent < since - _DAY,
    )


def prices(doubts: Sequence[Doubt]) -> Asking[Mapping[str, Fact]]:
    """Read the prices of messages and calls of one account, a thousand a page."""
    found: dict[str, Fact] = {}
    for resource, name in _LISTS.values():
        wanted = {doubt.object_id: doubt for doubt in doubts if _PLACES.get((doubt.object_id or "")[:2]) == resource}
        if not wanted or not paths.is_object_id(doubts[0].account):
            continue
        since = min(doubt.at for doubt in wanted.values())
        items = yield from _listed(f"/2010-04-01/Accounts/{doubts[0].account}/{resource}.json", name, since)
        facts = (replies.priced(item) for item in items.items if item.get("sid") in wanted)
        found |= {fact.object_id: fact for fact in facts if fact is not None}
    return found


def _next(page: Document, path: str) -> str | None:
    """Return the next page, of the same list only: the account's secret goes nowhere that an answer names."""
    following = page.get("next_page_uri")
    if not isinstance(following, str) or not following:
        return None
    parts = urlsplit(following)
    # Another place is answered with 404, and leaves the list without its end.
    return f"{path}?{parts.query}"


def _candidate(doubt: Doubt, item: Document, since: float) -> Candidate | None:
    made, sid = _instant(item.get("date_created")), item.get("sid")
    if made is None or not since <= made <= doubt.sent_at + _MARGIN or not paths.is_object_id(sid):
        return None
    if (
        not str(item.get("direction")).startswith("outbound-api")
        or payee_of(doubt.scope, places.written(str(item.get("to")))) != doubt.payee
    ):
        return None
    return Candidate(str(sid), Outcome("settled", facts=(_fact(doubt.amount, item),), source="local"), made)


def _fact(estimate: Money, item: Document) -> Fact:
    """Read what a message or call costs; without a price yet, what was held for it."""
    known = replies.priced(item)
    if known is not None:
        return known
    status = str(item.get("status"))
    held = estimate if status == "scheduled" else 0
    return Fact(str(item["sid"]), estimate - held, held, estimate, status=replies.word(status))


def _instant(value: Any) -> float | None:
    try:
        found = parsedate_to_datetime(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if found is None:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)).timestamp()
