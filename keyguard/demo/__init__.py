"""What `keyguard demo` does, step by step, and the values it finds; processes, charging and printing are the files beside this one.

Four processes take part, so that the three numbers at the end come from three sources: this one
(which opens the ledger's file anew), the vendor's stand-in, the billing process (Prefect, the Stripe
SDK, keyguard, spans) and one that only reads the vendor's charges and knows no keyguard.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyguard.demo.children import started
from keyguard.errors import ConfigurationError, KeyguardError, MissingExtra
from keyguard.ledgers import open_ledger
from keyguard.model import Money, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.demo.report import Report

_FOLDER = Path(__file__).parent
_CENT = 10_000
_NEEDED = ("localstripe", "prefect", "stripe", "opentelemetry.sdk")
_API_KEY = "sk_test_12345"


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What the demo is asked to do.

    Attributes:
        cap: What the run may spend, micro-USD.
        customers: How many are charged.
        amount: What each is charged, micro-USD, whole cents.
        guarded: False leaves the seams off.
    """

    cap: Money
    customers: int
    amount: Money
    guarded: bool = True

    def __post_init__(self) -> None:
        """
        Check what no vendor would accept.

        Raises:
            ConfigurationError: an amount that is not whole cents or under Stripe's minimum of 50 cents, or no customer.
        """
        if self.amount % _CENT or self.amount < 50 * _CENT:
            raise ConfigurationError(f"--amount must be whole cents and at least $0.50, got {show(self.amount)}")
        if self.customers < 1:
            raise ConfigurationError(f"--customers must be at least 1, got {self.customers}")

    @property
    def amount_cents(self) -> int:
        """What each customer is charged, as Stripe counts."""
        return self.amount // _CENT

    @property
    def total(self) -> Money:
        """What would be spent without a cap."""
        return self.amount * self.customers


