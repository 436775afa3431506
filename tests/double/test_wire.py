"""Each fault as a client meets it on its socket, with a double in this process and one in its own; the truth file judges."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING

import pytest

from keyguard.testing.double import DoubleProcess, Fault, Truth, VendorDouble
from tests.double.support import CHARGE, USD, raw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keyguard.testing.double import Controls

PATH = "/v1/charges"


@pytest.fixture(scope="module", params=["in this process", "its own process"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controls]:
    """One double for the tests below."""
    if request.param == "in this process":
        with VendorDouble() as found:
            yield found
    else:
        with DoubleProcess(tmp_path_factory.mktemp("double") / "truth.jsonl") as found:
            yield found


@pytest.fixture
def double(running: Controls) -> Iterator[Controls]:
    """The double, with nothing scripted."""
    running.clear()
    yield running
    running.clear()


@pytest.fixture
def before(double: Controls) -> int:
    """What it had charged before the test."""
    return double.truth.charged()


def test_a_request_is_answered_and_written_down(double: Controls, before: int) -> None:
    """The line is in the file when the answer is here."""
    status, headers, body = raw(double.host, "POST", PATH, CHARGE, "wire-1", timeout=10)

    assert (status, headers["content-type"], headers["request-id"][:4]) == (200, "application/json", "req_")
    assert json.loads(body)["id"] == double.truth.rows()[-1]["object"]
    assert (double.truth.charged() - before, double.truth.rows()[-1]["key"]) == (USD, "wire-1")


@pytest.mark.parametrize(
    ("fault", "moved"),
    [(Fault("close_before"), 0), (Fault("reset_before"), 0), (Fault("close_after"), USD), (Fault("reset_after"), USD)],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_connection_ends_without_a_word(double: Controls, before: int, fault: Fault, moved: int) -> None:
    """Executed or not, the client sees no byte; the next request with the key tells which it was."""
    key = f"{fault.kind}-{before}"
    double.script(fault)
    with pytest.raises((RemoteDisconnected, ConnectionResetError)) as ended:
        raw(double.host, "POST", PATH, CHARGE, key)

    assert double.truth.charged() - before == moved
    assert isinstance(ended.value, RemoteDisconnected) is fault.kind.startswith("close")
    _, headers, _ = raw(double.host, "POST", PATH, CHARGE, key)
    assert ("idempotent-replayed" in headers, double.truth.charged() - before) == (moved > 0, USD)
    assert double.struck() == 1


@pytest.mark.parametrize(
    ("fault", "status", "moved", "replayed"),
    [
        (Fault("error_before"), 500, 0, True),
        (Fault("error_after"), 500, USD, True),
        (Fault("decline"), 402, 0, True),
        (Fault("unauthorized"), 401, 0, False),
        (Fault("forbidden"), 403, 0, False),
        (Fault("missing"), 404, 0, False),
        (Fault("conflict"), 409, 0, False),
        (Fault("rate_limit"), 429, 0, False),
        (Fault("unavailable"), 503, 0, False),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_an_answer_that_is_none(double: Controls, before: int, fault: Fault, status: int, moved: int, replayed: bool) -> None:
    """What Stripe keeps is replayed; what it does not keep, leaves the key to the next request."""
    key = f"{fault.kind}-{before}"
    double.script(fault)
    first = raw(double.host, "POST", PATH, CHARGE, key)
    assert (first[0], double.truth.charged() - before) == (status, moved)

    again = raw(double.host, "POST", PATH, CHARGE, key)
    assert ("idempotent-replayed" in again[1], again[0]) == (replayed, status if replayed else 200)
    assert double.truth.charged() - before == (moved if replayed else USD)


def test_a_replay_uses_up_no_fault_of_execution(double: Controls, before: int) -> None:
    """It is answered as it was; the next request that executes is struck."""
    key = f"replay-{before}"
    raw(double.host, "POST", PATH, CHARGE, key)
    double.script(Fault("decline"))

    assert raw(double.host, "POST", PATH, CHARGE, key)[0] == 200
    assert (double.struck(), raw(double.host, "POST", PATH, CHARGE)[0]) == (0, 402)


def test_a_body_is_cut_short(double: Controls, before: int) -> None:
    """The head promises more than comes; it was executed, and is replayed whole."""
    key = f"truncate-{before}"
    double.script(Fault("truncate"))
    with pytest.raises(IncompleteRead) as short:
        raw(double.host, "POST", PATH, CHARGE, key)
    again = raw(double.host, "POST", PATH, CHARGE, key)

    assert again[2].startswith(short.value.partial)
    assert 0 < len(short.value.partial) < len(again[2])
    assert double.truth.charged() - before == USD


def test_a_body_that_is_whole_and_no_json(double: Controls, before: int) -> None:
    """The head promises what comes, and what comes is half of the answer; it is replayed whole."""
    key = f"garble-{before}"
    double.script(Fault("garble"))
    status, _, half = raw(double.host, "POST", PATH, CHARGE, key)
    with pytest.raises(ValueError):
        json.loads(half)
    again = raw(double.host, "POST", PATH, CHARGE, key)

    assert (status, again[2].startswith(half), again[1]["idempotent-replayed"]) == (200, True, "true")
    assert double.truth.charged() - before == USD


def test_a_body_that_drips(double: Controls, before: int) -> None:
    """It comes byte by byte, and whole in the end; a client that limits its wait between bytes never sees the end."""
    double.script(Fault("drip", seconds=0.0001), Fault("drip", seconds=60))
    status, _, body = raw(double.host, "POST", PATH, CHARGE)
    assert (status, json.loads(body)["amount"]) == (200, 100)

    with pytest.raises(TimeoutError):
        raw(double.host, "POST", PATH, CHARGE, timeout=0.2)
    double.wait_until_quiet()
    assert double.truth.charged() - before == 2 * USD


@pytest.mark.parametrize(("kind", "moved"), [("hold_before", 0), ("hold_after", USD)])
def test_a_request_is_held_until_it_is_released(double: Controls, before: int, kind: str, moved: int) -> None:
    """Meanwhile its key is in use; a client that gave up does not keep the vendor from executing."""
    key = f"{kind}-{before}"
    double.script(Fault(kind))  # type: ignore[arg-type]  # -- one of the kinds
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(raw, double.host, "POST", PATH, CHARGE, key, timeout=0.3)
        double.wait_until_held()
        assert (double.held(), double.truth.charged() - before) == (1, moved)
        assert raw(double.host, "POST", PATH, CHARGE, key)[0] == 409
        with pytest.raises(TimeoutError):
            asked.result()

    double.release()
    double.wait_until_quiet()
    assert double.truth.charged() - before == USD
    assert raw(double.host, "POST", PATH, CHARGE, key)[1]["idempotent-replayed"] == "true"
    assert double.truth.charged() - before == USD


def test_a_hold_ends_by_itself(double: Controls, before: int) -> None:
    """After its seconds it goes on."""
    double.script(Fault("hold_before", seconds=0.05))

    assert raw(double.host, "POST", PATH, CHARGE)[0] == 200
    assert (double.held(), double.truth.charged() - before) == (0, USD)


def test_connections_are_refused_for_a_while(double: Controls, before: int) -> None:
    """Nobody listens, kept connections are gone; afterwards it is the same double on the same port."""
    raw(double.host, "POST", PATH, CHARGE, f"refuse-{before}")
    with double.refusing(), pytest.raises(ConnectionRefusedError):
        raw(double.host, "POST", PATH, CHARGE)

    assert raw(double.host, "POST", PATH, CHARGE, f"refuse-{before}")[1]["idempotent-replayed"] == "true"
    assert double.truth.charged() - before == USD


def test_a_request_that_was_cut_off_never_arrived(double: Controls, before: int) -> None:
    """The head promises a body that does not come."""
    host, _, port = double.host.partition(":")
    arrived = len(double.requests())
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/charges HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk_test_1\r\nContent-Length: 60\r\n\r\namount=1")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""

    assert (len(double.requests()), double.truth.charged() - before) == (arrived, 0)


@pytest.mark.parametrize(
    ("header", "status"),
    [("Content-Length: 99999999", 413), ("Content-Length: -1", 400), ("Content-Length: x", 400), ("Transfer-Encoding: chunked", 411)],
)
def test_a_body_out_of_bounds_is_refused(double: Controls, before: int, header: str, status: int) -> None:
    """It is not read."""
    host, _, port = double.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"POST /v1/charges HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
        assert connection.recv(12) == f"HTTP/1.1 {status}".encode()


def test_its_clock_can_be_moved_on(double: Controls, before: int) -> None:
    """A day later a key is forgotten, and the same request charges again."""
    key = f"clock-{before}"
    raw(double.host, "POST", PATH, CHARGE, key)
    then = double.now()
    double.advance(86_400)
    raw(double.host, "POST", PATH, CHARGE, key)

    assert double.now() - then >= 86_400
    assert (double.truth.charged() - before, double.truth.executions_of(key)) == (2 * USD, 2)


def test_what_arrived_can_be_read(double: Controls, before: int) -> None:
    """Without credentials; with what struck it."""
    double.script(Fault("decline"))
    raw(double.host, "POST", PATH, CHARGE, "seen")
    last = double.requests()[-1]

    assert (last["method"], last["target"], last["vendor"], last["fault"]) == ("POST", PATH, "stripe", "decline")
    assert (last["headers"]["idempotency-key"], "authorization" in last["headers"]) == ("seen", False)
    assert last["content"] == "amount=100&currency=usd&source=tok_visa"


def test_the_same_key_at_once_executes_once(double: Controls, before: int) -> None:
    """Of a hundred connections with one key one executes; the others see its answer, or that it is in flight."""
    start = threading.Barrier(100)

    def ask() -> tuple[int, bool]:
        start.wait(30)
        status, headers, _ = raw(double.host, "POST", PATH, CHARGE, f"race-{before}", timeout=60)
        return status, "idempotent-replayed" in headers

    with ThreadPoolExecutor(100) as pool:
        seen = [future.result() for future in [pool.submit(ask) for _ in range(100)]]

    assert seen.count((200, False)) == 1
    assert set(seen) <= {(200, False), (200, True), (409, False)}
    assert double.truth.charged() - before == USD


def test_a_hundred_can_be_held_at_once(double: Controls, before: int) -> None:
    """A thread each; all are let go together."""
    double.script(Fault("hold_after", times=0))
    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(raw, double.host, "POST", PATH, CHARGE, "", 60) for _ in range(100)]
        double.wait_until_held(100)
        assert double.truth.charged() - before == 100 * USD
        double.release()

        assert [future.result()[0] for future in asked] == [200] * 100


def test_a_path_of_nobody(double: Controls, before: int) -> None:
    """No vendor has it."""
    assert raw(double.host, "GET", "/nobody")[0] == 404


def test_what_goes_wrong_in_waiting_is_said(double: Controls, before: int) -> None:
    """Nobody is held, and the wait says so."""
    with pytest.raises(TimeoutError, match="0 requests are held, not 1"):
        double.wait_until_held(timeout=0.01)


def test_somebody_who_stays_connected_is_not_quiet(double: Controls, before: int) -> None:
    """The wait ends, and says how many there are."""
    host, _, port = double.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=10), pytest.raises(TimeoutError, match="1 connections are still open"):
        double.wait_until_quiet(timeout=0.1)
    double.wait_until_quiet()


def test_stopping_lets_go_without_executing(tmp_path: Path) -> None:
    """A request that is held when the double ends is never executed."""
    with ThreadPoolExecutor(1) as pool:
        with VendorDouble(tmp_path / "truth.jsonl") as double:
            double.script(Fault("hold_before"))
            asked = pool.submit(raw, double.host, "POST", PATH, CHARGE)
            double.wait_until_held()

        with pytest.raises((HTTPException, ConnectionError)):
            asked.result()
    assert Truth(tmp_path / "truth.jsonl").rows() == []


def test_a_client_that_asks_for_the_end_of_its_connection_is_told_so(double: Controls) -> None:
    """RFC 9112, 9.6: without the word it would keep a connection for its next request that the server is about to close."""
    with closing(HTTPConnection(double.host, timeout=10)) as connection:
        connection.request("GET", "/v1/balance", headers={"Connection": "close"})
        last = connection.getresponse()
        connection.request("GET", "/v1/balance")
        kept = connection.getresponse()

    assert (last.getheader("Connection"), kept.getheader("Connection")) == ("close", None)
