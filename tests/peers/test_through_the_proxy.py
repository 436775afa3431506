"""The vendors' stand-ins from npm behind `keyguard proxy`: their own count is the ledger's, through the proxy too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
import resend

from tests.peers.test_resend_local import BATCH, MAILS, UNIT
from tests.proxy.support import STRIPE_SECRET, Proxy
from tests.remote.support import behind
from tests.support_node import Missing, node_peer, skip_or_fail
from tests.support_resend_local import resend_local
from tests.support_stripe_cassettes import STATEFUL, STATEFUL_PROGRAM
from tests.support_styles import STYLES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]
USD = 1_000_000


@pytest.mark.parametrize("kind", ["remote", "front"])
def test_resend_locals_count_is_the_ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    """E-mails and a batch by Resend's SDK: the recipients that it has stored are those that were counted."""
    monkeypatch.setattr(resend, "api_key", "re_of_nobody")
    try:
        with (
            resend_local() as local,
            Proxy(tmp_path, local.url) as proxy,
            behind(kind, proxy, tmp_path, run="r1", run_usd_cap=5) as installed,
        ):
            before = local.recipients
            for each in MAILS:
                resend.Emails.send(each)
            resend.Batch.send(BATCH)

            assert installed.usage().spent == (local.recipients - before) * UNIT > 0
    except Missing as missing:
        skip_or_fail(missing)


@pytest.mark.parametrize("style", STYLES)
def test_the_stateful_mocks_count_is_the_ledgers(tmp_path: Path, style: str) -> None:
    """A charge, its replay, a partial capture and a refund, in every style: to the cent."""
    charge = {"amount": 2000, "currency": "usd", "source": "tok_visa"}
    try:
        with (
            node_peer(STATEFUL, ["{port}"], code=STATEFUL_PROGRAM) as peer,
            Proxy(tmp_path, peer.url) as proxy,
            behind("remote", proxy, tmp_path, run="r1", run_usd_cap=60) as installed,
        ):
            post = STYLES[style]("https://api.stripe.com")
            first, again = (post("/v1/charges", charge, "key-1") for _ in range(2))
            kept = post("/v1/charges", {**charge, "capture": False}, None)
            post(f"/v1/charges/{kept['id']}/capture", {"amount": 700}, None)
            post("/v1/refunds", {"charge": first["id"], "amount": 500}, None)
            usage = installed.usage()
            found = httpx.get(f"{peer.url}/v1/charges", auth=(STRIPE_SECRET, ""), trust_env=False).json()["data"]
    except Missing as missing:
        skip_or_fail(missing)

    assert first["id"] == again["id"]
    assert sum(one["amount_captured"] for one in found) * 10_000 == usage.spent == 27 * USD
    assert (usage.refunded, usage.held, usage.doubt) == (5 * USD, 0, 0)
