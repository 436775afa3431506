"""What two ledgers know of one run: keys, totals, doubts and commands, in front of a proxy of our own."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import stripe
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from typer.testing import CliRunner

import keyguard
from keyguard.cli import app
from keyguard.errors import EndpointNotAllowed, KeyRevoked, SpendCapExceeded
from keyguard.testing.double import Fault, VendorDouble
from tests.proxy.support import PAY, USD, Proxy
from tests.remote.support import KINDS, armed

if TYPE_CHECKING:
    from pathlib import Path


def ran(*words: str) -> Any:
    """Run a command as a person does, on the ledger in front; returns its JSON."""
    done = CliRunner().invoke(app, [*words, "--json", "--ledger", os.environ["KEYGUARD_FRONT_LEDGER"]])

    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


@pytest.mark.ci
def test_the_same_run_has_the_same_keys(tmp_path: Path) -> None:
    """A charge's derived Idempotency-Key is the same without a proxy, through one, and with a ledger in front; that of a retry too."""
    found = {}
    for kind in KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        with (
            VendorDouble() as double,
            Proxy(folder, double.url) as proxy,
            armed(kind, double, proxy, folder, run="one-run", run_usd_cap=50) as world,
        ):
            double.script(Fault("decline", vendor="stripe", times=1))
            with pytest.raises(stripe.CardError):
                world.stripe().v1.payment_intents.create(PAY)
            with world.again():
                world.stripe().v1.payment_intents.create(PAY)
                world.stripe().v1.payment_intents.create(PAY)
            found[kind] = world.keys

    assert len(set(found["local"])) == 3
    assert found["remote"] == found["local"]
    assert found["front"] == found["local"]


