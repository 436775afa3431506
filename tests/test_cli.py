"""The command line: what it prints, its exit codes, and what it does to a ledger's file."""

from __future__ import annotations

import getpass
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard import cli
from keyguard.cli import figures
from keyguard.ledgers import open_ledger
from keyguard.model import Quote
from keyguard.testing._till import Till, open_child, open_till, subflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keyguard.ledgers import Ledger

    Type = Callable[..., tuple[int, str, str]]

USD = 1_000_000


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ledger that the commands use: `KEYGUARD_URL`."""
    place = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("KEYGUARD_URL", place)
    monkeypatch.setenv("KEYGUARD_DURABILITY", "process")
    return place


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """A ledger with two runs: one that spent, holds and doubts, and one without a cap that was closed."""
    found = open_ledger(url, durability="process")
    till = open_till(found, "run-1", run_usd_cap=500 * USD, max_calls=10, expires_in=3600.0)
    till.charge("pi_1", 20 * USD)
    till.open_intent("pi_2", 30 * USD)
    till.doubt(till.hold(USD // 2))
    subscribing = till.order(Quote(0, recurring=True))
    assert found.reserve(subscribing).granted
    till.settle(subscribing.reservation_id)
    open_till(found, "run-2", mode="observe", name="other-flow")
    found.revoke(run_id="run-2", state="closed")
    yield found
    found.shut()


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command; returns exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "60")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["keyguard", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out = capsys.readouterr()
        return int(left.value.code or 0), out.out, out.err

    return run


def answer(result: tuple[int, str, str]) -> Any:
    """Return the JSON that a command printed, which must have gone well."""
    code, out, err = result

    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_version_is_printed(typed: Type) -> None:
    """--version prints the name and the version."""
    assert typed("--version") == (0, f"keyguard {keyguard.__version__}\n", "")


@pytest.mark.usefixtures("ledger")
def test_status_shows_every_figure_of_a_run(typed: Type) -> None:
    """status --json has cap, spent, held, in doubt, remaining, calls, open intents, state, mode and expiry."""
    newest, oldest = answer(typed("status", "--json"))

    assert (newest["run_id"], newest["state"], newest["mode"], newest["cap_usd"]) == ("run-2", "closed", "observe", None)
    assert (newest["expires_at"], newest["calls"]) == (None, None)
    amounts = [oldest[f"{name}_usd"] for name in ("cap", "spent", "held", "in_doubt", "remaining")]
    assert amounts == [500.0, 20.0, 30.0, 0.5, 449.5]
    assert (oldest["calls"], oldest["recurring"], newest["recurring"]) == (4, 1, 0)
    assert (oldest["state"], oldest["policy"]) == ("active", "contract-flow")
    assert oldest["open_intents"] == [{"object_id": "pi_2", "held_usd": 30.0, "operation": "things.create"}]
    assert oldest["expires_at"].endswith("+00:00")


@pytest.mark.usefixtures("ledger")
def test_status_is_readable_for_people(typed: Type) -> None:
    """Without --json the same figures are lines, with the open intents below them, in a narrow terminal as well."""
    code, out, err = typed("status")

    assert (code, err) == (0, "")
    for word in (
        "run run-1", "cap $500.00", "spent $20.00", "remaining $449.50", "calls 4", "recurring 1", "observe only",
        "pi_2 holds $30.00", "never",
    ):  # fmt: skip
        assert word in out


@pytest.mark.usefixtures("ledger")
def test_status_of_one_run_shows_only_it(typed: Type) -> None:
    """status --run shows that run; an unknown one is an error that says what to do."""
    assert [row["run_id"] for row in answer(typed("status", "--json", "--run", "run-1"))] == ["run-1"]

    code, _, err = typed("status", "--run", "run-9")

    assert code == 2
    assert "no run 'run-9'" in err
    assert err.count("\n") == 1


def test_status_shows_children_within_what_they_lie_in(typed: Type, ledger: Ledger) -> None:
    """A child's row stands behind its run's, indented, and says whose it is; a raise of it says what holds it narrower."""
    till = Till(ledger, "run-1")
    child = open_child(till, run_usd_cap=50 * USD)
    inner = open_child(child, subflow("try-2", "inner"), run_usd_cap=10 * USD)
    inner.settle(inner.hold(5 * USD), 5 * USD)
    rows = answer(typed("status", "--json", "--run", "run-1"))
    lines = typed("status", "--run", child.run_id)[1].splitlines()
    raised = typed("raise", "--run", inner.run_id, "--to", "80")[1]

    assert [(row["run_id"], row["parent"], row["depth"], row["spent_usd"]) for row in rows] == [
        ("run-1", None, 0, 25.0), ("run-1/mails-1", "run-1", 1, 5.0), ("run-1/mails-1/inner-1", "run-1/mails-1", 2, 5.0),
    ]  # fmt: skip
    assert [line.split("  policy")[0] for line in lines if "policy" in line] == [
        "    child run-1/mails-1",
        "        child run-1/mails-1/inner-1",
    ]
    assert "80.00 USD now; what it lies in has 50.00 USD" in raised


def test_status_of_an_empty_ledger_says_so(typed: Type, url: str) -> None:
    """A ledger without runs is not an error."""
    open_ledger(url, durability="process").shut()

    assert answer(typed("status", "--json")) == []
    assert typed("status")[1].startswith("no runs in sqlite:///")


def test_an_expired_key_is_shown_as_expired(ledger: Ledger) -> None:
    """The state says `expired` once the expiry has passed, unless the key was revoked."""
    key, usage = ledger.runs()[-1]
    assert key.expires_at is not None

    assert figures.row(key, usage, key.expires_at)["state"] == "expired"
    assert figures.row(key, usage, key.expires_at - 1)["state"] == "active"


def test_a_key_without_a_run_is_listed_by_its_key(typed: Type, ledger: Ledger) -> None:
    """A travelling key has no run; the line names the key."""
    key, _ = ledger.issue(keyguard.Policy(run_usd_cap=5), None)

    assert key.key_id in typed("status")[1]


@pytest.mark.parametrize(("option", "name"), [("--run", "run-1"), ("--policy", "contract-flow"), ("--key", "")])
def test_revoke_stops_what_it_names(typed: Type, ledger: Ledger, option: str, name: str) -> None:
    """revoke by run, policy or key id: the key is revoked in the ledger's file."""
    key = ledger.key(run_id="run-1")
    assert key is not None

    done = answer(typed("revoke", option, name or key.key_id, "--json"))

    assert done == {"revoked": 1, option[2:]: name or key.key_id}
    after = ledger.key(run_id="run-1")
    assert after is not None
    assert after.state == "revoked"


