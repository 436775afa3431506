"""What a request for a vault key asks for, in each of the vocabularies that Keybrake's pages show, and in our own. Pure.

Its contract is known from public text alone, which disagrees with itself; so names are read tolerantly, and values strictly. A
field that nobody knows is an error: of a limit that is not understood nobody may believe that it holds.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn, cast

from keyguard._values import frozen
from keyguard.errors import ConfigurationError
from keyguard.model import METHODS, Policy
from keyguard.proxy.routing import Misdirected
from keyguard.settings import load_policy
from keyguard.vendors import known_vendors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

# One concept, and the names that were seen for it (and those of our own policies): the first is the one that is answered with.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "vendor": ("vendor",),
    "daily_usd_cap": ("daily_usd_cap",),
    "run_usd_cap": ("run_usd_cap", "per_run_usd_cap"),
    "call_usd_cap": ("call_usd_cap",),
    "refund_usd_cap": ("refund_usd_cap",),
    "max_calls": ("max_calls",),
    "max_emails": ("max_emails",),
    "allowed_endpoints": ("allowed_endpoints", "allowed_ops"),
    "rules": ("rules",),
    "expires_in": ("expires_in", "ttl"),
    "expires_at": ("expires_at",),
    "agent_run_label": ("agent_run_label", "label"),
    "run_id": ("run_id", "agent_run_id"),
    "name": ("name", "policy"),
    "mode": ("mode",),
    "unpriced": ("unpriced",),
    "on_doubt": ("on_doubt",),
    "idempotency": ("idempotency",),
}
_CONCEPT = {name: concept for concept, names in ALIASES.items() for name in names}
_BARE_PATH = re.compile(r"/\S*")
_LONGEST_RUN = 200


@frozen
class Wanted:
    """
    A key as it is asked for.

    Attributes:
        policy: What it may do.
        run_id: Whose budget it draws on; None = its own.
        vendor: The only vendor that it is for; None = any.
    """

    policy: Policy
    run_id: str | None
    vendor: str | None


def _bad(message: str) -> NoReturn:
    raise Misdirected(message, status=422)


def read_json(body: bytes) -> dict[str, Any]:
    """
    Read a JSON object strictly.

    Raises:
        Misdirected: it is none (400).
    """
    try:
        # Amounts as they are written: a float is another number.
        found = json.loads(body, parse_float=Decimal, parse_constant=_refused, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Misdirected("the body is not a JSON object in UTF-8 without repeated names", status=400) from None
    if not isinstance(found, dict):
        raise Misdirected("the body is a JSON object", status=400)
    return cast("dict[str, Any]", found)


def _refused(constant: str) -> NoReturn:
    raise ValueError(constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def wanted(
    body: Mapping[str, Any], vendors: Collection[str], *, run_id: str | None = None, clock: Callable[[], float] = time.time
) -> Wanted:
    """
    Read what is asked for.

    Args:
        body: The request's object.
        vendors: Those whose secrets the proxy has.
        run_id: That of the `x-agent-run-id` header.
        clock: POSIX seconds, for an `expires_at`.

    Raises:
        Misdirected: an unknown field, a bad value, or no cap (422); the message says which.
    """
    fields = _concepts(body)
    vendor, run = fields.get("vendor"), _run(fields.pop("run_id", None), run_id)
    if vendor is not None and vendor not in vendors:
        _bad(f"vendor: this proxy has no secret of {str(vendor)[:40]!r}; it has those of {', '.join(sorted(vendors)) or 'nobody'}")
    if isinstance(fields.get("expires_in"), Decimal):
        fields["expires_in"] = float(fields["expires_in"])
    if "expires_at" in fields:
        fields["expires_in"] = _seconds_until(fields.pop("expires_at"), clock())
    if "allowed_endpoints" in fields:
        fields["allowed_endpoints"] = _endpoints(fields["allowed_endpoints"])
    if not {"daily_usd_cap", "run_usd_cap"} & fields.keys():
        _bad("a key has a cap: daily_usd_cap, run_usd_cap, or both, in US dollars")
    # A day's cap is of a name: without one of its own, of the label or run, so that who asks again (a retry) finds the day's money again.
    fields.setdefault("name", fields.get("agent_run_label") or run or f"key-{secrets.token_hex(8)}")
    try:
        policy = load_policy(None, fields)
    except ConfigurationError as error:
        _bad(str(error).partition(". Known fields:")[0])
    return Wanted(policy, run, vendor)


def _concepts(body: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in body.items():
        concept = _CONCEPT.get(name)
        if concept is None:
            _bad(f"{name[:60]!r} is no field of a vault key; there are {', '.join(sorted(_CONCEPT))}")
        if concept in fields and fields[concept] != value:
            _bad(f"{' and '.join(ALIASES[concept])} mean the same, and say different things")
        if value is not None:
            fields[concept] = value
    if {"expires_in", "expires_at"} <= fields.keys():
        _bad("expires_in and expires_at say the same: give one of them")
    return fields


def _run(said: Any, header: str | None) -> str | None:
    if said is not None and header is not None and said != header:
        _bad("run_id and the header x-agent-run-id say different things")
    found = header if said is None else said
    if found is None:
        return None
    if not isinstance(found, str) or not found.strip() or len(found) > _LONGEST_RUN or not found.isprintable():
        _bad(f"run_id: expected 1 to {_LONGEST_RUN} characters on one line")
    return found


def _seconds_until(instant: Any, now: float) -> float:
    """Read an instant, ISO 8601 or POSIX seconds, as the time until then."""
    if isinstance(instant, int | Decimal) and not isinstance(instant, bool):
        at = float(instant)
    elif isinstance(instant, str):
        try:
            found = datetime.fromisoformat(instant.strip().replace("Z", "+00:00"))
        except ValueError:
            _bad("expires_at: expected an instant such as 2026-11-26T12:00:00Z, or POSIX seconds")
        at = (found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)).timestamp()
    else:
        _bad("expires_at: expected an instant such as 2026-11-26T12:00:00Z, or POSIX seconds")
    if at <= now:
        _bad("expires_at has passed")
    return at - now


def _endpoints(items: Any) -> list[str]:
    if not isinstance(items, list) or not all(isinstance(item, str) for item in cast("list[object]", items)):
        _bad("allowed_endpoints: expected a list of texts such as 'POST /v1/payment_intents' or 'charges.create'")
    return [_endpoint(item.strip()) for item in cast("list[str]", items)]


def _endpoint(item: str) -> str:
    """Bring an item into the form of our policies: a bare path is for every method, the proxy's own prefix is the vendor's name."""
    if _BARE_PATH.fullmatch(item):
        item = f"* {item}"
    method, blank, path = item.partition(" ")
    first = path.strip().split("/")[1:2]
    if blank and method.upper() in METHODS and first and first[0] in known_vendors():
        return f"{first[0]}:{method} {path.strip().removeprefix('/' + first[0]) or '/'}"
    return item
