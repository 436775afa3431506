"""The pure rules: allowlists, per-call caps, which budgets a call touches, and the words of a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard import policy
from keyguard.errors import EndpointNotAllowed, KeyExpired, KeyRevoked, Refused, SpendCapExceeded, UnknownKey, UnpricedCall
from keyguard.model import Call, Decision, Leg, Operation, Policy, Quote, VaultKey

USD = 1_000_000
CREATE = Operation("payment_intents.create")


def _key(run_id: str | None = "run 1", **fields: Any) -> VaultKey:
    return VaultKey("k1", "vault_key_k1_x", Policy(name="billing", **fields), run_id)


def _call(method: str = "POST", path: str = "/v1/payment_intents") -> Call:
    return Call("stripe", method, "https", "api.stripe.com", path)


@pytest.mark.parametrize(
    ("item", "method", "path", "allowed"),
    [
        ("POST /v1/payment_intents", "POST", "/v1/payment_intents", True),
        ("POST /v1/payment_intents", "GET", "/v1/payment_intents", False),
        ("POST /v1/payment_intents", "POST", "/v1/payment_intents/pi_1", False),
        ("POST /v1/payment_intents", "POST", "/v1/payment_intents2", False),
        ("post /v1/payment_intents", "POST", "/v1/payment_intents", True),
        ("GET /v1/customers/*", "GET", "/v1/customers/cus_1", True),
        ("GET /v1/customers/*", "GET", "/v1/customers", False),
        ("GET /v1/customers/*", "GET", "/v1/customers/cus_1/sources", False),
        ("GET /v1/customers/**", "GET", "/v1/customers/cus_1/sources/src_1", True),
        ("GET /v1/customers/**", "GET", "/v1/charges", False),
        ("GET /v1/customers/**", "GET", "/v1/customers", False),
        ("* /**", "GET", "", True),
        ("* /**", "GET", "/", True),
        ("GET /*", "GET", "", False),
        ("* /v1/payment_intents", "GET", "/v1/payment_intents", True),
        ("GET /v1/*.pdf", "GET", "/v1/xpdf", False),
        ("stripe:POST /v1/payment_intents", "POST", "/v1/payment_intents", True),
        ("twilio:POST /v1/payment_intents", "POST", "/v1/payment_intents", False),
        ("payment_intents.create", "POST", "/v1/payment_intents", True),
        ("stripe:payment_intents.create", "POST", "/v1/payment_intents", True),
        ("payment_intents.*", "POST", "/v1/payment_intents", True),
        ("charges.create", "POST", "/v1/payment_intents", False),
    ],
)
def test_an_allowlist_item_matches_exactly_what_it_says(item: str, method: str, path: str, allowed: bool) -> None:
    """`*` is one segment, `**` any number, the method and the vendor prefix must agree; nothing matches by prefix."""
    found = policy.is_allowed(Policy(allowed_endpoints=(item,)), _call(method, path), CREATE)

    assert found is allowed


def test_no_list_allows_everything_and_an_empty_list_nothing() -> None:
    """`None` means no restriction; a list without items refuses each call."""
    assert policy.is_allowed(Policy(), _call(), CREATE)
    assert not policy.is_allowed(Policy(allowed_endpoints=()), _call(), CREATE)


def test_an_endpoint_refusal_names_what_was_tried_and_what_is_allowed() -> None:
    """The message has method, path and the list, so that the reader can mend the policy."""
    with pytest.raises(EndpointNotAllowed, match=r"POST /v1/payment_intents .*Allowed: GET /v1/customers/\*") as error:
        policy.check_endpoint(_key(allowed_endpoints=("GET /v1/customers/*",)), _call(), CREATE)

    assert (error.value.key_id, error.value.run_id, error.value.operation) == ("k1", "run 1", "payment_intents.create")


def test_a_vendor_restriction_refuses_other_vendors() -> None:
    """A key for one vendor pays for no other."""
    with pytest.raises(EndpointNotAllowed, match="any twilio endpoint"):
        policy.check_endpoint(_key(vendor="twilio"), _call(), CREATE)


@pytest.mark.parametrize(("unpriced", "amount"), [("allow", 0), (0.5, 500_000)])
def test_unpriced_says_what_an_unknown_write_counts(unpriced: Any, amount: int) -> None:
    """`allow` counts nothing, an amount counts flat."""
    assert policy.unpriced_quote(_key(unpriced=unpriced), _call(), CREATE, None) == Quote(amount)


def test_unpriced_refuses_by_default() -> None:
    """The default refuses, and says what would let the call through."""
    with pytest.raises(UnpricedCall, match="unpriced='allow'"):
        policy.unpriced_quote(_key(), _call(), CREATE, None)


def test_the_call_cap_is_inclusive_and_does_not_touch_refunds() -> None:
    """Exactly the cap passes, one micro-dollar more does not; refunds of own charges have a cap of their own."""
    key = _key(call_usd_cap=10)
    policy.check_call_cap(key, CREATE, Quote(10 * USD))
    policy.check_call_cap(key, CREATE, Quote(11 * USD, pot="refund"))
    with pytest.raises(SpendCapExceeded) as error:
        policy.check_call_cap(key, CREATE, Quote(10 * USD + 1))

    assert (error.value.scope, error.value.cap, error.value.requested) == ("call", 10 * USD, 10 * USD + 1)


def test_legs_name_every_budget_a_call_touches() -> None:
    """Charges draw on run, day and count; refunds of own charges on the refund pot and the count only."""
    key = _key(daily_usd_cap=5, max_calls=3)
    charge, refund = policy.legs(key, Quote(1)), policy.legs(key, Quote(1, pot="refund"))

    assert charge == (Leg("run:run 1"), Leg("policy:billing", per="day"), Leg("calls:run:run 1", unit="call"))
    assert refund == (Leg("refund:run:run 1"), Leg("calls:run:run 1", unit="call"))
    assert policy.legs(_key(run_id=None), Quote(1)) == (Leg("key:k1"), Leg("calls:key:k1", unit="call"))


@pytest.mark.parametrize(
    ("scope", "unit", "says"),
    [
        ("run:run 1", "usd", r"run_usd_cap of run run 1: cap \$500\.00, \$480\.00 spent.*keyguard raise --run 'run 1' --to 530$"),
        ("policy:billing", "usd", "daily_usd_cap of policy 'billing'.*opens again at 2026-11-24 00:00:00Z"),
        ("refund:run:run 1", "usd", "refund cap of run run 1.*refund_usd_cap"),
        ("calls:run:run 1", "call", "max_calls of run run 1: cap 500000000 calls"),
    ],
)
def test_a_cap_refusal_has_the_numbers_and_the_next_step(scope: str, unit: Any, says: str) -> None:
    """Each budget's refusal names itself, its figures and what to type or change."""
    decision = Decision(
        granted=False, reason="cap_exceeded", scope=scope, unit=unit, cap=500 * USD, spent=480 * USD, held=10 * USD, doubt=0,
        requested=40 * USD, resets_at=1_795_478_400.0 if scope.startswith("policy") else None,
    )  # fmt: skip
    error = policy.refusal(decision, _key(), CREATE)

    assert isinstance(error, SpendCapExceeded)
    assert error.remaining == 10 * USD
    with pytest.raises(SpendCapExceeded, match=says):
        raise error