@pytest.mark.usefixtures("ledger")
def test_revoke_tells_people_what_it_did(typed: Type) -> None:
    """Without --json one sentence says what was revoked, and that calls on the wire will settle."""
    assert typed("revoke", "--run", "run-1")[1] == "revoked 1 key of run run-1; calls on the wire will settle\n"


def test_raise_sets_the_cap_and_records_who(typed: Type, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """raise --run --to sets the run's cap; the audit names the person."""
    monkeypatch.setenv("LOGNAME", "ada")
    done = answer(typed("raise", "--run", "run-1", "--to", "750.50", "--json"))

    assert done == {"run_id": "run-1", "cap_usd": 750.5, "before_usd": 500.0, "held_to_usd": None, "by": "ada"}
    usage = ledger.usage("run:run-1")
    assert usage is not None
    assert usage.cap == 750_500_000
    assert "ada" in json.dumps(list(ledger.entries()), default=str)


def test_raise_sets_a_policys_day(typed: Type, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """raise --policy --to sets what all runs of a name may spend in a day; the audit names the person, and people get a sentence."""
    monkeypatch.setenv("LOGNAME", "ada")
    till = open_till(ledger, "run-3", run_usd_cap=100 * USD, daily_usd_cap=5 * USD, name="nightly")
    done = answer(typed("raise", "--policy", "nightly", "--to", "7.50", "--json"))

    assert done == {"policy": "nightly", "cap_usd": 7.5, "before_usd": 5.0, "by": "ada"}
    assert till.ask(7_500_000).granted
    assert "ada" in json.dumps(list(ledger.entries("policy:nightly")), default=str)
    assert typed("raise", "--policy", "nightly", "--to", "8")[1] == "the runs of policy nightly may spend 8.00 USD a day now\n"


@pytest.mark.usefixtures("ledger")
def test_raise_tells_people_the_new_cap(typed: Type) -> None:
    """Without --json one sentence says the new cap."""
    assert typed("raise", "--run", "run-1", "--to", "$1_000")[1] == "the cap of run run-1 is 1,000.00 USD now\n"


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["revoke"], "exactly one of --run, --key, --policy"),
        (["revoke", "--run", "run-1", "--key", "k"], "exactly one of"),
        (["revoke", "--run", "run-9"], "no key of run 'run-9'"),
        (["revoke", "--policy", "nobody"], "no key of policy 'nobody'"),
        (["raise", "--run", "run-9", "--to", "5"], "no run 'run-9'"),
        (["raise", "--policy", "other-flow", "--to", "5"], "no key of policy 'other-flow' has a daily_usd_cap"),
        (["raise", "--to", "5"], "exactly one of --run, --policy"),
        (["raise", "--run", "run-1", "--policy", "p", "--to", "5"], "exactly one of"),
        (["raise", "--run", "run-1", "--to", "nan"], "--to: expected an amount"),
        (["raise", "--run", "run-1", "--to", "ten"], "--to: expected an amount"),
        (["raise", "--run", "run-1", "--to", "0"], "above 0"),
        (["raise", "--run", "run-1", "--to", "-5"], "--to: expected an amount"),
        (["status", "--ledger", "nosuch://x"], "unknown ledger URL scheme 'nosuch'"),
        (["status", "--ledger", "sqlite://"], "in memory"),
        (["status", "--ledger", "sqlite:////nowhere/ledger.db"], "there is no ledger at"),
        (["demo", "--cap", "much"], "--cap: expected an amount"),
        (["demo", "--amount", "0.001"], "whole cents"),
        (["demo", "--amount", "0.01"], "at least $0.50"),
        (["demo", "--customers", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_is_one_clear_line(typed: Type, words: list[str], said: str) -> None:
    """Bad input ends with exit code 2 and one line on stderr; nothing was changed."""
    code, out, err = typed(*words)

    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("keyguard: ")
    assert err.count("\n") == 1


def test_looking_makes_no_ledger(typed: Type, url: str, tmp_path: Path) -> None:
    """status at a place without a ledger creates no file."""
    assert typed("status")[0] == 2
    assert list(tmp_path.iterdir()) == []
    assert url


def test_a_ledger_that_cannot_be_read_is_one_line(typed: Type, url: str, tmp_path: Path) -> None:
    """A file that is no ledger: exit code 1, one line that says why."""
    (tmp_path / "ledger.db").write_bytes(b"not a database, but long enough to be taken for one" * 40)
    code, out, err = typed("status")

    assert (code, out) == (1, "")
    assert err.startswith("keyguard: ")
    assert err.count("\n") == 1
    assert url


def test_a_missing_extra_prints_its_pip_line(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the demo extra the command prints the very line that installs it."""
    monkeypatch.setattr("keyguard.demo._NEEDED", ("no_such_library.part",))

    assert typed("demo") == (2, "", 'pip install "keyguard[demo]"\n')


def test_a_user_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers run as users that no password file knows."""

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)

    assert figures.person() == "unknown"
