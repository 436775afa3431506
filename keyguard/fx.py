"""A pinned table of exchange rates: one value, read strictly, and the one conversion, which rounds up. No look-ups, no clock."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import date as Date  # noqa: N812 -- the field is called `date`
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import os

_HINT = "an exchange-rate table is a mapping, or a .toml or .json file, such as {'date': '2026-11-20', 'usd_per_unit': {'eur': '1.0842'}}"
_MICROS = 1_000_000


def _to_decimal(value: object) -> object:
    """Read a rate by its shortest decimal form, so that 1.1 is exactly that."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        # Not a TypeError, which pydantic would not report as one of the table's.
        raise ValueError("expected a number")
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise ValueError("expected a number") from None


def _check_codes(rates: dict[str, Decimal]) -> dict[str, Decimal]:
    bad = [code for code in rates if not (len(code) == 3 and code.isascii() and code.isalpha())]
    if bad:
        raise ValueError(f"expected three-letter currency codes, got {', '.join(map(repr, bad[:5]))}")
    lowered = {code.lower(): rate for code, rate in rates.items()}
    if len(lowered) != len(rates):
        raise ValueError("a currency is named twice, in different case")
    if lowered.get("usd", Decimal(1)) != 1:
        raise ValueError("usd is 1")
    return lowered


def _check_date(value: object) -> object:
    if isinstance(value, str) and len(value) != len("2026-11-20"):
        raise ValueError("expected a day such as 2026-11-20")
    return value


_Rate = Annotated[Decimal, BeforeValidator(_to_decimal), Field(gt=0, lt=1_000_000, allow_inf_nan=False)]


class Rates(BaseModel):
    """
    A dated table.

    Attributes:
        date: The day that the rates are of.
        source: Where they are from, for people.
        haircut: What is added to each amount because a rate may move before it is charged: 0.02 = two per cent.
        usd_per_unit: US dollars for one unit (not one cent) of each currency.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    date: Annotated[Date, BeforeValidator(_check_date)]
    source: str = ""
    haircut: Annotated[Decimal, BeforeValidator(_to_decimal), Field(ge=0, le=1)] = Decimal(0)
    usd_per_unit: Annotated[dict[str, _Rate], AfterValidator(_check_codes), Field(min_length=1)]

    def __contains__(self, code: str) -> bool:
        return code in self.usd_per_unit

    def micros(self, amount: int, code: str, exponent: int) -> int:
        """
        Turn an amount in the smallest unit of a currency into micro-USD, with the haircut, rounded up.

        Args:
            amount: How many of the smallest unit.
            code: Of the currency, in lower case; it must be in the table.
            exponent: How many of the smallest unit make one unit, as a power of ten: 2 for cents.
        """
        rate: Fraction = Fraction(self.usd_per_unit[code]) * (1 + Fraction(self.haircut)) * _MICROS / 10**exponent
        return math.ceil(amount * rate)


def load_rates(table: str | os.PathLike[str] | Mapping[str, Any] | Rates) -> Rates:
    """
    Read a table from a file or a mapping.

    Raises:
        ValueError: it has no date, an unknown member, a rate that is no number above 0, or cannot be read; says what is expected.
    """
    if isinstance(table, Rates):
        return table
    found = table if isinstance(table, Mapping) else _from_file(table)
    try:
        return Rates.model_validate(found)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors())
        raise ValueError(f"bad exchange-rate table: {said}. {_HINT}") from None


def _from_file(place: str | os.PathLike[str]) -> object:
    try:
        path = Path(place)
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text, parse_float=Decimal)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"the exchange-rate table {str(place)!r} cannot be read: {error}. {_HINT}") from None
