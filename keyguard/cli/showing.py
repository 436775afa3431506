"""How the commands print: lines for people with rich, JSON for machines. Reads no ledger."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from keyguard.cli.figures import dollars
from keyguard.demo import Findings, Plan, run
from keyguard.demo.children import stopped_by_sigterm
from keyguard.demo.report import JsonReport, RichReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyguard.cli.examining import Finding

_STATES = {"active": "[green]active[/]", "revoked": "[red]revoked[/]", "expired": "[red]expired[/]"}
_LEVELS = {"ok": "[green]ok     [/]", "note": "[cyan]note   [/]", "warning": "[yellow]warning[/]", "problem": "[red]problem[/]"}
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
        console.print(f"no runs in {url}", highlight=False, soft_wrap=True)
        return
    console.print(f"runs in {url}, newest first", highlight=False, soft_wrap=True)
    for row in rows:
        for line in _lines(row):
            console.print(line, highlight=False, soft_wrap=True)


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Print what the doctor found, and return the exit code: 1 for a problem."""
    code = int(any(finding.level == "problem" for finding in findings))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return code
    console = Console()
    for finding in findings:
        console.print(
            f"{_LEVELS[finding.level]}  [bold]{escape(finding.about)}[/]: {escape(finding.text)}", highlight=False, soft_wrap=True
        )
    return code


def show_done(text: str, value: dict[str, Any], *, as_json: bool) -> None:
    """Print what a command did."""
    print(json.dumps(value) if as_json else text)


def _lines(row: dict[str, Any]) -> list[str]:
    """Return a run as a few lines: a run's id alone would fill half of a table's width."""
    mode = "" if row["mode"] == "enforce" else "  [yellow]observe only[/]"
    expiry = "never expires" if row["expires_at"] is None else f"expires {row['expires_at']}"
    name = f"run {escape(row['run_id'])}" if row["run_id"] else f"key {row['key_id']}"
    figures = [f"{word.replace('_', ' ')} {dollars(row[f'{word}_usd'])}" for word in _AMOUNTS]
    figures += [f"{word} {dollars(row[f'{word}_usd'])}" for word in ("refunded", "overrun") if row[f"{word}_usd"]]
    figures += [f"recurring {row['recurring']}"] if row["recurring"] else []
    figures += [] if row["calls"] is None else [f"calls {row['calls']}"]
    head = f"[bold]{name}[/]  policy {escape(row['policy'])}  {_STATES.get(row['state'], row['state'])}{mode}  {expiry}"
    return [head, f"    {'   '.join(figures)}", *(_intent(intent) for intent in row["open_intents"])]


def _intent(intent: dict[str, Any]) -> str:
    return f"    open: {intent['object_id']} holds {dollars(intent['held_usd'])} ({intent['operation']})"
