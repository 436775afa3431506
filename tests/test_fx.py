"""Pinned exchange rates: the table is read strictly, amounts are rounded against the spender, a whole payment in euros is counted."""

from __future__ import annotations

import logging
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

import keyguard
from keyguard import context
from keyguard.errors import ConfigurationError, MalformedCall, UnpricedCall
from keyguard.fx import Rates, load_rates
from keyguard.model import Call, Memory
from keyguard.vendors import Recall, vendor_named
from tests.support_prefect import make_customers
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLE = {"date": "2026-11-20", "source": "ECB reference rates", "usd_per_unit": {"EUR": "1.10", "jpy": 0.0066, "kwd": "3.26"}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeServer]:
    """A Stripe server on loopback that the SDK talks to; what is pinned is forgotten afterwards."""
    with StripeServer() as found:
        monkeypatch.setattr(stripe, "api_base", found.url)
        monkeypatch.setattr(stripe, "api_key", "sk_test_12345")
        yield found
    keyguard.uninstall()


# -- the table ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mapping", "toml", "json"])
def test_a_table_is_read_from_wherever_it_is(tmp_path: Path, kind: str) -> None:
    """A mapping, a TOML file and a JSON file give the same rates, by the shortest decimal form of each number."""
    path = tmp_path / f"rates.{kind}"
    path.write_text({
        "toml": 'date = 2026-11-20\nsource = "ECB reference rates"\n[usd_per_unit]\nEUR = "1.10"\njpy = 0.0066\nkwd = 3.26',
        "json": '{"date": "2026-11-20", "source": "ECB reference rates", "usd_per_unit": {"EUR": 1.10, "jpy": "0.0066", "kwd": 3.26}}',
    }.get(kind, ""))  # fmt: skip
    rates = load_rates(TABLE if kind == "mapping" else path)

    assert rates.date == date(2026, 11, 20)
    assert rates.usd_per_unit == {"eur": Decimal("1.1"), "jpy": Decimal("0.0066"), "kwd": Decimal("3.26")}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"usd_per_unit": {"eur": 1.1}}, "date: Field required"),
        ({"date": "", "usd_per_unit": {"eur": 1.1}}, "expected a day such as 2026-11-20"),
        ({"date": "2026-13-01", "usd_per_unit": {"eur": 1.1}}, "date"),
        ({"date": 1, "usd_per_unit": {"eur": 1.1}}, "date"),
        ({"date": "2026-11-20", "usd_per_unit": {}}, "usd_per_unit"),
        ({"date": "2026-11-20", "usd_per_unit": {"eur": 0}}, "greater than 0"),
        ({"date": "2026-11-20", "usd_per_unit": {"eur": -1}}, "greater than 0"),
        ({"date": "2026-11-20", "usd_per_unit": {"eur": "much"}}, "expected a number"),
        ({"date": "2026-11-20", "usd_per_unit": {"eur": float("nan")}}, "finite"),
        ({"date": "2026-11-20", "usd_per_unit": {"eur": True}}, "expected a number"),
        ({"date": "2026-11-20", "usd_per_unit": {"euro": 1.1}}, "three-letter currency codes, got 'euro'"),
        ({"date": "2026-11-20", "usd_per_unit": {"eur": 1.1, "EUR": 1.2}}, "named twice"),
        ({"date": "2026-11-20", "usd_per_unit": {"usd": 2}}, "usd is 1"),
        ({"date": "2026-11-20", "usd_per_unit": {"eur": 1.1}, "haircut": 2}, "less than or equal to 1"),
        ({"date": "2026-11-20", "usd_per_unit": {"eur": 1.1}, "hair": 1}, "hair: Extra inputs"),
        ("no/such/rates.toml", "cannot be read"),
        (["eur", 1.1], "cannot be read"),
    ],
)
def test_a_table_that_could_be_wrong_is_refused(table: Any, words: str) -> None:
    """The message says what was wrong and shows a good table; nothing is pinned."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        keyguard.install("sqlite://", fx=table, run_usd_cap=1)

    assert "'usd_per_unit'" in str(caught.value)
    assert context.rates() is None


@given(st.integers(0, 99_999_999), st.decimals("0.000001", 1000, places=6), st.decimals(0, 1, places=4), st.sampled_from([0, 2, 3]))
def test_amounts_are_rounded_against_the_spender(amount: int, rate: Decimal, haircut: Decimal, exponent: int) -> None:
    """Never below the exact amount, and less than a micro-dollar above it."""
    rates = Rates(date=date(2026, 11, 20), usd_per_unit={"xxx": rate}, haircut=haircut)
    exact = Fraction(amount) * Fraction(rate) * (1 + Fraction(haircut)) * 1_000_000 / 10**exponent

    assert 0 <= rates.micros(amount, "xxx", exponent) - exact < 1


# -- through the guard -------------------------------------------------------------------------------


def test_without_a_rate_the_message_says_how_to_pin_one(server: StripeServer) -> None:
    """Refused, nothing sent; another currency's rate is no help."""
    keyguard.install("sqlite://", run_usd_cap=100, fx={"date": "2026-11-20", "usd_per_unit": {"gbp": 1.3}})

    with pytest.raises(UnpricedCall, match=r"no exchange rate is pinned for 'eur'.*KEYGUARD_FX_FILE=rates.toml or install\(fx="):
        stripe.PaymentIntent.create(amount=100, currency="eur")
    assert server.requests == []


