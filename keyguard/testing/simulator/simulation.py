"""One seed: the clock, the scheduler, and all that happens to the world. What is decided here is only what comes next."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING

import httpx

from keyguard.context import IdempotencyScope, RunRef
from keyguard.errors import LedgerUnavailable
from keyguard.model import Reply
from keyguard.testing.simulator.client import Beside, Network, Thread
from keyguard.testing.simulator.judge import Judge
from keyguard.testing.simulator.machine import FAULTS, STEPS, Fault, Killed, Process, SimulatedLedger, Struck, StruckHard
from keyguard.testing.simulator.swarm import EVENTS, Plan, draw_plan, draw_weather
from keyguard.testing.simulator.vendor import CENT, Request, Vendor
from keyguard.testing.simulator.work import Flow, Job, task

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.context import Ticket
    from keyguard.model import Call
    from keyguard.testing.simulator.truth import Run
    from keyguard.testing.simulator.vendor import Answer

NOON = 20_000 * 86_400.0 + 43_200.0
_DAY = 86_400.0
_VERIFIED_EVERY = 100
_SHOWN_EVENTS = 40
_HOUR = 3600.0


@dataclass(slots=True, eq=False)
class Execution:
    """One entry of a flow's body in one process."""

    plan: Plan
    process: Process
    token: str
    flow: Flow
    next_job: int = 0
    threads: list[Thread] = field(default_factory=list[Thread])


