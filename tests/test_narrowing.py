"""What a second install of a run changes: for each field of a policy, an equal, a narrower and a wider wish."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard.model import Policy
from keyguard.narrowing import narrowed

# Amounts in micro-USD, seconds, counts; None = no limit.
_TABLE: dict[str, tuple[Any, list[Any], list[Any]]] = {
    # field: (first asked for, narrower wishes, wider wishes)
    "run_usd_cap": (500, [499, 1], [501, None]),
    "daily_usd_cap": (500, [499], [501, None]),
    "call_usd_cap": (500, [499], [501, None]),
    "refund_usd_cap": (500, [499, 0], [501, None]),
    "max_calls": (10, [9], [11, None]),
    "max_emails": (10, [9], [11, None]),
    "expires_in": (60.0, [59.0], [61.0, None]),
    "allowed_endpoints": (("GET /a", "GET /b"), [("GET /b",), ()], [("GET /a", "GET /b", "GET /c"), None]),
    "rules": (
        {"a.b": {"x": {"max": 5}}},
        [
            {"a.b": {"x": {"max": 4}}},
            {"a.b": {"x": {"max": 5}, "y": {"any_of": ["1"]}}},
            {"a.b": {"x": {"max": 5}}, "c.d": {"x": {"max": 5}}},
        ],
        [{"a.b": {"x": {"max": 6}}}, {"a.b": {"x": {"max": 5, "optional": True}}}, None],
    ),
    "mode": ("enforce", [], ["observe"]),
    "unpriced": (500, ["refuse", 501], ["allow", 499]),
    "name": ("a", [], ["b", None]),
    "tag_objects": (False, [], [True]),
    "idempotency": ("derive", [], ["off"]),
    "on_doubt": ("resend", ["refuse"], []),
    "vendor": ("stripe", [], ["twilio", None]),
    "secret": ("env:A", [], ["env:B", None]),
    "agent_run_label": ("a", [], ["b", None]),
}
# A first install without a limit can only be narrowed.
_FROM_NOTHING: dict[str, Any] = {
    "run_usd_cap": 500, "daily_usd_cap": 500, "call_usd_cap": 500, "refund_usd_cap": 0, "max_calls": 10, "expires_in": 60.0,
    "allowed_endpoints": ("GET /a",), "rules": {"a.b": {"x": {"any_of": ["1"]}}},
}  # fmt: skip


def _policy(**fields: Any) -> Policy:
    return Policy.restored({name: value for name, value in fields.items() if value is not None})


def _narrower() -> list[tuple[str, Any]]:
    return [(field, wish) for field, (_, narrower, _) in _TABLE.items() for wish in narrower]


def _wider() -> list[tuple[str, Any]]:
    return [(field, wish) for field, (_, _, wider) in _TABLE.items() for wish in wider]


def test_the_table_names_every_field() -> None:
    """No field of a policy is forgotten here."""
    assert set(_TABLE) == set(Policy.model_fields)


@pytest.mark.parametrize("field", sorted(_TABLE))
def test_equal_wishes_change_nothing_and_are_quiet(field: str) -> None:
    """The same arguments again leave the policy in force as it is, without a word."""
    first = _policy(**{field: _TABLE[field][0]})

    assert narrowed(first, first, _policy(**{field: _TABLE[field][0]}), is_raised=False) == (first, ())


@pytest.mark.parametrize(("field", "wish"), _narrower())
def test_narrower_wishes_come_into_force(field: str, wish: Any) -> None:
    """A narrower wish replaces the field, quietly, and nothing else."""
    first = _policy(**{field: _TABLE[field][0]})
    force, warnings = narrowed(first, first, _policy(**{field: wish}), is_raised=False)

    assert getattr(force, field) == getattr(_policy(**{field: wish}), field)
    assert warnings == ()
    assert [name for name in Policy.model_fields if getattr(force, name) != getattr(first, name)] == [field]


@pytest.mark.parametrize(("field", "wish"), _wider())
def test_wider_wishes_are_ignored_with_a_warning(field: str, wish: Any) -> None:
    """A wider or other wish leaves the policy as it is, and one warning names the field."""
    first = _policy(**{field: _TABLE[field][0]})
    force, warnings = narrowed(first, first, _policy(**{field: wish}), is_raised=False)

    assert force is first
    assert len(warnings) == 1
    assert f"{field}=" in warnings[0]
    assert "stays in force" in warnings[0]


@pytest.mark.parametrize("field", sorted(_FROM_NOTHING))
def test_a_limit_where_there_was_none_is_narrower(field: str) -> None:
    """What had no limit takes the first one that is asked for."""
    first = _policy()
    force, warnings = narrowed(first, first, _policy(**{field: _FROM_NOTHING[field]}), is_raised=False)

    assert (getattr(force, field), warnings) == (getattr(_policy(**{field: _FROM_NOTHING[field]}), field), ())


@pytest.mark.parametrize(("first", "again", "expected"), [("observe", "enforce", "enforce"), ("observe", "observe", "observe")])
def test_observing_can_be_narrowed_to_enforcing(first: str, again: str, expected: str) -> None:
    """Enforcing is the narrower mode."""
    before = _policy(mode=first)
    force, warnings = narrowed(before, before, _policy(mode=again), is_raised=False)

    assert (force.mode, warnings) == (expected, ())


@pytest.mark.parametrize(
    ("first", "again", "expected", "is_warned"),
    [
        ("allow", "refuse", "refuse", False),
        ("allow", 500, 500, False),
        ("allow", 0, 0, False),
        ("refuse", 500, "refuse", True),
        ("refuse", 0, "refuse", True),
        (0, 500, 500, False),
        (500, 0, 500, True),
    ],
)
def test_unpriced_writes_narrow_from_allow_over_an_amount_to_refuse(first: Any, again: Any, expected: Any, is_warned: bool) -> None:
    """A larger flat amount counts more against the cap, so it is the narrower wish."""
    before = _policy(unpriced=first)
    force, warnings = narrowed(before, before, _policy(unpriced=again), is_raised=False)

    assert (force.unpriced, len(warnings)) == (expected, int(is_warned))


def test_rules_that_exclude_each_other_let_nothing_through() -> None:
    """Two different rules of one field both hold: the longer prefix, the values in both lists, the narrower bounds."""
    first = _policy(rules={"a.b": {"x": {"any_of": ["1", "2"]}, "y": {"prefix": ["+1", "+44"]}, "z": {"min": 1, "max": 9}}})
    again = _policy(rules={"a.b": {"x": {"any_of": ["3"]}, "y": {"prefix": ["+1212", "+49"]}, "z": {"min": 2, "optional": True}}})
    force, warnings = narrowed(first, first, again, is_raised=False)
    rules = (Policy.restored(force.stored()).rules or {})["a.b"]

    assert (rules["x"].any_of, rules["y"].prefix, rules["z"].stored()) == ((), ("+1212",), {"min": "2", "max": "9"})
    assert len(warnings) == 1


def test_a_list_of_other_endpoints_keeps_what_both_have() -> None:
    """Endpoints that are new are ignored with a warning, those left out are gone, the order is the first one's."""
    first = _policy(allowed_endpoints=("GET /a", "GET /b", "GET /c"))
    force, warnings = narrowed(first, first, _policy(allowed_endpoints=("GET /c", "GET /x", "GET /a")), is_raised=False)

    assert force.allowed_endpoints == ("GET /a", "GET /c")
    assert len(warnings) == 1
    assert "GET /x" in warnings[0]
    assert "GET /b" not in warnings[0].partition(", but ")[0]


