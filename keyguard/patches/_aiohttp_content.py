"""aiohttp's stream of an answer, in the caller's hands: passes each part on, and tells the tail when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from keyguard.patches._tail import Tail


class Content(wrapt.ObjectProxy[Any]):
    """
    What a response has as `content`.

    Args:
        content: aiohttp's own.
        tail: Keeps what is passed on.
    """

    def __init__(self, content: Any, tail: Tail) -> None:
        super().__init__(content)
        self._self_tail = tail

    async def read(self, n: int = -1) -> bytes:
        """Read up to so many bytes, or all."""
        found: bytes = await self._self_kept(self.__wrapped__.read(n), is_all=n < 0)
        return found

    async def readany(self) -> bytes:
        """Read what has come."""
        found: bytes = await self._self_kept(self.__wrapped__.readany())
        return found

    async def readexactly(self, n: int) -> bytes:
        """Read so many bytes."""
        found: bytes = await self._self_kept(self.__wrapped__.readexactly(n))
        return found

    async def readline(self, **more: Any) -> bytes:
        """Read a line."""
        found: bytes = await self._self_kept(self.__wrapped__.readline(**more))
        return found

    async def readuntil(self, separator: bytes = b"\n", **more: Any) -> bytes:
        """Read up to a separator."""
        found: bytes = await self._self_kept(self.__wrapped__.readuntil(separator, **more))
        return found

    async def readchunk(self) -> tuple[bytes, bool]:
        """Read a chunk as it was sent."""
        found: tuple[bytes, bool] = await self._self_kept(self.__wrapped__.readchunk())
        return found

    def read_nowait(self, n: int = -1) -> bytes:
        """Read what is there."""
        part: bytes = self.__wrapped__.read_nowait(n)
        self._self_tail.keep(part)
        if self.__wrapped__.at_eof():
            self._self_tail.end()
        return part

    # aiohttp's own iterators, over the methods of this object.
    def __aiter__(self) -> Any:
        return type(self.__wrapped__).__aiter__(self)

    def iter_chunked(self, n: int) -> Any:
        """Yield parts of at most so many bytes."""
        return type(self.__wrapped__).iter_chunked(self, n)

    def iter_any(self) -> Any:
        """Yield parts as they come."""
        return type(self.__wrapped__).iter_any(self)

    def iter_chunks(self) -> Any:
        """Yield chunks as they were sent."""
        return type(self.__wrapped__).iter_chunks(self)

    async def _self_kept(self, reading: Awaitable[Any], *, is_all: bool = False) -> Any:
        try:
            found = await reading
        except Exception:
            # An answer that breaks has ended, whoever keeps it.
            await self._self_tail.aend()
            raise
        self._self_tail.keep(found[0] if isinstance(found, tuple) else found)
        if is_all or self.__wrapped__.at_eof():
            await self._self_tail.aend()
        return found
