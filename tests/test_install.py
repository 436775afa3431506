"""install, issue, use, revoke, run, wrap: whose key pays, through the real Stripe SDK over real HTTP."""

from __future__ import annotations

import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import stripe

import keyguard
from keyguard import context
from keyguard.errors import (
    EndpointNotAllowed,
    KeyExpired,
    KeyRevoked,
    MalformedCall,
    Unattributed,
    UnknownKey,
    UnpricedCall,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support_stripe_server import StripeServer

USD = 1_000_000


def charge(cents: int = 2000, **fields: Any) -> str:
    """Charge through the module-level API."""
    intent = stripe.PaymentIntent.create(**{"amount": cents, "currency": "usd", "confirm": True, **fields})
    return str(intent.id)


# -- the cap ---------------------------------------------------------------------------------------


def test_exactly_the_cap_is_reached_and_one_cent_over_is_refused(vendor: StripeServer, url: str) -> None:
    """$500.00 of $500.00 is spent; the next cent is refused as itself, and nothing is sent for it."""
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=500)
        for _ in range(25):
            charge(2000)
        with pytest.raises(keyguard.SpendCapExceeded) as error:
            charge(1)
        usage = installed.usage()

    assert vendor.total == 50_000
    assert len(vendor.requests) == 25
    assert (usage.spent, usage.held, usage.doubt, usage.remaining) == (500 * USD, 0, 0, 0)
    assert error.value.__cause__ is None
    assert "keyguard raise --run run-1 --to 501" in str(error.value)


def test_a_refused_large_call_leaves_the_next_small_one_allowed(vendor: StripeServer, url: str) -> None:
    """A $1,000 call under a $100 cap is refused and does not poison the $20 call after it."""
    with keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=100)
        with pytest.raises(keyguard.SpendCapExceeded):
            charge(100_000)
        charge(2000)

    assert vendor.total == 2000


def test_a_refund_at_the_cap_is_allowed_within_the_refund_cap_and_gives_no_cap_back(vendor: StripeServer, url: str) -> None:
    """Refunding what the run charged works at a full cap; more than it charged does not; the cap stays full."""
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=20)
        bought = charge(2000)
        stripe.Refund.create(payment_intent=bought, amount=1500)
        with pytest.raises(keyguard.SpendCapExceeded, match="refund"):
            stripe.Refund.create(payment_intent=bought, amount=600)
        with pytest.raises(keyguard.SpendCapExceeded):
            charge(1)
        usage = installed.usage()

    assert usage.spent == 20 * USD
    assert usage.refunded == 15 * USD


def test_intents_without_confirm_stop_at_the_cap(vendor: StripeServer, url: str) -> None:
    """500 customers' unconfirmed intents hold money each: 25 of $20 fit under $500."""
    created = 0
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=500)
        with contextlib.suppress(keyguard.SpendCapExceeded):
            for n in range(500):
                charge(2000, confirm=False, customer=f"cus_{n}")
                created += 1
        usage = installed.usage()

    assert created == len(vendor.intents) == 25
    assert usage.held == 500 * USD
    assert len(usage.intents) == 25


def test_confirming_adopts_the_hold_and_cancelling_frees_it(vendor: StripeServer, url: str) -> None:
    """Create, confirm: the money counts once. Create, cancel: it is free again."""
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=20)
        first = charge(1500, confirm=False)
        stripe.PaymentIntent.confirm(first)
        second = charge(500, confirm=False)
        full = installed.usage()
        stripe.PaymentIntent.cancel(second)
        after = installed.usage()

    assert (full.spent, full.held) == (15 * USD, 5 * USD)
    assert (after.spent, after.held) == (15 * USD, 0)


def test_the_sdks_own_object_comes_back(vendor: StripeServer, url: str) -> None:
    """The caller gets Stripe's PaymentIntent with its last response, as without keyguard."""
    with keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=20)
        intent = stripe.PaymentIntent.create(amount=100, currency="usd", confirm=True)

    assert type(intent) is stripe.PaymentIntent
    assert intent.last_response is not None
    assert intent.last_response.headers["Request-Id"] == "req_test"


