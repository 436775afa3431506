"""What people read who type `keyguard doubts`, `reconcile`, `settle` and `release`, and the exit codes that scripts see."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import stripe

import keyguard
from keyguard import cli
from keyguard.cli.doubting import age_of, short_names
from tests.support_doubts import Place, charge, lost, parts, placed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A double and a ledger of their own, which the commands use by the environment."""
    with placed(tmp_path, monkeypatch) as found:
        monkeypatch.setenv("KEYGUARD_URL", found.url)
        yield found


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command; returns exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LOGNAME", "ada")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["keyguard", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out = capsys.readouterr()
        return int(left.value.code or 0), out.out, out.err

    return run


def ids(typed: Type) -> list[str]:
    """Return the whole ids of what is in doubt."""
    return [row["id"] for row in json.loads(typed("doubts", "--json")[1])]


# -- doubts ----------------------------------------------------------------------------------------


def test_a_doubt_is_shown_with_what_to_type_next(place: Place, typed: Type) -> None:
    """One call is two lines: its id, amount, operation, age and run; then what is known. The next commands stand below."""
    with place.run():
        lost(place, 1234)

    code, out, err = typed("doubts")

    (name,) = ids(typed)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == f"1 call in doubt in {place.url}, $12.34 in all, oldest first"
    assert lines[1] == f"{name[:8]}  $12.34  stripe payment_intents.create  less than a minute old  run a"
    assert lines[2].startswith("    1 attempt, identity ")
    assert lines[2].endswith("its call ended without an answer that says")
    assert lines[3] == "next: keyguard reconcile   asks the vendors, by reads alone"
    assert "keyguard settle ID --cost USD --reason TEXT" in lines[4]
    assert "keyguard release ID --reason TEXT" in lines[4]


def test_doubts_are_listed_as_json(place: Place, typed: Type) -> None:
    """--json has every field, amounts in dollars, and nothing that names whom the call paid."""
    with place.run():
        lost(place, 1234)

    code, out, _ = typed("doubts", "--json")

    (row,) = json.loads(out)
    assert code == 0
    assert (row["amount_usd"], row["operation"], row["run_id"], row["attempts"], row["vendor"]) == (
        12.34, "payment_intents.create", "a", 1, "stripe"
    )  # fmt: skip
    assert not {"payee", "principal"} & set(row)


def test_nothing_in_doubt_is_said(place: Place, typed: Type) -> None:
    """An empty list is not silence."""
    with place.run():
        charge()

    assert typed("doubts") == (0, f"nothing is in doubt in {place.url}\n", "")
    assert typed("reconcile") == (0, f"nothing is in doubt in {place.url}\n", "")
    assert typed("doubts", "--json") == (0, "[]\n", "")


def test_doubts_of_one_run(place: Place, typed: Type) -> None:
    """--run shows that run's only; an unknown run is an error that says what to do."""
    for name in ("a", "b"):
        with place.run(name):
            lost(place)

    assert "1 call in doubt" in typed("doubts", "--run", "b")[1]
    code, _, err = typed("doubts", "--run", "c")
    assert (code, err.count("\n")) == (2, 1)
    assert "no run 'c'" in err


@pytest.mark.parametrize(
    "command", [["doubts"], ["reconcile"], ["settle", "x", "--cost", "1", "--reason", "r"], ["release", "x", "--reason", "r"]]
)
def test_looking_makes_no_ledger(place: Place, typed: Type, command: list[str]) -> None:
    """Without a ledger each command says so, and leaves none behind."""
    code, _, err = typed(*command)

    assert code == 2
    assert "there is no ledger at" in err
    assert typed("doubts")[0] == 2


# -- reconcile -------------------------------------------------------------------------------------


def test_reconcile_says_what_it_found_and_what_is_left(place: Place, typed: Type) -> None:
    """Each call with its ending and the reason, then the totals; with nothing left the exit code is 0."""
    with place.run():
        lost(place, 1234)

    code, out, err = typed("reconcile")

    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].endswith("run a")
    assert lines[1].startswith("    settled at $12.34: this call made pi_")
    assert lines[2:] == ["in doubt: $12.34 before, $0.00 now"]
    assert parts(place.usage()) == (12_340_000, 0, 0)


