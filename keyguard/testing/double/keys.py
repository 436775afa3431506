"""What a vendor remembers of idempotency keys. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyguard.testing.double.messages import Answer

# Stripe, "Idempotent requests" (2026-09-30): keys may be pruned "after they're at least 24 hours old"; Resend keeps them 24 hours.
DAY = 86_400.0


@dataclass(slots=True)
class Kept:
    """
    One key in use.

    Attributes:
        fingerprint: Of the request that used it first.
        since: When that was, in seconds.
        answer: Kept answer; None while the request is in flight.
    """

    fingerprint: str
    since: float
    answer: Answer | None = None


class Keys:
    """
    The keys of one vendor.

    Args:
        window: Seconds after which an answered key is forgotten, and executes again.
    """

    def __init__(self, window: float = DAY) -> None:
        self.window = window
        self._kept: dict[tuple[str, ...], Kept] = {}

    def claim(self, key: tuple[str, ...], fingerprint: str, now: float) -> Kept | None:
        """Return what is known of a key; None if nothing is, and then it is this request's, in flight."""
        found = self._kept.get(key)
        # In flight it is never forgotten, whatever its age.
        if found is not None and (found.answer is None or now - found.since < self.window):
            return found
        self._kept[key] = Kept(fingerprint, now)
        return None

    def keep(self, key: tuple[str, ...], answer: Answer) -> None:
        """Answer a key that is in flight."""
        self._kept[key].answer = answer

    def forget(self, key: tuple[str, ...]) -> None:
        """Let a key go as if it had never come."""
        del self._kept[key]
