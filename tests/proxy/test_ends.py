"""How a proxy ends and begins again: told to, killed in the middle of a call, with several workers, or not allowed to begin at all."""

from __future__ import annotations

import ssl
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from keyguard import doubts
from keyguard.cli import main
from keyguard.testing.double import Fault
from tests.proxy.support import PAY, STRIPE_SECRET, USD, Proxy
from tests.support_wire import self_signed

if TYPE_CHECKING:
    from keyguard.testing.double import VendorDouble

EVERYWHERE = "0.0.0.0"  # noqa: S104 -- with TLS, or refused
FORM = {**PAY, "confirm": "true"}


def sent(proxy: Proxy, token: str, answers: list[Any], key: str = "") -> threading.Thread:
    """Send a charge from a thread; what comes of it is appended."""

    def send() -> None:
        try:
            headers = {"Idempotency-Key": key} if key else {}
            answers.append(proxy.call(token, "POST", "/stripe/v1/payment_intents", FORM, **headers).status_code)
        except httpx.HTTPError as error:
            answers.append(type(error).__name__)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.ci
def test_drain(double: VendorDouble, tmp_path: Path) -> None:
    """Told to stop, it takes no new connection, and brings the calls under way to their end."""
    with Proxy(tmp_path, double.url) as proxy:
        key, answers = proxy.issue(run_usd_cap=10), list[Any]()
        double.script(Fault("hold_after"))
        thread = sent(proxy, key["token"], answers)
        double.wait_until_held()
        proxy.process.terminate()
        while True:
            try:
                proxy.wire().__enter__().close()
            except ConnectionError:
                break
        double.release()
        thread.join()
        proxy.process.wait(30)

        assert answers == [200]
        with proxy.ledger() as ledger:
            usage = ledger.usage(f"key:{key['key_id']}")
            assert usage is not None
            assert (usage.spent, usage.held, usage.doubt) == (2 * USD, 0, 0)


@pytest.mark.ci
def test_drain_has_an_end(double: VendorDouble, tmp_path: Path) -> None:
    """A call that does not end in time is cut off, and is in doubt."""
    with Proxy(tmp_path, double.url, drain_seconds=1) as proxy:
        key, answers = proxy.issue(run_usd_cap=10), list[Any]()
        double.script(Fault("hold_after"))
        thread = sent(proxy, key["token"], answers)
        double.wait_until_held()
        proxy.stop()
        thread.join()
        double.release()

        assert answers != [200]
        with proxy.ledger() as ledger:
            usage = ledger.usage(f"key:{key['key_id']}")
            assert usage is not None
            assert (usage.spent, usage.held, usage.doubt) == (0, 0, 2 * USD)


