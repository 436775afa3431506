"""The vendors' real secrets: read when they are needed, kept for a short time, shown nowhere."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from keyguard import context
from keyguard.errors import ConfigurationError
from keyguard.model import TOKEN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_COMMAND_SECONDS = 10.0
_LONGEST = 4096


def check_source(vendor: str, source: str) -> None:
    """
    Look at where a secret is said to be; it is not read.

    Raises:
        ValueError: not `env:NAME`, `file:/path` or `command:...`; the text is not repeated, it may be the secret itself.
    """
    kind, _, rest = source.partition(":")
    if kind not in {"env", "file", "command"} or not rest.strip():
        raise ValueError(f"expected env:NAME, file:/path or command:WORDS for the secret of {vendor}")
    if kind == "command":
        shlex.split(rest)


class Secrets:
    """
    The real secrets by vendor.

    Args:
        sources: vendor → `env:NAME`, `file:/path`, `command:WORDS` (run without a shell; its first line is the secret).
        seconds: How long one that was read is used.
        clock: Seconds, growing.
    """

    def __init__(self, sources: Mapping[str, str], seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sources, self._seconds, self._clock = dict(sources), seconds, clock
        self._kept: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Secrets of {', '.join(sorted(self._sources)) or 'nobody'}>"

    def __reduce__(self) -> tuple[type, tuple[dict[str, str], float]]:
        # What was read stays here.
        return Secrets, (self._sources, self._seconds)

    @property
    def vendors(self) -> tuple[str, ...]:
        """Whose secrets there are."""
        return tuple(sorted(self._sources))

    def of(self, vendor: str) -> str:
        """
        Return a vendor's secret.

        Raises:
            ConfigurationError: there is none, or it cannot be read now; says where it should be, and nothing of what was found there.
            WouldBlock: it must be read, on an event loop's thread.
        """
        kept = self._kept.get(vendor)
        if kept is not None and self._clock() < kept[1]:
            return kept[0]
        source = self._sources.get(vendor)
        if source is None:
            raise ConfigurationError(f"this proxy has no secret of {vendor}; nothing was sent. It has those of {', '.join(self.vendors)}.")
        context.check_may_block()
        # One at a time: a hundred calls that find it too old need not run the command a hundred times.
        with self._lock:
            kept = self._kept.get(vendor)
            if kept is None or self._clock() >= kept[1]:
                kept = self._kept[vendor] = (_read(vendor, source), self._clock() + self._seconds)
            return kept[0]


def _read(vendor: str, source: str) -> str:
    kind, _, rest = source.partition(":")
    try:
        found = os.environ.get(rest, "") if kind == "env" else _of_file(rest) if kind == "file" else _of_command(rest)
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError) as error:
        # Neither the path nor the command's words or output: they may say more than they should.
        raise ConfigurationError(
            f"the secret of {vendor} cannot be read from its {kind} ({type(error).__name__}); nothing was sent"
        ) from None
    secret = found.strip()
    if not secret or len(secret) > _LONGEST or not secret.isascii() or not secret.isprintable() or secret.startswith(TOKEN_PREFIX):
        raise ConfigurationError(f"the {kind} for the secret of {vendor} does not hold one; nothing was sent")
    return secret


def _of_file(path: str) -> str:
    with Path(path).open(encoding="utf-8") as file:
        return file.read(_LONGEST + 2)


def _of_command(words: str) -> str:
    done = subprocess.run(  # noqa: S603 -- the operator's own words, without a shell
        shlex.split(words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=True
    )
    return done.stdout.partition("\n")[0]