def test_the_environment_pins_a_file(server: StripeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`KEYGUARD_FX_FILE` is read at install; an argument wins over it, and a later install without one keeps what there is."""
    path = tmp_path / "rates.toml"
    path.write_text("date = 2026-11-20\nusd_per_unit = { eur = 2 }")
    monkeypatch.setenv("KEYGUARD_FX_FILE", str(path))
    installed = keyguard.install("sqlite://", run_usd_cap=100)
    stripe.PaymentIntent.create(amount=100, currency="eur", confirm=True)
    by_file = installed.usage().spent
    monkeypatch.delenv("KEYGUARD_FX_FILE")
    keyguard.install("sqlite://", run_usd_cap=100)
    stripe.PaymentIntent.create(amount=100, currency="EUR", confirm=True)
    kept = installed.usage().spent - by_file
    keyguard.install("sqlite://", run_usd_cap=100, fx=TABLE)
    stripe.PaymentIntent.create(amount=100, currency="eur", confirm=True)

    assert (by_file, kept) == (2_000_000, 2_000_000)
    assert installed.usage().spent == 5_100_000
    assert len(server.charges) == 3


def test_an_old_table_is_a_warning(server: StripeServer, caplog: pytest.LogCaptureFixture) -> None:
    """The age stands in the line that says what was pinned."""
    with caplog.at_level(logging.INFO, "keyguard"):
        keyguard.install("sqlite://", run_usd_cap=1, fx={**TABLE, "date": "2020-01-01"})

    assert server.requests == []
    (line,) = [record for record in caplog.records if "exchange rates" in record.message]
    assert line.levelno == logging.WARNING
    assert "exchange rates of 2020-01-01" in line.message


@pytest.mark.parametrize(
    ("currency", "amount", "micros"),
    [("eur", 1000, 11_000_000), ("jpy", 1000, 6_600_000), ("kwd", 1000, 3_260_000), ("usd", 1000, 10_000_000)],
)
def test_a_charge_is_counted_in_dollars(server: StripeServer, currency: str, amount: int, micros: int) -> None:
    """Currencies of two, no and three decimals; the reply is read in the same currency, so that quote and cost agree."""
    installed = keyguard.install("sqlite://", run_usd_cap=100, fx=TABLE)
    stripe.PaymentIntent.create(amount=amount, currency=currency, confirm=True)
    usage = installed.usage()

    assert (usage.spent, usage.held, usage.doubt, usage.overrun) == (micros, 0, 0, 0)
    assert len(server.charges) == 1


def test_the_haircut_is_held_and_spent(server: StripeServer) -> None:
    """Five per cent more than the rate says, on a cap that fits exactly; a cent more is refused."""
    installed = keyguard.install("sqlite://", run_usd_cap="11.55", fx={**TABLE, "haircut": 0.05})
    stripe.PaymentIntent.create(amount=1000, currency="eur", confirm=True)

    with pytest.raises(keyguard.SpendCapExceeded):
        stripe.PaymentIntent.create(amount=1, currency="eur", confirm=True)
    assert installed.usage().spent == 11_550_000
    assert len(server.charges) == 1


@pytest.fixture
def customer(standin: str, server: StripeServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A paying customer of localstripe, which holds and captures; the SDK talks to it."""
    assert server.requests == []
    monkeypatch.setattr(stripe, "api_base", standin)
    return make_customers(standin, 1)[0]


def authorize(customer: str) -> str:
    """Hold 20 euros."""
    return stripe.PaymentIntent.create(
        amount=2000, currency="eur", customer=customer, payment_method="pm_card_visa", confirm=True, capture_method="manual"
    ).id


def test_later_amounts_are_in_the_objects_currency(customer: str) -> None:
    """A euro hold is captured, and a part of it refunded without naming a currency: all counted by the euro's rate."""
    installed = keyguard.install("sqlite://", run_usd_cap=100, fx=TABLE)
    intent = authorize(customer)
    held = installed.usage().held
    stripe.PaymentIntent.capture(intent, amount_to_capture=2000)
    after = installed.usage()
    stripe.Refund.create(payment_intent=intent, amount=100)

    assert held == 22_000_000
    assert (after.spent, after.held, after.doubt, after.overrun) == (22_000_000, 0, 0, 0)
    assert installed.usage().refunded == 1_100_000


def test_an_object_of_somebody_else_is_asked_for_its_currency(customer: str) -> None:
    """The capture of a euro intent that this run did not make is held at the euro's rate, on this run's cap."""
    with keyguard.run("maker"):
        keyguard.install("sqlite://", run_usd_cap=100, fx=TABLE)
        intent = authorize(customer)
    with keyguard.run("taker"):
        installed = keyguard.install("sqlite://", run_usd_cap=22)
        stripe.PaymentIntent.create(amount=1, currency="usd")
        with pytest.raises(keyguard.SpendCapExceeded, match=r"for \$22\.00 would pass"):
            stripe.PaymentIntent.capture(intent, amount_to_capture=2000)
        usage = installed.usage()

    assert (usage.spent, usage.held, usage.doubt) == (0, 10_000, 0)


@pytest.mark.parametrize(
    ("path", "fields", "micros"),
    [
        ("payment_intents/pi_1/capture", {"amount_to_capture": "500"}, 5_500_000),
        ("payment_intents/pi_1/confirm", {"amount_to_confirm": "500"}, 5_500_000),
        ("payment_intents/pi_1/increment_authorization", {"amount": "3000"}, 33_000_000),
        ("payment_intents/pi_1", {"amount": "3000"}, 33_000_000),
        ("payment_intents/pi_1", {"amount": "3000", "currency": "usd"}, 30_000_000),
        ("payment_intents/pi_1", {"currency": "eur"}, 22_000_000),
        ("charges/pi_1/capture", {"amount": "500"}, 5_500_000),
        ("payment_intents/pi_1/capture", {}, 22_000_000),
    ],
)
def test_parts_of_a_remembered_object_are_quoted_by_its_currency(path: str, fields: dict[str, str], micros: int) -> None:
    """The run's ledger remembers a 20 euro hold: an amount without a currency is in euros."""
    made = Call("stripe", "POST", "https", "api.stripe.com", f"/v1/{path}", body=tuple(fields.items()))
    vendor = vendor_named("stripe")
    context.set_rates(load_rates(TABLE))
    try:
        quoting = vendor.quote(made, vendor.classify(made))
        assert isinstance(quoting.send(None), Recall)
        with pytest.raises(StopIteration) as answered:
            quoting.send(Memory("pi_1", held=22_000_000, amount=22_000_000, currency="eur"))
    finally:
        context.set_rates(None)

    assert answered.value.value.amount == micros


def test_a_change_of_currency_alone_is_refused(server: StripeServer) -> None:
    """The number stays and its worth changes: the amount must be said again."""
    installed = keyguard.install("sqlite://", run_usd_cap=100, fx=TABLE)
    intent = stripe.PaymentIntent.create(amount=1000, currency="usd")
    sent = len(server.requests)

    with pytest.raises(MalformedCall, match="a change of the currency needs the amount too"):
        stripe.PaymentIntent.modify(intent.id, currency="eur")
    assert len(server.requests) == sent
    assert installed.usage().held == 10_000_000