# -- races -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("identical", [False, True], ids=["distinct", "identical"])
def test_fifty_threads_reach_a_cap_exactly(vendor: StripeServer, url: str, identical: bool) -> None:
    """50 threads of 10 $1 charges each under a $100 cap: the server counts 100, and what is left is nothing."""
    refused: list[Exception] = []

    def work(worker: int) -> None:
        for n in range(10):
            try:
                charge(100, customer="cus_1" if identical else f"cus_{worker}_{n}")
            except keyguard.SpendCapExceeded as error:
                refused.append(error)

    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=100)
        with ThreadPoolExecutor(50) as pool:
            for future in [pool.submit(keyguard.wrap(work), worker) for worker in range(50)]:
                future.result()
        usage = installed.usage()

    assert len(vendor.charges) == 100
    assert len(refused) == 400
    assert (usage.spent, usage.held, usage.doubt, usage.remaining) == (100 * USD, 0, 0, 0)


# -- whose key pays --------------------------------------------------------------------------------


def test_two_runs_at_once_pay_for_themselves(vendor: StripeServer, url: str) -> None:
    """Two threads in two runs, interleaved by a barrier: each dollar lands on its own run."""
    both = threading.Barrier(2, timeout=30)
    usages: dict[str, Any] = {}

    def flow(run_id: str, cents: int) -> None:
        with keyguard.run(run_id):
            installed = keyguard.install(url, run_usd_cap=100)
            for _ in range(5):
                both.wait()
                charge(cents)
            usages[run_id] = installed.usage().spent

    threads = [threading.Thread(target=flow, args=(run_id, cents)) for run_id, cents in (("a", 100), ("b", 300))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert usages == {"a": 5 * USD, "b": 15 * USD}


def test_a_bare_thread_belongs_to_the_only_run(vendor: StripeServer, url: str) -> None:
    """A plain thread without context is charged to the one run armed in this process."""
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=100)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(charge, 100).result()

    assert installed.usage().spent == 1 * USD


def test_a_bare_thread_among_two_runs_is_refused(vendor: StripeServer, url: str) -> None:
    """With two runs armed nobody can say whose the thread is: refused, and the message names keyguard.wrap."""
    for run_id in ("a", "b"):
        with keyguard.run(run_id):
            keyguard.install(url, run_usd_cap=100)
    with ThreadPoolExecutor(1) as pool, pytest.raises(Unattributed, match=r"keyguard\.wrap"):
        pool.submit(charge, 100).result()

    assert vendor.requests == []


def test_wrap_carries_the_run_into_a_thread(vendor: StripeServer, url: str) -> None:
    """A wrapped function in an executor is charged to the run it was wrapped in."""
    with keyguard.run("a"):
        keyguard.install(url, run_usd_cap=100)
    with keyguard.run("b"), ThreadPoolExecutor(2) as pool:
        installed = keyguard.install(url, run_usd_cap=100)
        wrapped = keyguard.wrap(charge)
        for future in [pool.submit(wrapped, 100) for _ in range(4)]:
            future.result()

    assert installed.usage().spent == 4 * USD


def test_a_run_without_install_and_without_default_is_refused(vendor: StripeServer, url: str) -> None:
    """Run B after run A in one process, without its own install: refused, never A's money."""
    with keyguard.run("a"):
        installed = keyguard.install(url, run_usd_cap=100)
    with keyguard.run("b"), pytest.raises(Unattributed, match=r"never called keyguard\.install"):
        charge(100)

    assert vendor.requests == []
    assert installed.usage().spent == 0


