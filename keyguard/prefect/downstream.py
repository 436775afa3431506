"""Which failures of a flow are nothing but a refusal in other words: a task was refused, and what needs its result was never begun.

Prefect does not begin such a task (or subflow): its state is `NotReady`, and whoever wants its result gets `UnfinishedRun`, which says of
no task what became of it. So it is remembered here which task runs were refused, and which flow runs wait for them, for as long as
an execution of the flow lasts. It is known of tasks of the flow's own process; of pools and clusters Prefect tells it too late.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keyguard._values import frozen
from keyguard.prefect.retry import find_refusal
from keyguard.refusals import refusal_named

if TYPE_CHECKING:
    from keyguard.errors import Refused

# "Upstream task run '…' did not reach a 'COMPLETED' state." (prefect/utilities/engine, 3.8, `resolve_to_final_result`)
_UPSTREAM = re.compile(r"Upstream task run '([0-9a-f-]{36})'")
# What Prefect raises where a result is wanted that there will never be; of another error the flow fails for a reason of its own.
_WANTING = frozenset({"UnfinishedRun", "UpstreamTaskError"})
_KEPT = 1_000


@frozen
class _Refusal:
    """What is kept of a refusal: no error, which would keep all that its frames had in hand."""

    name: str
    message: str
    flow_run_id: str


@dataclass(slots=True)
class _State:
    """
    What is known in this process.

    Attributes:
        tasks: Task run id → the refusal for which it failed, or was not begun.
        flows: Flow run id → the refusal for which a task or subflow of it was not begun.
    """

    tasks: dict[str, _Refusal] = field(default_factory=dict[str, _Refusal])
    flows: dict[str, _Refusal] = field(default_factory=dict[str, _Refusal])
    lock: Any = field(default_factory=threading.Lock)


_state = _State()


def begin(flow_run: Any) -> None:
    """Forget what an earlier execution of a flow run waited for."""
    _state.flows.pop(str(flow_run.id), None)


def note(run: Any, state: Any, refusal: Refused | None) -> None:
    """Learn of a state that a task run or flow run gets, and of the refusal behind it where there is one."""
    run_id = str(run.id)
    if refusal is not None:
        _keep(_state.tasks, run_id, _Refusal(type(refusal).__name__, str(refusal), str(getattr(run, "flow_run_id", ""))))
    elif state.is_pending() and state.name == "NotReady":
        upstream = _upstream(state.message)
        if upstream is not None:
            _keep(_state.tasks, run_id, upstream)
            _keep(_state.flows, upstream.flow_run_id, upstream)


def behind(flow_run: Any, state: Any) -> Refused | None:
    """Return the refusal that a flow's failed state tells of in Prefect's words; None where it failed for another reason."""
    if not state.is_failed():
        return None
    failure = getattr(state.data, "result", state.data)
    found = None
    if type(failure).__name__ in _WANTING:
        found = _upstream(str(failure)) or _state.flows.get(str(flow_run.id))
    elif not isinstance(failure, BaseException):
        # What the flow returned: a run that was not begun, among others.
        returned = failure if isinstance(failure, list | tuple) else [failure]
        ids = (str(getattr(getattr(one, "state_details", None), "task_run_id", "")) for one in returned if find_refusal(one) is None)
        found = next((_state.tasks[one] for one in ids if one in _state.tasks), None)
    return None if found is None else refusal_named(found.name, found.message)


def _upstream(message: str | None) -> _Refusal | None:
    named = _UPSTREAM.search(message or "")
    return None if named is None else _state.tasks.get(named[1])


def _keep(kept: dict[str, _Refusal], name: str, refusal: _Refusal) -> None:
    with _state.lock:
        while len(kept) >= _KEPT and name not in kept:
            del kept[next(iter(kept))]
        kept[name] = refusal
