"""Twilio's price list: what keyguard comes with, the user's own over it, and what is wrong with one."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import phonenumbers
import pytest

import keyguard
from keyguard import context
from keyguard.cli.examining import examine
from keyguard.errors import ConfigurationError, MissingExtra
from keyguard.model import Reply
from keyguard.settings import load_settings
from keyguard.vendors import _twilio_places as places
from keyguard.vendors import _twilio_prices as prices
from keyguard.vendors.twilio import vendor
from tests.support_guard import World
from tests.support_twilio import US, amount, message, phone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Listed = Callable[..., Path]

SHIPPED: dict[str, Any] = json.loads(Path(prices.__file__).with_name("twilio_prices.json").read_text(encoding="utf-8"))
BLOCKS = {name: block for name, block in SHIPPED.items() if isinstance(block, dict)}


@pytest.fixture
def listed(tmp_path: Path) -> Iterator[Listed]:
    """Put a price list of one's own in force, as an installation does."""

    def put(document: Any, name: str = "prices.json") -> Path:
        path = tmp_path / name
        path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        context.set_price_files({"twilio": path})
        return path

    yield put
    context.set_price_files({})


# -- the shipped list ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_has_a_date_and_a_source(name: str) -> None:
    """A price without both can neither be checked nor renewed; a default says what it is."""
    block = BLOCKS[name]

    assert date.fromisoformat(block["date"]) <= date.fromisoformat(SHIPPED["date"])
    assert len(block["source"]) > 30
    assert ("default_is" in block) == (block.get("default", "0") != "0")


@pytest.mark.parametrize("name", [name for name, block in BLOCKS.items() if block.get("default", "0") != "0"])
def test_a_default_is_above_every_price_that_is_listed(name: str) -> None:
    """What is not listed is bounded by no less than the dearest one that is."""
    found = prices.shipped()

    assert found.defaults[name] >= max(found.usd[name].values())


def test_countries_are_iso_codes() -> None:
    """A misspelt country would be counted by the default for ever."""
    keys = {key.partition(".")[0] for name in ("sms", "sms_carrier", "mms", "voice", "numbers") for key in BLOCKS[name]["usd"]}

    assert keys - set(phonenumbers.SUPPORTED_REGIONS) == {"emergency"}


def test_the_list_in_force_is_dated() -> None:
    """The doctor shows how old it is."""
    assert vendor.prices() == (date(2026, 11, 23), SHIPPED["source"])


# -- one of the user's own -----------------------------------------------------------------------------


def test_a_list_of_ones_own_replaces_single_prices(listed: Listed) -> None:
    """What it names is counted by it, all else as before; its date and source are the ones that the doctor shows."""
    listed({"date": "2026-12-01", "source": "my contract", "sms": {"usd": {"US": "0.005", "JM": 0.3}}, "sms_carrier": {"usd": {"US": "0"}}})

    assert amount(message()) == 5_000
    assert amount(message(To="+18765551234")) == 300_000
    assert amount(message(To="+4915112345678")) == 112_000
    assert vendor.prices() == (date(2026, 12, 1), "my contract")


def test_a_list_may_be_toml_and_set_defaults_and_limits(listed: Listed) -> None:
    """Dates may be TOML's own; limits are counts."""
    listed('date = 2026-12-01\n[sms]\ndefault = "0.4"\n[limits.count]\ncall_minutes = 1440\n[voice.usd]\nsip = "0.004"\n', "prices.toml")

    assert amount(message(To="+18765551234")) == 400_000
    assert amount(phone(TimeLimit=None)) == 1440 * 14_000
    assert amount(phone(To="sip:a@example.com")) == 4_000


def test_the_longest_prefix_of_a_numbers_country_counts(listed: Listed) -> None:
    """A prefix is one of its own country: another country of the same code is not counted by it."""
    usd = {"US.1": "0.01", "US.1415": "0.02", "US.1415555": "0.03", "GB.44": "0.05"}
    listed({"date": "2026-12-01", "voice": {"usd": usd}})

    assert [amount(phone(To=to)) for to in ("+12125552671", "+14152552671", US, "+18765551234", "+447012345678")] == [
        10_000, 20_000, 30_000, 3_000_000, 50_000,
    ]  # fmt: skip