def test_a_default_policy_gives_each_run_a_key_of_its_own(vendor: StripeServer, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """install() outside any run: the process pays for its own calls, each run that appears gets its own cap."""
    with caplog.at_level(logging.WARNING, "keyguard"):
        process = keyguard.install(url, run_usd_cap=10)
    for run_id in ("a", "b"):
        with keyguard.run(run_id):
            charge(1000)
            with pytest.raises(keyguard.SpendCapExceeded):
                charge(1)
    charge(500)

    assert process.usage().spent == 5 * USD
    assert process.key.run_id is not None
    assert process.key.run_id.startswith("process-")
    assert "restart gets a fresh cap" in caplog.text


def test_an_environment_run_id_names_the_run(vendor: StripeServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """KEYGUARD_RUN_ID makes a script a run: a second install (a restart) finds the same key and spent money."""
    monkeypatch.setenv("KEYGUARD_RUN_ID", "nightly-7")
    first = keyguard.install(url, run_usd_cap=10)
    charge(600)
    keyguard.uninstall()
    second = keyguard.install(url, run_usd_cap=10)
    with pytest.raises(keyguard.SpendCapExceeded):
        charge(600)

    assert first.key.key_id == second.key.key_id
    assert second.key.run_id == "nightly-7"


def test_use_makes_a_travelling_key_pay(vendor: StripeServer, url: str) -> None:
    """A key issued without a run pays wherever it is used, before the run's own key."""
    with keyguard.run("a"):
        installed = keyguard.install(url, run_usd_cap=100)
        key = keyguard.issue(url, run_usd_cap=3)
        with keyguard.use(key):
            charge(300)
            with pytest.raises(keyguard.SpendCapExceeded):
                charge(100)
        charge(100)

    assert installed.usage().spent == 1 * USD


def test_a_runs_key_is_refused_in_another_run(vendor: StripeServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of run A as stripe.api_key, or A's key in use(), inside run B: refused, nobody pays."""
    with keyguard.run("a"):
        first = keyguard.install(url, run_usd_cap=100)
    with keyguard.run("b"):
        second = keyguard.install(url, run_usd_cap=100)
        with keyguard.use(first.key), pytest.raises(Unattributed, match="belongs to run a"):
            charge(100)
        monkeypatch.setattr(stripe, "api_key", first.key.token)
        with pytest.raises(Unattributed, match="belongs to run a"):
            charge(100)

    assert vendor.requests == []
    assert (first.usage().spent, second.usage().spent) == (0, 0)


@pytest.mark.parametrize("end", ["revoke", "close", "verb", "run", "with"])
def test_after_its_end_a_key_refuses_everywhere(vendor: StripeServer, url: str, end: str) -> None:
    """After revoke or close: refused in the run and from a bare thread, never unguarded."""
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=100)
        charge(100)
        match end:
            case "revoke":
                installed.revoke()
            case "close":
                installed.close()
            case "verb":
                keyguard.revoke(installed.key)
            case "run":
                keyguard.revoke("run-1")
            case _:
                with installed:
                    pass
        with pytest.raises(KeyRevoked):
            charge(100)
        with ThreadPoolExecutor(1) as pool, pytest.raises(KeyRevoked):
            pool.submit(charge, 100).result()
        # A second install in the same run finds the same, ended key.
        keyguard.install(url, run_usd_cap=100)
        with pytest.raises(KeyRevoked):
            charge(100)

    assert vendor.total == 100


def test_outside_every_run_after_the_flow_nothing_is_unguarded(vendor: StripeServer, url: str) -> None:
    """Code after two runs, without a default policy, is refused until uninstall; then Stripe works as before."""
    for run_id in ("a", "b"):
        with keyguard.run(run_id):
            keyguard.install(url, run_usd_cap=100)
    with pytest.raises(Unattributed):
        charge(100)
    keyguard.uninstall()
    charge(100)

    assert vendor.total == 100


# -- children --------------------------------------------------------------------------------------


@pytest.fixture
def engine() -> Iterator[list[context.RunRef]]:
    """An orchestrator that says the last of these runs is current."""
    stack: list[context.RunRef] = []
    context.register_provider("test-engine", lambda: stack[-1] if stack else None)
    yield stack
    context._state.providers.pop("test-engine")


def test_a_child_run_shares_its_roots_budget(vendor: StripeServer, url: str, engine: list[context.RunRef]) -> None:
    """Calls of a subflow draw on the root's cap; install() with the same arguments in it finds the root's key."""
    engine.append(context.RunRef("root", "test", flow_name="billing"))
    root = keyguard.install(url, run_usd_cap=10)
    engine.append(context.RunRef("root", "test", flow_name="child", is_root=False))
    child = keyguard.install(url, run_usd_cap=10)
    charge(600)
    with pytest.raises(keyguard.SpendCapExceeded):
        charge(600)

    assert child.key == root.key
    assert root.key.policy.name == "billing"
    assert root.usage().spent == 6 * USD


def test_a_child_run_that_nobody_can_name_has_no_budget_of_its_own(vendor: StripeServer, url: str, engine: list[context.RunRef]) -> None:
    """An orchestrator that cannot say which subflow it is: other arguments are a ConfigurationError that says what to do."""
    engine.append(context.RunRef("root", "test", flow_name="billing"))
    keyguard.install(url, run_usd_cap=10)
    engine.append(context.RunRef("root", "test", flow_name="child", is_root=False))
    with pytest.raises(keyguard.ConfigurationError, match="cannot say here which subflow it is"):
        keyguard.install(url, run_usd_cap=5)
    engine[-1] = context.RunRef("other-root", "test", is_root=False)
    with pytest.raises(keyguard.ConfigurationError, match="subflow"):
        keyguard.install(url, run_usd_cap=10)


def test_a_run_whose_root_is_unknown_is_refused(vendor: StripeServer, url: str, engine: list[context.RunRef]) -> None:
    """A provider that sees a run but cannot name its root: refused, never a neighbour's money, never unguarded."""
    engine.append(context.RunRef("root", "test"))
    installed = keyguard.install(url, run_usd_cap=10)
    engine.append(context.RunRef(None, "test", name="lost"))
    with pytest.raises(Unattributed, match="root run is not known"):
        charge(100)
    with pytest.raises(keyguard.ConfigurationError, match="root"):
        keyguard.install(url, run_usd_cap=10)

    assert vendor.requests == []
    assert installed.usage().spent == 0


# -- second install --------------------------------------------------------------------------------


def test_a_second_install_narrows_but_never_widens(vendor: StripeServer, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Same run: the same key and spent money; a lower cap holds; a higher one is ignored with a WARNING."""
    with keyguard.run("run-1"):
        first = keyguard.install(url, run_usd_cap=100)
        charge(1000)
        second = keyguard.install(url, run_usd_cap=50)
        with caplog.at_level(logging.WARNING, "keyguard"):
            third = keyguard.install(url, run_usd_cap=500)
        usage = third.usage()

    assert first.key.key_id == second.key.key_id == third.key.key_id
    assert (usage.cap, usage.spent) == (50 * USD, 10 * USD)
    assert "run_usd_cap" in caplog.text


def test_a_humans_raise_survives_a_resume(vendor: StripeServer, url: str) -> None:
    """raise_cap to $30, then the resumed run installs with its old $10: $30 hold."""
    from keyguard.ledgers import open_ledger

    with keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=10)
        charge(1000)
        with pytest.raises(keyguard.SpendCapExceeded):
            charge(1000)
        open_ledger(url).raise_cap("run-1", 30 * USD, by="alice")
        charge(1000)
        installed = keyguard.install(url, run_usd_cap=10)
        charge(1000)

    assert installed.usage().cap == 30 * USD
    assert vendor.total == 3000


# -- secrets ---------------------------------------------------------------------------------------


def test_a_vault_token_is_swapped_for_the_secret_at_a_listed_host(
    vendor: StripeServer, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The vendor sees the real secret; the SDK's own objects, logs and reprs hold only the token."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={vendor.host}")
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_real_secret")
    with keyguard.run("run-1"), caplog.at_level(logging.DEBUG):
        installed = keyguard.install(url, run_usd_cap=10)
        monkeypatch.setattr(stripe, "api_key", installed.key.token)
        charge(100)
    headers = vendor.requests[0][2]

    assert headers["Authorization"] == "Bearer sk_test_real_secret"
    assert "sk_test_real_secret" not in caplog.text
    assert installed.key.token not in repr(installed.key)


def test_a_vault_token_never_goes_to_a_foreign_host(vendor: StripeServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is neither Stripe's nor listed gets neither token nor secret; the message says what to set."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_real_secret")
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=10)
        monkeypatch.setattr(stripe, "api_key", installed.key.token)
        with pytest.raises(EndpointNotAllowed, match="KEYGUARD_VENDOR_HOSTS=stripe=127") as error:
            charge(100)

    assert vendor.requests == []
    assert installed.key.token not in str(error.value)


def test_a_missing_secret_is_said_before_anything_is_sent(vendor: StripeServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token without the vendor's secret in the environment names the variable."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={vendor.host}")
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=10, secret="env:MY_STRIPE")
        monkeypatch.setattr(stripe, "api_key", installed.key.token)
        with pytest.raises(keyguard.ConfigurationError, match="MY_STRIPE"):
            charge(100)

    assert vendor.requests == []


@pytest.mark.parametrize("token", ["vault_key_unknown", "vault_key_0123456789abcdef_forged"])
def test_unknown_tokens_are_refused(vendor: StripeServer, url: str, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """A token nobody issued is refused, in a run that has a key of its own too."""
    with keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=10)
        monkeypatch.setattr(stripe, "api_key", token)
        with pytest.raises(UnknownKey):
            charge(100)

    assert vendor.requests == []


def test_an_expired_key_is_refused(vendor: StripeServer, tmp_path: Path) -> None:
    """After expires_in the run's key refuses and says how to go on."""
    now = [1_795_000_000.0]
    from keyguard.backends.local import LocalBackend
    from keyguard.install import _armed
    from keyguard.ledgers import open_ledger

    url = f"sqlite:///{tmp_path}/clock.db"
    _armed.backends[url] = LocalBackend(open_ledger(url, clock=lambda: now[0]))
    with keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=10, expires_in="4h")
        charge(100)
        now[0] += 4 * 3600
        with pytest.raises(KeyExpired, match="keyguard raise"):
            charge(100)

    assert vendor.total == 100


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"run_usd_cap": -1}, {"run_usd_cap": float("nan")}, {"run_usd_cap": "many"}, {"run_usd_cap": 0}, {"run_usd_cap": True},
        {"run_usd_capp": 5}, {"allowed_endpoints": ["POST"]}, {"allowed_endpoints": ["/v1"]}, {"allowed_endpoints": ["FOO /x"]},
        {"expires_in": "soon"}, {"expires_in": -4}, {"max_calls": 0}, {"mode": "watch"}, {"secret": "sk_live_1"}, {"policy": "no.toml"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_policies_are_configuration_errors(vendor: StripeServer, url: str, fields: dict[str, Any]) -> None:
    """Each names the field or what is known, before anything is armed or sent."""
    with pytest.raises(keyguard.ConfigurationError) as error:
        keyguard.install(url, **fields)

    assert "sk_live_1" not in str(error.value)
    assert next(iter(fields)) in str(error.value)


@pytest.mark.parametrize("bad", ["mysql://host/db", "ledger.db"])
def test_unknown_urls_are_configuration_errors(vendor: StripeServer, bad: str) -> None:
    """A scheme nobody knows lists the known ones."""
    with pytest.raises(keyguard.ConfigurationError, match="sqlite"):
        keyguard.install(bad, run_usd_cap=1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: stripe.PaymentIntent.create(amount=10.5, currency="usd"), MalformedCall),  # type: ignore[arg-type]  # -- bad on purpose
        (lambda: stripe.PaymentIntent.create(amount=-1, currency="usd"), MalformedCall),
        (lambda: stripe.PaymentIntent.create(amount=100, currency="eur"), UnpricedCall),
        (lambda: stripe.WebhookEndpoint.create(url="https://example.com", enabled_events=["*"]), UnpricedCall),
        (lambda: stripe.StripeClient("sk_test_12345", base_addresses={"api": stripe.api_base}).raw_request(
            "post", "/v1/customers/../payment_intents", amount=1, currency="usd"), MalformedCall),
        (lambda: stripe.StripeClient("sk_test_12345", base_addresses={"api": stripe.api_base}).raw_request(
            "post", "/v1/payment_intents?amount=999999", amount=1, currency="usd"), MalformedCall),
    ],
    ids=["fraction", "negative", "euro", "payout", "dots", "query"],
)  # fmt: skip
def test_calls_that_cannot_be_bounded_are_refused(vendor: StripeServer, url: str, make: Any, expected: type[Exception]) -> None:
    """Odd amounts, unknown writes and path tricks: a typed refusal, nothing sent, no balance changed."""
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=100)
        with pytest.raises(expected):
            make()
        usage = installed.usage()

    assert vendor.requests == []
    assert (usage.spent, usage.held, usage.doubt) == (0, 0, 0)


