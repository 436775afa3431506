"""The remote backend against what Keybrake's public pages show: both forms, flat errors, and nothing beyond them."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import httpx
import pytest
import resend
import stripe
from twilio.rest import Client
from typer.testing import CliRunner

import keyguard
from keyguard.cli import app
from keyguard.errors import ConfigurationError, EndpointNotAllowed, KeyExpired, KeyRevoked, ProxyUnavailable, SpendCapExceeded, UnknownKey
from keyguard.testing.double import VendorDouble
from keyguard.testing.keybrake import KeybrakeDouble
from tests.proxy.support import PAY, RESEND_SECRET, STRIPE_SECRET, TWILIO_SECRET, USD
from tests.remote.recording import Answered, RecordingProxy
from tests.remote.support import holding_no_secret
from tests.support_twilio_clients import MESSAGE
from tests.support_twilio_server import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ADMIN = "kb_admin_0123456789abcdef"
SECRETS = {"stripe": STRIPE_SECRET, "twilio": TWILIO_SECRET, "resend": RESEND_SECRET}


@pytest.fixture(scope="module")
def double() -> Iterator[VendorDouble]:
    """The vendors."""
    with VendorDouble() as found:
        yield found


@contextlib.contextmanager
def keybrake(double: VendorDouble, **options: Any) -> Iterator[KeybrakeDouble]:
    """Let what the pages show stand before the vendors."""
    with KeybrakeDouble(admin=ADMIN, vendor_secret=SECRETS, upstreams=dict.fromkeys(SECRETS, double.url), **options) as found:
        yield found


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[None]:
    """A process that holds the management secret, and no vendor's."""
    with holding_no_secret(ADMIN, tmp_path):
        yield


def raised(run: str, usd: int) -> None:
    """Raise a run's cap as a person does."""
    done = CliRunner().invoke(app, ["raise", "--run", run, "--to", str(usd), "--ledger", os.environ["KEYGUARD_FRONT_LEDGER"]])

    assert done.exit_code == 0, done.output


def pay(**fields: Any) -> str:
    """Charge two dollars."""
    made: Any = stripe.PaymentIntent.create(**PAY | fields)
    return str(made.id)


# -- keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["auto", "vault", "v1"])
def test_a_key_is_issued_for_the_first_call_of_a_vendor(double: VendorDouble, monkeypatch: pytest.MonkeyPatch, dialect: str) -> None:
    """One key per vendor and run, when it is first needed, with the five public fields and no other."""
    monkeypatch.setenv("KEYGUARD_DIALECT", dialect)
    with keybrake(double) as proxy, keyguard.run("r1"):
        keyguard.install(
            proxy.url, run_usd_cap=50, daily_usd_cap=20, expires_in="2h", agent_run_label="billing/7",
            allowed_endpoints=["POST /v1/payment_intents", "twilio:POST /2010-04-01/Accounts/*/Messages.json"],
        )  # fmt: skip
        assert proxy.keys == []
        pay()
        pay(description="another")
        Client(ACCOUNT, "of-nobody").messages.create(**MESSAGE)

    assert [(one.dialect, one.asked["vendor"]) for one in proxy.keys] == [
        ("v1" if dialect == "v1" else "vault", name) for name in ("stripe", "twilio")
    ]
    asked = dict(proxy.keys[0].asked)
    assert asked.pop("expires_in").endswith(("h", "m", "s"))
    assert asked == {
        "vendor": "stripe", "daily_usd_cap": 20.0, "allowed_endpoints": ["POST /v1/payment_intents"], "agent_run_label": "billing/7",
    }  # fmt: skip
    assert [call.status for call in proxy.calls] == [200, 200, 201]


@pytest.mark.parametrize("shape", ["vk_", "no-handle", "says-expiry"])
def test_an_answer_is_read_tolerantly(double: VendorDouble, shape: str) -> None:
    """Another prefix, no handle, an expiry that is said or not: the key works; what has no handle ends when it expires."""
    shapes: dict[str, dict[str, Any]] = {
        "vk_": {"key_prefix": "vk_"}, "no-handle": {"says_handle": False}, "says-expiry": {"says_expiry": True},
    }  # fmt: skip
    with keybrake(double, **shapes[shape]) as proxy, keyguard.run("r1"):
        installed = keyguard.install(proxy.url, run_usd_cap=50, expires_in="2h")
        pay()
        installed.revoke()

        assert [call.status for call in proxy.calls] == [200]
        assert [one.is_revoked for one in proxy.keys] == [shape != "no-handle"]


