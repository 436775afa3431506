"""Twilio's prices: the dated file beside this one, and the user's own over it. Part of the twilio plug; knows no request.

A file is a table of blocks, each with `usd` (key → dollars as text), perhaps a `default` for keys that it does not name, and its
date and source. The user's file (`KEYGUARD_TWILIO_PRICES_FILE`, JSON or TOML) has the same form, needs only a `date`, and replaces
single keys: what `keyguard prices refresh twilio` writes is one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from keyguard import context
from keyguard.model import to_money

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.model import Money

_SHIPPED = Path(__file__).with_name("twilio_prices.json")
_LIMITS = "limits"
_WORDS = frozenset({"per", "date", "source", "default", "default_is", "usd", "count"})
_LARGEST_COUNT = 100_000


@dataclass(frozen=True, slots=True)
class Prices:
    """
    A price list as it is in force.

    Attributes:
        date: When it was read: of the user's list where there is one.
        source: Where.
        usd: Block → key → micro-USD.
        defaults: Block → micro-USD of every other key.
        limits: Counts that bound what a request leaves open.
    """

    date: date
    source: str
    usd: Mapping[str, Mapping[str, Money]]
    defaults: Mapping[str, Money]
    limits: Mapping[str, int]

    def find(self, block: str, *keys: str) -> Money | None:
        """Return the price of the first key that the block has; None = it has none of them."""
        priced = self.usd[block]
        return next((priced[key] for key in keys if key in priced), None)

    def price(self, block: str, *keys: str) -> Money:
        """Return the price of the first key that the block has, else its default."""
        found = self.find(block, *keys)
        return self.defaults[block] if found is None else found

    def minute(self, region: str, kind: str, digits: str) -> Money:
        """Return the price of one minute to a number: by the longest prefix listed for its country, its kind, or the country."""
        voice = self.usd["voice"]
        keys = (f"{region}.{digits[:size]}" for size in range(len(digits), 0, -1))
        found = next((voice[key] for key in keys if key in voice), None)
        if found is not None:
            return found
        # Personal numbers, pagers and shared-cost numbers cost more than their country's list price.
        return self.defaults["voice"] if kind == "special" else self.price("voice", f"{region}.{kind}", region)


def current() -> Prices:
    """Return the list in force."""
    path = context.price_files().get("twilio")
    return shipped() if path is None else loaded(path)


def dated() -> tuple[date, str]:
    """Return when the list in force was read, and where."""
    found = current()
    return found.date, found.source


@cache
def shipped() -> Prices:
    """Return the list that keyguard comes with."""
    return _read(_SHIPPED, None)


@lru_cache(maxsize=4)
def loaded(path: Path) -> Prices:
    """
    Return the shipped list with a file's prices over it; a process reads a file once.

    Raises:
        ValueError: as `read`.
    """
    return read(path)


def read(path: Path) -> Prices:
    """
    Read a file over the shipped list.

    Raises:
        ValueError: a file that cannot be read, has no date, or says what no list can; says what is wrong.
    """
    return _read(path, shipped())


def _read(path: Path, under: Prices | None) -> Prices:
    document = _document(path)
    try:
        blocks = {name: _block(name, value, under) for name, value in document.items() if name not in {"date", "source", "comment"}}
        limits = {name: _count(name, value) for name, value in blocks.pop(_LIMITS, {}).get("count", {}).items()}
        usd = {name: {key: _usd(name, key, price) for key, price in block.get("usd", {}).items()} for name, block in blocks.items()}
        defaults = {name: _usd(name, "default", block["default"]) for name, block in blocks.items() if "default" in block}
        when, source = _date(document.get("date")), str(document.get("source", path.name))
    except ValueError as error:
        raise ValueError(f"the price list {str(path)!r} cannot be used: {error}") from None
    if under is None:
        return Prices(when, source, usd, defaults, limits)
    merged = {name: {**prices, **usd.get(name, {})} for name, prices in under.usd.items()}
    return Prices(when, source, merged, {**under.defaults, **defaults}, {**under.limits, **limits})


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except FileNotFoundError:
        raise ValueError(f"the price list {str(path)!r} does not exist (looked from {str(Path.cwd())!r})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"the price list {str(path)!r} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the price list {str(path)!r} must be a table of blocks, with a date")
    return cast("dict[str, Any]", found)


def _block(name: str, value: Any, under: Prices | None) -> dict[str, Any]:
    if under is not None and name not in {*under.usd, _LIMITS}:
        raise ValueError(f"there is no block {name!r}; known: {', '.join([*sorted(under.usd), _LIMITS])}")
    block = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    odd = sorted(set(block) - _WORDS)
    if not block or odd or not all(isinstance(block.get(word, {}), dict) for word in ("usd", "count")):
        raise ValueError(
            f"block {name!r} must be a table with usd (key = dollars), perhaps default, date and source; odd: {', '.join(odd)}"
        )
    return block


def _usd(block: str, key: str, value: object) -> Money:
    # A fraction as a JSON number is read by its shortest decimal form, so `0.1` is ten cents exactly.
    try:
        return to_money(value)
    except ValueError as error:
        raise ValueError(f"{block}.{key}: {error}") from None


def _count(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST_COUNT:
        raise ValueError(f"{_LIMITS}.{key}: expected a whole number above 0")
    return value


def _date(value: object) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise ValueError("it needs a date = YYYY-MM-DD, the day on which its prices were read") from None
