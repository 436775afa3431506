"""`keyguard prices`: the list is shown, and read anew from a server that speaks Twilio's Pricing API."""

from __future__ import annotations

import base64
import json
import sys
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from keyguard import cli, context
from keyguard.cli import pricing
from keyguard.errors import ConfigurationError, KeyguardError
from tests.support_json_server import Answer, Arrived, JsonServer
from tests.support_twilio import amount, message, phone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Type = Callable[..., tuple[int, str, str]]

USER, PASSWORD = "AC" + "0" * 32, "the-very-secret"
SMS = {
    "US": [("att", ["0.0079", "0.0085"]), ("tmo", ["0.0081"])],
    "JM": [("any", ["0.2541"])],
    "AQ": [],
}
VOICE = {"US": [(["1907"], "0.090"), (["1"], "0.013"), (["1"], "0.0135")], "JM": [(["1876"], "0.3"), (["1876555"], "0.0000123")]}
NUMBERS = {"US": [("local", "1.15"), ("toll free", "2.15")], "JM": [("local", "5")]}


def price(amount: str) -> dict[str, str]:
    """Return a price as the API writes one: list and current."""
    return {"base_price": "9.99", "current_price": amount}


def country(resource: str, code: str, unit: str) -> dict[str, Any]:
    """Return one country's prices in the API's form."""
    found: dict[str, Any] = {"country": code, "iso_country": code, "price_unit": unit, "url": "https://pricing.twilio.com/x"}
    if resource == "Messaging":
        carriers = [
            {"carrier": name, "mcc": "1", "mnc": "2", "prices": [{"number_type": "local", **price(one)} for one in of]}
            for name, of in SMS[code]
        ]
        return {**found, "outbound_sms_prices": carriers, "inbound_sms_prices": []}
    if resource == "Voice":
        return {
            **found,
            "outbound_prefix_prices": [
                {"destination_prefixes": of, "origination_prefixes": ["ALL"], **price(one)} for of, one in VOICE[code]
            ],
        }
    return {**found, "phone_number_prices": [{"number_type": kind, **price(one)} for kind, one in NUMBERS[code]]}


