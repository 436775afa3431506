"""What follows from what vendors showed (keyguard.doubts._verdicts), driven by hand: no vendor, no ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keyguard.doubts._verdicts import Asked, Verdict, rivals, verdicts
from keyguard.model import Doubt, Fact, Outcome
from keyguard.vendors._inquiry import Candidate, Finding

NOW = 1_000_000.0
HOUR, YEAR = 3600.0, 365 * 86_400.0


def doubt(name: str = "r1", *, age: float = 2 * HOUR, **fields: Any) -> Doubt:
    known: dict[str, Any] = {
        "run_id": "a", "key_id": "k", "scope": "run:a", "vendor": "stripe", "account": "", "operation": "payment_intents.create",
        "method": "POST", "object_id": None, "amount": 5_000_000, "at": NOW - age, "sent_at": NOW - age, "payee": "p", "principal": "c",
    }  # fmt: skip
    return Doubt(name, **{**known, **fields})


def asked(one: Doubt, finding: Finding, *, margin: float | None = HOUR, history: float = 30 * 86_400.0, is_owner: bool = True) -> Asked:
    return Asked(one, finding, NOW, margin, history, is_owner)


def candidate(name: str, at: float = NOW - 2 * HOUR) -> Candidate:
    return Candidate(name, Outcome("settled", facts=(Fact(name, 5_000_000, 0, 5_000_000),)), at)


def absent() -> Finding:
    return Finding(words="nothing there", is_whole=True)


def alike(*names: str, at: float = NOW - 2 * HOUR) -> Finding:
    return Finding(words=f"{len(names)} alike", candidates=tuple(candidate(name, at) for name in names), is_whole=True)


def endings(found: dict[str, Verdict]) -> dict[str, str]:
    return {name: verdict.outcome.ending if verdict.outcome is not None else "doubt" for name, verdict in found.items()}


# -- presence --------------------------------------------------------------------------------------


def test_a_mark_of_the_call_settles_it() -> None:
    """An object that bears the call's own mark settles it at what it cost, whoever asked and however early."""
    outcome = Outcome("settled", facts=(Fact("pi_1", 5_000_000, 0, 5_000_000),))

    found = verdicts([asked(doubt(age=1), Finding(outcome, "made pi_1", objects=("pi_1",)), is_owner=False)], ())

    assert found == {"r1": Verdict(outcome, "made pi_1", ("pi_1",))}


def test_a_mark_that_another_account_may_show_needs_its_own() -> None:
    """A key that a caller chose may be used at two accounts: what another one shows for it settles and releases nothing."""
    for outcome in (Outcome("settled", facts=(Fact("pi_1", 5_000_000, 0, 5_000_000),)), Outcome("released", is_final=True)):
        finding = Finding(outcome, "made pi_1", objects=("pi_1",), needs_owner=True)

        assert endings(verdicts([asked(doubt(), finding, is_owner=False)], ())) == {"r1": "doubt"}
        assert endings(verdicts([asked(doubt(), finding)], ())) == {"r1": outcome.ending}


def test_an_object_settles_one_reservation_of_a_pass() -> None:
    """Of two doubts that one object is said to belong to only the first is settled by it."""
    outcome = Outcome("settled", facts=(Fact("pi_1", 5_000_000, 0, 5_000_000),))
    finding = Finding(outcome, "made pi_1", objects=("pi_1",))

    found = verdicts([asked(doubt("r1"), finding), asked(doubt("r2"), finding)], ())

    assert endings(found) == {"r1": "settled", "r2": "doubt"}
    assert "pi_1 is counted for another reservation already" in found["r2"].words


def test_an_object_that_the_ledger_counts_settles_nothing_more() -> None:
    """What another reservation has bought, perhaps in another run, is nobody's candidate and nobody's mark."""
    outcome = Outcome("settled", facts=(Fact("pi_1", 5_000_000, 0, 5_000_000),))

    found = verdicts(
        [asked(doubt("r1"), Finding(outcome, "made pi_1", objects=("pi_1",))), asked(doubt("r2"), alike("pi_2"))], {"pi_1", "pi_2"}
    )

    assert endings(found) == {"r1": "doubt", "r2": "released"}


