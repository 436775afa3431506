"""The stand-ins of the vendors behind the proxy: what they have counted themselves is what both ledgers say."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import stripe

from keyguard.demo.truth import charged
from keyguard.errors import SpendCapExceeded
from tests.proxy.support import Proxy
from tests.remote.support import behind
from tests.support_json_server import JsonServer
from tests.support_prefect import API_KEY, make_customers
from tests.support_twilio_play import STEPS, play
from tests.support_twilio_server import TOKEN, Twilio
from tests.test_twilio_counts import BOOKED, own_count

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.ci


@pytest.mark.parametrize("kind", ["remote", "front"])
def test_localstripe_counts_as_the_ledgers_do(standin: str, tmp_path: Path, kind: Any) -> None:
    """Five customers, $50: two charges of $20, then a refusal; the same in the stand-in's list, at the proxy and here."""
    customers = make_customers(standin, 5)
    with Proxy(tmp_path, standin) as proxy, behind(kind, proxy, tmp_path, run="r1", run_usd_cap=50) as installed:
        client: Any = stripe.StripeClient(installed.key.token)
        with pytest.raises(SpendCapExceeded):
            for customer in customers:
                method = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
                client.v1.payment_intents.create(
                    {"amount": 2000, "currency": "usd", "customer": customer, "payment_method": method, "confirm": True}
                )
        usage = installed.usage()
        (shown,) = proxy.ask("GET", "/vault/keys").json()["keys"]

    assert charged(standin, API_KEY) == (4000, 2)
    assert (usage.spent, usage.held, usage.doubt) == (40_000_000, 0, 0)
    assert (shown["spent_usd"], shown["held_usd"], shown["in_doubt_usd"]) == (40, 0, 0)


@pytest.mark.parametrize("kind", ["remote", "front"])
@pytest.mark.parametrize("style", ["sync", "async"])
def test_twilios_own_count_is_the_ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, style: str) -> None:
    """Messages, calls, numbers, verifications and look-ups of all products, each at its own host, as without a proxy."""
    vendor = Twilio()
    monkeypatch.setenv("OF_THE_STANDIN", TOKEN)
    with (
        JsonServer(vendor.answer) as server,
        Proxy(tmp_path, server.url, secrets="twilio=env:OF_THE_STANDIN") as proxy,
        behind(kind, proxy, tmp_path, run="run-1", run_usd_cap=50) as installed,
    ):
        play({}, style)
        usage = installed.usage()
        (shown,) = proxy.ask("GET", "/vault/keys").json()["keys"]
    spent = sum(cost for _, _, _, cost in BOOKED)

    assert own_count(vendor) == Counter(operation for operation, _, _, cost in BOOKED if cost)
    assert (usage.spent, usage.held, usage.doubt, usage.calls) == (spent, 0, 0, len(STEPS))
    assert round(shown["spent_usd"] * 1_000_000) == spent
