"""The values and the readers of user input: what they take, what they refuse, and what they never repeat."""

from __future__ import annotations

import dataclasses
import decimal
import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from keyguard import model
from keyguard.model import Call, Policy, Usage, VaultKey, check_endpoint, show, to_money, to_seconds, to_usd

BAD_AMOUNTS: list[Any] = [
    -1, -0.01, "-5", math.nan, "nan", "sNaN", math.inf, -math.inf, "Infinity", Decimal("NaN"), "", " ", "a lot", "5 USD", "1,000", "$$5",
    "0x10", None, True, False, [5], {"usd": 5}, b"5", 5j, 10**9 + 1, 10**400, "1e10", 1e300, 0.1234567, "0.0000001", 1e-320, "1e-999999999",
    "500.00000000000000000000000000000001", "1." + "0" * 80 + "1",
]  # fmt: skip
micros = st.integers(min_value=0, max_value=10**15)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(500, 500_000_000), (0, 0), (0.1, 100_000), (19.99, 19_990_000), ("19.99", 19_990_000), (" $1_000 ", 1_000_000_000), ("1e3", 10**9),
     (Decimal("0.000001"), 1), ("1." + "0" * 80, 1_000_000), (10**9, 10**15), (-0.0, 0)],
)  # fmt: skip
def test_money_is_read_exactly(value: object, expected: int) -> None:
    """Dollars become micro-USD without rounding, from each type that people write them in."""
    found = to_money(value)

    assert (found, type(found)) == (expected, int)


@pytest.mark.parametrize("value", BAD_AMOUNTS, ids=lambda value: repr(value)[:30])
def test_bad_money_is_refused(value: object) -> None:
    """What is no finite, non-negative amount of at most six decimals is a ValueError that says what was expected."""
    with pytest.raises(ValueError, match=r"expected an amount|counted in micro-dollars"):
        to_money(value)


@given(micros)
def test_money_survives_being_shown(amount: int) -> None:
    """What `show` writes for people reads back as the same amount."""
    assert to_money(show(amount).replace(",", "")) == amount


@given(micros)
def test_a_float_of_dollars_is_taken_for_what_was_typed(amount: int) -> None:
    """The shortest decimal form of a float is read, so no binary dust is refused or booked (up to 15 digits)."""
    amount %= 10**14

    assert to_money(to_usd(amount)) == amount


@given(st.one_of(st.floats(), st.decimals(), st.integers(), st.text(), st.booleans(), st.none()))
@example("1E+9")
def test_money_never_fails_otherwise(value: object) -> None:
    """Any input gives an amount in range or a ValueError, nothing else."""
    try:
        found = to_money(value)
    except ValueError:
        return

    assert 0 <= found <= 10**15


def test_the_callers_decimal_context_does_not_round_money() -> None:
    """A caller who computes with three digits still gets every cent of the cap."""
    with decimal.localcontext() as context:
        context.prec = 3
        found = to_money("123456.789")

    assert found == 123_456_789_000


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "$0.00"), (1_234_500_000, "$1,234.50"), (20_000_000, "$20.00"), (7_900, "$0.0079"), (1, "$0.000001"), (-1_500_000, "-$1.50"),
     (-1, "-$0.000001"), (10_000, "$0.01"), (100_100, "$0.1001")],
)  # fmt: skip
def test_shown_money(amount: int, text: str) -> None:
    """Two digits where two suffice, more only where they are not zero."""
    assert show(amount) == text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("4h", 14_400),
        ("7d", 604_800),
        ("1d12h", 129_600),
        ("1h1m1s", 3661),
        (" 5m ", 300),
        (0.5, 0.5),
        (60, 60),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    """Seconds as a number, or days, hours, minutes and seconds in that order."""
    found = to_seconds(value)

    assert (found, type(found)) == (seconds, float)