def test_an_object_known_before_the_call_is_its_own() -> None:
    """A confirm is settled by the intent that it was about, which the ledger knows by right."""
    finding = Finding(Outcome("settled", facts=(Fact("pi_1", 5_000_000, 0, 5_000_000),)), "pi_1 is succeeded", objects=("pi_1", "ch_1"))

    assert endings(verdicts([asked(doubt(object_id="pi_1"), finding)], {"pi_1", "ch_1"})) == {"r1": "settled"}


def test_a_decline_releases_at_once() -> None:
    """What the vendor shows as declined is released without waiting for any margin."""
    finding = Finding(Outcome("released", is_final=True), "declined", objects=("pi_1",))

    assert verdicts([asked(doubt(age=1), finding)], ())["r1"].outcome == Outcome("released", is_final=True)


# -- absence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "ending"),
    [(1, "doubt"), (HOUR, "doubt"), (HOUR + 1, "released"), (29 * 86_400, "released"), (YEAR, "doubt"), (9 * YEAR, "doubt")],
)
def test_absence_releases_between_margin_and_history(age: float, ending: str) -> None:
    """What is not shown is released only after the margin, and while it would still be shown: age alone frees nothing."""
    found = verdicts([asked(doubt(age=age), absent())], ())

    assert endings(found) == {"r1": ending}
    assert ("presumed absent" in found["r1"].words) is (ending == "released")


def test_the_margin_counts_from_the_last_send() -> None:
    """A retry that left a moment ago may still be executed, however old the first attempt is."""
    assert endings(verdicts([asked(replace(doubt(age=9 * HOUR), sent_at=NOW - 60), absent())], ())) == {"r1": "doubt"}


def test_too_early_says_when_to_ask_again() -> None:
    """Whoever asks too early is told the time from which on absence says something."""
    assert "ask again after 1970-01-12 14:46 UTC" in verdicts([asked(doubt(age=1), absent())], ())["r1"].words


def test_no_margin_leaves_absence_to_a_person() -> None:
    """A vendor of whom nothing is known about late execution releases nothing."""
    found = verdicts([asked(doubt(age=20 * 86_400), absent(), margin=None)], ())

    assert endings(found) == {"r1": "doubt"}
    assert "a person decides" in found["r1"].words


def test_a_list_without_its_end_releases_nothing() -> None:
    """One page that could not be read leaves the doubt, with the reason."""
    assert verdicts([asked(doubt(), Finding(words="page 2 was refused"))], ())["r1"] == Verdict(None, "page 2 was refused")


@pytest.mark.parametrize("finding", [absent(), alike("pi_1")], ids=["absence", "likeness"])
def test_another_credential_proves_nothing(finding: Finding) -> None:
    """Another account's lists neither release a doubt nor settle it by what looks like it."""
    found = verdicts([asked(doubt(), finding, is_owner=False)], ())

    assert endings(found) == {"r1": "doubt"}
    assert "another credential" in found["r1"].words


# -- likeness --------------------------------------------------------------------------------------


def test_one_candidate_settles_one_doubt() -> None:
    """The only object that looks like the only call in doubt is what it made, also before the margin."""
    found = verdicts([asked(doubt(age=60), alike("pi_1", at=NOW - 50))], ())

    assert endings(found) == {"r1": "settled"}
    assert found["r1"].objects == ("pi_1",)


def test_two_candidates_for_one_doubt_stay() -> None:
    """An ambiguous match stays doubt, at any age, and names what to look at."""
    found = verdicts([asked(doubt(age=20 * 86_400), alike("pi_1", "pi_2"))], ())

    assert endings(found) == {"r1": "doubt"}
    assert "2 objects (pi_1, pi_2) may be of this call" in found["r1"].words


