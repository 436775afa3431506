"""How calls are made that are not simply called: awaited and cancelled, or two at a time on one connection. Knows no client."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import keyguard
from tests.endings import PATIENCE
from tests.support_awaits import Struck

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tests.endings import Ask


def run(call: Callable[[Ask], Coroutine[Any, Any, int]]) -> Callable[[Ask], int]:
    """Await a call in a loop of its own, and cancel it when that is asked for."""

    async def main(ask: Ask) -> int:
        struck = Struck(call(ask), 1 if ask.cancel == "before" else 1_000_000)

        async def awaited() -> int:
            found: int = await struck
            return found

        task = asyncio.ensure_future(awaited())
        struck.strike = task.cancel
        if ask.cancel == "waiting":
            assert ask.room is not None
            await asyncio.to_thread(ask.room.await_held)
            task.cancel()
        return await task

    return lambda ask: asyncio.run(main(ask))


async def crowded(ask: Ask, post: Callable[[], Awaitable[int]]) -> int:
    """Ask once; where the pool is small, ask a second time while the first request is held, and tell what came of the second."""
    if ask.pool is None:
        return await post()
    assert ask.room is not None
    first = asyncio.ensure_future(post())
    await asyncio.to_thread(ask.room.await_held)
    try:
        return await post()
    finally:
        ask.room.release()
        await first


def crowded_sync(ask: Ask, post: Callable[[], int]) -> int:
    """Do the same without awaiting."""
    if ask.pool is None:
        return post()
    assert ask.room is not None
    first = threading.Thread(target=keyguard.wrap(post))
    first.start()
    ask.room.await_held()
    try:
        return post()
    finally:
        ask.room.release()
        first.join(PATIENCE)
