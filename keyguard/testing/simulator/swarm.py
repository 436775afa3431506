"""How one seed's world behaves: each seed draws its own odds, so that what is rare in one is common in another (swarm testing)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from keyguard.model import Policy
from keyguard.testing.simulator.exchange import CENT
from keyguard.testing.simulator.vendor import draw_odds
from keyguard.testing.simulator.work import Job, draw_jobs

if TYPE_CHECKING:
    from keyguard.ledgers import Durability
    from keyguard.testing.simulator.vendor import Odds


@dataclass(frozen=True, slots=True)
class Weather:
    """
    The odds of one seed, each for one step of whatever it concerns.

    Attributes:
        event: Something happens to the world, and no thread runs.
        lost, timeout: An answer that is there never arrives; a client gives up waiting.
        refused, dropped: A connection is refused; a request is lost on its way.
        struck, fault: An exception is injected into a thread; something strikes within the ledger.
        late: A request whose client has gone goes on.
        pace: Seconds that a step takes at most.
        weights: How often which event of the world, in the order of `EVENTS`.
        dearest: Cents of the largest charge.
        width: Threads of one execution.
    """

    event: float
    lost: float
    timeout: float
    refused: float
    dropped: float
    struck: float
    fault: float
    late: float
    pace: float
    weights: tuple[float, ...]
    dearest: int
    width: int
    processes: int
    durability: Durability
    vendor: Odds

    @property
    def has_right_clock(self) -> bool:
        """Whether the machine's clock tells the true time in this seed."""
        return not (self.weights[EVENTS.index("back")] or self.weights[EVENTS.index("forth")])


@dataclass(frozen=True, slots=True)
class Kid:
    """A child run with a budget of its own: what it asks for, and the child that it is called in; "" = the run itself."""

    name: str
    policy: Policy
    within: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: who pays, what it does, how often its flow is executed at most, and its children, each behind what it lies in."""

    run_id: str
    policy: Policy
    jobs: tuple[Job, ...]
    executions: int
    kids: tuple[Kid, ...] = ()

    @property
    def once(self) -> Counter[object]:
        """How often each kind of charge is meant, of those that keyguard derives keys for; a caller's own key is his own affair."""
        making = [job for job in self.jobs if job.kind in {"charge", "hold", "intent"} and not job.wobbles]
        own = {(job.account, job.creates) for job in making if job.key}
        if self.policy.idempotency == "off":
            return Counter()
        return Counter((job.account, job.creates) for job in making if (job.account, job.creates) not in own)


EVENTS = (
    "start", "again", "kill", "tick", "midnight", "days", "back", "forth", "revoke", "raise", "narrow", "pay_elsewhere", "raise_elsewhere",
    "look", "shut", "resolve",
)  # fmt: skip
_USUAL = (5.0, 3.0, 1.0, 2.0, 1.0, 0.3, 0.7, 0.5, 0.4, 1.0, 0.4, 2.0, 0.5, 1.0, 0.5, 1.5)


def draw_weather(rng: Random) -> Weather:
    """Draw a seed's odds."""

    def odds(usual: float) -> float:
        return rng.choice((0.0, usual / 2, usual, usual, 3 * usual))

    return Weather(
        event=rng.choice((0.01, 0.03, 0.06)),
        lost=odds(0.06), timeout=odds(0.04), refused=odds(0.04), dropped=odds(0.03), struck=odds(0.01), fault=odds(0.01),
        late=rng.choice((0.01, 0.05, 0.2)), pace=rng.choice((0.1, 2.0, 30.0)),
        weights=tuple(weight * rng.choice((0.0, 1.0, 1.0, 3.0)) if at > 1 else weight for at, weight in enumerate(_USUAL)),
        dearest=rng.choice((600, 1000, 5000)), width=rng.choice((1, 2, 4, 8)), processes=rng.choice((1, 2, 3)),
        durability=rng.choice(("process", "process", "power")), vendor=draw_odds(rng),
    )  # fmt: skip


def draw_plan(rng: Random, run_id: str, weather: Weather) -> Plan:
    """Draw a run: its caps are a few of its charges wide, so that it meets them."""
    dearest, name = weather.dearest, f"flow-{rng.randint(0, 1)}"
    cap = dearest * rng.choice((2, 5, 12)) + rng.choice((0, rng.randint(0, 99)))
    fields: dict[str, object] = {"name": name, "run_usd_cap": cap * CENT}
    if rng.random() < 0.6:
        fields["daily_usd_cap"] = dearest * rng.choice((4, 10, 30)) * CENT
    if rng.random() < 0.3:
        fields["max_calls"] = rng.randint(3, 40)
    if rng.random() < 0.3:
        fields["refund_usd_cap"] = rng.randint(0, 2 * dearest) * CENT
    if rng.random() < 0.2:
        fields["call_usd_cap"] = dearest * CENT
    if rng.random() < 0.2:
        fields["expires_in"] = rng.choice((60.0, 3600.0, 3 * 86_400.0))
    if rng.random() < 0.15:
        fields["idempotency"] = "off"
    plan = Plan(run_id, Policy.restored(fields), draw_jobs(rng, run_id, rng.randint(3, 30), dearest), rng.choice((1, 2, 4)))
    return _with_kids(plan, dearest)


def _with_kids(plan: Plan, dearest: int) -> Plan:
    """Give half of the runs children, to which most of their tasks belong."""
    # Of its own, so that a seed is the same history but for them.
    rng = Random(f"children of {plan.run_id} {plan.policy.run_usd_cap} {len(plan.jobs)} {plan.executions}")  # noqa: S311 -- repeatable
    if rng.random() < 0.5:
        return plan
    kids: list[Kid] = []
    for name in ("a", "b")[: rng.randint(1, 2)]:
        fields: dict[str, object] = {"name": f"kid-{name}", "run_usd_cap": dearest * rng.choice((1, 2, 4)) * CENT}
        if rng.random() < 0.3:
            fields["max_calls"] = rng.randint(2, 12)
        kids.append(Kid(name, Policy.restored(fields), kids[0].name if kids and rng.random() < 0.4 else ""))
    names = ["", *(kid.name for kid in kids), *(kid.name for kid in kids)]
    return replace(
        plan,
        jobs=tuple(replace(job, child=(child := rng.choice(names)), then=rng.choice((child, *names))) for job in plan.jobs),
        kids=tuple(kids),
    )
