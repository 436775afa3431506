"""A proxy under load: a crowd that does not get to the point, a key revoked under it, and a proxy that is killed again and again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from keyguard import doubts
from keyguard.testing.double import DoubleProcess
from tests.proxy.crowd import Crowd
from tests.proxy.support import STRIPE_SECRET, USD, Proxy
from tests.proxy.test_walls import resident

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORM = b"amount=200&currency=usd&confirm=true&payment_method=pm_card_visa"
CLIENTS = 8


def kinds(token: str) -> dict[str, tuple[bytes, bytes]]:
    """Return what the guests of a crowd send: at once, and byte by byte."""
    head = f"POST /stripe/v1/payment_intents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n".encode()
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n"
    return {
        "honest": (head + form % len(FORM) + FORM, b""),
        "silent": (b"", b""),
        "slow head": (b"GET /stripe/v1/customers HTTP/1.1\r\n", b"X-Slow: " + b"a" * 1000),
        "slow body": (head + form % 1000, FORM * 20),
    }


@pytest.mark.parametrize(
    "count", [pytest.param(200, marks=pytest.mark.ci), pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_crowd(tmp_path: Path, count: int, record_property: Any) -> None:
    """
    Hundreds of connections at once, three of four of which never get to the point: each of those is ended in its time.

    The honest ones are all served meanwhile, so is whoever looks after the proxy; nothing else is charged, and memory is bounded.
    """
    with DoubleProcess(tmp_path / "truth") as double, Proxy(tmp_path, double.url, head_seconds=3, body_seconds=3) as proxy:
        token = proxy.token(run_usd_cap=1_000_000)
        before = resident(proxy.process.pid)
        with Crowd(proxy.host, count, kinds(token)) as crowd:
            player = threading.Thread(target=crowd.play, args=(60,))
            player.start()
            begun = time.monotonic()
            alive = proxy.ask("GET", "/readyz").status_code
            waited = time.monotonic() - begun
            most = resident(proxy.process.pid)
            player.join()
            told = {kind: {guest.status for guest in crowd.of(kind)} for kind in kinds(token)}
            left = [guest for guest in crowd.guests if not guest.has_ended]
            honest = len(crowd.of("honest"))
        after = resident(proxy.process.pid)
        print(f"{count} connections: memory {before} MiB before, {most} amid, {after} after; /readyz amid them in {waited * 1000:.0f} ms")
        record_property("memory_mib", (before, most, after))

        assert left == []
        assert told == {"honest": {200}, "silent": {0}, "slow head": {0}, "slow body": {408}}
        assert alive == 200
        assert double.truth.charged() == honest * 2 * USD
        assert max(most, after) - before < 100
        assert proxy.ask("GET", "/readyz").status_code == 200
        assert "Traceback" not in proxy.said


# -- clients in processes of their own -------------------------------------------------------------------------------------------


class Hammers:
    """Client processes, which begin together; see tests.proxy.hammer."""

    def __init__(self, url: str, token: str) -> None:
        command = [sys.executable, "-m", "tests.proxy.hammer", url, token]
        self._running = [
            subprocess.Popen([*command, f"client{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in range(CLIENTS)
        ]
        for one in self._running:
            assert one.stdout is not None
            one.stdout.readline()
        self.tell()

    def tell(self) -> None:
        """Begin; told again, end."""
        for one in self._running:
            assert one.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                one.stdin.write("go\n")
                one.stdin.flush()

    def said(self) -> list[dict[str, Any]]:
        """Wait for their end, and return what they say then; their stdin stays open, because its end would be theirs."""
        return [json.loads(one.stdout.readline()) for one in self._running if one.stdout is not None]

    def kill(self) -> None:
        """End those that are left."""
        for one in self._running:
            one.kill()
            one.communicate()


@contextlib.contextmanager
def hammering(proxy: Proxy, token: str) -> Iterator[Hammers]:
    """Let clients charge during the block."""
    hammers = Hammers(proxy.url, token)
    try:
        yield hammers
    finally:
        hammers.kill()


def await_charges(double: DoubleProcess, count: int) -> None:
    """Wait until so many charges are made in all."""
    for _ in range(1200):
        if len(double.truth.rows("charge")) >= count:
            return
        threading.Event().wait(0.05)
    raise TimeoutError(f"{len(double.truth.rows('charge'))} charges, not {count}")


@pytest.mark.ci
def test_revoked_under_load(tmp_path: Path, record_property: Any) -> None:
    """
    Eight processes charge on one key, through two workers, when it is revoked: from its answer on only calls that were already on
    their way reach the vendor, for less than a second; each client is told 401, and not one call after that is executed.
    """
    with DoubleProcess(tmp_path / "truth") as double, Proxy(tmp_path, double.url, workers=2) as proxy:
        key = proxy.issue(run_usd_cap=1_000_000)
        with hammering(proxy, key["token"]) as hammers:
            await_charges(double, 200)
            asked = time.time()
            answer = proxy.ask("DELETE", f"/vault/keys/{key['key_id']}")
            answered = time.time()
            ends = hammers.said()
        rows = double.truth.rows("charge")
        last = max(row["time"] for row in rows)
        late = [row for row in rows if row["time"] > answered]
        print(
            f"revoked under load of {CLIENTS} processes: answered after {(answered - asked) * 1000:.0f} ms; the last call reached the "
            f"vendor {(last - asked) * 1000:.0f} ms after the revocation was asked for, {(last - answered) * 1000:.0f} ms after its "
            f"answer ({len(late)} of {len(rows)} calls after it)"
        )
        record_property("revoke_ms", ((answered - asked) * 1000, (last - answered) * 1000))

        assert answer.json()["state"] == "revoked"
        assert [end["counts"].get("401") for end in ends] == [1] * CLIENTS
        assert last - answered < 1
        # At most what each of them had under way.
        assert len(late) <= CLIENTS
        shown = proxy.shown(key["key_id"])
        assert (shown["spent_usd"] * USD, shown["held_usd"], shown["in_doubt_usd"]) == (double.truth.charged(), 0, 0)


@pytest.mark.parametrize(
    "kills", [pytest.param(2, marks=pytest.mark.ci), pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_killed_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int) -> None:
    """
    kill -9 of a proxy that eight processes charge through, again and again, each time started anew on its ledger.

    No order is executed twice, though clients ask again; the vendor has charged no more than the cap; what is in doubt after the last
    one is asked about, and then the ledger has spent to the cent what the vendor's own file says.
    """
    cap = 100 * kills
    with DoubleProcess(tmp_path / "truth") as double, Proxy(tmp_path, double.url) as proxy:
        key = proxy.issue(run_usd_cap=cap)
        found = list[float]()
        with hammering(proxy, key["token"]) as hammers:
            for n in range(kills):
                await_charges(double, 40 * (n + 1))
                proxy.kill()
                proxy.__enter__()
                found.append(proxy.shown(key["key_id"])["in_doubt_usd"])
            # On to the cap, where all are told 429.
            ends = hammers.said()
        rows = double.truth.rows("charge")
        orders = double.truth.charges_by("key")
        before = proxy.shown(key["key_id"])
        monkeypatch.setenv("STRIPE_SECRET_KEY", STRIPE_SECRET)
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={double.host}")
        done = doubts.reconcile(ledger=proxy.ledger_url)
        shown = proxy.shown(key["key_id"])
        print(
            f"{kills} kills under load: {len(rows)} charges of {cap} allowed, in doubt after each restart {found}, "
            f"{before['in_doubt_usd']} before and {shown['in_doubt_usd']} USD after reconcile ({len(done.answers)} asked about)"
        )

        assert [end["counts"].get("429") for end in ends] == [1] * CLIENTS
        assert sum(found) > 0
        assert set(orders.values()) == {1}
        assert double.truth.charged() <= cap * USD
        assert shown["in_doubt_usd"] == shown["held_usd"] == 0
        assert shown["spent_usd"] * USD == double.truth.charged()
        with proxy.ledger() as ledger:
            assert ledger.verify() == []
