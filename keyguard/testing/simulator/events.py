"""What happens to a simulated world beside its threads: starts and deaths, clocks, operators, customers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.errors import LedgerUnavailable
from keyguard.testing.simulator.doubts import ask_about, resolve
from keyguard.testing.simulator.exchange import CENT
from keyguard.testing.simulator.fleet import Fleet
from keyguard.testing.simulator.machine import STEPS, Fault
from keyguard.testing.simulator.swarm import draw_plan
from keyguard.testing.simulator.world import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.testing.simulator.exchange import Intent
    from keyguard.testing.simulator.runs import Run

_DAY = 86_400.0


class Events(Fleet):
    """Each `_on_…` lets one thing happen; `swarm.EVENTS` names them."""

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
        self._offset -= self.rng.choice((1.0, HOUR, _DAY, 30 * _DAY))

    def _on_forth(self) -> None:
        self._offset = 0.0 if self._offset < 0 else self._offset + self.rng.choice((1.0, HOUR, _DAY))

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
        amount = self.rng.randint(1, self.weather.dearest) * CENT

        def happen(intent: Intent) -> None:
            self.vendor.raise_elsewhere(intent, amount)

        self._elsewhere(happen)

    def _elsewhere(self, happen: Callable[[Intent], None]) -> None:
        found = [
            (run, thing.intent)
            for run in self.judge.runs.values()
            for thing in run.active.values()
            if thing.intent.status in {"requires_confirmation", "requires_action"} and not thing.intent.is_loose
        ]
        if found:
            run, intent = self.rng.choice(found)
            self.note(f"{intent.account}/{intent.id}")
            happen(intent)
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
        if self.processes:
            self.rng.choice(self.processes).backend.shut()

    def _on_resolve(self) -> None:
        """Let an operator look after a run's doubts."""
        run = self._some_run()
        if run is not None:
            self._resolve(run)

    def _resolve(self, run: Run) -> None:
        for doubt in self.operator.ledger.doubts(run.scope):
            self.note(f"{doubt.reservation_id} {resolve(self.operator.ledger, self.judge, doubt)}")
        for intent in self.operator.ledger.doubts(run.scope, kind="open"):
            self.note(f"{intent.reservation_id} {ask_about(self.operator.ledger, self.judge, intent)}")
