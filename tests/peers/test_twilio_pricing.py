"""`keyguard prices refresh twilio` against Prism with the OpenAPI of Twilio's Pricing API: what it asks is allowed, and it is read."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import date
from typing import TYPE_CHECKING

import pytest

from keyguard.cli.pricing import refresh_twilio
from tests.support_json_server import Answer, Arrived, JsonServer
from tests.support_node import Missing, skip_or_fail
from tests.support_prism import prisms
from tests.support_twilio_server import ACCOUNT, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def pricing() -> Iterator[JsonServer]:
    """One host for both versions, as Twilio has it; each is a Prism with its own specification."""
    try:
        with prisms(products=("pricing1", "pricing2")) as found:

            def passed_on(arrived: Arrived) -> Answer:
                peer = found["pricing2" if arrived.path.startswith("/v2/") else "pricing1"]
                headers = {"Authorization": arrived.headers["authorization"]}
                if arrived.path.partition("?")[0].endswith("/Countries"):
                    # Of its two examples one has no country.
                    headers["Prefer"] = "example=readFull"
                request = urllib.request.Request(peer.url + arrived.path, headers=headers)
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        return Answer(answer.status, answer.read())
                except urllib.error.HTTPError as refused:
                    with refused:
                        return Answer(refused.code, refused.read())

            with JsonServer(passed_on) as server:
                yield server
    except Missing as missing:
        skip_or_fail(missing)


@pytest.mark.parametrize("countries", ["US", None])
def test_an_accounts_prices_are_read(pricing: JsonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, countries: str | None) -> None:
    """Every block gets prices from the specification's examples, and each request is one that the specification knows."""
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", ACCOUNT)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    file = tmp_path / "prices.json"
    found = refresh_twilio(str(file), countries, pricing.url, today=lambda: date(2026, 11, 25))

    assert all(count > 0 for count in found.counts.values())
    assert file.exists()
    assert {arrived.path.split("/")[1] for arrived in pricing.requests} == {"v1", "v2"}