class Simulation(Network):
    """
    The world of one seed.

    Args:
        seed: From which everything follows.
        folder: An empty folder for the ledger's file; on a disk of memory it is quickest.

    Attributes:
        number: Steps made.
        events: What happened last, newest at the end.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.rng, self._path = seed, Random(seed), folder / "ledger.db"  # noqa: S311 -- repeatable, and no secret
        self.number = self.calls = 0
        self.events: deque[str] = deque(maxlen=_SHOWN_EVENTS)
        self._hash = hashlib.blake2b(digest_size=16)
        self._true, self._offset, self._latest = NOON, 0.0, 0.0
        self._ids, self._names = count(1), count(1)
        self.weather = draw_weather(self.rng)
        self.judge = Judge(self.clock, lambda: self._latest)
        self.vendor = self.judge.vendor = Vendor(lambda: self._true, self.judge, self.weather.vendor)
        # Whoever measures a window with a wrong clock may come after the vendor has forgotten a key.
        self.vendor.forgets = self.weather.has_right_clock
        self.processes: list[Process] = []
        self.executions: list[Execution] = []
        self.threads: list[Thread] = []
        self.orphans: list[Request] = []
        self.plans: list[tuple[Plan, int]] = []
        self.kept: set[str] = set()
        self.is_calm = False
        self.operator = self._process("operator")

    # -- time ---------------------------------------------------------------------------------------

    def clock(self) -> float:
        """Return what the machine's clock says."""
        now = self._true + self._offset
        self._latest = max(self._latest, now)
        return now

    def uptime(self) -> float:
        """Return seconds of true time, which no machine knows."""
        return self._true

    def _pass(self, seconds: float) -> None:
        """Let true time pass; nothing stays on the wire for an hour."""
        if seconds >= _HOUR:
            for request in [*self.orphans, *(thread.waits for thread in self.threads if thread.waits is not None)]:
                while request.state != "done":
                    self._move(request)
            self.orphans.clear()
            for thread in self.threads:
                # What was under way is given up: nobody waits for hours, nor sends after them.
                thread.is_overdue = thread.ticket is not None
        self._true += seconds

    # -- one step -----------------------------------------------------------------------------------

    def step(self) -> None:
        """
        Let one thing happen, and judge it.

        Raises:
            Violation: a promise is broken.
        """
        self.number += 1
        rng, weather = self.rng, self.weather
        self._true += rng.random() * weather.pace
        roll = rng.random()
        if roll < weather.event or not self.threads:
            self._event("start" if not self.threads else rng.choices(EVENTS, weather.weights)[0])
        elif self.orphans and roll < weather.event + weather.late:
            self._move_orphan()
        else:
            self._run(self.threads[int(rng.random() * len(self.threads))])
        if self.judge.violation is not None:
            # Whatever caught it: the code under test catches everything.
            raise self.judge.violation
        if self.number % _VERIFIED_EVERY == 0:
            self._verify()

    def _verify(self) -> None:
        for run in self.judge.runs.values():
            self.judge.look(self.operator.ledger, run)
            self.judge.check(run)
        wrong = [one for one in self.operator.ledger.verify() if not ("at its peak" in one and self.judge.tolerates("stale answer"))]
        if wrong:
            raise self.judge.broken("I7", "; ".join(wrong[:3]))

    def note(self, text: str) -> None:
        """Remember what happened; the seed's hash is over all of it."""
        self.events.append(f"{self.number}: {text}")
        self._hash.update(text.encode())

    @property
    def digest(self) -> str:
        """The hash of all that happened."""
        return self._hash.hexdigest()

    # -- threads ------------------------------------------------------------------------------------

    def _run(self, thread: Thread) -> None:
        rng, weather, request = self.rng, self.weather, thread.waits
        roll = 1.0 if self.is_calm else rng.random()
        if thread.is_overdue:
            thread.is_overdue = False
            self._resume(thread, None, Struck("overdue"))
        elif request is not None and request.state != "done" and roll >= weather.timeout + weather.struck:
            self._move(request)
        elif request is not None and roll < weather.struck:
            self._resume(thread, None, Struck("waiting") if rng.random() < 0.5 else StruckHard("waiting"))
        elif request is not None and (request.answer is None or roll < weather.struck + (weather.lost or weather.timeout)):
            self._resume(thread, None, _broken(rng))
        elif request is not None:
            self._resume(thread, request.answer)
        elif roll < weather.struck:
            self._resume(thread, None, self._injected(thread))
        else:
            if roll < weather.struck + weather.fault:
                step = STEPS[int(rng.random() * len(STEPS))]
                thread.process.ledger.fault = Fault(step, FAULTS[int(rng.random() * len(FAULTS))](step))
            self._resume(thread, None)

    def _injected(self, thread: Thread) -> BaseException:
        error = Struck("at a step") if self.rng.random() < 0.5 else StruckHard("at a step")
        is_guarded = thread.ticket is not None and not thread.ticket.closed
        return Beside(error) if is_guarded and self.rng.random() < 0.5 else error

    def _resume(self, thread: Thread, told: Answer | None, raised: BaseException | None = None) -> None:
        self.note(f"{thread} {type(raised).__name__ if raised is not None else told.status if told is not None else ''}")
        process = thread.process
        try:
            thread.resume(told, raised)
        except Killed:
            self._kill(process)
            return
        except (Struck, StruckHard, Beside):
            # It struck between two tries of the task.
            thread.running = None
        finally:
            process.ledger.fault = None
        if thread.running is None:
            self._ended(thread)

    def _ended(self, thread: Thread) -> None:
        self.threads.remove(thread)
        if thread.succeeded and thread.run.persists:
            self.kept.add(thread.job)
        execution = next(one for one in self.executions if thread in one.threads)
        execution.threads.remove(thread)
        self._fill(execution)

    def _fill(self, execution: Execution) -> None:
        """Start the next tasks of an execution; when there are none, it is over."""
        jobs = execution.plan.jobs
        while len(execution.threads) < self.weather.width and execution.next_job < len(jobs) and not self.is_calm:
            job = jobs[execution.next_job]
            execution.next_job += 1
            if job.name in self.kept:
                continue
            thread = Thread(f"{execution.process}/{execution.token}/{job.name}", job.name, execution.process, self, RunRef(None, "none"))
            thread.sdk_retries = int(self.rng.random() * 3)
            thread.running = task(thread, job, execution.flow)
            execution.threads.append(thread)
            self.threads.append(thread)
        if not execution.threads:
            self.executions.remove(execution)

    def _begin(self, plan: Plan, token: str, thread: Thread, job: Job, attempt: int) -> None:
        thread.run = RunRef(
            plan.run_id, "prefect", flow_name=plan.policy.name or "", execution=token, unit=f"{token}.{job.name}", attempt=attempt,
            task=job.kind, persists=job.persists,
        )  # fmt: skip
        thread.scope = IdempotencyScope(job.scope, f"{token}.{job.name}.{attempt}") if job.scope else None

    # -- the network --------------------------------------------------------------------------------

    def new_id(self) -> str:
        """Make a reservation's id."""
        return f"r{next(self._ids):06d}"

    def _run_of(self, thread: Thread) -> Run:
        return self.judge.runs[thread.run.run_id or ""]

    def post(self, thread: Thread, call: Call) -> Request:
        """Put a request on the wire, or find that nobody listens."""
        rng = self.rng
        self.calls += 1
        if not self.is_calm and rng.random() < self.weather.refused:
            self.note(f"{thread} is refused a connection")
            raise httpx.ConnectError("simulated: connection refused")
        run = self._run_of(thread)
        charge = self.judge.sends(run, thread.ticket)
        request = Request(
            next(self._names), call.method, call.path, call.body or (), call.idempotency_key, call.account, charge, rng.random()
        )
        self.note(
            f"{thread} {charge.id} sends #{request.number} {call.method} {call.path} {dict(request.params)} {call.account} {request.key}"
        )
        if call.is_write:
            run.pending.append(request)
        self.judge.check(run)
        return request

    def ask(self, thread: Thread, path: str) -> Reply:
        """Answer a read of keyguard's own at once, or not at all."""
        if not self.is_calm and self.rng.random() < self.weather.lost:
            raise httpx.ReadTimeout("simulated: no answer")
        account = thread.ticket.call.account if thread.ticket is not None else ""
        request = Request(0, "GET", path, (), None, account, None, self.rng.random())
        self.vendor.begin(request)
        assert request.answer is not None
        return Reply(request.answer.status, {}, request.answer.body)

    def lost(self, ticket: Ticket) -> None:
        """Take note of it."""
        self.judge.lost(ticket)

    def attempt_ended(self, ticket: Ticket, request: Request | None, answer: Answer | None) -> None:
        """Take note of it; a request that nobody waits for any more goes on alone."""
        self.judge.attempt_ended(ticket, request, answer)
        if request is not None and request.state != "done":
            self.orphans.append(request)

    def _move(self, request: Request) -> None:
        """Let a request come one step further: begun, executed, or lost."""
        roll = self.rng.random()
        if request.state == "wire" and roll < self.weather.dropped:
            request.state = "done"
        elif request.state == "wire":
            self.vendor.begin(request)
        else:
            self.vendor.finish(request)
        self.note(f"#{request.number} {request.state} {request.answer.status if request.answer is not None else ''}")
        if request.by is not None:
            self.judge.check(request.by.run)

    def _move_orphan(self) -> None:
        request = self.orphans[int(self.rng.random() * len(self.orphans))]
        self._move(request)
        if request.state == "done":
            self.orphans.remove(request)

    # -- processes ----------------------------------------------------------------------------------

    def _process(self, name: str) -> Process:
        ledger = SimulatedLedger(self._path, name, clock=self.clock, durability=self.weather.durability, watcher=self.judge)
        return Process(name, ledger, lambda: self._true)

    def _some_process(self) -> Process:
        if len(self.processes) < self.weather.processes:
            self.processes.append(self._process(f"p{next(self._names)}"))
            return self.processes[-1]
        return self.rng.choice(self.processes)

    def _execute(self, plan: Plan, process: Process) -> None:
        """Enter a flow's body: install, and start its first tasks."""
        token = f"x{next(self._names)}"
        self.note(f"{process} enters {plan.run_id} as {token}")
        process.installs += 1
        key, _ = process.armed.issue(process.backend, plan.policy, plan.run_id)
        run = self.judge.issued(key, plan.policy)
        if not run.named:
            run.wanted = plan.once
        self.judge.look(process.ledger, run)
        self.judge.check(run)
        flow = Flow(lambda: f"sdk-{next(self._names)}", partial(self._begin, plan, token), self._paid_by_others, partial(self._made, {}))
        execution = Execution(plan, process, token, flow)
        self.executions.append(execution)
        self._fill(execution)

    def _made(self, made: dict[tuple[str, str], str], job: Job, intent: str) -> None:
        """Take note of what a task of an execution has got: what another one of it has got already is none of its own."""
        if made.setdefault((job.account, intent), job.name) != job.name:
            raise self.judge.broken("once", f"{job.name} got {intent} of {made[job.account, intent]}: its own charge was never made")

    def _paid_by_others(self, thread: Thread, job: Job) -> str | None:
        found = [
            thing.intent.id
            for run in self.judge.runs.values()
            if run.run_id != thread.run.run_id
            for thing in run.things.values()
            if thing.intent.account == job.account and thing.intent.received > thing.intent.refunded
        ]
        return found[int(job.turn * len(found))] if found else None

    def _kill(self, process: Process) -> None:
        self.note(f"{process} is killed")
        self.processes.remove(process)
        self.executions = [one for one in self.executions if one.process is not process]
        for thread in [one for one in self.threads if one.process is process]:
            self.threads.remove(thread)
            running, thread.running = thread.running, None
            if running is not None:
                running.close()
        process.kill()

    # -- events of the world ------------------------------------------------------------------------

    def _event(self, name: str) -> None:
        self.note(name)
        getattr(self, f"_on_{name}")()

    def _on_start(self) -> None:
        if len(self.plans) > 1 and self.rng.random() < 0.3 and self.threads:
            return
        plan = draw_plan(self.rng, f"run-{len(self.plans) + 1}", self.weather)
        self.plans.append((plan, 1))
        self._execute(plan, self._some_process())

    def _on_again(self) -> None:
        """Execute a flow once more: after its end, after its process's death, or beside it."""
        left = [at for at, (plan, times) in enumerate(self.plans) if times < plan.executions]
        if left:
            at = self.rng.choice(left[-4:])
            plan, times = self.plans[at]
            self.plans[at] = (plan, times + 1)
            self._execute(plan, self._some_process())

    def _on_kill(self) -> None:
        if self.processes:
            self._kill(self.rng.choice(self.processes))

    def _on_tick(self) -> None:
        self._pass(self.rng.random() * 120)

    def _on_midnight(self) -> None:
        """Go to a moment just before, at, or after the machine's next midnight."""
        self._pass(_DAY - self.clock() % _DAY + self.rng.choice((-1.0, -0.001, 0.0, 5.0)))

    def _on_days(self) -> None:
        self._pass(_DAY * self.rng.choice((0.5, 1, 1.2, 3, 40)))

    def _on_back(self) -> None:
        self._offset -= self.rng.choice((1.0, _HOUR, _DAY, 30 * _DAY))

    def _on_forth(self) -> None:
        self._offset = 0.0 if self._offset < 0 else self._offset + self.rng.choice((1.0, _HOUR, _DAY))

    def _some_run(self) -> Run | None:
        recent = [self.judge.runs[plan.run_id] for plan, _ in self.plans[-4:] if plan.run_id in self.judge.runs]
        return self.rng.choice(recent) if recent else None

    def _on_revoke(self) -> None:
        run = self._some_run()
        if run is None:
            return
        ledger = self.operator.ledger
        if self.rng.random() < 0.3:
            ledger.fault = Fault(self.rng.choice(STEPS), LedgerUnavailable("simulated"))
        run.may_be_revoked = True
        try:
            ledger.revoke(run_id=run.run_id, by="operator")
        except LedgerUnavailable:
            return
        run.is_revoked = True

    def _on_raise(self) -> None:
        run = self._some_run()
        if run is not None:
            cap = max(1, run.cap + self.rng.randint(-3, 6) * self.weather.dearest * CENT // 2)
            self.judge.changed(run, self.operator.ledger.raise_cap(run.run_id, cap, by="operator"))

    def _on_narrow(self) -> None:
        """Install again in a run, with the same policy or a narrower one."""
        run = self._some_run()
        if run is not None and self.processes:
            process = self.rng.choice(self.processes)
            process.installs += 1
            narrower = {"run_usd_cap": max(1, run.cap - self.weather.dearest * CENT)} if self.rng.random() < 0.5 else {}
            asked = run.policy.model_copy(update=narrower)
            key, _ = process.armed.issue(process.backend, asked, run.run_id)
            self.judge.issued(key, asked)

    def _on_pay_elsewhere(self) -> None:
        self._elsewhere(self.vendor.pay_elsewhere)

    def _on_raise_elsewhere(self) -> None:
        self._elsewhere(lambda intent: self.vendor.raise_elsewhere(intent, self.rng.randint(1, self.weather.dearest) * CENT))

    def _elsewhere(self, happen: object) -> None:
        found = [
            (run, thing.intent)
            for run in self.judge.runs.values()
            for thing in run.active.values()
            if thing.intent.status in {"requires_confirmation", "requires_action"} and not thing.intent.is_loose
        ]
        if found:
            run, intent = self.rng.choice(found)
            self.note(f"{intent.account}/{intent.id}")
            happen(intent)  # type: ignore[operator]
            self.judge.check(run)

    def _on_look(self) -> None:
        """Ask for a run's figures, as a person or a task does."""
        run = self._some_run()
        if run is None or not self.processes:
            return
        process = self.rng.choice(self.processes)
        usage = process.backend.usage(run.scope)
        self.judge.look(process.ledger, run)
        assert usage is not None
        if (usage.cap, usage.spent, usage.held, usage.doubt) != self.judge.figures[run.scope, ""]:
            raise self.judge.broken("I7", f"usage says {usage}, the books {self.judge.figures[run.scope, '']}")
        self.judge.check(run)

    def _on_shut(self) -> None:
        """Put a ledger handle away; its next use opens it again."""
        process = self.rng.choice(self.processes) if self.processes else None
        is_busy = any(thread.process is process and thread.ticket is not None for thread in self.threads)
        if process is not None and not (is_busy and self.judge.tolerates("shut while open")):
            process.backend.shut()

    # -- the end ------------------------------------------------------------------------------------

    def finish(self) -> None:
        """
        Let everything come to its end without another fault, and look for what is left.

        Raises:
            Violation: a promise is broken.
        """
        self.is_calm = True
        while self.threads or self.orphans:
            self.number += 1
            if self.threads:
                self._run(self.threads[0])
            else:
                self._move_orphan()
            if self.judge.violation is not None:
                raise self.judge.violation
        for process in self.processes:
            for run in self.judge.runs.values():
                process.backend.usage(run.scope)
        self.judge.check_all_closed([process.ledger for process in self.processes])
        for process in self.processes:
            process.exit()
        for run in self.judge.runs.values():
            usage = self.operator.ledger.usage(run.scope)
            self.judge.look(self.operator.ledger, run)
            self.judge.check_end(run, usage)
        self._verify()
        self.note("end")

    def close(self) -> None:
        """Let go of every file."""
        for process in (*self.processes, self.operator):
            if process.is_alive:
                process.kill()


def _broken(rng: Random) -> BaseException:
    kinds = (httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError)
    return kinds[int(rng.random() * len(kinds))]("simulated: no answer")
