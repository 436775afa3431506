"""Drives an inquiry of a vendor plug by hand: each question is answered from a table, and what was asked is written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from keyguard.model import Doubt, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.vendors._inquiry import Finding, Inquiry

NOW = 1_780_000_000.0
HOUR = 3600.0


def doubt_of(vendor: str, operation: str, **fields: Any) -> Doubt:
    """Return a doubt of two hours ago, of five dollars."""
    known: dict[str, Any] = {
        "reservation_id": "r1", "run_id": "a", "key_id": "k", "scope": "run:a", "vendor": vendor, "account": "", "operation": operation,
        "method": "POST", "object_id": None, "amount": 5_000_000, "at": NOW - 2 * HOUR, "sent_at": NOW - 2 * HOUR, "principal": "c",
    }  # fmt: skip
    return Doubt(**{**known, **fields})


@dataclass
class Script:
    """
    What a vendor answers: path without query → a body, a status, or a list of them, one for each time it is asked.

    Attributes:
        asked: Every question, as path and query.
    """

    answers: Mapping[str, Any]
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list[tuple[str, dict[str, list[str]]]])

    def reply(self, target: str) -> Reply:
        """Answer one question; 404 for what is not in the table."""
        parts = urlsplit(target)
        times = sum(path == parts.path for path, _ in self.asked)
        self.asked.append((parts.path, parse_qs(parts.query)))
        found = self.answers.get(parts.path, 404)
        if isinstance(found, list):
            found = found[min(times, len(found) - 1)]
        if isinstance(found, int):
            return Reply(found, {}, b"{}")
        return Reply(200, {}, found if isinstance(found, bytes) else json.dumps(found).encode())

    def play(self, inquiry: Inquiry) -> Finding:
        """Drive an inquiry to its end."""
        try:
            question = next(inquiry)
            while True:
                question = inquiry.send(self.reply(question.path))
        except StopIteration as stop:
            finding: Finding = stop.value
            return finding


def page(*items: dict[str, Any], more: bool = False) -> dict[str, Any]:
    """Return a page of one of Stripe's lists."""
    return {"object": "list", "data": list(items), "has_more": more}
