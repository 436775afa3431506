"""
The process in which every worker is born: `python -m keyguard.crashtest.nursery SOCKET`, and the client that starts it.

It imports what workers need once, opens nothing, and forks a worker for each `fork` on its stdin; the worker connects to the socket by
itself. It ends with its stdin, and its workers with their connection.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from keyguard.errors import KeyguardError

if TYPE_CHECKING:
    from pathlib import Path

# Seconds that a worker may take for an answer, on a machine that others use too.
PATIENCE = 90.0
_ENDING = 10.0


class WorkerFailed(KeyguardError):
    """A process of the crash test ended, or went silent, where it should not."""


class Hand:
    """A worker, seen from whoever tells it what to do; one line of JSON each way."""

    def __init__(self, connection: socket.socket, log: Path) -> None:
        self._connection, self._log, self._read = connection, log, b""
        self.pid = int(self.answer()["pid"])

    def tell(self, do: str, **arguments: Any) -> None:
        """Say what to do."""
        try:
            self._connection.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except OSError as error:
            raise WorkerFailed(f"a worker ended before it could {do}; what was written last: {self.last_words()}") from error

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Say what to do, and return the answer."""
        self.tell(do, **arguments)
        return self.answer()

    def is_ready(self, seconds: float) -> bool:
        """Say whether an answer has come, or comes so soon."""
        return b"\n" in self._read or self._is_readable(seconds)

    def answer(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """
        Return the next answer.

        Raises:
            WorkerFailed: it ended, was silent for too long, or failed.
        """
        until = time.monotonic() + seconds
        while b"\n" not in self._read:
            received = self._connection.recv(65_536) if self._is_readable(until - time.monotonic()) else b""
            if not received:
                raise WorkerFailed(f"a worker ended or hung; what was written last: {self.last_words()}")
            self._read += received
        line, _, self._read = self._read.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        if "broken" in found:
            raise WorkerFailed(f"a worker failed: {found['broken']}")
        return found

    def _is_readable(self, seconds: float) -> bool:
        return _is_readable(self._connection, seconds)

    def last_words(self) -> str:
        """Return what the processes wrote to stderr last."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return lines[-1] if lines else "nothing"

    def kill(self) -> None:
        """End it with SIGKILL, wherever it is, and return when it has ended."""
        # It is alive: it ends by itself only when this connection does, and is reaped by the nursery alone.
        os.kill(self.pid, signal.SIGKILL)
        with suppress(OSError):
            while self._connection.recv(65_536):
                pass
        self._connection.close()

    def let_go(self) -> None:
        """Let it end by itself."""
        with suppress(OSError, WorkerFailed):
            self.tell("end")

    def end(self) -> None:
        """Let it end by itself, or end it where it does not, and return when it has."""
        if self._connection.fileno() < 0:
            return
        self.let_go()
        until = time.monotonic() + _ENDING
        with suppress(OSError):
            while self._is_readable(until - time.monotonic()):
                if not self._connection.recv(65_536):
                    break
            else:
                self.kill()
        self._connection.close()


def _is_readable(found: socket.socket, seconds: float) -> bool:
    """Wait for something to read, or the end."""
    poll = select.poll()
    poll.register(found, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


class Nursery:
    """
    The process that forks workers, from `with` to its end.

    Args:
        place: A folder for its socket and its log.
        env: The environment of all workers.
    """

    def __init__(self, place: Path, env: dict[str, str]) -> None:
        self._path, self._log, self._env = place / "hands", place / "workers.log", env

    def __enter__(self) -> Nursery:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        self._listener.settimeout(PATIENCE)
        command = [sys.executable, "-m", "keyguard.crashtest.nursery", str(self._path)]
        with self._log.open("ab") as log:
            # A group of its own, so that a Ctrl-C at the terminal is ours to handle.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=self._env, text=True, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING)
        # What it forked is in its group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def learn(self, modules: list[str]) -> None:
        """Import what workers have been seen to need, so that each of those to come has it when it is born."""
        self._say(f"import {' '.join(modules)}")

    def born(self) -> Hand:
        """
        Return a new worker.

        Raises:
            WorkerFailed: the nursery has ended.
        """
        self._say("fork")
        until = time.monotonic() + PATIENCE
        while not _is_readable(self._listener, 0.2):
            if self._process.poll() is not None or time.monotonic() > until:
                raise self._failed()
        connection, _ = self._listener.accept()
        connection.setblocking(True)
        return Hand(connection, self._log)

    def _say(self, words: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{words}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None

    def _failed(self) -> WorkerFailed:
        return WorkerFailed(f"no worker could be started: {self._log.read_text(errors='replace').strip()[-500:]}")


def main(path: str) -> None:
    """Do what each line of stdin says, until it ends."""
    from keyguard.crashtest.worker import Worker

    for line in sys.stdin:
        _reap()
        word, *names = line.split()
        for name in names:
            # Some are nobody's to import by name; whoever needs them will.
            with suppress(Exception):
                importlib.import_module(name)
        if names:
            # What is here now is shared with all workers, as long as no collection of theirs touches it.
            gc.collect()
            gc.freeze()
        if word == "fork" and os.fork() == 0:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(path)
            worker = Worker(connection)
            worker.work()
            worker.leave()


def _reap() -> None:
    """Forget the workers that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
