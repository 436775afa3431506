"""The script: which fault strikes which request, without a server."""

from __future__ import annotations

import pytest

from keyguard.testing.double.faults import KINDS, Fault, Script
from keyguard.testing.double.messages import Request

CHARGE, READ = Request("POST", "/v1/charges"), Request("GET", "/v1/charges?limit=1")


def played(script: Script, count: int = 1, request: Request = CHARGE, vendor: str = "stripe", *, executes: bool = True) -> list[str]:
    """Return what struck so many requests; "-" for nothing."""
    found = [script.strike(vendor, request, executes=executes) for _ in range(count)]
    return ["-" if fault is None else fault.kind for fault in found]


def script(*faults: Fault) -> Script:
    """Make a script."""
    made = Script()
    made.add(faults)
    return made


def test_faults_are_taken_in_their_order() -> None:
    """Each strikes once, a `pass` lets one through, then nothing is left."""
    made = script(Fault("close_before"), Fault("pass"), Fault("close_after"))

    assert played(made, 4) == ["close_before", "pass", "close_after", "-"]
    assert [(one.seen, one.struck) for one in made.entries] == [(1, 1)] * 3


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("decline", times=2), "xx----"),
        (Fault("decline", times=0), "xxxxxx"),
        (Fault("decline", after=2), "--x---"),
        (Fault("decline", after=1, times=2), "-xx---"),
        (Fault("decline", every=2, times=0), "-x-x-x"),
        (Fault("decline", after=1, every=2, times=2), "--x-x-"),
        (Fault("decline", chance=0.0, times=0), "------"),
    ],
)
def test_when_a_fault_strikes(fault: Fault, expected: str) -> None:
    """After some, each so-manieth, so many times."""
    assert "".join("-" if kind == "-" else "x" for kind in played(script(fault), 6)) == expected


def test_whom_a_fault_strikes() -> None:
    """By vendor, method and the beginning of the path; others go by without being counted."""
    made = script(Fault("close_after", vendor="stripe", method="post", path="/v1/charges"))

    assert played(made, 1, READ) == ["-"]
    assert played(made, 1, Request("POST", "/v1/refunds")) == ["-"]
    assert played(made, 1, CHARGE, "resend") == ["-"]
    assert made.entries[0].seen == 0
    assert played(made) == ["close_after"]


@pytest.mark.parametrize("kind", ["hold_before", "error_before", "error_after", "decline"])
def test_what_does_not_execute_uses_up_no_fault_of_execution(kind: str) -> None:
    """A replay goes by, and the next execution is struck."""
    made = script(Fault(kind))  # type: ignore[arg-type]  # -- one of the kinds

    assert played(made, 2, executes=False) == ["-", "-"]
    assert played(made) == [kind]


def test_chance_is_of_the_seed_and_the_number_of_the_match() -> None:
    """The same seed strikes the same matches; about as many as the chance says."""
    once, again = (played(script(Fault("reset_after", chance=0.3, seed=7, times=0)), 1000) for _ in range(2))
    other = played(script(Fault("reset_after", chance=0.3, seed=8, times=0)), 1000)

    assert once == again != other
    assert 240 <= once.count("reset_after") <= 360


@pytest.mark.parametrize("wrong", [{"kind": "explode"}, {"every": 0}, {"after": -1}, {"times": -1}, {"chance": 1.1}, {"seconds": -1}])
def test_a_fault_that_makes_no_sense_is_no_fault(wrong: dict[str, object]) -> None:
    """It fails where it is written."""
    with pytest.raises(ValueError):
        Fault(**{"kind": "decline", **wrong})  # type: ignore[arg-type]  # -- that is the point


def test_every_kind_is_described() -> None:
    """The docstring says what each does."""
    assert [kind for kind in KINDS if f"`{kind}`" not in str(Fault.__doc__) and not kind.startswith("hold_")] == []
    assert "`hold_before`" in str(Fault.__doc__)
