"""Peers from npm: found, installed once outside git, started on a free loopback port and stopped by their own handle."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[1]
_VERSIONS = Path(__file__).parent / "peers" / "package.json"
# Ignored by git, and kept between runs: one folder for each package and version.
_CACHE = ROOT / "build" / "node"
_INSTALLING = 300
_STARTING = 60
_STOPPING = 10


class Missing(Exception):
    """Node, npm or a package is not to be had on this machine."""


@dataclass(frozen=True, slots=True)
class Peer:
    """
    A server that runs.

    Attributes:
        url: Its base, `http://127.0.0.1:PORT`.
        process: Its own handle.
        log: What it printed so far.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def host(self) -> str:
        """Where it listens, as `KEYGUARD_VENDOR_HOSTS` wants it."""
        return self.url.removeprefix("http://")

    def printed(self) -> str:
        """Return what it printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def skip_or_fail(missing: Missing) -> NoReturn:
    """Skip a test whose peer cannot be had, with the reason; in CI, which must not lose it silently, fail."""
    if os.environ.get("CI"):
        pytest.fail(str(missing))
    pytest.skip(str(missing))


@cache
def node() -> str:
    """
    Return the path of Node 18 or later.

    Raises:
        Missing: there is none.
    """
    found = shutil.which("node")
    if found is None:
        raise Missing("Node is not installed")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    major = said.removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < 18:
        raise Missing(f"Node 18 or later is needed, found {said or 'nothing that says its version'}")
    return found


@cache
def package(name: str) -> Path:
    """
    Return the folder of an installed package, whose dependencies are installed beside it; installs it the first time.

    Raises:
        Missing: Node or the package cannot be had.
    """
    return _kept(name, "", _install) / "node_modules" / name


@cache
def unpacked(name: str) -> Path:
    """
    Return the folder of a package's own files alone, for packages that are only read.

    Raises:
        Missing: Node or the package cannot be had.
    """
    return _kept(name, "-files", _unpack) / "package"


@contextmanager
def node_peer(
    name: str, args: Sequence[str], *, script: str | None = None, env: Mapping[str, str] | None = None, starting: float = _STARTING
) -> Iterator[Peer]:
    """
    Run a server of a package until the block ends.

    Args:
        name: The package, which tests/peers/package.json pins.
        args: Its arguments; `{port}` in them, and in the values of `env`, is the port it must listen on.
        script: Its program inside the package; None = what it declares as its (first) `bin`.
        env: Added to the environment.
        starting: Seconds until it must accept connections.

    Raises:
        Missing: Node or the package cannot be had.
    """
    folder, port = package(name), _free_port()
    command = [node(), str(folder / (script or _bin(folder))), *(arg.format(port=port) for arg in args)]
    added = {key: value.format(port=port) for key, value in (env or {}).items()}
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        with log.open("wb") as writing:
            process = subprocess.Popen(
                command, cwd=place, env=os.environ | added, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.STDOUT
            )
        try:
            peer = Peer(f"http://127.0.0.1:{port}", process, log)
            _await_start(peer, port, starting)
            yield peer
        finally:
            _stop(process)


def _await_start(peer: Peer, port: int, seconds: float) -> None:
    for _ in range(int(seconds * 10)):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        # Waits for its end: a server that could not start says so at once.
        with suppress(subprocess.TimeoutExpired):
            peer.process.wait(0.1)
            break
    raise AssertionError(f"the peer did not start: {peer.printed()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOPPING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOPPING)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _bin(folder: Path) -> str:
    declared = json.loads((folder / "package.json").read_text(encoding="utf-8"))["bin"]
    return declared if isinstance(declared, str) else next(iter(declared.values()))


def _kept(name: str, suffix: str, make: Callable[[str, Path], None]) -> Path:
    """Return the cache's folder of a package, made at most once by all the processes of this machine."""
    version = json.loads(_VERSIONS.read_text(encoding="utf-8"))["dependencies"][name]
    folder = _CACHE / f"{name.replace('/', '+')}@{version}{suffix}"
    node()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=_CACHE) as place:
                make(f"{name}@{version}", Path(place) / "made")
                # Whole or not at all: a run that was killed meanwhile leaves nothing that looks installed.
                (Path(place) / "made").rename(folder)
    return folder


def _install(wanted: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "package.json").write_text("{}", encoding="utf-8")
    _npm("install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", wanted, cwd=folder)


def _unpack(wanted: str, folder: Path) -> None:
    folder.mkdir()
    _npm("pack", "--ignore-scripts", wanted, cwd=folder)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")


def _npm(*arguments: str, cwd: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not installed")
    try:
        ended = subprocess.run([npm, *arguments], cwd=cwd, capture_output=True, text=True, timeout=_INSTALLING, check=False)
    except subprocess.TimeoutExpired:
        raise Missing(f"npm {arguments[0]} took longer than {_INSTALLING} s") from None
    if ended.returncode:
        raise Missing(f"npm {' '.join(arguments)} failed: {ended.stderr[-500:]}")
