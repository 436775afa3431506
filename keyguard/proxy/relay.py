"""The vendor's answer on its way down: each part as it comes, to a client that may be gone. Decides nothing.

What a call cost stands in its answer, so one that has money hanging on it is read to its end, for a while, whoever is gone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import anyio
import httpx

from keyguard.proxy.headers import downwards

if TYPE_CHECKING:
    from starlette.types import Receive, Send

    from keyguard.context import Ticket
    from keyguard.proxy.masking import Mask
    from keyguard.proxy.settings import ProxySettings

_logger = logging.getLogger("keyguard")
# How long an answer is passed on before anybody looks whether its client is still there.
_UNWATCHED_SECONDS = 0.1


async def relay(response: httpx.Response, ticket: Ticket, mask: Mask, receive: Receive, send: Send, settings: ProxySettings) -> None:
    """Pass an answer on: untouched but for a secret, and for what belongs to one connection alone."""
    reading = anyio.CancelScope()
    client = _Client(send, settings, reading, is_awaited=ticket.tail is not None)
    # Most answers are whole before that, and a task that is begun for nothing costs more than passing them on.
    watching = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, client.watch, receive)
    try:
        with reading:
            await _pass_on(response, mask, client)
    finally:
        watching.cancel()
        client.unwatch()
        # Closes the hold of an answer that was left before its end, whatever ends this.
        with anyio.CancelScope(shield=True):
            await response.aclose()


async def _pass_on(response: httpx.Response, mask: Mask, client: _Client) -> None:
    headers = [(name, mask.whole(value)) for name, value in downwards(response.headers.raw)]
    await client.send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    try:
        async for part in response.aiter_raw():
            found = mask.part(part)
            if found:
                await client.send({"type": "http.response.body", "body": found, "more_body": True})
    except httpx.HTTPError as error:
        # The client sees what the proxy saw: an answer that breaks off. Without its end the server closes the connection.
        _logger.warning("an answer of %s broke off (%s)", response.request.url.host, type(error).__name__)
        return
    await client.send({"type": "http.response.body", "body": mask.rest(), "more_body": False})


class _Client:
    """Whoever asked: takes the answer in parts, until he is gone; who is too slow is made to be (keyguard.proxy.wire)."""

    def __init__(self, send: Send, settings: ProxySettings, reading: anyio.CancelScope, *, is_awaited: bool) -> None:
        self._send, self._settings, self._reading, self._is_awaited = send, settings, reading, is_awaited
        self._is_gone = False
        self._watching: asyncio.Task[None] | None = None

    async def send(self, message: dict[str, object]) -> None:
        """Pass one part on; to somebody who is gone, nothing."""
        if not self._is_gone:
            await self._send(message)

    def watch(self, receive: Receive) -> None:
        """Begin to wait until the client leaves; reading stops then, or soon where the answer says what was paid."""
        self._watching = asyncio.get_running_loop().create_task(self._watch(receive))

    def unwatch(self) -> None:
        """Wait no more."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        if self._is_awaited:
            self._reading.deadline = min(self._reading.deadline, anyio.current_time() + self._settings.settle_seconds)
        else:
            self._reading.cancel()