def test_an_older_lookalike_is_neither_taken_nor_overlooked() -> None:
    """What seems to be from before the call settles nothing, and while nobody else has bought it nothing is taken for absent."""
    older = Finding(words="1 alike", candidates=(candidate("pi_1", NOW - 5 * HOUR),), is_whole=True)

    found = verdicts([asked(doubt(), older)], ())

    assert endings(found) == {"r1": "doubt"}
    assert "pi_1 looks like it and seems to be older" in found["r1"].words
    assert endings(verdicts([asked(doubt(), older)], {"pi_1"})) == {"r1": "released"}


def test_an_older_lookalike_keeps_interchangeable_doubts() -> None:
    """Of two equal calls one was executed; the other may be the older one: neither is released."""
    both = Finding(words="2 alike", candidates=(candidate("pi_1"), candidate("pi_2", NOW - 5 * HOUR)), is_whole=True)

    found = verdicts([asked(doubt("r1"), both), asked(doubt("r2"), both)], ())

    assert endings(found) == {"r1": "doubt", "r2": "doubt"}


def test_as_many_candidates_as_doubts_settle_all() -> None:
    """Two equal calls and two equal objects: both were executed, each is settled by one of them."""
    found = verdicts([asked(doubt("r1"), alike("pi_1", "pi_2")), asked(doubt("r2"), alike("pi_1", "pi_2"))], ())

    assert endings(found) == {"r1": "settled", "r2": "settled"}
    assert found["r1"].objects != found["r2"].objects


def test_one_candidate_for_two_equal_doubts_of_a_run_settles_one() -> None:
    """Of two interchangeable calls whose margins have passed one was executed: one is settled, the other released."""
    found = verdicts([asked(doubt("r1"), alike("pi_1")), asked(doubt("r2"), alike("pi_1"))], ())

    assert sorted(endings(found).values()) == ["released", "settled"]


@pytest.mark.parametrize(
    "other", [doubt("r2", scope="run:b", run_id="b"), doubt("r2", age=60)], ids=["another run's", "not past its margin"]
)
def test_one_candidate_for_two_different_doubts_stays(other: Doubt) -> None:
    """Which run pays, or what may still come, is not guessed."""
    found = verdicts([asked(doubt("r1"), alike("pi_1", at=NOW - 50)), asked(other, alike("pi_1", at=NOW - 50))], ())

    assert endings(found) == {"r1": "doubt", "r2": "doubt"}


def test_a_rival_that_could_not_be_looked_for_keeps_both() -> None:
    """While another call that looks the same was not looked for, an object settles neither of them."""
    found = verdicts([asked(doubt("r1"), alike("pi_1")), asked(doubt("r2"), Finding(words="refused"))], ())

    assert endings(found) == {"r1": "doubt", "r2": "doubt"}


def test_an_object_with_a_mark_is_no_candidate() -> None:
    """What bears the mark of one call is not taken for another that looks the same."""
    marked = Finding(candidate("pi_1").outcome, "made pi_1", objects=("pi_1",))

    found = verdicts([asked(doubt("r1"), alike("pi_1")), asked(doubt("r2", identity="i"), marked)], ())

    assert endings(found) == {"r1": "released", "r2": "settled"}


def test_overlapping_windows_are_not_guessed() -> None:
    """Doubts that see different objects are settled only if every object finds its doubt."""
    found = verdicts([asked(doubt("r1"), alike("pi_1", "pi_2")), asked(doubt("r2"), alike("pi_2"))], ())

    assert {name: verdict.objects for name, verdict in found.items()} == {"r1": ("pi_1",), "r2": ("pi_2",)}
    assert endings(verdicts([asked(doubt("r1"), alike("pi_1", "pi_2", "pi_3")), asked(doubt("r2"), alike("pi_2"))], ())) == {
        "r1": "doubt", "r2": "doubt"
    }  # fmt: skip


def test_rivals_are_the_others_that_look_the_same() -> None:
    """A pass over one run also asks about other runs' calls that its objects could belong to, and about no more."""
    mine = doubt("r1")
    others = [doubt("r2", scope="run:b"), doubt("r3", amount=1), doubt("r4", vendor="twilio")]

    assert [one.reservation_id for one in rivals([mine], [mine, *others])] == ["r2"]
