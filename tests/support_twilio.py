"""Calls to Twilio as seams read them, quotes driven by hand, and replies read: what every test of the plug's money begins with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from keyguard.model import Call, Outcome, Quote, Reply
from keyguard.patches._headers import form_pairs, read_body
from keyguard.vendors.twilio import vendor

if TYPE_CHECKING:
    from collections.abc import Iterable

ACCOUNT = "AC" + "0123456789abcdef" * 2
SID = "0123456789abcdef" * 2
US, US_TOO = "+14155552671", "+14155552672"
API = f"/2010-04-01/Accounts/{ACCOUNT}"


def call(
    path: str = f"{API}/Messages.json",
    fields: dict[str, Any] | Iterable[tuple[str, str]] = (),
    method: str = "POST",
    host: str = "api.twilio.com",
    query: str = "",
) -> Call:
    """Return a call with a form body; a list in `fields` is written once for each of its values."""
    body, document = read_body(
        urlencode(fields if isinstance(fields, dict) else list(fields), doseq=True), "application/x-www-form-urlencoded"
    )
    return Call("twilio", method, "https", host, path, query=form_pairs(query), body=body, document=document, account=vendor.account(path))


def call_json(path: str, document: Any, host: str, method: str = "POST") -> Call:
    """Return a call with a JSON body."""
    body, parsed = read_body(json.dumps(document), "application/json")
    return Call("twilio", method, "https", host, path, body=body, document=parsed)


def message(**fields: Any) -> Call:
    """Return a message to a US number; fields replace what it says."""
    return call(fields={"To": US, "From": US_TOO, "Body": "hello", **fields})


def phone(**fields: Any) -> Call:
    """Return a phone call to a US number of at most a minute; fields replace what it says, None leaves one out."""
    said = {"To": US, "From": US_TOO, "Url": "https://example.com/voice", "TimeLimit": "60", **fields}
    return call(f"{API}/Calls.json", {name: value for name, value in said.items() if value is not None})


def quoted(made: Call) -> Quote:
    """Drive a quote by hand: it asks nothing."""
    quoting = vendor.quote(made, vendor.classify(made))
    with pytest.raises(StopIteration) as stopped:
        next(quoting)
    found: Quote = stopped.value.value
    return found


def amount(made: Call) -> int:
    """Return a quote's amount, of a request that has a bound."""
    found = quoted(made)

    assert found.unbounded is None
    return found.amount


def answered(made: Call, status: int, body: Any = None, *, quote: Quote | None = None) -> Outcome:
    """Return what the plug reads from a reply with this body (bytes as they are)."""
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    return vendor.read(made, vendor.classify(made), quoted(made) if quote is None else quote, Reply(status, {}, content))
