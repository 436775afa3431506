"""Ledger contract: the vault keys of proxies, and calls whose caps a proxy judges."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keyguard.errors import ConfigurationError
from keyguard.model import Quote
from keyguard.remote import RemoteKey
from keyguard.testing._contract_base import ContractBase
from keyguard.testing._till import limits

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from keyguard.testing._till import Till

STRIPE = RemoteKey("https://proxy.test", "stripe", "vault_key_first", "k1", 2.5, '{"vendor": "stripe"}', judges=True)


class RemoteContract(ContractBase):
    """Vault keys of proxies."""

    def test_a_proxys_key_is_kept(self, till: Till, other: Ledger) -> None:
        """What one process was given is found whole by the others, by key, run and policy; what nobody was given is not there."""
        twilio = replace(STRIPE, vendor="twilio", token="vault_key_other", expires_at=None, judges=False)
        assert [till.ledger.keep_remote(till.key.key_id, one) for one in (STRIPE, twilio)] == [STRIPE, twilio]

        assert other.remote_keys(key_id=till.key.key_id) == [STRIPE, twilio]
        assert other.remote_keys(run_id=till.key.run_id) == other.remote_keys(policy=till.key.policy_name) == [STRIPE, twilio]
        assert (other.remote_keys(key_id="nobody"), other.remote_keys(run_id="nobody"), other.remote_keys(policy="none")) == ([], [], [])

    def test_of_two_that_ask_at_once_one_key_is_used(self, till: Till, other: Ledger) -> None:
        """The second is told the first one's key; only who names the key that is there puts another in its place."""
        second = replace(STRIPE, token="vault_key_second")
        till.ledger.keep_remote(till.key.key_id, STRIPE)

        assert other.keep_remote(till.key.key_id, second) == STRIPE
        assert other.keep_remote(till.key.key_id, second, instead="vault_key_of_nobody") == STRIPE
        assert other.keep_remote(till.key.key_id, second, instead=STRIPE.token) == second
        assert till.ledger.remote_keys(key_id=till.key.key_id) == [second]

    def test_log_names_the_proxy_and_not_the_token(self, till: Till) -> None:
        """The audit says which proxy has issued a key, and by which handle; the token is in no row."""
        till.ledger.keep_remote(till.key.key_id, STRIPE)
        rows = list(till.ledger.entries())

        assert [row["detail"] for row in rows if row["kind"] == "remote_key"] == [
            {"proxy": "https://proxy.test", "vendor": "stripe", "remote_id": "k1"}
        ]
        assert STRIPE.token not in str(rows)
        assert till.ledger.verify() == []

    def test_nothing_is_kept_for_nobody(self, till: Till) -> None:
        """A key that is not there has none."""
        with pytest.raises(ConfigurationError, match="no key 'nobody'"):
            till.ledger.keep_remote("nobody", STRIPE)


class JudgedElsewhereContract(ContractBase):
    """Calls whose caps a proxy judges."""

    def test_they_pass_every_cap_and_are_counted(self, till: Till) -> None:
        """A cap of the ledger's does not hold for them; what they cost is there, and the log adds up."""
        cap = till.key.policy.run_usd_cap
        assert cap is not None
        orders = [replace(till.order(Quote(cap)), is_capped=False) for _ in range(2)]
        decisions = [till.ledger.reserve(order) for order in orders]
        for order in orders:
            till.settle(order.reservation_id, cap)

        assert [decision.granted for decision in decisions] == [True, True]
        assert till.usage.spent == 2 * cap
        assert not till.ask(1).granted
        assert till.ledger.verify() == []

    def test_their_key_must_be_good(self, till: Till, ledger: Ledger) -> None:
        """A key that was revoked, or whose policy has changed, holds nothing for them either."""
        order = replace(till.order(Quote(1)), is_capped=False)
        stale = replace(order, version=order.version + 1)
        ledger.issue(limits(run_usd_cap=1), "another")
        first = till.ledger.reserve(stale)
        till.ledger.revoke(key_id=till.key.key_id)
        second = till.ledger.reserve(order)

        assert (first.reason, second.reason) == ("stale", "revoked")
        assert till.usage.held == 0
