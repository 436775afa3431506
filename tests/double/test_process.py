"""A double as a process of its own: what it answered is in its file, however it ends; several of them, one after the other."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from typing import TYPE_CHECKING

import pytest

from keyguard.testing.double import DoubleProcess, Fault, Truth, VendorDouble
from tests.double.support import CHARGE, USD, raw

if TYPE_CHECKING:
    from pathlib import Path


def test_killed_it_has_written_all_that_it_answered(tmp_path: Path) -> None:
    """SIGKILL in the middle of a storm of requests: each charge whose answer came is in the file, and each line is whole."""
    truth, answered = Truth(tmp_path / "truth.jsonl"), list[str]()

    def charge(host: str) -> None:
        try:
            while True:
                answered.append(json.loads(raw(host, "POST", "/v1/charges", CHARGE)[2])["id"])
        except (OSError, HTTPException):
            return

    with DoubleProcess(truth.path) as double, ThreadPoolExecutor(8) as pool:
        storm = [pool.submit(charge, double.host) for _ in range(8)]
        # Holds one request more than it kills: the storm is well under way then.
        double.script(Fault("hold_after", after=60))
        double.wait_until_held()
        double.kill()
        for each in storm:
            each.result(30)

    recorded = {row["object"] for row in truth.rows("charge")}
    assert len(answered) >= 52
    assert set(answered) <= recorded
    assert double.process.returncode == -signal.SIGKILL


def test_one_after_another_they_write_one_file(tmp_path: Path) -> None:
    """Ids and sequence numbers go on; what the second does not remember of keys, it executes again, and the file says so."""
    truth = Truth(tmp_path / "truth.jsonl")
    for _ in range(2):
        with DoubleProcess(truth.path) as double:
            raw(double.host, "POST", "/v1/charges", CHARGE, "k")

    assert [row["seq"] for row in truth.rows()] == [1, 2]
    assert len({row["object"] for row in truth.rows()}) == 2
    assert (truth.charged(), truth.executions_of("k")) == (2 * USD, 2)


def test_it_says_where_it_listens_and_ends_with_its_input(tmp_path: Path) -> None:
    """One line of JSON; it goes when whoever started it is gone."""
    command = [sys.executable, "-m", "keyguard.testing.double", "--truth", str(tmp_path / "truth.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert raw(said["host"], "POST", "/v1/charges", CHARGE)[0] == 200
        process.stdin.close()
        assert process.wait(20) == 0

    assert said["pid"] == process.pid
    assert Truth(tmp_path / "truth.jsonl").charged() == USD


@pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning")
def test_it_ends_although_a_forked_child_holds_its_input(tmp_path: Path) -> None:
    """A child of whoever started it inherits the pipe; the end of the block is the end all the same."""
    waiting, go = os.pipe()
    with DoubleProcess(tmp_path / "truth.jsonl") as double:
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(waiting, 1)
            os._exit(0)
    assert double.process.returncode == 0

    os.close(go)
    assert os.waitpid(child, 0)[1] == 0
    os.close(waiting)


def test_one_that_cannot_start_says_so(tmp_path: Path) -> None:
    """Its port is taken; in this process it is the system's own error."""
    with VendorDouble() as other, pytest.raises(OSError, match="in use"), VendorDouble(port=int(other.host.partition(":")[2])):
        pass
    with (
        VendorDouble() as other,
        pytest.raises(RuntimeError, match="did not start"),
        DoubleProcess(tmp_path / "truth.jsonl", port=int(other.host.partition(":")[2])),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set on Linux alone")
def test_one_that_broke_says_so_in_the_end(tmp_path: Path) -> None:
    """Its truth could not be written: its figures are not to be trusted, and the end of the block raises."""
    with pytest.raises(RuntimeError, match="the double ended with 1"), DoubleProcess(tmp_path / "truth.jsonl") as double:
        # Python ignores SIGXFSZ: a file that would grow beyond the limit is an OSError.
        resource.prlimit(double.process.pid, resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(RemoteDisconnected):
            raw(double.host, "POST", "/v1/charges", CHARGE)

    assert Truth(tmp_path / "truth.jsonl").rows() == []


def test_a_word_that_it_does_not_know_is_refused(tmp_path: Path) -> None:
    """The control endpoint says which, as the double in this process would; both go on."""
    with DoubleProcess(tmp_path / "truth.jsonl") as double, VendorDouble() as own:
        for each in (double, own):
            with pytest.raises(ValueError, match="explode"):
                each._do("explode")
        with pytest.raises(RuntimeError, match="unexpected keyword"):
            double._do("held", of="nobody")
        with pytest.raises(ValueError, match="no fault is called"):
            double._do("script", faults=[{"kind": "explode"}])

        assert raw(double.host, "POST", "/v1/charges", CHARGE)[0] == 200


def test_a_double_that_broke_does_not_end_well(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth could not be written: the client gets no answer, nothing is charged, and the end of the double raises."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), VendorDouble() as double:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RemoteDisconnected):
            raw(double.host, "POST", "/v1/charges", CHARGE, "k")
        monkeypatch.undo()
        assert json.loads(raw(double.host, "GET", "/v1/charges")[2])["data"] == []
        assert raw(double.host, "POST", "/v1/charges", CHARGE, "k")[0] == 200

    assert "No space left" in capfd.readouterr().err


def test_kept_connections_are_used_again() -> None:
    """HTTP/1.1: many requests on one connection."""
    with VendorDouble() as double:
        connection = HTTPConnection(double.host, timeout=10)
        for n in range(3):
            connection.request("GET", f"/v1/charges?limit={n + 1}", headers={"Authorization": "Bearer sk_test_1"})
            assert connection.getresponse().read().startswith(b'{"object": "list"')
        connection.close()

        assert len(double.requests()) == 3
