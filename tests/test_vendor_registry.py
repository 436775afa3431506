"""The registration of vendors: for the whole process, at once, by one name and one claim; by an entry point; in threads and children."""

from __future__ import annotations

import doctest
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import keyguard
from keyguard import context, vendors
from keyguard.errors import ConfigurationError, EndpointNotAllowed, SpendCapExceeded, UnpricedCall
from keyguard.patches import _wire
from keyguard.settings import load_policy, load_settings
from tests.support_forks import fork
from tests.support_json_server import Answer, JsonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

USD = 1_000_000
HOST = "api.acme.example"
URL = f"https://{HOST}/v1/jobs"


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    """Forget what a test registers."""
    yield
    keyguard.uninstall()
    context.set_vendor_hosts({})
    for name in context.registered_vendors():
        vendors.unregister(name)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A client whose vendor answers from memory."""
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={}))) as found:
        yield found


def register(name: str = "acme", hosts: Any = (HOST,), operations: Any = None, **more: Any) -> vendors.Vendor:
    """Register a vendor with one paid operation."""
    return vendors.register(name, hosts=hosts, operations=operations or {"POST /v1/jobs": 1}, **more)


# -- when ----------------------------------------------------------------------------------------------


def test_the_manual_is_executed() -> None:
    """The example in the docstring of `register` does what it shows."""
    (example,) = doctest.DocTestFinder(recurse=False).find(vendors.register, "register", globs={})
    result = doctest.DocTestRunner().run(example)

    assert (result.attempted, result.failed) == (4, 0)


def test_a_vendor_counts_before_and_after_install(client: httpx.Client) -> None:
    """A host that was asked for before, when nobody claimed it, is guarded from the registration on."""
    with keyguard.run("run-1"):
        installed = keyguard.install("sqlite://", run_usd_cap=1.5)
        client.post(URL)
        register()
        client.post(URL)
        with pytest.raises(SpendCapExceeded, match=r"v1\.jobs\.post for \$1\.00"):
            client.post(URL)

    assert installed.usage().spent == USD


def test_what_is_taken_away_passes_again(client: httpx.Client) -> None:
    """After `unregister` nobody claims its hosts, and the name can be used anew; a second time there is nothing to take."""
    register()
    with keyguard.run("run-1"):
        installed = keyguard.install("sqlite://", run_usd_cap=5)
        client.post(URL)
        vendors.unregister("acme")
        client.post(URL)
    with pytest.raises(ConfigurationError, match="no vendor named 'acme' is registered; registered: none"):
        vendors.unregister("acme")
    register(operations={"POST /v1/other": 2})

    assert installed.usage().spent == USD


def test_a_call_that_was_answered_is_closed_after_its_vendor_is_gone() -> None:
    """An answer that the caller still reads is settled by the vendor that it was quoted by."""
    register(cost=lambda _call, _reply: 0.5)

    class Parts(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"{}"

    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Parts()))
    with keyguard.run("run-1"), httpx.Client(transport=transport) as client:
        installed = keyguard.install("sqlite://", run_usd_cap=5)
        with client.stream("POST", URL) as response:
            vendors.unregister("acme")
            response.read()

    assert (installed.usage().spent, installed.usage().held) == (USD // 2, 0)


# -- once ----------------------------------------------------------------------------------------------


def test_equal_arguments_change_nothing() -> None:
    """A flow that registers at its start may run again: functions are the same where the same lines made them, of equal values."""

    def again(unit: float = 0.5, times: int = 1) -> vendors.Vendor:
        return register(
            operations={"POST /v1/jobs": lambda call: unit * len(call.document), "POST /v1/x": vendors.Row(1, name="x.create")},
            cost=lambda _call, _reply, factor=times: factor,
        )

    first = again()

    assert again() is first
    for other in ({"unit": 0.6}, {"times": 2}):
        with pytest.raises(ConfigurationError, match="a vendor named 'acme' is known already, with other arguments"):
            again(**other)


@pytest.mark.parametrize(
    "more",
    [
        {"hosts": ["api2.acme.example"]},
        {"operations": {"POST /v1/jobs": 2}},
        {"on_refused": "response"},
        {"not_executed": [404]},
        {"secret_env": "X"},
        {"credential_headers": ["x"]},
        {"cost": lambda _call, _reply: None},
    ],
)
def test_other_arguments_are_rejected(more: dict[str, Any]) -> None:
    """A second description of a vendor is not silently one of the two."""
    register()
    with pytest.raises(ConfigurationError, match=r"Known: acme, .*resend"):
        register(**more)


@pytest.mark.parametrize("name", ["stripe", "resend"])
def test_our_own_vendors_keep_their_names(name: str) -> None:
    """Nobody else can be called so."""
    with pytest.raises(ConfigurationError, match=f"a vendor named '{name}' is known already"):
        register(name)


@pytest.mark.parametrize(
    ("hosts", "says"),
    [
        (["api.stripe.com"], "api.stripe.com by stripe"),
        (["API.Stripe.com"], "api.stripe.com by stripe"),
        (["*.stripe.com"], "api.stripe.com by stripe"),
        (["x.example", "api.resend.com"], "api.resend.com by resend"),
        (["files.taken.example"], r"\*\.taken\.example by taken"),
        (["*.taken.example"], r"\*\.taken\.example by taken"),
        (["*.eu.taken.example"], r"\*\.taken\.example by taken"),
        (["one.wide.example"], "one.wide.example by taken"),
        (["*.wide.example"], "one.wide.example by taken"),
    ],
)
def test_a_host_has_one_owner(hosts: list[str], says: str) -> None:
    """Neither a host nor a part of a wildcard can be taken over, ours or another's."""
    register("taken", ["*.taken.example", "one.wide.example"])
    with pytest.raises(ConfigurationError, match=f"cannot have these hosts: claimed already are .*{says}"):
        register("acme", hosts)

    assert "acme" not in vendors.known_vendors()


