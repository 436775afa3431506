"""The Resend SDK's seams: the one method that every request of a resource passes, blocking and awaited. Translates only.

`Request.make_request` is one logical call and one try on the wire, whatever HTTP client the user has set. What happens
inside it the SDK turns into a `ResendError` of status 500, so what was raised is looked for behind that.
"""

from __future__ import annotations

import json
import sys
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyguard.errors import ConfigurationError
from keyguard.model import Attempt, Call, Reply
from keyguard.patches import Outgoing, Seam
from keyguard.patches._headers import Lowered, credential_of, form_pairs, read_body
from keyguard.patches._proof import is_unsent, raise_refusal
from keyguard.patches._wire import stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard import context

_FIRST = (2, 20)
# What the SDK raises before it has a client to send with.
_UNCONFIGURED = "AsyncClientNotConfigured"
# The SDK's own clients; each makes a session for one request, which tries once.
_CLIENTS = frozenset({"resend.http_client_requests", "resend.http_client_httpx"})


class ResendPatch:
    """The plug: resend from 2.20 on, whose names here are the same up to 2.52 (read and run November 2026)."""

    client = "resend"
    distribution = "resend"
    supported = f">={_FIRST[0]}.{_FIRST[1]}"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The blocking and the awaiting request."""
        return (
            Seam("resend.sync", "resend.request", "Request.make_request", read, send),
            Seam("resend.async", "resend.async_request", "AsyncRequest.make_request", read, asend, is_async=True),
        )

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has these seams."""
        major, _, rest = installed.partition(".")
        minor = rest.partition(".")[0]
        return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= _FIRST


def read(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outgoing:
    """Read one logical call from the request object and its URL."""
    url: str = args[0] if args else kwargs["url"]
    parts = urlsplit(url)
    path, _, query = str(instance.path).partition("?")
    if not parts.path.endswith(path):
        # Called with another URL than the object's own.
        path, query = parts.path, parts.query
    headers, method = _headers_of(instance)(), str(instance.verb).upper()
    body, document = _body(instance) if method not in {"GET", "HEAD"} else ((), None)
    call = Call(
        "resend", method, parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower(), path,
        query=form_pairs(query),
        body=body,
        document=document,
        idempotency_key=headers.get("Idempotency-Key"),
    )  # fmt: skip
    has_own_key = call.idempotency_key is not None
    return Outgoing(call, credential_of(headers.get("Authorization", "")), takes_key=True, has_own_key=has_own_key)


def _body(instance: Any) -> tuple[tuple[tuple[str, str], ...] | None, Any]:
    """Return a body's pairs and document as they will be on the wire; None for uploads, and for what cannot be written as JSON."""
    if getattr(instance, "files", None) is not None or getattr(instance, "data", None) is not None:
        return None, None
    try:
        return read_body(json.dumps(instance.params, allow_nan=False), "application/json")
    except (ValueError, TypeError, RecursionError):
        return None, None


def send(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send one request through whatever client the user has set."""
    handled = sys.exc_info()[1]
    args, kwargs = _routed(ticket, args, kwargs)
    with ticket.attempt() as ended, _Prepared(instance, ticket.secret, ticket.idempotency_key):
        try:
            answer = wrapped(*args, **kwargs)
        except Exception as error:
            _report(ticket, ended, _failed(instance, error, handled, _client()))
            raise_refusal(error, handled)
            raise
        _report(ticket, ended, Attempt(reply=_reply(instance, answer)))
        return answer


async def asend(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send one awaited request."""
    handled = sys.exc_info()[1]
    args, kwargs = _routed(ticket, args, kwargs)
    with ticket.attempt() as ended, _Prepared(instance, ticket.secret, ticket.idempotency_key):
        try:
            answer = await wrapped(*args, **kwargs)
        except Exception as error:
            _report(ticket, ended, _failed(instance, error, handled, _async_client()))
            raise_refusal(error, handled)
            raise
        _report(ticket, ended, Attempt(reply=_reply(instance, answer)))
        return answer


def _routed(ticket: context.Ticket, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with the URL of the proxy, where the call goes through one."""
    if ticket.route is None:
        return args, kwargs
    return ((ticket.route.url(args[0]), *args[1:]), kwargs) if args else (args, {**kwargs, "url": ticket.route.url(kwargs["url"])})


def _report(ticket: context.Ticket, ended: Callable[[Attempt], None], attempt: Attempt) -> None:
    """Report an attempt, or raise what a proxy said in the vendor's place."""
    if attempt.reply is not None:
        stop(ticket, ended, attempt.reply.status, attempt.reply.headers, attempt.reply.body)
    ended(attempt)


def _reply(instance: Any, answer: Any) -> Reply:
    """Return the reply that an answer of the SDK was made from."""
    body = {name: value for name, value in answer.items() if name != "http_headers"} if isinstance(answer, dict) else answer
    # Versions before 2.40 or so keep no status; Resend repeats an error's in its body.
    said = body.get("statusCode") if isinstance(body, dict) else None
    status = getattr(instance, "_response_status_code", None) or (said if isinstance(said, int) else 200)
    return Reply(status, Lowered(instance._response_headers), json.dumps(body).encode())  # noqa: SLF001 -- kept nowhere else


def _failed(instance: Any, error: Exception, handled: BaseException | None, client: Any) -> Attempt:
    """Say how an attempt ended that raised: an answer that is no JSON has a status all the same."""
    status = getattr(instance, "_response_status_code", None)
    if status is not None:
        return Attempt(reply=Reply(status, Lowered(instance._response_headers)))  # noqa: SLF001 -- kept nowhere else
    if getattr(error, "error_type", "") == _UNCONFIGURED:
        return Attempt(error=type(error).__name__, unsent=True)
    is_own = type(client).__module__ in _CLIENTS and "request" not in vars(client)
    return Attempt(error=type(error).__name__, unsent=is_own and is_unsent(error, handled))


def _client() -> Any:
    return sys.modules["resend"].default_http_client


def _async_client() -> Any:
    """Return the client that an awaited request uses, by the SDK's own order: one set in the older place wins over the automatic one."""
    module: Any = sys.modules["resend"]
    found, older = module.default_async_http_client, module.default_http_client
    is_set = found is not None and found is not getattr(module, "_auto_async_http_client", None)
    return older if not is_set and iscoroutinefunction(getattr(older, "request", None)) else found


class _Prepared:
    """Forgets an earlier answer of a request object, and lets it write the real secret and a derived key while it is sent."""

    def __init__(self, instance: Any, secret: str | None, key: str | None) -> None:
        self._instance = instance
        self._more = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        if key is not None:
            self._more["Idempotency-Key"] = key
        self._name = _header_method(instance)

    def __enter__(self) -> None:
        self._instance._response_status_code = None  # noqa: SLF001 -- it would be taken for this attempt's
        if self._more:
            write, more = _headers_of(self._instance), self._more
            setattr(self._instance, self._name, lambda: {**write(), **more})

    def __exit__(self, *_: object) -> None:
        if self._more:
            delattr(self._instance, self._name)


def _headers_of(instance: Any) -> Callable[[], dict[str, str]]:
    found: Callable[[], dict[str, str]] = getattr(instance, _header_method(instance))
    return found


def _header_method(instance: Any) -> str:
    """Return the name of the private method in which the SDK writes its headers."""
    for name in ("_Request__get_headers", "_AsyncRequest__get_headers"):
        if hasattr(instance, name):
            return name
    raise ConfigurationError(
        "this version of resend writes its headers in a way that keyguard does not know, so the call could not be guarded; "
        "nothing was sent. Please report the version."
    )


patch = ResendPatch()