def answer(request: Arrived, unit: str = "USD") -> Answer:
    """Answer as the Pricing API does: two pages of countries, and each country by itself."""
    path, _, query = request.path.partition("?")
    words = path.strip("/").split("/")
    listed: dict[str, dict[str, Any]] = {"Messaging": dict(SMS), "Voice": dict(VOICE), "PhoneNumbers": dict(NUMBERS)}
    codes = list(listed[words[1]])
    if len(words) == 3:
        page = 1 if "Page=1" in query else 0
        following = None if page else f"https://pricing.twilio.com{path}?PageSize=1000&Page=1"
        items = [{"country": code, "iso_country": code, "url": "u"} for code in (codes[1:] if page else codes[:1])]
        return Answer(200, {"countries": items, "meta": {"next_page_url": following}})
    return Answer(200, country(words[1], words[3], unit)) if words[3] in codes else Answer(404, {"code": 20404, "status": 404})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """A server with Twilio's Pricing API, and the credentials for it."""
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", USER)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", PASSWORD)
    with JsonServer(answer) as server:
        yield server
    context.set_price_files({})


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command; returns exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["keyguard", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out = capsys.readouterr()
        return int(left.value.code or 0), out.out, out.err

    return run


def test_a_refresh_writes_the_accounts_prices_and_says_what_changed(api: JsonServer, typed: Type, tmp_path: Path) -> None:
    """The dearest over carriers, kinds and origins, in a dated file; calls are counted by it once the setting names it."""
    path = tmp_path / "mine" / "prices.json"
    code, out, err = typed("prices", "refresh", "twilio", "--into", str(path), "--base-url", api.url)
    written = json.loads(path.read_text(encoding="utf-8"))

    assert (code, err) == (0, "")
    assert written["date"] == datetime.now(timezone.utc).date().isoformat()
    assert written["sms"]["usd"] == {"JM": "0.2541", "US": "0.0085"}
    assert written["voice"]["usd"] == {
        "JM": "0.3", "JM.1876": "0.3", "JM.1876555": "0.000013", "US": "0.09", "US.1": "0.0135", "US.1907": "0.09",
    }  # fmt: skip
    assert written["numbers"]["usd"] == {"JM": "5", "JM.local": "5", "US": "2.15", "US.local": "1.15", "US.toll_free": "2.15"}
    assert "sms US: 0.0083 -> 0.0085" in out
    assert "sms JM: not listed -> 0.2541" in out
    assert "numbers US.local" not in out
    assert f"export KEYGUARD_TWILIO_PRICES_FILE={path}" in out
    assert [file.name for file in path.parent.iterdir()] == ["prices.json"]

    context.set_price_files({"twilio": path})
    assert amount(message()) == 8_500 + 6_500
    assert amount(message(To="+18765551234")) == 254_100
    assert [amount(phone(To=to)) for to in ("+14155552671", "+19075551234", "+18764441234")] == [13_500, 90_000, 300_000]


def test_the_credentials_go_to_no_other_host_and_into_no_output(api: JsonServer, typed: Type, tmp_path: Path) -> None:
    """The next page's URL names Twilio's own host; only its path is followed. The secret is in each request's header and nowhere else."""
    path = tmp_path / "prices.json"
    _, out, err = typed("prices", "refresh", "twilio", "--into", str(path), "--base-url", api.url)
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    assert {request.headers["authorization"] for request in api.requests} == {basic}
    assert [request.path for request in api.requests if "Page=1" in request.path] == [
        "/v1/Messaging/Countries?PageSize=1000&Page=1", "/v2/Voice/Countries?PageSize=1000&Page=1",
        "/v1/PhoneNumbers/Countries?PageSize=1000&Page=1",
    ]  # fmt: skip
    assert PASSWORD not in out + err + path.read_text(encoding="utf-8")


def test_single_countries_are_refreshed_beside_what_the_file_has(api: JsonServer, tmp_path: Path) -> None:
    """The others stay, under the older date; blocks that are not refreshed stay too."""
    path = tmp_path / "prices.json"
    document = {"date": "2026-10-01", "sms": {"usd": {"US": "1", "GB": "0.05"}}, "limits": {"count": {"call_minutes": 60}}}
    path.write_text(json.dumps(document), encoding="utf-8")
    done = pricing.refresh_twilio(str(path), "us, jm", api.url, today=lambda: date(2026, 12, 1))
    written = json.loads(path.read_text(encoding="utf-8"))

    assert written["date"] == "2026-10-01"
    assert written["sms"] == {"usd": {"GB": "0.05", "JM": "0.2541", "US": "0.0085"}, "date": "2026-12-01"}
    assert written["limits"] == {"count": {"call_minutes": 60}}
    assert ("sms", "US", "1", "0.0085") in done.changes


def test_a_whole_refresh_replaces_what_the_file_had(api: JsonServer, tmp_path: Path) -> None:
    """A country that Twilio lists no more is counted by the default again."""
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"date": "2026-10-01", "sms": {"usd": {"GB": "0.05"}, "default": "0.9"}}), encoding="utf-8")
    pricing.refresh_twilio(str(path), None, api.url, today=lambda: date(2026, 12, 1))
    written = json.loads(path.read_text(encoding="utf-8"))

    assert (written["date"], written["sms"]["usd"], written["sms"]["default"]) == ("2026-12-01", {"JM": "0.2541", "US": "0.0085"}, "0.9")


