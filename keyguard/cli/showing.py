"""How the commands print: tables for people with rich, JSON for machines. Reads no ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from keyguard.cli.figures import dollars
from keyguard.demo import Findings, Plan, run
from keyguard.demo.children import stopped_by_sigterm
from keyguard.demo.report import JsonReport, RichReport

if TYPE_CHECKING:
    from collections.abc import Sequence

_AMOUNTS = ("cap", "spent", "held", "in_doubt", "remaining")


def show_demo(plan: Plan, *, as_json: bool) -> int:
    """Run the demo, print it, and return the exit code."""
    report = JsonReport() if as_json else RichReport(plan)
    try:
        with stopped_by_sigterm():
            findings: Findings = run(plan, report)
    finally:
        report.stop()
    report.close(findings)
    return findings.exit_code


def show_status(rows: Sequence[dict[str, Any]], url: str, *, as_json: bool) -> None:
    """Print runs with their figures."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    console = Console()
    if not rows:
        console.print(f"no runs in {url}", highlight=False)
        return
    table = Table(title=f"Runs in {url}", title_justify="left")
    table.add_column("run", overflow="fold")
    for name in ("policy", "state", *(word.replace("_", " ") for word in _AMOUNTS), "calls", "open", "expires"):
        table.add_column(name, justify="right" if name.replace(" ", "_") in _AMOUNTS or name in {"calls", "open"} else "left")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for row in rows:
        _intents(console, row)


def show_done(text: str, value: dict[str, Any], *, as_json: bool) -> None:
    """Print what a command did."""
    print(json.dumps(value) if as_json else text)


def _cells(row: dict[str, Any]) -> list[str]:
    state = row["state"] if row["mode"] == "enforce" else f"{row['state']}, observe only"
    amounts = [dollars(row[f"{name}_usd"]) for name in _AMOUNTS]
    name = row["run_id"] or f"key {row['key_id']}"
    return [name, row["policy"], state, *amounts, str(row["calls"]), str(len(row["open_intents"])), row["expires_at"] or "never"]


def _intents(console: Console, row: dict[str, Any]) -> None:
    for intent in row["open_intents"]:
        held, what = dollars(intent["held_usd"]), intent["operation"]
        console.print(f"open in {row['run_id'] or row['key_id']}: {intent['object_id']} holds {held} ({what})", highlight=False)
