"""The truth file: every execution is a line before its answer leaves, sums are plain, a torn tail is no line."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyguard.testing.double import truth as truth_module
from keyguard.testing.double.messages import Execution
from keyguard.testing.double.truth import Truth, TruthWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

CHARGE = Execution("stripe", "acct_1", "charges.create", "charge", "ch_1", 1_000_000, "usd", "", "k1", "cus_1", 1, 1_795_600_000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "truth.jsonl"


@pytest.fixture
def writer(path: Path) -> Iterator[TruthWriter]:
    """Its writer."""
    found = TruthWriter(path)
    yield found
    found.close()


def test_sums_are_of_money_that_moved(path: Path, writer: TruthWriter) -> None:
    """Charges and refunds by currency, vendor and account; holds, declines and objects move nothing."""
    for row in (
        CHARGE,
        replace(CHARGE, object="ch_2", key="k2", customer="cus_2", request=2),
        replace(CHARGE, kind="refund", object="re_1", micros=-300_000, key="", request=3),
        replace(CHARGE, kind="hold", micros=5, request=4),
        replace(CHARGE, kind="declined", micros=0, key="k3", request=5),
        replace(CHARGE, currency="eur", account="acct_2", micros=7, key="k1", request=6),
        replace(CHARGE, vendor="resend", micros=900, key="", customer="a@example.com", request=7),
    ):
        writer.record(row)
    truth = Truth(path)

    assert (truth.charged(), truth.charged("eur"), truth.charged(vendor="resend")) == (2_000_900, 7, 900)
    assert truth.charged(account="acct_2") == 0
    assert (truth.refunded(), truth.refunded("eur")) == (300_000, 0)
    assert truth.charges_by("customer") == {"cus_1": 2, "cus_2": 1, "a@example.com": 1}
    assert (truth.executions_of("k1"), truth.executions_of("k3"), truth.executions_of("k4")) == (3, 1, 0)
    assert [row["seq"] for row in truth.rows()] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["object"] for row in truth.rows("refund")] == ["re_1"]


def test_a_file_that_is_not_there_is_empty(path: Path) -> None:
    """Nothing was executed."""
    assert (Truth(path).rows(), Truth(path).charged()) == ([], 0)


def test_a_torn_last_line_was_not_written(path: Path, writer: TruthWriter) -> None:
    """It is read as if it were not there, and the next writer begins after the last whole line."""
    writer.record(CHARGE)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-20])
    assert Truth(path).charged() == 1_000_000

    again = TruthWriter(path)
    again.record(replace(CHARGE, object="ch_2"))
    again.close()
    assert [(row["seq"], row["object"]) for row in Truth(path).rows()] == [(1, "ch_1"), (2, "ch_2")]


def test_an_unreadable_line_in_the_middle_is_no_truth(path: Path, writer: TruthWriter) -> None:
    """A judge that skipped lines would be no judge."""
    writer.record(CHARGE)
    path.write_bytes(b"{torn\n" + path.read_bytes())

    with pytest.raises(ValueError):
        Truth(path).charged()
    with pytest.raises(ValueError):
        TruthWriter(path)


def test_a_line_is_there_when_it_was_recorded(path: Path, writer: TruthWriter) -> None:
    """Without a flush: a killed process loses none."""
    writer.record(CHARGE)

    assert json.loads(path.read_bytes()) == {"seq": 1, **{name: getattr(CHARGE, name) for name in CHARGE.__slots__}}


def test_a_line_that_is_not_taken_whole_is_taken_back(path: Path, writer: TruthWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle of a line leaves no half of it, and whoever wanted to execute is told."""
    writer.record(CHARGE)
    whole = os.write

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: whole(descriptor, line[:10]))
        with pytest.raises(OSError, match="part of a line"):
            writer.record(CHARGE)
    writer.record(CHARGE)

    assert [row["seq"] for row in Truth(path).rows()] == [1, 2]


def test_the_judge_knows_nothing_of_what_it_judges() -> None:
    """The truth imports nothing of keyguard's."""
    tree = ast.parse(Path(str(truth_module.__file__)).read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}

    assert [name for name in imported if name.startswith("keyguard")] == []
