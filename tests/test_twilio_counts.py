"""A whole account's business with Twilio, blocking and awaited: what the vendor has in its lists is what the ledger has."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from tests.support_json_server import JsonServer
from tests.support_twilio_clients import STYLES, everywhere
from tests.support_twilio_play import STEPS, play
from tests.support_twilio_server import Twilio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.ledgers import Ledger

# micro-USD, by `keyguard/vendors/twilio_prices.json`: a segment to the US, a WhatsApp message, a minute and what TwiML may say in
# a call, a month of a number that may be toll-free, an SMS verification that succeeds, a package of a look-up.
SEGMENT, WHATSAPP, MINUTE, SAYING, NUMBER, VERIFICATION, PACKAGE = 14_800, 205_000, 14_000, 15_000, 2_150_000, 79_600, 8_000
# Of each step: operation, quote, ending, and what of it is spent in the end.
BOOKED = [
    ("messages.create", SEGMENT, "settle", SEGMENT),
    ("messages.create", 2 * SEGMENT, "settle", 2 * SEGMENT),
    ("messages.create", 3 * SEGMENT, "settle", 3 * SEGMENT),
    ("messages.create", WHATSAPP, "settle", WHATSAPP),
    # Scheduled, and held until its time; then cancelled.
    ("messages.create", SEGMENT, "settle", 0),
    ("messages.update", 0, "settle", 0),
    *[("messages.fetch", 0, "settle", 0)] * 2,
    # Refused by Twilio: 21211, 20429.
    *[("messages.create", SEGMENT, "release", 0)] * 2,
    ("calls.create", MINUTE + SAYING, "settle", MINUTE + SAYING),
    ("calls.create", 2 * MINUTE + SAYING, "settle", 2 * MINUTE + SAYING),
    ("calls.update", 0, "settle", 0),
    ("incoming_phone_numbers.create", NUMBER, "settle", NUMBER),
    ("verify.services.verifications.create", VERIFICATION, "settle", VERIFICATION),
    *[("verify.services.verification_check.create", 0, "settle", 0)] * 2,
    ("verify.services.verifications.create", VERIFICATION, "release", 0),
    ("lookups.phone_numbers.fetch", 0, "settle", 0),
    ("lookups.phone_numbers.fetch", PACKAGE, "settle", PACKAGE),
]


def booked(ledger: Ledger) -> list[tuple[Any, ...]]:
    """Return (operation, quote, ending, spent) of each reservation of the run, in order."""
    rows = list(ledger.entries("run:run-1"))
    ends = {row["hold"]: row for row in rows if row["kind"] in {"settle", "release", "doubt"}}
    reserved = [(row["operation"], row["amount"], ends[row["hold"]]) for row in rows if row["kind"] == "reserve"]
    return [(operation, amount, end["kind"], end["spent"]) for operation, amount, end in reserved]


def own_count(vendor: Twilio) -> Counter[str]:
    """Return how many of each thing the vendor has sold, by its own lists."""
    sent = [message for message in vendor.messages.values() if message["status"] != "canceled"]
    return Counter({
        "messages.create": len(sent), "calls.create": len(vendor.calls), "incoming_phone_numbers.create": len(vendor.numbers),
        "verify.services.verifications.create": len(vendor.verifications), "lookups.phone_numbers.fetch": len(vendor.lookups),
    })  # fmt: skip


def check_counts(vendor: Twilio, installed: keyguard.Installation, ledger: Ledger) -> None:
    """Compare an account's lists with the books of the one run that used it."""
    usage, found = installed.usage(), booked(ledger)

    assert found == BOOKED
    assert own_count(vendor) == Counter(operation for operation, _, _, spent in found if spent)
    assert (usage.spent, usage.held, usage.doubt) == (sum(spent for _, _, _, spent in found), 0, 0)
    assert (usage.calls, usage.overrun) == (len(STEPS), 0)
    assert ledger.verify() == []


@pytest.fixture
def vendor() -> Twilio:
    """An account without a history."""
    return Twilio()


@pytest.fixture
def server(vendor: Twilio, monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """It, on loopback."""
    with JsonServer(vendor.answer) as found:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"twilio={found.host}")
        yield found


@pytest.mark.parametrize("style", STYLES)
def test_the_vendors_own_count_is_the_ledgers(server: JsonServer, vendor: Twilio, style: str, keyguard_ledger: Ledger) -> None:
    """Messages, a cancelled one, calls, a number, verifications and look-ups, refused ones among them: one reservation each."""
    with keyguard.run("run-1"):
        installed = keyguard.install(run_usd_cap=50)
        play(everywhere(server.url), style)
        check_counts(vendor, installed, keyguard_ledger)

    assert len(server.requests) == len(STEPS)


def test_what_the_vendor_bills_is_never_above_what_was_spent(server: JsonServer, vendor: Twilio) -> None:
    """The price of a message is there from its second fetch on: the quote was an upper bound of it."""
    with keyguard.run("run-1"):
        installed = keyguard.install(run_usd_cap=50)
        play(everywhere(server.url), "sync")
    billed = sum(-float(message["price"] or 0) for message in vendor.messages.values())

    assert 0 < billed * 1_000_000 <= installed.usage().spent
