"""A flow that fails because of a task which was never begun, because the one it needs was refused: it ends as if by the refusal itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support_prefect import flow_run, task_run

TRIED = 3  # with two retries
ENDS = ["wants its result", "waits for it", "at the end of a chain", "returns it", "returns it among others", "a subflow", "mapped"]
pytestmark = pytest.mark.timeout(400)


def ended(refused: Any, end: Any, *, is_async: bool) -> tuple[Any, Any]:
    """Run a flow with two retries that ends so; returns its run at the server, and its last state here."""
    state = refused.ended(refused.flow_of(end, name="downstream", is_async=is_async))
    return refused.at_server(state.state_details.flow_run_id), state


@pytest.mark.parametrize("is_async", [pytest.param(False, id="sync"), pytest.param(True, id="async", marks=pytest.mark.ci)])
@pytest.mark.parametrize("how", [pytest.param(how, marks=[] if how == "wants its result" else pytest.mark.ci) for how in ENDS])
def test_a_flow_that_needs_what_was_refused_is_not_retried(refused: Any, how: str, *, is_async: bool) -> None:
    """One pass, no retries left, and the run is called after the refusal, with its amounts: another pass would be refused alike."""
    from tests import support_downstream

    run, state = ended(refused, support_downstream.ENDS[how], is_async=is_async)

    assert list(support_downstream.ENDS) == ENDS
    assert (refused.counted["refused"], run.run_count, run.empirical_policy.retries) == (1, 1, 0)
    assert (state.name, run.state.name, run.state.type.value) == ("SpendCapExceeded", "SpendCapExceeded", "FAILED")
    assert refused.TEXT in run.state.message


@pytest.mark.ci
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("how", ["for a reason of its own", "the upstream task failed otherwise", "a refused task that nobody needs"])
def test_a_flow_that_fails_otherwise_keeps_its_retries(refused: Any, how: str, *, is_async: bool) -> None:
    """It goes on after the refusal, and fails of something else, or of another task: tried as often as asked."""
    from tests import support_downstream

    run, state = ended(refused, support_downstream.OTHERS[how], is_async=is_async)

    assert (run.run_count, run.empirical_policy.retries, state.name, run.state.name) == (TRIED, 2, "Failed", "Failed")


def test_what_is_remembered_is_bounded_and_keeps_no_error(prefect_home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest refusals, by name and words: an error would keep what its frames had in hand; a new pass of a flow forgets the last."""
    from prefect.exceptions import UnfinishedRun
    from prefect.states import Failed, Pending

    from keyguard.errors import SpendCapExceeded
    from keyguard.prefect import downstream

    monkeypatch.setattr(downstream, "_state", downstream._State())
    monkeypatch.setattr(downstream, "_KEPT", 3)
    flow = flow_run()
    failed: Any = Failed(data=UnfinishedRun("Run is in PENDING state, its result is not available."))
    for _ in range(5):
        upstream = task_run(flow.id)
        downstream.note(upstream, failed, SpendCapExceeded("over"))
        message = f"Upstream task run '{upstream.id}' did not reach a 'COMPLETED' state."
        downstream.note(task_run(flow.id), Pending(name="NotReady", message=message), None)
    found = downstream.behind(flow, failed)
    downstream.begin(flow)

    assert (type(found), str(found)) == (SpendCapExceeded, "over")
    assert (len(downstream._state.tasks), downstream._state.flows, downstream.behind(flow, failed)) == (3, {}, None)
    assert not [kept for kept in downstream._state.tasks.values() if isinstance(kept, BaseException)]
