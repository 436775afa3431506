"""Bypasses of budgets and changes of them that users of other tools have reported; ours is held against the double's truth."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

import keyguard
from keyguard.ledgers.sqlite import SqliteLedger
from tests.endings import Ask
from tests.endings.clients import CLIENTS
from tests.support_shop import CENT, DAY, Shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_RAW = [client for client in CLIENTS if client.kind.name == "stripe" and not client.is_sdk]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Open a shop in which the double is Stripe for raw clients too."""
    with Shop(tmp_path) as opened:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={opened.double.host}")
        yield opened


@pytest.mark.parametrize("client", _RAW, ids=lambda client: client.name.replace(" ", "_"))
def test_no_route_passes_the_budget_by(shop: Shop, client: object) -> None:
    """Passthrough routes skipped budgets (maximhq/bifrost#2873); here a spent budget refuses raw requests as it does the SDK's."""
    one = next(found for found in _RAW if found is client)
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=1)
        shop.charge()
        with pytest.raises(keyguard.SpendCapExceeded):
            one.call(Ask(shop.double.url))

    assert (shop.truth, len(shop.double.requests())) == (100, 1)


def test_a_budget_is_kept_and_enforced_after_a_restart(shop: Shop) -> None:
    """A budget field was neither saved nor enforced (maximhq/bifrost#5673); here a wrong one is an error, and a right one outlives us."""
    with keyguard.run("run-1"), pytest.raises(keyguard.ConfigurationError, match="budget"):
        shop.install(budget=1)
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=2)
        shop.charge()
    keyguard.uninstall()
    with keyguard.run("run-1"):
        keyguard.install(shop.url)
        assert shop.admitted(2) == 1

    assert shop.truth == 200


def test_another_name_is_not_another_budget(shop: Shop) -> None:
    """Renaming the agent reset the cap (notes of vaduno 0.2.1); here the cap is the run's, whatever it is called."""
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=1, agent_run_label="billing/ann")
        shop.charge()
        shop.install(run_usd_cap=1, agent_run_label="billing/bob")
        assert shop.admitted(1) == 0
    with keyguard.run("run-1", name="quite another"):
        assert shop.admitted(1) == 0

    assert shop.figures() == (shop.truth, 0, 0) == (100, 0, 0)


def test_a_key_that_runs_twice_is_counted_twice(shop: Shop) -> None:
    """Reusing an intent's id ran twice and counted once (notes of vaduno 0.2.1); here it counts as often as Stripe executes it."""
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=10)
        for _ in range(2):
            shop.charge(customer="cus_1", key="order-1")
        assert shop.figures() == (shop.truth, 0, 0) == (100, 0, 0)
        # Stripe has forgotten the key.
        shop.double.advance(DAY + 1)
        shop.now += DAY + 1
        shop.charge(customer="cus_1", key="order-1")

    assert shop.figures() == (shop.truth, 0, 0) == (200, 0, 0)


# -- budget changes --------------------------------------------------------------------------------------


def test_a_raise_is_a_persons_audited_and_in_force_at_once(shop: Shop) -> None:
    """Wanted: an extension with an approval (maximhq/bifrost#2753, PR #5736); here the next call passes, and the log says by whom."""
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=1)
        assert shop.admitted(2) == 1
        SqliteLedger(shop.path).raise_cap("run-1", 200 * CENT, by="alice")
        assert shop.admitted(2) == 1

    assert any(entry["kind"] == "raise" and "alice" in str(entry) for entry in shop.ledger.entries())
    assert shop.truth == 200


def test_lowering_is_in_force_at_once(shop: Shop) -> None:
    """Lowering applies at once, raising needs the owner (autoshort's tool): the running process's next call is refused."""
    with keyguard.run("run-1"):
        installed = shop.install(run_usd_cap=10)
        shop.charge()
        shop.install(run_usd_cap=1)
        assert shop.admitted(1) == 0

    assert installed.usage().cap == 100 * CENT
    assert shop.truth == 100


def test_a_restart_does_not_raise_a_limit(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """A restart cannot raise a wallet's limits (walletcap): asked for more, the run keeps what it had, and a WARNING says so."""
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=1)
        shop.charge()
    keyguard.uninstall()
    with keyguard.run("run-1"), caplog.at_level(logging.WARNING, "keyguard"):
        keyguard.install(shop.url, run_usd_cap=1_000)
        assert shop.admitted(1) == 0

    assert "run_usd_cap" in caplog.text
    assert shop.truth == 100