def test_every_name_below_a_wildcard_is_the_vendors(client: httpx.Client) -> None:
    """However deep, in any case and with the root's dot; the name itself is not below it, nor is a name that only ends alike."""
    register(hosts=["*.acme.example"])
    with keyguard.run("run-1"):
        installed = keyguard.install("sqlite://", run_usd_cap=50)
        for host in ("api.acme.example", "a.b.acme.example", "API.acme.example.", "acme.example", "notacme.example"):
            client.post(f"https://{host}/v1/jobs")

    assert installed.usage().spent == 3 * USD


# -- policies and settings -----------------------------------------------------------------------------


def test_rules_know_the_operations_of_a_registered_vendor() -> None:
    """An operation that nobody has is an error at once; the fields of a generic one are not known, so any may be ruled."""
    register()
    load_policy({"rules": {"v1.jobs.post": {"size": {"max": 3}}}}, {})
    with pytest.raises(ConfigurationError, match=r"there is no operation 'v1\.job\.post'; did you mean v1\.jobs\.post"):
        load_policy({"rules": {"v1.job.post": {"size": {"max": 3}}}}, {})


def test_a_stand_in_of_a_registered_vendor_is_listed_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls are the vendor's; registered later than installed it is warned of, and refused until then."""
    with JsonServer(lambda _: Answer(200, {})) as server, keyguard.run("run-1"), httpx.Client(base_url=server.url) as client:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"acme={server.host}")
        installed = keyguard.install("sqlite://", run_usd_cap=1.5)
        with pytest.raises(ConfigurationError, match=r"unknown vendor 'acme'; known: .*keyguard\.vendors\.register\(\)"):
            client.post("/v1/jobs")
        register()
        client.post("/v1/jobs")
        with pytest.raises(SpendCapExceeded):
            client.post("/v1/jobs")
        with pytest.raises(UnpricedCall, match="matches none of the operations with which acme was registered"):
            client.post("/v1/unheard")

        assert [arrived.path for arrived in server.requests] == ["/v1/jobs"]
        assert installed.usage().spent == USD


def test_a_listed_vendor_that_nobody_knows_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """By `install()`; what only reads the settings, as the command line does, has no use for it."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", "acme=127.0.0.1:9,stripe=127.0.0.1:8")

    assert load_settings().vendor_hosts == {"127.0.0.1:9": "acme", "127.0.0.1:8": "stripe"}
    assert caplog.records == []
    with keyguard.run("run-1"):
        keyguard.install("sqlite://", run_usd_cap=1)
    (warned,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "lists 127.0.0.1:9 for the vendor 'acme'" in warned


def test_observing_lets_a_listed_vendor_that_nobody_knows_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unbooked, with a WARNING, as everything that cannot be guarded."""
    with JsonServer(lambda _: Answer(200, {})) as server, keyguard.run("run-1"):
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"acme={server.host}")
        keyguard.install("sqlite://", mode="observe")

        assert httpx.post(f"{server.url}/v1/jobs").status_code == 200


# -- threads and children ------------------------------------------------------------------------------


