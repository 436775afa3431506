"""A crash test that cannot fail proves nothing: no guard, a guard of others, and guards with a planted defect; what breaks is named."""

from __future__ import annotations

import ast
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyguard import crashtest
from keyguard.crashtest import contract, guards
from keyguard.crashtest.judge import Findings, Promise
from keyguard.crashtest.nursery import Nursery
from keyguard.crashtest.runner import Plan, Played, quiet_env
from keyguard.crashtest.stage import USD
from keyguard.errors import ConfigurationError, LedgerUnavailable, MissingExtra
from keyguard.testing.double import DoubleProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def play() -> Iterator[Callable[[Plan], Findings]]:
    """Returns what plays a plan; vendor and nursery are shared, and named shortly for the socket's sake."""
    with tempfile.TemporaryDirectory(prefix="kg-") as folder:
        place = Path(folder)
        root = str(Path(__file__).parents[2])
        with DoubleProcess(place / "truth.jsonl") as double, Nursery(place, quiet_env(double.host) | {"PYTHONPATH": root}) as nursery:

            def played(plan: Plan) -> Findings:
                """Play it."""
                rows = tuple(Played(plan, place, double, nursery).rows(lambda _: None))
                return Findings(plan.guard, plan.ledger, plan.seed, plan.is_quick, rows, 0.0)

            yield played


@pytest.fixture
def findings(play: Callable[[Plan], Findings]) -> Callable[..., Findings]:
    """Returns what is found in a guard, in the short form of some events."""
    return lambda guard, *only: play(Plan(guard, is_quick=True, only=only))


@pytest.mark.parametrize(
    ("guard", "event", "promises"),
    [
        ("FreesOnTimeout", "lost-answers", {"I2", "once"}),
        ("OneLedgerEach", "kill-after-settle", {"I1", "I2"}),
        ("Stingy", "race", {"I4"}),
        ("Nervous", "processes", {"I4"}),
        ("Honest", "lost-answers", {"I4"}),
        ("Deaf", "revoke", {"I6"}),
        ("Forger", "race", {"books"}),
        ("Optimist", "kill-after-send", {"I1", "I2"}),
        ("CountsRefusals", "race", {"I3"}),
        ("Crashes", "race", {"run"}),
    ],
)
def test_a_planted_defect_is_found(findings: Callable[..., Findings], guard: str, event: str, promises: set[Promise]) -> None:
    """The promise that it breaks is named, and the exit code is 1."""
    whole = findings(f"tests.crashtest.planted:{guard}", event)

    broken = {promise for promise, held in whole.promises.items() if held is False}
    assert promises <= broken, whole.rows
    assert whole.exit_code == 1


def test_one_event_that_fails_is_not_the_end_of_the_others(findings: Callable[..., Findings]) -> None:
    """A guard that ends its own process fails each event by itself, and leaves nothing scripted for the next."""
    whole = findings("tests.crashtest.planted:Crashes", "race", "lost-answers", "second-process")

    assert [row.verdict.startswith("a worker ended or hung") for row in whole.rows] == [True, True, True]


def test_no_guard_spends_it_all(findings: Callable[..., Findings]) -> None:
    """Without one everything that is wanted is charged, again and again, and nothing is counted."""
    whole = findings("none", "race", "kill-after-answer", "lost", "midnight")

    spent = {row.event: (row.cap // USD, row.vendor // USD, row.ledger) for row in whole.rows if not row.skipped}
    # 200 calls of 50 threads; two killed, one of them again, and eight more at $10; thirty charges with four tries each.
    assert spent == {"race": (40, 200, 0), "kill-after-answer": (40, 110, 0), "lost-answers": (15, 120, 0)}
    assert [(row.event, row.verdict) for row in whole.rows if row.skipped] == [("midnight", "n/a")]
    assert whole.promises == {"I1": False, "I2": False, "I3": None, "I4": True, "I6": None, "once": False, "books": None, "run": True}


@pytest.mark.ci
def test_a_guard_of_others_is_put_to_the_same_test(findings: Callable[..., Findings]) -> None:
    """One from PyPI holds its cap between processes, and gives the money back where an answer is lost: $120 on a cap of $15."""
    whole = findings("floe-guard", "processes", "lost-answers")

    race, lost = whole.rows
    assert (race.vendor, race.ledger, race.verdict) == (40 * USD, 40 * USD, "held")
    assert (lost.vendor, lost.ledger, lost.doubts) == (120 * USD, 0, None)
    assert (whole.promises["I1"], whole.promises["I2"], whole.promises["I4"], whole.exit_code) == (False, False, True, 1)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan("tests.nowhere:Guard"), "cannot be imported"),
        (Plan("tests.crashtest.planted:Nobody"), "has no class Nobody"),
        (Plan("tests.crashtest.planted:replace"), "has no refusals, is_shared"),
        (Plan(ledger="carrier-pigeon://x/y"), "unknown ledger URL scheme"),
    ],
)
def test_what_a_worker_cannot_find_is_an_error_of_its_own(play: Callable[[Plan], Findings], plan: Plan, said: str) -> None:
    """A guard that cannot be imported, or is none, or a ledger of an unknown kind: nothing is played (exit code 2)."""
    with pytest.raises(ConfigurationError, match=said):
        play(plan)


def test_a_ledger_that_cannot_be_opened_is_said(play: Callable[[Plan], Findings], tmp_path: Path) -> None:
    """A file that is no ledger."""
    (tmp_path / "x.db").write_text("no ledger" * 1000)
    with pytest.raises(LedgerUnavailable):
        play(Plan(ledger=f"sqlite:///{tmp_path / 'x.db'}"))


def test_an_adapter_takes_no_more_than_thirty_lines() -> None:
    """Those that come along for others, the planted counter, and the example in the package's docstring."""
    sources = {name: Path(guards.__path__[0], f"{name}.py").read_text() for name in ("none", "floe_guard")}
    sources["planted"] = (Path(__file__).parent / "planted.py").read_text()
    sources["example"] = textwrap.dedent(str(crashtest.__doc__).partition("contract.py`:\n")[2].partition("\nWhat happens")[0])
    classes = [
        node
        for name, source in sources.items()
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and (name != "planted" or not node.bases)
    ]

    assert [node.name for node in classes] == ["Guard", "Guard", "CountsRefusals", "Budget"]
    for node in classes:
        assert node.end_lineno is not None
        assert node.end_lineno - node.lineno + 1 <= 30, node.name


def test_a_guard_that_is_not_installed_says_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very line to type."""
    monkeypatch.delitem(sys.modules, "keyguard.crashtest.guards.floe_guard", raising=False)
    monkeypatch.setitem(sys.modules, "floe_guard", None)
    with pytest.raises(MissingExtra, match=r"^pip install floe-guard$"):
        contract.find("floe-guard")
