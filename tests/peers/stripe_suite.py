"""Stripe's own test suite as a tool: fetched for the installed version, in an environment of its own, run as a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tests.peers.stripe_standin import PORT, READY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
# These two want the internet.
_DESELECTED = ("--deselect", "tests/test_http_client.py::TestLiveHTTPClients")
_PLUGINS = ("-p", "peer_guard", "-p", "no:keyguard", "-p", "no:cacheprovider")
_RAN = {0, 1}  # pytest's exit codes: all passed, some failed
_UNWANTED = ("KEYGUARD_", "STRIPE_", "OTEL_", "PYTEST_", "COVERAGE_", "VIRTUAL_ENV")
_REDIRECTING = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}


class Missing(Exception):
    """Something that the suite needs is not to be had on this machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How one run of the suite ended.

    Attributes:
        failures: Test id → the last line of its failure.
        outcomes: passed, failed, skipped → tests.
        counts: What the guard was handed (sync, async, attempts, doubles) and what its ledger wrote.
    """

    failures: dict[str, str]
    outcomes: Counter[str]
    counts: Counter[str]

    def __str__(self) -> str:
        return ", ".join(f"{count} {word}" for word, count in [*sorted(self.outcomes.items()), *sorted(self.counts.items())])

    @property
    def decisions(self) -> int:
        """Decisions that the guard made: grants and refusals in its ledger."""
        return self.counts["ledger reserve"] + self.counts["ledger refuse"]


@dataclass(frozen=True, slots=True)
class Suite:
    """
    The suite and the interpreter that runs it.

    Attributes:
        folder: Holds `tests/` and `pyproject.toml` of the sdist, and no `stripe` that could hide the installed one.
        python: The environment's interpreter.
    """

    folder: Path
    python: Path

    def run(self, mode: str, *selection: str, broken: str = "", is_strict: bool = False, workers: int = 0) -> Outcome:
        """Run the selected tests under a guard; failures of tests are an outcome, anything else is an error here."""
        with tempfile.TemporaryDirectory() as reports:
            settings = {
                "PEER_GUARD_MODE": mode, "PEER_GUARD_BREAK": broken, "PEER_GUARD_STRICT": "1" if is_strict else "",
                "PEER_GUARD_REPORTS": reports, "PYTHONPATH": str(Path(__file__).parent),
            }  # fmt: skip
            command = [str(self.python), "-m", "pytest", *_PLUGINS, "-q", "--tb=line", "-n", str(workers), *_DESELECTED, *selection]
            ended = subprocess.run(command, cwd=self.folder, env=_clean() | settings, capture_output=True, text=True, check=False)

            assert ended.returncode in _RAN, f"the suite did not run: {(ended.stdout + ended.stderr)[-2000:]}"
            return _read(Path(reports))


def _clean() -> dict[str, str]:
    """Return the environment without what would reach the suite from this machine or from our own tests."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_UNWANTED) and name.upper() not in _REDIRECTING
    }  # fmt: skip


def _read(reports: Path) -> Outcome:
    found = Outcome({}, Counter(), Counter())
    for path in sorted(reports.glob("*.json")):
        report = json.loads(path.read_text())
        found.failures.update(report["failures"])
        found.outcomes.update(report["outcomes"])
        found.counts.update(report["counts"])

    assert found.outcomes["passed"], "the plugin saw no test pass"
    return found


@contextmanager
def standin() -> Iterator[subprocess.Popen[str]]:
    """Keep the spec-driven Stripe running; it is stopped by its own process handle."""
    command = [sys.executable, "-m", "tests.peers.stripe_standin"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline().strip() != READY:
                raise Missing(f"the stand-in cannot listen on port {PORT}, which the suite insists on: {server.communicate()[1][-300:]}")
            yield server
        finally:
            server.terminate()


def prepared() -> Suite:
    """
    Return the suite of the installed stripe; what was fetched is kept in the temp folder for the next run.

    Raises:
        Missing: uv, a package or the sdist is not to be had.
    """
    place = _own_folder()
    environment = place / "env"
    wanted = ["uv", "sync", "--quiet", "--only-group", "peers", "--python", sys.executable]
    _tool(wanted, env={**_without_venv(), "UV_PROJECT_ENVIRONMENT": str(environment)})
    python = environment / "bin" / "python"
    version = _tool([python, "-c", "from importlib.metadata import version; print(version('stripe'))"])
    folder = place / f"stripe-{version}"
    if not folder.exists():
        _fetch(python, version, folder)
    return Suite(folder, python)


def _own_folder() -> Path:
    """Return a folder of this user and this checkout; the temp folder is everybody's."""
    name = f"keyguard-peers-{os.getuid()}-{sha256(str(ROOT).encode()).hexdigest()[:8]}"
    place = Path(tempfile.gettempdir(), name)
    place.mkdir(mode=0o700, exist_ok=True)
    if place.stat().st_uid != os.getuid():
        raise Missing(f"{place} belongs to somebody else")
    return place


def _fetch(python: Path, version: str, folder: Path) -> None:
    """Download the sdist by pip's own settings (the wheel has no tests), and keep the tests of it."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        _tool([python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", work, f"stripe=={version}"])
        unpacked = Path(work, "suite")
        with tarfile.open(next(Path(work).glob("*.tar.gz"))) as archive:
            for member in archive:
                _unpack(archive, member, unpacked)
        # Whole or not at all: the next run trusts what it finds.
        unpacked.rename(folder)


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
    content = archive.extractfile(member) if member.isfile() and ".." not in inside.parts else None
    if content is not None and (inside.parts[0] == "tests" or str(inside) == "pyproject.toml"):
        path = target / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.read())


def _without_venv() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}


def _tool(command: Sequence[str | Path], env: dict[str, str] | None = None) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=300).stdout.strip()
    except FileNotFoundError as error:
        raise Missing(f"{command[0]} is not here") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{' '.join(map(str, command))} failed: {str(error.stderr or error)[-500:]}") from error
