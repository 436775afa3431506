"""Child budgets through the real Stripe SDK over real HTTP: who pays in a subflow, what it may do, and what a refusal says."""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keyguard
from keyguard.errors import (
    ConfigurationError,
    EndpointNotAllowed,
    KeyRevoked,
    RuleViolated,
    SpendCapExceeded,
    Unattributed,
    UnknownKey,
    UnpricedCall,
)
from keyguard.ledgers import open_ledger
from tests.support_children import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support_stripe_server import StripeServer

USD = 1_000_000


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An orchestrator with nested flows."""
    with Engine().named() as named:
        yield named


def charge(cents: int = 100, **fields: Any) -> str:
    """Charge through the module-level API."""
    intent = stripe.PaymentIntent.create(**{"amount": cents, "currency": "usd", "confirm": True, **fields})
    return str(intent.id)


def spent(*installed: keyguard.Installation) -> list[int]:
    """Return what was spent on each budget, in whole dollars."""
    return [one.usage().spent // USD for one in installed]


# -- who pays ----------------------------------------------------------------------------------------


def test_a_subflow_pays_from_both_and_the_run_alone_after_it(vendor: StripeServer, url: str, engine: Engine) -> None:
    """Within the subflow both budgets are charged; after its end the caller's calls are the caller's only."""
    with engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=10)
        charge(100)
        with engine.flow("reminders"):
            child = keyguard.install(run_usd_cap=3)
            charge(300)
            with pytest.raises(SpendCapExceeded) as full:
                charge(100)
        charge(200)

    assert spent(root, child) == [6, 3]
    assert (vendor.total, full.value.scope, full.value.run_id) == (600, "run:root/reminders-1", "root")
    assert (full.value.cap, full.value.remaining) == (3 * USD, 0)
    assert "the child budget root/reminders-1" in str(full.value)
    assert "keyguard raise --run root/reminders-1 --to 4" in str(full.value)


def test_the_runs_own_cap_stops_a_subflow_and_is_named(vendor: StripeServer, url: str, engine: Engine) -> None:
    """The child has room, its run has none: the refusal says whose cap it is and how to raise that one."""
    with engine.flow("billing"):
        keyguard.install(url, run_usd_cap=4)
        charge(300)
        with engine.flow("reminders"):
            child = keyguard.install(run_usd_cap=3)
            with pytest.raises(SpendCapExceeded, match="keyguard raise --run root --to 5") as full:
                charge(200)
            charge(100)

    assert (full.value.scope, child.usage().remaining) == ("run:root", 2 * USD)


def test_a_subflow_within_shares_and_one_with_its_own_narrows_again(vendor: StripeServer, url: str, engine: Engine) -> None:
    """A subflow of a child pays from the child's; with a budget of its own from three."""
    with engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=10)
        with engine.flow("nested"):
            child = keyguard.install(run_usd_cap=5)
            with engine.flow("plain"):
                shared = keyguard.install()
                charge(200)
            with engine.flow("inner"):
                inner = keyguard.install(run_usd_cap=1)
                charge(100)
                with pytest.raises(SpendCapExceeded, match="root/nested-1/inner-1"):
                    charge(100)

    assert spent(root, child, inner) == [3, 3, 1]
    assert shared.key == child.key


def test_a_root_that_never_installed_gives_its_child_a_share_of_the_default(vendor: StripeServer, url: str, engine: Engine) -> None:
    """Under a default policy of the process the run gets its own key first; without one the subflow's install says what is missing."""
    with engine.flow("billing"), engine.flow("reminders"), pytest.raises(ConfigurationError, match=r"never called keyguard\.install"):
        keyguard.install(url, run_usd_cap=3)
    keyguard.install(url, run_usd_cap=10)
    with engine.flow("billing"), engine.flow("reminders"):
        child = keyguard.install(run_usd_cap=3)
        charge(300)

    found = open_ledger(url).usage("run:root")
    assert found is not None
    assert (found.spent, found.cap, spent(child)) == (3 * USD, 10 * USD, [3])


