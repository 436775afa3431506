"""What the demo prints: for people with rich, or one JSON object. Computes nothing but the running total."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.panel import Panel
from rich.status import Status
from rich.table import Table
from rich.text import Text

from keyguard.model import Money, show, to_usd

if TYPE_CHECKING:
    from keyguard.demo import Findings, Plan


class Report(Protocol):
    """What the demo tells while it runs, and at its end."""

    def step(self, text: str) -> None:
        """Say what is being waited for."""
        ...

    def event(self, event: dict[str, Any]) -> None:
        """Take one event of the billing process: `running`, `charged`, `refused` or `end`."""
        ...

    def close(self, findings: Findings) -> None:
        """Say what was found."""
        ...

    def stop(self) -> None:
        """Leave the terminal as it was; called however the demo ends."""
        ...


class JsonReport:
    """Silent until the end, then one JSON object on stdout; amounts in dollars."""

    def step(self, text: str) -> None:
        """Say nothing."""

    def event(self, event: dict[str, Any]) -> None:
        """Say nothing."""

    def close(self, findings: Findings) -> None:
        """Print what was found."""
        print(json.dumps(as_json(findings), indent=2))

    def stop(self) -> None:
        """Have nothing to stop."""


def as_json(findings: Findings) -> dict[str, Any]:
    """Return the findings as plain JSON values, amounts in dollars."""
    plan = findings.plan
    return {
        "guarded": plan.guarded,
        "cap_usd": to_usd(plan.cap),
        "customers": plan.customers,
        "amount_usd": to_usd(plan.amount),
        "run_id": findings.run_id,
        "vendor_usd": to_usd(findings.vendor),
        "ledger_usd": to_usd(findings.ledger),
        "spans_usd": to_usd(findings.spans),
        "charges": findings.charges,
        "refusal": findings.refusal or None,
        "attempts_of_refused_task": findings.attempts,
        "agree": findings.agree,
        "cap_held": findings.held,
        "verdict": findings.verdict,
        "calls": [{**call, "cost": to_usd(call["cost"])} for call in findings.calls],
    }


class RichReport:
    """Prints each call as a row of a table while it happens, then the comparison."""

    def __init__(self, plan: Plan, console: Console | None = None) -> None:
        self._plan = plan
        self._console = console or Console()
        self._status: Status | None = None
        self._calls = 0
        self._total: Money = 0

    def step(self, text: str) -> None:
        """Show what is being waited for."""
        if self._status is None:
            self._status = Status(text, console=self._console)
            self._status.start()
        self._status.update(text)
        if not self._console.is_terminal:
            self._console.print(f"… {text}")

    def event(self, event: dict[str, Any]) -> None:
        """Print one event of the billing process."""
        if event["event"] == "running":
            self._begin(event)
        elif event["event"] == "charged":
            self._row(event)
        elif event["event"] == "refused":
            self._refusal(event)

    def close(self, findings: Findings) -> None:
        """Print the comparison of the three numbers, and the verdict."""
        self.stop()
        table = Table(title="What was spent, from three sources", title_justify="left")
        table.add_column("source")
        table.add_column("USD", justify="right")
        table.add_column("how it was read")
        table.add_row("vendor", show(findings.vendor), f"GET /v1/charges, {findings.charges} charges, a process without keyguard")
        table.add_row("ledger", show(findings.ledger), "the ledger's file, opened anew")
        table.add_row("spans", show(findings.spans), "sum of keyguard.cost.amount over the exported spans")
        self._console.print(table)
        if findings.refusal:
            self._console.print(f"attempts made by the refused task: [bold]{findings.attempts}[/] (retries=3)")
        colour = "green" if findings.exit_code == 0 else "red"
        self._console.print(f"[bold {colour}]{'OK' if findings.exit_code == 0 else 'NOT OK'}[/]  {findings.verdict}", highlight=False)

    def stop(self) -> None:
        """Stop the spinner."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _begin(self, event: dict[str, Any]) -> None:
        self.stop()
        plan = self._plan
        guard = f"run_usd_cap={to_usd(plan.cap):g}" if plan.guarded else "[bold red]no guard[/] (--unguarded)"
        self._console.print(f"billing-flow [bold]{event['name']}[/]: {plan.customers} customers × {show(plan.amount)}, {guard}, retries=3")
        self._console.print(f"[bold]{'#':>4}  {'customer':<20}{'operation':<24}{'cost':>10}{'total':>12}[/]", highlight=False)

    def _row(self, event: dict[str, Any]) -> None:
        self._calls += 1
        self._total += event["cost"]
        over = not self._plan.guarded and self._total > self._plan.cap
        row = f"{self._calls:>4}  {event['customer']:<20}{event['operation']:<24}{show(event['cost']):>10}{show(self._total):>12}"
        self._console.print(row + ("  over" if over else ""), style="red" if over else None, highlight=False)

    def _refusal(self, event: dict[str, Any]) -> None:
        self._console.print(f"{self._calls + 1:>4}  {event['customer']:<20}[bold red]refused before a byte left[/]", highlight=False)
        self._console.print(Panel(Text(event["message"]), title="SpendCapExceeded", title_align="left", border_style="red"))
