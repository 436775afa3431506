"""The README is run: its Python blocks in a process of their own, its tables and commands against the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keyguard.cli import app
from keyguard.settings import Settings
from tests.support_prefect import API_KEY, ENVIRONMENT
from tests.support_stripe_server import StripeServer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _run(script: str, tmp_path: Path, server: StripeServer, prefect: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script with a ledger and a Prefect home of its own, with Stripe at the loopback server."""
    head = f"import stripe\nstripe.api_key, stripe.api_base, stripe.max_network_retries = {API_KEY!r}, {server.url!r}, 0\n"
    path = tmp_path / "readme.py"
    path.write_text(head + script, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KEYGUARD_"))}
    env |= {**ENVIRONMENT, "PREFECT_HOME": str(tmp_path / "prefect"), "KEYGUARD_URL": f"sqlite:///{tmp_path / 'ledger.db'}"}
    env["KEYGUARD_FRONT_LEDGER"] = f"sqlite:///{tmp_path / 'front.db'}"
    if prefect:
        env["PREFECT_API_URL"] = prefect
    return subprocess.run([sys.executable, str(path)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)


def test_the_flow_stops_at_its_budget(prefect_server: str, tmp_path: Path) -> None:
    """The first block, called with five customers and $60, charges three and ends in the refusal, without waiting for a retry."""
    call = "\nbilling_flow([(f'cus_{n}', 'pm_card_visa') for n in range(5)], amount_cents=2000, budget_usd=60)\n"
    with StripeServer() as server:
        done = _run(blocks("python")[0] + call, tmp_path, server, prefect_server)

    assert (done.returncode, server.total, [form["customer"] for form in server.charges]) == (1, 6000, ["cus_0", "cus_1", "cus_2"]), (
        done.stderr
    )
    assert re.search(r"SpendCapExceeded: payment_intents\.create for \$20\.00 would pass the run_usd_cap", done.stderr)


def test_the_other_blocks_do_what_they_say(tmp_path: Path) -> None:
    """Every further block runs, charges what its comments say, and prints it."""
    with StripeServer() as server:
        done = _run("import keyguard\n" + "\n".join(blocks("python")[1:]), tmp_path, server)

    assert (done.returncode, server.total) == (0, 2000), done.stderr
    assert done.stdout == "99000000 30000000\n"


def test_the_printed_figures_are_in_the_readme() -> None:
    """The comment beside `print` shows what is printed."""
    assert "# micro-dollars: 99000000 30000000" in blocks("python")[1]


def test_the_refusal_is_worded_as_the_code_words_it() -> None:
    """The 2 a.m. message has the parts of a real one, and its figures add up."""
    text = " ".join(blocks("text")[0].split())
    amounts = [float(amount) for amount in re.findall(r"\$([\d.]+)", text)]
    asked, cap, spent, held, doubt, remaining = amounts

    assert cap - spent - held - doubt == remaining < asked
    assert text.endswith(f"--to {cap + asked:.0f}")


def test_the_settings_table_is_complete() -> None:
    """Each setting has a row, and no row is invented."""
    rows = re.findall(r"^\| `(KEY[A-Z]+_\w+)` \|", README, re.MULTILINE)
    names = {name: f"KEYGUARD_{name.upper()}" for name in Settings.model_fields} | {"api_key": "KEYBRAKE_API_KEY"}

    assert sorted(rows) == sorted(names.values())


@pytest.mark.parametrize("command", sorted(set(re.findall(r"keyguard (demo|status|raise|revoke|\w+) --", README))))
def test_every_command_exists(command: str) -> None:
    """Each command that the README tells to type is one."""
    shown = CliRunner().invoke(app, [command, "--help"])

    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_every_link_leads_somewhere(target: str) -> None:
    """Links to files of the repository are not broken."""
    assert (ROOT / target).exists()


def test_it_is_short_and_says_the_two_commands() -> None:
    """At most 150 lines, with the commands that show it working."""
    assert len(README.splitlines()) <= 150
    assert "pip install uv && uv run keyguard demo\npip install uv && uv run pytest\n" in README
