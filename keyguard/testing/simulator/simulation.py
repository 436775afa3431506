"""One seed: the scheduler, which says what comes next, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from keyguard.testing.simulator.client import Beside, Thread
from keyguard.testing.simulator.events import Events
from keyguard.testing.simulator.machine import FAULTS, STEPS, Fault, Struck, StruckHard
from keyguard.testing.simulator.swarm import EVENTS

if TYPE_CHECKING:
    from random import Random

_VERIFIED_EVERY = 100


class Simulation(Events):
    """The world of one seed, step by step."""

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
            self._resolve(run)
            self.judge.check_resolved(run)
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
