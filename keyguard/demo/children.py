"""Starting and stopping the demo's processes. Knows nothing of money or of what they do.

Each child leads a process group of its own, which is what is stopped, by its pid: Prefect's server is
a grandchild. A child also ends when its stdin does, so that none survives a killed parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from keyguard.errors import KeyguardError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

_GRACE_SECONDS = 10.0


class Child:
    """A running process whose stdout is read line by line."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """The process's id, which is its group's as well."""
        return self._process.pid

    def lines(self) -> Iterator[str]:
        """Yield the lines of stdout as they come, until the process closes it."""
        yield from self._process.stdout or ()

    def readline(self) -> str:
        """
        Return the next line of stdout.

        Raises:
            KeyguardError: the process ended without one.
        """
        for line in self.lines():
            return line
        raise KeyguardError(f"a process of the demo ended early: {self._log.read_text(errors='replace').strip()[-500:]}")

    def settle(self) -> None:
        """Give a process that has said its last word time to end by itself."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)

    def stop(self) -> None:
        """End the process and all it started, with force where asking does not help."""
        self._signal(signal.SIGTERM)
        self.settle()
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # The group may outlive its leader; when both are gone there is nothing to do.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


@contextmanager
def started(command: Sequence[str], *, log: Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Generator[Child]:
    """Run a command for the length of the block; its stderr goes to the file `log`."""
    pipe = subprocess.PIPE
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=env, cwd=cwd, text=True, start_new_session=True) as process,
    ):
        child = Child(process, log)
        try:
            yield child
        finally:
            child.stop()


@contextmanager
def stopped_by_sigterm() -> Generator[None]:
    """Turn SIGTERM into SystemExit(143) for the length of the block, so that `finally` blocks run as on Ctrl-C."""

    def leave(number: int, _frame: object) -> None:
        """Leave by the exit code that a shell expects."""
        # A second signal must not interrupt the clean-up that this one starts.
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