@pytest.mark.parametrize(
    "value",
    ["", " ", "0s", "0", "4", "-4h", "4 hours", "1h1d", "1.5h", "4H", "h", "٣h", "9" * 5000 + "s", "99999999d", "9999999999s", 0, -1,
     math.nan, math.inf, 10**400, 10 * 366 * 86_400, True, None, b"4h", ["4h"]],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_bad_durations_are_refused(value: object) -> None:
    """Nothing is guessed: no unit, the wrong order, zero, negative, endless or above ten years is a ValueError."""
    with pytest.raises(ValueError, match="expected a duration"):
        to_seconds(value)


@given(st.integers(0, 300), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_durations_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    """The parts of a duration are summed."""
    assert to_seconds(f"{days}d{hours}h{minutes}m{seconds}s") == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@pytest.mark.parametrize(
    ("item", "normal"),
    [
        ("POST /v1/payment_intents", "POST /v1/payment_intents"),
        ("  get   /v1/customers/*  ", "GET /v1/customers/*"),
        ("* /v1/**", "* /v1/**"),
        ("stripe: post /v1/refunds", "stripe:POST /v1/refunds"),
        ("payment_intents.create", "payment_intents.create"),
        ("stripe:payment_intents.*", "stripe:payment_intents.*"),
    ],
)
def test_endpoints_have_one_form(item: str, normal: str) -> None:
    """Method in capitals, single spaces, vendor in front; the normal form is its own normal form."""
    assert check_endpoint(item) == normal
    assert check_endpoint(normal) == normal


@pytest.mark.parametrize(
    "item",
    ["", " ", "POST", "/v1", "FOO /x", "POST v1", "POST/v1", "POST /v1 /v2", "POST /v1?x=1", "POST /v1#x", "POST /v1\n/x", "create",
     "stripe:", "stripe:POST", "a b:POST /x", "Stripe:POST /x", ":POST /x", "POST /v1/a:pay.now", "POST /v1/a:b",
     "payment_intents.create now", ".create", "**"],
)  # fmt: skip
def test_bad_endpoints_are_refused(item: str) -> None:
    """An item that could never match, or could be read two ways, is an error that shows the right forms."""
    with pytest.raises(ValueError, match="expected an endpoint such as 'POST /v1/payment_intents'"):
        check_endpoint(item)


@given(st.text())
def test_endpoints_never_fail_otherwise(item: str) -> None:
    """Any text is an item whose normal form is stable, or a ValueError."""
    try:
        normal = check_endpoint(item)
    except ValueError:
        return

    assert check_endpoint(normal) == normal


# -- Policy ----------------------------------------------------------------------------------------


def _problem(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Policy(**fields)
    return str(caught.value)


@pytest.mark.parametrize("field", ["run_usd_cap", "daily_usd_cap", "call_usd_cap"])
@pytest.mark.parametrize("value", [*(bad for bad in BAD_AMOUNTS if bad is not None), 0, "0.00", -0.0], ids=lambda value: repr(value)[:30])
def test_bad_caps_are_refused(field: str, value: object) -> None:
    """A cap that is negative, NaN, endless, zero, not a number or a boolean is an error on its field."""
    assert f"\n{field}\n" in _problem(**{field: value})


@pytest.mark.parametrize("field", ["refund_usd_cap", "unpriced"])
@pytest.mark.parametrize("value", [bad for bad in BAD_AMOUNTS if bad is not None], ids=lambda value: repr(value)[:30])
def test_bad_amounts_that_may_be_zero_are_refused(field: str, value: object) -> None:
    """The refund cap and the flat amount may be 0, but nothing else that a cap may not be."""
    assert f"\n{field}" in _problem(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_calls", 0), ("max_calls", -1), ("max_calls", True), ("max_calls", 2.0), ("max_calls", "3"),
        ("expires_in", "4 hours"), ("expires_in", 0), ("expires_in", -1), ("expires_in", 10**400), ("expires_in", math.nan),
        ("expires_in", True),
        ("allowed_endpoints", ["POST"]), ("allowed_endpoints", ["/v1"]), ("allowed_endpoints", ["FOO /x"]),
        ("allowed_endpoints", "POST /x"),
        ("allowed_endpoints", [5]), ("allowed_endpoints", ["GET /v1/customers", "nonsense"]),
        ("name", ""), ("name", "  "), ("name", "a\nb"), ("name", "x" * 201), ("name", 5), ("name", "a\x1b[31m"), ("name", "\ud800"),
        ("name", "a\u2028b"),
        ("vendor", ""), ("agent_run_label", ""), ("agent_run_label", "a\rb"),
        ("mode", "off"), ("mode", ""), ("mode", True), ("unpriced", "maybe"), ("secret", "STRIPE_SECRET_KEY"), ("secret", "env:"),
        ("secret", "env:A B"),
        ("run_usd_caps", 5), ("cap", 5), ("secrets", "sk_test_12345"),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_bad_fields_are_refused(field: str, value: object) -> None:
    """Each bad value, and each unknown field, is an error on the field that was written."""
    assert f"\n{field}" in _problem(**{field: value})


@pytest.mark.parametrize("field", ["secret", "mode", "max_calls", "allowed_endpoints", "secrets", "name"])
def test_an_error_never_repeats_a_secret(field: str) -> None:
    """A secret put in the wrong place is in no error text, whichever field it was."""
    planted = "sk_test_12345"
    text = _problem(**{field: f"{planted}\n"})

    assert field in text
    assert planted not in text


def test_a_secret_is_refused_without_its_value() -> None:
    """The message of a bad `secret` says what belongs there, and its representations keep the value to themselves."""
    with pytest.raises(ValidationError, match="the environment variable that holds the vendor's secret") as caught:
        Policy(secret="sk_test_12345")

    assert "sk_test_12345" not in f"{caught.value}{caught.value!r}{caught.value.errors(include_input=False)}"


def test_an_empty_policy_limits_nothing() -> None:
    """Every limit is None unless it is given; the policy enforces and refuses unpriced writes."""
    policy = Policy()

    assert (policy.mode, policy.unpriced) == ("enforce", "refuse")
    assert {name for name in Policy.model_fields if getattr(policy, name) is not None} == {
        "mode", "unpriced", "tag_objects", "idempotency", "on_doubt",
    }  # fmt: skip


def test_a_policy_cannot_be_changed() -> None:
    """A policy in force is changed by issuing another one, not by assignment."""
    policy = Policy(run_usd_cap=5)
    with pytest.raises(ValidationError, match="frozen"):
        policy.run_usd_cap = 10


usd = st.integers(1, 10**15).map(lambda amount: Decimal(amount).scaleb(-6))
policies = st.builds(
    Policy,
    name=st.none() | st.sampled_from(["billing-flow", "ümlaut 流"]),
    vendor=st.none() | st.just("stripe"),
    run_usd_cap=st.none() | usd,
    daily_usd_cap=st.none() | usd,
    call_usd_cap=st.none() | usd,
    refund_usd_cap=st.none() | st.just(0) | usd,
    max_calls=st.none() | st.integers(1, 10**9),
    allowed_endpoints=st.none() | st.lists(st.sampled_from(["POST /v1/payment_intents", "stripe:GET /v1/**", "refunds.*"])).map(tuple),
    expires_in=st.none() | st.floats(0.001, 10**8),
    mode=st.sampled_from(["enforce", "observe"]),
    unpriced=st.sampled_from(["refuse", "allow"]) | usd | st.just(0),
    secret=st.none() | st.just("env:STRIPE_SECRET_KEY"),
)


@given(policies)
def test_a_policy_survives_storage(policy: Policy) -> None:
    """Through JSON and back it is equal, amounts are not converted a second time, and what was not set is not stored."""
    stored = json.loads(json.dumps(policy.stored()))
    restored = Policy.restored(stored)

    assert restored == policy
    assert restored.stored() == policy.stored()
    assert None not in stored.values()


def test_stored_amounts_are_micros() -> None:
    """What a ledger keeps of a policy is in micro-USD and seconds."""
    fields = {"run_usd_cap": 500, "refund_usd_cap": 0, "unpriced": "0.05", "expires_in": "4h", "allowed_endpoints": ["get /v1/x"]}
    stored = Policy.model_validate(fields).stored()

    assert stored == {"run_usd_cap": 500_000_000, "refund_usd_cap": 0, "unpriced": 50_000, "expires_in": 14_400.0,
                      "allowed_endpoints": ["GET /v1/x"], "mode": "enforce", "tag_objects": False, "idempotency": "derive",
                      "on_doubt": "resend"}  # fmt: skip


# -- other values ----------------------------------------------------------------------------------


def _key(run_id: str | None, policy: Policy | None = None) -> VaultKey:
    return VaultKey("kg_1", "vault_key_SECRET", policy or Policy(), run_id)


def test_a_keys_repr_hides_its_token() -> None:
    """Neither repr nor str of a key, alone or inside another value, shows the token."""
    key = _key("r1")

    assert "vault_key_SECRET" not in f"{key} {key!r} {[key]} {dataclasses.replace(key, state='revoked')}"
    assert "kg_1" in repr(key)


@pytest.mark.parametrize(("run_id", "scope"), [("r1", "run:r1"), ("", "run:"), (None, "key:kg_1")])
def test_a_key_draws_on_its_run_or_on_itself(run_id: str | None, scope: str) -> None:
    """A key bound to no run has a budget of its own."""
    assert _key(run_id).scope == scope


def test_a_key_without_policy_name_counts_as_default() -> None:
    """Day caps of unnamed policies share one name."""
    assert (_key("r").policy_name, _key("r", Policy(name="billing")).policy_name) == ("default", "billing")


@pytest.mark.parametrize(
    ("method", "is_write"), [("GET", False), ("HEAD", False), ("OPTIONS", False), ("POST", True), ("DELETE", True), ("BREW", True)]
)
def test_what_is_not_known_to_be_a_read_is_a_write(method: str, is_write: bool) -> None:
    """Only GET, HEAD and OPTIONS are reads."""
    assert Call("stripe", method, "https", "api.stripe.com", "/v1/x").is_write is is_write


def test_a_calls_repr_hides_its_idempotency_key() -> None:
    """An idempotency key can carry an order number; it stays out of logs."""
    assert "order-77" not in repr(Call("stripe", "POST", "https", "api.stripe.com", "/v1/x", idempotency_key="order-77"))


@pytest.mark.parametrize(
    ("usage", "remaining"),
    [
        (Usage("run:r"), None),
        (Usage("run:r", cap=10, spent=3, held=2, doubt=1), 4),
        (Usage("run:r", cap=10, spent=12), 0),
        (Usage("run:r", cap=10), 10),
    ],
)
def test_what_remains(usage: Usage, remaining: int | None) -> None:
    """Spent, held and in doubt all count; an overrun leaves 0, not a negative amount."""
    assert usage.remaining == remaining


def test_values_are_frozen_and_slotted() -> None:
    """Every dataclass of the module is immutable and takes no stray attribute."""
    classes = [cls for cls in vars(model).values() if isinstance(cls, type) and dataclasses.is_dataclass(cls)]

    assert len(classes) > 10
    for cls in classes:
        empty = object.__new__(cls)
        for name in (dataclasses.fields(cls)[0].name, "stray"):
            # TypeError: of a stray attribute, by dataclass itself (python/cpython#90562).
            with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
                setattr(empty, name, None)
        assert not hasattr(empty, "__dict__")