def test_reconcile_exits_with_1_while_something_is_left(place: Place, typed: Type) -> None:
    """What stays is told with the reason and what to do next, and a script sees it."""
    with place.run():
        lost(place, 1234)
        lost(place, 500, "close_before")

    code, out, err = typed("reconcile")

    assert (code, err) == (1, "")
    assert "    stays in doubt: none of its" in out
    assert "ask again after" in out
    assert "in doubt: $17.34 before, $5.00 now" in out
    assert "keyguard reconcile   again later" in out
    assert typed("reconcile", "--vendor", "twilio") == (0, f"nothing is in doubt in {place.url}\n", "")


def test_what_came_late_is_said_first(place: Place, typed: Type) -> None:
    """An intent that was paid elsewhere is counted, and shown even where nothing is in doubt."""
    with place.run():
        intent = stripe.PaymentIntent.create(amount=500, currency="usd")
    keyguard.uninstall()
    intent.confirm(payment_method="pm_card_visa")

    code, out, err = typed("reconcile")

    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "is counted as the vendors show it now:",
        f"    stripe payment_intents.create of run a: {intent.id} is succeeded: $5.00 spent, $0.00 held; it was $5.00",
        f"nothing is in doubt in {place.url}",
    ]


def test_a_dry_run_only_says(place: Place, typed: Type) -> None:
    """--dry-run uses the conditional, and books nothing."""
    with place.run():
        lost(place, 1234)

    code, out, _ = typed("reconcile", "--dry-run")

    assert code == 0
    assert "would be settled at $12.34" in out
    assert "in doubt: $12.34 before, $0.00 would be left" in out
    assert parts(place.usage()) == (0, 0, 12_340_000)


def test_reconcile_as_json(place: Place, typed: Type) -> None:
    """--json has totals, each doubt with its ending and words, and what came late."""
    with place.run():
        lost(place, 1234)

    code, out, _ = typed("reconcile", "--json")

    said = json.loads(out)
    assert code == 0
    assert (said["before_usd"], said["after_usd"], said["dry_run"], said["late"]) == (12.34, 0.0, False, [])
    assert [(row["ending"], row["counted_usd"]) for row in said["doubts"]] == [("settled", 12.34)]


def test_an_unknown_vendor_is_an_error(place: Place, typed: Type) -> None:
    """A vendor that nobody knows would have nothing in doubt."""
    with place.run():
        charge()

    code, _, err = typed("reconcile", "--vendor", "stirpe")

    assert code == 2
    assert "known: resend, stripe, twilio" in err


def test_no_secret_is_ever_printed(place: Place, typed: Type) -> None:
    """Neither the vendor's secret nor anything derived from it is in what is printed."""
    with place.run():
        lost(place)
        lost(place, 600, "close_before")

    said = "".join("".join(map(str, typed(*words))) for words in (["doubts"], ["doubts", "--json"], ["reconcile"], ["reconcile", "--json"]))

    assert "sk_test" not in said


# -- by hand ---------------------------------------------------------------------------------------


def test_a_person_settles_and_is_named(place: Place, typed: Type) -> None:
    """settle books the cost under a beginning of the id, and the log has the name and the reason."""
    with place.run():
        lost(place, 500, "close_before")
    (name,) = ids(typed)

    code, out, err = typed("settle", name[:6], "--cost", "4.50", "--reason", "invoice 17")

    assert (code, err) == (0, "")
    assert out == f"settled {name}: $4.50 is counted for it now\n"
    assert parts(place.usage()) == (4_500_000, 0, 0)
    (row,) = [row for row in place.entries("settle") if row["hold"] == name]
    assert (row["detail"]["by"], row["detail"]["reason"]) == ("ada", "invoice 17")