def test_countries_of_a_channel_may_have_their_own_ceiling(listed: Listed) -> None:
    """`whatsapp.DE` is what a message to a German number may cost."""
    listed({"date": "2026-12-01", "channels": {"usd": {"whatsapp.DE": "0.14", "whatsapp": "0.05"}}})

    assert [amount(message(To=to)) for to in ("whatsapp:+4915112345678", f"whatsapp:{US}")] == [140_000, 50_000]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "must be a table of blocks"),
        ({}, "it needs a date = YYYY-MM-DD"),
        ({"date": "yesterday"}, "it needs a date = YYYY-MM-DD"),
        ({"sms": {"usd": {"US": "0.01"}}}, "it needs a date = YYYY-MM-DD"),
        ({"date": "2026-12-01", "smss": {"usd": {}}}, "there is no block 'smss'; known: call_extras, channels"),
        ({"date": "2026-12-01", "sms": {"US": "0.01"}}, "block 'sms' must be a table with usd .* odd: US"),
        ({"date": "2026-12-01", "sms": {"usd": ["0.01"]}}, "block 'sms' must be a table with usd"),
        ({"date": "2026-12-01", "sms": "0.01"}, "block 'sms' must be a table with usd"),
        ({"date": "2026-12-01", "sms": {"usd": {"US": "cheap"}}}, "sms.US: expected an amount in US dollars"),
        ({"date": "2026-12-01", "sms": {"usd": {"US": "-1"}}}, "sms.US: expected an amount between 0"),
        ({"date": "2026-12-01", "sms": {"default": True}}, "sms.default: expected an amount"),
        ({"date": "2026-12-01", "limits": {"count": {"call_minutes": 0}}}, "limits.call_minutes: expected a whole number above 0"),
        ({"date": "2026-12-01", "limits": {"count": {"call_minutes": "9"}}}, "limits.call_minutes: expected a whole number above 0"),
    ],
)
def test_a_list_that_cannot_be_used_stops_the_installation(
    document: Any, says: str, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read when keyguard is installed, not by the first call that it would have priced."""
    monkeypatch.setenv("KEYGUARD_TWILIO_PRICES_FILE", str(listed(document)))

    with pytest.raises(ConfigurationError, match=f"(?s)twilio_prices_file: the price list .*{says}"):
        keyguard.install("sqlite://", run_usd_cap=1)


def test_a_list_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the file and where it was looked for."""
    monkeypatch.setenv("KEYGUARD_TWILIO_PRICES_FILE", str(tmp_path / "none.json"))

    with pytest.raises(ConfigurationError, match=r"none\.json' does not exist"):
        load_settings()


def test_the_setting_puts_a_list_in_force_until_uninstalled(listed: Listed, monkeypatch: pytest.MonkeyPatch) -> None:
    """`KEYGUARD_TWILIO_PRICES_FILE` holds for the process; nothing of it is left after `uninstall()`."""
    path = listed({"date": "2026-12-01", "sms": {"usd": {"US": "1"}}})
    context.set_price_files({})
    monkeypatch.setenv("KEYGUARD_TWILIO_PRICES_FILE", str(path))
    before = amount(message())
    keyguard.install("sqlite://", run_usd_cap=1)
    armed = amount(message())
    keyguard.uninstall()

    assert (before, armed, amount(message())) == (14_800, 1_006_500, 14_800)


def test_the_doctor_shows_the_list_of_the_setting(listed: Listed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its age is the file's, not that of the list that keyguard comes with."""
    monkeypatch.setenv("KEYGUARD_TWILIO_PRICES_FILE", str(listed({"date": "2026-12-01", "source": "mine"})))
    found = examine(None, "sqlite://", is_verified=False, today=lambda: date(2026, 12, 11))

    assert [finding.text for finding in found if finding.about == "prices twilio"] == ["of 2026-12-01 (10 days old), mine"]


def test_without_phonenumbers_the_line_that_installs_it_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library comes with the extra; without it no number has a country."""
    places._place.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "phonenumbers", None)

    with pytest.raises(MissingExtra, match=r'pip install "keyguard\[twilio\]"'):
        amount(message(To="+14155550199"))


def test_observing_goes_on_without_phonenumbers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The message is sent, and what would have stopped it is said; enforcing, nothing is sent."""
    places._place.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "phonenumbers", None)
    observing, enforcing = World({"mode": "observe"}), World()
    observing.call(observing.charges(Reply(201, {}, b"{}")), message(To="+14155550198"))
    with pytest.raises(MissingExtra):
        enforcing.call(enforcing.charges(Reply(201, {}, b"{}")), message(To="+14155550198"))

    assert (observing.sent, enforcing.sent, enforcing.counted) == (1, 0, (0, 0, 0))
    assert 'pip install "keyguard[twilio]"' in caplog.text