def test_the_file_is_the_settings_or_lies_beside_the_ledger(api: JsonServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The setting may name a file that is not there yet; without it the user's own data folder is the place."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    own = pricing.refresh_twilio(None, "US", api.url).path
    monkeypatch.setenv("KEYGUARD_TWILIO_PRICES_FILE", str(tmp_path / "new.json"))

    assert own.name == "twilio_prices.json"
    assert own.exists()
    assert pricing.refresh_twilio(None, "US", api.url).path == tmp_path / "new.json"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Answer(401, {"code": 20003}), r"refused the credentials \(HTTP 401\)"),
        (Answer(500, b"<html>"), "HTTP 500; nothing was written"),
        (Answer(429, {"code": 20429}), "HTTP 429; nothing was written"),
        (Answer(200, b"<html>"), "is not JSON"),
        (Answer(200, []), "HTTP 200; nothing was written"),
        (Answer(0), "could not be reached"),
        (Answer(200, {"iso_country": "US", "price_unit": "EUR"}), "prices in EUR, and keyguard counts US dollars"),
        (Answer(200, {"outbound_sms_prices": [{"carrier": "x"}]}), r"is not what it documents \(KeyError\)"),
        (Answer(200, {"outbound_sms_prices": [{"prices": [{"current_price": "cheap"}]}]}), "is not what it documents"),
        (Answer(200, {"outbound_sms_prices": [{"prices": [{"current_price": "-1"}]}]}), "is not what it documents"),
    ],
)
def test_what_goes_wrong_is_said_and_writes_nothing(given: Answer, says: str, api: JsonServer, tmp_path: Path) -> None:
    """The file stays as it was; no error shows the secret."""
    api.scripted.append(given)
    with pytest.raises(KeyguardError, match=says) as error:
        pricing.refresh_twilio(str(tmp_path / "prices.json"), "US", api.url)

    assert list(tmp_path.iterdir()) == []
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    ("into", "countries", "says"),
    [
        ("prices.toml", None, "name a .json file with --into"),
        ("prices.json", "USA", "expected ISO codes of countries such as US,CA, got 'USA'"),
        ("prices.json", "US,", "got ''"),
        ("prices.json", "AQ", "listed no price at all"),
        ("prices.json", "XX", "listed no price at all"),
    ],
)
def test_what_is_asked_must_make_sense(into: str, countries: str | None, says: str, api: JsonServer, tmp_path: Path) -> None:
    """The message says what is allowed."""
    with pytest.raises(KeyguardError, match=says):
        pricing.refresh_twilio(str(tmp_path / into), countries, api.url)


def test_the_secret_goes_only_over_https(api: JsonServer, tmp_path: Path) -> None:
    """Another base may be a proxy on this machine, or one that speaks TLS."""
    with pytest.raises(ConfigurationError, match="only over https"):
        pricing.refresh_twilio(str(tmp_path / "prices.json"), "US", "http://pricing.example.com")


def test_a_file_with_a_mistake_is_not_overwritten(api: JsonServer, tmp_path: Path) -> None:
    """What a person wrote into it would be lost."""
    path = tmp_path / "prices.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="Mend or remove it first"):
        pricing.refresh_twilio(str(path), "US", api.url)

    assert path.read_text(encoding="utf-8") == "{"


def test_credentials_are_needed(typed: Type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command says which variables it reads."""
    monkeypatch.delenv("TWILIO_ACCOUNT_SID", raising=False)
    monkeypatch.delenv("TWILIO_AUTH_TOKEN", raising=False)
    code, _, err = typed("prices", "refresh", "twilio", "--into", str(tmp_path / "prices.json"))

    assert (code, "set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN" in err) == (2, True)


@pytest.mark.parametrize("words", [("refresh", "stripe"), ("show", "resend")])
def test_only_twilio_has_a_list_by_country(words: tuple[str, str], typed: Type) -> None:
    """Other vendors' prices are in the request, or one setting."""
    code, _, err = typed("prices", *words)

    assert (code, "only twilio has a price list" in err) == (2, True)


def test_the_list_in_force_is_shown(typed: Type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For people by block, for machines as JSON; the setting's file is in it."""
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"date": "2026-12-01", "source": "mine", "sms": {"usd": {"US": "0.004"}}}), encoding="utf-8")
    monkeypatch.setenv("KEYGUARD_TWILIO_PRICES_FILE", str(path))
    _, text, _ = typed("prices", "show")
    code, as_json, _ = typed("prices", "show", "twilio", "--json")
    context.set_price_files({})

    assert "prices of 2026-12-01, mine; US dollars" in text
    assert code == 0
    assert json.loads(as_json)["usd"]["sms"]["US"] == "0.004"
    assert json.loads(as_json)["default"]["sms"] == "0.75"


def test_what_a_refresh_did_is_json_too(api: JsonServer, typed: Type, tmp_path: Path) -> None:
    """The file, how many prices were read, and each change."""
    code, out, _ = typed(
        "prices", "refresh", "twilio", "--into", str(tmp_path / "p.json"), "--country", "US", "--base-url", api.url, "--json"
    )

    assert code == 0
    assert json.loads(out)["read"] == {"sms": 1, "voice": 3, "numbers": 3}
    assert ["sms", "US", "0.0083", "0.0085"] in json.loads(out)["changed"]
