"""Messages whose answer was lost, looked for in Twilio's list at the vendor double; and prices that come late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import requests

import keyguard
from keyguard.testing.double import Fault
from tests.support_doubts import HOUR, Place, parts, placed
from tests.support_twilio_clients import TO, send
from tests.support_twilio_server import ACCOUNT, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEGMENT = 14_800  # micro-USD, the list price with what carriers add
DAY = 24 * HOUR


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A double and a ledger of their own."""
    with placed(tmp_path, monkeypatch, "twilio") as found:
        yield found


def lost(place: Place, kind: Any = "close_after", **fields: Any) -> None:
    """Send a message, and lose the answer."""
    place.double.script(Fault(kind, method="POST"))
    with pytest.raises(requests.RequestException):
        send(place.double.url, "sync", **fields)


def test_a_message_whose_answer_was_lost_is_found_by_its_recipient(place: Place) -> None:
    """The only message to that number at that time is settled at once, at the estimate; another number's is not taken for it."""
    with place.run():
        send(place.double.url, "sync", to="+12125550199")
        lost(place)

    done = place.reconcile()

    assert [(answer.ending, answer.cost) for answer in done.answers] == [("settled", SEGMENT)]
    assert parts(place.usage()) == (2 * SEGMENT, 0, 0)
    assert place.double.truth.charges_by("vendor")["twilio"] == 2


@pytest.mark.parametrize("written", ["+1 (212) 555-0123", " +12125550123", "+1.212.555.0123"])
def test_a_number_is_known_however_it_is_written(place: Place, written: str) -> None:
    """The list shows numbers in E.164; what people put between the digits makes no other recipient."""
    with place.run():
        place.double.script(Fault("close_before", method="POST"))
        with pytest.raises(requests.RequestException):
            send(place.double.url, "sync", to=written)
        send(place.double.url, "sync", to="+12125550199")
    place.advance(12 * HOUR)
    assert [answer.ending for answer in place.reconcile().answers] == ["released"]

    with place.run("b"):
        # As Twilio would have taken it.
        lost(place)

    assert [answer.ending for answer in place.reconcile("b").answers] == ["settled"]


def test_a_message_that_was_never_sent_is_released_after_the_queue_is_empty(place: Place) -> None:
    """A message may wait for ten hours, so an hour says nothing; after eleven the money is free again."""
    with place.run():
        lost(place, "close_before")
    place.advance(2 * HOUR)
    early = place.reconcile()
    place.advance(10 * HOUR)

    late = place.reconcile()

    assert [answer.ending for answer in early.answers] == ["doubt"]
    assert [answer.ending for answer in late.answers] == ["released"]
    assert parts(place.usage()) == (0, 0, 0)


def test_a_lost_message_and_its_resend_are_counted_as_the_vendor_sent_them(place: Place) -> None:
    """Twilio sends each request: the lost one and the one that was sent again are two messages, and two reservations."""
    with place.run():
        lost(place)
        send(place.double.url, "sync")

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["settled"]
    assert parts(place.usage()) == (2 * SEGMENT, 0, 0)
    assert place.double.truth.charges_by("vendor")["twilio"] == 2


def test_two_equal_messages_of_which_one_was_sent(place: Place) -> None:
    """Of two equal doubts one was executed: which one does not matter, and neither is guessed before the margin has passed."""
    with place.run():
        lost(place, "close_before")
        lost(place, "close_after")
    early = place.reconcile()
    place.advance(12 * HOUR)

    late = place.reconcile()

    assert [answer.ending for answer in early.answers] == ["doubt", "doubt"]
    assert sorted(answer.ending for answer in late.answers) == ["released", "settled"]
    assert place.double.truth.charges_by("vendor")["twilio"] == 1
    # Priced by now.
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0)


def test_a_foreign_message_to_the_same_number_keeps_the_doubt(place: Place) -> None:
    """Somebody else wrote to the same number at that time: two messages, one doubt, and nobody guesses."""
    with place.run():
        lost(place)
    form = {"To": TO, "From": "+15005550006", "Body": "another program's"}
    path = f"{place.double.url}/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    # As if sent by a process that knows nothing of keyguard.
    keyguard.uninstall()
    assert requests.post(path, data=form, auth=(ACCOUNT, TOKEN), timeout=5).status_code == 201
    place.advance(12 * HOUR)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["doubt"]
    assert "2 objects" in done.answers[0].words
    assert parts(place.usage()) == (0, 0, SEGMENT)


def test_a_page_of_the_list_that_is_missing_releases_nothing(place: Place) -> None:
    """The list was not read to its end: the message may be on the page that is missing."""
    with place.run():
        lost(place, "close_before")
    place.advance(12 * HOUR)
    place.double.script(Fault("unavailable", method="GET", times=0))

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["doubt"]
    assert "503" in done.answers[0].words


def test_late_prices_correct_the_estimate(place: Place) -> None:
    """Settled at the estimate, a message takes Twilio's price as soon as it is known: lower here, and to the micro-dollar."""
    with place.run():
        send(place.double.url, "sync")
    unpriced = place.reconcile()
    place.advance(2 * HOUR)

    priced = place.reconcile()

    assert unpriced.late == ()
    assert [(answer.doubt.amount, answer.cost) for answer in priced.late] == [(SEGMENT, place.double.truth.charged())]
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0)
    assert place.reconcile().late == ()


def test_many_prices_are_read_from_few_pages(place: Place) -> None:
    """However many messages wait for their price, they are read by the page, not one by one."""
    with place.run():
        for number in range(30):
            send(place.double.url, "sync", to=f"+1212555{number:04}")
    place.advance(2 * HOUR)
    before = len(place.double.requests())

    priced = place.reconcile()

    assert len(priced.late) == 30
    assert len(place.double.requests()) == before + 1
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0)


def test_a_dearer_price_is_booked_too(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where our list was too low, the vendor's price is booked above what was held, as overrun."""
    cheap = tmp_path / "cheap.json"
    cheap.write_text('{"date": "2026-11-01", "source": "test", "sms": {"usd": {"US": "0.001"}}, "sms_carrier": {"usd": {"US": "0"}}}')
    monkeypatch.setenv("KEYGUARD_TWILIO_PRICES_FILE", str(cheap))
    with place.run():
        send(place.double.url, "sync")
    place.advance(2 * HOUR)

    place.reconcile()

    usage = place.usage()
    assert usage.spent == place.double.truth.charged()
    assert usage.overrun == usage.spent - 1000


def test_a_scheduled_message_is_settled_once_it_is_sent(place: Place) -> None:
    """Scheduled, it is an open intent; cancelled elsewhere, it holds nothing any more."""
    with place.run():
        made = send(place.double.url, "sync", schedule_type="fixed", send_at="2030-01-01T00:00:00Z")
    before = parts(place.usage())
    keyguard.uninstall()
    made.update(status="canceled")

    place.reconcile()

    assert before[1] > 0
    assert parts(place.usage()) == (0, 0, 0)
