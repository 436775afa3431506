"""Compares a policy's rules with what the vendors' operations have: a rule that can never hold, or never matter, is an error at once."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from keyguard.errors import ConfigurationError
from keyguard.vendors import known_vendors, vendor_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyguard.model import Policy

_MOST_NAMED = 40


def check_rules(policy: Policy) -> None:
    """
    Look every operation and field of a policy's rules up.

    Raises:
        ConfigurationError: an operation that no vendor has, or more than one; a field that the operation does not have.
    """
    for name, rules in (policy.rules or {}).items():
        vendor, _, operation = name.rpartition(":")
        one = vendor or policy.vendor
        tables = {of: vendor_named(of).parameters() for of in ((one,) if one else known_vendors())}
        fields = _fields_of(name, operation, tables)
        for field in rules:
            if fields is not None and field.partition("[")[0] not in fields:
                raise ConfigurationError(f"rules[{name!r}]: {_no('field', field, fields)}. Its fields: {_named(fields)}")


def _fields_of(name: str, operation: str, tables: Mapping[str, Mapping[str, frozenset[str] | None]]) -> frozenset[str] | None:
    having = [vendor for vendor, table in tables.items() if operation in table]
    if not having:
        every = [known for table in tables.values() for known in table]
        raise ConfigurationError(f"rules[{name!r}]: {_no('operation', operation, every)}, of the vendors {', '.join(tables)}")
    if len(having) > 1:
        which = " or ".join(repr(f"{vendor}:{operation}") for vendor in having)
        raise ConfigurationError(f"rules[{name!r}]: several vendors have this operation; write {which}")
    return tables[having[0]][operation]


def _no(kind: str, name: str, known: Iterable[str]) -> str:
    spelt = {one.lower(): one for one in known}
    close = [spelt[found] for found in get_close_matches(name.lower(), spelt, n=3)]
    return f"there is no {kind} {name!r}" + (f"; did you mean {' or '.join(close)}?" if close else "")


def _named(fields: frozenset[str]) -> str:
    more = len(fields) - _MOST_NAMED
    return (", ".join(sorted(fields)[:_MOST_NAMED]) or "none") + (f" and {more} more" if more > 0 else "")