def test_a_subflow_that_names_another_ledger_is_told(vendor: StripeServer, url: str, engine: Engine, tmp_path: Path) -> None:
    """A child's budget lies in its root's ledger; the same URL may be repeated."""
    with engine.flow("billing"):
        keyguard.install(url, run_usd_cap=10)
        with engine.flow("reminders"):
            keyguard.install(url, run_usd_cap=3)
            with pytest.raises(ConfigurationError, match="leave it out"):
                keyguard.install(f"sqlite:///{tmp_path}/other.db", run_usd_cap=2)


def test_a_key_of_the_run_used_in_a_child_does_not_pass_it_by(
    vendor: StripeServer, url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's token as `stripe.api_key`, or its key in `use()`: within the child the child pays; a sibling's key is refused."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={vendor.host}")
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_real")
    with engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=10)
        monkeypatch.setattr(stripe, "api_key", root.key.token)
        with engine.flow("reminders"):
            child = keyguard.install(run_usd_cap=1)
            charge(100)
            with pytest.raises(SpendCapExceeded), keyguard.use(root.key):
                charge(100)
        monkeypatch.setattr(stripe, "api_key", "sk_test_12345")
        with keyguard.use(child.key), pytest.raises(SpendCapExceeded):
            charge(100)
        with engine.flow("others"):
            keyguard.install(run_usd_cap=2)
            with keyguard.use(child.key), pytest.raises(Unattributed, match="root/reminders-1"):
                charge(100)

    assert (spent(root, child), vendor.total) == ([1, 1], 100)


def test_a_bare_thread_beside_a_child_is_refused(vendor: StripeServer, url: str, engine: Engine) -> None:
    """Whether a thread without context belongs to the child or to its caller nobody can say; `wrap` carries it."""
    with engine.flow("billing"):
        keyguard.install(url, run_usd_cap=10)
        with engine.flow("reminders"):
            keyguard.install(run_usd_cap=3)
    with ThreadPoolExecutor(1) as pool, pytest.raises(Unattributed, match=r"keyguard\.wrap"):
        pool.submit(charge).result()

    assert vendor.requests == []


def test_a_child_that_is_in_no_ledger_here_is_refused(vendor: StripeServer, url: str, engine: Engine) -> None:
    """A budget that came along by name and cannot be found pays nothing, and its run does not pay in its place."""
    with engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=10)
        with engine.flow("reminders") as entered:
            entered.budget = "root/elsewhere-1"
            with pytest.raises(UnknownKey, match="root/elsewhere-1"):
                charge()

    assert (vendor.requests, spent(root)) == ([], [0])


# -- what it may do ----------------------------------------------------------------------------------


def test_both_allowlists_and_the_rules_of_both_hold(vendor: StripeServer, url: str, engine: Engine) -> None:
    """What either does not name is refused, by the policy whose list it is; a field must fit both rules."""
    with engine.flow("billing"):
        keyguard.install(
            url, run_usd_cap=10, allowed_endpoints=["POST /v1/payment_intents", "GET /v1/**"],
            rules={"payment_intents.create": {"amount": {"max": 300}}},
        )  # fmt: skip
        with engine.flow("reminders"):
            keyguard.install(allowed_endpoints=["POST /v1/**"], rules={"payment_intents.create": {"amount": {"min": 200}}})
            with pytest.raises(EndpointNotAllowed, match="'reminders'"):
                stripe.PaymentIntent.retrieve("pi_1")
            with pytest.raises(EndpointNotAllowed, match="'billing'"):
                stripe.Customer.create()
            for cents in (100, 400):
                with pytest.raises(RuleViolated):
                    charge(cents)
            charge(250)

    assert vendor.total == 250


def test_the_smaller_call_cap_and_the_stricter_answer_hold(vendor: StripeServer, url: str, engine: Engine) -> None:
    """`call_usd_cap` of both, and `unpriced` of the stricter one."""
    with engine.flow("billing"):
        keyguard.install(url, run_usd_cap=100, call_usd_cap=5, unpriced="allow")
        with engine.flow("reminders"):
            keyguard.install(run_usd_cap=50, call_usd_cap=8)
            with pytest.raises(SpendCapExceeded, match=r"call_usd_cap \$5.00 of policy 'billing'"):
                charge(600)
            with pytest.raises(UnpricedCall):
                stripe.Subscription.create(customer="cus_1", items=[{"price": "price_1"}])

    assert [path for method, path, *_ in vendor.requests if method == "POST"] == []


