"""What a guarded call pays to learn which Prefect run it belongs to: Prefect's own context objects, no server, nothing asked of its API."""

from __future__ import annotations

import contextvars
import os
import tempfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from keyguard.prefect import provider
from tests.bench.measure import Row, in_turns
from tests.support_prefect import flow_run, in_flow, in_task, task_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.measure import Case

_LIMIT = 5  # µs
_DEPTH = 20


def run(short: bool) -> list[Row]:
    """Measure every place; the least of many rounds, because a loaded machine only ever adds."""
    with tempfile.TemporaryDirectory() as home:
        before = dict(os.environ)
        # Prefect makes a folder when it is imported.
        os.environ["PREFECT_HOME"] = home
        try:
            found = in_turns(_cases(), 60 if short else 400, 20)
        finally:
            os.environ.clear()
            os.environ.update(before)
    # The first call of a run writes its token, once; install() has done that already.
    limits = {place: None if place.startswith("once") else _LIMIT for place in found}
    return [Row(f"reading Prefect's context, {place}: least", min(times), "µs", limits[place]) for place, times in found.items()]


def _cases() -> dict[str, Case]:
    root, child = flow_run(name="silent-bittern"), flow_run(is_child=True, name="stoic-bee")
    in_root, in_root_task = [_flow(root)], [_flow(root), in_task(task_run(root.id))]
    deep: list[Any] = [_flow(flow_run())]
    for _ in range(_DEPTH):
        below = flow_run(is_child=True)
        deep += [in_task(task_run(below.id)), _flow(below), in_task(task_run(below.id))]
    return {
        "in a flow": _again_and_again(in_root),
        "in a task": _again_and_again(in_root_task),
        "in a subflow's task": _again_and_again([_flow(root), _flow(child), in_task(task_run(child.id))]),
        f"{_DEPTH} subflows and tasks deep": _again_and_again(deep),
        "first time in each task": _first_times(lambda: [_flow(root), in_task(task_run(root.id))]),
        "once in a run": _first_times(lambda: [_flow(flow_run())]),
        "once in a run and its subflow": _first_times(lambda: [_flow(flow_run()), _flow(flow_run(is_child=True))]),
    }


def _flow(run: Any) -> Any:
    return in_flow(run, SimpleNamespace(name="billing-flow"))


def _entered(contexts: list[Any]) -> contextvars.Context:
    """Return a context in which Prefect's are entered, outermost first, and stay so."""
    place = contextvars.copy_context()
    for one in contexts:
        # Each object can be entered once.
        place.run(one.model_copy().__enter__)
    return place


def _again_and_again(contexts: list[Any]) -> Case:
    place = _entered(contexts)
    return lambda calls: _reading([place] * calls)


def _first_times(make: Callable[[], list[Any]]) -> Case:
    return lambda calls: _reading([_entered(make()) for _ in range(calls)])


def _reading(places: list[contextvars.Context]) -> Callable[[], None]:
    def read() -> None:
        for place in places:
            place.run(provider)

    return read
