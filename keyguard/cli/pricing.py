"""What `keyguard prices` does: shows the price list in force, and reads a new one from Twilio's Pricing API. Prints nothing.

What is refreshed is the part that the Pricing API has: SMS, voice and numbers, by country, in the prices of the account that asks
(its discounts included), the dearest over carriers, kinds of numbers and origins. The rest stays as keyguard comes with it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import platformdirs

from keyguard import context
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.model import MICROS_PER_USD
from keyguard.settings import load_settings
from keyguard.vendors import _twilio_prices as prices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_TIMEOUT = 30.0  # seconds
_MOST_PAGES = 50
_UNAUTHORIZED = frozenset({401, 403})
_NOT_FOUND = 404

Usd = dict[str, Decimal]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """
    What a refresh did.

    Attributes:
        path: The file that was written.
        counts: Block → how many prices were read.
        changes: Block, key, dollars before (None = there was none) and after.
    """

    path: Path
    counts: dict[str, int]
    changes: tuple[tuple[str, str, str | None, str], ...] = field(repr=False)


def check_vendor(vendor: str) -> None:
    """
    Accept the vendor that has a list by country.

    Raises:
        ConfigurationError: any other.
    """
    if vendor != "twilio":
        raise ConfigurationError(f"only twilio has a price list to show or refresh, not {vendor!r}")


def listed() -> dict[str, Any]:
    """Return the price list in force, in dollars as text."""
    context.set_price_files(load_settings().price_files)
    found = prices.current()
    usd = {block: {key: _dollars(price) for key, price in sorted(of.items())} for block, of in found.usd.items()}
    defaults = {block: _dollars(price) for block, price in found.defaults.items()}
    return {"date": found.date.isoformat(), "source": found.source, "usd": usd, "default": defaults, "limits": dict(found.limits)}


def refresh_twilio(into: str | None, countries: str | None, base_url: str, *, today: Callable[[], date] | None = None) -> Refreshed:
    """
    Read the account's prices and write them into a file that `KEYGUARD_TWILIO_PRICES_FILE` can name.

    Args:
        into: The file; None = the one that the setting names, else one beside the user's own ledger.
        countries: ISO codes with commas between; None = all. What the file has of other countries stays.
        base_url: Of the Pricing API.
        today: The date that the file gets.

    Raises:
        ConfigurationError: no credentials, no such country code, or a file that cannot be written.
        KeyguardError: the API could not be read.
    """
    path = _target(into)
    before = _before(path)
    day = today() if today is not None else datetime.now(timezone.utc).date()
    with context.own_traffic(), _client(base_url) as client:
        read = {block: dict(_read(client, block, _codes(countries))) for block in _RESOURCES}
    if not any(read.values()):
        raise KeyguardError("Twilio's Pricing API listed no price at all, so nothing was written")
    _write(path, read, day, is_whole=countries is None)
    changes = _changes(before, read)
    return Refreshed(path, {block: len(of) for block, of in read.items()}, tuple(changes))


# -- the API ---------------------------------------------------------------------------------------


def _client(base_url: str) -> httpx.Client:
    names = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN")
    user, password = (os.environ.get(name, "") for name in names)
    if not user or not password:
        raise ConfigurationError(f"set {' and '.join(names)}: the Pricing API shows the prices of the account that asks")
    url = httpx.URL(base_url)
    if url.scheme != "https" and url.host not in _LOOPBACK:
        raise ConfigurationError(f"the account's secret goes only over https, not to {base_url!r}")
    return httpx.Client(base_url=url, auth=(user, password), timeout=_TIMEOUT)


def _codes(countries: str | None) -> tuple[str, ...]:
    found = tuple(code.strip().upper() for code in countries.split(",")) if countries is not None else ()
    wrong = [code for code in found if len(code) != 2 or not code.isalpha() or not code.isascii()]
    if wrong:
        raise ConfigurationError(f"expected ISO codes of countries such as US,CA, got {', '.join(map(repr, wrong))}")
    return found


def _read(client: httpx.Client, block: str, codes: tuple[str, ...]) -> Iterator[tuple[str, Decimal]]:
    """Yield the prices of one block, key by key."""
    resource, read = _RESOURCES[block]
    for code in codes or tuple(_listed_codes(client, resource)):
        found = _get(client, f"{resource}/{code}", is_optional=bool(codes))
        if found is None:
            continue
        unit = str(found.get("price_unit") or "USD").upper()
        if unit != "USD":
            raise KeyguardError(f"Twilio lists this account's prices in {unit}, and keyguard counts US dollars: write the file by hand")
        try:
            yield from read(code, found)
        except (KeyError, TypeError, AttributeError, InvalidOperation) as error:
            raise KeyguardError(f"Twilio's answer to {resource}/{code} is not what it documents ({type(error).__name__})") from error


def _listed_codes(client: httpx.Client, resource: str) -> Iterator[str]:
    path = f"{resource}?PageSize=1000"
    for _ in range(_MOST_PAGES):
        page = cast("dict[str, Any]", _get(client, path))
        yield from (str(item["iso_country"]) for item in page.get("countries") or [] if item.get("iso_country"))
        following = (page.get("meta") or {}).get("next_page_url")
        if not following:
            return
        # Only its path: the account's secret goes to no host that an answer names.
        path = httpx.URL(str(following)).raw_path.decode()


def _get(client: httpx.Client, path: str, *, is_optional: bool = False) -> dict[str, Any] | None:
    try:
        reply = client.get(path)
        if reply.status_code == _NOT_FOUND and is_optional:
            return None
        found: Any = reply.json() if reply.is_success else None
    except httpx.HTTPError as error:
        raise KeyguardError(f"Twilio's Pricing API could not be reached: {type(error).__name__}: {error}") from error
    except ValueError:
        raise KeyguardError(f"Twilio's answer to {path.partition('?')[0]} is not JSON") from None
    if reply.status_code in _UNAUTHORIZED:
        raise KeyguardError(f"Twilio refused the credentials (HTTP {reply.status_code}): look at TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN")
    if not isinstance(found, dict):
        raise KeyguardError(f"Twilio answered {path.partition('?')[0]} with HTTP {reply.status_code}; nothing was written, try again later")
    return cast("dict[str, Any]", found)


def _price(found: Mapping[str, Any]) -> Decimal:
    """Return what the account pays now, rounded up to a micro-dollar."""
    price = Decimal(str(found["current_price"])).quantize(Decimal("0.000001"), rounding="ROUND_CEILING")
    if not price.is_finite() or price < 0:
        raise InvalidOperation("no price")
    return price.normalize()


def _sms(code: str, found: Mapping[str, Any]) -> Iterator[tuple[str, Decimal]]:
    every = [_price(price) for carrier in found["outbound_sms_prices"] or [] for price in carrier["prices"]]
    if every:
        yield code, max(every)


def _voice(code: str, found: Mapping[str, Any]) -> Iterator[tuple[str, Decimal]]:
    """Yield a country's dearest minute, and the minute of each prefix: all of them, because the longest one counts."""
    dearest: Usd = {}
    for price in found["outbound_prefix_prices"] or []:
        for prefix in price.get("destination_prefixes") or price.get("prefixes") or []:
            dearest[str(prefix)] = max(dearest.get(str(prefix), Decimal(0)), _price(price))
    if dearest:
        yield code, max(dearest.values())
    yield from ((f"{code}.{prefix}", price) for prefix, price in dearest.items())