@pytest.mark.ci
def test_killed_in_the_middle_of_calls(double: VendorDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    kill -9 while calls are at the vendor: after a restart all of them are in doubt, and count.

    Tokens still hold, nothing is overspent, the vendor says what became of each, and after that the ledger says what the vendor does.
    """
    before = double.truth.charged()
    with Proxy(tmp_path, double.url) as proxy:
        key, answers = proxy.issue(run_usd_cap=9), list[Any]()
        double.script(Fault("hold_after", times=2), Fault("hold_before", times=1))
        threads = [sent(proxy, key["token"], answers, f"order-{n}") for n in range(3)]
        double.wait_until_held(3)
        proxy.kill()
        for thread in threads:
            thread.join()
        double.release()
        double.wait_until_quiet()

        assert len([answer for answer in answers if answer != 200]) == 3
        with proxy:
            shown = proxy.shown(key["key_id"])
            assert (shown["in_doubt_usd"], shown["spent_usd"], shown["remaining_usd"]) == (6, 0, 3)
            assert [proxy.call(key["token"], "POST", "/stripe/v1/payment_intents", FORM).status_code for _ in range(2)] == [200, 429]
            # A retry with the caller's key is the same charge, and settles it.
            again = proxy.call(key["token"], "POST", "/stripe/v1/payment_intents", FORM, **{"Idempotency-Key": "order-0"})
            assert (again.status_code, proxy.shown(key["key_id"])["in_doubt_usd"]) == (200, 4)
            monkeypatch.setenv("STRIPE_SECRET_KEY", STRIPE_SECRET)
            monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={double.host}")
            done = doubts.reconcile(ledger=proxy.ledger_url)

            assert [answer.ending for answer in done.answers] == ["settled"] * 2
            shown = proxy.shown(key["key_id"])
            assert (shown["in_doubt_usd"], shown["spent_usd"] * USD) == (0, double.truth.charged() - before)
            assert shown["spent_usd"] <= 9
            with proxy.ledger() as ledger:
                assert ledger.verify() == []


@pytest.mark.ci
def test_several_workers_one_cap(double: VendorDouble, tmp_path: Path) -> None:
    """Two workers and forty clients at once: one cap, to the cent; a revocation holds in both; and both end with their parent."""
    before = double.truth.charged()
    with Proxy(tmp_path, double.url, workers=2) as proxy:
        key, answers = proxy.issue(run_usd_cap=20), list[Any]()
        threads = [sent(proxy, key["token"], answers) for _ in range(40)]
        for thread in threads:
            thread.join()

        assert (answers.count(200), answers.count(429)) == (10, 30)
        assert double.truth.charged() - before == 20 * USD
        proxy.ask("DELETE", f"/vault/keys/{key['key_id']}")
        assert {proxy.call(key["token"], "GET", "/stripe/v1/customers/c").status_code for _ in range(8)} == {401}
        workers = children(proxy.process.pid)
        assert len(workers) >= 2
        proxy.stop()

    # One of them keeps multiprocessing's books, and ends a moment later.
    assert outliving(workers) == []


@pytest.mark.ci
def test_workers_end_with_a_killed_parent(double: VendorDouble, tmp_path: Path) -> None:
    """When the parent is killed, its workers end by themselves: nobody serves on unwatched, and the port is free."""
    with Proxy(tmp_path, double.url, workers=2) as proxy:
        proxy.ask("GET", "/readyz")
        workers = children(proxy.process.pid)
        proxy.kill()

        assert outliving(workers) == []
        with proxy:
            assert proxy.ask("GET", "/readyz").status_code == 200


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, of which one serves each."""
    return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def outliving(pids: list[int]) -> list[int]:
    """Return those of some processes that are still there after a while."""
    for _ in range(300):
        if not any(is_alive(pid) for pid in pids):
            break
        threading.Event().wait(0.1)
    return [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    """Say whether a process runs."""
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.ci
def test_tls(double: VendorDouble, tmp_path: Path) -> None:
    """With a certificate it serves https, and nothing else on that port."""
    pem = self_signed(tmp_path / "self.pem")
    with Proxy(tmp_path, double.url, tls_cert=pem, tls_key=pem, host=EVERYWHERE) as proxy:
        assert proxy.url.startswith("https://0.0.0.0:")
        port = proxy.host[1]
        trusted = ssl.create_default_context(cafile=str(pem))
        assert httpx.get(f"https://127.0.0.1:{port}/healthz", verify=trusted, trust_env=False).json() == {
            "status": "ok",
            "proxy": "keyguard",
        }
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"KEYGUARD_PROXY_ADMIN_TOKENS": ""}, "no admin token is configured"),
        ({"KEYGUARD_PROXY_ADMIN_TOKENS": "short"}, "at least 16 characters"),
        ({"KEYGUARD_PROXY_ADMIN_TOKENS": "vault_key_0123456789abcdef"}, "is no vault key"),
        ({"STRIPE_SECRET_KEY": ""}, "no vendor's secret is configured"),
        ({"KEYGUARD_PROXY_HOST": EVERYWHERE}, "--allow-plain"),
        ({"KEYGUARD_PROXY_TLS_CERT": "/x.pem"}, "TLS needs both"),
        ({"KEYGUARD_PROXY_SECRETS": "stripe=sk_live_hidden"}, "expected env:NAME"),
        ({"KEYGUARD_PROXY_SECRETS": "shopify=env:X"}, "unknown vendor 'shopify'"),
        ({"KEYGUARD_PROXY_UPSTREAMS": "stripe=http://example.com"}, "in clear"),
        ({"KEYGUARD_PROXY_UPSTREAMS": "stripe=ftp://127.0.0.1"}, "in clear"),
        ({"KEYGUARD_PROXY_IMPORTS": "no_such_module"}, "no_such_module cannot be imported"),
        ({"KEYGUARD_PROXY_LEDGER": "mysql://x"}, "unknown ledger URL scheme"),
        ({"KEYGUARD_PROXY_HOST": "192.0.2.1", "KEYGUARD_PROXY_ALLOW_PLAIN": "1"}, "cannot listen on 192.0.2.1"),
        ({"KEYGUARD_PROXY_WORKERS": "2", "KEYGUARD_PROXY_LEDGER": "sqlite://"}, "in memory"),
        ({"KEYGUARD_PROXY_PORT": "70000"}, "port"),
        ({"KEYGUARD_PROXY_MAX_BODY": "1"}, "unknown setting KEYGUARD_PROXY_MAX_BODY; known: KEYGUARD_PROXY_ADMIN_TOKENS,"),
    ],
)
def test_what_cannot_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: dict[str, str], words: str
) -> None:
    """It does not begin where it would serve nobody, or everybody: one line says why, and no secret is in it."""
    for name in ("TWILIO_AUTH_TOKEN", "RESEND_API_KEY", "KEYBRAKE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    environ = {
        "KEYGUARD_PROXY_ADMIN_TOKENS": "0123456789abcdef", "STRIPE_SECRET_KEY": "sk_test_hidden", "KEYGUARD_PROXY_PORT": "0",
        "KEYGUARD_PROXY_LEDGER": f"sqlite:///{tmp_path / 'l.db'}", **change,
    }  # fmt: skip
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["keyguard", "proxy"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()

    assert (ended.value.code, said.out, len(said.err.splitlines())) == (2, "", 1), said.err
    assert words in said.err
    assert "hidden" not in said.err
