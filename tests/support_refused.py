"""Real Prefect tasks and flows that end in a refusal, each in another way; imports Prefect, so it is imported within tests."""

from __future__ import annotations

import functools
import logging
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.states import Failed

from keyguard.errors import Refused, SpendCapExceeded
from keyguard.refusals import answer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

RETRIES = 2
TEXT = "payment_intents.create for $50.00 would pass the run_usd_cap of run r-1: cap $500.00, $480.00 spent"

counted: Counter[str] = Counter()


class Planned(ValueError):
    """What a body raises because the test said so."""


def refusal() -> SpendCapExceeded:
    """Return a refusal with figures."""
    return SpendCapExceeded(TEXT, scope="run:r-1", cap=500_000_000, spent=480_000_000, requested=50_000_000)


def fail(how: str) -> Any:
    """Fail in one of the ways in which a refusal comes out of user code, or in one that has nothing to do with it."""
    counted[how] += 1
    try:
        raise refusal()
    except SpendCapExceeded as caught:
        if how == "refused":
            raise
        if how == "from":
            raise RuntimeError("the order was not placed") from caught
        if how == "while handling":
            raise RuntimeError("the mail was not sent")  # noqa: B904 -- this is what is looked at
        if how == "timeout from":
            raise TimeoutError("too slow") from caught
    if how == "group":
        raise _grouped([ValueError("another"), refusal()])
    if how == "answer":
        answer = httpx.Response(403, headers=dict(answer_of(refusal()).headers), request=httpx.Request("GET", "http://127.0.0.1/"))
        answer.raise_for_status()
    if how == "returned":
        return Failed(data=refusal(), message="gave up")
    if how == "returned by itself":
        return Failed(message="gave up")
    raise TimeoutError("too slow") if how == "timeout" else Planned(how)


def _grouped(members: list[Exception]) -> Exception:
    """Return them as a group, or as the last of them where Python has none."""
    return __builtins__["ExceptionGroup"]("tasks", members) if sys.version_info >= (3, 11) else members[-1]  # type: ignore[index,no-any-return,unused-ignore]  # -- 3.11


class Wish:
    """Conditions of a user that want everything retried, in every form that a user may write."""

    def method(self, *_: Any) -> bool:
        """Be a bound method."""
        return True

    def __call__(self, *_: Any) -> bool:
        """Be a callable object."""
        return True


async def wish(*_: Any) -> bool:
    """Be a coroutine function."""
    return True


def raises(*_: Any) -> bool:
    """Be a condition with a mistake in it."""
    raise LookupError("a mistake in the user's condition")


CONDITIONS: dict[str, Any] = {
    "none": None,
    "function": lambda *_: True,
    "coroutine function": wish,
    "partial": functools.partial(lambda _more, *_: True, 1),
    "bound method": Wish().method,
    "object": Wish(),
    "mistaken": raises,
}


def made(how: str, condition: Any = None, *, is_async: bool = False, **more: Any) -> Any:
    """Return a task that fails so; retried at once."""

    def body() -> Any:
        return fail(how)

    async def abody() -> Any:
        return fail(how)

    chosen: Callable[..., Any] = abody if is_async else body
    options = {"name": how, "retries": RETRIES, "retry_delay_seconds": 0, "cache_policy": NO_CACHE, "retry_condition_fn": condition}
    return task(**{**options, **more})(chosen)


@flow(name="states")
def states_of(tasks: list[Any]) -> dict[str, Any]:
    """Run tasks beside each other; returns the state of each, by the name of the task."""
    futures = {one.name: one.submit() for one in tasks}
    for future in futures.values():
        future.wait()
    return {name: (future.state.type.value, future.state.name, future.state.message) for name, future in futures.items()}


@contextmanager
def logged() -> Iterator[list[tuple[str, str]]]:
    """Collect what runs log as errors, by name of the run and message."""
    records: list[tuple[str, str]] = []

    class Collect(logging.Handler):
        """Keeps what comes."""

        def emit(self, record: logging.LogRecord) -> None:
            """Keep one record."""
            name = getattr(record, "task_run_name", None) or getattr(record, "flow_run_name", "")
            records.append((str(name), record.getMessage()))

    handler = Collect(level=logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("prefect.flow_runs", "prefect.task_runs")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield records
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def at_server(flow_run_id: UUID | None) -> Any:
    """Return the flow run as the server has it."""
    assert flow_run_id is not None
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id)


def history(flow_run_id: UUID | None) -> list[str]:
    """Return the names of the states that a flow run has been in, in order."""
    assert flow_run_id is not None
    with get_client(sync_client=True) as client:
        return [str(state.name) for state in sorted(client.read_flow_run_states(flow_run_id), key=lambda state: state.timestamp)]


# -- flows that end so ------------------------------------------------------------------------------


class Body:
    """What a flow's body does: each pass the next step, the last one again."""

    def __init__(self, *steps: str) -> None:
        self.steps, self.passes = steps, 0

    def __call__(self) -> Any:
        """Do one pass."""
        step = self.steps[min(self.passes, len(self.steps) - 1)]
        self.passes += 1
        return _DONE[step]()


def _caught() -> None:
    try:
        fail("refused")
    except Refused:
        counted["caught"] += 1


def _caught_then_fails() -> None:
    _caught()
    raise Planned("afterwards")


_failing = made("refused", retries=0)
_planned = made("planned", retries=0)

_DONE: dict[str, Callable[[], Any]] = {
    "refused": lambda: fail("refused"),
    "from": lambda: fail("from"),
    "planned": lambda: fail("planned"),
    "timeout from": lambda: fail("timeout from"),
    "returned": lambda: fail("returned"),
    "caught": _caught,
    "caught then fails": _caught_then_fails,
    "task": lambda: _failing(),
    "state of a task": lambda: _failing(return_state=True),
    "future of a task": lambda: _failing.submit(),
    "states of tasks": lambda: [_planned(return_state=True), _failing(return_state=True)],
    "state of another task": lambda: _planned(return_state=True),
    "done": lambda: "done",
}


def flow_of(body: Callable[[], Any], *, is_async: bool = False, retries: int = RETRIES, name: str = "refused", **more: Any) -> Any:
    """Return a flow with that body; retried at once."""

    def sync() -> Any:
        return body()

    async def awaited() -> Any:
        return body()

    chosen: Callable[..., Any] = awaited if is_async else sync
    return flow(name=name, retries=retries, retry_delay_seconds=0, **more)(chosen)


def ended(made_flow: Any) -> Any:
    """Run a flow to its end; returns its state."""
    import asyncio

    state = made_flow(return_state=True)
    return asyncio.run(state) if asyncio.iscoroutine(state) else state