def test_max_calls_and_expiry_of_the_run_hold_in_its_child(vendor: StripeServer, url: str, engine: Engine) -> None:
    """The run's call cap counts the child's calls, and the child ends with the run's key."""
    with engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=100, max_calls=2)
        with engine.flow("reminders"):
            child = keyguard.install(max_calls=50)
            charge()
            charge()
            with pytest.raises(SpendCapExceeded, match="max_calls of run root"):
                charge()
            root.revoke()
            with pytest.raises(KeyRevoked, match="of run root was revoked"):
                charge()

    assert child.key.state == "revoked"


def test_revoking_a_child_stops_only_that(vendor: StripeServer, url: str, engine: Engine) -> None:
    """The subflow's calls are refused, its caller goes on; `with install(...)` closes the child's key at the end."""
    with engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=10)
        with engine.flow("reminders"):
            with keyguard.install(run_usd_cap=3) as child:
                charge()
            with pytest.raises(KeyRevoked, match="root/reminders-1"):
                charge()
        charge()

    assert (spent(root, child), child.key.state, root.key.state) == ([2, 1], "closed", "active")


def test_an_observing_run_observes_in_its_children(vendor: StripeServer, url: str, engine: Engine) -> None:
    """Observing never refuses, also not by a child's cap; a child cannot observe in a run that enforces."""
    with engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=10, mode="observe")
        with engine.flow("reminders"):
            child = keyguard.install(run_usd_cap=1)
            charge(300)

    assert (spent(root, child), vendor.total) == ([3, 3], 300)


def test_wider_wishes_are_warned_of(vendor: StripeServer, url: str, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Each field that the run holds narrower is named once; nothing of it is more money, or another mode."""
    endpoints = ["POST /v1/payment_intents", "POST /v1/refunds"]
    with engine.flow("billing"):
        keyguard.install(url, run_usd_cap=2, allowed_endpoints=endpoints[:1])
        with engine.flow("reminders"), caplog.at_level(logging.WARNING, "keyguard"):
            child = keyguard.install(run_usd_cap=50, mode="observe", unpriced="allow", idempotency="off", allowed_endpoints=endpoints)
            said = [record.getMessage() for record in caplog.records if "asked for" in record.getMessage()]
            charge(200)
            with pytest.raises(SpendCapExceeded, match="run_usd_cap of run root"):
                charge(100)

    for word in ("run_usd_cap=$50.00", "mode='observe'", "unpriced='allow'", "idempotency='off'", "POST /v1/refunds"):
        assert len([one for one in said if word in one]) == 1
    assert (child.key.policy.mode, child.key.policy.idempotency) == ("enforce", "derive")


def test_a_second_install_in_a_subflow_narrows_the_child(vendor: StripeServer, url: str, engine: Engine) -> None:
    """As in a run: the least asked holds, the money spent stays, and asking for the run's own arguments changes nothing."""
    with engine.flow("billing"):
        keyguard.install(url, run_usd_cap=10)
        with engine.flow("reminders"):
            first = keyguard.install(run_usd_cap=3)
            charge()
            second = keyguard.install(run_usd_cap=2)
            third = keyguard.install(run_usd_cap=10)
            charge()
            with pytest.raises(SpendCapExceeded):
                charge()

    assert first.key.key_id == second.key.key_id == third.key.key_id
    assert (third.usage().cap, third.usage().spent) == (2 * USD, 2 * USD)


# -- retries -----------------------------------------------------------------------------------------


def test_a_later_execution_has_no_fresh_cap(vendor: StripeServer, url: str, engine: Engine) -> None:
    """The subflow is executed again under another run id of its own: the same budget, and what was spent is spent."""
    caps: list[str] = []
    figures: list[list[int]] = []
    for _ in range(3):
        with engine.flow("billing"):
            root = keyguard.install(url, run_usd_cap=100)
            with engine.flow("reminders", call="the first call"):
                child = keyguard.install(run_usd_cap=4)
                for number in range(2):
                    with contextlib.suppress(SpendCapExceeded):
                        charge(100, customer=f"cus_{len(caps)}_{number}", description=engine.execution)
                caps.append(child.key.run_id or "")
                figures.append(spent(root, child))
        engine.again()

    assert (set(caps), figures, vendor.total) == ({"root/reminders-1"}, [[2, 2], [4, 4], [4, 4]], 400)


def test_two_subflows_alike_have_a_budget_each(vendor: StripeServer, url: str, engine: Engine) -> None:
    """Called twice on purpose in one execution: two caps; the next execution finds both again, in order."""
    seen: list[str] = []
    for _ in range(2):
        with engine.flow("billing"):
            keyguard.install(url, run_usd_cap=100)
            for _ in range(2):
                with engine.flow("reminders", call=""):
                    seen.append(keyguard.install(run_usd_cap=4).key.run_id or "")
        engine.again()

    assert seen == ["root/reminders-1", "root/reminders-2"] * 2


def test_the_same_charge_within_and_without_has_one_key(vendor: StripeServer, url: str, engine: Engine) -> None:
    """What a charge is does not depend on the budget that it is paid from: a retry outside of the child is the same one."""
    with engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=100)
        with engine.flow("reminders"):
            child = keyguard.install(run_usd_cap=4)
            charge(100, customer="cus_1")
    engine.again()
    with engine.flow("billing"):
        keyguard.install(url, run_usd_cap=100)
        charge(100, customer="cus_1")
    keys = {headers.get("Idempotency-Key") for _, _, headers, *_ in vendor.requests}

    assert (len(vendor.requests), len(keys)) == (2, 1)
    assert spent(root, child) == [1, 1]


