"""Prism with Twilio's OpenAPI over loopback, through the real SDK: each call one reservation; the stand-in of memory is held against it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from tests.support_json_server import Answer, JsonServer
from tests.support_node import Missing, Peer, skip_or_fail
from tests.support_prism import prisms
from tests.support_twilio_clients import STYLES
from tests.support_twilio_play import STEPS, play
from tests.support_twilio_server import ACCOUNT, Twilio
from tests.test_twilio_counts import BOOKED, booked, check_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keyguard.ledgers import Ledger

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def mocks() -> Iterator[Mapping[str, Peer]]:
    """Twilio's products, answered by example."""
    try:
        with prisms() as found:
            yield found
    except Missing as missing:
        skip_or_fail(missing)


@pytest.fixture(scope="module")
def upstream() -> Iterator[JsonServer]:
    """The stand-in of memory; each test gives it an account."""
    with JsonServer(Twilio().answer) as found:
        yield found


@pytest.fixture(scope="module")
def checks(upstream: JsonServer) -> Iterator[Mapping[str, Peer]]:
    """Twilio's products in front of it, each request and answer held against its specification."""
    try:
        with prisms(upstream.url) as found:
            yield found
    except Missing as missing:
        skip_or_fail(missing)


def _listed(peers: Mapping[str, Peer], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", ",".join(f"twilio={peer.host}" for peer in peers.values()))
    return {product: peer.url for product, peer in peers.items()}


@pytest.mark.parametrize("style", STYLES)
def test_each_call_to_prism_is_one_reservation(
    mocks: Mapping[str, Peer], monkeypatch: pytest.MonkeyPatch, style: str, keyguard_ledger: Ledger
) -> None:
    """Messages, WhatsApp, schedules, calls, a number, verifications, look-ups: accepted by the specification, quoted, and settled."""
    urls = _listed(mocks, monkeypatch)
    with keyguard.run("run-1"):
        installed = keyguard.install(run_usd_cap=50)
        answers = play(urls, style)

    assert [answer for answer in answers if isinstance(answer, Exception)] == []
    # By example everything is accepted, and every message has the same id: only what was asked and quoted can be compared.
    assert [(operation, quote) for operation, quote, _, _ in booked(keyguard_ledger)] == [
        (operation, quote) for operation, quote, _, _ in BOOKED
    ]
    assert {ending for _, _, ending, _ in booked(keyguard_ledger)} == {"settle"}
    assert (installed.usage().calls, installed.usage().doubt) == (len(STEPS), 0)
    assert keyguard_ledger.verify() == []


@pytest.mark.parametrize("style", STYLES)
def test_the_vendors_own_count_is_the_ledgers_behind_its_specification(
    checks: Mapping[str, Peer], upstream: JsonServer, monkeypatch: pytest.MonkeyPatch, style: str, keyguard_ledger: Ledger
) -> None:
    """The stand-in of memory answers as the specification says, and its lists are what was booked, to the micro-dollar."""
    vendor, urls = Twilio(), _listed(checks, monkeypatch)
    monkeypatch.setattr(upstream, "answer", vendor.answer)
    with keyguard.run("run-1"):
        installed = keyguard.install(run_usd_cap=50)
        play(urls, style)

    check_counts(vendor, installed, keyguard_ledger)


@pytest.mark.parametrize(("form", "answer"), [("From=%2B15005550006", None), ("To=%2B12125550123", {"sid": "no sid of theirs"})])
def test_the_check_is_no_formality(checks: Mapping[str, Peer], upstream: JsonServer, monkeypatch: Any, form: str, answer: Any) -> None:
    """A request without To is stopped on its way, an answer with a bad id on its way back."""
    monkeypatch.setattr(upstream, "answer", lambda _: Answer(201, answer))
    url = f"{checks['api'].url}/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    headers = {"Authorization": "Basic QUM6eA==", "Content-Type": "application/x-www-form-urlencoded"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, form.encode(), headers), timeout=30)

    said = json.loads(refused.value.read())
    assert said["type"].startswith("https://stoplight.io/prism/errors#")
    refused.value.close()
