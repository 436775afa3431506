"""The seam of httpx: the one method that every request of a client passes with its final URL. Translates only.

`Client._send_single_request` sees redirects hop by hop, SDK retries, streams, mock and foreign transports; the
transports below it are blind under recorders, `Client.send` above it does not see the hops. The module is a
parameter, because httpx2 has the same classes under another name.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import anyio.from_thread

from keyguard import context
from keyguard.context import open_ticket
from keyguard.model import TOKEN_PREFIX, Attempt, Reply
from keyguard.patches import Outgoing, Seam
from keyguard.patches._answers import of_httpx
from keyguard.patches._headers import SHORTEST, is_hiding
from keyguard.patches._proof import is_unsent
from keyguard.patches._tail import Tail
from keyguard.patches._wire import (
    BODY_HEADERS,
    FOREIGN,
    Routed,
    call_of,
    check_token,
    credential_in,
    is_events,
    is_telling,
    reported,
    split_path,
    stop,
    vendor_of,
    wants_body,
)
from keyguard.vendors import claimant

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.errors import Refused
    from keyguard.patches import Read, Seen

_TOKEN = TOKEN_PREFIX.encode()
_PREFECT_CLIENTS = {"PrefectHttpxSyncClient", "PrefectHttpxAsyncClient", "PrefectHttpxSyncEphemeralClient"}


class HttpxPatch:
    """
    The plug of one library with httpx's classes.

    Args:
        module: Its name, which is that of its distribution too.
        first: The first version whose seams are where we look.
    """

    def __init__(self, module: str, first: tuple[int, int]) -> None:
        self.client = self.distribution = module
        self._first = first
        self.supported = f">={first[0]}.{first[1]}"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The blocking and the awaiting client."""
        return seams_for(self.client)

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has these seams."""
        major, _, rest = installed.partition(".")
        minor = rest.partition(".")[0]
        return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= self._first


def seams_for(module: str) -> tuple[Seam, ...]:
    """Return the seams of httpx, or of a library with the same classes."""
    defined = f"{module}._client"
    return (
        Seam(f"{module}.sync", defined, "Client._send_single_request", read, send, quick=quick),
        Seam(f"{module}.async", defined, "AsyncClient._send_single_request", aread, asend, is_async=True, quick=quick),
    )


def quick(passing: Callable[..., Any], seen: Seen, /) -> Callable[..., Any]:
    """Let pass at once what nobody guards: the host is foreign, no stand-in is listed, and no header may carry a token."""

    # A host that nobody guards pays this, with nothing of ours in the processor's caches: so private names, and few and plain steps.
    def wrapper(self: Any, request: Any) -> Any:
        host = request.url._uri_reference.host  # noqa: SLF001 -- missing, it stops every request
        if FOREIGN[host] and ((ticket := open_ticket()) is None or ticket.in_attempt):
            for _, _, value in request.headers._list:  # noqa: SLF001 -- `raw` would copy each of its items first
                # In bytes, one byte is found much faster than several.
                if len(value) >= SHORTEST and (
                    (b"_"[0] in value and value.find(_TOKEN) >= 0) or (value[5] == b" "[0] and value[4] in b"cC" and is_hiding(value))
                ):
                    break
            else:
                return passing(self, request)
        return seen(self, (request,), {})

    return wrapper


def _reader(get: Callable[[Any, Any], Any], respond: Callable[[Any, Any, Refused], Any]) -> Read:
    """Make the function that reads one request; its quote reads go through `get`, with the same client, its refusals by `respond`."""

    def read(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Outgoing | context.Ticket | None:
        request = args[0] if args else kwargs["request"]
        netloc = request.url.netloc.decode("ascii")
        vendor = vendor_of(_host(request), netloc, request.url.path)
        if vendor is None:
            check_token(((name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers.raw), netloc)
            return None
        if _is_prefects(instance, request):
            return None
        prefix, path = split_path(request.url.raw_path.partition(b"?")[0].decode("ascii"), vendor, netloc)
        return reported(vendor, request.method, path) or _outgoing(
            request, vendor, prefix, path, partial(get, instance), partial(respond, instance, request)
        )

    return read


def _host(request: Any) -> str:
    found: str = request.url._uri_reference.host  # noqa: SLF001 -- in lower case, as it is sent; missing, it stops every request
    return found


def _is_prefects(instance: Any, request: Any) -> bool:
    """Say whether this is Prefect's own traffic; a host that a vendor plug claims is never exempt."""
    is_client = type(instance).__name__ in _PREFECT_CLIENTS and type(instance).__module__.startswith("prefect.")
    return is_client and claimant(_host(request)) is None


def _outgoing(request: Any, vendor: str, prefix: str, path: str, get: Callable[[Any], Any], respond: Callable[[Refused], Any]) -> Outgoing:
    headers = request.headers
    call = call_of(vendor, request.method, str(request.url), path, headers, _content(request))

    def ask(path: str, ticket: context.Ticket) -> Reply:
        """GET a path with the same client, and its proxies, certificates and credentials."""
        question = type(request)("GET", request.url.copy_with(raw_path=f"{prefix}{path}".encode()), headers=headers)
        question.extensions = {**request.extensions}
        for name in BODY_HEADERS:
            question.headers.pop(name, None)
        with Routed(question, ticket, type(question.url), is_asked=True):
            found = get(question)
        return _reply(found, found.content)

    credential, has_own_key = credential_in(headers, vendor, call.host), call.idempotency_key is not None
    return Outgoing(call, credential, ask, takes_key=True, has_own_key=has_own_key, respond=respond)