def _raced(ask: Callable[[str], object], found: threading.Event, go_on: threading.Event) -> None:
    """Register a host while another thread stands between having found it and remembering what it found."""
    asking = threading.Thread(target=ask, args=("slow.race.example",))
    registering = threading.Thread(target=register, args=("race", ["slow.race.example"]))
    asking.start()
    found.wait(30)
    registering.start()
    # As long as it takes where nothing holds it back.
    registering.join(0.5)
    go_on.set()
    asking.join()
    registering.join()


def test_a_host_is_guarded_as_soon_as_its_registration_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that had just found that nobody claims the host leaves no memory of that behind."""
    found, go_on, look = threading.Event(), threading.Event(), vendors._claimant

    def slow(name: str, claimed: Any) -> str | None:
        answer = look(name, claimed)
        found.set()
        go_on.wait(30)
        return answer

    monkeypatch.setattr(vendors, "_claimant", slow)
    _raced(vendors.claimant, found, go_on)

    assert vendors.claimant("slow.race.example") == "race"


def test_a_seams_memory_of_a_host_is_no_older_than_its_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that had just found the host to be nobody's leaves no memory of that behind either."""
    found, go_on, look = threading.Event(), threading.Event(), vendors.claimant
    answers: list[str | None] = []

    def slow(host: str) -> str | None:
        answers.append(look(host))
        if len(answers) == 2:
            # The answer that is about to be remembered.
            found.set()
            go_on.wait(30)
        return answers[-1]

    monkeypatch.setattr(_wire, "claimant", slow)
    _raced(_wire.FOREIGN.__getitem__, found, go_on)

    assert (answers[1], _wire.FOREIGN["slow.race.example"]) == (None, False)


def test_of_two_that_register_at_once_one_is_rejected() -> None:
    """The check and the change are one step."""
    start, results = threading.Barrier(8), []

    def contend(number: int) -> None:
        start.wait()
        try:
            register(f"v{number}", ["one.example"])
            results.append("registered")
        except ConfigurationError:
            results.append("rejected")

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == ["registered", *["rejected"] * 7]


def test_memory_of_hosts_is_bounded() -> None:
    """A crawler's ten thousand hosts are not kept; ours stay ours."""
    for number in range(10_000):
        assert _wire.FOREIGN[f"h{number}.crawled.example"]

    assert max(len(vendors._claims), len(_wire.FOREIGN)) <= vendors._MOST_HOSTS
    assert (vendors.claimant("api.stripe.com"), _wire.FOREIGN["api.stripe.com"]) == ("stripe", False)


def test_a_forked_child_inherits_what_is_registered() -> None:
    """And can register more, also where a thread of its parent's held the lock at the fork."""
    register()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with context.registering():
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    try:
        child = fork(lambda: [vendors.claimant(HOST), register("second", ["b.example"]).name, vendors.claimant("b.example")])
        said = child.result()
    finally:
        release.set()
        holder.join()

    assert said == ["acme", "second", "second"]
    assert ("acme" in vendors.known_vendors(), "second" in vendors.known_vendors()) == (True, False)


# -- by an entry point ---------------------------------------------------------------------------------

PLUG = """
import keyguard.vendors

vendor = keyguard.vendors.generic({name!r}, hosts=[{host!r}], operations={{"POST /v1/jobs": 1}})
"""
CALLS = """
import json, httpx, keyguard
from keyguard import vendors

transport = httpx.MockTransport(lambda _: httpx.Response(200, json={}))
with keyguard.run("run-1"), httpx.Client(transport=transport) as client:
    installed = keyguard.install("sqlite://", run_usd_cap=1.5)
    client.post("https://api.parcel.example/v1/jobs")
    try:
        client.post("https://api.parcel.example/v1/jobs")
        refused = ""
    except keyguard.SpendCapExceeded as error:
        refused = error.operation
print(json.dumps([vendors.known_vendors(), installed.usage().spent, refused]))
"""


def _distribution(place: Path, points: str, name: str = "parcel", host: str = "api.parcel.example") -> None:
    """Install a distribution of one module into a folder, as a wheel's installer leaves it."""
    (place / f"{name}_plug.py").write_text(PLUG.format(name=name, host=host))
    info = place / f"{name}_guard-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-guard\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[keyguard.vendors]\n{points}\n")
    (info / "RECORD").write_text("")


def _python(place: Path, code: str = CALLS) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(place)}
    return subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_distribution_brings_a_vendor(tmp_path: Path) -> None:
    """Installed is enough: its host is guarded in a process that never heard of it."""
    _distribution(tmp_path, "parcel = parcel_plug:vendor")
    done = _python(tmp_path)

    assert done.returncode == 0, done.stderr
    known, spent, refused = json.loads(done.stdout)
    assert {"parcel", "resend", "stripe"} <= set(known)
    assert (spent, refused) == (USD, "v1.jobs.post")


