"""A proxy that dies with calls on the wire: what its clients are told, what stays counted, and that nothing is charged twice."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import stripe

import keyguard
from keyguard.errors import ProxyUnavailable, SpendCapExceeded
from keyguard.testing.double import Fault, VendorDouble
from tests.proxy.support import PAY, USD, Proxy
from tests.remote.support import armed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def double() -> Iterator[VendorDouble]:
    """The vendors."""
    with VendorDouble() as found:
        yield found


@pytest.mark.parametrize("kind", ["remote", "front"])
def test_a_proxy_killed_in_mid_flight_charges_once(double: VendorDouble, tmp_path: Path, kind: Any) -> None:
    """Killed while the vendor executes, it leaves a doubt; away, nothing is sent; back, the retry is the same charge, and the cap holds."""
    with Proxy(tmp_path, double.url) as proxy:
        with armed(kind, double, proxy, tmp_path, run_usd_cap=5) as world:
            client = world.stripe().v1.payment_intents
            double.script(Fault("hold_after", vendor="stripe"))
            ended: list[BaseException] = []

            def paying() -> None:
                try:
                    client.create(PAY)
                except stripe.StripeError as error:
                    ended.append(error)

            thread = threading.Thread(target=keyguard.wrap(paying))
            thread.start()
            double.wait_until_held()
            proxy.kill()
            thread.join(60)
            with pytest.raises(ProxyUnavailable):
                client.create({**PAY, "description": "meanwhile"})
            double.release()
            double.wait_until_quiet()
            with proxy:
                doubts = keyguard.doubts.listed()
                with world.again():
                    client.create(PAY)
                client.create({**PAY, "description": "another"})
                with pytest.raises(SpendCapExceeded):
                    client.create({**PAY, "description": "too much"})
                keyguard.doubts.reconcile()
                totals = world.totals
                (shown,) = [key for key in proxy.ask("GET", "/vault/keys").json()["keys"] if kind == "front" or key["run_id"] == world.run]

        assert [type(error).__name__ for error in ended] == ["APIConnectionError"]
        assert [doubt.amount for doubt in doubts] == [2 * USD]
        assert double.truth.charged() == 4 * USD
        assert (totals["spent"], totals["held"], totals["doubt"]) == (4 * USD, 0, 0)
        assert shown["spent_usd"] + shown["in_doubt_usd"] == 4
