"""
The examples, run as users run them: a process of its own, a real Prefect, a Stripe stand-in over HTTP.

The plain run has the first, with Prefect, and the fourth, without.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyguard.demo.truth import charged
from keyguard.testing.double import VendorDouble
from tests.support_json_server import Answer, JsonServer
from tests.support_llm_server import LlmServer
from tests.support_prefect import API_KEY, ENVIRONMENT, make_customers
from tests.support_resend_server import Resend
from tests.support_twilio_server import ACCOUNT, TOKEN, Twilio

if TYPE_CHECKING:
    from tests.support_json_server import Arrived

EXAMPLES = Path(__file__).parents[1] / "examples"


def _run(tmp_path: Path, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run an example with a ledger of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KEYGUARD_", "TWILIO_", "RESEND_"))}
    env |= {"KEYGUARD_URL": f"sqlite:///{tmp_path / 'ledger.db'}", **environ}
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments]
    return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)


def test_the_first_example_stops_at_its_budget(standin: str, prefect_server: str, tmp_path: Path) -> None:
    """Five customers, $60: three charges of $20, then a typed refusal that names run and cap."""
    make_customers(standin, 5)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KEYGUARD_"))}
    env |= {**ENVIRONMENT, "PREFECT_HOME": str(tmp_path), "KEYGUARD_URL": f"sqlite:///{tmp_path / 'ledger.db'}"}
    env |= {"STRIPE_SECRET_KEY": API_KEY, "STRIPE_API_BASE": standin, "PREFECT_API_URL": prefect_server}
    script = str(EXAMPLES / "01_cap_a_prefect_flow.py")
    done = subprocess.run([sys.executable, script, "60"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, charged(standin, API_KEY)) == (1, (6000, 3)), done.stderr
    assert "stopped: " in done.stderr
    assert "$60.00" in done.stderr


@pytest.mark.ci
@pytest.mark.parametrize(
    ("refunds_usd", "refunded", "ended"),
    [
        ("40", 2, ""),
        ("20", 1, "1 orders are paid and neither shipped nor refunded: refunds.create for $20.00 would pass the refund cap"),
    ],
    ids=["all refunds fit", "one refund is refused"],
)
def test_what_was_not_shipped_is_paid_back(prefect_server: str, tmp_path: Path, refunds_usd: str, refunded: int, ended: str) -> None:
    """Three orders of $20, two cannot be shipped: those are refunded as far as the budget of refunds goes, and what is not is said."""
    with VendorDouble() as double:
        place = {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": prefect_server, "STRIPE_API_BASE": double.url}
        env = {**ENVIRONMENT, **place, "STRIPE_SECRET_KEY": API_KEY}
        items = ["sold-out", "book", "sold-out"]
        done = _run(tmp_path, "06_refund_when_a_later_step_fails.py", "100", refunds_usd, *items, **env)
        money = len(double.truth.rows("charge")), len(double.truth.rows("refund"))

    assert (done.returncode, *money) == (int(bool(ended)), 3, refunded), done.stderr
    assert (done.stdout.count("shipped book"), done.stdout.count("not shipped: there is no sold-out left")) == (1, 2)
    assert ended in done.stderr


@pytest.mark.ci
def test_messages_stop_at_their_budget_and_at_the_border(tmp_path: Path) -> None:
    """Two cents and a half, and a message of one segment costs more than one: one is sent; a British number is not asked for at all."""
    twilio = Twilio()
    numbers = ["+12125550123", "+442079460123", "+12125550124"]
    with JsonServer(twilio.answer) as server:
        keys = {"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_FROM": "+15005550006", "TWILIO_API_BASE": server.url}
        done = _run(tmp_path, "02_cap_twilio_messages.py", "0.025", *numbers, **keys)
        again = _run(tmp_path, "02_cap_twilio_messages.py", "0.025", **keys)

    assert (done.returncode, done.stdout) == (1, "sent to +12125550123\nnot allowed: +442079460123\n"), done.stderr
    assert re.search(r"stopped: messages\.create for \$0\.01\d* would pass the run_usd_cap", done.stderr)
    assert [message["to"] for message in twilio.messages.values()] == ["+12125550123"]
    assert (again.returncode, again.stdout[:13]) == (0, "at most $0.01"), again.stderr


@pytest.mark.ci
def test_a_mailing_stops_at_its_budget_and_is_sent_once(tmp_path: Path) -> None:
    """A fifth of a cent is two recipients; another run that mails all four sends two, because the first two are replayed."""
    resend = Resend()
    addresses = [f"{name}@example.com" for name in ("ada", "bea", "cleo", "dora")]
    with JsonServer(resend.answer) as server:
        keys = {"RESEND_API_KEY": "re_12345", "RESEND_API_URL": server.url}
        done = _run(tmp_path, "03_cap_resend_mails.py", "0.002", *addresses, **keys)
        again = _run(tmp_path, "03_cap_resend_mails.py", "0.1", *addresses, RUN_ID="tomorrow", **keys)

    assert (done.returncode, done.stdout.count("sent ")) == (1, 2), done.stderr
    assert "stopped: emails.send for $0.0009 would pass the run_usd_cap" in done.stderr
    assert (again.returncode, again.stdout.count("sent ")) == (0, 4), again.stderr
    assert resend.recipients == 4


def test_any_api_stops_at_its_budget(tmp_path: Path) -> None:
    """A cent is held for a short text and a tenth of one is billed: three fit into a cent and a fifth, the fourth is refused."""

    def speak(arrived: Arrived) -> Answer:
        assert arrived.headers["authorization"] == "Bearer ak_12345"
        return Answer(200, {"url": f"https://acme.example/{len(arrived.document['text'])}.mp3", "billed_usd": 0.001})

    with JsonServer(speak) as server:
        place = {"ACME_API_KEY": "ak_12345", "ACME_API_BASE": server.url, "KEYGUARD_VENDOR_HOSTS": f"acme={server.host}"}
        done = _run(tmp_path, "04_guard_any_api.py", "0.012", "one", "two", "three", "four", "five", **place)
        long = _run(tmp_path, "04_guard_any_api.py", "0.012", "x" * 101, RUN_ID="audiobook-2", **place)

    assert (done.returncode, done.stdout.count(".mp3"), len(server.requests)) == (1, 3, 3), done.stderr
    assert "stopped: v1.speech.post for $0.01 would pass the run_usd_cap of run audiobook-1: cap $0.012, $0.003 spent" in done.stderr
    assert (long.returncode, "v1.speech.post for $0.02" in long.stderr) == (1, True)


@pytest.mark.ci
@pytest.mark.skipif(find_spec("openai") is None, reason="the SDK on httpx2 needs Python 3.11")
def test_a_language_model_stops_at_its_budget(tmp_path: Path) -> None:
    """Each answer holds eight tenths of a cent and costs a hundredth; what the fourth would hold does not fit any more."""
    with LlmServer() as server:
        place = {"OPENAI_API_KEY": "sk-12345", "OPENAI_BASE_URL": f"{server.url}/v1", "KEYGUARD_VENDOR_HOSTS": f"openai={server.host}"}
        done = _run(tmp_path, "05_cap_an_llm.py", "0.0081", "one?", "two?", "three?", "four?", **place)
        more = _run(tmp_path, "05_cap_an_llm.py", "0.5", "one?", RUN_ID="questions-2", **place)

    assert (done.returncode, done.stdout.count("Money is not free."), len(server.requests)) == (1, 3, 4), done.stderr
    assert "stopped: chat.completions.create for $0.007" in done.stderr
    assert (more.returncode, more.stdout) == (0, "Money is not free.\nspent $0.000111\n"), more.stderr


def test_every_example_is_tested(request: pytest.FixtureRequest) -> None:
    """A new example needs a test that runs it: here, or among those that go through a proxy."""
    here = Path(request.path)
    source = here.read_text(encoding="utf-8") + (here.parent / "remote" / here.name).read_text(encoding="utf-8")

    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in source] == []