def _content(request: Any) -> bytes | None:
    """Return a body that is in memory; None for a generator's, which is the transport's to read, once."""
    found: bytes | None = getattr(request, "_content", None)
    if found is None:
        # The hop of a redirect has the stream of the request before it, which is not read again where it is bytes.
        found = getattr(request.stream, "_stream", None)
    return found if isinstance(found, bytes) else None


def _get(instance: Any, question: Any) -> Any:
    with context.own_traffic():
        # Below redirects, auth and the user's event hooks: they belong to the user's own requests.
        found = instance._send_single_request(question)  # noqa: SLF001 -- the method this file is about
        found.read()
    return found


def _get_from_thread(instance: Any, question: Any) -> Any:
    return anyio.from_thread.run(_aget, instance, question)


async def _aget(instance: Any, question: Any) -> Any:
    with context.own_traffic():
        found = await instance._send_single_request(question)  # noqa: SLF001 -- the method this file is about
        await found.aread()
    return found


def send(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send one request; its answer is the caller's to read, whole or in parts."""
    request, handled = args[0] if args else kwargs["request"], sys.exc_info()[1]
    # In this order: what cannot be sent on its way is no attempt.
    with Routed(request, ticket, type(request.url)), ticket.attempt() as ended:
        try:
            response = wrapped(*args, **kwargs)
        except Exception as error:
            ended(Attempt(error=type(error).__name__, unsent=_tries_once(instance, request) and is_unsent(error, handled)))
            raise
        body = response.read() if wants_body(ticket, response.status_code, response.headers) else None
        if not stop(ticket, ended, response.status_code, response.headers, body):
            _answered(ticket, ended, instance, response)
        return response


async def asend(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send one awaited request."""
    request, handled = args[0] if args else kwargs["request"], sys.exc_info()[1]
    # In this order: what cannot be sent on its way is no attempt.
    with Routed(request, ticket, type(request.url)), ticket.attempt() as ended:
        try:
            response = await wrapped(*args, **kwargs)
        except Exception as error:
            ended(Attempt(error=type(error).__name__, unsent=_tries_once(instance, request) and is_unsent(error, handled)))
            raise
        body = await response.aread() if wants_body(ticket, response.status_code, response.headers) else None
        if not stop(ticket, ended, response.status_code, response.headers, body):
            _answered(ticket, ended, instance, response)
        return response


async def asend_once(ticket: context.Ticket, client: Any, request: Any) -> Any:
    """Send one request through a client that need not be armed: no redirect is followed, nothing is tried twice, no cookie is added."""
    return await asend(ticket, client._send_single_request, client, (request,), {})  # noqa: SLF001 -- the method this file is about


def _answered(ticket: context.Ticket, ended: Callable[[Attempt], None], instance: Any, response: Any) -> None:
    """Report an answer; one whose body says what the call cost and is not read yet, once more when it has been read."""
    reported = len(ticket.attempts)
    ended(Attempt(reply=_reply(response, response.content if response.is_closed else None)))
    if is_telling(ticket, response.headers.get("content-type", "")) and not response.is_closed and len(ticket.attempts) > reported:
        tail = _tail_of(_library(instance))
        response.stream = tail(response.stream, ticket, partial(_decoded, response), is_events=is_events(response.headers))


@cache
def _tail_of(library: str) -> type[Tail]:
    """Return the class of an answer's rest that a library takes for a stream of its own, blocking or awaited."""
    module = sys.modules[library]
    return type("Tail", (Tail, module.SyncByteStream, module.AsyncByteStream), {})


def _decoded(response: Any, raw: bytes | None) -> Reply:
    """Return the reply of an answer whose bytes were read, undoing its compression as the library does."""
    if raw is None or "content-encoding" not in response.headers:
        return _reply(response, raw)
    try:
        return _reply(response, type(response)(response.status_code, headers=response.headers, content=raw).content)
    except Exception:
        # Each codec has errors of its own; a body that cannot be decoded is not known.
        return _reply(response, None)


def _respond(instance: Any, request: Any, refusal: Refused) -> Any:
    return of_httpx(_library(instance), request, refusal)


async def _arespond(instance: Any, request: Any, refusal: Refused) -> Any:
    return of_httpx(_library(instance), request, refusal)


def _tries_once(instance: Any, request: Any) -> bool:
    """Say whether the library's own transport is at work: a foreign one may try again unseen, and raise only its last error."""
    transport = type(instance._transport_for_url(request.url))  # noqa: SLF001 -- a mounted transport is known to nothing else
    return transport.__module__.partition(".")[0] == _library(instance) or getattr(transport, "tries_once", False) is True


def _library(instance: Any) -> str:
    """Return the name of the library whose client this is, or is made from."""
    return next(base.__module__.partition(".")[0] for base in type(instance).__mro__ if "_send_single_request" in vars(base))


def _reply(response: Any, body: bytes | None) -> Reply:
    # httpx's own headers are found in any case, and give their names in lower case.
    return Reply(response.status_code, response.headers, body)


read, aread = _reader(_get, _respond), _reader(_get_from_thread, _arespond)
# `_send_single_request` has stood in httpx's clients since 0.14 (7 versions checked), in httpx2's from its first (2.16 run November 2026).
patches = (HttpxPatch("httpx", (0, 27)), HttpxPatch("httpx2", (2, 0)))
