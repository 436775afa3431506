"""The simulated vendor: enough of Stripe's v1 as a pure state machine, whose own books are the truth. Sends nothing, knows no guard.

A request is begun and finished in two steps, so that its effect and its answer can come at any moment, or after its client has gone.
Idempotency is Stripe's ("we save the resulting status code and body of the first request made for any given idempotency key, regardless of
whether it succeeds or fails … subsequent requests with the same key return the same result, including 500 errors"; results are saved
"only … after the execution of an endpoint begins. If incoming parameters fail validation, or the request conflicts with another request
that's executing concurrently, we don't save"; docs.stripe.com/api/idempotent_requests, read November 2026).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from keyguard.testing.simulator.exchange import CENT, Answer, Intent, Request, failure, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

# "Keys can be removed from the system automatically after they're at least 24 hours old" (same page).
_KEPT_SECONDS = 24 * 3600
_CONFIRMABLE = frozenset({"requires_confirmation", "requires_action", "requires_payment_method"})


@dataclass(slots=True)
class _Stored:
    asked: tuple[Any, ...]
    at: float
    answer: Answer | None = None


class Watcher(Protocol):
    """Who is told what really happened."""

    def charged(self, request: Request | None, intent: Intent, amount: int) -> None:
        """Money moved; without a request, somewhere else."""
        ...

    def made(self, request: Request, intent: Intent) -> None:
        """An intent came to be."""
        ...

    def created(self, request: Request, intent: Intent) -> None:
        """The request that made it was executed to its end."""
        ...

    def refunded(self, request: Request, intent: Intent, amount: int, refund_id: str) -> None:
        """Money was given back."""
        ...


@dataclass(slots=True)
class Odds:
    """How often the vendor declines, asks for an action, fails before or after executing, or has had enough (429)."""

    decline: float = 0.06
    action: float = 0.08
    fails_before: float = 0.03
    fails_after: float = 0.04
    busy: float = 0.03


class Vendor:
    """
    All accounts of one vendor. Ids count from 1 in each account, so the same id means two things in two accounts.

    Args:
        time: True time in seconds, which is nobody's clock.
        watcher: Told of each effect when it happens.
        odds: How often what goes wrong.

    Attributes:
        forgets: It removes keys as soon as it may.
    """

    def __init__(self, time: Callable[[], float], watcher: Watcher, odds: Odds) -> None:
        self._time, self._watcher, self._odds, self.forgets = time, watcher, odds, True
        self._stored: dict[tuple[str, str], _Stored] = {}
        self.intents: dict[tuple[str, str], Intent] = {}
        self._made: dict[str, int] = {}
        self._refunds = 0

    # -- a request's life ---------------------------------------------------------------------------

    def begin(self, request: Request) -> None:
        """Take a request in: answered at once where nothing is to be executed, else running."""
        request.state = "done"
        if request.method == "GET":
            request.answer = self._read(request)
            return
        name = (request.account, request.key or "")
        asked = (request.method, request.path, request.params)
        known = self._known(name)
        if known is not None and known.asked != asked:
            request.answer = failure(400, "idempotency_error")
        elif known is not None and known.answer is None:
            request.answer = failure(409, "idempotency_key_in_use")
        elif known is not None and known.answer is not None:
            old = known.answer
            request.answer = replace(old, is_replay=True, headers={"idempotent-replayed": "true"})
        elif request.luck < self._odds.busy:
            request.answer = failure(429, "rate_limit")
        elif (problem := self._problem(request)) is not None:
            request.answer = problem
        else:
            request.state = "running"
            if request.key is not None:
                self._stored[name] = _Stored(asked, self._time())

    def finish(self, request: Request) -> None:
        """Execute a running request, and store its answer."""
        answer = self._execute(request)
        request.state, request.answer = "done", answer
        stored = self._stored.get((request.account, request.key or ""))
        if stored is not None and request.key is not None:
            stored.answer = answer

    def may_execute(self, request: Request) -> bool:
        """Say whether a request that is not done can still have an effect."""
        if request.state == "running":
            return True
        known = self._known((request.account, request.key or ""))
        return request.state == "wire" and (known is None or known.answer is None)

    def _known(self, name: tuple[str, str]) -> _Stored | None:
        known = self._stored.get(name) if name[1] else None
        if self.forgets and known is not None and known.answer is not None and self._time() - known.at > _KEPT_SECONDS:
            del self._stored[name]
            return None
        return known

    # -- what is executed ---------------------------------------------------------------------------

    def _problem(self, request: Request) -> Answer | None:
        """Return what the vendor says to a request that it will not begin."""
        words, params = request.words, dict(request.params)
        if words[0] == "refunds":
            intent = self.intents.get((request.account, params["payment_intent"]))
            if intent is None:
                return failure(404, "resource_missing")
            return failure(400, "charge_already_refunded") if self._refundable(intent) < int(params["amount"]) * CENT else None
        if len(words) == 1:
            return None
        intent = self.intents.get((request.account, words[1]))
        if intent is None:
            return failure(404, "resource_missing")
        verb = words[2] if len(words) > 2 else "update"
        return None if intent.status in _FITTING[verb] else failure(400, "payment_intent_unexpected_state")

    def _execute(self, request: Request) -> Answer:
        # The state may have changed since the request was begun.
        problem = self._problem(request)
        if problem is not None:
            return problem
        odds, luck = self._odds, request.luck - self._odds.busy
        if luck < odds.fails_before:
            return failure(500, "api_error")
        answer = self._done(request, luck - odds.fails_before - odds.fails_after)
        return failure(500, "api_error") if luck < odds.fails_before + odds.fails_after else answer

    def _done(self, request: Request, luck: float) -> Answer:
        words, params = request.words, dict(request.params)
        if words[0] == "refunds":
            return self._refund(request, self.intents[request.account, params["payment_intent"]], int(params["amount"]) * CENT)
        if len(words) == 1:
            return self._create(request, params, luck)
        intent = self.intents[request.account, words[1]]
        verb = words[2] if len(words) > 2 else "update"
        intent.version += 1
        if verb == "confirm":
            return self._confirm(request, intent, luck)
        if verb == "capture":
            amount = int(params["amount_to_capture"]) * CENT if "amount_to_capture" in params else intent.amount
            self._charge(request, intent, min(amount, intent.amount))
        elif verb == "cancel":
            intent.status = "canceled"
        else:
            intent.amount, intent.raised = int(params["amount"]) * CENT, 0
        return shown(intent)

    def _create(self, request: Request, params: dict[str, str], luck: float) -> Answer:
        number = self._made[request.account] = self._made.get(request.account, 0) + 1
        intent = Intent(f"pi_{number}", request.account, int(params["amount"]) * CENT, params.get("capture_method") == "manual")
        self.intents[request.account, intent.id] = intent
        self._watcher.made(request, intent)
        answer = self._confirm(request, intent, luck) if params.get("confirm") == "true" else shown(intent)
        intent.is_loose = answer.status == 402
        self._watcher.created(request, intent)
        return answer

    def _confirm(self, request: Request | None, intent: Intent, luck: float) -> Answer:
        intent.version += 1
        if 0 <= luck < self._odds.decline:
            intent.status = "requires_payment_method"
            return failure(402, "card_declined")
        if 0 <= luck - self._odds.decline < self._odds.action:
            intent.status = "requires_action"
        elif intent.is_manual:
            intent.status = "requires_capture"
        else:
            self._charge(request, intent, intent.amount)
        return shown(intent)

    def _charge(self, request: Request | None, intent: Intent, amount: int) -> None:
        intent.received, intent.status = amount, "succeeded"
        self._watcher.charged(request, intent, amount)

    def _refundable(self, intent: Intent) -> int:
        return intent.received - intent.refunded

    def _refund(self, request: Request, intent: Intent, amount: int) -> Answer:
        intent.refunded += amount
        self._refunds += 1
        refund_id = f"re_{self._refunds}"
        self._watcher.refunded(request, intent, amount, refund_id)
        body: dict[str, Any] = {
            "id": refund_id, "object": "refund", "amount": amount // CENT, "currency": "usd", "status": "succeeded",
            "payment_intent": intent.id,
        }  # fmt: skip
        return Answer(200, json.dumps(body).encode(), refund=amount, refund_id=refund_id)

    def _read(self, request: Request) -> Answer:
        intent = self.intents.get((request.account, request.words[1]))
        if request.luck < self._odds.fails_before:
            return failure(500, "api_error")
        return failure(404, "resource_missing") if intent is None else shown(intent)

    # -- what happens elsewhere ---------------------------------------------------------------------

    def pay_elsewhere(self, intent: Intent) -> None:
        """Let the customer confirm with the client_secret, outside of every guard."""
        self._confirm(None, intent, 1.0)

    def raise_elsewhere(self, intent: Intent, amount: int) -> None:
        """Let somebody add to what an intent costs, in the dashboard."""
        intent.amount += amount
        intent.raised += amount
        intent.version += 1


_FITTING: dict[str, frozenset[str]] = {
    "confirm": _CONFIRMABLE,
    "update": _CONFIRMABLE,
    "capture": frozenset({"requires_capture"}),
    "increment_authorization": frozenset({"requires_capture"}),
    "cancel": _CONFIRMABLE | {"requires_capture"},
}


def draw_odds(rng: Random) -> Odds:
    """Draw how a seed's vendor behaves; many are calm in some respect."""
    return Odds(*(rng.choice((0.0, usual, usual, 3 * usual)) for usual in (0.06, 0.08, 0.03, 0.04, 0.03)))
