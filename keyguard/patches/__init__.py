"""The client contract, the one sync and the one async wrapper, and the arming of seams. Plugs are the other files.

A patch plug translates: it reads a client library's arguments into an `Outgoing`, and sends what was
decided through the library's own method, reporting each attempt to the ticket. It decides nothing.

An SDK seam knows its vendor whatever the host; a wire seam (httpx) knows it by host. The outermost
seam guards; a seam below it that sees the same call reports an attempt of the ticket, and any other
request is guarded anew.
"""

from __future__ import annotations

import importlib
import sys
import threading
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import wrapt

from keyguard import context
from keyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Call, Reply


@dataclass(frozen=True, slots=True)
class Outgoing:
    """
    One request that is about to leave, as a seam read it.

    Attributes:
        call: What the vendor will see.
        credential: The secret or token as it stands in the request, "" where there is none.
        ask: Sends `GET path` with the same client and credentials (the second argument replaces the
            credential where it is not None) and returns the reply; for quotes.
    """

    call: Call
    credential: str = field(repr=False, default="")
    ask: Callable[[str, str | None], Reply] | None = field(repr=False, default=None)


class Read(Protocol):
    """Reads a client's arguments; None = not a vendor's host, let it pass."""

    def __call__(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outgoing | None: ...


class Send(Protocol):
    """Calls the client's own method under a ticket, reporting its attempts; a coroutine function for async seams."""

    def __call__(
        self, ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class Seam:
    """
    One patched method.

    Attributes:
        name: `stripe.sync`, unique over all plugs.
        module: Where the class is defined; the seam is armed when that module is imported.
        attribute: `Class.method`.
        read, send: The plug's two translations. A seam without `send` only checks: `read` may raise.
        is_async: The method is a coroutine function.
    """

    name: str
    module: str
    attribute: str
    read: Read
    send: Send | None = None
    is_async: bool = False


class Patch(Protocol):
    """
    What every patch plug offers, as a module-level object named `patch`.

    Attributes:
        client: The client's word in messages: `stripe`.
        distribution: Its name on the package index.
        supported: Version range for messages, `>=8`; `supports(version)` decides.
        seams: What it patches.
    """

    client: str
    distribution: str
    supported: str
    seams: tuple[Seam, ...]

    def supports(self, installed: str) -> bool: ...


def _sync_wrapper(seam: Seam) -> Callable[..., Any]:
    def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = context.handler()
        if handler is None or context.is_own_traffic():
            return wrapped(*args, **kwargs)
        outgoing = seam.read(instance, args, kwargs)
        send = seam.send
        if outgoing is None or send is None:
            return wrapped(*args, **kwargs)
        ticket = context.open_ticket()
        if ticket is not None and ticket.covers(outgoing.call):
            return send(ticket, wrapped, instance, args, kwargs)
        return handler.handle(outgoing, lambda opened: send(opened, wrapped, instance, args, kwargs))

    return wrapper


def _async_wrapper(seam: Seam) -> Callable[..., Any]:
    async def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = context.handler()
        if handler is None or context.is_own_traffic():
            return await wrapped(*args, **kwargs)
        outgoing = seam.read(instance, args, kwargs)
        send = seam.send
        if outgoing is None or send is None:
            return await wrapped(*args, **kwargs)
        ticket = context.open_ticket()
        if ticket is not None and ticket.covers(outgoing.call):
            return await send(ticket, wrapped, instance, args, kwargs)
        return await handler.ahandle(outgoing, lambda opened: send(opened, wrapped, instance, args, kwargs))

    return wrapper
