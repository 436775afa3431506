"""Identities of logical charges: what they depend on, and how identical requests are numbered."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.context import RunRef
from keyguard.identity import canonical, key_for, payee_of, principal_of, request_of, verdict
from keyguard.model import Call, Identity
from keyguard.slots import Slots

CALL = Call("stripe", "POST", "https", "api.stripe.com", "/v1/charges", body=(("amount", "100"), ("currency", "usd")), account="acct_1")
RUN = RunRef("run-1", "prefect", execution="e1")
_PAIRS = st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=3).map(tuple)


def test_host_and_order_of_parameters_do_not_matter() -> None:
    """The local enforcer and a proxy, and two dict orders, name the same charge alike."""
    moved = replace(CALL, host="proxy.test", scheme="http", body=tuple(reversed(CALL.body or ())), idempotency_key="x")

    assert canonical(moved) == canonical(CALL)


def test_everything_that_makes_another_charge_matters() -> None:
    """Vendor, account, method, path, parameters, run and owner each change the identity."""
    others = [
        replace(CALL, vendor="twilio"), replace(CALL, account="acct_2"), replace(CALL, method="PUT"), replace(CALL, path="/v1/refunds"),
        replace(CALL, body=(("amount", "101"), ("currency", "usd"))),
    ]  # fmt: skip
    found = {request_of("run:1", "owner", canonical(call)) for call in (CALL, *others)}
    found |= {request_of("run:2", "owner", canonical(CALL)), request_of("run:1", "another", canonical(CALL))}

    assert len(found) == 8


@given(_PAIRS, _PAIRS)
def test_different_parameters_are_never_canonically_equal(left: tuple[tuple[str, str], ...], right: tuple[tuple[str, str], ...]) -> None:
    """No way of cutting parameters into parts gives the bytes of other parameters."""
    same = canonical(replace(CALL, body=left)) == canonical(replace(CALL, body=right))

    assert same is (sorted(left) == sorted(right))


def test_identical_requests_are_numbered_within_an_execution() -> None:
    """Two intended identical charges get 0 and 1; another request and another execution start at 0."""
    slots = Slots()
    numbers = [slots.number("run:1", "a", RUN), slots.number("run:1", "a", RUN), slots.number("run:1", "b", RUN)]
    again = slots.number("run:1", "a", replace(RUN, execution="e2"))

    assert numbers == [0, 1, 0]
    assert again == 0


def test_a_task_retry_replays_the_numbers_of_its_first_attempt() -> None:
    """Attempt 2 of a task run gets the same numbers in the same order, and new ones only after those."""
    slots = Slots()
    first, other, retry = replace(RUN, unit="t1"), replace(RUN, unit="t2"), replace(RUN, unit="t1", attempt=2)
    before = [slots.number("run:1", "a", first), slots.number("run:1", "a", other), slots.number("run:1", "a", first)]
    after = [slots.number("run:1", "a", retry) for _ in range(3)]

    assert before == [0, 1, 2]
    assert after == [0, 2, 3]


def test_old_executions_are_forgotten() -> None:
    """A worker that sees thousands of executions keeps the last 256 only."""
    slots = Slots()
    for n in range(400):
        slots.number("run:1", "a", replace(RUN, execution=f"e{n}", unit="t"))
    kept = slots.number("run:1", "a", replace(RUN, execution="e399", unit="u"))
    forgotten = slots.number("run:1", "a", replace(RUN, execution="e0", unit="u"))

    assert kept == 1
    assert forgotten == 0


def test_what_came_to_nothing_gives_its_number_to_the_next() -> None:
    """Sent again after a lost answer, in the same try of the same unit, a request is the same charge; beside it another is another."""
    slots, first = Slots(), replace(RUN, unit="t1")
    lost, other = slots.number("run:1", "a", first), slots.number("run:1", "a", first)
    slots.give_back("run:1", "a", first, lost)
    again, more = slots.number("run:1", "a", first), slots.number("run:1", "a", first)

    assert (lost, other, again, more) == (0, 1, 0, 2)


def test_a_number_given_back_is_no_other_units() -> None:
    """A retry of its own unit will come for it; another unit's identical request is another charge."""
    slots, first = Slots(), replace(RUN, unit="t1")
    slots.give_back("run:1", "a", first, slots.number("run:1", "a", first))

    assert slots.number("run:1", "a", replace(RUN, unit="t2")) == 1