def test_a_policy_file_has_the_same_schema(vendor: StripeServer, url: str, tmp_path: Path) -> None:
    """A TOML file's fields hold, single arguments win, an unknown field in it is an error."""
    path = tmp_path / "billing.toml"
    path.write_text('run_usd_cap = 20\nallowed_endpoints = ["POST /v1/payment_intents"]\n')
    with keyguard.run("run-1"):
        installed = keyguard.install(url, policy=path, run_usd_cap=10)
        with pytest.raises(EndpointNotAllowed):
            stripe.Charge.create(amount=100, currency="usd")
    path.write_text("run_usd_capp = 20\n")
    with pytest.raises(keyguard.ConfigurationError, match="run_usd_capp: unknown field"):
        keyguard.install(url, policy=str(path))

    assert installed.usage().cap == 10 * USD


# -- lost answers, observe, start line -------------------------------------------------------------


def test_an_answer_that_timed_out_stays_counted_whatever_comes_after(
    vendor: StripeServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vendor charged and the answer was lost; then nobody listens at all: doubt, doubt, nothing freed."""
    vendor.drop_answers = True
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=10)
        with pytest.raises(stripe.APIConnectionError):
            charge(600)
        lost = installed.usage()
        monkeypatch.setattr(stripe, "api_base", "http://127.0.0.1:9")
        with pytest.raises(stripe.APIConnectionError):
            charge(300)
        after = installed.usage()
        with pytest.raises(keyguard.SpendCapExceeded):
            charge(600)

    assert vendor.total == 600
    assert lost.doubt == after.doubt == 6 * USD
    assert (after.spent, after.held) == (0, 0)


def test_observe_refuses_nothing_and_books_the_truth(vendor: StripeServer, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Over the cap, outside the list, outside any run: everything goes out, and the run's own is counted."""
    with caplog.at_level(logging.WARNING, "keyguard"), keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=1, mode="observe", allowed_endpoints=["GET /v1/customers"])
        charge(500)
    with keyguard.run("stranger"):
        charge(500)

    assert vendor.total == 1000
    assert installed.usage().spent == 5 * USD
    assert "OBSERVES ONLY" in caplog.text
    assert "would have stopped this call" in caplog.text
    assert "it is sent all the same" in caplog.text.lower()
    assert "nothing was sent" not in caplog.text.lower()


