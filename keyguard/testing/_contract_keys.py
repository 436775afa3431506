"""Ledger contract: keys, their policies in force, narrowing and raising, revocation, expiry, versions, tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from keyguard.errors import ConfigurationError
from keyguard.model import Quote
from keyguard.testing._contract_base import NOON, ContractBase, forged
from keyguard.testing._till import NAME, limits, open_till, parts

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from keyguard.model import Ending
    from keyguard.testing._contract_base import Clock
    from keyguard.testing._till import Till


class IssueContract(ContractBase):
    """What `issue` gives, and which cap is in force."""

    def test_same_run_finds_its_key_and_its_money(self, till: Till, other: Ledger) -> None:
        """An equal second issue, on any handle, is the same key with the same spent money."""
        till.settle(till.hold(60), 60)
        key, warnings = other.issue(limits(run_usd_cap=100), "run-1")

        assert (key, warnings) == (till.key, ())
        assert not replace(till, ledger=other).ask(41).granted

    def test_narrower_issue_narrows(self, till: Till) -> None:
        """The least asked holds, under the same key with a new version."""
        before = till.key
        key, _ = till.ledger.issue(limits(run_usd_cap=40), "run-1")

        assert (key.key_id, key.token, key.policy.run_usd_cap, key.version > before.version) == (before.key_id, before.token, 40, True)
        assert not till.ask(41).granted
        assert till.ask(40).granted

    def test_wider_issue_is_ignored_with_a_warning(self, till: Till) -> None:
        """Asking for more leaves what is in force and says so."""
        before = till.key
        key, warnings = till.ledger.issue(limits(run_usd_cap=101), "run-1")

        assert replace(key, version=before.version) == before
        assert (len(warnings) >= 1, till.ask(101).granted) == (True, False)

    def test_new_limit_beside_the_old_ones_narrows(self, till: Till) -> None:
        """A limit where there was none is narrower."""
        till.ledger.issue(limits(run_usd_cap=100, max_calls=1), "run-1")
        till.hold(1)

        assert till.ask(1).scope == "calls:run:run-1"

    def test_key_without_a_run_is_always_new(self, ledger: Ledger) -> None:
        """Keys that travel have a budget of their own each."""
        first, second = (ledger.issue(limits(run_usd_cap=100), None)[0] for _ in range(2))

        assert first.key_id != second.key_id
        assert (first.scope, first.run_id) == (f"key:{first.key_id}", None)
        assert ledger.usage(second.scope) is not None

    def test_key_is_found_by_each_of_its_names(self, till: Till, other: Ledger) -> None:
        """Token, key id and run id lead to the same key on every handle."""
        key = till.key

        assert other.key(token=key.token) == key
        assert other.key(key_id=key.key_id) == key
        assert other.key(run_id="run-1") == key

    def test_unknown_names_find_nothing(self, till: Till) -> None:
        """A name nobody issued is None, whichever name it is."""
        ledger = till.ledger

        assert [ledger.key(token=token) for token in ("vault_key_unknown", "")] == [None] * 2
        assert (ledger.key(key_id="nobody"), ledger.key(run_id="nobody")) == (None, None)

    def test_forged_token_finds_nothing(self, till: Till) -> None:
        """A token that differs in one character is nobody's."""
        assert [till.ledger.key(token=token) for token in forged(till.key.token)] == [None] * 3

    def test_log_does_not_hold_the_token(self, till: Till) -> None:
        """The audit log can be shown to people: no row of it has the token."""
        till.settle(till.hold(5), 5)
        token = till.key.token

        assert token.startswith("vault_key_")
        assert not any(token in str(row) for row in till.ledger.entries())

    def test_policy_comes_back_whole(self, ledger: Ledger) -> None:
        """Every field of a policy survives the ledger."""
        fields: dict[str, Any] = {
            "vendor": "stripe", "run_usd_cap": 100, "daily_usd_cap": 200, "call_usd_cap": 50, "refund_usd_cap": 0, "max_calls": 7,
            "allowed_endpoints": ("POST /v1/payment_intents", "stripe:customers.*"), "expires_in": 3600.0,
            "agent_run_label": "nightly", "mode": "enforce", "unpriced": 25, "secret": "env:STRIPE_SECRET_KEY",
        }  # fmt: skip
        policy = limits(**fields)
        ledger.issue(policy, "run-1")
        found = ledger.key(run_id="run-1")

        assert found is not None
        assert found.policy.model_dump() == policy.model_dump()
        assert (found.policy_name, found.expires_at) == (NAME, NOON + 3600)