def test_an_older_try_gives_nothing_back() -> None:
    """A thread of the first try that ends while the second runs does not take the second's number from it."""
    slots, first, second = Slots(), replace(RUN, unit="t1"), replace(RUN, unit="t1", attempt=2)
    slots.number("run:1", "a", first)
    slots.number("run:1", "a", second)
    slots.give_back("run:1", "a", first, 0)

    assert slots.number("run:1", "a", second) == 1


def test_a_number_of_another_process_is_passed_over() -> None:
    """The ledger gave another one; it is this unit's in every try, and what comes next is counted from there."""
    slots, first, retry = Slots(), replace(RUN, unit="t1"), replace(RUN, unit="t1", attempt=2)
    slots.moved("run:1", "a", first, slots.number("run:1", "a", first), 4)

    assert slots.number("run:1", "a", first) == 5
    assert [slots.number("run:1", "a", retry) for _ in range(2)] == [4, 5]


@given(st.lists(st.tuples(st.sampled_from(["t1", "t2"]), st.booleans()), max_size=12))
def test_every_retry_of_a_unit_takes_the_same_numbers(steps: list[tuple[str, bool]]) -> None:
    """Whatever ended well and whatever was lost, a second try of each unit takes the first's numbers, and no two units share one."""
    slots, taken = Slots(), {"t1": set[int](), "t2": set[int]()}
    for unit, is_settled in steps:
        run = replace(RUN, unit=unit)
        n = slots.number("run:1", "a", run)
        taken[unit].add(n)
        if not is_settled:
            slots.give_back("run:1", "a", run, n)
    again = {unit: {slots.number("run:1", "a", replace(RUN, unit=unit, attempt=2)) for _ in numbers} for unit, numbers in taken.items()}

    assert again == taken
    assert taken["t1"].isdisjoint(taken["t2"])


def within(unit: str, *passes: tuple[str, int]) -> RunRef:
    """A task run that lies in what may be tried again as a whole, the outermost first."""
    return replace(RUN, unit=unit, passes=passes)


def test_a_further_try_of_a_subflow_replays_its_numbers_and_no_others() -> None:
    """All its task runs are new; what the flow sent round it stays the flow's own, and what it never sent before is new."""
    slots = Slots()
    before, first = slots.number("run:1", "r", RUN), [slots.number("run:1", "r", within(unit, ("sub", 1))) for unit in ("a", "b")]
    between = slots.number("run:1", "r", RUN)
    again = [slots.number("run:1", "r", within(unit, ("sub", 2))) for unit in ("c", "d", "e")]

    assert (before, first, between, again) == (0, [1, 2], 3, [1, 2, 4])
    assert [slots.number("run:1", "r", within("f", ("sub", 3))) for _ in range(3)] == [1, 2, 4]


def test_of_two_that_are_tried_again_the_inner_one_replays_its_own() -> None:
    """A task that calls a subflow: when both come again, the subflow takes what its own earlier try took, and the rest is the task's."""
    slots = Slots()
    outer = slots.number("run:1", "r", within("a", ("task", 1)))
    inner = slots.number("run:1", "r", within("b", ("sub-1", 1), ("task", 1)))
    # The task again: its subflow is another run, which fails after its charge and is tried again by itself.
    assert [slots.number("run:1", "r", within("c", ("task", 2))), slots.number("run:1", "r", within("d", ("sub-2", 1), ("task", 2)))] == [
        outer, inner,
    ]  # fmt: skip
    assert slots.number("run:1", "r", within("e", ("sub-2", 2), ("task", 2))) == inner
    assert slots.number("run:1", "r", within("f", ("task", 2))) == 2


