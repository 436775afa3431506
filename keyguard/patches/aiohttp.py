"""The seam of aiohttp: the connection that each request of a session asks for, redirects hop by hop. Translates only.

`ClientSession._request` and the user's middlewares run as they are. `BaseConnector.connect` is what each of their requests passes last,
with its final URL and headers, for one try on the wire; its caller then sends on the connection that it gets. So a decision begins there,
and goes on when the request is sent, and when it is answered (keyguard.patches._parts).
"""

from __future__ import annotations

import sys
import weakref
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import wrapt

from keyguard import context
from keyguard.context import open_ticket
from keyguard.model import TOKEN_PREFIX, Attempt, Reply
from keyguard.patches import Outgoing, Seam
from keyguard.patches._aiohttp_content import Content
from keyguard.patches._answers import of_aiohttp
from keyguard.patches._headers import SHORTEST, Lowered, is_hiding
from keyguard.patches._parts import Parts, Pause
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
    netloc_of,
    reported,
    split_path,
    stop,
    vendor_of,
    wants_body,
    with_key,
    with_secret,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from keyguard.errors import Refused
    from keyguard.patches import Seen

_FIRST = (3, 8)


class AiohttpPatch:
    """The plug: aiohttp from 3.8 on, whose connector's method is the same up to 3.14 (read and run November 2026)."""

    client = "aiohttp"
    distribution = "aiohttp"
    supported = f">={_FIRST[0]}.{_FIRST[1]}"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The requests of every session."""
        return (Seam("aiohttp.async", "aiohttp", "BaseConnector.connect", read, send, is_async=True, quick=quick, around=around),)

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has this seam."""
        major, _, rest = installed.partition(".")
        minor = rest.partition(".")[0]
        return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= _FIRST


def quick(passing: Callable[..., Any], seen: Seen, /) -> Callable[..., Any]:
    """Let pass at once what nobody guards: the host is foreign, no stand-in is listed, and no header may carry a token."""

    # As httpx's: plain steps, which each request of the process pays for.
    def wrapper(self: Any, req: Any, traces: Any, timeout: Any) -> Any:
        if FOREIGN[req.url.raw_host] and ((ticket := open_ticket()) is None or ticket.in_attempt):
            for value in req.headers.values():
                if len(value) >= SHORTEST and (
                    ("_" in value and TOKEN_PREFIX in value) or (value[5] == " " and value[4] in "cC" and is_hiding(value))
                ):
                    break
            else:
                return passing(self, req, traces, timeout)
        return seen(self, (req, traces, timeout), {})

    return wrapper


async def around(
    deciding: Coroutine[Any, Any, Any], passing: Callable[..., Any], connector: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /
) -> Any:
    """Return the connection of a request that may leave, and see to it that the decision goes on with what comes of it."""
    parts = Parts(deciding)
    given = await parts.go_on()
    if parts.is_over:
        return given
    try:
        connection = await passing(connector, *args, **kwargs)
    except BaseException as error:
        await parts.fail(error)
        raise
    _attend(parts, _request_in(args, kwargs))
    return connection


def _attend(parts: Parts, request: Any) -> None:
    """Stand once, on these objects alone, in the place of what `_request` calls with the connection: `send`, and `start` of the answer."""

    async def sending(connection: Any) -> Any:
        del request.send
        await parts.go_on()
        try:
            response = await request.send(connection)
        except BaseException as error:
            await parts.fail(error)
            raise

        async def starting(connection: Any) -> Any:
            del response.start
            try:
                await response.start(connection)
            except BaseException as error:
                await parts.fail(error)
                raise
            return await parts.go_on(response)

        response.start = starting
        return response

    request.send = sending


