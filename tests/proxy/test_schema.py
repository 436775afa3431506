"""schemathesis against the proxy's own OpenAPI document: whatever fits it, and whatever does not, is answered as it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.proxy.support import ADMIN, RESEND_SECRET, STRIPE_SECRET, TWILIO_SECRET, Proxy

if TYPE_CHECKING:
    from keyguard.testing.double import VendorDouble

SECRETS = [ADMIN, STRIPE_SECRET, TWILIO_SECRET, RESEND_SECRET]
# Which values fit is said in words too: two names of one thing, vendors whose secret is here, endpoints that no vendor has.
IN_WORDS = "positive_data_acceptance"

# The other dialect's routes and the other vendors' are the same code.
SOME = "^/(vault|audit|healthz|readyz|stripe)"


def played(proxy: Proxy, folder: Path, *options: str) -> int:
    """Run schemathesis with all its checks and ours, and return how many requests it made; it must have found nothing."""
    pytest.importorskip("schemathesis")
    said = {"admin": ADMIN, "token": proxy.token(run_usd_cap=1_000_000, unpriced="allow"), "secrets": SECRETS}
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{proxy.url}/openapi.json", "--checks", "all", "--exclude-checks", IN_WORDS,
        "--continue-on-failure", "--generation-database", "none", "--warnings", "off", *options,
    ]  # fmt: skip
    environ = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.proxy.schema_hooks",
        "TESTS_SCHEMA": json.dumps(said),
        "PYTHONPATH": str(Path.cwd()),
    }
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) generated", done.stdout)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert found is not None
    return int(found[1])


def check_alive(proxy: Proxy) -> None:
    """Assert that it serves, that its ledger's proof holds, and that its log has neither traceback nor secret."""
    assert proxy.ask("GET", "/readyz").status_code == 200
    with proxy.ledger() as ledger:
        assert ledger.verify() == []
    assert "Traceback" not in proxy.said
    assert [secret for secret in SECRETS if secret in proxy.said] == []


@pytest.mark.ci
def test_document_holds(proxy: Proxy, tmp_path: Path) -> None:
    """Some hundred requests, by the document and against it: each answer is one of the document's, no 5xx, and no secret."""
    assert played(proxy, tmp_path, "--seed", "1", "-n", "2", "--phases", "coverage,fuzzing", "--include-path-regex", SOME) > 300

    check_alive(proxy)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_document_holds_for_minutes(double: VendorDouble, tmp_path: Path) -> None:
    """The same for four minutes, other requests each time, and keys that are issued, changed and revoked in any order."""
    with Proxy(tmp_path, double.url) as proxy:
        made = played(proxy, tmp_path, "--max-time", "240")
        print(f"schemathesis: {made} requests, nothing found")

        check_alive(proxy)
