"""A double as a process of its own: `python -m keyguard.testing.double`, and the client that starts, scripts and ends it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from keyguard.testing.double.controls import Commands, Controls
from keyguard.testing.double.server import ControlHandler
from keyguard.testing.double.truth import Truth

_MODULE = "keyguard.testing.double"
_ENDING = 20.0  # seconds for the process to end after its stdin
_ANSWERING = 60.0  # seconds for an answer of the control endpoint


class _ControlServer(ThreadingHTTPServer):
    """Takes commands on a port of its own, which no fault ever strikes."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, commands: Commands, stop: threading.Event) -> None:
        self._commands, self._stop = commands, stop
        super().__init__(("127.0.0.1", 0), ControlHandler)

    def asked(self, name: str, arguments: dict[str, Any]) -> Any:
        """Do one command; `stop` ends the process."""
        if name == "stop":
            return self._stop.set()
        return self._commands.do(name, arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run a double until it is told to stop, or stdin ends; prints one line of JSON when it listens: `host`, `control`, `pid`."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description="A double of Stripe, Twilio and Resend on loopback.")
    parser.add_argument("--truth", required=True, help="the truth file, which is appended to")
    parser.add_argument("--port", type=int, default=0, help="0 = any that is free")
    parser.add_argument("--window", type=float, default=86_400.0, help="seconds for which idempotency keys are kept")
    wanted = parser.parse_args(arguments)
    commands, stop = Commands(Path(wanted.truth), wanted.port, time.time, wanted.window), threading.Event()
    with contextlib.closing(commands), _ControlServer(commands, stop) as control:
        threading.Thread(target=control.serve_forever, daemon=True).start()
        said = {"host": f"127.0.0.1:{commands.port}", "control": f"127.0.0.1:{control.server_port}", "pid": os.getpid()}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        threading.Thread(target=_await_end, args=(stop,), daemon=True).start()
        stop.wait()
        control.shutdown()


def _await_end(stop: threading.Event) -> None:
    # Not by way of `sys.stdin`, whose lock a thread that still reads would hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    stop.set()


class DoubleProcess(Controls):
    """
    A double in a process of its own, from `with` to its end; killed, it leaves its truth file.

    Args:
        truth: Its truth file, which is appended to.
        port: 0 = any that is free.
        window: Seconds for which the vendors keep idempotency keys.

    Attributes:
        process: Its handle.
    """

    process: subprocess.Popen[str]

    def __init__(self, truth: str | Path, *, port: int = 0, window: float = 86_400.0) -> None:
        self.truth = Truth(truth)
        self._command = [sys.executable, "-m", _MODULE, "--truth", str(truth), "--port", str(port), "--window", str(window)]

    def __enter__(self) -> DoubleProcess:
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            said = json.loads(self._stream(self.process.stdout).readline() or "{}")
            if not said:
                raise RuntimeError(f"the double did not start; it ended with {self.process.wait(_ENDING)}")
        except BaseException:
            self.kill()
            self._close()
            raise
        self.host, self._control = str(said["host"]), str(said["control"])
        return self

    def __exit__(self, *_: object) -> None:
        # A forked child of this process may hold the other end of its stdin; so it is told as well.
        with contextlib.suppress(OSError, HTTPException):
            self._do("stop")
        self._stream(self.process.stdin).close()
        try:
            code = self.process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self._close()
        # Ended by a signal, it was ended by whoever has its handle; an exit code of its own means that it broke.
        if code > 0:
            raise RuntimeError(f"the double ended with {code}; what went wrong is on its stderr")

    def kill(self) -> None:
        """End it with SIGKILL, now."""
        self.process.kill()
        self.process.wait(_ENDING)

    def _do(self, name: str, **arguments: Any) -> Any:
        timeout = _ANSWERING + float(arguments.get("timeout", 0))
        with contextlib.closing(HTTPConnection(self._control, timeout=timeout)) as connection:
            connection.request("POST", f"/_double/{name}", json.dumps(arguments), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = json.loads(answer.read())
        if answer.status != 200:
            # As the double in this process would raise it.
            kind, message = body
            raise {"TimeoutError": TimeoutError, "ValueError": ValueError}.get(kind, RuntimeError)(message)
        return body

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            self._stream(stream).close()

    @staticmethod
    def _stream(stream: Any) -> Any:
        assert stream is not None
        return stream