def test_a_person_releases_and_is_named(place: Place, typed: Type) -> None:
    """release frees the money, audited alike."""
    with place.run():
        lost(place, 500, "close_before")
    (name,) = ids(typed)

    assert typed("release", name, "--reason", "never sent", "--json")[:2] == (
        0, json.dumps({"reservation_id": name, "released": True, "counted_usd": 0.0, "overrun_usd": 0.0}) + "\n"
    )  # fmt: skip
    assert parts(place.usage()) == (0, 0, 0)
    (row,) = [row for row in place.entries("release") if row["hold"] == name]
    assert (row["detail"]["by"], row["detail"]["reason"]) == ("ada", "never sent")


def test_a_cost_above_what_was_held_is_said(place: Place, typed: Type) -> None:
    """What a person found to have cost more is booked in full, and shown as above the hold."""
    with place.run():
        lost(place)

    code, out, _ = typed("settle", ids(typed)[0], "--cost", "7", "--reason", "seen")

    assert code == 0
    assert out.endswith("$7.00 is counted for it now, $2.00 of it above what was held\n")


def test_what_is_over_is_not_changed_by_hand(place: Place, typed: Type) -> None:
    """Settled once, it takes only a cost above what is counted, as overrun; it is never released."""
    with place.run():
        lost(place)
    (name,) = ids(typed)
    typed("reconcile")

    again, more, freed = (
        typed("settle", name, "--cost", "5", "--reason", "r"), typed("settle", name, "--cost", "7", "--reason", "r"),
        typed("release", name, "--reason", "r"),
    )  # fmt: skip

    assert again[:2] == (0, f"nothing changed: {name} is not in doubt any more, and as much is counted for it already\n")
    assert "$2.00 is counted for it now, $2.00 of it above what was held" in more[1]
    assert (freed[0], "is not in doubt" in freed[2]) == (2, True)
    assert parts(place.usage()) == (7_000_000, 0, 0)


def test_an_ambiguous_id_is_not_picked(place: Place, typed: Type) -> None:
    """A beginning that names several changes nothing and lists them; none, an empty one and an unknown one are errors too."""
    with place.run():
        for amount in (500, 600):
            lost(place, amount, "close_before")
    common = ""
    while all(name.startswith(common + ids(typed)[0][len(common)]) for name in ids(typed)):
        common += ids(typed)[0][len(common)]

    answers: list[Any] = [typed("release", name, "--reason", "r") for name in (common, "", "zzz")]

    assert [code for code, _, _ in answers] == [2, 2, 2]
    if common:
        assert "2 doubts begin with" in answers[0][2]
    assert "`keyguard doubts`" in answers[2][2]
    assert parts(place.usage()) == (0, 0, 11_000_000)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["settle", "ID", "--cost", "x", "--reason", "r"], "--cost"),
        (["settle", "ID", "--cost", "-1", "--reason", "r"], "--cost"),
        (["settle", "ID", "--cost", "1", "--reason", " "], "give a reason"),
        (["release", "ID", "--reason", ""], "give a reason"),
        (["release", "ID", "--reason", "two\nlines"], "on one line"),
        (["release", "ID"], "--reason"),
        (["settle", "ID", "--reason", "r"], "--cost"),
    ],
)
def test_what_is_missing_or_wrong_is_named(place: Place, typed: Type, words: list[str], said: str) -> None:
    """Nothing is settled or released without an amount and a reason that can be read."""
    with place.run():
        lost(place, 500, "close_before")
    (name,) = ids(typed)

    code, _, err = typed(*(name if word == "ID" else word for word in words))

    assert code == 2
    assert said in err
    assert parts(place.usage()) == (0, 0, 5_000_000)


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "less than a minute"), (59.9, "less than a minute"), (60, "1 min"), (3600, "1 h"), (3 * 3600 + 720, "3 h 12 min"),
     (86_400 * 2 + 3600 * 5 + 61, "2 d 5 h"), (-5, "less than a minute")],
)  # fmt: skip
def test_ages_are_written_for_people(seconds: float, words: str) -> None:
    """The two largest units that say something."""
    assert age_of(seconds) == words


def test_short_names_are_as_long_as_they_must_be() -> None:
    """Eight characters, more where two have them in common."""
    assert short_names(["0123456789", "0123456788", "abcdefghij"]) == {
        "0123456789": "0123456789", "0123456788": "0123456788", "abcdefghij": "abcdefgh"
    }  # fmt: skip
