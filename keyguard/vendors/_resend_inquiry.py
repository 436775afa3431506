"""What became of an e-mail of which nobody knows: looked for in Resend's list of sent ones. Reads only; part of the resend plug."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from keyguard.identity import payee_of
from keyguard.model import Fact, Outcome
from keyguard.vendors import _resend_money as money
from keyguard.vendors import _resend_paths as paths
from keyguard.vendors._inquiry import AHEAD, Candidate, Finding, listing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from keyguard.model import Doubt
    from keyguard.vendors._inquiry import Asking, Document, Inquiry

base = "https://api.resend.com"
# Resend says nothing of how late a request may still be executed.
_MARGIN = 3600.0
absence_margin: float | None = _MARGIN
# How long its list shows an e-mail depends on the plan and is not in its API reference (read 2026-11-26): no longer than this is relied on.
history = 86_400.0
is_by_account = False
_FRACTION = re.compile(r"\.([0-9]+)")


def signed(_doubt: Doubt, secret: str, _environ: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
    """Return the headers of a question, and the owner of the credential in them."""
    return {"Authorization": f"Bearer {secret}"}, secret


def place(doubt: Doubt) -> str | None:
    """Return where an e-mail can be read."""
    return f"/emails/{doubt.object_id}" if doubt.object_id and paths.is_object_id(doubt.object_id) else None


def prices(_doubts: Sequence[Doubt]) -> Asking[Mapping[str, Fact]]:
    """Read nothing: what Resend says of a cost it says at once."""
    yield from ()
    return {}


def inquire(doubt: Doubt, _now: float, _owners: Collection[str] = ()) -> Inquiry:
    """Look for whatever a call may have sent: to the same recipients, at that time."""
    if doubt.operation != "emails.send" or not doubt.payee:
        return Finding(words=f"it cannot be asked what became of a {doubt.operation}; look in its dashboard")
    since = doubt.at - AHEAD
    found = yield from listing(
        "/emails?limit=100",
        lambda page: page.get("data"),
        lambda page, last: f"/emails?limit=100&after={last['id']}" if page.get("has_more") and _id_of(last) else None,
        is_enough=lambda item: (made := _instant(item.get("created_at"))) is not None and made < since,
    )
    if not found.is_whole:
        return Finding(words=found.why)
    if any(_instant(item.get("created_at")) is None or _id_of(item) is None for item in found.items):
        return Finding(words="one of the e-mails that it lists cannot be read; look in its dashboard")
    alike = [candidate for item in found.items if (candidate := _candidate(doubt, item, since)) is not None]
    words = f"of the {len(found.items)} e-mails that it lists {len(alike)} went to those recipients then"
    return Finding(words=words, candidates=tuple(alike), is_whole=True)


def _id_of(item: Document) -> str | None:
    found = item.get("id")
    return found if isinstance(found, str) and paths.is_object_id(found) else None


def _candidate(doubt: Doubt, item: Document, since: float) -> Candidate | None:
    made, email_id, status = _instant(item.get("created_at")), _id_of(item), str(item.get("last_event"))
    if made is None or email_id is None or not since <= made <= doubt.sent_at + _MARGIN:
        return None
    if payee_of(doubt.scope, money.addressees([item])) != doubt.payee:
        return None
    spent = 0 if status in {"scheduled", "canceled"} else doubt.amount
    held = doubt.amount if status == "scheduled" else 0
    fact = Fact(email_id, spent, held, doubt.amount, status=status if status.isidentifier() else "")
    return Candidate(email_id, Outcome("settled", facts=(fact,), source="local"), made)


def _instant(value: Any) -> float | None:
    """Read `2023-04-03T22:13:42.674981+00:00`, with the T or a blank, which Resend writes too."""
    if not isinstance(value, str):
        return None
    text = value.strip().replace("Z", "+00:00").replace(" ", "T", 1)
    # `+00`, as its database writes it, is no offset for Python 3.10, nor `.5` a fraction.
    text = _FRACTION.sub(lambda found: f".{found[1][:6]:0<6}", f"{text}:00" if text[-3:-2] in {"+", "-"} else text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)).timestamp()
