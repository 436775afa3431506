"""Idempotency of the pure Stripe against a plain model: random requests with few keys, in flight, failing, and over days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keyguard.testing.double.keys import DAY
from keyguard.testing.double.messages import Answer, Work
from tests.double.support import CHARGE, Till

if TYPE_CHECKING:
    from collections.abc import Mapping

HOUR = 3600


@dataclass
class Expected:
    """What the model knows of a key: who used it when, and the answer that it must give; None in flight."""

    form: Mapping[str, Any]
    since: float
    payload: bytes | None = None


@dataclass
class Flying:
    """A request that began; `answer` once it was executed."""

    work: Work
    slot: tuple[str, str]
    answer: Answer | None = None


class KeysMachine(RuleBasedStateMachine):
    """Each key of each account is new, in flight, or answered, and forgotten a day after its first use."""

    def __init__(self) -> None:
        super().__init__()
        self.till = Till()
        self.expected: dict[tuple[str, str], Expected] = {}
        self.flying: list[Flying] = []
        self.allowed = 0

    @rule(
        key=st.sampled_from(["k1", "k2"]),
        account=st.sampled_from(["acct_1", "acct_2"]),
        amount=st.sampled_from([49, 100, 200]),
        source=st.sampled_from(["tok_visa", "tok_chargeDeclined"]),
    )
    def begin(self, key: str, account: str, amount: int, source: str) -> None:
        """A request comes: it begins, or its answer is known before."""
        form, slot = {**CHARGE, "amount": amount, "source": source}, (account, key)
        request = self.till.request("POST", "/v1/charges", form, key, **{"stripe-account": account})
        begun = self.till.stripe.begin(request, self.till.now)
        known = self.expected.get(slot)
        if known is not None and known.payload is not None and self.till.now - known.since >= DAY:
            known = None
        if amount < 50:
            assert self._refused(begun) == (400, "amount_too_small")
        elif known is None:
            assert isinstance(begun, Work)
            self.expected[slot] = Expected(form, self.till.now)
            self.flying.append(Flying(begun, slot))
        elif known.form != form:
            assert self._refused(begun) == (400, None)
        elif known.payload is None:
            assert self._refused(begun) == (409, "idempotency_key_in_use")
        else:
            assert isinstance(begun, Answer)
            assert (begun.payload, begun.headers["Idempotent-Replayed"]) == (known.payload, "true")

    @precondition(lambda self: any(one.answer is None for one in self.flying))
    @rule(data=st.data())
    def execute(self, data: st.DataObject) -> None:
        """One of those in flight executes."""
        one = data.draw(st.sampled_from([one for one in self.flying if one.answer is None]))
        one.answer = self.till.stripe.execute(one.work, self.till.now)
        self.allowed += 1

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, fails: bool) -> None:
        """One is answered: as it executed, or with a 500, executed or not."""
        one = data.draw(st.sampled_from(self.flying))
        self.flying.remove(one)
        answer = self.till.stripe.failure(500) if fails or one.answer is None else one.answer
        self.expected[one.slot].payload = self.till.stripe.finish(one.work, answer, self.till.now).payload

    @precondition(lambda self: any(one.answer is None for one in self.flying))
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """One is turned away before it executes: its key is as if it had never come."""
        one = data.draw(st.sampled_from([one for one in self.flying if one.answer is None]))
        self.flying.remove(one)
        self.till.stripe.abandon(one.work)
        del self.expected[one.slot]

    @rule(hours=st.sampled_from([1, 12, 24]))
    def wait(self, hours: int) -> None:
        """Time passes."""
        self.till.now += hours * HOUR

    @invariant()
    def executes_once(self) -> None:
        """Each that began executed once, or not at all."""
        assert len(self.till.executions) == self.allowed
        assert len({row.request for row in self.till.executions}) == self.allowed

    def _refused(self, begun: Answer | Work) -> tuple[int, str | None]:
        assert isinstance(begun, Answer)
        return begun.status, begun.body["error"].get("code")


KeysMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestKeys = KeysMachine.TestCase
TestKeys.__doc__ = KeysMachine.__doc__