@pytest.mark.parametrize(
    ("points", "host", "says"),
    [
        (
            "parcel = parcel_plug:missing",
            "p.example",
            "the vendor plug 'parcel' of the distribution parcel-guard cannot be loaded: Attribute",
        ),
        ("parcel = nowhere:vendor", "p.example", "cannot be loaded: ModuleNotFoundError"),
        (
            "other = parcel_plug:vendor",
            "p.example",
            "the entry point 'other' of the distribution parcel-guard must lead to a vendor plug of that",
        ),
        (
            "stripe = parcel_plug:vendor",
            "p.example",
            "two vendor plugs are named 'stripe': that of the distribution parcel-guard, and that of key",
        ),
        ("parcel = parcel_plug:vendor", "api.stripe.com", "two vendor plugs claim api.stripe.com"),
        ("parcel = parcel_plug:vendor", "*.stripe.com", "two vendor plugs claim"),
    ],
)
def test_a_distribution_that_cannot_be_a_vendor_stops_install(tmp_path: Path, points: str, host: str, says: str) -> None:
    """Where it can be mended, and not at the first request; the message names the distribution."""
    _distribution(tmp_path, points, host=host)
    done = _python(tmp_path)

    assert done.returncode == 1
    assert "ConfigurationError: " in done.stderr
    assert says in done.stderr
    assert "in install" in done.stderr


def test_two_distributions_cannot_bring_one_vendor(tmp_path: Path) -> None:
    """Both are named."""
    _distribution(tmp_path, "parcel = parcel_plug:vendor")
    _distribution(tmp_path, "parcel = second_plug:vendor", name="second")
    done = _python(tmp_path)

    assert done.returncode == 1
    assert "parcel-guard" in done.stderr
    assert "second-guard" in done.stderr


def test_an_entry_points_name_cannot_be_registered(tmp_path: Path) -> None:
    """What is installed was there first."""
    _distribution(tmp_path, "parcel = parcel_plug:vendor")
    done = _python(tmp_path, "from keyguard import vendors; vendors.register('parcel', hosts=['x.example'], operations={})")

    assert "ConfigurationError: a vendor named 'parcel' is known already" in done.stderr


def test_the_doctor_names_every_vendor(tmp_path: Path) -> None:
    """With its hosts, and with the distribution that brings it."""
    _distribution(tmp_path, "parcel = parcel_plug:vendor")
    done = _python(
        tmp_path, "from keyguard.cli import main; main()".replace("main()", "import sys; sys.argv = ['keyguard', 'doctor']; main()")
    )

    assert "vendor parcel: api.parcel.example" in done.stdout
    assert "of the distribution parcel-guard" in done.stdout
    assert "vendor stripe: " in done.stdout


# -- what a token may do -------------------------------------------------------------------------------


def test_a_token_without_a_secret_says_what_is_missing(client: httpx.Client) -> None:
    """A vendor that was registered without `secret_env` cannot have a token swapped, unless the policy names the variable."""
    register()
    with keyguard.run("run-1"):
        installed = keyguard.install("sqlite://", run_usd_cap=5)
        with pytest.raises(ConfigurationError, match="nobody said where acme's real secret is"):
            client.post(URL, headers={"x-api-key": installed.key.token})


def test_the_real_secret_goes_to_registered_hosts_over_https_only(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name below a wildcard is the vendor's own; plain HTTP is nobody's."""
    monkeypatch.setenv("ACME_API_KEY", "ak_real")
    register(hosts=["*.acme.example"], secret_env="ACME_API_KEY")
    with keyguard.run("run-1"):
        installed = keyguard.install("sqlite://", run_usd_cap=5)
        headers = {"authorization": f"Bearer {installed.key.token}"}
        client.post(URL, headers=headers)
        for url in (f"http://{HOST}/v1/jobs", f"https://{HOST}:8443/v1/jobs"):
            with pytest.raises(EndpointNotAllowed, match="a vault token may not go to"):
                client.post(url, headers=headers)

    assert installed.usage().spent == USD


def test_distributions_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes ten milliseconds, and is asked for on many ways."""
    vendors.known_vendors()
    monkeypatch.setattr(importlib.metadata, "entry_points", None)
    monkeypatch.setattr(vendors, "entry_points", None)

    assert "stripe" in vendors.known_vendors()
