"""The examples that go through a proxy, run as users run them: what their processes are given, and what can be seen of one from outside."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.proxy.support import ADMIN, RESEND_SECRET, STRIPE_SECRET, TWILIO_SECRET
from tests.support_prefect import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.proxy.support import Proxy

EXAMPLES = Path(__file__).parents[2] / "examples"
SECRETS = tuple(secret.encode() for secret in (STRIPE_SECRET, TWILIO_SECRET, RESEND_SECRET))
# Waits when all is done, so that it can be looked at, until its stdin is closed.
_HELD = """
import atexit, runpy, sys
atexit.register(lambda: (print("over", flush=True), sys.stdin.read()))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_WRITABLE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw")


def given(proxy: Proxy, prefect: str, folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a flow whose calls go through a proxy; no vendor's secret is in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KEYGUARD_", "STRIPE_"))}
    places = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": prefect, "KEYBRAKE_PROXY": proxy.url, "KEYBRAKE_API_KEY": ADMIN}
    ledger = {"KEYGUARD_URL": proxy.url, "KEYGUARD_FRONT_LEDGER": f"sqlite:///{folder / 'front.db'}"}
    return {**kept, **ENVIRONMENT, **places, **ledger, **more}


def ran(script: str, *arguments: str, env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


class Held:
    """
    An example that has done its work, and is still there.

    Attributes:
        said: What it wrote to stdout.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        assert process.stdout is not None
        self.said = "".join(iter(process.stdout.readline, "over\n"))

    @property
    def complaints(self) -> str:
        """What it wrote to stderr."""
        return self._log.read_text()

    @property
    def environ(self) -> bytes:
        """The environment that it was started with, as the system has it."""
        return Path(f"/proc/{self._process.pid}/environ").read_bytes()

    def holds(self, *texts: bytes) -> list[bool]:
        """Say which of some texts are anywhere in its memory: in whatever it can write to."""
        found = [False] * len(texts)
        for memory in self._memory():
            found = [known or text in memory for known, text in zip(found, texts, strict=True)]
        return found

    def _memory(self) -> Iterator[bytes]:
        place = Path(f"/proc/{self._process.pid}")
        with (place / "mem").open("rb", buffering=0) as memory:
            for start, end in _WRITABLE.findall((place / "maps").read_text()):
                memory.seek(int(start, 16))
                yield memory.read(int(end, 16) - int(start, 16))

    def end(self) -> int:
        """Let it go; returns how it ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(60)


@contextlib.contextmanager
def held(script: str, *arguments: str, env: dict[str, str], folder: Path) -> Iterator[Held]:
    """Run an example, and keep it when it has done its work, for the block."""
    log, command = folder / "stderr.txt", [sys.executable, "-W", "error", "-c", _HELD, str(EXAMPLES / script), *arguments]
    with (
        log.open("w") as complaints,
        subprocess.Popen(
            command, env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
        ) as process,
    ):
        try:
            yield Held(process, log)
        finally:
            process.kill()