def test_a_mixed_wish_narrows_and_warns_field_by_field() -> None:
    """Each field is compared on its own."""
    first = _policy(run_usd_cap=500, max_calls=10)
    force, warnings = narrowed(first, first, _policy(run_usd_cap=400, max_calls=20), is_raised=False)

    assert (force.run_usd_cap, force.max_calls) == (400, 10)
    assert [word for word in ("run_usd_cap", "max_calls") if f"{word}=" in " ".join(warnings)] == ["max_calls"]


@pytest.mark.parametrize("wish", [400, 600, None])
def test_a_persons_cap_stays(wish: int | None) -> None:
    """Neither a narrower nor a wider wish replaces what a person set, and the warning says so."""
    asked, raised = _policy(run_usd_cap=500), _policy(run_usd_cap=900)
    force, warnings = narrowed(raised, asked, _policy(run_usd_cap=wish), is_raised=True)

    assert force.run_usd_cap == 900
    assert len(warnings) == 1
    assert "run_usd_cap=" in warnings[0]
    assert "a person set this cap" in warnings[0]


def test_the_first_arguments_again_are_quiet_after_a_raise() -> None:
    """A resumed run repeats its install, which says nothing about the raise."""
    asked, raised = _policy(run_usd_cap=500, max_calls=10), _policy(run_usd_cap=900, max_calls=10)

    assert narrowed(raised, asked, _policy(run_usd_cap=500, max_calls=10), is_raised=True) == (raised, ())


def test_other_fields_still_narrow_after_a_raise() -> None:
    """A raise protects the run's cap only."""
    asked, raised = _policy(run_usd_cap=500, max_calls=10), _policy(run_usd_cap=900, max_calls=10)
    force, warnings = narrowed(raised, asked, _policy(run_usd_cap=500, max_calls=9), is_raised=True)

    assert (force.run_usd_cap, force.max_calls) == (900, 9)
    assert [warning for warning in warnings if "max_calls" in warning] == []


def test_amounts_in_warnings_are_dollars() -> None:
    """A person reads dollars, not micro-dollars."""
    first = _policy(run_usd_cap=500_000_000)
    _, warnings = narrowed(first, first, _policy(run_usd_cap=1_234_500_000), is_raised=False)

    assert "run_usd_cap=$1,234.50, but $500.00 stays in force" in warnings[0]
