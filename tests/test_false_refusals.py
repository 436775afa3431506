"""False refusals from bad holds, as other guards have shipped them: each test says what went wrong there, and shows that ours does not."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import stripe

import keyguard
from keyguard.errors import EndpointNotAllowed, UnpricedCall
from keyguard.ledgers._sqlite_lock import ProcessLock
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.testing.double import Fault
from tests.endings import Ask
from tests.endings.clients import CLIENTS
from tests.support_shop import CENT, DAY, Shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Stripe's client hands its body to httpx in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TO_STRIPE = [client for client in CLIENTS if client.kind.name == "stripe"]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Open a shop in which the double is Stripe for raw clients too."""
    with Shop(tmp_path) as opened:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={opened.double.host}")
        yield opened


def test_no_hold_outlives_its_call(shop: Shop) -> None:
    """
    There holds that were never taken back piled up in a counter, and users who had spent nothing were refused (BerriAI/litellm#27639).

    Here nothing is held after any of ten charges, the ledger is the truth, and a cap of ten dollars lets ten of them pass.
    """
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=10)
        for n in range(1, 11):
            shop.charge()

            assert shop.figures() == (shop.truth, 0, 0) == (100 * n, 0, 0)
        assert shop.admitted(1) == 0


@pytest.mark.parametrize("client", TO_STRIPE, ids=lambda client: client.name.replace(" ", "_"))
def test_one_call_that_two_seams_see_is_counted_once(shop: Shop, client: object) -> None:
    """
    There a counter came to a clean multiple of the real spend (BerriAI/litellm PR #29493 tells of it).

    Here an SDK's call passes the SDK's seam and its HTTP library's, and is one call of one dollar.
    """
    one = next(found for found in TO_STRIPE if found is client)
    with keyguard.run("run-1"):
        installed = shop.install(run_usd_cap=1, max_calls=1)
        one.call(Ask(shop.double.url))

    assert shop.figures() == (shop.truth, 0, 0) == (100, 0, 0)
    assert installed.usage().calls == 1


def test_what_is_shown_is_what_is_enforced(shop: Shop) -> None:
    """
    There a key was refused by a stale figure while what was shown of it was below its cap, on one machine (BerriAI/litellm#27735).

    Here, after spending in two handles of the ledger, what `usage()` shows as remaining is admitted, and one cent more is not.
    """
    other = SqliteLedger(shop.path, clock=lambda: shop.now)
    with keyguard.run("run-1"):
        installed = shop.install(run_usd_cap=10)
        for cents in (123, 377):
            shop.charge(cents)
            seen = other.usage("run:run-1")
            assert seen is not None
            assert seen.remaining == installed.usage().remaining == (1000 - shop.truth) * CENT
        assert shop.admitted(1, 501) == 0
        assert shop.admitted(1, 500) == 1

    assert shop.figures() == (shop.truth, 0, 0) == (1000, 0, 0)


def test_one_process_under_load_counts_once(shop: Shop) -> None:
    """
    There the counter was exactly twice the spend, in one process without Redis, under concurrency (BerriAI/litellm#36926).

    Here eight threads, each of which installs again, reach a cap of forty dollars with forty charges.
    """

    def work() -> int:
        with keyguard.run("run-1"):
            shop.install(run_usd_cap=40)
            return shop.admitted(6)

    with ThreadPoolExecutor(8) as pool:
        admitted = sum(future.result() for future in [pool.submit(work) for _ in range(8)])

    assert admitted == 40
    assert shop.figures() == (shop.truth, 0, 0) == (4000, 0, 0)


