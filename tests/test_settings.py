"""Settings from the environment, and policies from fields, mappings, files and Policy objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keyguard.errors import ConfigurationError
from keyguard.model import Policy
from keyguard.settings import default_url, load_policy, load_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_the_environment_is_read_with_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting has a KEYGUARD_ name; a token shows in no repr."""
    monkeypatch.setenv("KEYGUARD_URL", "sqlite:///x.db")
    monkeypatch.setenv("KEYGUARD_DURABILITY", "process")
    monkeypatch.setenv("KEYGUARD_KEY", "vault_key_secret_part")
    monkeypatch.setenv("KEYGUARD_RUN_ID", "nightly")
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", "stripe=127.0.0.1:8420, stripe=Proxy.Test")
    monkeypatch.setenv("KEYGUARD_RESEND_UNIT_USD", "0.0004")
    settings = load_settings()

    assert (settings.url, settings.durability, settings.run_id) == ("sqlite:///x.db", "process", "nightly")
    assert settings.vendor_hosts == {"127.0.0.1:8420": "stripe", "proxy.test": "stripe"}
    assert settings.unit_prices == {"resend": 400}
    assert "secret_part" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KEYGUARD_DURABILITY", "disk", "durability"),
        ("KEYGUARD_VENDOR_HOSTS", "127.0.0.1:8420", "expected vendor=host"),
        ("KEYGUARD_VENDOR_HOSTS", "stripe=http://x/", "expected vendor=host"),
        ("KEYGUARD_VENDOR_HOSTS", "Acme!=x", "stripe"),
        ("KEYGUARD_RESEND_UNIT_USD", "cheap", "resend_unit_usd: expected an amount in US dollars"),
    ],
)
def test_a_bad_setting_says_which_and_what_is_allowed(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    """A setting that cannot be read is a ConfigurationError, not a silent default."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=says):
        load_settings()


def test_the_default_ledger_is_a_file_of_the_user() -> None:
    """Four slashes: an absolute path."""
    assert default_url().startswith("sqlite:////")
    assert default_url().endswith("keyguard/ledger.db")


def test_a_policy_comes_from_fields_mappings_files_and_objects(tmp_path: Path) -> None:
    """The four ways give the same policy, and single fields win."""
    path = tmp_path / "p.toml"
    path.write_text('run_usd_cap = 19.99\nexpires_in = "4h"\n')
    fields: dict[str, Any] = {"run_usd_cap": 19.99, "expires_in": "4h"}
    ways: list[Any] = [fields, path, str(path), Policy(**fields)]
    found = [load_policy(way, {}) for way in ways]
    overlaid = [load_policy(way, {"run_usd_cap": 5}) for way in ways]

    assert all(policy == found[0] for policy in found)
    assert found[0].run_usd_cap == 19_990_000
    assert {policy.run_usd_cap for policy in overlaid} == {5_000_000}
    assert {policy.expires_in for policy in overlaid} == {14_400.0}


@pytest.mark.parametrize(
    ("content", "says"), [("run_usd_cap = ", "cannot be read"), ("run_cap = 5", "run_cap: unknown field"), (b"\xff", "cannot be read")]
)
def test_a_bad_policy_file_says_what_is_wrong(tmp_path: Path, content: str | bytes, says: str) -> None:
    """Broken TOML, unknown fields and broken encodings name the problem."""
    path = tmp_path / "p.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError, match=says):
        load_policy(path, {})
