"""Processes of one named run, through the Stripe SDK, on one ledger file: the cap holds over all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from keyguard.ledgers import open_ledger
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from pathlib import Path


# That what is alike is charged as often as it is meant, test_charges.py shows; the count over processes is the same.
@pytest.mark.parametrize("identical", [pytest.param("no", id="distinct"), pytest.param("yes", id="identical", marks=pytest.mark.ci)])
def test_eight_processes_of_one_run_reach_the_cap_exactly(tmp_path: Path, identical: str) -> None:
    """8 processes of 20 $1 charges each under a $100 cap: the server counts 100, 60 are refused, nothing is held."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    with StripeServer() as server:
        command = [sys.executable, "-m", "tests.worker_charge", server.url, url]
        workers = [
            subprocess.Popen([*command, str(n), identical, "20"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for n in range(8)
        ]
        try:
            ready = [worker.stdout.readline() for worker in workers if worker.stdout]
            outputs = [json.loads(worker.communicate("go\n", timeout=60)[0]) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        charges = len(server.charges)
    ledger = open_ledger(url)
    usage = ledger.usage("run:shared-run")

    assert ready == ["ready\n"] * 8
    assert charges == sum(output["charged"] for output in outputs) == 100
    assert sum(output["refused"] for output in outputs) == 60
    assert usage is not None
    assert (usage.spent, usage.held, usage.doubt) == (100_000_000, 0, 0)
    assert ledger.verify() == []
