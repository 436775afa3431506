"""What the simulated runs do: jobs drawn from the seed, each the body of a task that its orchestrator may try again. Decides no money."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import httpx

from keyguard.errors import BackendError, Refused
from keyguard.model import Call
from keyguard.testing.simulator.client import APIConnectionError, VendorError, send
from keyguard.testing.simulator.machine import Struck, StruckHard

if TYPE_CHECKING:
    from random import Random

    from keyguard.testing.simulator.client import Running, Thread
    from keyguard.testing.simulator.exchange import Answer

Kind = Literal["charge", "hold", "intent", "refund", "foreign_refund", "read"]
_KINDS: tuple[Kind, ...] = ("charge", "hold", "intent", "refund", "foreign_refund", "read")
ACCOUNTS = ("", "acct_1", "acct_2")
# What may end a task, and lets its orchestrator try again; a refusal is not among them (`retry_unless_refused`).
_FAILURES = (VendorError, APIConnectionError, httpx.TransportError, BackendError, Struck, StruckHard)


@dataclass(frozen=True, slots=True)
class Job:
    """
    One task of a flow.

    Attributes:
        amount: Dollars-cents that it charges, or the part of it that a refund gives back.
        part: Cents of it that are captured, refunded, or that an intent is changed to.
        key: The Idempotency-Key that the task's code gives, the same in every try; "" = the SDK makes one for each call.
        tries: How often the task is tried at most.
        turn: What an intent's life is to be.
        persists: Its result is kept, and its task skipped in the next execution.
        scope: Its calls are made in an `idempotency_scope` of this name; "" = in none.
        wobbles: Each try sends other metadata.
        child: The child run that its task belongs to, by the child's name; "" = the run itself. `then`, the one in which what it has
            opened is gone on with.
    """

    name: str
    kind: Kind
    account: str
    amount: int
    part: int
    key: str
    tries: int
    turn: float
    persists: bool
    scope: str
    wobbles: bool
    child: str = ""
    then: str = ""

    @property
    def creates(self) -> tuple[tuple[str, str], ...]:
        """The parameters of the first request, of a job that makes something."""
        pairs = [("amount", str(self.amount)), ("currency", "usd")]
        if self.kind in {"charge", "hold"}:
            pairs.append(("confirm", "true"))
        if self.kind == "hold":
            pairs.append(("capture_method", "manual"))
        return tuple(pairs)


def draw_jobs(rng: Random, run_id: str, count: int, dearest: int) -> tuple[Job, ...]:
    """Draw the tasks of a flow; some are the same request twice on purpose."""
    jobs: list[Job] = []
    for number in range(count):
        name = f"{run_id}.{number}"
        amount = rng.choice((100, 250, dearest // 2, dearest, rng.randint(1, dearest)))
        kind = rng.choices(_KINDS, (9, 4, 6, 3, 1, 2))[0]
        account = rng.choice(ACCOUNTS)
        if jobs and rng.random() < 0.25:
            kind, account, amount = jobs[-1].kind, jobs[-1].account, jobs[-1].amount
        key = name if rng.random() < 0.5 else ""
        scope = f"order-{name}" if not key and rng.random() < 0.15 else ""
        jobs.append(
            Job(
                name, kind, account, amount, rng.randint(1, amount), key, rng.choice((1, 1, 2, 4)), rng.random(),
                persists=rng.random() < 0.4, scope=scope, wobbles=rng.random() < 0.1,
            )
        )  # fmt: skip
    return tuple(jobs)


def task(thread: Thread, job: Job, flow: Flow) -> Running:
    """Try a task's body until it succeeds, is refused, or was tried often enough."""
    for attempt in range(1, job.tries + 1):
        flow.begin(thread, job, attempt)
        try:
            yield from _BODIES[job.kind](thread, job, flow)
        except Refused:
            return
        except _FAILURES:
            pass
        else:
            thread.succeeded = True
            return
        yield None


class Flow:
    """
    What the bodies of one execution's tasks share: the intents that it made. Keeps nothing over a restart, as a real one.

    Attributes:
        given_back: What stands in the user's own database, whatever restarts: by task, which intent it gives back, and how many cents.
    """

    def __init__(self, new_key: Any, begin: Any, others: Any, made: Any, go_on: Any, given_back: dict[str, tuple[str, int]]) -> None:
        self.new_key, self.begin, self.others, self.made, self.go_on = new_key, begin, others, made, go_on
        self.given_back = given_back
        self.paid: list[tuple[str, str, int]] = []
        self.open: list[tuple[str, str]] = []


