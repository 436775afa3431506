"""The doctor: each thing it looks at, healthy and ill; looking changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from keyguard import patches
from keyguard.cli import examining
from keyguard.ledgers import open_ledger
from keyguard.patches import stripe as stripe_patch
from keyguard.testing._till import open_till
from keyguard.vendors import vendor_named

if TYPE_CHECKING:
    from pathlib import Path

TODAY = date(2026, 11, 24)
USD = 1_000_000


@pytest.fixture(autouse=True)
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger's place where nothing is yet; no secret of the machine's."""
    place = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("KEYGUARD_URL", place)
    for name in ("STRIPE_SECRET_KEY", "KEYGUARD_FX_FILE"):
        monkeypatch.delenv(name, raising=False)
    return place


def _found(about: str, policy: Path | None = None, *, is_verified: bool = False) -> list[tuple[str, str]]:
    findings = examining.examine(None if policy is None else str(policy), None, is_verified=is_verified, today=lambda: TODAY)
    return [(finding.level, finding.text) for finding in findings if finding.about == about]


def _policy(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def _issue(url: str, **fields: Any) -> None:
    book = open_ledger(url, durability="process")
    open_till(book, **fields)
    book.shut()


def test_every_client_is_armed_and_looked_at() -> None:
    """Each client that is here is named with version and seams, all of them live; afterwards nothing is armed."""
    for plug in patches.known_patches():
        ((level, text),) = _found(f"client {plug.client}")

        assert level == "ok"
        assert text == "not installed" or all(seam.name in text for seam in plug.seams)
    assert not any(patches.live_seams().values())


def test_a_client_that_is_too_old_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which version is here and which would do."""
    monkeypatch.setattr(stripe_patch.StripePatch, "supports", lambda _self, _installed: False)
    ((level, text),) = _found("client stripe")

    assert (level, "is not supported: install() fails beside it. Use stripe>=8" in text) == ("problem", True)


def test_a_client_without_its_seam_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that lost the method that is patched is found before a run is."""
    import stripe

    monkeypatch.delattr(stripe.HTTPClient, "_request_with_retries_internal")
    ((level, text),) = _found("client stripe")

    assert level == "problem"
    assert "HTTPClient._request_with_retries_internal" in text


def test_what_nobody_watches_is_named() -> None:
    """Libraries and ways that go round every seam; those that are not installed are left out."""
    ((level, text),) = _found("not watched")

    assert level == "note"
    assert all(name in text for name in ("urllib.request", "http.client", "sockets", "subprocesses", "urllib3", "httpcore", "adapter"))
    assert "pycurl" not in text


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """It says that the first install makes it; the folder stays empty."""
    ((level, text),) = _found("ledger")

    assert (level, text.endswith("is made at the first install()")) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "level", "words"),
    [
        ("sqlite://", "warning", "is in memory"),
        ("sqlite:////proc/nowhere/ledger.db", "problem", "is not writable"),
        ("nosuch://x", "problem", "unknown ledger URL scheme"),
    ],
)
def test_a_ledger_that_cannot_be_used_is_said(monkeypatch: pytest.MonkeyPatch, place: str, level: str, words: str) -> None:
    """In memory, not writable, unknown."""
    monkeypatch.setenv("KEYGUARD_URL", place)
    monkeypatch.setattr(os, "access", lambda path, _mode: "/proc" not in str(path))
    ((found, text),) = _found("ledger")

    assert (found, words in text) == (level, True)


def test_the_books_are_verified_when_asked(url: str) -> None:
    """A healthy ledger is said to be so; one whose balance was changed by hand is a problem."""
    _issue(url, run_usd_cap=5 * USD)

    assert _found("books") == []
    assert _found("books", is_verified=True) == [("ok", "the log alone gives every balance")]

    connection = apsw.Connection(url.removeprefix("sqlite:///"))
    connection.execute("UPDATE bucket SET spent = 7")
    connection.close()
    ((level, _),) = _found("books", is_verified=True)

    assert level == "problem"


def test_modes_are_counted(url: str) -> None:
    """Keys that only observe are a warning."""
    _issue(url, run_id="r1", run_usd_cap=5 * USD)

    assert _found("mode") == [("ok", "of 1 active keys 1 enforce and 0 only observe")]

    _issue(url, run_id="r2", mode="observe")
    ((level, text),) = _found("mode")

    assert (level, text) == ("warning", "of 2 active keys 1 enforce and 1 only observe: nothing of theirs is refused")


