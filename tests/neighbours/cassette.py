"""vcrpy in its two ways: recording, and replaying what was rehearsed."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable


class Cassette:
    """
    A cassette that is entered and left.

    Args:
        mode: vcrpy's record mode: `all` records everything, `none` answers only what the cassette has.
    """

    hooks = frozenset({"httpx", "requests"})
    stays_under_ours = False

    def __init__(self, mode: Literal["all", "none"]) -> None:
        self._mode = mode
        self.answers = mode == "none"
        self._open = ExitStack()
        self._cassette: Any = None
        self._file = Path(tempfile.mkdtemp()) / "calls.yaml"

    def prepare(self, rehearse: Callable[[], None]) -> None:
        """Record the rehearsal, where it will be replayed."""
        if self.answers:
            with self._using("all"):
                rehearse()

    def install(self) -> None:
        """Enter the cassette; this imports vcrpy, which keeps the originals that it finds at its import."""
        self._cassette = self._open.enter_context(self._using(self._mode))

    def _using(self, mode: str) -> Any:
        import vcr

        matching = ["method", "scheme", "host", "port", "path", "body"]
        return vcr.VCR(record_mode=mode, match_on=matching).use_cassette(str(self._file))

    def remove(self) -> None:
        """Leave the cassette."""
        self._open.close()

    def seen(self) -> int:
        """Count what it recorded or answered."""
        if self._cassette is None:
            return 0
        return int(self._cassette.play_count) if self.answers else len(self._cassette.data)


