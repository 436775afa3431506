"""vcrpy in its two ways: recording, and replaying what was rehearsed."""

from __future__ import annotations

from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from tests.neighbours import Neighbour

if TYPE_CHECKING:
    from collections.abc import Callable


class Cassette(Neighbour):
    """
    A cassette that is entered and left.

    Args:
        mode: vcrpy's record mode: `all` records everything, `none` answers only what the cassette has.
    """

    hooks = frozenset({"aiohttp", "httpx", "httpx2", "requests"})
    hides = frozenset({"aiohttp.async"})

    def __init__(self, mode: Literal["all", "none"]) -> None:
        self._mode = mode
        self.answers = mode == "none"
        self._open = ExitStack()
        self._cassette: Any = None
        self._folder = TemporaryDirectory()

    def prepare(self, rehearse: Callable[[], None]) -> None:
        """Record the rehearsal, where it will be replayed."""
        if self.answers:
            with self._using("all"):
                rehearse()

    def install(self) -> None:
        """Enter the cassette; this imports vcrpy, which keeps the originals that it finds at its import."""
        self._cassette = self._open.enter_context(self._using(self._mode))

    def _using(self, mode: str) -> Any:
        import vcr  # type: ignore[import-untyped]  # -- it has no types

        matching = ["method", "scheme", "host", "port", "path", "body"]
        return vcr.VCR(record_mode=mode, match_on=matching).use_cassette(f"{self._folder.name}/calls.yaml")

    def remove(self) -> None:
        """Leave the cassette, which writes it, and throw it away."""
        self._open.close()
        self._folder.cleanup()

    def seen(self) -> int:
        """Count what it recorded or answered."""
        if self._cassette is None:
            return 0
        return int(self._cassette.play_count) if self.answers else len(self._cassette.data)
