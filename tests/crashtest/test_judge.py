"""What follows from rows, by hand; and how it is printed."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from rich.console import Console

from keyguard.crashtest.judge import PROMISES, Findings, Row
from keyguard.crashtest.report import RichReport, as_json
from keyguard.crashtest.runner import Plan
from keyguard.crashtest.tallies import Till

if TYPE_CHECKING:
    from pathlib import Path

USD = 1_000_000


def of(*rows: Row) -> Findings:
    """Make findings of rows."""
    return Findings("keyguard", "", 0, True, rows, 1.0)


def test_what_nothing_put_to_the_test_did_not_hold() -> None:
    """A promise is held only by a row that tests it, and a run that tested nothing is no success."""
    whole = of(Row("race", "", tested={"I1"}), Row("locked", "", skipped="the guard has no store"))

    assert whole.promises == {promise: True if promise == "I1" else None for promise in PROMISES}
    assert whole.exit_code == 0
    assert of(Row("locked", "", skipped="no store")).exit_code == 1
    assert of().exit_code == 1


def test_one_row_breaks_a_promise_that_others_held() -> None:
    """The worst decides; money over the cap is what the verdict says first."""
    bad = Row("lost", "", cap=20 * USD, vendor=25 * USD, ledger=20 * USD, tested={"I1", "I2"})
    bad.broke("I2", "$25.00 were charged when $20.00 were counted")
    whole = of(Row("race", "", tested={"I1", "I2"}), bad)

    assert (whole.promises["I1"], whole.promises["I2"], whole.exit_code) == (True, False, 1)
    assert (bad.verdict, Row("race", "").verdict) == ("$5.00 over the cap", "held")


def test_a_row_is_one_line_of_dollars() -> None:
    """Cap, the vendor's truth, the ledger's figure, false refusals, doubts left, seconds, verdict."""
    text = io.StringIO()
    plan = Plan(is_quick=True)
    report = RichReport(plan, Console(file=text, width=300))
    row = Row("race", "50 threads", cap=40 * USD, vendor=39_500_000, ledger=40 * USD, false_refusals=2, doubts=1, seconds=1.26, note="so")
    row.broke("I4", "2 false refusals")
    report.row(row)
    report.close(of(row))

    lines = text.getvalue().splitlines()
    assert "race                      $40.00    $39.50    $40.00        2       1    1.3  2 false refusals  50 threads; so" in lines
    assert "BROKEN  I4  no call was refused that fitted" in lines
    assert as_json(of(row))["events"][0]["vendor_usd"] == 39.5


def test_the_truth_is_read_as_it_grows(tmp_path: Path) -> None:
    """A line that is not whole yet counts when it is; others' customers never do."""
    path = tmp_path / "truth.jsonl"
    path.touch()
    till = Till(path, "cus_mine_")

    def line(customer: str, kind: str = "charge") -> str:
        return json.dumps({"kind": kind, "customer": customer, "micros": USD}) + "\n"

    with path.open("a") as truth:
        assert till.look() == 0
        truth.write(line("cus_mine_1") + line("cus_other_1") + line("cus_mine_2", "object") + line("cus_mine_2")[:10])
        truth.flush()
        assert till.look() == USD
        truth.write(line("cus_mine_2")[10:] + line("cus_mine_1"))
        truth.flush()
        assert till.look() == 3 * USD
    assert till.by_customer == {"cus_mine_1": 2, "cus_mine_2": 1}
