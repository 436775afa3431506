"""
What a refused run is called in Prefect: its one failed state carries the refusal's name and its amounts. Imports no Prefect.

**Automations.** Prefect calls the event of a state change after the state's *name* (`prefect.flow-run.{state.name}`, Prefect 3.8,
server/models/events.py), and its UI offers "Failed" as such a name. So an automation that expects `prefect.flow-run.Failed` is not told
of a refused run. One that expects `prefect.flow-run.SpendCapExceeded` is; and one that expects `prefect.flow-run.*` where the event's
resource has `prefect.state-type: FAILED` is told of every run that failed, under whatever name:

    EventTrigger(expect={"prefect.flow-run.*"}, match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": "FAILED"})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.prefect.retry import find_refusal

if TYPE_CHECKING:
    from keyguard.errors import Refused

# What Prefect calls a failed state that nobody has named; "TimedOut", and a name that the user has given, stay.
_UNNAMED = "Failed"


def name_refused(state: Any) -> Refused | None:
    """
    Name a failed state after keyguard's refusal behind it (`SpendCapExceeded`), and let its message give the amounts.

    Its type stays FAILED. Automations on the *name* "Failed" do not match it: see above for those that do.

    Returns:
        The refusal; None, and the state as it is, where it has not failed or keyguard refused nothing.
    """
    return name_after(find_refusal(state) if state.is_failed() else None, state)


def name_after(refusal: Refused | None, state: Any) -> Refused | None:
    """Name a failed state after the refusal that is behind it, and return that; None, and the state as it is, where there is none."""
    if refusal is None:
        return None
    if state.name == _UNNAMED:
        state.name = type(refusal).__name__
    message = state.message or ""
    # Of an error that wraps the refusal, and of several states, Prefect's message gives no amount.
    if str(refusal) not in message:
        state.message = f"{message} ({type(refusal).__name__}: {refusal})".strip()
    return refusal


def name_refused_state(flow: Any, flow_run: Any, state: Any) -> None:
    """
    Name the state of a refused flow run, afterwards: `@flow(on_failure=[name_refused_state])`.

    While keyguard is armed its patch of Prefect's engine names the state before it is proposed, and this does nothing. It is for a
    Prefect whose engine is not as known, where keyguard's log says so: there the run has a second, forced state.
    """
    before = state.name
    if name_refused(state) is None or state.name == before:
        return
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, state, force=True)
