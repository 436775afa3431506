"""The seam of requests: the one method that every request of a session passes, redirects hop by hop. Translates only."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import wrapt

from keyguard import context
from keyguard.model import TOKEN_PREFIX, Attempt, Reply
from keyguard.patches import Outgoing, Seam
from keyguard.patches._headers import Lowered, credential_of, with_credential
from keyguard.patches._proof import is_unsent, sends_once
from keyguard.patches._tail import Tail
from keyguard.patches._wire import BODY_HEADERS, LISTED, call_of, check_token, is_telling, netloc_of, split_path, vendor_of
from keyguard.vendors import claimant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FIRST = (2, 25)
# A URL whose host every reader sees alike; any other is read with care.
_PLAIN = re.compile(r"https?://([A-Za-z0-9.-]+)(?::[0-9]+)?(?:[/?#]|$)")


class RequestsPatch:
    """The plug: requests from 2.25 on, whose `Session.send` and its keywords are the same up to 2.34 (read and run November 2026)."""

    client = "requests"
    distribution = "requests"
    supported = f">={_FIRST[0]}.{_FIRST[1]}"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The sending of one prepared request."""
        return (Seam("requests.sync", "requests", "Session.send", read, send, passes=passes, follow=follow),)

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has this seam."""
        major, _, rest = installed.partition(".")
        minor = rest.partition(".")[0]
        return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= _FIRST


def passes(args: tuple[Any, ...], kwargs: dict[str, Any], /) -> bool:
    """Say at once that nobody guards this request: the host is foreign, no stand-in is listed, and no header may carry a token."""
    request: Any = args[0] if args else kwargs.get("request")
    found = _PLAIN.match(getattr(request, "url", None) or "")
    if LISTED or found is None or claimant(found[1].lower()) is not None:
        return False
    # Basic hides a token in base64.
    return not any(TOKEN_PREFIX in value or "asic " in value for value in request.headers.values() if isinstance(value, str))


def read(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Outgoing | None:
    """Read one prepared request; what is none is the library's own error."""
    request = args[0] if args else kwargs.get("request")
    url = getattr(request, "url", None)
    if request is None or not isinstance(url, str) or not hasattr(request, "prepare_headers"):
        return None
    host, netloc = netloc_of(url)
    vendor = vendor_of(host, netloc)
    if vendor is None:
        check_token(((_text(name), _text(value)) for name, value in request.headers.items()), netloc)
        return None
    prefix, path = split_path(_path_of(request), vendor, netloc)
    headers = {str(name).lower(): _text(value) for name, value in request.headers.items()}
    body = request.body if request.body is not None else b""
    call = call_of(vendor, str(request.method), url, path, headers, body if isinstance(body, str | bytes) else None)

    def ask(path: str, secret: str | None) -> Reply:
        """GET a path with the same session, and its proxies, certificates and credentials."""
        question = request.copy()
        question.method, question.body, question.hooks = "GET", None, {"response": []}
        question.url = urlsplit(url)._replace(path=f"{prefix}{path}", query="", fragment="").geturl()
        for name in BODY_HEADERS:
            question.headers.pop(name, None)
        with context.own_traffic(), _Swapped(question, secret):
            found = instance.send(question, **{**kwargs, "stream": False, "allow_redirects": False})
        return _reply(found, found.content)

    return Outgoing(call, credential_of(headers.get("authorization", "")), ask)


def send(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send one request; its answer is the caller's to read, whole or in parts."""
    request, handled = args[0] if args else kwargs["request"], sys.exc_info()[1]
    with ticket.attempt() as ended, _Swapped(request, ticket.secret):
        try:
            response = wrapped(*args, **kwargs)
        except Exception as error:
            once = sends_once(instance, str(request.method))
            ended(Attempt(error=type(error).__name__, unsent=once and is_unsent(error, handled)))
            raise
        _answered(ticket, ended, response)
        return response


def follow(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], response: Any, /) -> Any:
    """Follow redirects as `Session.send` does: by `resolve_redirects`, which sends each hop through the session again."""
    request = args[0] if args else kwargs["request"]
    options = {name: value for name, value in kwargs.items() if name not in {"allow_redirects", "request"}}
    for name in ("stream", "verify", "cert", "proxies"):
        options.setdefault(name, getattr(instance, name))
    # Made while the real secret stood in the request, which the caller never sees.
    following, response._next = response._next, None  # noqa: SLF001 -- what `Response.next` shows
    if following is None:
        return response
    if not kwargs.get("allow_redirects", True):
        response._next = next(instance.resolve_redirects(response, request, yield_requests=True, **options), None)  # noqa: SLF001 -- as above
        return response
    hops = [response, *instance.resolve_redirects(response, request, **options)]
    hops[-1].history = hops[:-1]
    if not options["stream"]:
        _ = hops[-1].content
    return hops[-1]