def test_a_clean_up_that_failed_does_not_count_twice(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """
    There the hold of a clean-up that failed stayed in the counter beside the actual cost (BerriAI/litellm#35569).

    Here the ledger is locked by somebody else when the call is to be closed: the caller has his answer, the dollar stays held,
    and the next call closes it; two dollars let two charges pass.
    """
    shop.double.script(Fault("hold_after"))
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=2)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(keyguard.wrap(shop.charge))
            shop.double.wait_until_held()
            lock = ProcessLock(f"{shop.path}.lock", seconds=1)
            with lock:
                shop.double.release()
                assert answer.result(30).startswith("pi_")
            lock.close()
        assert "could not close" in caplog.text
        assert shop.figures() == (0, 100, 0)
        assert shop.admitted(2) == 1

    assert shop.figures() == (shop.truth, 0, 0) == (200, 0, 0)


def test_what_is_enforced_is_what_is_real(shop: Shop) -> None:
    """
    There 111 dollars were enforced of 56 that were real (BerriAI/litellm#40050).

    Here of a hold of a hundred dollars forty are captured: sixty are free to the cent, and not one cent more.
    """
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=100)
        held = shop.charge(10_000, capture_method="manual")
        assert shop.figures() == (0, 10_000, 0)
        shop.client().v1.payment_intents.capture(held, {"amount_to_capture": 4_000})
        assert shop.figures() == (shop.truth, 0, 0) == (4_000, 0, 0)
        assert shop.admitted(1, 6_001) == 0
        assert shop.admitted(1, 6_000) == 1

    assert shop.figures() == (shop.truth, 0, 0) == (10_000, 0, 0)


@pytest.mark.parametrize("client", TO_STRIPE, ids=lambda client: client.name.replace(" ", "_"))
def test_no_route_forgets_to_carry_its_hold(shop: Shop, client: object) -> None:
    """
    There one route did not hand its hold on, so that none was taken back: refused at 0.4 % of the budget (BerriAI/litellm PR #36592).

    Here, whatever client is used: five declined calls on a cap of one call leave it whole, and then it is spent.
    """
    one = next(found for found in TO_STRIPE if found is client)
    shop.double.script(Fault("decline", times=5))
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=1)
        for _ in range(5):
            with contextlib.suppress(stripe.CardError):
                assert one.call(Ask(shop.double.url)) == 402
            assert shop.figures() == (0, 0, 0)
        assert one.call(Ask(shop.double.url)) == 200

    assert shop.figures() == (shop.truth, 0, 0) == (100, 0, 0)


def test_worst_case_holds_do_not_stay_where_nothing_was_spent(shop: Shop) -> None:
    """
    There a burst of worst-case holds filled a cap of 25 dollars while the spend logs said $0 (BerriAI/litellm PR #38647).

    Here five calls in flight hold the whole cap, all are declined, and the whole cap is there again.
    """
    # Each is held before it is executed, and its card is one that is declined.
    shop.double.script(Fault("hold_before", times=5))
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=5)
        with ThreadPoolExecutor(5) as pool:
            calls = [pool.submit(keyguard.wrap(shop.charge), payment_method="pm_card_chargeDeclined") for _ in range(5)]
            shop.double.wait_until_held(5)
            assert shop.figures() == (0, 500, 0)
            assert shop.admitted(1) == 0
            shop.double.release()
            assert all(isinstance(call.exception(30), stripe.CardError) for call in calls)
        assert shop.figures() == (0, 0, 0)
        assert shop.admitted(6) == 5

    assert shop.figures() == (shop.truth, 0, 0) == (500, 0, 0)


@pytest.mark.parametrize("first", [0, 50, 499, 500])
def test_exactly_the_cap_is_not_above_it(shop: Shop, first: int) -> None:
    """
    There a hold was admitted up to exactly the cap, and another check refused at it, with `>=` (BerriAI/litellm PR #27021).

    Here what fills the cap to the cent passes, in one call or in two, and one cent above it does not.
    """
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=10)
        if first:
            shop.charge(first)
        left = 1000 - shop.truth
        assert shop.admitted(1, left + 1) == 0
        assert shop.admitted(1, left) == 1
        assert shop.admitted(1, 50) == 0
        # What costs nothing is not above the cap either.
        assert shop.client().v1.customers.create({"name": "Ann"}).id.startswith("cus_")

    assert shop.figures() == (shop.truth, 0, 0) == (1000, 0, 0)


