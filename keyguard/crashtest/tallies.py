"""What is counted beside the guard: what workers tell of their charges, and what the vendor's truth file says. No processes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.model import Money


@dataclass(slots=True)
class Spending:
    """
    What came of charges, added up over workers.

    Attributes:
        charged: Went through, as the caller saw it.
        capped: Refused because of the cap.
        wrong: Of these, refused although the refusal itself says that there was room.
        refused: All refusals by their names; `failed`, the same of errors that are no refusals, each try by itself.
        slowest: Seconds of the slowest charge.
    """

    charged: int = 0
    capped: int = 0
    wrong: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    failed: dict[str, int] = field(default_factory=dict[str, int])
    slowest: float = 0.0

    def add(self, told: dict[str, Any]) -> None:
        """Add what a worker tells."""
        self.charged += told["charged"]
        self.capped += told["capped"]
        self.wrong += told["wrong"]
        self.slowest = max(self.slowest, told["slowest"])
        for mine, its in ((self.refused, told["refused"]), (self.failed, told["failed"])):
            for name, count in its.items():
                mine[name] = mine.get(name, 0) + count


class Till:
    """What the vendor charged customers whose names begin with a prefix, read from the truth file as it grows."""

    def __init__(self, path: Path, prefix: str) -> None:
        self._path, self._prefix = path, prefix
        self._read, self.total = 0, 0
        self.by_customer: dict[str, int] = {}

    def look(self) -> Money:
        """Return what was charged by now, micro-USD."""
        with self._path.open("rb") as truth:
            truth.seek(self._read)
            lines = truth.read()
        whole = lines.rfind(b"\n") + 1
        self._read += whole
        for line in lines[:whole].splitlines():
            row = json.loads(line)
            if row["kind"] == "charge" and row["customer"].startswith(self._prefix):
                self.total += row["micros"]
                self.by_customer[row["customer"]] = self.by_customer.get(row["customer"], 0) + 1
        return self.total
