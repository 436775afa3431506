"""Stop means stop: whether the Prefect run of the calling code was cancelled, or is over. Sends nothing, writes to no ledger.

Three things are known here, and a call reads them from memory. What Prefect's runner says to this process before it kills it (its intent).
The states of the runs that make calls here, asked about once a second (keyguard.prefect.polling). And that a flow's body was left by
Ctrl-C, SIGTERM, a cancelled coroutine or a failure, while the flow waits for its submitted tasks, of which Prefect says nothing yet.

A stop is a run's, not its neighbours' in the process, and lasts as long as Prefect says so: a run that is retried goes on. An API that does
not answer stops nobody. A flow that has completed stops none of its tasks that are still at work; one that failed or crashes spares the
thread of its body, where its hooks run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from keyguard import context
from keyguard.prefect import halting, leaving
from keyguard.prefect.marking import entered_flow
from keyguard.prefect.polling import Poller
from keyguard.prefect.provider import provider, set_watcher
from keyguard.prefect.states import CANCELLED, STOPPED, Entered, Stop, source_of, state_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.context import RunRef
    from keyguard.prefect.states import State

_log = logging.getLogger("keyguard")
_STOPS_KEPT = 1_000


class Watch:
    """
    The stop sign of Prefect's runs (see `context.StopSign`).

    Attributes:
        entered: By `id()` of the flow run's object: what a call finds without asking the object anything.
        stopped: By flow run id.
        interrupted: How this process was told to end ("SIGTERM", "Ctrl-C") while its main thread waits for others; "" = it was not.
        is_up: Whether there is any reason to look closer.
    """

    def __init__(self) -> None:
        self.entered: dict[int, Entered] = {}
        self.stopped: dict[str, Stop] = {}
        self.interrupted = ""
        self.is_up = False
        self._listener: Any = leaving.NoListener()
        self._poller = Poller(self)
        self._suspects: frozenset[str] = frozenset()

    # -- within each call ------------------------------------------------------------------------------

    def __call__(self, run: RunRef | None, payer: str | None) -> str | None:
        """Say why nothing may be sent."""
        if run is None or run.engine != "prefect":
            # Named otherwise, it may be inside a flow all the same, which is met in this way.
            provider()
        if not self.is_up and self._listener._intent is None:  # noqa: SLF001 -- Prefect's; see `leaving.control_listener`
            return None
        return self._why(payer)

    def _why(self, payer: str | None) -> str | None:
        intent = self._listener._intent  # noqa: SLF001 -- as above
        if intent is not None:
            # Of the whole process, which is about to be killed.
            doing = "cancelling" if intent == "cancel" else f"ending ({intent})"
            return f"Prefect's runner is {doing} the flow run of this process.{_remedy(payer or 'ID')}"
        thread = threading.get_ident()
        lineage = self._lineage()
        for run_id in (*lineage, payer):
            stop = None if run_id is None else self.stopped.get(run_id)
            if stop is not None and stop.spares != thread:
                return f"flow run {run_id} {stop.how}.{_remedy(run_id)}"
        # The main thread knows: what it sends now is its own tidying up.
        if self.interrupted and threading.main_thread().ident != thread and self._knows((*lineage, payer)):
            return f"this process was told to end ({self.interrupted}), and only waits for its threads.{_remedy(payer or 'ID')}"
        return None

    def _lineage(self) -> tuple[str, ...]:
        found = entered_flow()
        entered = None if found is None else self.entered.get(id(found.flow_run))
        return () if entered is None else entered.lineage

    def _knows(self, run_ids: tuple[str | None, ...]) -> bool:
        return any(run_id in entered.lineage for entered in self.entered.copy().values() for run_id in run_ids)

    # -- what the provider and flows that end say ------------------------------------------------------

    def meet(self, flow_contexts: list[Any], root_id: str | None) -> None:
        """Watch a flow run and those round it, from its first call on; a Prefect that cannot be watched is said once."""
        if context.handler() is None:
            return
        ids = [str(one.flow_run.id) for one in flow_contexts]
        if root_id is not None and root_id not in ids:
            ids.append(root_id)
        try:
            self._listener = leaving.control_listener()
            for at, one in enumerate(flow_contexts):
                self._enter(one, tuple(ids[at:]))
            self._poller.begin(source_of(flow_contexts[0]))
        except Exception as error:
            leaving.say_once(f"cannot be watched for cancelled runs ({type(error).__name__}: {error})")

    def _enter(self, flow_context: Any, lineage: tuple[str, ...]) -> None:
        flow_run, is_here = flow_context.flow_run, not getattr(flow_context, "detached", False)
        number, entered = id(flow_run), self.entered
        if number in entered:
            return
        if is_here:
            # A new execution: whatever stopped the one before it, Prefect has let this one begin.
            self.stopped.pop(lineage[0], None)
            leaving.tell(flow_context, self.left)
        # The callback runs before the object's number can be another's.
        gone = weakref.ref(flow_run, lambda _: entered.pop(number, None))
        entered[number] = Entered(gone, weakref.ref(flow_context), lineage, is_here)
        self._judge()

    def left(self, flow_run: Any, by: str) -> str:
        """
        Learn that a flow's body has ended: by what no code of it raised (`by`), or as its state says.

        Returns:
            What the processes that run tasks of it should hear: how it crashes; "" = nothing, what was sent away may outlive the flow.
        """
        number = id(flow_run)
        entered = self.entered.get(number)
        if entered is None or not entered.is_here:
            return ""
        how = f"is crashing: {by} ended its body" if by else "has failed" if state_of(flow_run).kind == "FAILED" else ""
        if how:
            self.entered[number] = replace(entered, is_left=True)
            self._stop(entered.lineage[0], Stop(how, spares=threading.get_ident()))
            self._judge()
        return how if by else ""

    # -- what the poller sees --------------------------------------------------------------------------

    def look(self) -> set[str]:
        """Look at this process; returns the flow runs at work in it whose states only Prefect's API knows."""
        alive = self._at_work()
        self.interrupted = leaving.interruption()
        if self._listener._intent is not None:  # noqa: SLF001 -- as above
            # It is taken back when Prefect's engine has done with it, and there may be threads that have not.
            for run_id in alive:
                self._stop(run_id, Stop("is being cancelled in Prefect"))
        self._judge()
        return alive

    def _at_work(self) -> set[str]:
        alive: set[str] = set()
        over: set[str] = set()
        begun: set[str] = set()
        for entered in self.entered.copy().values():
            flow_run = entered.flow_run()
            if flow_run is None or entered.has_gone():
                continue
            state = state_of(flow_run) if entered.is_here else None
            if entered.is_left or self._has_heard(entered, flow_run) or (state is not None and state.kind):
                over.add(entered.lineage[0])
                if state is not None and state.kind in CANCELLED:
                    self._stop(entered.lineage[0], Stop(f"is {state.name} in Prefect"))
                continue
            alive.update(entered.lineage)
            if entered.is_here:
                begun.add(entered.lineage[0])
        # Something may be left of an execution before the one at work.
        return alive - (over - begun)

    def _has_heard(self, entered: Entered, flow_run: Any) -> bool:
        """Say whether the process that sent a run here says that it crashes, or one that it was called in; then it is stopped."""
        for run_id in () if entered.is_here else entered.lineage:
            how = halting.heard(run_id, flow_run)
            if how:
                self._stop(run_id, Stop(how))
                self.entered[id(flow_run)] = replace(entered, is_left=True)
                return True
        return False

    def learn(self, asked: set[str], states: Mapping[str, State]) -> None:
        """Take over what Prefect's API says of the runs it was asked for; those it leaves out are neither stopping nor over."""
        suspects: set[str] = set()
        for run_id in asked:
            state = states.get(run_id)
            if state is None:
                self.stopped.pop(run_id, None)
                continue
            is_suspect = state.kind not in STOPPED
            if is_suspect and self._runs_here(run_id):
                # The engine's own word is heard here an instant after the API's: at the next look this is somebody else's, or gone.
                suspects.add(run_id)
            if not is_suspect or run_id in self._suspects:
                self._said(run_id, state)
        self._suspects = frozenset(suspects)
        self._judge()

    def _said(self, run_id: str, state: State) -> None:
        if run_id not in self.stopped:
            words = "flow run %s (%s) is %s in Prefect: its further vendor calls from process %d are refused"
            _log.warning(words, run_id, state.run_name, state.name, os.getpid())
        self._stop(run_id, Stop(f"({state.run_name}) is {state.name} in Prefect"))

    def _runs_here(self, run_id: str) -> bool:
        return any(one.is_here and one.lineage[0] == run_id for one in self.entered.copy().values())

    def _stop(self, run_id: str, stop: Stop) -> None:
        while len(self.stopped) >= _STOPS_KEPT and run_id not in self.stopped:
            with contextlib.suppress(KeyError, StopIteration, RuntimeError):
                del self.stopped[next(iter(self.stopped))]
        self.stopped[run_id] = stop

    def _judge(self) -> None:
        self.is_up = bool(self.stopped or self.interrupted)

    # -- its end ---------------------------------------------------------------------------------------

    def end(self) -> None:
        """Leave off watching, and forget what was seen."""
        self._poller.end()
        self._forget()

    def begin_anew(self) -> None:
        """In a forked child: no thread came along, and each run is met again at its next call."""
        self._poller = Poller(self)
        self._forget()

    def _forget(self) -> None:
        self.entered.clear()
        self.stopped.clear()
        self.interrupted, self._suspects = "", frozenset()
        self._judge()


def _remedy(run_id: str | None) -> str:
    return f" To let it go on, retry it in Prefect (prefect flow-run retry {run_id}): it keeps its budget, and what it has spent."


watch = Watch()


def activate() -> None:
    """Let guarded calls ask whether their Prefect run was stopped; calling it again changes nothing."""
    set_watcher(watch)
    context.register_stop("prefect", watch)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=watch.begin_anew)
