"""Flows that fail because a task of theirs was refused, though another one says so; imports Prefect, so imported within tests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import UnfinishedRun

from tests.support_refused import Planned, made

if TYPE_CHECKING:
    from collections.abc import Callable

refused = made("refused", retries=0)
planned = made("planned", retries=0)


def _found(found: Any) -> Any:
    return found


_needs: Any = task(name="needs", cache_policy=NO_CACHE)(_found)
_needy: Any = flow(name="needy")(_found)


def _chain() -> Any:
    return _needs.submit(_needs.submit(_needs.submit(refused.submit()))).result()


def _caught_then_fails() -> Any:
    with contextlib.suppress(UnfinishedRun):
        _needs.submit(refused.submit()).result()
        raise AssertionError("there is no result")
    raise Planned("for a reason of its own")


def _other_after_refused() -> Any:
    refused.submit().wait()
    return _needs.submit(planned.submit()).result()


ENDS: dict[str, Callable[[], Any]] = {
    "wants its result": lambda: _needs.submit(refused.submit()).result(),
    "waits for it": lambda: _needs.submit(1, wait_for=[refused.submit()]).result(),
    "at the end of a chain": _chain,
    "returns it": lambda: _needs.submit(refused.submit()),
    "returns it among others": lambda: [_needs.submit(1), _needs.submit(refused.submit())],
    "a subflow": lambda: _needy(refused.submit()),
    "mapped": lambda: _needs.map([1, 2], wait_for=[refused.submit()]).result(),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "for a reason of its own": _caught_then_fails,
    "the upstream task failed otherwise": lambda: _needs.submit(planned.submit()).result(),
    "a refused task that nobody needs": _other_after_refused,
}