def read(_connector: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Outgoing | context.Ticket | None:
    """Read one request as it will be written, and the way that it takes."""
    request = _request_in(args, kwargs)
    url, host, netloc = request.url, *netloc_of(str(request.url))
    vendor = vendor_of(host, netloc, url.raw_path)
    if vendor is None:
        check_token(((str(name), str(value)) for name, value in request.headers.items()), netloc)
        return None
    prefix, path = split_path(url.raw_path, vendor, netloc)
    ticket = reported(vendor, str(request.method), path)
    if ticket is not None:
        return ticket
    headers = {str(name).lower(): str(value) for name, value in request.headers.items()}
    call = call_of(vendor, request.method, str(url), path, headers, _content(request.body))
    session, way = request._session, _way(request, args[2] if len(args) > 2 else kwargs.get("timeout"))  # noqa: SLF001 -- missing, it stops it

    def ask(path: str, ticket: context.Ticket) -> Reply:
        """GET a path with the same session, its way and its credentials, on the event loop that waits for it."""
        question = url.with_path(f"{prefix}{path.partition('?')[0]}", encoded=True).with_query(path.partition("?")[2])
        if ticket.route is not None:
            question = _written(ticket.route.url(str(question)))
        kept = {name: value for name, value in headers.items() if name not in (*BODY_HEADERS, "host")}
        if ticket.secret is not None:
            kept |= (with_secret if ticket.route is None else with_key)(headers, vendor, ticket.secret)
        return anyio.from_thread.run(partial(_asked, session, question, headers=kept, **way))

    credential, has_own_key = credential_in(headers, vendor, netloc), call.idempotency_key is not None
    return Outgoing(call, credential, ask, takes_key=True, has_own_key=has_own_key, respond=partial(_respond, session, request))


def _written(url: str) -> Any:
    """Return a URL that is sent as it is written."""
    return sys.modules["yarl"].URL(url, encoded=True)


def _request_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs["req"]


def _way(request: Any, timeout: Any) -> dict[str, Any]:
    """Return what belongs to a request's connection: a question of ours takes the same way."""
    proxy, pair = request.proxy, request.proxy_auth
    if proxy is not None and pair is not None:
        # As an argument of its own this is deprecated.
        proxy = proxy.with_user(pair.login).with_password(pair.password)
    name = getattr(request, "server_hostname", None)
    found = {"ssl": request.ssl, "proxy": proxy, "proxy_headers": request.proxy_headers, "timeout": timeout, "server_hostname": name}
    return {name: value for name, value in found.items() if value is not None}


async def _respond(session: Any, request: Any, refusal: Refused) -> Any:
    """Return, in the place of a connection, what leads `_request` to a refusal's answer."""
    response = of_aiohttp(session, request.method, request.url, request.headers, refusal)

    async def starting(_connection: Any) -> Any:
        del response.start
        return response

    async def sending(_connection: Any) -> Any:
        del request.send
        response.start = starting
        return response

    request.send = sending
    return SimpleNamespace(protocol=SimpleNamespace(set_response_params=_nothing), close=_nothing)


def _nothing(**_: Any) -> None:
    """Take what a connection is told."""


async def _asked(session: Any, url: Any, **options: Any) -> Reply:
    if hasattr(session, "_middlewares"):
        # They belong to the user's own requests; before 3.12 there are none.
        options["middlewares"] = ()
    with context.own_traffic():
        found = await type(session)._request(  # noqa: SLF001 -- what each of its methods calls
            _Bare(session), "GET", url, **options, allow_redirects=False, raise_for_status=False
        )
        return _reply(found, await found.read())


class _Bare(wrapt.ObjectProxy[Any]):
    """A session that adds no headers and no credentials of its own: each is in the question already, or was taken out."""

    _default_auth = None

    @staticmethod
    def _prepare_headers(headers: Any) -> Any:
        return sys.modules["multidict"].CIMultiDict(headers or ())


def _content(body: Any) -> bytes | None:
    """Return a body that is in memory; None for what only the library can write, once."""
    if not body:
        return b""
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    if isinstance(body, sys.modules["aiohttp"].BytesPayload):
        return bytes(body._value)  # noqa: SLF001 -- what a payload of bytes is made from
    return None


async def send(ticket: context.Ticket, _connect: Callable[..., Any], _connector: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Let one request leave, and wait for what comes of it; its answer is the caller's to read, whole or in parts."""
    request, handled = _request_in(args, kwargs), sys.exc_info()[1]
    with Routed(request, ticket, _written):
        # A connection is made meanwhile. What is raised by then was raised before anything was sent, and is no attempt.
        await Pause()
        with ticket.attempt() as ended:
            try:
                response = await Pause()
            except Exception as error:
                ended(Attempt(error=type(error).__name__, unsent=is_unsent(error, handled)))
                raise
            headers = Lowered(response.headers)
            body = await response.read() if wants_body(ticket, response.status, headers) else None
            if not stop(ticket, ended, response.status, headers, body):
                _answered(ticket, ended, response)
            return response


def _answered(ticket: context.Ticket, ended: Callable[[Attempt], None], response: Any) -> None:
    """Report an answer; one whose body says what the call cost, once more when it has been read."""
    reported = len(ticket.attempts)
    ended(Attempt(reply=_reply(response, None)))
    if len(ticket.attempts) > reported and is_telling(ticket, response.headers.get("content-type", "")):
        # Nothing here refers to the answer: one that is dropped unread must be gone at once.
        headers = Lowered(response.headers)
        tail = Tail(None, ticket, partial(Reply, response.status, headers), is_events=is_events(headers))
        response.content = Content(response.content, tail)
        for name in ("release", "close"):
            setattr(response, name, partial(_let_go, tail, weakref.ref(response), name))


def _let_go(tail: Tail, found: weakref.ref[Any], name: str) -> Any:
    """Let the connection go; what was not read by then never is."""
    response = found()
    try:
        return getattr(type(response), name)(response)
    finally:
        tail.end()


def _reply(response: Any, body: bytes | None) -> Reply:
    return Reply(response.status, Lowered(response.headers), body)


patch = AiohttpPatch()
