"""Stripe's money, read strictly: parameters of requests, amounts and currencies of objects. Part of the stripe plug."""

from __future__ import annotations

import json
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keyguard import context
from keyguard.errors import MalformedCall, UnpricedCall

if TYPE_CHECKING:
    from keyguard.model import Call, Money

_JSON = json.JSONDecoder()
MINOR_UNIT = 10_000  # micro-USD of one US cent
_AMOUNT = re.compile(r"[0-9]{1,8}")
_UNITS = re.compile(r"[0-9]{1,15}")
# Form parsers strip blanks and leading brackets from a name: `[amount]` and ` amount` arrive as `amount`.
_ROOT = re.compile(r"[\[\]\s\x00]*([^\[\]]*)")
_GUARDED = frozenset(
    [
        "amount",
        "currency",
        "amount_to_capture",
        "amount_to_confirm",
        "confirm",
        "capture_method",
        "final_capture",
        "capture",
        "charge",
        "payment_intent",
    ]
)


# In the order in which they name a person rather than a means.
PAYEES = ("customer", "customer_account", "destination", "cardholder", "payment_method", "source", "payment_intent", "charge")
_COLLECTION = 2  # slashes in `/v1/payment_intents`


def payee(call: Call) -> str:
    """Return whom a write charges or pays, by the first of the parameters that says so; of a write about an object, the object."""
    pairs = dict(call.body or ())
    found = next((f"{name}={pairs[name]}" for name in PAYEES if pairs.get(name)), "")
    return f"{call.path} {found}" if found or call.path.count("/") > _COLLECTION else ""


def parameters(call: Call) -> dict[str, str]:
    """
    Return the money parameters of a priced write, each at most once.

    Raises:
        MalformedCall: the body could not be read; a money parameter is nested, sent twice, or in the query.
    """
    if call.body is None or call.document is not None:
        # Stripe's v1 reads forms only.
        raise MalformedCall(f"the body of POST {call.path} could not be read, so its cost cannot be bounded; nothing was sent")
    found: dict[str, str] = {}
    for name, value in call.body:
        root = root_of(name)
        if root in _GUARDED and (root != name or root in found):
            raise MalformedCall(f"the parameter {root!r} may be sent only once and not nested, got {name!r}; nothing was sent")
        found[name] = value
    for name, _ in call.query:
        if root_of(name) in _GUARDED:
            raise MalformedCall(f"the parameter {root_of(name)!r} of a POST belongs in its body, not in the query; nothing was sent")
    return found


# Forms repeat their few names on every call.
@lru_cache(maxsize=1024)
def root_of(name: str) -> str:
    """Return the name of a parameter without what is nested in it, as a lenient reader would find it."""
    found = _ROOT.match(name)
    return found.group(1).strip(" \t\r\n\x00") if found else name  # pragma: no branch -- the pattern matches everything


def amount_of(found: dict[str, str], name: str, code: str = "usd") -> Money | None:
    """
    Return an amount parameter, in the smallest unit of a currency, as micro-USD; None where it was not sent.

    Raises:
        MalformedCall: it is not 1 to 8 ASCII digits.
        UnpricedCall: no rate is pinned for the currency.
    """
    count = count_of(found, name)
    return None if count is None else micros(count, code)


def count_of(found: dict[str, str], name: str) -> int | None:
    """
    Return an amount parameter as it stands, in the smallest unit of whatever its currency is; None where it was not sent.

    Raises:
        MalformedCall: it is not 1 to 8 ASCII digits.
    """
    text = found.get(name)
    if text is None:
        return None
    if not _AMOUNT.fullmatch(text):
        raise MalformedCall(
            f"{name!r} must be a whole number of cents, 0 to 99999999, written in digits only; got {text[:40]!r}. Nothing was sent."
        )
    return int(text)


def micros(amount: int, code: str) -> Money:
    """
    Turn an amount in the smallest unit of a currency into micro-USD, rounded up.

    Raises:
        UnpricedCall: no rate is pinned for the currency.
    """
    if code == "usd":
        return amount * MINOR_UNIT
    rates = context.rates()
    if rates is None or not is_priced(code):
        raise foreign(code)
    return rates.micros(amount, code, exponents()[code])


