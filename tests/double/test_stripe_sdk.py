"""Stripe's own SDK against the double, without keyguard: its retries, its errors, its paging, sync and async."""

from __future__ import annotations

import asyncio
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import stripe

from keyguard.testing import double as package
from keyguard.testing.double import Fault, VendorDouble
from tests.double.support import KEY, USD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Stripe's client hands its body to httpx in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

PAY: Any = {"amount": 100, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa", "customer": "cus_1"}
STYLES = ("sync", "async")


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[VendorDouble]:
    """A double; the SDK does not wait long between its retries."""
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.001)
    monkeypatch.setattr(stripe.HTTPClient, "MAX_DELAY", 0.002)
    with VendorDouble() as found:
        yield found


@pytest.fixture
def pay(double: VendorDouble) -> Callable[..., Any]:
    """Pay in a style, with so many retries of the SDK's own."""

    def paying(style: str, retries: int = 2, key: str | None = None, timeout: float = 20, **fields: Any) -> Any:
        options: Any = {"idempotency_key": key} if key else {}
        if style == "sync":
            own: stripe.HTTPClient = stripe.RequestsClient(timeout=timeout)
            return _client(double, own, retries).v1.payment_intents.create(PAY | fields, options)

        async def apaying() -> Any:
            own = stripe.HTTPXClient(timeout=timeout)
            try:
                return await _client(double, own, retries).v1.payment_intents.create_async(PAY | fields, options)
            finally:
                await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own

        return asyncio.run(apaying())

    return paying


def _client(double: VendorDouble, own: stripe.HTTPClient, retries: int) -> stripe.StripeClient:
    return stripe.StripeClient(KEY, base_addresses={"api": double.url}, http_client=own, max_network_retries=retries)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["close_before", "reset_before", "close_after", "reset_after", "conflict", "unavailable"])
def test_the_sdks_own_retry_pays_once(double: VendorDouble, pay: Callable[..., Any], style: str, kind: Any) -> None:
    """It sends the same key again: whatever was executed is replayed, whatever was not is executed."""
    double.script(Fault(kind))
    paid = pay(style)

    assert (paid.status, len(double.requests())) == ("succeeded", 2)
    assert double.truth.charged() == USD
    replayed = paid.last_response.headers.get("Idempotent-Replayed")
    assert (replayed == "true") is (kind in {"close_after", "reset_after"})
    assert len({one["headers"]["idempotency-key"] for one in double.requests()}) == 1


@pytest.mark.parametrize(("style", "tries"), [("sync", 1), ("async", 2)])
def test_a_body_that_is_cut_short_is_retried_by_httpx_alone(double: VendorDouble, pay: Callable[..., Any], style: str, tries: int) -> None:
    """The SDK on requests takes it for no error of the connection, and gives up at once; charged it is, once."""
    double.script(Fault("truncate"))
    if tries == 1:
        with pytest.raises(stripe.APIConnectionError):
            pay(style)
    else:
        assert pay(style).last_response.headers["Idempotent-Replayed"] == "true"

    assert (len(double.requests()), double.truth.charged()) == (tries, USD)


@pytest.mark.parametrize("style", STYLES)
def test_an_answer_that_is_lost_each_time_is_charged_once(double: VendorDouble, pay: Callable[..., Any], style: str) -> None:
    """Three tries, one charge, and the SDK's connection error for the caller."""
    double.script(Fault("close_after", times=0))
    with pytest.raises(stripe.APIConnectionError):
        pay(style)

    assert (len(double.requests()), double.truth.charged()) == (3, USD)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("kind", "moved"), [("error_after", USD), ("error_before", 0)])
def test_a_500_stays_a_500_however_often_it_is_retried(
    double: VendorDouble, pay: Callable[..., Any], style: str, kind: Any, moved: int
) -> None:
    """Stripe keeps it under the key: the retries see the replay, and cannot tell whether money moved."""
    double.script(Fault(kind))
    with pytest.raises(stripe.APIError) as failed:
        pay(style)

    assert (failed.value.http_status, (failed.value.headers or {})["Idempotent-Replayed"]) == (500, "true")
    assert (len(double.requests()), double.truth.charged()) == (3, moved)


