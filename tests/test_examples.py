"""The examples, run as users run them: a process of its own, a real Prefect, a Stripe stand-in over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keyguard.demo.truth import charged
from tests.support_prefect import API_KEY, ENVIRONMENT, make_customers

if TYPE_CHECKING:
    import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_first_example_stops_at_its_budget(standin: str, prefect_server: str, tmp_path: Path) -> None:
    """Five customers, $60: three charges of $20, then a typed refusal that names run and cap."""
    make_customers(standin, 5)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KEYGUARD_"))}
    env |= {**ENVIRONMENT, "PREFECT_HOME": str(tmp_path), "KEYGUARD_URL": f"sqlite:///{tmp_path / 'ledger.db'}"}
    env |= {"STRIPE_SECRET_KEY": API_KEY, "STRIPE_API_BASE": standin, "PREFECT_API_URL": prefect_server}
    script = str(EXAMPLES / "01_cap_a_prefect_flow.py")
    done = subprocess.run([sys.executable, script, "60"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, charged(standin, API_KEY)) == (1, (6000, 3)), done.stderr
    assert "stopped: " in done.stderr
    assert "$60.00" in done.stderr


def test_every_example_is_tested_here(request: pytest.FixtureRequest) -> None:
    """A new example needs a test that runs it."""
    source = Path(request.path).read_text(encoding="utf-8")

    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in source] == []
