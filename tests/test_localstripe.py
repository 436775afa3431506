"""localstripe over loopback, in every style of calling it: what it says was charged is what the ledger says was spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

import keyguard
from tests.support_styles import SECRET, STYLES, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
USD = 1_000_000
CARD = {"payment_method": "pm_card_visa", "confirm": True}


@pytest.fixture
def url(standin: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server, emptied, and guarded like Stripe's own host."""
    httpx.delete(f"{standin}/_config/data").raise_for_status()
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={standin.removeprefix('http://')}")
    yield standin
    keyguard.uninstall()


def _declining_card(url: str) -> str:
    form = {"type": "card", "card[number]": "4000000000000341", "card[exp_month]": "12", "card[exp_year]": "2030", "card[cvc]": "123"}
    return str(httpx.post(f"{url}/v1/payment_methods", data=form, auth=(SECRET, "")).raise_for_status().json()["id"])


def _charged(url: str) -> int:
    """Return what the vendor says it took, and kept at the moment of capture, in micro-USD."""
    found = httpx.get(f"{url}/v1/charges", params={"limit": 100}, auth=(SECRET, "")).raise_for_status().json()["data"]
    return 10_000 * sum(int(charge["amount"]) for charge in found if charge["status"] == "succeeded")


@pytest.mark.parametrize("style", STYLES)
def test_the_vendors_count_is_the_ledgers(url: str, style: str) -> None:
    """A payment at once and one in two steps, one that is cancelled, one declined, a refund and a refusal."""
    post, intent = STYLES[style](url), {"amount": 2000, "currency": "usd"}
    declining = _declining_card(url)
    installed = keyguard.install("sqlite://", run_usd_cap=50)

    paid = post("/v1/payment_intents", {**intent, **CARD}, None)
    assert (installed.usage().spent, installed.usage().held, _charged(url)) == (20 * USD, 0, 20 * USD)

    open_ = post("/v1/payment_intents", {**intent, "payment_method": "pm_card_visa"}, None)
    assert (installed.usage().spent, installed.usage().held) == (20 * USD, 20 * USD)
    post(f"/v1/payment_intents/{open_['id']}/cancel", {}, None)
    assert (installed.usage().held, _charged(url)) == (0, 20 * USD)

    later = post("/v1/payment_intents", {**intent, "payment_method": "pm_card_visa"}, None)
    post(f"/v1/payment_intents/{later['id']}/confirm", {}, None)
    assert (installed.usage().spent, installed.usage().held, _charged(url)) == (40 * USD, 0, 40 * USD)

    refused: Any = status_of(lambda: post("/v1/payment_intents", {**intent, "amount": 500, **CARD, "payment_method": declining}, None))
    assert (refused, _charged(url), installed.usage().doubt) == (402, installed.usage().spent, 0)

    post("/v1/refunds", {"payment_intent": paid["id"], "amount": 700}, None)
    assert installed.usage().refunded == 7 * USD

    with pytest.raises(keyguard.SpendCapExceeded):
        post("/v1/payment_intents", {**intent, **CARD}, None)

    assert _charged(url) == installed.usage().spent == 40 * USD
