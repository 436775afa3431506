"""One call on its way through: from the client's bytes to the vendor's, by the handler that every call in process takes, and back."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from keyguard.drivers import whole
from keyguard.errors import BackendError, ConfigurationError, ProxyUnavailable, Refused, UnknownKey
from keyguard.model import METHODS, TOKEN_PREFIX
from keyguard.patches import Outgoing
from keyguard.patches._headers import is_carrying
from keyguard.patches._wire import credential_in, with_secret
from keyguard.patches.httpx import aread, asend_once
from keyguard.proxy.denials import InDoubt, denial, plain
from keyguard.proxy.headers import upwards
from keyguard.proxy.limits import ClientGone, read_body
from keyguard.proxy.masking import Mask
from keyguard.proxy.relay import relay
from keyguard.proxy.routing import Misdirected, destination
from keyguard.proxy.upstream import timeouts
from keyguard.proxy.wire import HANG_UP
from keyguard.vendors import vendor_named

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from keyguard.context import Handler, Ticket
    from keyguard.proxy.backend import MintedBackend
    from keyguard.proxy.headers import Headers
    from keyguard.proxy.limits import Room
    from keyguard.proxy.routing import Destination
    from keyguard.proxy.settings import ProxySettings

_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "too_large", 503: "busy"}


class Forwarder:
    """
    The ASGI application that forwards.

    Args:
        handler: Guards each call.
        backend: Finds a token's key before anything of a body is read.
        client: Sends; nothing else does.
        settings: Limits.
        room: What this worker's requests take together.
    """

    def __init__(self, handler: Handler, backend: MintedBackend, client: httpx.AsyncClient, settings: ProxySettings, room: Room) -> None:
        self._handler, self._backend, self._client, self._settings, self._room = handler, backend, client, settings, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request, or say why not."""
        try:
            with self._room.entered():
                await self._forward(scope, receive, send)
            return
        except ClientGone:
            return
        except Misdirected as error:
            response = plain(error.status, _CODES[error.status], str(error), may_retry=error.status in {408, 503})
            # What it had to say is not all read, and whoever wrote it may mean something else by it: nothing more is read from here.
            response.headers["connection"] = "close"
            if error.status == 405:
                # RFC 9110, 15.5.6: a 405 says which methods there are.
                response.headers["allow"] = ", ".join(sorted(METHODS - {"*"}))
        except Refused as error:
            response = denial(error)
        except InDoubt as error:
            extensions = scope.get("extensions", {})
            if error.must_hang_up and HANG_UP in extensions:
                extensions[HANG_UP]["call"]()
                return
            response = denial(error, may_retry=bool(error.may_retry))
        except BackendError as error:
            response = denial(error, may_retry=True)
        except ConfigurationError as error:
            response = plain(503, error.reason, str(error))
        await response(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = scope["headers"]
        where = destination(scope["method"], scope["raw_path"], scope["query_string"])
        sent = upwards(headers)
        await self._check_credential(sent, where)
        body = await read_body(receive, headers, self._settings, self._room)
        try:
            request = self._request(scope["method"], where, sent, body)
            response, ticket = await self._sent(request)
            await relay(response, ticket, _mask(request, ticket), receive, send, self._settings)
        finally:
            self._room.give(len(body))

    async def _check_credential(self, headers: Headers, where: Destination) -> None:
        """
        Let a request through to the reading of its body.

        Raises:
            Refused: it carries no vault token, one that nobody knows, or one where nobody would put the secret in its place.
        """
        said = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        token = credential_in(said, where.vendor, where.host)
        if not token.startswith(TOKEN_PREFIX):
            raise UnknownKey(
                "this call carries no vault key, and the proxy forwards no other credential: nothing was sent. Issue one "
                f"at POST /vault/keys, and give it to the client in the place of {where.vendor}'s secret"
            )
        for name, value in said.items():
            if is_carrying(value, TOKEN_PREFIX):
                # Refuses it in a header of which the vendor would read it as it is.
                credential_in({name: value}, where.vendor, where.host)
        if TOKEN_PREFIX in where.query or TOKEN_PREFIX in where.path:
            raise Misdirected("a vault key belongs into the credential header alone; nothing was sent", status=400)
        if self._backend.remembered(token) is None and await whole(partial(self._backend.find, token=token)) is None:
            raise UnknownKey("the vault key of this call was not issued by this proxy; nothing was sent")

    def _request(self, method: str, where: Destination, headers: Headers, body: bytes) -> httpx.Request:
        """Write the request as the vendor will get it, but for the secret."""
        content = body if body or method in {"POST", "PUT", "PATCH"} else None
        request = httpx.Request(method, where.url, headers=headers, content=content, extensions={"timeout": timeouts(self._settings)})
        if request.url.raw_path.partition(b"?")[0] != where.path.encode() or request.url.netloc.decode() != where.host:
            # Another reader of URLs than ours; what was looked at is what is sent.
            raise Misdirected("a request's target is a path, and a query, with everything else percent-encoded", status=400)
        return request

    async def _sent(self, request: httpx.Request) -> tuple[httpx.Response, Ticket]:
        outgoing = aread(self._client, (request,), {})
        assert isinstance(outgoing, Outgoing), "its host is claimed, and no SDK stands above"
        tickets: list[Ticket] = []

        async def sending(ticket: Ticket) -> Any:
            tickets.append(ticket)
            return await asend_once(ticket, self._client, request)

        try:
            # A refusal is answered here, in one way for all vendors.
            response = await self._handler.ahandle(replace(outgoing, respond=None), sending)
        except httpx.HTTPError as error:
            raise _lost(request, tickets[-1] if tickets else None, error) from None
        return response, tickets[-1]


def _lost(request: httpx.Request, ticket: Ticket | None, error: httpx.HTTPError) -> BackendError:
    """Say what became of a request that got no answer; never by the error's text, which has the URL."""
    host, kind = request.url.host, type(error).__name__
    if ticket is None or all(attempt.unsent for attempt in ticket.attempts):
        return ProxyUnavailable(f"{host} could not be reached by the proxy ({kind}); nothing was sent, try again")
    if not ticket.call.is_write:
        return InDoubt(f"{host} did not answer the proxy ({kind}); it was a read, try again", may_retry=True)
    again = bool(ticket.idempotent or (ticket.has_own_key and ticket.window))
    hint = "sending it again with the same Idempotency-Key is safe" if again else "do not send it again before asking the vendor"
    return InDoubt(
        f"{host} did not answer the proxy ({kind}): whether it executed the call is not known, so what it may have cost stays counted. "
        f"Ask the vendor: keyguard reconcile; {hint}.",
        may_retry=again,
        must_hang_up=not again and getattr(vendor_named(ticket.call.vendor), "on_lost", "answer") == "hang up",
    )


def _mask(request: httpx.Request, ticket: Ticket) -> Mask:
    """Return what covers the secret, and what a credential header says in its place, in the answer."""
    if ticket.secret is None:
        return Mask(())
    said = with_secret(request.headers, ticket.call.vendor, ticket.secret).values()
    return Mask((ticket.secret, *(value.rpartition(" ")[2] for value in said)))
