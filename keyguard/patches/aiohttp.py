"""The seam of aiohttp: the one coroutine that every request of a session passes, redirects followed hop by hop. Translates only.

aiohttp follows redirects inside this coroutine, where nobody could decide on them; so it is asked for one hop at a
time, and `follow` goes on by aiohttp's own rules (those of 3.14, read November 2026).
"""

from __future__ import annotations

import base64
import sys
import weakref
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import wrapt

from keyguard import context
from keyguard.errors import ConfigurationError
from keyguard.model import TOKEN_PREFIX, Attempt, Reply
from keyguard.patches import Outgoing, Seam, arm
from keyguard.patches._headers import Lowered, credential_of, with_credential
from keyguard.patches._proof import is_unsent, sends_once
from keyguard.patches._tail import Tail
from keyguard.patches._wire import BODY_HEADERS, LISTED, call_of, check_token, is_telling, netloc_of, split_path, vendor_of
from keyguard.vendors import claimant

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST = (3, 8)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SEE_OTHER, _LEAST_ERROR = 303, 400
# What belongs to the connection and not to the request: a question of ours takes the same way.
_WAY = ("ssl", "verify_ssl", "fingerprint", "ssl_context", "proxy", "proxy_auth", "proxy_headers", "timeout", "server_hostname")


class AiohttpPatch:
    """The plug: aiohttp from 3.8 on."""

    client = "aiohttp"
    distribution = "aiohttp"
    supported = f">={_FIRST[0]}.{_FIRST[1]}"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The request of a session, and the check that none comes to a connection without it."""
        return (
            Seam("aiohttp.async", "aiohttp", "ClientSession._request", read, send, is_async=True, follow=follow),
            Seam("aiohttp.check", "aiohttp", "BaseConnector.connect", check, is_async=True),
        )

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has this seam."""
        major, _, rest = installed.partition(".")
        minor = rest.partition(".")[0]
        return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= _FIRST


