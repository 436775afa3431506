"""The unread rest of an answer, in the caller's hands: passes each part on as it comes, and tells the ticket when it ends.

A vendor says in the body of its answer, in JSON, what a call cost. A caller who reads that body himself gets it
untouched and undelayed; what is kept of it, to be read at the end, is bounded.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from keyguard.model import Attempt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from keyguard.context import Ticket
    from keyguard.model import Reply

# No JSON that says what a call cost is near it; a longer one is passed on and not kept, and its cost is not known.
_LONGEST = 1 << 20
_FAILED = 500


class Tail:
    """
    A stream of bytes that is read by somebody else, blocking or awaited.

    It ends when it was read to its end, or is closed before; one that is dropped unread is found by its dead ticket.

    Args:
        stream: What the client's own transport gave.
        ticket: The call's; its last attempt is this answer, with its head only.
        reply: Makes the reply from the kept bytes; None = the body is not known.
        is_events: The answer is a stream of events. Of a long one the first and the last are kept: what it cost stands in these.
    """

    def __init__(self, stream: Any, ticket: Ticket, reply: Callable[[bytes | None], Reply], *, is_events: bool = False) -> None:
        self._stream, self._ticket, self._reply = stream, ticket, reply
        self._last: deque[bytes] | None = deque() if is_events else None
        self._number = len(ticket.attempts) - 1
        self._parts: list[bytes] = []
        self._left = _LONGEST
        self._is_ended = False
        head = ticket.attempts[-1].reply
        # No body of a failure says what it cost, and a client that tries again drops it unread.
        if head is not None and head.status < _FAILED:
            ticket.tail = weakref.ref(self)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the parts."""
        for part in self._stream:
            self.keep(part)
            yield part
        self.end()

    def close(self) -> None:
        """Let the connection go."""
        try:
            self._stream.close()
        finally:
            self.end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the parts."""
        async for part in self._stream:
            self.keep(part)
            yield part
        await self.aend()

    async def aclose(self) -> None:
        """Let the connection go."""
        try:
            await self._stream.aclose()
        finally:
            await self.aend()

    def keep(self, part: bytes) -> None:
        """Keep a part that was passed on, while all of them are not too long."""
        self._left -= len(part)
        if self._left >= 0:
            self._parts.append(part)
        elif self._last is None:
            self._parts.clear()
        else:
            self._last.append(part)
            while self._left + len(self._last[0]) <= -_LONGEST:
                self._left += len(self._last.popleft())

    def end(self) -> None:
        """Tell the ticket that the answer has ended, once."""
        if self._is_ending() and self._ticket.rest is not None:
            self._ticket.rest.close()

    async def aend(self) -> None:
        """Tell it from a coroutine."""
        if isinstance(sys.exc_info()[1], GeneratorExit):
            # A coroutine that is closed may not await; the backend finds the hold by its dead ticket.
            self._ticket.tail = None
        elif self._is_ending() and self._ticket.rest is not None:
            await self._ticket.rest.aclose()

    def _is_ending(self) -> bool:
        """Complete the attempt, once; say whether this was the time."""
        if self._is_ended:
            return False
        self._is_ended, ticket = True, self._ticket
        # Also of an answer that was left before its end: JSON that is not whole cannot be read, and is no cost.
        last = b"".join(self._last or ())
        # Between the two a line may have lost its middle: it is none of either.
        body = b"".join([*self._parts, b"\n", last] if last else self._parts) or None
        self._parts.clear()
        ticket.attempts[self._number] = Attempt(reply=self._reply(body))
        if ticket.rest is None:
            # The client read it all before the guarded method returned.
            ticket.tail = None
        return True