@pytest.mark.parametrize("style", STYLES)
def test_a_timeout_is_not_the_end_of_the_charge(double: VendorDouble, pay: Callable[..., Any], style: str) -> None:
    """The client gives up while the vendor has not begun; later it executes all the same, and the key tells."""
    double.script(Fault("hold_before"))
    with pytest.raises(stripe.APIConnectionError):
        pay(style, retries=0, key="late", timeout=0.3)
    assert double.truth.charged() == 0

    double.wait_until_held()
    double.release()
    double.wait_until_quiet()
    assert double.truth.charged() == USD
    assert pay(style, key="late").last_response.headers["Idempotent-Replayed"] == "true"
    assert double.truth.executions_of("late") == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("decline"), stripe.CardError),
        (Fault("rate_limit"), stripe.RateLimitError),
        (Fault("conflict", times=0), stripe.APIError),
        (Fault("unavailable", times=0), stripe.APIError),
    ],
)
def test_refusals_are_the_sdks_own_errors(double: VendorDouble, pay: Callable[..., Any], fault: Fault, error: type[Exception]) -> None:
    """Each status becomes the class that Stripe's users catch; nothing was charged."""
    double.script(fault)
    with pytest.raises(error):
        pay("sync", retries=1)

    assert double.truth.charged() == 0


def test_a_key_with_other_parameters_is_an_idempotency_error(double: VendorDouble, pay: Callable[..., Any]) -> None:
    """Stripe's own class for it."""
    pay("sync", key="k")
    with pytest.raises(stripe.IdempotencyError):
        pay("sync", key="k", amount=200)

    assert double.truth.charged() == USD


def test_a_wrong_key_is_an_authentication_error(double: VendorDouble) -> None:
    """401, and nothing charged."""
    with pytest.raises(stripe.AuthenticationError):
        stripe.StripeClient("sk_live_1", base_addresses={"api": double.url}).v1.payment_intents.create(PAY)

    assert double.truth.rows() == []


def test_the_sdk_walks_through_all_pages(double: VendorDouble, pay: Callable[..., Any]) -> None:
    """Auto-paging sees each event once, and finds by its key what a lost answer has done."""
    for n in range(4):
        pay("sync", key=f"k-{n}")
    client = _client(double, stripe.RequestsClient(), 0)
    events = list(client.v1.events.list({"limit": 2, "type": "payment_intent.succeeded"}).auto_paging_iter())

    keys = [event.request.idempotency_key for event in events if event.request is not None]
    assert keys == ["k-3", "k-2", "k-1", "k-0"]
    assert client.v1.payment_intents.retrieve(events[0].data.object["id"]).status == "succeeded"
    assert len(list(client.v1.charges.list({"limit": 3, "customer": "cus_1"}).auto_paging_iter())) == 4


def test_the_packages_example_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines in its docstring run as they stand."""
    for name in ("api_base", "api_key"):
        monkeypatch.setattr(stripe, name, getattr(stripe, name))
    lines = textwrap.dedent("\n".join(line for line in str(package.__doc__).splitlines() if line.startswith("    ")))

    assert "assert" in lines
    exec(lines, {**vars(package), "stripe": stripe})  # noqa: S102 -- our own docstring


def test_a_crowd_with_faults_is_counted_to_the_cent(double: VendorDouble, pay: Callable[..., Any]) -> None:
    """Fifty threads, a third of the answers lost, retries of the SDK's own: each key charges once, and the file says how much."""
    double.script(Fault("close_after", times=0, chance=0.3, seed=1), Fault("close_before", times=0, chance=0.2, seed=2))

    def one(n: int) -> bool:
        try:
            pay("sync", retries=8, key=f"crowd-{n}", amount=100 + n)
        except stripe.APIConnectionError:
            return False
        return True

    with ThreadPoolExecutor(50) as pool:
        paid = [n for n, done in zip(range(100), pool.map(one, range(100)), strict=True) if done]

    charged = double.truth.charges_by("key")
    assert set(charged.values()) == {1}
    assert {f"crowd-{n}" for n in paid} <= set(charged)
    assert double.truth.charged() == sum((100 + int(key.removeprefix("crowd-"))) * 10_000 for key in charged)
    assert double.struck() > 30
