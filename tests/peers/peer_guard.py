"""A pytest plugin for somebody else's suite: arms the guard before anything is imported, and writes down what happened.

It is loaded with `-p peer_guard` in that suite's own process, where neither `tests` nor our fixtures are. Its settings:
`PEER_GUARD_MODE` (`none`, `observe`, `enforce`), `PEER_GUARD_BREAK` (`headers`, `body`, `stream`; else empty),
`PEER_GUARD_STRICT` (`1` = the suite's own doubles are no exception) and `PEER_GUARD_REPORTS`, the folder for one report a process.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import NonCallableMock

import wrapt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import pytest

_MODE = os.environ.get("PEER_GUARD_MODE", "none")
_BREAK = os.environ.get("PEER_GUARD_BREAK", "")
_IS_STRICT = os.environ.get("PEER_GUARD_STRICT", "") == "1"
_HUGE = 1_000_000_000
# The suite's examples charge in euros too, which are priced only by a pinned rate; any will do.
_RATES = {"date": "2026-11-23", "usd_per_unit": {"eur": "1.1"}}

counts: Counter[str] = Counter()
outcomes: Counter[str] = Counter()
failures: dict[str, str] = {}


class Counting:
    """The handler, with a tally of what it was handed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def handle(self, outgoing: Any, send: Callable[[Any], Any]) -> Any:
        """Count a blocking call, and its attempts when it ended."""
        counts["sync"] += 1

        def counted(ticket: Any) -> Any:
            try:
                return send(ticket)
            finally:
                counts["attempts"] += ticket.begun

        return self._inner.handle(outgoing, counted)

    async def ahandle(self, outgoing: Any, send: Callable[[Any], Awaitable[Any]]) -> Any:
        """Count an awaited call, and its attempts when it ended."""
        counts["async"] += 1

        async def counted(ticket: Any) -> Any:
            try:
                return await send(ticket)
            finally:
                counts["attempts"] += ticket.begun

        return await self._inner.ahandle(outgoing, counted)

    def tolerates(self, error: Exception) -> bool:
        """Ask the handler."""
        found: bool = self._inner.tolerates(error)
        return found


class Clumsy(wrapt.ObjectProxy[Any]):
    """A client behind a guard that changes what passes it; each way is a mistake that a guard could really make."""

    def request(self, method: str, url: str, headers: Any, post_data: Any = None, **more: Any) -> Any:
        """Make one attempt."""
        return _spoiled(self.__wrapped__.request(method, url, headers, _kept(post_data), **more))

    def request_stream(self, method: str, url: str, headers: Any, post_data: Any = None, **more: Any) -> Any:
        """Make one attempt, and read what belongs to the caller."""
        content, *rest = _spoiled(self.__wrapped__.request_stream(method, url, headers, _kept(post_data), **more))
        if _BREAK == "stream":
            content.read() if hasattr(content, "read") else list(content)
        return (content, *rest)

    async def request_async(self, method: str, url: str, headers: Any, post_data: Any = None, **more: Any) -> Any:
        """Make one awaited attempt."""
        return _spoiled(await self.__wrapped__.request_async(method, url, headers, _kept(post_data), **more))

    async def request_stream_async(self, method: str, url: str, headers: Any, post_data: Any = None, **more: Any) -> Any:
        """Make one awaited attempt, and read what belongs to the caller."""
        content, *rest = _spoiled(await self.__wrapped__.request_stream_async(method, url, headers, _kept(post_data), **more))
        if _BREAK == "stream":
            [_ async for _ in content]
        return (content, *rest)


def _kept(post_data: Any) -> Any:
    return None if _BREAK == "body" else post_data


def _spoiled(answer: tuple[Any, int, Mapping[str, str]]) -> tuple[Any, int, Mapping[str, str]]:
    content, status, headers = answer
    return content, status, {name.lower(): value for name, value in headers.items()} if _BREAK == "headers" else headers


def _sabotage(patch: Any) -> None:
    """Let every guarded call go through a clumsy client."""
    send, asend = patch.send, patch.asend

    def sending(ticket: Any, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return send(ticket, wrapped, Clumsy(instance), args, kwargs)

    async def asending(ticket: Any, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return await asend(ticket, wrapped, Clumsy(instance), args, kwargs)

    patch.send, patch.asend = sending, asending


def _excuse_doubles(patch: Any) -> None:
    """Let the suite's doubles pass: a `Mock(wraps=client)` is no HTTPClient, but what it wraps is guarded like any other."""
    check = patch.check

    def lenient(instance: Any) -> None:
        if isinstance(instance._get_http_client(), NonCallableMock):
            counts["doubles"] += 1
        else:
            check(instance)

    patch.check = lenient


def _arm() -> Any:
    """Arm as a program would, with nothing that could refuse."""
    import keyguard
    from keyguard import context
    from keyguard.patches import stripe as patch
    from keyguard.vendors._stripe_paths import writes

    if _BREAK:
        _sabotage(patch)
    if not _IS_STRICT:
        _excuse_doubles(patch)
    # What no cap can express passes only where the policy names it.
    named = sorted({write.name for write in writes().values() if write.kind == "refused"})
    installation = keyguard.install(
        "sqlite://", name="peers", mode=_MODE, run_usd_cap=_HUGE, unpriced="allow", allowed_endpoints=["* /**", *named], fx=_RATES
    )
    context.set_handler(Counting(context.handler()))
    return installation


_installation = None if _MODE == "none" else _arm()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember how a test ended; with workers, each of them and their controller do."""
    if report.failed:
        failures[report.nodeid] = report.longreprtext.strip().rpartition("\n")[2][:300]
    if report.failed or report.when == "call" or report.skipped:
        outcomes[report.outcome] += 1


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Remember a file that could not be imported as a failure."""
    if report.failed:
        failures[report.nodeid] = str(report.longrepr).strip().rpartition("\n")[2][:300]


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write this process's report."""
    if _installation is not None:
        # The ledger's own word for what the handler counted.
        counts.update(f"ledger {row['kind']}" for row in _installation._backend.ledger.entries())
    is_worker = hasattr(config, "workerinput")
    report = {"failures": failures, "counts": counts, "outcomes": {} if is_worker else outcomes}
    Path(os.environ["PEER_GUARD_REPORTS"], f"{os.getpid()}.json").write_text(json.dumps(report))