class RaiseContract(ContractBase):
    """A human's decision about a run's cap."""

    def test_raise_lets_the_run_go_on(self, till: Till, other: Ledger) -> None:
        """A raised cap is in force on every handle, under the same key and token."""
        till.hold(100)
        before = till.key
        key = till.ledger.raise_cap("run-1", 150, by="ada")

        assert (key.key_id, key.token, key.policy.run_usd_cap, key.version > before.version) == (before.key_id, before.token, 150, True)
        assert replace(till, ledger=other, prefix="other-").ask(50).granted
        assert not till.ask(1).granted

    def test_raise_survives_an_equal_issue(self, till: Till) -> None:
        """A resumed run does not undo a raise: its issue equals the earlier one."""
        raised = till.ledger.raise_cap("run-1", 150, by="ada")
        key, warnings = till.ledger.issue(limits(run_usd_cap=100), "run-1")

        assert (key, warnings) == (raised, ())

    def test_raise_survives_a_narrower_issue(self, till: Till) -> None:
        """The last word of a human is in force, whatever the run's code asks afterwards."""
        till.ledger.raise_cap("run-1", 150, by="ada")
        key, _ = till.ledger.issue(limits(run_usd_cap=40), "run-1")

        assert key.policy.run_usd_cap == 150
        assert till.ask(150).granted

    def test_cap_can_be_lowered_below_what_is_spent(self, till: Till) -> None:
        """A lowered cap stops the run and takes nothing back."""
        till.settle(till.hold(60), 60)
        till.ledger.raise_cap("run-1", 50, by="ada")

        assert not till.ask(1).granted
        assert (till.usage.cap, till.usage.spent, till.usage.remaining) == (50, 60, 0)

    def test_raise_is_in_the_log(self, till: Till) -> None:
        """The log says who raised."""
        till.ledger.raise_cap("run-1", 150, by="ada.lovelace")

        assert any("ada.lovelace" in str(row) for row in till.ledger.entries("run:run-1"))

    def test_raise_renews_expiry(self, ledger: Ledger, clock: Clock) -> None:
        """After a raise the key lives its whole time again."""
        till = open_till(ledger, run_usd_cap=100, expires_in=3600.0)
        clock.now += 3601

        assert till.ask(1).reason == "expired"
        assert ledger.raise_cap("run-1", 100, by="ada").expires_at == NOON + 7201
        assert till.ask(1).granted

    def test_raise_of_an_unknown_run_says_so(self, ledger: Ledger) -> None:
        """A mistyped run is an error, not a new budget."""
        with pytest.raises(ConfigurationError, match="nobody"):
            ledger.raise_cap("nobody", 100, by="ada")


