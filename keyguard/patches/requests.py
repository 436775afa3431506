"""The seam of requests: the adapter that a session gives each of its requests to, redirects hop by hop. Translates only.

`Session.send` runs as it is, hooks, cookies and redirects with it; the adapter that it asks its session for is ours, and
what goes through that is one request with its final URL. So is what a hook sends through `response.connection`.
"""

from __future__ import annotations

import copy
import re
import sys
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import wrapt

from keyguard import context
from keyguard.context import open_ticket
from keyguard.model import TOKEN_PREFIX, Attempt, Reply
from keyguard.patches import Outgoing, Seam, decided
from keyguard.patches._answers import of_requests
from keyguard.patches._headers import SHORTEST, Lowered, is_hiding
from keyguard.patches._proof import is_unsent
from keyguard.patches._requests_raw import Raw
from keyguard.patches._tail import Tail
from keyguard.patches._wire import (
    BODY_HEADERS,
    Foreign,
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
    text,
    vendor_of,
    wants_body,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.patches import Seen

_FIRST = (2, 25)
_SCHEMES = frozenset({"http:", "https:"})
_PLAIN = re.compile(r"([A-Za-z0-9.-]+)(?::[0-9]+)?")


class RequestsPatch:
    """The plug: requests from 2.25 on, whose `Session.send` asks `get_adapter` for what sends, as up to 2.34 (read November 2026)."""

    client = "requests"
    distribution = "requests"
    supported = f">={_FIRST[0]}.{_FIRST[1]}"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The sending of one prepared request, and of those that it leads to."""
        return (Seam("requests.sync", "requests", "Session.send", quick=quick, inside=inside),)

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has this seam."""
        major, _, rest = installed.partition(".")
        minor = rest.partition(".")[0]
        return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= _FIRST


def quick(passing: Callable[..., Any], seen: Seen, /) -> Callable[..., Any]:
    """Let pass at once what nobody guards: the host is foreign, no stand-in is listed, and no header may carry a token."""

    def wrapper(self: Any, request: Any, **kwargs: Any) -> Any:
        try:
            scheme, nothing, netloc, _ = request.url.split("/", 3)
            passes = not nothing and scheme in _SCHEMES and _FOREIGN[netloc] and ((ticket := open_ticket()) is None or ticket.in_attempt)
            # Of the mapping's own store, in any order: its `values()` looks each name up again, and so does an ordered dictionary's.
            for _, value in dict.values(request.headers._store) if passes else ():  # noqa: SLF001 -- as httpx's, what each request pays
                if len(value) >= SHORTEST and (
                    ("_" in value and TOKEN_PREFIX in value) or (value[5] == " " and value[4] in "cC" and is_hiding(value))
                ):
                    passes = False
        except (AttributeError, KeyError, TypeError, ValueError):
            # Another URL, other headers, or bytes among them, are read with care.
            passes = False
        return passing(self, request, **kwargs) if passes else seen(self, (request,), kwargs)

    return wrapper


def _plain_host(netloc: str) -> str:
    """Return a host that every reader sees alike, in lower case; of another, or of one with a user's name, nothing is remembered."""
    found = _PLAIN.fullmatch(netloc)
    if found is None:
        raise ValueError("not plain")
    return found[1].lower()


_FOREIGN = Foreign(_plain_host)


def inside(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Call `send` with a session whose adapters are guarded; the hops of a redirect go through `send` again by themselves."""
    return _Session(instance), args, kwargs


class _Session(wrapt.ObjectProxy[Any]):
    """A session for the length of one `send`."""

    def get_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """Return the adapter that sends, under guard."""
        return _Adapter(self.__wrapped__.get_adapter(*args, **kwargs))


class _Adapter(wrapt.ObjectProxy[Any]):
    """An adapter each of whose requests is decided before it leaves."""

    def send(self, *args: Any, **kwargs: Any) -> Any:
        """Send one prepared request."""
        adapter = self.__wrapped__
        response = _guarded(adapter, getattr(adapter, "max_retries", None), args, kwargs)
        if getattr(response, "connection", None) is adapter:
            # Through which a hook may send it again.
            response.connection = self
        return response


def _guarded(adapter: Any, retries: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    handler = context.deciding()
    if handler is None:
        return adapter.send(*args, **kwargs)
    return decided(handler, read, partial(send, retries), adapter.send, adapter, args, kwargs)


def read(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Outgoing | context.Ticket | None:
    """Read one prepared request."""
    request: Any = args[0] if args else kwargs["request"]
    url = str(request.url)
    host, netloc = netloc_of(url)
    target = str(request.path_url)
    vendor = vendor_of(host, netloc, target)
    if vendor is None:
        check_token(((text(name), text(value)) for name, value in request.headers.items()), netloc)
        return None
    prefix, path = split_path(target.partition("?")[0], vendor, netloc)
    ticket = reported(vendor, str(request.method), path)
    if ticket is not None:
        return ticket
    headers = {text(name).lower(): text(value) for name, value in request.headers.items()}
    body = request.body if request.body is not None else b""
    call = call_of(vendor, str(request.method), url, path, headers, body if isinstance(body, str | bytes) else None)

    def ask(path: str, ticket: context.Ticket) -> Reply:
        """GET a path through the same adapter, with its proxies, certificates and credentials."""
        question = request.copy()
        question.method, question.body, question.hooks = "GET", None, {"response": []}
        question.url = urlsplit(url)._replace(path=f"{prefix}{path}", query="", fragment="").geturl()
        for name in BODY_HEADERS:
            question.headers.pop(name, None)
        with context.own_traffic(), Routed(question, ticket, str, is_asked=True):
            found = instance.send(question, *args[1:], **{name: value for name, value in kwargs.items() if name != "request"})
        return _reply(found, found.content)

    credential, has_own_key = credential_in(headers, vendor, netloc), call.idempotency_key is not None
    return Outgoing(call, credential, ask, takes_key=True, has_own_key=has_own_key, respond=partial(of_requests, request))


def send(retries: Any, ticket: context.Ticket, _wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send one request, with what is left of its adapter's retries; its answer is the caller's to read, whole or in parts."""
    request, handled = args[0] if args else kwargs["request"], sys.exc_info()[1]
    if ticket.must_ask and ticket.again is not None:
        ticket.again(ticket)
    meant = request.url
    # In this order: what cannot be sent on its way is no attempt.
    with Routed(request, ticket, str), ticket.attempt() as ended:
        try:
            response = _sender(instance, retries)(*args, **kwargs)
        except _AnotherTry as another:
            ended(another.attempt)
            following = another
        except Exception as error:
            ended(Attempt(error=type(error).__name__, unsent=_is_stock(instance) and is_unsent(error, handled)))
            raise
        else:
            if ticket.route is not None:
                # From which the session reads where a redirect leads.
                response.url = meant
            if not context.is_silent(ended):
                headers = Lowered(response.headers)
                body = response.content if wants_body(ticket, response.status_code, headers) else None
                if not stop(ticket, ended, response.status_code, headers, body):
                    _answered(ticket, ended, response)
            return response
    following.prepare(request)
    return _guarded(instance, following.retries, args, kwargs)


def _answered(ticket: context.Ticket, ended: Callable[[Attempt], None], response: Any) -> None:
    """Report an answer; one whose body says what the call cost and is not read yet, once more when it has been read."""
    reported, content = len(ticket.attempts), response._content  # noqa: SLF001 -- False where it is unread; `content` would read it
    is_read = content is not False
    ended(Attempt(reply=_reply(response, content if is_read else None)))
    if not is_read and len(ticket.attempts) > reported and is_telling(ticket, response.headers.get("content-type", "")):
        headers = Lowered(response.headers)
        tail = Tail(None, ticket, partial(Reply, response.status_code, headers), is_events=is_events(headers))
        response.raw = Raw(response.raw, tail, "content-encoding" in headers)


def _reply(response: Any, body: bytes | None) -> Reply:
    return Reply(response.status_code, Lowered(response.headers), body)


def _is_stock(adapter: Any) -> bool:
    """Say whether requests' own method sends: another one may try again unseen, and raise only its last error."""
    owner = next((kind for kind in type(adapter).__mro__ if "send" in vars(kind)), None)
    return owner is not None and owner.__module__ == "requests.adapters" and "send" not in vars(adapter)


# -- urllib3's own retries ------------------------------------------------------------------------


def _sender(adapter: Any, retries: Any) -> Callable[..., Any]:
    """Return what sends once: urllib3 would send a request again by itself, and each time it may be executed."""
    own = getattr(adapter, "max_retries", None)
    if retries is own and isinstance(own, int) and own:
        # Set after the adapter was made; urllib3 makes the same of it.
        own = retries = sys.modules["urllib3"].Retry.from_int(own)
    if (retries is own and getattr(own, "total", 0) in (0, False)) or "send" in vars(adapter):
        found: Callable[..., Any] = adapter.send
        return found

    def sending(*args: Any, **kwargs: Any) -> Any:
        # Emptied at the end: an answer keeps its retries, and need not keep what its caller was handling.
        handled = [sys.exc_info()[1]]
        try:
            return type(adapter).send(_Retrying(adapter, _watched(retries, handled)), *args, **kwargs)
        finally:
            handled.clear()

    return sending


class _Retrying(wrapt.ObjectProxy[Any]):
    """An adapter whose retries are told apart; the adapter itself is its user's, and keeps its own."""

    def __init__(self, adapter: Any, retries: Any) -> None:
        super().__init__(adapter)
        self._self_retries = retries

    @property
    def max_retries(self) -> Any:
        """What urllib3 asks, before each further try, whether there is one."""
        return self._self_retries


def _watched(retries: Any, handled: list[BaseException | None]) -> Any:
    found = copy.copy(retries)
    kind: Any = type(retries)
    found.__class__ = _watched_class(kind)
    found._keyguard_handled = handled  # noqa: SLF001 -- an attribute of ours
    return found


@cache
def _watched_class(kind: Any) -> Any:
    return kind if issubclass(kind, _Watched) else type(kind.__name__, (_Watched, kind), {})


class _Watched:
    """Between two tries of urllib3's: after one that may have reached its host, the next is not urllib3's to begin."""

    _keyguard_handled: list[BaseException | None]

    def increment(self, *args: Any, **kwargs: Any) -> Any:
        """Count a try, and raise what urllib3 raises where it was the last."""
        following = super().increment(*args, **kwargs)  # type: ignore[misc]  # -- of urllib3's Retry, which this is put before
        error = kwargs.get("error")
        if error is None or not is_unsent(error, *self._keyguard_handled):
            raise _AnotherTry(following, kwargs.get("response"), error)
        following._keyguard_handled = self._keyguard_handled  # noqa: SLF001 -- an attribute of ours
        return following


class _AnotherTry(BaseException):
    """Ends a try that urllib3 would repeat; past whatever catches errors on its way to the adapter's guard."""

    def __init__(self, retries: Any, response: Any, error: Exception | None) -> None:
        super().__init__()
        self.retries, self._response = retries, response
        if response is None:
            self.attempt = Attempt(error=type(error).__name__)
        else:
            self.attempt = Attempt(reply=Reply(response.status, Lowered(response.headers)))
            response.drain_conn()

    def prepare(self, request: Any) -> None:
        """Do what urllib3 does between two tries: wait, and go back to the beginning of a file."""
        self.retries.sleep(self._response)
        if getattr(request, "_body_position", None) is not None:
            sys.modules["requests.utils"].rewind_body(request)


patch = RequestsPatch()