def test_the_run_captures_what_its_child_has_authorised(vendor: StripeServer, url: str, engine: Engine) -> None:
    """The open hold is found by the run, counted once, and is the child's money to the end; a refund of it is the run's."""
    with engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=10)
        with engine.flow("reminders"):
            child = keyguard.install(run_usd_cap=3)
            made = charge(300, confirm=False)
        between = (root.usage().held, child.usage().held, [one.object_id for one in child.usage().intents])
        stripe.PaymentIntent.confirm(made)
        stripe.Refund.create(payment_intent=made, amount=100)

    assert between == (3 * USD, 3 * USD, [made])
    assert spent(root, child) == [3, 3]
    assert (root.usage().refunded, child.usage().refunded) == (USD, 0)


# -- under any race ----------------------------------------------------------------------------------


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    cap=st.integers(1, 20),
    children=st.lists(st.tuples(st.integers(1, 25), st.integers(0, 8), st.booleans()), min_size=1, max_size=4),
    own=st.integers(0, 8),
)
def test_children_never_spend_more_than_their_parent(
    vendor: StripeServer, tmp_path_factory: pytest.TempPathFactory, cap: int, children: list[tuple[int, int, bool]], own: int
) -> None:
    """Whatever caps, depths and numbers of calls, from threads at once: each within its own cap, all within the run's, to the dollar."""
    before, url, engine = vendor.total, f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db", Engine(execution="")
    spenders: list[Callable[[], None]] = []
    kids: list[keyguard.Installation] = []

    def enter(rest: list[tuple[int, int, bool]]) -> None:
        """Enter the next child in the one before it, or beside it."""
        if not rest:
            return
        (child_cap, calls, is_nested), *others = rest
        with engine.flow("child"):
            kids.append(keyguard.install(run_usd_cap=child_cap))
            spenders.extend([keyguard.wrap(spend)] * calls)
            if is_nested:
                enter(others)
        if not is_nested:
            enter(others)

    with engine.named(), engine.flow("billing"):
        root = keyguard.install(url, run_usd_cap=cap)
        spenders += [keyguard.wrap(spend)] * own
        enter(children)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda one: one(), spenders))
        usage, figures = root.usage(), [(one.key, one.usage()) for one in kids]
        ledger = open_ledger(url)
        wrong = ledger.verify()
        ledger.shut()
        keyguard.uninstall()
    full = [key.key_id for key, one in figures if one.remaining == 0]

    assert usage.spent == (vendor.total - before) * 10_000 <= cap * USD
    assert all(one.spent <= min(outer.policy.run_usd_cap or 0 for outer in key.chain) for key, one in figures)
    assert usage.remaining == 0 or full or usage.spent == len(spenders) * USD
    assert wrong == []


def spend() -> None:
    """Charge a dollar, where that is allowed."""
    with contextlib.suppress(SpendCapExceeded):
        charge(100)