def test_a_key_without_a_run_is_told_to_issue_a_larger_one() -> None:
    """There is no `raise --run` for a key that has no run."""
    error = policy.refusal(Decision(granted=False, reason="cap_exceeded", scope="key:k1"), _key(run_id=None), CREATE)

    assert "issue a key with a larger run_usd_cap" in str(error)


@pytest.mark.parametrize(
    ("reason", "kind", "says"),
    [
        ("revoked", KeyRevoked, "was revoked"),
        ("closed", KeyRevoked, "was closed"),
        ("expired", KeyExpired, "keyguard raise --run"),
        ("unknown_key", UnknownKey, "not in this ledger"),
        ("duplicate", Refused, "duplicate"),
    ],
)
def test_every_other_reason_has_its_error(reason: Any, kind: type[Refused], says: str) -> None:
    """Revoked, closed, expired and unknown keys refuse with their own class, and nothing was sent."""
    error = policy.refusal(Decision(granted=False, reason=reason), _key(), CREATE)

    assert type(error) is kind
    assert says in str(error)
    assert error.key_id == "k1"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/contacts/steve@example.com", "/contacts/*"),
        ("/inboxes/steve%40example.com/threads", "/inboxes/*/threads"),
        ("/v2/PhoneNumbers/+15558675310", "/v2/PhoneNumbers/*"),
        ("/v1/customers/cus_12345678", "/v1/customers/cus_12345678"),
        ("/2010-04-01/Accounts", "/2010-04-01/Accounts"),
    ],
)
def test_no_address_or_number_of_a_path_is_in_a_message(path: str, shown: str) -> None:
    """Who would have been written to or looked up is not said; other ids are, because they help."""
    with pytest.raises(EndpointNotAllowed) as error:
        policy.check_endpoint(_key(allowed_endpoints=("POST /x",)), _call("GET", path), CREATE)

    assert str(error.value).startswith(f"GET {shown} (")