def _post(thread: Thread, job: Job, flow: Flow, verb: str, path: str, **params: str) -> Running:
    key = f"{job.key}.{verb}" if job.key else flow.new_key()
    if job.wobbles:
        params["metadata[try]"] = str(thread.run.attempt)
    call = Call("stripe", "POST", "https", "api.stripe.com", path, body=tuple(params.items()), account=job.account, idempotency_key=key)
    answer: Answer = yield from send(thread, call, has_own_key=bool(job.key))
    return json.loads(answer.body)


def _get(thread: Thread, job: Job, path: str) -> Running:
    answer: Answer = yield from send(thread, Call("stripe", "GET", "https", "api.stripe.com", path, account=job.account))
    return json.loads(answer.body)


def _charge(thread: Thread, job: Job, flow: Flow) -> Running:
    intent = yield from _post(thread, job, flow, "create", "/v1/payment_intents", **dict(job.creates))
    flow.made(job, intent["id"])
    flow.paid.append((job.account, intent["id"], job.amount))


def _hold(thread: Thread, job: Job, flow: Flow) -> Running:
    """Authorise now, perhaps for more a little later, and capture all, a part, or nothing."""
    intent = yield from _post(thread, job, flow, "create", "/v1/payment_intents", **dict(job.creates))
    flow.made(job, intent["id"])
    flow.go_on(thread, job)
    path = f"/v1/payment_intents/{intent['id']}"
    if job.turn < 0.2:
        yield from _post(thread, job, flow, "increment", f"{path}/increment_authorization", amount=str(job.amount + job.part))
    if job.turn < 0.4:
        yield from _post(thread, job, flow, "capture", f"{path}/capture")
    elif job.turn < 0.7:
        yield from _post(thread, job, flow, "capture", f"{path}/capture", amount_to_capture=str(job.part))
    elif job.turn < 0.9:
        yield from _post(thread, job, flow, "cancel", f"{path}/cancel")


def _intent(thread: Thread, job: Job, flow: Flow) -> Running:
    """Make an intent, change it perhaps, confirm it, or leave it to its customer."""
    intent = yield from _post(thread, job, flow, "create", "/v1/payment_intents", **dict(job.creates))
    flow.made(job, intent["id"])
    flow.go_on(thread, job)
    path = f"/v1/payment_intents/{intent['id']}"
    if job.turn < 0.3:
        yield from _post(thread, job, flow, "update", path, amount=str(job.amount + job.part if job.turn < 0.2 else job.part))
    if job.turn < 0.7:
        found = yield from _post(thread, job, flow, "confirm", f"{path}/confirm")
        if found["status"] == "succeeded":
            flow.paid.append((job.account, intent["id"], found["amount_received"]))
    elif job.turn < 0.8:
        yield from _post(thread, job, flow, "cancel", f"{path}/cancel")
    else:
        flow.open.append((job.account, intent["id"]))
    if job.turn < 0.1 or job.turn > 0.9:
        yield from _get(thread, job, path)


def _refund(thread: Thread, job: Job, flow: Flow) -> Running:
    """Give back a part of what this execution charged before, to the same account; or, under a key of its own, what it gave back before."""
    paid = [one for one in flow.paid if one[0] == job.account]
    asked = flow.given_back.get(job.name)
    if asked is None and paid:
        _, intent, amount = paid[int(job.turn * len(paid))]
        asked = intent, min(job.part, amount)
        if job.key:
            flow.given_back[job.name] = asked
    if asked is not None:
        yield from _post(thread, job, flow, "refund", "/v1/refunds", payment_intent=asked[0], amount=str(asked[1]))


def _foreign_refund(thread: Thread, job: Job, flow: Flow) -> Running:
    """Give back a part of what another run charged: for this run that is spending."""
    found = flow.others(thread, job)
    if found is not None:
        yield from _post(thread, job, flow, "refund", "/v1/refunds", payment_intent=found, amount=str(job.part))


def _read(thread: Thread, job: Job, flow: Flow) -> Running:
    """Look at something that this execution made."""
    made = [one for one in (*flow.paid, *flow.open) if one[0] == job.account]
    if made:
        yield from _get(thread, job, f"/v1/payment_intents/{made[int(job.turn * len(made))][1]}")


_BODIES = {"charge": _charge, "hold": _hold, "intent": _intent, "refund": _refund, "foreign_refund": _foreign_refund, "read": _read}