@pytest.mark.parametrize(
    ("text", "about", "level", "words"),
    [
        ('name = "billing"\nrun_usd_cap = 5', "policy", "ok", "billing, run_usd_cap, mode enforce"),
        ('name = "billing"', "policy", "warning", "no dollar cap: set run_usd_cap"),
        ('mode = "observe"\nrun_usd_cap = 5', "mode", "warning", "mode = 'enforce' makes the caps hold"),
        ("run_cap = 5", "policy", "problem", "run_cap: unknown field"),
        ('[rules."payment_intents.create"]\nammount = {max = 5}', "policy", "problem", "did you mean amount"),
    ],
)
def test_a_policy_file_is_read(tmp_path: Path, text: str, about: str, level: str, words: str) -> None:
    """A good one, one without a cap, one that only observes, and two that install() would refuse."""
    found = _found(about, _policy(tmp_path, text))

    assert [one for one, said in found if words in said] == [level]


@pytest.mark.parametrize(
    ("secret", "policy", "level"),
    [
        ("sk_live_12345", "billing-test", "problem"),
        ("rk_live_12345", "ci: nightly", "problem"),
        ("sk_test_12345", "billing-test", "ok"),
        ("sk_live_12345", "latest-billing", "ok"),
        ("sk_live_12345", None, "ok"),
        ("vault_key_k1_x", "billing", "problem"),
    ],
)
@pytest.mark.parametrize("where", ["file", "ledger"])
def test_a_live_secret_beside_a_policy_for_tests_is_a_problem(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, secret: str, policy: str | None, level: str, where: str
) -> None:
    """By the name of the policy in the file, or of an active key in the ledger; the secret itself is never said."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", secret)
    if policy is not None and where == "ledger":
        _issue(url, name=policy)
    path = _policy(tmp_path, f'name = "{policy}"\nrun_usd_cap = 1') if policy is not None and where == "file" else None
    ((found, text),) = _found("secret stripe", path)

    assert found == level
    assert "12345" not in text
    assert "vault_key_" not in text


@pytest.mark.parametrize(("policy", "level"), [("billing-test", "note"), ("billing", "ok")])
def test_a_secret_without_a_mark_is_a_note_beside_a_policy_for_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, level: str
) -> None:
    """Twilio's tokens for tests look like its live ones: nobody can tell, and that is what is said."""
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "0123456789abcdef0123456789abcdef")
    ((found, text),) = _found("secret twilio", _policy(tmp_path, f'name = "{policy}"\nrun_usd_cap = 1'))

    assert found == level
    assert ("whether it is a live one" in text) == (level == "note")
    assert "0123456789" not in text


def test_old_prices_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug that knows when its prices were read is asked for it."""
    for day, level in ((date(2026, 11, 1), "ok"), (date(2026, 1, 1), "warning")):
        monkeypatch.setattr(type(vendor_named("stripe")), "prices", staticmethod(lambda day=day: (day, "a list")), raising=False)
        ((found, text),) = _found("prices stripe")

        assert found == level
        assert f"of {day}" in text


@pytest.mark.parametrize(
    ("table", "level", "words"),
    [
        ('date = "2026-11-20"\nusd_per_unit = {eur = 1.1}', "ok", "of 2026-11-20 (4 days old) for eur"),
        ('date = "2026-01-20"\nusd_per_unit = {eur = 1.1}', "warning", "308 days old"),
        ("usd_per_unit = {eur = 1.1}", "problem", "date"),
    ],
)
def test_exchange_rates_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, level: str, words: str) -> None:
    """Their age, and whether the file can be read."""
    path = tmp_path / "rates.toml"
    path.write_text(table)
    monkeypatch.setenv("KEYGUARD_FX_FILE", str(path))
    ((found, text),) = _found("exchange rates")

    assert (found, words in text) == (level, True)


def test_vendors_are_named_with_their_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of a vendor that nobody here knows is a warning: a program may register it."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", "acme=127.0.0.1:8000,stripe=127.0.0.1:8420")
    ((level, text),) = _found("vendor acme")

    assert _found("vendor resend") == [("ok", "api.resend.com")]
    assert [found for found, _ in _found("vendor stripe")] == ["ok"]
    assert (level, "lists 127.0.0.1:8000 for 'acme'; a program must register" in text) == ("warning", True)


def test_settings_that_cannot_be_read_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named, and what it may say."""
    monkeypatch.setenv("KEYGUARD_DURABILITY", "sometimes")
    ((level, text),) = _found("settings")

    assert level == "problem"
    assert "durability" in text


def test_the_command_prints_and_exits() -> None:
    """In a process of its own: lines for people, JSON for machines, 0 when nothing is wrong and 1 for a problem."""
    command = [sys.executable, "-c", "from keyguard.cli import main; main()", "doctor"]
    healthy = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=False)
    ill = subprocess.run([*command, "--policy", "no/such.toml"], capture_output=True, text=True, timeout=60, check=False)

    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert {"client stripe", "client httpx", "ledger", "not watched"} <= {one["about"] for one in json.loads(healthy.stdout)}
    assert (ill.returncode, ill.stderr) == (1, "")
    assert "problem  policy: policy file 'no/such.toml' does not exist" in ill.stdout
