"""How the findings are printed: a table for people, or one JSON object. Computes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from keyguard.crashtest.judge import PROMISES
from keyguard.crashtest.runner import run
from keyguard.demo.children import stopped_by_sigterm
from keyguard.model import show, to_usd

if TYPE_CHECKING:
    from keyguard.crashtest.judge import Findings, Row
    from keyguard.crashtest.runner import Plan

_MARKS = {True: "[green]held    [/]", False: "[bold red]BROKEN  [/]", None: "[dim]n/a     [/]"}


def show_crash_test(plan: Plan, *, as_json: bool) -> int:
    """Run the crash test, print it, and return the exit code."""
    report = JsonReport() if as_json else RichReport(plan)
    with stopped_by_sigterm():
        findings = run(plan, report.row)
    report.close(findings)
    return findings.exit_code


class RichReport:
    """Prints each row when it is there, then what held."""

    def __init__(self, plan: Plan, console: Console | None = None) -> None:
        self._plan, self._console = plan, console or Console()
        self._has_begun = False

    def _begin(self) -> None:
        # Not before there is a row: until then it may turn out that something is not installed.
        self._has_begun, plan = True, self._plan
        form = "the short form, " if plan.is_quick else ""
        place = f"runs of its own in {plan.ledger}" if plan.ledger else "a ledger of its own for each event"
        self._say(f"crash test of [bold]{escape(plan.guard)}[/], {form}seed {plan.seed}, {escape(place)}")
        self._say("the judge is the truth file of a double of Stripe, on this machine; nothing leaves it")
        self._say(
            f"[bold]{'event':<22}{'cap':>10}{'vendor':>10}{'ledger':>10}{'falsely':>9}{'doubts':>8}{'s':>7}  verdict[/]\n"
            f"[dim]{'':<22}{'':>10}{'charged':>10}{'counted':>10}{'refused':>9}{'left':>8}{'':>7}[/]"
        )

    def row(self, row: Row) -> None:
        """Print an event."""
        if not self._has_begun:
            self._begin()
        if row.skipped:
            self._say(f"[dim]{row.event:<22}{'':>54}  n/a: {escape(row.skipped)}[/]")
            return
        doubts = "n/a" if row.doubts is None else str(row.doubts)
        figures = f"{show(row.cap):>10}{show(row.vendor):>10}{show(row.ledger):>10}{row.false_refusals:>9}{doubts:>8}{row.seconds:>7.1f}"
        colour = "red" if row.problems else "green"
        note = f"; {row.note}" if row.note else ""
        self._say(f"{row.event:<22}{figures}  [{colour}]{escape(row.verdict):<8}[/]  [dim]{escape(row.words + note)}[/]")

    def close(self, findings: Findings) -> None:
        """Print which promises held, with what broke them."""
        self._say("")
        for promise, held in findings.promises.items():
            label = promise if promise[0] == "I" else ""
            self._say(f"{_MARKS[held]}{label:<4}{PROMISES[promise]}")
            for row in findings.rows:
                for problem in row.problems:
                    if problem.promise == promise:
                        self._say(f"            {row.event}: {escape(problem.words)}")
        good = findings.exit_code == 0
        word = "[bold green]OK[/]" if good else "[bold red]NOT OK[/]"
        self._say(f"{word}  {len([row for row in findings.rows if not row.skipped])} events in {findings.seconds:.1f} s")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


class JsonReport:
    """Silent until the end, then one JSON object on stdout; amounts in dollars."""

    def row(self, row: Row) -> None:
        """Say nothing."""

    def close(self, findings: Findings) -> None:
        """Print it all."""
        print(json.dumps(as_json(findings), indent=2))


def as_json(findings: Findings) -> dict[str, Any]:
    """Return the findings as plain JSON values."""
    return {
        "guard": findings.guard,
        "ledger": findings.ledger or None,
        "seed": findings.seed,
        "quick": findings.is_quick,
        "events": [_event(row) for row in findings.rows],
        "promises": {promise: {"held": held, "words": PROMISES[promise]} for promise, held in findings.promises.items()},
        "seconds": round(findings.seconds, 2),
        "exit_code": findings.exit_code,
    }


def _event(row: Row) -> dict[str, Any]:
    if row.skipped:
        return {"event": row.event, "words": row.words, "verdict": "n/a", "skipped": row.skipped}
    return {
        "event": row.event,
        "words": row.words,
        "verdict": row.verdict,
        "cap_usd": to_usd(row.cap),
        "vendor_usd": to_usd(row.vendor),
        "ledger_usd": to_usd(row.ledger),
        "calls": row.calls,
        "refused": row.refused,
        "false_refusals": row.false_refusals,
        "failed": row.failed,
        "doubts_left": row.doubts,
        "seconds": round(row.seconds, 2),
        "problems": [asdict(problem) for problem in row.problems],
        "note": row.note or None,
    }
