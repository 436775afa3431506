"""Stripe's cassettes: what is asked of two stand-ins. Starts nothing when imported, asserts nothing."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import stripe

import keyguard.demo
from keyguard.demo.children import started
from tests.support_cassettes import Origin, Scenario
from tests.support_node import node_peer, package

if TYPE_CHECKING:
    from collections.abc import Iterator

API_KEY = "sk_test_12345"
STATEFUL = "stripe-stateful-mock"
# The package is an application without a program.
STATEFUL_PROGRAM = "require('http').createServer(require(process.argv[1]).createExpressApp()).listen(Number(process.argv[2]), '127.0.0.1')"
_HEADERS = ("Content-Type", "Stripe-Version")


def client(url: str) -> stripe.StripeClient:
    """Return a client that asks once, with a transport of its own."""
    return stripe.StripeClient(API_KEY, base_addresses={"api": url}, max_network_retries=0)


# -- localstripe: payment intents ------------------------------------------------------------------


def _success(url: str, card: str) -> list[Any]:
    return [client(url).v1.payment_intents.create({"amount": 2000, "currency": "usd", "payment_method": card, "confirm": True})]


def _decline(url: str, card: str) -> list[Any]:
    try:
        return _success(url, card)
    except stripe.CardError as declined:
        return [declined]


def _manual_capture(url: str, card: str) -> list[Any]:
    intents = client(url).v1.payment_intents
    made = intents.create({"amount": 3000, "currency": "usd", "payment_method": card, "capture_method": "manual"})
    return [made, intents.confirm(made.id), intents.capture(made.id)]


def _partial_refund(url: str, card: str) -> list[Any]:
    (paid,) = _success(url, card)
    return [paid, client(url).v1.refunds.create({"payment_intent": paid.id, "amount": 500})]


def _jpy(url: str, card: str) -> list[Any]:
    # Zero-decimal: 500 is five hundred yen, not five.
    return [client(url).v1.payment_intents.create({"amount": 500, "currency": "jpy", "payment_method": card, "confirm": True})]


def _make_asking_card(url: str) -> str:
    """Make Stripe's public test card that always asks for 3D Secure: a card number never gets into a cassette."""
    form = {"type": "card", "card[number]": "4000000000003220", "card[exp_month]": "12", "card[exp_year]": "2030", "card[cvc]": "123"}
    with httpx.Client(base_url=url, auth=(API_KEY, ""), trust_env=False) as direct:
        return str(direct.post("/v1/payment_methods", data=form).raise_for_status().json()["id"])


@contextmanager
def _localstripe() -> Iterator[str]:
    script = Path(keyguard.demo.__file__).with_name("standin.py")
    with tempfile.TemporaryDirectory() as place, started([sys.executable, str(script)], log=Path(place) / "log") as standin:
        yield f"http://127.0.0.1:{int(standin.readline())}"


LOCALSTRIPE = Origin(
    "localstripe",
    vendor="Stripe",
    sdk="stripe",
    version=lambda: version("localstripe"),
    running=_localstripe,
    scenarios=(
        Scenario("success", _success, "pm_card_visa"),
        Scenario("decline", _decline, "pm_card_chargeCustomerFail"),
        Scenario("manual_capture", _manual_capture, "pm_card_visa"),
        Scenario("partial_refund", _partial_refund, "pm_card_visa"),
        Scenario("jpy", _jpy, "pm_card_visa"),
        Scenario("requires_action", _success, "pm_00000000000001", _make_asking_card),
    ),
    ids=re.compile(r"\b((?:ch|pi|pm|re|txn)_)[A-Za-z0-9]{14}(?![A-Za-z0-9])"),
    plain=(
        (re.compile(r"_secret_[A-Za-z0-9]{16}"), f"_secret_{0:016d}"),
        (re.compile(r'("(?:created|date)": )[0-9]{10}\b'), r"\g<1>1795000000"),
    ),
    request_headers=_HEADERS,
)


# -- stripe-stateful-mock: charges, replays, failures ----------------------------------------------


def _charge(url: str, token: str) -> list[Any]:
    form: Any = {"amount": 2000, "currency": "usd", "source": token}
    try:
        return [client(url).v1.charges.create(form)]
    except stripe.StripeError as failed:
        return [failed]


def _replay(url: str, token: str) -> list[Any]:
    charges, form = client(url).v1.charges, {"amount": 2000, "currency": "usd", "source": token}
    return [charges.create(form, {"idempotency_key": "order-1"}) for _ in range(2)]  # type: ignore[arg-type]  # -- as plain as it is sent


def _capture_in_part(url: str, token: str) -> list[Any]:
    charges, form = client(url).v1.charges, {"amount": 2000, "currency": "usd", "source": token, "capture": False}
    made = charges.create(form)  # type: ignore[arg-type]  # -- as plain as it is sent
    return [made, charges.capture(made.id, {"amount": 700})]


def _refund_the_rest(url: str, token: str) -> list[Any]:
    (paid,), refunds = _charge(url, token), client(url).v1.refunds
    return [paid, refunds.create({"charge": paid.id, "amount": 300}), refunds.create({"charge": paid.id})]


@contextmanager
def _stateful() -> Iterator[str]:
    with node_peer(STATEFUL, ["{port}"], code=STATEFUL_PROGRAM) as peer:
        yield peer.url


STATEFUL_MOCK = Origin(
    STATEFUL,
    vendor="Stripe",
    sdk="stripe",
    version=lambda: str(json.loads((package(STATEFUL) / "package.json").read_text(encoding="utf-8"))["version"]),
    running=_stateful,
    scenarios=(
        Scenario("replay", _replay, "tok_visa"),
        Scenario("capture_in_part", _capture_in_part, "tok_visa"),
        Scenario("refund_the_rest", _refund_the_rest, "tok_visa"),
        Scenario("decline", _charge, "tok_chargeDeclined"),
        Scenario("failure", _charge, "tok_500"),
    ),
    ids=re.compile(r"\b((?:ch|re|txn|card|acct|rcpt|pyr)_)[A-Za-z0-9]{14,40}(?![A-Za-z0-9])"),
    plain=(
        (re.compile(r'("created":)[0-9]{10}\b'), r"\g<1>1795000000"),
        (re.compile(r'("fingerprint":")[A-Za-z0-9]{16}"'), rf'\g<1>{0:016d}"'),
        # A year from the day of the recording.
        (re.compile(r'"exp_month":\d+,"exp_year":\d+'), '"exp_month":12,"exp_year":2030'),
    ),
    request_headers=_HEADERS,
    # It changes the lengths of months.
    reply_headers=("Content-Type",),
)
