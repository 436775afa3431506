"""The seam of aiohttp: the innermost middleware of each request of a session, redirects hop by hop. Translates only.

`ClientSession._request` runs as it is, with its redirects, timeouts, traces and retries; what it hands to a connection
passes a middleware of ours last, after the user's own. That is one request with its final URL, and one try on the wire.
"""

from __future__ import annotations

import sys
import weakref
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import wrapt

from keyguard import context
from keyguard.errors import ConfigurationError
from keyguard.model import Attempt, Reply
from keyguard.patches import Outgoing, Seam, adecided, arm
from keyguard.patches._aiohttp_content import Content
from keyguard.patches._answers import of_aiohttp
from keyguard.patches._headers import Lowered, may_carry
from keyguard.patches._proof import is_unsent
from keyguard.patches._tail import Tail
from keyguard.patches._wire import (
    BODY_HEADERS,
    LISTED,
    Swapped,
    call_of,
    check_token,
    credential_in,
    is_events,
    is_telling,
    netloc_of,
    split_path,
    vendor_of,
    with_secret,
)
from keyguard.vendors import claimant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyguard.errors import Refused

_OLDEST, _FIRST = (3, 8), (3, 12)
# What belongs to the connection and not to the request: a question of ours takes the same way.
_WAY = frozenset({"ssl", "verify_ssl", "fingerprint", "ssl_context", "proxy", "proxy_auth", "proxy_headers", "timeout", "server_hostname"})


class AiohttpPatch:
    """
    The plug: aiohttp from 3.12 on, the first with middlewares. Before it nobody sees the hops of a redirect, so that a request of its own
    to a guarded host is refused; a vendor's SDK may send by it, and whatever goes elsewhere passes.
    """

    client = "aiohttp"
    distribution = "aiohttp"
    supported = f">={_OLDEST[0]}.{_OLDEST[1]}"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The requests of a session, and the check that none comes to a connection without it."""
        connection = Seam("aiohttp.check", "aiohttp", "BaseConnector.connect", check, is_async=True, passes=_is_foreign)
        if _too_old() is not None:
            return (connection,)
        return (Seam("aiohttp.async", "aiohttp", "ClientSession._request", is_async=True, inside=inside), connection)

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has this seam, or the check."""
        return _numbers(installed) >= _OLDEST


def _numbers(installed: str) -> tuple[int, ...]:
    major, _, rest = installed.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else ()


@cache
def _too_old() -> str | None:
    """Return the installed version where it has no middlewares."""
    try:
        installed = version("aiohttp")
    except PackageNotFoundError:
        return None
    return installed if _numbers(installed) < _FIRST else None


def check(_instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> None:
    """
    Refuse a connection to a guarded host that no guarded call asks for.

    Some libraries replace a session's method for a while and put the old one back (vcrpy, at the end of a cassette).

    Raises:
        ConfigurationError: and the guard is put in place again, where this aiohttp can have one.
    """
    host, netloc = netloc_of(str((args[0] if args else kwargs["req"]).url))
    ticket, old = context.open_ticket(), _too_old()
    if vendor_of(host, netloc) is None:
        return
    is_guarded = ticket is not None and not ticket.is_over
    if old is not None and not (is_guarded and ticket is not None and ticket.call.host == netloc):
        raise ConfigurationError(
            f"this request to {netloc} was not sent: keyguard guards requests of aiohttp from {_FIRST[0]}.{_FIRST[1]} on, and {old} is "
            "installed. Upgrade aiohttp, or call the vendor through its own SDK, httpx or requests."
        )
    if not is_guarded:
        arm()
        raise ConfigurationError(
            f"this request to {netloc} came round keyguard's guard, so nothing was sent: another library has put an older "
            "ClientSession._request of aiohttp back, as vcrpy does at the end of a cassette. The guard is in place again; repeat the call."
        )


def _is_foreign(args: tuple[Any, ...], kwargs: dict[str, Any], /) -> bool:
    """Say at once that nobody guards a connection."""
    return not LISTED and claimant((args[0] if args else kwargs["req"]).url.raw_host or "") is None


def inside(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Call `_request` with one middleware more, the last before the wire."""
    given = kwargs.get("middlewares")
    own = instance._middlewares if given is None else given  # noqa: SLF001 -- as `_request` does; missing, it stops every request
    # Most requests name no way of their own: so they need no guard of their own either, for which each of them would pay.
    guard = _guard if _WAY.isdisjoint(kwargs) else partial(_guard, way={name: kwargs[name] for name in _WAY if name in kwargs})
    kwargs["middlewares"] = (*own, guard) if own else (guard,)
    return instance, args, kwargs


def _guard(request: Any, sending: Callable[[Any], Any], way: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Return what is awaited for an answer; no coroutine itself, whose frame each request to a foreign host would pay for."""
    handler = None if _passes(request) else context.deciding()
    if handler is None:
        return sending(request)
    return adecided(handler, partial(read, way), send, sending, request.session, (request,), {})


def _passes(request: Any) -> bool:
    """Say at once that nobody guards a request: the host is foreign, no stand-in is listed, and no header may carry a token."""
    if LISTED or claimant(request.url.raw_host or "") is not None or context.open_ticket() is not None:
        return False
    return not may_carry(request.headers.values())


def read(way: Mapping[str, Any], instance: Any, args: tuple[Any, ...], _kwargs: dict[str, Any], /) -> Outgoing | None:
    """Read one request as it will be written, and the way that its caller named for it."""
    request = args[0]
    url, host, netloc = request.url, *netloc_of(str(request.url))
    vendor = vendor_of(host, netloc)
    headers = {str(name).lower(): str(value) for name, value in request.headers.items()}
    if vendor is None:
        check_token(headers.items(), netloc)
        return None
    prefix, path = split_path(url.raw_path, vendor, netloc)
    call = call_of(vendor, request.method, str(url), path, headers, _content(request.body))

    def ask(path: str, secret: str | None) -> Reply:
        """GET a path with the same session, its way and its credentials, on the event loop that waits for it."""
        question = url.with_path(f"{prefix}{path.partition('?')[0]}", encoded=True).with_query(path.partition("?")[2])
        kept = {name: value for name, value in headers.items() if name not in (*BODY_HEADERS, "host")}
        kept |= {} if secret is None else with_secret(headers, vendor, secret)
        return anyio.from_thread.run(partial(_asked, _Bare(instance), question, headers=kept, **way))

    credential, has_own_key = credential_in(headers, vendor, netloc), call.idempotency_key is not None
    return Outgoing(call, credential, ask, takes_key=True, has_own_key=has_own_key, respond=partial(_respond, instance, request))


async def _respond(session: Any, request: Any, refusal: Refused) -> Any:
    return of_aiohttp(session, request.method, request.url, request.headers, refusal)


async def _asked(session: Any, url: Any, **options: Any) -> Reply:
    with context.own_traffic():
        # Without the user's middlewares: they belong to the user's own requests.
        found = await type(session.__wrapped__)._request(  # noqa: SLF001 -- the method this file is about
            session, "GET", url, **options, allow_redirects=False, raise_for_status=False, middlewares=()
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


async def send(ticket: context.Ticket, wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
    """Send one request; its answer is the caller's to read, whole or in parts."""
    request, handled = args[0], sys.exc_info()[1]
    with ticket.attempt() as ended, Swapped(request.headers, ticket.call.vendor, ticket.secret, ticket.idempotency_key):
        try:
            response = await wrapped(request)
        except Exception as error:
            ended(Attempt(error=type(error).__name__, unsent=is_unsent(error, handled)))
            raise
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