def test_totals_are_compared(double: VendorDouble, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What another machine has spent of the run is counted by the proxy alone: its figures are shown, with a WARNING and a metric."""
    reader = InMemoryMetricReader()
    # Of the API's own state there is no way back; a provider that was set by another test stays.
    metrics.set_meter_provider(MeterProvider([reader]))
    with armed("remote", double, proxy, tmp_path, run_usd_cap=5) as world:
        world.stripe().v1.payment_intents.create(PAY)
        assert world.installed.usage().spent == 2 * USD
        assert "this machine's ledger" not in caplog.text
    (tmp_path / "there").mkdir()
    with armed("remote", double, proxy, tmp_path / "there", run=world.run, run_usd_cap=5) as there:
        there.stripe().v1.payment_intents.create({**PAY, "description": "there"})
    with armed("remote", double, proxy, tmp_path, run=world.run, run_usd_cap=5) as world:
        usage = world.installed.usage()
        with pytest.raises(SpendCapExceeded) as refused:
            world.stripe().v1.payment_intents.create({**PAY, "description": "one too many"})

    assert (usage.cap, usage.spent, refused.value.spent) == (5 * USD, 4 * USD, 4 * USD)
    assert "counts $4.00 (spent $4.00, held $0.00, in doubt $0.00), this machine's ledger $2.00" in caplog.text
    data: Any = reader.get_metrics_data()
    points = [point for of in data.resource_metrics for scope in of.scope_metrics for metric in scope.metrics
              if metric.name == "keyguard.proxy.difference" for point in metric.data.data_points]  # fmt: skip
    assert [point.value for point in points] == [2.0]


def test_totals_are_compared_when_a_run_ends(double: VendorDouble, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody need have looked at them: a run that is closed says once what the proxy counts beside."""
    with armed("remote", double, proxy, tmp_path, run_usd_cap=5) as world, world.installed:
        world.stripe().v1.payment_intents.create(PAY)
    assert "this machine's ledger" not in caplog.text
    (tmp_path / "there").mkdir()
    with armed("remote", double, proxy, tmp_path, run_usd_cap=5) as world:
        world.stripe().v1.payment_intents.create(PAY)
    with armed("remote", double, proxy, tmp_path / "there", run=world.run, run_usd_cap=5) as there, there.installed:
        there.stripe().v1.payment_intents.create({**PAY, "description": "there"})

    assert "counts $4.00 (spent $4.00, held $0.00, in doubt $0.00), this machine's ledger $2.00" in caplog.text


def test_a_raise_holds_at_the_proxy(double: VendorDouble, proxy: Proxy, tmp_path: Path) -> None:
    """`keyguard raise` on the machine of the run sets the cap where it is judged."""
    with armed("remote", double, proxy, tmp_path, run_usd_cap=3) as world:
        client = world.stripe().v1.payment_intents
        client.create(PAY)
        with pytest.raises(SpendCapExceeded):
            client.create({**PAY, "description": "2"})
        raised = ran("raise", "--run", world.run, "--to", "5")
        client.create({**PAY, "description": "2"})
        with pytest.raises(SpendCapExceeded) as refused:
            client.create({**PAY, "description": "3"})

    assert (raised["cap_usd"], refused.value.cap) == (5.0, 5 * USD)


def test_a_revoke_holds_at_the_proxy(double: VendorDouble, proxy: Proxy, tmp_path: Path) -> None:
    """`keyguard revoke` ends the run's key at the proxy too; one that is ended there alone ends the run here."""
    with armed("remote", double, proxy, tmp_path, run_usd_cap=50) as world:
        client = world.stripe().v1.payment_intents
        client.create(PAY)
        ran("revoke", "--run", world.run)
        with pytest.raises(KeyRevoked):
            client.create({**PAY, "description": "2"})
        keys = [key for key in proxy.ask("GET", "/vault/keys?limit=200").json()["keys"] if key["run_id"] == world.run]
    with armed("remote", double, proxy, tmp_path, run_usd_cap=50) as world:
        client = world.stripe().v1.payment_intents
        client.create(PAY)
        proxy.ask("DELETE", f"/vault/keys?run_id={world.run}")
        with pytest.raises(KeyRevoked) as refused:
            client.create({**PAY, "description": "2"})

    assert [key["state"] for key in keys] == ["revoked"]
    assert refused.value.run_id == world.run


@pytest.mark.parametrize("kind", ["remote", "front"])
def test_a_doubt_is_resolved_through_the_proxy(double: VendorDouble, proxy: Proxy, tmp_path: Path, kind: Any) -> None:
    """The ledger in front asks the vendor with a key that only reads and ends at once, though the run's own may not read, or has ended."""
    with armed(kind, double, proxy, tmp_path, run_usd_cap=50, allowed_endpoints=["POST /v1/payment_intents"]) as world:
        # The answer is lost between the proxy and here, too: the proxy hangs up on an answer that breaks off.
        double.script(Fault("close_after", vendor="stripe", times=1))
        with pytest.raises(stripe.StripeError):
            world.stripe().v1.payment_intents.create(PAY)
        before = ran("doubts")
        world.installed.revoke()
        double.advance(10)
        done = ran("reconcile")
        after = ran("doubts")
        figures = ran("status", "--run", world.run)[0]
    keys = [key for key in proxy.ask("GET", "/vault/keys?limit=200").json()["keys"] if key["agent_run_label"] == "keyguard-reconcile"]

    assert [len(before), len(after)] == [1, 0], done
    assert (figures["spent_usd"], figures["in_doubt_usd"]) == (2.0, 0.0)
    assert keys
    assert {key["state"] for key in keys} == {"revoked"}


def test_a_key_without_a_run_has_its_own_budget_there(double: VendorDouble, proxy: Proxy, tmp_path: Path) -> None:
    """A key with a budget of its own has one at the proxy too: what the run has is not touched."""
    with armed("remote", double, proxy, tmp_path, run_usd_cap=50) as world:
        run = world.run
        keyguard.uninstall()
        key = keyguard.issue(proxy.url, run_usd_cap=3)
        client: Any = stripe.StripeClient(key.token)
        client.v1.payment_intents.create(PAY)
        with pytest.raises(SpendCapExceeded) as refused:
            client.v1.payment_intents.create({**PAY, "description": "2"})
    spent = {row["run_id"]: row["spent_usd"] for row in proxy.ask("GET", "/vault/keys?limit=200").json()["keys"]}

    assert (refused.value.cap, refused.value.spent) == (3 * USD, 2 * USD)
    assert run not in spent


def test_a_quote_read_is_on_the_proxys_list(double: VendorDouble, proxy: Proxy, tmp_path: Path) -> None:
    """A call whose amount only a read can say needs that read on the list there: the message says which, and nothing is sent."""
    with armed("remote", double, proxy, tmp_path, run_usd_cap=50) as world:
        client = world.stripe().v1
        made = client.payment_intents.create({**PAY, "capture_method": "manual"}).id
    endpoints = ["POST /v1/payment_intents/*/capture"]
    with armed("remote", double, proxy, tmp_path, run_usd_cap=50, allowed_endpoints=endpoints) as world:
        with pytest.raises(EndpointNotAllowed, match=rf"did not let GET /v1/payment_intents/{made} find it") as refused:
            world.stripe().v1.payment_intents.capture(made)

        assert (refused.value.operation, refused.value.run_id) == ("payment_intents.capture", world.run)
        assert world.sent == []
    with armed("remote", double, proxy, tmp_path, run_usd_cap=50, allowed_endpoints=[*endpoints, "GET /v1/payment_intents/*"]) as world:
        world.stripe().v1.payment_intents.capture(made)

        assert world.totals["spent"] == 2 * USD


def test_a_cancelled_flow_runs_key_ends_at_the_proxy(prefect_home: Path, double: VendorDouble, proxy: Proxy, tmp_path: Path) -> None:
    """The runner's process has installed nothing: by the run's label, and the ledger in front, the hook revokes here and at the proxy."""
    from keyguard.prefect import revoke_on_cancellation
    from tests.support_prefect import flow_run

    assert prefect_home.exists()
    run = flow_run()
    with armed("remote", double, proxy, tmp_path, run=str(run.id), run_usd_cap=50) as world:
        world.stripe().v1.payment_intents.create(PAY)
        keyguard.uninstall()
        run.labels["keyguard.ledger"] = proxy.url
        revoke_on_cancellation(SimpleNamespace(name="billing-flow", id=None), run, SimpleNamespace(name="Cancelling"))
    (key,) = [key for key in proxy.ask("GET", "/vault/keys?limit=200").json()["keys"] if key["run_id"] == str(run.id)]

    assert key["state"] == "revoked"
