"""Identities of logical charges: what they depend on, and how identical requests are numbered."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from keyguard.context import RunRef
from keyguard.identity import Slots, canonical, request_of
from keyguard.model import Call

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
