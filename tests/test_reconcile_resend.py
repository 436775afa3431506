"""E-mails whose answer was lost, looked for in Resend's list at the vendor double."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import resend
from resend.exceptions import ResendError

import keyguard
from keyguard.testing.double import Fault
from tests.support_doubts import HOUR, Place, parts, placed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNIT = 900  # micro-USD a recipient


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A double and a ledger of their own."""
    with placed(tmp_path, monkeypatch, "resend") as found:
        yield found


def send(**fields: Any) -> Any:
    """Send one e-mail."""
    known: Any = {"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "text": "t", **fields}
    return resend.Emails.send(known)


def lost(place: Place, kind: Any = "close_after", **fields: Any) -> None:
    """Send one e-mail, and lose the answer."""
    place.double.script(Fault(kind, method="POST"))
    with pytest.raises(ResendError):
        send(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"to": ["Bea <B@example.com>"], "cc": "c@example.com"},
        {"to": ["b@example.com", "d@example.com"], "bcc": ["e@example.com"]},
        {"to": '"Bea, B." <b@example.com>'},
    ],
    ids=["one", "named", "many", "quoted"],
)
def test_an_email_whose_answer_was_lost_is_found_by_its_recipients(place: Place, fields: dict[str, Any]) -> None:
    """The only e-mail to those recipients at that time is settled; how their names were written does not matter."""
    with place.run():
        send(to=["x@example.com"])
        lost(place, **fields)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["settled"]
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0)


def test_an_email_that_was_never_sent_is_released_after_the_margin(place: Place) -> None:
    """Within the hour it may still be sent; after it the money is free again."""
    with place.run():
        lost(place, "close_before")
    early = place.reconcile()
    place.advance(2 * HOUR)

    late = place.reconcile()

    assert [answer.ending for answer in (*early.answers, *late.answers)] == ["doubt", "released"]
    assert parts(place.usage()) == (0, 0, 0)


def test_what_the_list_need_not_show_any_more_is_not_released(place: Place) -> None:
    """For how long Resend lists an e-mail depends on the plan: after a day a person looks."""
    with place.run():
        lost(place, "close_before")
    place.advance(25 * HOUR)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["doubt"]
    assert "by hand" in done.answers[0].words


def test_another_team_s_key_proves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another team's list shows none of this one's e-mails."""
    with place.run():
        lost(place)
    monkeypatch.setenv("RESEND_API_KEY", "re_of_b")
    place.advance(2 * HOUR)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["doubt"]
    assert place.usage().doubt == place.double.truth.charged() == UNIT


def test_every_page_is_read(place: Place) -> None:
    """The e-mail is on the second page, behind a hundred later ones; with that page missing it stays in doubt."""
    with place.run():
        lost(place)
        batch: Any = [{"from": "a@example.com", "to": [f"n{n}@example.com"], "subject": "s", "text": "t"} for n in range(100)]
        resend.Batch.send(batch)
    place.double.script(Fault("unavailable", method="GET", after=1, times=1))

    missing = place.reconcile()
    whole = place.reconcile()

    assert [answer.ending for answer in (*missing.answers, *whole.answers)] == ["doubt", "settled"]
    assert parts(place.usage()) == (place.double.truth.charged(), 0, 0)


def test_a_batch_is_left_to_a_person(place: Place) -> None:
    """The e-mails of a batch cannot be told from single ones: it stays in doubt, and says where to look."""
    batch: Any = [{"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "text": "t"}]
    with place.run():
        place.double.script(Fault("close_after", method="POST"))
        with pytest.raises(ResendError):
            resend.Batch.send(batch)
    place.advance(2 * HOUR)

    done = place.reconcile()

    assert [answer.ending for answer in done.answers] == ["doubt"]
    assert "dashboard" in done.answers[0].words


def test_a_scheduled_email_is_held_and_then_spent(place: Place) -> None:
    """Found while it is scheduled it is an open intent; cancelled elsewhere, it costs nothing."""
    with place.run():
        lost(place, scheduled_at="2030-01-01T00:00:00Z")
    place.reconcile()
    before = parts(place.usage())
    (row,) = place.double.truth.rows()
    keyguard.uninstall()
    resend.Emails.cancel(row["object"])

    place.reconcile()

    assert before == (0, UNIT, 0)
    assert parts(place.usage()) == (0, 0, 0)