def test_there_is_no_switch_that_turns_holds_off(shop: Shop) -> None:
    """
    There a switch that turns holds off was shipped to be rid of false ones (BerriAI/litellm PR #29493).

    Here no setting is called so, and who only observes holds and counts all the same.
    """
    with keyguard.run("run-1"):
        for name in ("reserve", "holds", "reservations", "disable_reservations"):
            with pytest.raises(keyguard.ConfigurationError, match=name):
                shop.install(run_usd_cap=1, **{name: False})
        shop.double.script(Fault("hold_after"))
        shop.install(run_usd_cap=1, mode="observe")
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(keyguard.wrap(shop.charge))
            shop.double.wait_until_held()
            assert shop.figures() == (0, 100, 0)
            shop.double.release()
            call.result(30)

    assert shop.figures() == (shop.truth, 0, 0) == (100, 0, 0)


def test_a_counter_does_not_outlive_its_day(shop: Shop) -> None:
    """
    There a counter was stale after the budget's reset (BerriAI/litellm PR #30001).

    Here the day's cap is whole at midnight UTC in every handle of the ledger, also in one that has refused a moment before.
    """
    shop.now -= shop.now % DAY
    other = SqliteLedger(shop.path, clock=lambda: shop.now)
    with keyguard.run("run-1"):
        shop.install(name="billing", daily_usd_cap=3)
        shop.now += DAY - 1
        assert shop.admitted(4) == 3
        shop.now += 0.5
        assert shop.admitted(1) == 0
        shop.now += 0.5
        today = other.usage("policy:billing")
        assert today is None or today.spent == 0
        assert shop.admitted(4) == 3

    today = other.usage("policy:billing")
    assert today is not None
    assert today.spent == 300 * CENT
    assert shop.truth == 600


def test_a_refused_attempt_consumes_nothing(shop: Shop) -> None:
    """
    There one refused call above the cap used the budget up: 0 of 100 calls were admitted afterwards (tbay, limits, agent-budget-guard-py).

    Here, after refusals of every kind, a hundred calls of a dollar pass: by the run's cap, the day's cap, and a count of a hundred calls.
    """
    with keyguard.run("run-1"):
        installed = shop.install(
            run_usd_cap=100, daily_usd_cap=100, call_usd_cap=150, max_calls=100, allowed_endpoints=["POST /v1/payment_intents"]
        )
        for cents in (10_001, 15_001, 99_999_999):
            with pytest.raises(keyguard.SpendCapExceeded):
                shop.charge(cents)
        with pytest.raises(EndpointNotAllowed):
            shop.client().v1.balance.retrieve()
        with pytest.raises(UnpricedCall):
            shop.client().raw_request("post", "/v1/invented", amount=1)
        assert shop.admitted(101) == 100

    assert shop.figures() == (shop.truth, 0, 0) == (10_000, 0, 0)
    assert installed.usage().calls == 100


def test_a_call_that_was_refused_for_a_hold_passes_when_the_hold_ends(shop: Shop) -> None:
    """
    There one call's hold of the whole headroom refused others even back to back, $2000 capped at $0.144 spent (BerriAI/litellm PR #27509).

    Here a call is refused while another holds the cap; that one is declined, and the same call passes.
    """
    shop.double.script(Fault("hold_before"))
    with keyguard.run("run-1"):
        shop.install(run_usd_cap=1)
        call = threading.Thread(target=keyguard.wrap(_declined), args=(shop,))
        call.start()
        shop.double.wait_until_held()
        with pytest.raises(keyguard.SpendCapExceeded):
            shop.charge(customer="cus_same")
        shop.double.release()
        call.join(30)
        shop.charge(customer="cus_same")

    assert shop.figures() == (shop.truth, 0, 0) == (100, 0, 0)


def _declined(shop: Shop) -> None:
    with pytest.raises(stripe.CardError):
        shop.charge(payment_method="pm_card_chargeDeclined")