@dataclass(frozen=True, slots=True)
class Findings:
    """
    What came out: three numbers from three sources (micro-USD), and how the run ended.

    Attributes:
        vendor: Sum of the vendor's charges, read by a process without keyguard.
        ledger: What the ledger's file says was spent.
        spans: Sum of `keyguard.cost.amount` over the exported spans.
        charges: How many charges the vendor made.
        refusal: The refusal's message; "" where nothing was refused.
        attempts: How often the refused task was executed.
    """

    plan: Plan
    vendor: Money
    ledger: Money
    spans: Money
    charges: int
    run_id: str = ""
    refusal: str = ""
    attempts: int = 0
    calls: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    @property
    def agree(self) -> bool:
        """Whether the three sources say the same."""
        return self.vendor == self.ledger == self.spans

    @property
    def held(self) -> bool:
        """Whether the vendor charged no more than the cap, refused no call that fitted, and nobody retried a refusal."""
        fitting = min(self.plan.customers, self.plan.cap // self.plan.amount)
        return self.vendor == fitting * self.plan.amount and self.attempts == int(fitting < self.plan.customers)

    @property
    def exit_code(self) -> int:
        """0 only when the guard was on, the three numbers agree and the cap held."""
        return 0 if self.plan.guarded and self.agree and self.held else 1

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        if not self.plan.guarded:
            over = max(0, self.vendor - self.plan.cap)
            return f"unguarded: the vendor charged {show(self.vendor)}, {show(over)} above the cap of {show(self.plan.cap)}"
        if not self.agree:
            return f"the three numbers differ: vendor {show(self.vendor)}, ledger {show(self.ledger)}, spans {show(self.spans)}"
        if not self.held:
            return f"the cap of {show(self.plan.cap)} did not do its work: {show(self.vendor)} charged, {self.attempts} attempts refused"
        return f"the cap of {show(self.plan.cap)} held: {show(self.vendor)} charged, and vendor, ledger and spans agree to the cent"


def run(plan: Plan, report: Report) -> Findings:
    """
    Run the demo and return what was found; every process it starts has ended when it returns or raises.

    Raises:
        MissingExtra: a library of the `demo` extra is not installed.
        KeyguardError: a process of the demo failed; the message ends with what it said.
    """
    require_extra()
    with tempfile.TemporaryDirectory(prefix="keyguard-demo-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        with started([sys.executable, str(_FOLDER / "standin.py")], log=home / "standin.log") as standin:
            api_base = f"http://127.0.0.1:{int(standin.readline())}"
            customers = _make_customers(api_base, plan.customers, report)
            events = list(_bill(plan, home, api_base, customers, report))
            return _compare(plan, home, events, _vendor_truth(api_base))


def require_extra() -> None:
    """
    Check that the `demo` extra is installed.

    Raises:
        MissingExtra: with the line that installs it.
    """
    for name in _NEEDED:
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise MissingExtra('pip install "keyguard[demo]"')


def _make_customers(api_base: str, count: int, report: Report) -> list[str]:
    """Make the customers at the stand-in, before and without keyguard."""
    import httpx

    report.step(f"making {count} customers at the Stripe stand-in on {api_base}")
    with httpx.Client(base_url=api_base, auth=(_API_KEY, ""), trust_env=False) as client:
        made = [client.post("/v1/customers", data={"name": f"Customer {number}"}) for number in range(1, count + 1)]
    return [str(reply.raise_for_status().json()["id"]) for reply in made]


def _bill(plan: Plan, home: Path, api_base: str, customers: list[str], report: Report) -> Iterator[dict[str, Any]]:
    """Run the billing process; yields its events."""
    task = {"api_base": api_base, "customers": customers, "amount_cents": plan.amount_cents, "guarded": plan.guarded}
    task |= {"cap": plan.cap, "ledger": _ledger_url(home), "api_key": _API_KEY}
    log = home / "billing.log"
    report.step("starting Prefect's temporary server (about 20 seconds the first time)")
    with started([sys.executable, "-m", "keyguard.demo.billing", json.dumps(task)], log=log, env=_quiet_env(home), cwd=home) as billing:
        for line in billing.lines():
            event = json.loads(line)
            report.event(event)
            yield event
            if event["event"] == "end":
                billing.settle()
                return
    raise KeyguardError(f"the billing process failed: {_tail(log)}")


def _quiet_env(home: Path) -> dict[str, str]:
    """Return an environment with a Prefect of its own: none of the user's profiles, servers, budgets or exporters."""
    foreign = ("PREFECT_", "KEYGUARD_", "OTEL_", "STRIPE_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return env | {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": "",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
        # A corporate HTTP proxy has no business between two processes of this machine.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def _ledger_url(home: Path) -> str:
    return f"sqlite:///{home / 'ledger.db'}"


def _vendor_truth(api_base: str) -> dict[str, int]:
    """Ask the vendor what it charged, from a process that never loads keyguard."""
    asked = [sys.executable, str(_FOLDER / "truth.py"), api_base, _API_KEY]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise KeyguardError(f"the vendor's charges could not be read: {done.stderr.strip()[-500:]}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _compare(plan: Plan, home: Path, events: list[dict[str, Any]], truth: dict[str, int]) -> Findings:
    end = events[-1]
    refused = next((event for event in events if event["event"] == "refused"), dict[str, Any]())
    return Findings(
        plan=plan,
        vendor=truth["cents"] * _CENT,
        ledger=_ledger_truth(home, end["run_id"]),
        spans=end["spans"],
        charges=truth["charges"],
        run_id=end["run_id"],
        refusal=refused.get("message", ""),
        attempts=refused.get("attempts", 0),
        calls=tuple(event for event in events if event["event"] == "charged"),
    )


def _ledger_truth(home: Path, run_id: str) -> Money:
    """Open the ledger's file anew and read what the run spent; 0 where nobody wrote one."""
    if not (home / "ledger.db").exists():
        return 0
    ledger = open_ledger(_ledger_url(home))
    try:
        usage = ledger.usage(f"run:{run_id}")
        return 0 if usage is None else usage.spent + usage.held + usage.doubt
    finally:
        ledger.shut()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"