def test_a_further_try_asks_the_ledger_as_another_execution() -> None:
    """Else the ledger would keep the numbers for the task runs of the first try; the first try and a task's own retry ask as ever."""
    assert within("a", ("sub", 1)).entry == RUN.execution == RUN.entry
    tries = {within("a", *passes).entry for passes in ([("sub", 2)], [("sub", 3)], [("other", 2)], [("sub", 2), ("task", 2)])}

    assert len(tries) == 4
    assert within("a", ("task", 2), ("sub", 2)).entry in tries
    assert all(entry.startswith(f"{RUN.execution}.") for entry in tries)


def test_a_number_that_the_ledger_gave_instead_is_replayed_by_the_whole() -> None:
    """What a task run of another process had is left to it in a further try too."""
    slots, first = Slots(), within("a", ("sub", 1))
    slots.number("run:1", "r", first)
    slots.moved("run:1", "r", first, 0, 5)

    assert slots.number("run:1", "r", within("b", ("sub", 2))) == 5


SETTLED, WINDOW = "settled", 82_800.0


@pytest.mark.parametrize(
    ("fields", "state", "age", "expected"),
    [
        ({}, "open", 0.0, "attempt"), ({}, "doubt", 0.0, "attempt"), ({}, SETTLED, WINDOW - 1, "attempt"),
        ({}, "released", 0.0, "next"), ({}, "released", 10 * WINDOW, "next"),
        ({}, SETTLED, WINDOW, "already_charged"), ({}, "doubt", WINDOW, "doubt_pending"), ({}, "open", WINDOW, "doubt_pending"),
        ({"is_own": True}, SETTLED, WINDOW - 1, "attempt"), ({"is_own": True}, SETTLED, WINDOW, "next"),
        ({"fingerprint": "other"}, SETTLED, 0.0, "conflict"), ({"fingerprint": "other"}, "doubt", 10 * WINDOW, "conflict"),
        ({"fingerprint": "other"}, "released", 0.0, "next"),
        ({"window": 0.0, "resends": True}, "doubt", 0.0, "next"), ({"window": 0.0, "resends": False}, "doubt", 0.0, "doubt_pending"),
        ({"window": 0.0, "resends": False}, "open", 0.0, "doubt_pending"), ({"window": 0.0, "resends": False}, SETTLED, 0.0, "next"),
    ],
)  # fmt: skip
def test_what_a_further_request_is(fields: dict[str, Any], state: str, age: float, expected: str) -> None:
    """By the state of its charge's reservation, its age, and the vendor's window."""
    asked = replace(Identity("a" * 32, window=WINDOW), **fields)

    assert verdict(asked, "", state, 1000.0, 1000.0 + age) == expected


def test_keys_differ_by_number_and_generation_and_say_nothing() -> None:
    """41 characters within what the vendors take, another for each charge and try, and nothing of the request in it."""
    made = {key_for(request, n, generation) for request in ("a" * 32, "b" * 32) for n in (0, 1, 10) for generation in (0, 1)}

    assert len(made) == 12
    assert {len(key) for key in made} == {41}
    assert all(key.startswith("keyguard-") and "aaaa" not in key for key in made)


def test_owners_and_payees_are_hashed() -> None:
    """Neither a secret nor a phone number can be read off; a payee of another run has another hash."""
    hashed = {principal_of("sk_live_1"), principal_of("sk_live_2"), payee_of("run:1", "+12125550123"), payee_of("run:2", "+12125550123")}

    assert len(hashed) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", text) for text in hashed)
    assert (principal_of(""), payee_of("run:1", "")) == ("", "")
