"""Strict reading of the fields of a request to Twilio: written once, in the body, as Twilio spells them. Part of the twilio plug."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from keyguard.errors import MalformedCall

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keyguard.model import Call

_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_PLACE = re.compile(r"(\[\d*\])+$")


@lru_cache(maxsize=64)
def _spelt(names: tuple[str, ...]) -> dict[str, str]:
    """Return the names under how they may be misspelt."""
    return {name.lower(): name for name in names}


class Fields:
    """
    Some fields of one request, those that its cost depends on.

    Raises:
        MalformedCall: on reading, for a body that cannot be read, or a field that two readers may read differently.
    """

    def __init__(self, call: Call, *names: str, lists: Iterable[str] = ()) -> None:
        if call.body is None:
            raise MalformedCall(
                "the body of this call cannot be read, so its cost cannot be bounded; send it as Twilio documents it, as a form. "
                "Nothing was sent."
            )
        many = frozenset(lists)
        spelt = _spelt((*names, *many))
        self._values: dict[str, list[str]] = {}
        for written, value, is_in_body in [(*pair, True) for pair in call.body] + [(*pair, not call.is_write) for pair in call.query]:
            name = _PLACE.sub("", written) if "[" in written else written
            known = spelt.get(name.partition("[")[0].strip().lower())
            if known is None:
                continue
            if not is_in_body:
                raise MalformedCall(
                    f"{known} stands in the query of this call; write it in the body, where Twilio reads it. Nothing was sent."
                )
            if name != known or (name != written and known not in many):
                raise MalformedCall(f"{known} must be written as Twilio documents it, got another spelling. Nothing was sent.")
            self._values.setdefault(known, []).append(value)
            if len(self._values[known]) > 1 and known not in many:
                raise MalformedCall(f"{known} is given twice; which one counts is not for keyguard to guess. Nothing was sent.")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str:
        """Return a field's value, "" where it is left out."""
        return self._values.get(name, [""])[0]

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value of a list."""
        return tuple(self._values.get(name, ()))

    def is_set(self, name: str) -> bool:
        """Say whether a switch may be on: given, and not an explicit no."""
        return self.text(name).strip().lower() not in {"", "false", "0", "no", "none", "disable", "disabled"}

    def count(self, name: str, largest: int) -> int | None:
        """
        Return a whole number from 1 on; None where it is left out.

        Raises:
            MalformedCall: anything else.
        """
        if name not in self._values:
            return None
        value = self.text(name)
        if not _NUMBER.fullmatch(value) or not 1 <= int(value) <= largest:
            raise MalformedCall(f"{name} must be a whole number from 1 to {largest:,}, in digits. Nothing was sent.")
        return int(value)