def test_workers_of_a_run_use_its_key(double: VendorDouble) -> None:
    """A process of the same run finds the key in the ledger, and asks for none; nor does the same process after a restart."""
    code = (
        "import os, stripe, keyguard\nstripe.api_key = 'sk_test_of_nobody_0123456789'\n"
        "with keyguard.run('r1'):\n    keyguard.install(os.environ['AT'], run_usd_cap=50)\n"
        "    stripe.PaymentIntent.create(amount=200, currency='usd', confirm=True, payment_method='pm_card_visa', description='there')\n"
    )
    with keybrake(double) as proxy, keyguard.run("r1"):
        keyguard.install(proxy.url, run_usd_cap=50)
        pay()
        environ = {**os.environ, "AT": proxy.url}
        subprocess.run([sys.executable, "-W", "error", "-c", code], env=environ, check=True, timeout=60)
        keyguard.uninstall()
        installed = keyguard.install(proxy.url, run_usd_cap=50)
        pay(description="again")

        assert len(proxy.keys) == 1
        assert [call.status for call in proxy.calls] == [200] * 3
        assert installed.usage().spent == 6 * USD


def test_a_raised_run_gets_a_key_of_its_new_cap(double: VendorDouble) -> None:
    """Keybrake shows no way to change a key, so a raise is another one, and the first is revoked; the ledger counts on."""
    with keybrake(double) as proxy, keyguard.run("r1"):
        installed = keyguard.install(proxy.url, run_usd_cap=3)
        pay()
        with pytest.raises(SpendCapExceeded):
            pay(description="too much")
        raised("r1", 5)
        pay(description="enough")
        with pytest.raises(SpendCapExceeded) as refused:
            pay(description="too much again")

        assert (refused.value.cap, refused.value.spent) == (5 * USD, 4 * USD)
        assert [(one.daily_usd_cap, one.is_revoked) for one in proxy.keys] == [(Decimal(3), True), (Decimal(5), False)]
        assert installed.usage().spent == 4 * USD


def test_revoke_ends_the_key_there_too(double: VendorDouble) -> None:
    """Once it is revoked here, the proxy refuses its key as well."""
    with keybrake(double) as proxy, keyguard.run("r1"):
        installed = keyguard.install(proxy.url, run_usd_cap=50)
        pay()
        installed.revoke()
        with pytest.raises(KeyRevoked):
            pay(description="later")
        with httpx.Client(trust_env=False, headers={"authorization": f"Bearer {proxy.keys[0].token}"}) as client:
            keyguard.uninstall()
            assert client.get(f"{proxy.url}/stripe/v1/customers").status_code == 401

        assert len(proxy.keys) == 1


# -- what the proxy refuses --------------------------------------------------------------------------

