"""The cheap maker of values: all that a frozen dataclass promises still holds."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest

from keyguard import model
from keyguard._values import frozen


@dataclass(frozen=True, slots=True)
class Slow:
    """A value as dataclass makes it."""

    name: str
    amount: int = 0
    secret: str | None = field(default=None, repr=False)


@frozen
class Quick:
    """The same, made cheaply."""

    name: str
    amount: int = 0
    secret: str | None = field(default=None, repr=False)


def test_a_quick_value_is_made_and_compared_as_any_other() -> None:
    """By position, by name and with defaults; equal and hashed by its fields; its class is its own."""
    found = [Quick("a"), Quick("a", 0), Quick(name="a", secret=None)]

    assert len(set(found)) == 1
    assert Quick("a", 1) != Quick("a")
    assert (Quick("a") == object()) is False
    assert {type(value) for value in found} == {Quick}
    assert inspect.signature(Quick) == inspect.signature(Slow)
    assert [(one.name, one.type, one.default) for one in fields(Quick)] == [(one.name, one.type, one.default) for one in fields(Slow)]


def test_a_quick_value_cannot_be_changed() -> None:
    """No field is assigned or deleted, and no stray attribute is added."""
    value: Any = Quick("a")
    with pytest.raises(FrozenInstanceError):
        value.name = "b"
    with pytest.raises(FrozenInstanceError):
        del value.name
    with pytest.raises((FrozenInstanceError, TypeError)):
        value.other = 1

    assert value == Quick("a")


def test_a_quick_value_hides_and_travels() -> None:
    """A hidden field stays out of the repr; replace, copy and pickle give an equal value of the class."""
    value = Quick("a", 2, "hidden")

    assert repr(value) == "Quick(name='a', amount=2)"
    assert replace(value, amount=3) == Quick("a", 3, "hidden")
    assert [copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))] == [value] * 3


@pytest.mark.parametrize("arguments", [{}, {"name": "a", "size": 1}, {"amount": 1}])
def test_a_quick_value_refuses_wrong_arguments(arguments: dict[str, Any]) -> None:
    """A missing or unknown field is a TypeError."""
    with pytest.raises(TypeError):
        Quick(**arguments)


def test_what_is_no_plain_record_is_left_to_dataclass() -> None:
    """What would be shared, lost or compared all the same is refused when the class is defined."""

    class Made:
        parts: list[int] = field(default_factory=list)

    class Later:
        name: str = ""

        def __post_init__(self) -> None: ...

    class Partly:
        name: str = field(compare=False)

    class Empty:
        pass

    for kind in (Made, Later, Partly, Empty):
        with pytest.raises(TypeError, match=kind.__name__):
            frozen(kind)


def test_the_values_of_a_call_are_quick() -> None:
    """What every call makes with many fields has the cheap constructor."""
    named = (model.Call, model.Quote, model.Fact, model.Outcome, model.Order, model.Decision, model.Closing, model.Receipt)

    assert [kind.__name__ for kind in named if "__class__" not in kind.__init__.__code__.co_consts] == []
