"""The examples that go through a proxy: the recipe of Keybrake's own page against `keyguard proxy`, and a flow that holds no secret."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import stripe

from keyguard import refusal_of
from keyguard.errors import KeyRevoked
from keyguard.testing.double import Fault
from tests.proxy.support import ADMIN, PAY, STRIPE_SECRET, USD
from tests.remote.support_examples import EXAMPLES, SECRETS, given, held, ran
from tests.support_cancel import environment, process, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.testing.double import VendorDouble
    from tests.proxy.support import Proxy

# Of a process that begins, on a machine that is busy with other things.
pytestmark = pytest.mark.timeout(300)
CUSTOMERS = [f"cus_{number}" for number in range(5)]


def charged(double: VendorDouble, first: int) -> list[int]:
    """Return what Stripe has charged since its row of a number, in micro-USD."""
    return [row["micros"] for row in double.truth.rows("charge")[first:]]


def keys_of(proxy: Proxy, label: str) -> list[dict[str, Any]]:
    """Return the proxy's keys whose labels begin so."""
    return [key for key in proxy.ask("GET", "/vault/keys").json()["keys"] if str(key["agent_run_label"]).startswith(label)]


@pytest.mark.parametrize("fault", ["", pytest.param("truncate", marks=pytest.mark.ci)], ids=["all goes well", "an answer is lost"])
def test_the_recipe_stops_at_its_budget(proxy: Proxy, double: VendorDouble, prefect_server: str, tmp_path: Path, fault: Any) -> None:
    """
    Five customers, $60, one in the flow and the others in a subflow: three are charged, with one key and keys of the run for each.

    The fourth is Stripe's RateLimitError, which is sent once and has the figures behind it. Where an answer is lost, Prefect's retry is
    the same charge.
    """
    first, seen, before = len(double.truth.rows("charge")), len(double.requests()), {key["key_id"] for key in keys_of(proxy, "prefect-")}
    if fault:
        double.script(Fault(fault, after=1))
    done = ran("07_vault_key_over_http.py", "60", *CUSTOMERS, env=given(proxy, prefect_server, tmp_path), folder=tmp_path)

    assert (done.returncode, charged(double, first)) == (1, [20 * USD] * 3), done.stderr
    assert "stopped: payment_intents.create for $20.00 would pass the daily_usd_cap" in done.stderr
    assert "cap $60.00, $60.00 spent, $0.00 held, $0.00 in doubt, $0.00 remaining" in done.stderr
    assert "has raised as RateLimitError" in done.stderr
    (key,) = [one for one in keys_of(proxy, "prefect-billing/") if one["key_id"] not in before]
    run_id = key["agent_run_label"].removeprefix("prefect-billing/")
    sent = [one["headers"]["idempotency-key"] for one in double.requests()[seen:]]
    assert list(dict.fromkeys(sent)) == [f"{run_id}-{customer}-2000" for customer in CUSTOMERS[:3]]
    assert len(sent) == 3 + bool(fault)
    rows = proxy.ask("GET", f"/audit?key_id={key['key_id']}").json()["entries"]
    assert [row["kind"] for row in rows].count("refuse") == 1
    shown = proxy.shown(key["key_id"])
    assert (shown["vendor"], shown["state"], shown["spent_usd"], shown["in_doubt_usd"]) == ("stripe", "active", 60, 0)


@pytest.mark.ci
def test_a_cancelled_run_takes_its_key_along(proxy: Proxy, double: VendorDouble, prefect_server: str, tmp_path: Path) -> None:
    """
    Cancelled in the UI, a served run ends long before it is through, and its hook revokes the key at the proxy.

    Whoever has read the key in Prefect's database is told 401 from then on, and nothing reaches Stripe.
    """
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State, StateType
    from prefect.client.schemas.sorting import FlowRunSort

    first, log = len(double.truth.rows("charge")), tmp_path / "log.txt"
    serving = "from importlib import import_module; import_module('07_vault_key_over_http').billing_flow.serve(name='recipe')"
    env = environment(prefect_server, tmp_path / "prefect", KEYBRAKE_PROXY=proxy.url, KEYBRAKE_API_KEY=ADMIN, PYTHONPATH=str(EXAMPLES))
    with SyncPrefectClient(prefect_server) as client, process([sys.executable, "-c", serving], env, log):
        run_id = _started(client, {"customer_ids": [f"cus_{number}" for number in range(1000)], "amount_cents": 2000, "budget_usd": 50_000})
        assert wait_for(lambda: len(charged(double, first)) >= 3), log.read_text()
        (subflow,) = client.read_flow_runs(flow_run_filter=_children_of(run_id), sort=FlowRunSort.START_TIME_DESC, limit=2)
        stolen = str(subflow.parameters["vault_key"])
        assert proxy.stripe(stolen).v1.payment_intents.create(PAY).status == "succeeded"

        client.set_flow_run_state(run_id, State(type=StateType.CANCELLING))
        assert wait_for(lambda: (state := client.read_flow_run(run_id).state) is not None and state.is_final()), log.read_text()
        assert client.read_flow_run(run_id).state.name == "Cancelled", log.read_text()  # type: ignore[union-attr]  # -- it has one

        (key,) = keys_of(proxy, f"prefect-billing/{run_id}")
        before = len(double.requests())
        with pytest.raises(stripe.AuthenticationError) as caught:
            proxy.stripe(stolen).v1.payment_intents.create(PAY)
        assert (key["state"], caught.value.http_status) == ("revoked", 401)
        assert isinstance(refusal_of(caught.value), KeyRevoked)
        assert len(double.requests()) == before
        assert len(charged(double, first)) < 1000


