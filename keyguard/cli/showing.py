"""How the commands print: lines for people with rich, JSON for machines. Reads no ledger."""

from __future__ import annotations

import json
import shlex
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
    from keyguard.cli.pricing import Refreshed

_STATES = {"active": "[green]active[/]", "revoked": "[red]revoked[/]", "expired": "[red]expired[/]"}
_LEVELS = {"ok": "[green]ok     [/]", "note": "[cyan]note   [/]", "warning": "[yellow]warning[/]", "problem": "[red]problem[/]"}
_MOST_CHANGES = 40
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


def show_price_list(listed: dict[str, Any], *, as_json: bool) -> None:
    """Print a price list, block by block."""
    if as_json:
        print(json.dumps(listed, indent=2))
        return
    print(f"prices of {listed['date']}, {listed['source']}; US dollars")
    for block, usd in listed["usd"].items():
        default = [f"all others {listed['default'][block]}"] if block in listed["default"] else []
        print(f"{block}: {', '.join([*(f'{key} {price}' for key, price in usd.items()), *default])}")
    print(f"limits: {', '.join(f'{name} {count}' for name, count in listed['limits'].items())}")


def show_refreshed(done: Refreshed, *, as_json: bool) -> None:
    """Print what a refresh read, what it changed, and how to use it."""
    if as_json:
        print(json.dumps({"file": str(done.path), "read": done.counts, "changed": [list(change) for change in done.changes]}, indent=2))
        return
    print(f"wrote {done.path}: {', '.join(f'{count} prices of {block}' for block, count in done.counts.items())}")
    for block, key, before, after in done.changes[:_MOST_CHANGES]:
        print(f"  {block} {key}: {before or 'not listed'} -> {after}")
    if len(done.changes) > _MOST_CHANGES:
        print(f"  and {len(done.changes) - _MOST_CHANGES} more")
    print(f"to count by it: export KEYGUARD_TWILIO_PRICES_FILE={shlex.quote(str(done.path))}")


def show_done(text: str, value: dict[str, Any], *, as_json: bool) -> None:
    """Print what a command did."""
    print(json.dumps(value) if as_json else text)


def _lines(row: dict[str, Any]) -> list[str]:
    """Return a run as a few lines: a run's id alone would fill half of a table's width."""
    mode = "" if row["mode"] == "enforce" else "  [yellow]observe only[/]"
    expiry = "never expires" if row["expires_at"] is None else f"expires {row['expires_at']}"
    kind, indent = ("child", "    " * row["depth"]) if row["parent"] else ("run", "")
    name = f"{kind} {escape(row['run_id'])}" if row["run_id"] else f"key {row['key_id']}"
    figures = [f"{word.replace('_', ' ')} {dollars(row[f'{word}_usd'])}" for word in _AMOUNTS]
    figures += [f"{word} {dollars(row[f'{word}_usd'])}" for word in ("refunded", "overrun") if row[f"{word}_usd"]]
    figures += [f"recurring {row['recurring']}"] if row["recurring"] else []
    figures += [f"{unit} {row[unit]}" for unit in ("calls", "emails") if row[unit] is not None]
    head = f"[bold]{name}[/]  policy {escape(row['policy'])}  {_STATES.get(row['state'], row['state'])}{mode}  {expiry}"
    lines = [head, f"    {'   '.join(figures)}", *(_intent(intent) for intent in row["open_intents"])]
    return [f"{indent}{line}" for line in lines]


def _intent(intent: dict[str, Any]) -> str:
    return f"    open: {intent['object_id']} holds {dollars(intent['held_usd'])} ({intent['operation']})"