def _answered(ticket: context.Ticket, ended: Callable[[Attempt], None], response: Any) -> None:
    """Report an answer; one whose body says what the call cost and is not read yet, once more when it has been read."""
    reported, is_read = len(ticket.attempts), response._content_consumed  # noqa: SLF001 -- `content` would read it
    ended(Attempt(reply=_reply(response, response.content if is_read else None)))
    if not is_read and len(ticket.attempts) > reported and is_telling(ticket, response.headers.get("content-type", "")):
        response.raw = _Raw(
            response.raw,
            Tail(None, ticket, partial(Reply, response.status_code, Lowered(response.headers))),
            "content-encoding" in response.headers,
        )


def _reply(response: Any, body: bytes | None) -> Reply:
    return Reply(response.status_code, Lowered(response.headers), body)


class _Raw(wrapt.ObjectProxy[Any]):
    """urllib3's answer in the caller's hands: passes each part on, and tells the tail when it ends."""

    def __init__(self, raw: Any, tail: Tail, is_packed: bool) -> None:  # noqa: FBT001 -- by position, as the two others
        super().__init__(raw)
        self._self_tail, self._self_is_packed = tail, is_packed

    def stream(self, amt: int = 2**16, decode_content: bool | None = None) -> Iterator[bytes]:  # noqa: FBT001 -- urllib3's signature
        """Yield the parts."""
        for part in self.__wrapped__.stream(amt, decode_content=decode_content):
            self._self_kept(part, decode_content)
            yield part
        self._self_tail.end()

    def read(self, amt: int | None = None, decode_content: bool | None = None, **more: Any) -> bytes:  # noqa: FBT001 -- as above
        """Read some of it, or the rest."""
        part: bytes = self.__wrapped__.read(amt, decode_content=decode_content, **more)
        self._self_kept(part, decode_content)
        if amt is None or (amt and not part):
            self._self_tail.end()
        return part

    def __iter__(self) -> Iterator[bytes]:
        """Yield lines, as urllib3 does."""
        for part in self.__wrapped__:
            self._self_kept(part, None)
            yield part
        self._self_tail.end()

    def close(self) -> None:
        """Let the connection go."""
        try:
            self.__wrapped__.close()
        finally:
            self._self_tail.end()

    def release_conn(self) -> None:
        """Give the connection back."""
        try:
            self.__wrapped__.release_conn()
        finally:
            self._self_tail.end()

    def _self_kept(self, part: bytes, decode_content: bool | None) -> None:  # noqa: FBT001 -- handed on
        # What is passed on packed cannot be read as JSON, which makes it unknown: so it is.
        if not self._self_is_packed or decode_content or (decode_content is None and self.__wrapped__.decode_content):
            self._self_tail.keep(part)


class _Swapped:
    """Puts the real secret into a request while it is sent, and the token back afterwards."""

    def __init__(self, request: Any, secret: str | None) -> None:
        self._request, self._secret = request, secret
        self._token = request.headers.get("Authorization")

    def __enter__(self) -> None:
        if self._secret is not None:
            self._request.headers["Authorization"] = with_credential(_text(self._token or ""), self._secret)

    def __exit__(self, *_: object) -> None:
        if self._secret is None:
            return
        del self._request.headers["Authorization"]
        if self._token is not None:
            self._request.headers["Authorization"] = self._token


def _path_of(request: Any) -> str:
    return str(request.path_url).partition("?")[0]


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


patch = RequestsPatch()
