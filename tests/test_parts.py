"""A coroutine that is run in parts: driven by hand, with no event loop."""

from __future__ import annotations

import gc
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from keyguard.patches._parts import Parts, Pause

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

_said: ContextVar[str] = ContextVar("said", default="nothing")


class _Future:
    """Something that an event loop would wait for."""

    def __await__(self) -> Generator[str, Any, Any]:
        """Yield to the loop; returns what it sends."""
        return (yield "waiting")


class _Struck(BaseException):
    """What a loop throws into a task."""


async def _told(log: list[Any]) -> str:
    token = _said.set("inside")
    try:
        log.append(await _Future())
        log.append(await Pause())
        log.append(await _Future())
        log.append(await Pause())
    except BaseException as error:
        log.append(type(error))
        raise
    finally:
        _said.reset(token)
    return "end"


def _finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Drive one part whose futures are done at once."""
    try:
        while True:
            assert coroutine.send(None) == "waiting"
    except StopIteration as stop:
        return stop.value


def test_each_part_is_given_its_answer_and_the_last_returns() -> None:
    """What it awaits between is the loop's to answer; a pause is its user's."""
    log: list[Any] = []
    parts = Parts(_told(log))
    returned = [_finished(parts.go_on(answer)) for answer in (None, "first", "second")]

    assert (returned, log, parts.is_over) == ([None, None, "end"], [None, "first", None, "second"], True)


def test_between_its_parts_nothing_of_its_context_is_seen() -> None:
    """And what it has set it finds again, and takes back where it set it."""
    log: list[Any] = []
    parts = Parts(_told(log))
    seen = []
    for answer in (None, 1, 2):
        _finished(parts.go_on(answer))
        seen.append(_said.get())

    assert seen == ["nothing"] * 3


def test_a_failure_is_raised_at_the_pause_and_comes_out() -> None:
    """As itself, and once."""
    log: list[Any] = []
    parts, error = Parts(_told(log)), _Struck()
    _finished(parts.go_on())
    with pytest.raises(_Struck) as raised:
        _finished(parts.fail(error))

    assert (raised.value is error, log) == (True, [None, _Struck])


def test_what_a_loop_throws_comes_to_where_the_coroutine_waits() -> None:
    """A cancellation strikes inside the part that is running."""
    log: list[Any] = []
    parts = Parts(_told(log))
    _finished(parts.go_on())
    second = parts.go_on("first")
    second.send(None)
    with pytest.raises(_Struck):
        second.throw(_Struck())

    assert log == [None, "first", _Struck]


def test_a_part_that_is_closed_closes_the_coroutine() -> None:
    """As Python does with one whose loop is gone."""
    log: list[Any] = []
    parts = Parts(_told(log))
    first = parts.go_on()
    first.send(None)
    first.close()

    assert log == [GeneratorExit]


def test_one_that_is_left_between_its_parts_is_closed_when_it_is_dropped() -> None:
    """Nobody needs to say so."""
    log: list[Any] = []
    parts = Parts(_told(log))
    _finished(parts.go_on())
    del parts
    gc.collect()

    assert log == [None, GeneratorExit]