def required_amount(found: dict[str, str], name: str = "amount", code: str = "usd") -> Money:
    """
    Return an amount that Stripe requires.

    Raises:
        MalformedCall: it is missing, or cannot be read.
    """
    return micros(required_count(found, name), code)


def required_count(found: dict[str, str], name: str = "amount") -> int:
    """
    Return an amount that Stripe requires, in the smallest unit of whatever its currency is.

    Raises:
        MalformedCall: it is missing, or cannot be read.
    """
    count = count_of(found, name)
    if count is None:
        raise MalformedCall(f"{name!r} is required: a whole number of cents in digits, 0 to 99999999; nothing was sent")
    return count


def check_currency(found: dict[str, str], *, required: bool = False, default: str = "usd") -> str:
    """
    Return the currency of a request, in lower case; the default where it names none.

    Raises:
        MalformedCall: the currency is missing although required, or no currency that Stripe knows.
        UnpricedCall: another currency than usd, for which no rate is pinned.
    """
    text = found.get("currency")
    if text is None and not required:
        return default
    if text is None:
        raise MalformedCall("'currency' is required: a three-letter code such as 'usd'; nothing was sent")
    code = text.lower() if text.isascii() else text
    if code not in exponents():
        raise MalformedCall(
            f"the currency {text[:40]!r} is unknown: expected one of Stripe's three-letter codes, such as 'usd'; nothing was sent"
        )
    if not is_priced(code):
        raise foreign(code)
    return code


def foreign(code: str) -> UnpricedCall:
    """Return the refusal of an amount in another currency."""
    return UnpricedCall(
        f"no exchange rate is pinned for {code!r}, so the cost in US dollars cannot be bounded; nothing was sent. Charge in usd, or pin "
        f"a dated rate: KEYGUARD_FX_FILE=rates.toml or install(fx={{'date': 'YYYY-MM-DD', 'usd_per_unit': {{{code!r}: DOLLARS}}}})"
    )


@cache
def exponents() -> dict[str, int]:
    """Return the decimal places of every currency that Stripe charges in."""
    table = json.loads(Path(__file__).with_name("stripe_currencies.json").read_text(encoding="utf-8"))
    return {code: int(places) for places, codes in table["exponents"].items() for code in codes.split()}


def parsed(body: bytes | None) -> dict[str, Any]:
    """
    Read a reply's JSON object.

    Raises:
        ValueError: there is none.
    """
    # Not `json.loads`, which guesses at an encoding first (Stripe's is UTF-8) and looks for blanks with regular expressions.
    text = (body or b"").decode().strip(" \t\r\n")
    found, end = _JSON.raw_decode(text)
    if end != len(text) or not isinstance(found, dict):
        raise ValueError("the reply is not a JSON object")
    return cast("dict[str, Any]", found)


def units(found: dict[str, Any], name: str, default: Money | None = None) -> Money:
    """
    Return an amount of an object, in the object's own currency, as micro-USD; null counts as absent.

    Raises:
        ValueError: it is neither an int nor a digit string, it is absent without a default, or no rate is pinned for the currency.
    """
    value = found.get(name)
    # JSON's integers have exactly this type; a boolean has another one.
    if type(value) is int and value >= 0:
        amount = value
    elif value is None and default is not None:
        return default
    elif isinstance(value, str) and _UNITS.fullmatch(value):
        amount = int(value)
    else:
        raise ValueError(f"no amount {name}")
    code = currency_of(found) or "usd"
    if not is_priced(code):
        raise ValueError(f"no rate for {code}")
    return micros(amount, code)


def is_priced(code: str) -> bool:
    """Say whether amounts in a currency can be counted: US dollars, or one of Stripe's for which a rate is pinned."""
    return code == "usd" or (code in exponents() and code in (context.rates() or ()))


def currency_of(found: dict[str, Any]) -> str:
    """Return an object's currency in lower case; "" where it names none."""
    return str(found.get("currency") or "").lower()


def id_of(value: object) -> str | None:
    """Return the id of a reference, expanded or not."""
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("id")
    return value if isinstance(value, str) and value else None