def test_observe_lets_a_client_pass_that_cannot_be_guarded(vendor: StripeServer, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that goes round Stripe's own methods is refused when enforcing; observing warns that its calls are not booked."""

    class Around(stripe.RequestsClient):
        def request_with_retries(self, *_: Any, **__: Any) -> Any:
            return '{"id": "cus_1", "object": "customer"}', 200, {"Request-Id": "req_1"}

    client = stripe.StripeClient("sk_test_12345", http_client=Around(), base_addresses={"api": vendor.url})
    with caplog.at_level(logging.WARNING, "keyguard"), keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=1, mode="observe")
        passed = client.v1.customers.create({}).id
    keyguard.uninstall()
    with keyguard.run("run-2"), pytest.raises(keyguard.ConfigurationError, match="Around"):
        keyguard.install(url, run_usd_cap=1)
        client.v1.customers.create({})

    assert passed == "cus_1"
    assert "this call is not booked. Enforcing would have stopped it" in caplog.text


def test_one_start_line_says_everything(vendor: StripeServer, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Mode, cap, run, ledger, expiry and seams, once per run."""
    with caplog.at_level(logging.INFO, "keyguard"), keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=500, expires_in="4h")
        keyguard.install(url, run_usd_cap=500, expires_in="4h")
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]

    assert len(lines) == 1
    assert all(word in lines[0] for word in ("enforces", "$500.00 a run", "run-1", url, "14400 s", "stripe"))


def test_seams_are_live_while_armed_and_gone_after_uninstall(vendor: StripeServer, url: str) -> None:
    """`Installation.seams` is looked up on each read."""
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=500)
    before = dict(installed.seams)
    keyguard.uninstall()
    after = dict(installed.seams)

    assert before["stripe.sync"] is True
    assert not any(after.values())
