"""`revoke_on_cancellation` and `revoke_on_crash`: what they write, where they look for the ledger, and that they never raise."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard.errors import KeyRevoked
from keyguard.ledgers import open_ledger
from keyguard.model import Policy
from keyguard.prefect import revoke_on_cancellation, revoke_on_crash
from tests.support_forks import charge, figures
from tests.support_prefect import flow_run
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("prefect_home")
FLOW = SimpleNamespace(name="billing-flow", id=None)
CANCELLING, CRASHED = SimpleNamespace(name="Cancelling"), SimpleNamespace(name="Crashed")


@pytest.fixture(autouse=True)
def none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default ledger, which does not exist: a hook looks there last, and the user's own must not be asked."""
    monkeypatch.setattr("keyguard.prefect.hooks.default_url", lambda: f"sqlite:///{tmp_path}/none.db")
    return tmp_path / "none.db"


def ledger_with(path: Path, run_id: str) -> str:
    """Make a ledger that knows a run; returns its URL."""
    url = f"sqlite:///{path}"
    ledger = open_ledger(url)
    ledger.issue(Policy(name="p", run_usd_cap=1), run_id)
    ledger.shut()
    return url


def revocations(url: str) -> list[str]:
    """Return who revoked, as audited."""
    ledger = open_ledger(url)
    found = [row["detail"]["by"] for row in ledger.entries() if row["kind"] == "revoke"]
    assert ledger.verify() == []
    ledger.shut()
    return found


@pytest.mark.parametrize("place", ["label", "environment", "default"])
def test_a_process_that_installed_nothing_finds_the_ledger(tmp_path: Path, none: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Called by keyword as the runner does, twice: by the run's label, `KEYGUARD_URL`, or the default place; audited once, with who."""
    run = flow_run()
    url = ledger_with(tmp_path / "ledger.db", str(run.id))
    monkeypatch.setenv("KEYGUARD_URL", url if place == "environment" else "")
    if place == "default":
        monkeypatch.setattr("keyguard.prefect.hooks.default_url", lambda: url)
    if place == "label":
        run.labels["keyguard.ledger"] = url
    for _ in range(2):
        revoke_on_cancellation(flow=FLOW, flow_run=run, state=CANCELLING)

    assert revocations(url) == ["Prefect's on_cancellation hook (Cancelling)"]
    assert not none.exists()


def test_a_crash_revokes_in_what_is_armed_here(tmp_path: Path) -> None:
    """Called positionally as the engine does, where keyguard is armed: the run's next call is refused as revoked, for good."""
    run = flow_run()
    with StripeServer() as server, keyguard.run(str(run.id)):
        installed = keyguard.install(f"sqlite:///{tmp_path}/ledger.db", run_usd_cap=10)
        charge(server.url, 100)
        revoke_on_crash(FLOW, run, CRASHED)
        with pytest.raises(KeyRevoked, match="start a new run"):
            charge(server.url, 100)
        with pytest.raises(KeyRevoked):
            keyguard.install(f"sqlite:///{tmp_path}/ledger.db", run_usd_cap=10)
            charge(server.url, 100)

        assert figures(installed.usage()) == (100, 0, 0)
        assert len(server.charges) == 1
    assert revocations(f"sqlite:///{tmp_path}/ledger.db") == ["Prefect's on_crashed hook (Crashed)"]


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_that_crashes_revokes_its_own_key(tmp_path: Path) -> None:
    """`@flow(on_crashed=[revoke_on_crash])`, called by Prefect's engine: the crash is audited as the one who revoked."""
    from prefect import flow

    url = f"sqlite:///{tmp_path}/ledger.db"

    @flow(on_crashed=[revoke_on_crash])
    def crashing(base: str) -> None:
        keyguard.install(url, run_usd_cap=10)
        charge(base, 100)
        raise SystemExit(3)

    with StripeServer() as server, pytest.raises(SystemExit):
        crashing(server.url)
    keyguard.uninstall()

    assert revocations(url) == ["Prefect's on_crashed hook (Crashed)"]


def test_a_subflow_without_a_key_of_its_own_leaves_its_root_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A subflow that shares its root's budget is stopped without revoking it: the root goes on."""
    root, child = flow_run(), flow_run(is_child=True)
    url = ledger_with(tmp_path / "ledger.db", str(root.id))
    child.labels["keyguard.root"] = str(root.id)
    monkeypatch.setenv("KEYGUARD_URL", url)
    with caplog.at_level(logging.INFO, logger="prefect.flow_runs"):
        revoke_on_cancellation(FLOW, child, CANCELLING)

    assert revocations(url) == []
    assert any("has no key of its own" in message for message in caplog.messages)


def test_a_hook_never_raises_into_prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No ledger anywhere, one that cannot be read, and arguments that are none: a line each that says what to do, and no error."""
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no ledger at all " * 300)
    run = flow_run()
    nothing: Any = None
    with caplog.at_level(logging.WARNING, logger="prefect.flow_runs"):
        monkeypatch.setenv("KEYGUARD_URL", f"sqlite:///{tmp_path}/none.db")
        revoke_on_cancellation(FLOW, run, CANCELLING)
        monkeypatch.setenv("KEYGUARD_URL", f"sqlite:///{broken}")
        revoke_on_cancellation(FLOW, run, CANCELLING)
        monkeypatch.setenv("KEYGUARD_URL", "https://proxy.test")
        revoke_on_crash(flow=nothing, flow_run=nothing, state=nothing)

    said = caplog.messages
    assert any(f"found no key of run {run.id}" in message and "set KEYGUARD_URL" in message for message in said)
    assert any(f"keyguard revoke --run {run.id}" in message for message in said)
    assert any("could not revoke" in message and "--run RUN" in message for message in said)
    assert not (tmp_path / "none.db").exists()
