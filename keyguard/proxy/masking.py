"""Keeps a secret from coming down in an answer, should a vendor repeat it there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Mask:
    """
    Puts stars over each place where a secret stands in a stream of bytes, of which no more is held back than what may be its beginning.

    As many stars as the secret has bytes: the length of an answer was said before.

    Args:
        forms: The secret, and what else says it (Basic's base64).
    """

    def __init__(self, forms: Iterable[str]) -> None:
        self._forms = sorted({form.encode() for form in forms if form}, key=len, reverse=True)
        self._rest = b""

    def __repr__(self) -> str:
        return f"<Mask of {len(self._forms)} forms>"

    def whole(self, text: bytes) -> bytes:
        """Return a text that does not go on."""
        for form in self._forms:
            text = text.replace(form, b"*" * len(form))
        return text

    def part(self, part: bytes) -> bytes:
        """Return what may be passed on of a stream now."""
        found = self.whole(self._rest + part)
        keep = max((_begun(found, form) for form in self._forms), default=0)
        self._rest = found[len(found) - keep :]
        return found[: len(found) - keep]

    def rest(self) -> bytes:
        """Return what was held back of a stream that has ended."""
        rest, self._rest = self._rest, b""
        return rest


def _begun(text: bytes, form: bytes) -> int:
    """Return how many bytes at the end of a text are the beginning of a form."""
    longest = min(len(text), len(form) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(form[:size])), 0)
