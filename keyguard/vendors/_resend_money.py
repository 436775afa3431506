"""Resend's money: how many recipients a request names, and what one of them costs. Part of the resend plug."""

from __future__ import annotations

import json
import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keyguard import context
from keyguard.errors import MalformedCall
from keyguard.model import to_money

if TYPE_CHECKING:
    from keyguard.model import Call, Money

# "Trigger up to 100 batch emails at once."
LARGEST_BATCH = 100
_FIELDS = ("to", "cc", "bcc")
# A display name may hold what else separates or marks an address.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SEPARATOR = re.compile(r"[,;\n]")


def unit() -> Money:
    """Return what one recipient costs, in micro-USD: `KEYGUARD_RESEND_UNIT_USD`, else the dated list price."""
    found = context.unit_prices().get("resend")
    return _list_price() if found is None else found


def dated() -> tuple[date, str]:
    """Return when the list price was read, and where."""
    return date.fromisoformat(_listed()["date"]), _listed()["source"]


@cache
def _list_price() -> Money:
    return to_money(_listed()["unit_usd"])


def _listed() -> dict[str, str]:
    found: dict[str, str] = json.loads(Path(__file__).with_name("resend_prices.json").read_text(encoding="utf-8"))
    return found


def emails(call: Call, *, is_batch: bool) -> tuple[int, ...]:
    """
    Return how many recipients each e-mail of a call has.

    Raises:
        MalformedCall: a body that is not what Resend documents, or more than 100 e-mails.
    """
    if not is_batch:
        return (recipients(call.document),)
    if not isinstance(call.document, list) or not call.document:
        raise MalformedCall(_unreadable("a JSON list of e-mails"))
    items: list[Any] = call.document
    if len(items) > LARGEST_BATCH:
        raise MalformedCall(
            f"a batch may hold at most {LARGEST_BATCH} e-mails at Resend, this one has {len(items)}; nothing was sent. Send it in parts."
        )
    return tuple(recipients(item) for item in items)


def payee(call: Call) -> str:
    """Return to whom a call writes, by all recipients of its e-mails; "" for what is no e-mail."""
    return addressees(call.document if isinstance(call.document, list) else [call.document])


def recipients(email: Any) -> int:
    """Count the recipients of one e-mail, of whom each is one unit in `to`, `cc` and `bcc` alike; at least one, who will be refused."""
    if not isinstance(email, dict):
        raise MalformedCall(_unreadable("a JSON object with `to`"))
    return max(1, sum(_addresses(name, cast("dict[str, Any]", email).get(name)) for name in _FIELDS))


def _addresses(name: str, value: Any) -> int:
    if value is None:
        return 0
    items: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items):
        raise MalformedCall(_unreadable(f"`{name}` as text or a list of texts"))
    return sum(_in_text(item) for item in items)


def _in_text(text: str) -> int:
    """Count the addresses in one text: `Name <a@example.com>` is one, and so is what is no address at all."""
    parts = _SEPARATOR.split(_QUOTED.sub("", text))
    return max(1 if text.strip() else 0, sum("@" in part for part in parts))


def _unreadable(wanted: str) -> str:
    return f"the recipients of this call cannot be counted: its body must have {wanted}, as Resend documents it. Nothing was sent."


def addressees(emails: Any) -> str:
    """Return all recipients of some e-mails as one text: bare, in lower case, sorted; "" for what cannot be read."""
    items: list[Any] = emails if isinstance(emails, list) else []
    found = [
        address for item in items if isinstance(item, dict) for name in _FIELDS for address in _bare(cast("dict[str, Any]", item).get(name))
    ]
    return ",".join(sorted(found))


def _bare(value: Any) -> list[str]:
    """Return the addresses of one field without the names before them."""
    texts: list[Any] = value if isinstance(value, list) else [value]
    parts = [part for text in texts if isinstance(text, str) for part in _SEPARATOR.split(_QUOTED.sub("", text)) if "@" in part]
    return [part.rpartition("<")[2].partition(">")[0].strip().lower() for part in parts]