SENDERS: dict[str, Callable[[], Any]] = {
    "stripe": pay,
    "twilio": lambda: Client(ACCOUNT, "of-nobody").messages.create(**MESSAGE),
    "resend": lambda: resend.Emails.send({"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "html": "h"}),
}


@pytest.mark.parametrize("status", [402, 403, 429])
@pytest.mark.parametrize("vendor", SENDERS)
def test_a_cap_of_the_proxys_is_a_typed_error(
    double: VendorDouble, monkeypatch: pytest.MonkeyPatch, vendor: str, status: Literal[402, 403, 429]
) -> None:
    """A flat text in the place of an error breaks stripe's SDK with AttributeError, and is lost by the others: here it is what it says."""
    monkeypatch.setattr(resend, "api_key", "re_of_nobody")
    with keybrake(double, cap_status=status) as proxy, keyguard.run("r1"):
        installed = keyguard.install(proxy.url, run_usd_cap=50)
        SENDERS[vendor]()
        before = installed.usage()
        # Somebody else has spent it.
        proxy.keys[0].spent += Decimal(50)
        with pytest.raises(SpendCapExceeded, match="refused by the proxy") as refused:
            SENDERS[vendor]()

        assert (refused.value.run_id, refused.value.scope, refused.value.cap) == ("r1", "day", 50 * USD)
        assert refused.value.spent is not None
        assert refused.value.spent >= 50 * USD
        assert installed.usage() == before


def test_other_denials_are_typed_errors(double: VendorDouble) -> None:
    """An endpoint that the proxy does not allow; a key that it has revoked, that has expired, that it does not know."""
    with keybrake(double) as proxy, keyguard.run("r1"):
        installed = keyguard.install(proxy.url, run_usd_cap=50)
        pay()
        key = proxy.keys[0]
        key.allowed_endpoints = ("charges.create",)
        with pytest.raises(EndpointNotAllowed, match="not permitted") as denied:
            pay(description="1")
        key.allowed_endpoints, key.is_revoked = (), True
        with pytest.raises(KeyRevoked):
            pay(description="2")
        key.is_revoked, key.expires_at = False, 1.0
        with pytest.raises(KeyExpired):
            pay(description="3")
        proxy.keys.clear()
        with pytest.raises(UnknownKey):
            pay(description="4")

        assert denied.value.operation == "payment_intents.create"
        usage = installed.usage()
        assert (usage.spent, usage.held, usage.doubt) == (2 * USD, 0, 0)


def test_a_refusal_by_the_proxy_is_audited_here(double: VendorDouble, caplog: pytest.LogCaptureFixture) -> None:
    """The ledger in front has the refusal in its log, and the log says it as of any other."""
    from keyguard.install import ledgers_in_use

    with keybrake(double) as proxy, keyguard.run("r1"):
        keyguard.install(proxy.url, run_usd_cap=50)
        pay()
        proxy.keys[0].is_revoked = True
        with pytest.raises(KeyRevoked):
            pay(description="2")
        rows = list(ledgers_in_use()[0].entries())

    assert [(row["kind"], row["operation"]) for row in rows if row["kind"] in {"refuse", "settle", "release"}] == [
        ("settle", "payment_intents.create"), ("release", "payment_intents.create"), ("refuse", "payment_intents.create"),
    ]  # fmt: skip
    assert "refused stripe payment_intents.create" in caplog.text
    assert proxy.keys[0].token not in str(rows)


# -- a proxy that is not well ------------------------------------------------------------------------


def test_a_proxy_that_is_not_there_stops_the_call(tmp_path: Path) -> None:
    """Nothing is sent, nothing stays counted, and a retry may help."""
    with RecordingProxy() as proxy:
        url = proxy.url
    with keyguard.run("r1"):
        installed = keyguard.install(url, run_usd_cap=50)
        with pytest.raises(ProxyUnavailable, match="could not be asked"):
            pay()

        assert installed.usage().spent == 0


def test_a_proxy_that_goes_away_between_two_calls_stops_the_second() -> None:
    """A connection that nobody accepts is a proof that nothing was sent."""
    with keyguard.run("r1"):
        with RecordingProxy() as proxy:
            intent = {
                "id": "pi_1",
                "object": "payment_intent",
                "amount": 200,
                "amount_received": 200,
                "currency": "usd",
                "status": "succeeded",
            }
            # No connection is left that somebody might still read.
            proxy.answers["/"] = Answered(200, intent, {"Connection": "close"})
            installed = keyguard.install(proxy.url, run_usd_cap=50)
            pay()
        for send in (pay, lambda: httpx.post("https://api.stripe.com/v1/payment_intents", data=PAY, trust_env=False)):
            with pytest.raises(ProxyUnavailable, match="could not be reached"):
                send()
        usage = installed.usage()

        assert (usage.spent, usage.held, usage.doubt) == (2 * USD, 0, 0)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>hello</html>", "text/html"),
        (404, b"<html>not here</html>", "text/html"),
        (502, {"error": "upstream"}, "application/json"),
    ],
    ids=["page", "missing-page", "flat-502"],
)
def test_a_proxy_that_talks_nonsense_leaves_a_doubt(status: int, body: Any, kind: str) -> None:
    """What is neither the vendor's answer nor a denial says nothing about the charge: it stays counted, and a retry may help."""
    with RecordingProxy() as proxy, keyguard.run("r1"):
        proxy.answers["/"] = Answered(status, body, {"Content-Type": kind})
        installed = keyguard.install(proxy.url, run_usd_cap=50)
        with pytest.raises(ProxyUnavailable):
            pay()
        usage = installed.usage()

        assert (usage.spent, usage.held, usage.doubt) == (0, 0, 2 * USD)


def test_what_is_on_the_way_to_a_proxy_of_ours_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of ours marks each answer that it passes on: what looks like the vendor's own without the mark leaves a doubt."""
    monkeypatch.setenv("KEYGUARD_DIALECT", "keyguard")
    intent = {"id": "pi_1", "object": "payment_intent", "amount": 200, "amount_received": 200, "currency": "usd", "status": "succeeded"}
    with RecordingProxy() as proxy, keyguard.run("r1"):
        proxy.answers["/"] = Answered(200, intent)
        installed = keyguard.install(proxy.url, run_usd_cap=50)
        with pytest.raises(ProxyUnavailable, match="is not stripe's answer"):
            pay()
        before = installed.usage()
        # Whatever the vendor calls its JSON.
        proxy.answers["/"] = Answered(200, {**intent, "id": "pi_2"}, {"x-keyguard-forwarded": "1", "Content-Type": "text/html"})
        pay(description="2")

        assert (before.spent, before.doubt) == (0, 2 * USD)
        assert (installed.usage().spent, installed.usage().doubt) == (2 * USD, 2 * USD)


