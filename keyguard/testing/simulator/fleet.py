"""The simulated processes, the executions of flows in them, and their threads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from keyguard.context import IdempotencyScope, RunRef
from keyguard.model import Child, Subflow
from keyguard.testing.simulator.client import Beside, Thread
from keyguard.testing.simulator.machine import Killed, Process, Struck, StruckHard
from keyguard.testing.simulator.work import Flow, Job, task
from keyguard.testing.simulator.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.model import VaultKey
    from keyguard.testing.simulator.exchange import Answer
    from keyguard.testing.simulator.swarm import Plan


@dataclass(slots=True, eq=False)
class Execution:
    """One entry of a flow's body in one process."""

    plan: Plan
    process: Process
    token: str
    flow: Flow
    next_job: int = 0
    threads: list[Thread] = field(default_factory=list[Thread])


class Fleet(World):
    """What runs, and where."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self.executions: list[Execution] = []
        self.plans: list[tuple[Plan, int]] = []
        self.kept: set[str] = set()
        self.given_back: dict[str, tuple[str, int]] = {}
        # By run and child: what the child pays from.
        self.budgets: dict[tuple[str, str], str] = {}

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
            task=job.kind, persists=job.persists, is_root=not job.child, budget=self.budgets.get((plan.run_id, job.child), ""),
        )  # fmt: skip
        thread.scope = IdempotencyScope(job.scope, f"{token}.{job.name}.{attempt}") if job.scope else None

    # -- processes ----------------------------------------------------------------------------------

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
        self._enter_kids(plan, process, token, key)
        self.judge.look(process.ledger, run)
        self.judge.check(run)
        flow = Flow(
            lambda: f"sdk-{next(self._names)}",
            partial(self._begin, plan, token),
            self._paid_by_others,
            partial(self._made, {}),
            partial(self._go_on, plan),
            self.given_back,
        )
        execution = Execution(plan, process, token, flow)
        self.executions.append(execution)
        self._fill(execution)

    def _enter_kids(self, plan: Plan, process: Process, token: str, key: VaultKey) -> None:
        """Install in each child run: in each execution it is called from the same place, and is another try of the same."""
        keys = {"": key}
        for kid in plan.kids:
            caller = f"{plan.run_id} {kid.within}"
            subflow = Subflow(kid.name, "", f"{token} {kid.name}", f"{caller} calls {kid.name}", caller, token, token)
            found, _ = process.armed.issue_child(process.backend, kid.policy, Child(keys[kid.within].key_id, subflow))
            keys[kid.name] = found
            self.judge.issued_child(self.judge.runs[plan.run_id], found, kid.policy)
            known = self.budgets.setdefault((plan.run_id, kid.name), found.run_id or "")
            if known != found.run_id:
                raise self.judge.broken("I5", f"{token} gave {kid.name} of {plan.run_id} the budget {found.run_id}, which had {known}")

    def _go_on(self, plan: Plan, thread: Thread, job: Job) -> None:
        """Let what a task has opened be gone on with in another child, or in the run itself."""
        thread.run = replace(thread.run, is_root=not job.then, budget=self.budgets.get((plan.run_id, job.then), ""))

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
