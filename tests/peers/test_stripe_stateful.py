"""stripe-stateful-mock, which executes, declines, fails and replays as Stripe does: its own count is the ledger's, in every style."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

import keyguard
from tests.support_node import Missing, Peer, node_peer, skip_or_fail
from tests.support_stripe_cassettes import STATEFUL, STATEFUL_PROGRAM
from tests.support_styles import SECRET, STYLES, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]

USD = 1_000_000


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """A fresh server, guarded like Stripe's own host."""
    try:
        with node_peer(STATEFUL, ["{port}"], code=STATEFUL_PROGRAM) as found:
            monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={found.host}")
            yield found
    except Missing as missing:
        skip_or_fail(missing)
    finally:
        keyguard.uninstall()


def _truth(peer: Peer) -> tuple[int, int, int]:
    """Return what the vendor says: charged, given back, and how many charges were made, failed ones among them; in micro-USD."""
    found = httpx.get(f"{peer.url}/v1/charges", params={"limit": 100}, auth=(SECRET, "")).raise_for_status().json()["data"]
    paid = [charge for charge in found if charge["status"] == "succeeded" and charge["captured"]]
    captured = sum(charge["amount_captured"] for charge in paid)
    # What a partial capture lets go of is in `amount_refunded` too.
    released = sum(charge["amount"] - charge["amount_captured"] for charge in paid)
    return captured * 10_000, (sum(charge["amount_refunded"] for charge in paid) - released) * 10_000, len(found)


@pytest.mark.parametrize("style", STYLES)
def test_the_vendors_count_is_the_ledgers(peer: Peer, style: str) -> None:
    """Charges, a partial capture, a decline, a server's failure, a replay, refunds and a refusal: to the cent, after each step."""
    post = STYLES[style](peer.url)
    charge = {"amount": 2000, "currency": "usd", "source": "tok_visa"}
    installed = keyguard.install("sqlite://", run_usd_cap=60)

    first = post("/v1/charges", charge, "key-1")
    again = post("/v1/charges", charge, "key-1")
    assert (again["id"], installed.usage().spent, _truth(peer)) == (first["id"], 20 * USD, (20 * USD, 0, 1))

    kept = post("/v1/charges", {**charge, "capture": False}, None)
    assert (installed.usage().spent, installed.usage().held) == (20 * USD, 20 * USD)
    post(f"/v1/charges/{kept['id']}/capture", {"amount": 700}, None)
    assert (installed.usage().spent, installed.usage().held, _truth(peer)[0]) == (27 * USD, 0, 27 * USD)

    assert status_of(lambda: post("/v1/charges", {**charge, "source": "tok_chargeDeclined"}, None)) == 402
    assert (installed.usage().held, installed.usage().doubt, _truth(peer)[0]) == (0, 0, installed.usage().spent)
    assert status_of(lambda: post("/v1/charges", {**charge, "source": "tok_500"}, None)) == 500
    assert (installed.usage().held, installed.usage().doubt, _truth(peer)[0]) == (0, 20 * USD, installed.usage().spent)

    post("/v1/refunds", {"charge": first["id"], "amount": 300}, None)
    post("/v1/refunds", {"charge": first["id"]}, None)
    assert (installed.usage().refunded, _truth(peer)[1]) == (20 * USD, 20 * USD)

    made = _truth(peer)[2]
    with pytest.raises(keyguard.SpendCapExceeded) as refused:
        post("/v1/charges", charge, None)

    assert (refused.value.remaining, _truth(peer)[2], _truth(peer)[0]) == (13 * USD, made, installed.usage().spent)
