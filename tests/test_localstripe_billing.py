"""localstripe's invoices, subscriptions and payouts over loopback: what it says was paid is what the ledger says was spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

import keyguard
from tests.support_styles import SECRET, STYLES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
CENT = 10_000
RATES = {"date": "2026-11-20", "usd_per_unit": {"eur": "1.25"}}
# In a loop of its own for each call, and blocking; every other style has its own test of payments.
FEW = ["requests", "async httpx", "raw httpx"]


@pytest.fixture
def url(standin: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server, emptied, and guarded like Stripe's own host."""
    httpx.delete(f"{standin}/_config/data").raise_for_status()
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={standin.removeprefix('http://')}")
    yield standin
    keyguard.uninstall()


def _made(url: str, path: str, **form: Any) -> Any:
    """Make something before anybody guards it."""
    return httpx.post(f"{url}{path}", data=form, auth=(SECRET, "")).raise_for_status().json()


def _seen(url: str, path: str) -> Any:
    return httpx.get(f"{url}{path}", auth=(SECRET, "")).raise_for_status().json()


@pytest.fixture
def customer(url: str) -> str:
    """A customer with a card, and a plan for $20.00 a month."""
    found = str(_made(url, "/v1/customers", email="a@example.com")["id"])
    card = _made(url, "/v1/payment_methods", type="card", **{
        "card[number]": "4242424242424242", "card[exp_month]": "12", "card[exp_year]": "2030", "card[cvc]": "123"})["id"]  # fmt: skip
    _made(url, f"/v1/payment_methods/{card}/attach", customer=found)
    _made(url, f"/v1/customers/{found}", **{"invoice_settings[default_payment_method]": card})
    _made(url, "/v1/plans", id="gold", amount="2000", currency="usd", interval="month", name="Gold")
    return found


@pytest.mark.parametrize("style", FEW)
def test_a_subscription_costs_what_its_first_invoice_says(url: str, customer: str, style: str) -> None:
    """Held at the plan's price, which is asked for; once its invoice is read, spent as it was paid. It will be charged again."""
    post = STYLES[style](url)
    installed = keyguard.install("sqlite://", run_usd_cap=50)
    made = post("/v1/subscriptions", {"customer": customer, "items": [{"plan": "gold", "quantity": 1}]} if style != "raw httpx" else
                {"customer": customer, "items[0][plan]": "gold", "items[0][quantity]": "1"}, None)  # fmt: skip
    usage = installed.usage()
    assert (usage.spent, usage.held, usage.recurring) == (0, 2000 * CENT, 1)

    paid = _seen(url, f"/v1/invoices/{made['latest_invoice']}")
    usage = installed.usage()
    assert (usage.spent, usage.held) == (2000 * CENT, 0)
    assert paid["amount_paid"] * CENT == usage.spent


@pytest.mark.parametrize("style", FEW)
def test_an_item_is_held_until_the_subscription_collects_it(url: str, customer: str, style: str) -> None:
    """The customer's item, made first, is part of the first invoice, and counted once."""
    post = STYLES[style](url)
    installed = keyguard.install("sqlite://", run_usd_cap=50)
    post("/v1/invoiceitems", {"customer": customer, "amount": 700, "currency": "usd", "description": "setup"}, None)
    assert (installed.usage().spent, installed.usage().held) == (0, 700 * CENT)

    made = post("/v1/subscriptions", {"customer": customer, "plan": "gold"}, None)
    assert installed.usage().held == 2700 * CENT
    paid = _seen(url, f"/v1/invoices/{made['latest_invoice']}")

    assert (installed.usage().spent, installed.usage().held) == (paid["amount_paid"] * CENT, 0) == (2700 * CENT, 0)


@pytest.mark.parametrize("style", FEW)
def test_payouts_in_euros_are_counted_in_dollars(url: str, style: str) -> None:
    """What left, by the vendor's list, at the pinned rate, is what was spent; the payout above the cap was never made."""
    post = STYLES[style](url)
    installed = keyguard.install("sqlite://", run_usd_cap=50, fx=RATES)
    for amount in (1000, 1500):
        post("/v1/payouts", {"amount": amount, "currency": "eur"}, None)
    with pytest.raises(keyguard.SpendCapExceeded):
        post("/v1/payouts", {"amount": 1501, "currency": "eur"}, None)
    left = sum(payout["amount"] for payout in _seen(url, "/v1/payouts?limit=100")["data"])

    assert (left, installed.usage().spent) == (2500, 2500 * CENT * 5 // 4)
