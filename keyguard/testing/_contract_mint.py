"""Ledger contract: tokens for those who do not have the ledger, and what an administrator of keys asks besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyguard.errors import ConfigurationError
from keyguard.testing._contract_base import ContractBase, forged
from keyguard.testing._till import limits

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from keyguard.testing._till import Till


class MintContract(ContractBase):
    """Tokens for those who do not have the ledger."""

    def test_minted_token_leads_to_its_key(self, till: Till, other: Ledger) -> None:
        """Each token that was minted is found on every handle; none has anything of another, or of the key's own."""
        tokens = [till.ledger.mint(till.key.key_id, by="ada") for _ in range(2)]

        assert [other.key(minted=token) for token in tokens] == [till.key] * 2
        assert len({*tokens, till.key.token}) == 3
        assert all(token.startswith("vault_key_") and till.key.key_id not in token for token in tokens)

    def test_minted_and_own_tokens_are_apart(self, till: Till) -> None:
        """A key's own token is none that was minted, nor the other way round; a guess is neither."""
        token = till.ledger.mint(till.key.key_id, by="ada")

        assert (till.ledger.key(minted=till.key.token), till.ledger.key(token=token)) == (None, None)
        assert [till.ledger.key(minted=guess) for guess in (*forged(token), "", "vault_key_", "\udcff")] == [None] * 6

    def test_log_says_who_asked_for_a_token_and_not_which(self, till: Till) -> None:
        """The audit has a row for each token, with who asked; the token is in none."""
        token = till.ledger.mint(till.key.key_id, by="ada")
        rows = list(till.ledger.entries())

        assert [(row["key_id"], row["detail"]) for row in rows if row["kind"] == "mint"] == [(till.key.key_id, {"by": "ada"})]
        assert token.removeprefix("vault_key_") not in str(rows)
        assert till.ledger.verify() == []

    def test_nothing_is_minted_for_nobody(self, till: Till) -> None:
        """A key that is not there gets no token."""
        with pytest.raises(ConfigurationError, match="no key 'nobody'"):
            till.ledger.mint("nobody", by="ada")

    def test_revoke_by_label(self, ledger: Ledger) -> None:
        """Every key of a label ends, and no other."""
        keys = [ledger.issue(limits(run_usd_cap=1, agent_run_label=label), None)[0] for label in ("a/1", "a/1", "a/2", "A/1")]

        assert (ledger.revoke(label="a/1"), ledger.revoke(label="a")) == (2, 0)
        found = [ledger.key(key_id=key.key_id) for key in keys]
        assert [key.state for key in found if key is not None] == ["revoked", "revoked", "active", "active"]

    def test_raise_of_a_key_without_a_run(self, ledger: Ledger) -> None:
        """A key that has a budget of its own is raised by its own name."""
        key, other = (ledger.issue(limits(run_usd_cap=1), None)[0] for _ in range(2))
        raised = ledger.raise_cap(None, 5, by="ada", key_id=key.key_id)
        usage, untouched = ledger.usage(raised.scope), ledger.usage(other.scope)

        assert usage is not None
        assert untouched is not None
        assert (raised.key_id, usage.cap, untouched.cap) == (key.key_id, 5, 1)
        with pytest.raises(ConfigurationError, match="no key 'nobody'"):
            ledger.raise_cap(None, 5, by="ada", key_id="nobody")

    def test_log_from_a_row_on(self, till: Till) -> None:
        """The log is read from behind any row, so that a reader goes on where it stopped."""
        till.settle(till.hold(5), 5)
        rows = list(till.ledger.entries())

        assert list(till.ledger.entries(after=rows[1]["seq"])) == rows[2:]
        assert list(till.ledger.entries(till.key.scope, after=rows[-1]["seq"])) == []