class RevokeContract(ContractBase):
    """The end of a key, and what may still be closed after it."""

    @pytest.mark.parametrize("target", ["key_id", "run_id", "policy"])
    def test_revoke_reaches_every_handle(self, till: Till, other: Ledger, target: str) -> None:
        """Once a revoke has returned, another handle refuses, by whichever name it was revoked."""
        names: dict[str, Any] = {"key_id": till.key.key_id, "run_id": "run-1", "policy": NAME}
        elsewhere, stale = replace(till, ledger=other, prefix="other-"), till.key
        elsewhere.hold(1)

        assert till.ledger.revoke(**{target: names[target]}, by="ada") == 1
        assert other.reserve(elsewhere.order(Quote(1), key=stale)).reason in {"revoked", "stale"}
        assert (elsewhere.ask(1).reason, elsewhere.key.state) == ("revoked", "revoked")

    def test_revoke_leaves_the_others_alone(self, till: Till) -> None:
        """Another run goes on, and a target nobody has revokes nothing."""
        neighbour = open_till(till.ledger, "run-2", name="another", run_usd_cap=100)
        till.ledger.revoke(run_id="run-1")

        assert neighbour.ask(100).granted
        assert till.ledger.revoke(run_id="nobody") == 0

    def test_revoking_a_policy_revokes_all_its_runs(self, till: Till) -> None:
        """Every key of the policy's name ends."""
        second = open_till(till.ledger, "run-2", run_usd_cap=100)

        assert till.ledger.revoke(policy=NAME) == 2
        assert (till.ask(1).reason, second.ask(1).reason) == ("revoked", "revoked")

    def test_issue_does_not_revive_a_revoked_run(self, till: Till) -> None:
        """The same run finds its revoked key, and is still refused."""
        till.ledger.revoke(run_id="run-1")
        key, _ = till.ledger.issue(limits(run_usd_cap=100), "run-1")

        assert key.state == "revoked"
        assert till.ask(1).reason == "revoked"

    def test_end_of_a_key_is_the_reason_even_where_nothing_fits(self, ledger: Ledger) -> None:
        """A revoked run at its day cap is refused as revoked: raising a cap would not help it."""
        till = open_till(ledger, run_usd_cap=100, daily_usd_cap=50, max_calls=1)
        till.hold(50)
        ledger.revoke(run_id="run-1")

        assert till.ask(1).reason == "revoked"

    def test_closed_by_its_owner_is_another_word(self, till: Till) -> None:
        """A key that its owner closed refuses as closed."""
        till.ledger.revoke(run_id="run-1", state="closed")

        assert (till.key.state, till.ask(1).reason) == ("closed", "closed")

    @pytest.mark.parametrize("end", ["revoked", "closed", "expired"])
    @pytest.mark.parametrize(("ending", "expected"), [("settled", (40, 0, 0)), ("released", (0, 0, 0)), ("doubt", (0, 0, 60))])
    def test_what_was_on_the_wire_can_be_closed(
        self, ledger: Ledger, clock: Clock, end: Literal["revoked", "closed", "expired"], ending: Ending, expected: tuple[int, int, int]
    ) -> None:
        """After the end of a key no new hold is granted and every old one can still be told its truth."""
        till = open_till(ledger, run_usd_cap=100, expires_in=3600.0)
        reservation = till.hold(60)
        if end == "expired":
            clock.now += 3601
        else:
            ledger.revoke(run_id="run-1", state=end)

        assert till.ask(1).reason == end
        close = {"settled": lambda: till.settle(reservation, 40), "released": lambda: till.release(reservation)}
        assert parts(close.get(ending, lambda: till.doubt(reservation))()) == expected
        assert parts(till.usage) == expected

    def test_key_is_good_until_it_expires(self, ledger: Ledger, clock: Clock) -> None:
        """One second before its end a key still pays."""
        till = open_till(ledger, run_usd_cap=100, expires_in=3600.0)
        clock.now += 3599

        assert till.ask(1).granted

    def test_decision_under_an_older_version_is_stale(self, till: Till) -> None:
        """Who decided before the policy changed must read the key again; nothing was booked."""
        before = till.key
        till.ledger.issue(limits(run_usd_cap=40), "run-1")
        decision = till.ledger.reserve(till.order(Quote(10), key=before))

        assert (decision.granted, decision.reason, parts(till.usage)) == (False, "stale", (0, 0, 0))
        assert till.ask(10).granted

    def test_key_that_was_never_issued_is_unknown(self, till: Till) -> None:
        """An order in the name of a key of another ledger is refused."""
        order = till.order(Quote(1), key=replace(till.key, key_id="key-of-another-ledger"))

        assert till.ledger.reserve(order).reason == "unknown_key"