def _numbers(code: str, found: Mapping[str, Any]) -> Iterator[tuple[str, Decimal]]:
    kinds = {str(price["number_type"]).replace(" ", "_"): _price(price) for price in found["phone_number_prices"] or []}
    if kinds:
        yield code, max(kinds.values())
    yield from ((f"{code}.{kind}", price) for kind, price in kinds.items())


_RESOURCES: dict[str, tuple[str, Callable[[str, Mapping[str, Any]], Iterator[tuple[str, Decimal]]]]] = {
    "sms": ("/v1/Messaging/Countries", _sms),
    "voice": ("/v2/Voice/Countries", _voice),
    "numbers": ("/v1/PhoneNumbers/Countries", _numbers),
}


# -- the file --------------------------------------------------------------------------------------


def _target(into: str | None) -> Path:
    # Not by the settings, which demand that the file exists already.
    named = into or os.environ.get("KEYGUARD_TWILIO_PRICES_FILE")
    path = Path(named) if named else platformdirs.user_data_path("keyguard") / "twilio_prices.json"
    if path.suffix != ".json":
        raise ConfigurationError(f"what is refreshed is written as JSON: name a .json file with --into, not {str(path)!r}")
    return path


def _before(path: Path) -> prices.Prices:
    """Return what is in force before a refresh, so that a file with a mistake in it is not overwritten unseen."""
    try:
        return prices.read(path) if path.exists() else prices.shipped()
    except ValueError as error:
        raise ConfigurationError(f"{error}. Mend or remove it first") from None


def _write(path: Path, read: Mapping[str, Usd], day: date, *, is_whole: bool) -> None:
    """Write the whole file or nothing; what it has besides stays, and the older date with prices that were not read again."""
    theirs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for block, of in read.items():
        usd = {key: format(price, "f") for key, price in of.items()}
        kept = {} if is_whole else theirs.get(block, {}).get("usd", {})
        if usd or kept:
            theirs[block] = {**theirs.get(block, {}), "date": day.isoformat(), "usd": dict(sorted({**kept, **usd}.items()))}
    theirs["date"] = day.isoformat() if is_whole else min(day.isoformat(), theirs.get("date", day.isoformat()))
    theirs["source"] = "Twilio's Pricing API, by keyguard prices refresh twilio"
    beside = path.with_name(f".{path.stem}.new.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(theirs, indent=1) + "\n", encoding="utf-8")
        # Read as it will be, before it replaces one that works.
        prices.read(beside)
        beside.replace(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the price list cannot be written to {str(path)!r}: {error}") from None
    finally:
        beside.unlink(missing_ok=True)


def _changes(before: prices.Prices, read: Mapping[str, Usd]) -> Iterable[tuple[str, str, str | None, str]]:
    for block, of in read.items():
        for key, price in sorted(of.items()):
            old = before.usd[block].get(key)
            if old is None or Decimal(old) != price * MICROS_PER_USD:
                yield block, key, None if old is None else _dollars(old), format(price, "f")


def _dollars(amount: int) -> str:
    return format((Decimal(amount) / MICROS_PER_USD).normalize(), "f")