def _started(client: Any, parameters: dict[str, Any]) -> Any:
    """Wait until the recipe is served, and give it a run to do."""
    from prefect.exceptions import ObjectNotFound

    found: list[Any] = []

    def is_there() -> bool:
        try:
            found.append(client.read_deployment_by_name("billing-flow/recipe"))
        except ObjectNotFound:
            return False
        return True

    assert wait_for(is_there, every=0.3)
    return client.create_flow_run_from_deployment(found[0].id, parameters=parameters).id


def _children_of(run_id: Any) -> Any:
    from prefect.client.schemas.filters import FlowRunFilter

    return FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [run_id]}})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "planted", [pytest.param("", id="none"), pytest.param(STRIPE_SECRET, id="one in the environment", marks=pytest.mark.ci)]
)
def test_a_flow_holds_no_secret(proxy: Proxy, double: VendorDouble, prefect_server: str, tmp_path: Path, planted: str) -> None:
    """
    Its calls reach Stripe with Stripe's secret, and no vendor's secret is in its environment, memory, output or files.

    It says so itself. With one in its environment it ends otherwise, and it is seen from outside too.
    """
    first = len(double.truth.rows("charge"))
    env = given(proxy, prefect_server, tmp_path, **({"STRIPE_SECRET_KEY": planted} if planted else {}))
    with held("08_no_secret_in_the_flow.py", "60", *CUSTOMERS, env=env, folder=tmp_path) as example:
        in_environ, in_memory = [secret in example.environ for secret in SECRETS], example.holds(*SECRETS, ADMIN.encode())
        code = example.end()
    files = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    assert charged(double, first) == [20 * USD] * 3, example.complaints
    # What it does hold is the proxy's admin token: so the search of its memory can find something.
    assert (in_environ, in_memory) == ([bool(planted), False, False], [bool(planted), False, False, True])
    assert b"payment_intents.create" in b"".join(text for name, text in files.items() if name.startswith("front.db"))
    kept = b"".join([*files.values(), example.said.encode()])
    assert [secret for secret in (*SECRETS, ADMIN.encode()) if secret in kept] == []
    if planted:
        assert (code, example.said) == (2, "")
        assert "a vendor secret is in this process:\nthe environment: STRIPE_SECRET_KEY\nmemory: " in example.complaints
    else:
        assert code == 1
        assert example.said.startswith("no vendor secret in this process (")
        assert "stopped: payment_intents.create for $20.00 would pass the run_usd_cap" in example.complaints


# The secret comes backwards, so that it is nowhere until it is planted.
_PLANTING = """
import gc, importlib, logging, os, sys
import httpx, stripe
from opentelemetry import trace
from pydantic import SecretStr

example = importlib.import_module("08_no_secret_in_the_flow")
example.watch()
backwards = sys.stdin.read()


def generator(secret):
    yield len(secret)
    yield secret


def suspended(secret):
    started = generator(secret)
    next(started)
    return started


def span(secret):
    with trace.get_tracer("t").start_as_current_span("charge", attributes={"key": secret}):
        pass


plants = {
    "environment": lambda secret: os.environ.__setitem__("PLANTED", secret),
    "span": span,
    "log": lambda secret: logging.getLogger("stripe").debug("with %s", secret),
    "client": stripe.StripeClient,
    "header": lambda secret: httpx.Headers({"Authorization": f"Bearer {secret}"}),
    "closure": lambda secret: lambda: secret,
    "constant": lambda secret: compile(repr(secret), "f", "eval"),
    "error": lambda secret: stripe.AuthenticationError(secret),
    "generator": suspended,
    "settings": SecretStr,
}
print("nothing", *example.places(), sep="|")
# What is known to have none is not looked at again.
gc.freeze()
for name, plant in plants.items():
    planted = [plant(backwards[::-1])]
    print(name, *example.places(), sep="|")
    planted = None
    os.environ.pop("PLANTED", None)
    example.SPANS.clear()
    example.LINES.clear()
    print("after " + name, *example.places(), sep="|")
"""


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """A secret in the environment, a span, a line of log, or in any object is found, in its place; where it is gone nothing is."""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PLANTING], input=STRIPE_SECRET[::-1], cwd=EXAMPLES, capture_output=True, text=True,
        timeout=100, check=False, env=environment("http://127.0.0.1:9/api", tmp_path),
    )  # fmt: skip
    told = {name: where for name, *where in (line.split("|") for line in found.stdout.splitlines())}
    clean = {name: told.pop(name) for name in list(told) if name == "nothing" or name.startswith("after ")}

    assert (len(clean), len(told), any(clean.values())) == (11, 10, False), found.stderr or clean
    assert (told["environment"][0], told["span"][0], told["log"][0]) == ("the environment: PLANTED", "a span: charge", "what was logged")
    assert [name for name, where in told.items() if not where] == []