def check(_instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> None:
    """
    Refuse a connection to a guarded host that no guarded call asks for.

    Some libraries replace a session's method for a while and put the old one back (vcrpy, at the end of a cassette).

    Raises:
        ConfigurationError: and the guard is put in place again.
    """
    request = args[0] if args else kwargs["req"]
    if not LISTED and claimant(request.url.raw_host or "") is None:
        return
    host, netloc = netloc_of(str(request.url))
    ticket = context.open_ticket()
    if vendor_of(host, netloc) is not None and (ticket is None or ticket.is_over):
        arm()
        raise ConfigurationError(
            f"this request to {netloc} came round keyguard's guard, so nothing was sent: another library has put an older "
            "ClientSession._request of aiohttp back, as vcrpy does at the end of a cassette. The guard is in place again; repeat the call."
        )


def read(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Outgoing | None:
    """Read one request; what is none is the library's own error."""
    try:
        method, given = _arguments(args, kwargs)
        url = instance._build_url(given)  # noqa: SLF001 -- where the session's base is added; missing, it stops every request
    except (KeyError, ValueError, TypeError):
        return None
    if not LISTED and claimant(url.raw_host or "") is None and not _may_hide(instance, kwargs):
        # What a host that nobody guards pays.
        return None
    host, netloc = netloc_of(str(url))
    vendor = vendor_of(host, netloc)
    authorization = _authorization(instance, url, kwargs)
    headers = {str(name).lower(): str(value) for name, value in instance._prepare_headers(kwargs.get("headers")).items()}  # noqa: SLF001 -- as above
    if vendor is None:
        check_token([*headers.items(), ("authorization", authorization)], netloc)
        return None
    prefix, path = split_path(url.raw_path, vendor, netloc)
    content, kind = _content(instance, kwargs)
    call = call_of(vendor, method, str(_with(url.with_user(None), kwargs.get("params"))), path, {"content-type": kind, **headers}, content)

    def ask(path: str, secret: str | None) -> Reply:
        """GET a path with the same session, its way and its credentials, on the event loop that waits for it."""
        question = url.with_user(None).with_path(f"{prefix}{path.partition('?')[0]}", encoded=True).with_query(path.partition("?")[2])
        kept = {name: value for name, value in headers.items() if name not in (*BODY_HEADERS, "authorization")}
        kept |= {"authorization": with_credential(authorization, secret) if secret is not None else authorization} if authorization else {}
        way = {name: kwargs[name] for name in _WAY if name in kwargs}
        return anyio.from_thread.run(partial(_asked, _Bare(instance), question, headers=kept, **way))

    return Outgoing(call, credential_of(authorization), ask)


async def _asked(session: Any, url: Any, **options: Any) -> Reply:
    with context.own_traffic():
        found = await type(session.__wrapped__)._request(session, "GET", url, **options, allow_redirects=False, raise_for_status=False)  # noqa: SLF001 -- the method this file is about
        return _reply(found, await found.read())


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Any]:
    given = {**dict(zip(("method", "str_or_url"), args, strict=False)), **kwargs}
    return str(given["method"]), given["str_or_url"]


def _may_hide(instance: Any, kwargs: dict[str, Any]) -> bool:
    """Say whether a token could be in what the session or the call adds to a request."""
    headers: Any = kwargs.get("headers") or ()
    values = headers.values() if hasattr(headers, "values") else [value for _, value in headers]
    said = "\n".join([*map(str, values), *instance._default_headers.values()])  # noqa: SLF001 -- of the session alone
    return bool(kwargs.get("auth") or instance._default_auth or TOKEN_PREFIX in said or "asic " in said)  # noqa: SLF001 -- as above


def _with(url: Any, params: Any) -> Any:
    """Return a URL with a call's parameters behind its own."""
    if not params:
        return url
    more = type(url)().with_query(params).query
    return url.with_query([*url.query.items(), *more.items()])


def _authorization(instance: Any, url: Any, kwargs: dict[str, Any]) -> str:
    """Return the Authorization that will be sent, by aiohttp's own order."""
    auth = kwargs.get("auth")
    if auth is None and url.user:
        return "Basic " + _basic(url.user, url.password or "")
    auth = auth or instance._default_auth  # noqa: SLF001 -- of the session alone
    if auth is not None:
        return "Basic " + _basic(auth.login, auth.password)
    found = instance._prepare_headers(kwargs.get("headers")).get("Authorization", "")  # noqa: SLF001 -- of the session alone
    return str(found)


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _content(instance: Any, kwargs: dict[str, Any]) -> tuple[str | bytes | None, str]:
    """Return a body as it will be sent and its type; None for what only the library can write."""
    data, document = kwargs.get("data"), kwargs.get("json")
    if document is not None:
        return _serialized(instance, document), "application/json"
    if data is None:
        return b"", ""
    if isinstance(data, str | bytes | bytearray):
        return (data if isinstance(data, str) else bytes(data)), ""
    return _form(data), "application/x-www-form-urlencoded"


def _serialized(instance: Any, document: Any) -> str | bytes | None:
    dumps = getattr(instance, "_json_serialize_bytes", None) or instance._json_serialize  # noqa: SLF001 -- of the session alone
    try:
        found: str | bytes = dumps(document)
    except (TypeError, ValueError, RecursionError):
        return None
    return found


def _form(data: Any) -> bytes | None:
    """Return what aiohttp's own form makes of pairs, unless it is to be sent in parts or read from somewhere."""
    kind = sys.modules["aiohttp"].FormData
    if not isinstance(data, kind | Mapping | list | tuple) and not hasattr(data, "getall"):
        return None
    try:
        form = data if isinstance(data, kind) else kind(data)
        found: bytes | None = None if form.is_multipart else form()._value  # noqa: SLF001 -- the bytes of a form
    except (TypeError, ValueError, AttributeError):
        return None
    return found


async def send(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send one request; its answer is the caller's to read, whole or in parts."""
    handled = sys.exc_info()[1]
    method, url = _arguments(args, kwargs)
    with ticket.attempt() as ended:
        try:
            response = await (
                wrapped(*args, **kwargs) if ticket.secret is None else _swapped(wrapped, instance, method, url, kwargs, ticket.secret)
            )
        except Exception as error:
            ended(_failed(instance, method, error, handled, kwargs))
            raise
        _answered(ticket, ended, response)
        return response


def _failed(instance: Any, method: str, error: Exception, handled: BaseException | None, kwargs: dict[str, Any]) -> Attempt:
    status: int = getattr(error, "status", 0)
    if isinstance(error, sys.modules["aiohttp"].ClientResponseError) and status >= _LEAST_ERROR:
        # `raise_for_status`: there was an answer, whose body nobody read.
        return Attempt(reply=Reply(status, Lowered(getattr(error, "headers", None) or {})))
    once = sends_once(instance, method) and not kwargs.get("middlewares")
    return Attempt(error=type(error).__name__, unsent=once and is_unsent(error, handled))


async def _swapped(wrapped: Any, instance: Any, method: str, given: Any, kwargs: dict[str, Any], secret: str) -> Any:
    """Send with the real secret in the place of the token, through a session that adds nothing of its own."""
    url = instance._build_url(given)  # noqa: SLF001 -- as in `read`
    headers = instance._prepare_headers(kwargs.get("headers"))  # noqa: SLF001 -- as in `read`
    headers["Authorization"] = with_credential(_authorization(instance, url, kwargs), secret)
    rest = {name: value for name, value in kwargs.items() if name not in {"method", "str_or_url"}}
    return await wrapped.__func__(_Bare(instance), method, url.with_user(None), **{**rest, "headers": headers, "auth": None})


class _WithoutHeaders(wrapt.ObjectProxy[Any]):
    """A session that adds no headers of its own: each is in the request already, or was taken out."""

    @staticmethod
    def _prepare_headers(headers: Any) -> Any:
        return sys.modules["multidict"].CIMultiDict(headers or ())


class _Bare(_WithoutHeaders):
    """A session that adds no credentials either."""

    _default_auth = None


async def follow(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], response: Any, /) -> Any:
    """Follow redirects, by aiohttp's own rules, each hop through the session again."""
    if not kwargs.get("allow_redirects", True) or response.status not in _REDIRECTS:
        return response
    library, most, history = sys.modules["aiohttp"], kwargs.get("max_redirects", 10), []
    method = _arguments(args, kwargs)[0].upper()
    options = {name: value for name, value in kwargs.items() if name not in {"method", "str_or_url", "params"}} | {"allow_redirects": False}
    options["headers"] = instance._prepare_headers(kwargs.get("headers"))  # noqa: SLF001 -- as in `read`
    while response.status in _REDIRECTS:
        history.append(response)
        if most and len(history) >= most:
            response.close()
            raise library.TooManyRedirects(history[0].request_info, tuple(history))
        place = response.headers.get("Location") or response.headers.get("URI")
        if place is None:
            break
        method = _next_method(method, response, options)
        target = _target(instance, response, place)
        response.release()
        if target.origin() != response.url.origin():
            options["auth"] = options["cookies"] = None
            for name in ("Authorization", "Cookie", "Proxy-Authorization"):
                options["headers"].popall(name, None)
        response = await type(instance)._request(_WithoutHeaders(instance), method, target, **options)  # noqa: SLF001 -- the method this file is about
    response._history = tuple(history)  # noqa: SLF001 -- what `history` shows
    return response


def _next_method(method: str, response: Any, options: dict[str, Any]) -> str:
    """Return the method of the next hop, without a body where it becomes a GET; what cannot be sent again is an error."""
    if (response.status == _SEE_OTHER and method != "HEAD") or (response.status in {301, 302} and method == "POST"):
        options["data"] = options["json"] = None
        options["headers"].popall("Content-Length", None)
        return "GET"
    data = options.get("data")
    if data is not None and not isinstance(data, str | bytes | bytearray) and _form(data) is None:
        response.close()
        raise sys.modules["aiohttp"].ClientPayloadError(
            "Cannot follow redirect with a consumed request body. Use bytes, or set allow_redirects=False."
        )
    return method


def _target(instance: Any, response: Any, place: str) -> Any:
    library = sys.modules["aiohttp"]
    try:
        found = type(response.url)(place, encoded=not instance._requote_redirect_url)  # noqa: SLF001 -- of the session alone
    except ValueError as error:
        response.close()
        raise getattr(library, "InvalidUrlRedirectClientError", library.InvalidURL)(place) from error
    if found.scheme not in {"http", "https", ""}:
        response.close()
        raise getattr(library, "NonHttpUrlRedirectClientError", library.InvalidURL)(place)
    return found if found.scheme and found.raw_host else response.url.join(found)


def _answered(ticket: context.Ticket, ended: Callable[[Attempt], None], response: Any) -> None:
    """Report an answer; one whose body says what the call cost, once more when it has been read."""
    reported = len(ticket.attempts)
    ended(Attempt(reply=_reply(response, None)))
    if len(ticket.attempts) > reported and is_telling(ticket, response.headers.get("content-type", "")):
        # Nothing here refers to the answer: one that is dropped unread must be gone at once.
        tail = Tail(None, ticket, partial(Reply, response.status, Lowered(response.headers)))
        response.content = _Content(response.content, tail)
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


class _Content(wrapt.ObjectProxy[Any]):
    """aiohttp's stream of an answer in the caller's hands: passes each part on, and tells the tail when it ends."""

    def __init__(self, content: Any, tail: Tail) -> None:
        super().__init__(content)
        self._self_tail = tail

    async def read(self, n: int = -1) -> bytes:
        """Read up to so many bytes, or all."""
        return await self._self_kept(await self.__wrapped__.read(n), is_all=n < 0)

    async def readany(self) -> bytes:
        """Read what has come."""
        return await self._self_kept(await self.__wrapped__.readany())

    async def readexactly(self, n: int) -> bytes:
        """Read so many bytes."""
        return await self._self_kept(await self.__wrapped__.readexactly(n))

    async def readline(self, **more: Any) -> bytes:
        """Read a line."""
        return await self._self_kept(await self.__wrapped__.readline(**more))

    async def readuntil(self, separator: bytes = b"\n", **more: Any) -> bytes:
        """Read up to a separator."""
        return await self._self_kept(await self.__wrapped__.readuntil(separator, **more))

    async def readchunk(self) -> tuple[bytes, bool]:
        """Read a chunk as it was sent."""
        part, is_whole = await self.__wrapped__.readchunk()
        return await self._self_kept(part), is_whole

    def read_nowait(self, n: int = -1) -> bytes:
        """Read what is there."""
        part: bytes = self.__wrapped__.read_nowait(n)
        self._self_tail.keep(part)
        if self.__wrapped__.at_eof():
            self._self_tail.end()
        return part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield lines."""
        while line := await self.readline():
            yield line

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        """Yield parts of at most so many bytes."""
        while part := await self.read(n):
            yield part

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield parts as they come."""
        while part := await self.readany():
            yield part

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Yield chunks as they were sent."""
        while (chunk := await self.readchunk()) != (b"", False):
            yield chunk

    async def _self_kept(self, part: bytes, *, is_all: bool = False) -> bytes:
        self._self_tail.keep(part)
        if is_all or self.__wrapped__.at_eof():
            await self._self_tail.aend()
        return part


patch = AiohttpPatch()