@pytest.mark.parametrize(
    ("issued", "error", "words"),
    [
        (Answered(200, {"hello": 1}), ProxyUnavailable, "without a vault key"),
        (Answered(200, b"<html>"), ProxyUnavailable, "no JSON object"),
        (Answered(503, {"error": "later"}), ProxyUnavailable, "later"),
        (Answered(401, {"error": "Invalid API key"}), ConfigurationError, "does not take this KEYBRAKE_API_KEY"),
        (Answered(422, {"error": {"message": "no cap"}}), ConfigurationError, "no cap"),
        (Answered(404, {"error": "Not found"}), ConfigurationError, "KEYGUARD_DIALECT"),
        (Answered(200, b"{" + b" " * 2_000_000 + b"}"), ProxyUnavailable, "too long"),
        (Answered(302, {}, {"Location": "http://127.0.0.1:1/"}), ProxyUnavailable, "HTTP 302"),
    ],
    ids=["no-key", "page", "busy", "unauthorized", "unprocessable", "missing", "endless", "moved"],
)
def test_a_key_that_cannot_be_had_stops_the_call(issued: Answered, error: type[Exception], words: str) -> None:
    """Whatever is answered to the request for a key: nothing is sent to the vendor, and the message says what to do."""
    with RecordingProxy() as proxy, keyguard.run("r1"):
        proxy.issued = issued
        keyguard.install(proxy.url, run_usd_cap=50)
        with pytest.raises(error, match=words):
            pay()

        assert proxy.seen == []


def test_a_key_that_has_ended_is_asked_for_anew(tmp_path: Path) -> None:
    """A proxy may let its key end before the run does: the next call gets another, and the run's money counts on."""
    with (
        RecordingProxy(vault_key="vault_key_short_0123456789", key_id="k1", expires_at="2020-01-01T00:00:00Z") as proxy,
        keyguard.run("r1"),
    ):
        numbers = itertools.count()
        intent = {"object": "payment_intent", "amount": 200, "amount_received": 200, "currency": "usd", "status": "succeeded"}
        proxy.answers["/"] = lambda _request: Answered(200, {**intent, "id": f"pi_{next(numbers)}"})
        installed = keyguard.install(proxy.url, run_usd_cap=5)
        pay()
        proxy.issued = Answered(200, {"token": "vault_key_long_0123456789", "id": "k2", "expires_at": 4_000_000_000})
        pay(description="2")
        with pytest.raises(SpendCapExceeded):
            pay(description="3")

        assert [one.headers["authorization"].removeprefix("Bearer ") for one in proxy.seen] == [
            "vault_key_short_0123456789", "vault_key_long_0123456789",
        ]  # fmt: skip
        assert [(one.method, one.target) for one in proxy.managed] == [
            ("POST", "/vault/keys"), ("POST", "/vault/keys"), ("DELETE", "/vault/keys/k1"),
        ]  # fmt: skip
        assert installed.usage().spent == 4 * USD


def test_a_proxy_that_is_slow_is_waited_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """To issue a key it has some seconds; for a call it has the client's own, and then nobody knows what became of it."""
    monkeypatch.setenv("KEYGUARD_REMOTE_SECONDS", "0.2")
    released = threading.Event()

    def late(_request: object) -> Answered:
        released.wait(30)
        return Answered()

    with RecordingProxy() as proxy, keyguard.run("r1"):
        proxy.issuing = late
        installed = keyguard.install(proxy.url, run_usd_cap=50)
        with pytest.raises(ProxyUnavailable, match="could not be asked"):
            pay()
        before = installed.usage()
        proxy.issuing, proxy.answers["/"] = None, late
        monkeypatch.setattr(stripe, "default_http_client", stripe.RequestsClient(timeout=0.2))
        monkeypatch.setenv("KEYGUARD_REMOTE_SECONDS", "30")
        keyguard.uninstall()
        installed = keyguard.install(proxy.url, run_usd_cap=50)
        with pytest.raises(stripe.APIConnectionError):
            pay()
        released.set()

        assert (before.spent, before.held, before.doubt) == (0, 0, 0)
        assert installed.usage().doubt == 2 * USD


def test_the_management_secret_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the message names the variable."""
    monkeypatch.delenv("KEYBRAKE_API_KEY")
    with RecordingProxy() as proxy, keyguard.run("r1"):
        keyguard.install(proxy.url, run_usd_cap=50)
        with pytest.raises(ConfigurationError, match="set KEYBRAKE_API_KEY"):
            pay()


@pytest.mark.parametrize(
    "url", ["http://proxy.example.com", "https://user:pw@proxy.example.com", "https://proxy.example.com/?a=1", "https://"]
)
def test_a_url_that_is_none_of_a_proxy_is_an_error(url: str) -> None:
    """Vault keys never go over a network in clear, and a URL has nothing that would be lost."""
    with keyguard.run("r1"), pytest.raises(ConfigurationError, match="https"):
        keyguard.install(url, run_usd_cap=50)
