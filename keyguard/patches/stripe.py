"""The Stripe SDK's seams: the base class of all its HTTP clients, where every API style passes once. Translates only.

`HTTPClient._request_with_retries_internal` is one logical call; it is called with a proxy in place of
`self`, so that each attempt of the SDK's own retry loop is seen, with its final headers, for every
built-in client and every subclass. `_APIRequestor.request_raw` refuses clients that go round the base class.
"""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import anyio.from_thread
import wrapt

from keyguard import context
from keyguard.errors import ConfigurationError
from keyguard.model import Attempt, Call, Reply
from keyguard.patches import Outgoing, Seam
from keyguard.patches._headers import Lowered, credential_of, form_pairs, lowered, read_body
from keyguard.patches._proof import is_unsent, raise_refusal, sends_once
from keyguard.patches._wire import stop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RETRY_METHODS = frozenset({
    "request_with_retries", "request_stream_with_retries", "request_with_retries_async", "request_stream_with_retries_async",
    "_request_with_retries_internal", "_request_with_retries_internal_async",
})  # fmt: skip
_CLIENTS = "stripe._http_client"
# The only headers of a request that say something about its money.
_READ_HEADERS = frozenset({"authorization", "content-type", "idempotency-key", "stripe-account", "stripe-context"})
_FORM = "application/x-www-form-urlencoded"
_FIRST_MAJOR = 8
# A proxy's: `/stripe`, and for another of Stripe's hosts than the API's that one's name.
_BASE = re.compile(r"/[^/]+(?:/[a-z-]+\.stripe\.com)?(?=/v[12]/)")


class StripePatch:
    """The plug: stripe from 8 on, whose names here are the same up to 16.1 (read and run November 2026)."""

    client = "stripe"
    distribution = "stripe"
    supported = f">={_FIRST_MAJOR}"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """One logical call, sync and async, and the check that no client goes round it."""
        client, requestor = _CLIENTS, "stripe._api_requestor"
        return (
            Seam("stripe.sync", client, "HTTPClient._request_with_retries_internal", read, send),
            Seam("stripe.async", client, "HTTPClient._request_with_retries_internal_async", aread, asend, is_async=True),
            Seam("stripe.check", requestor, "_APIRequestor.request_raw", inside=inside),
            Seam("stripe.check_async", requestor, "_APIRequestor.request_raw_async", inside=inside, is_async=True),
        )

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has these seams."""
        major = installed.partition(".")[0]
        return major.isdigit() and int(major) >= _FIRST_MAJOR


class Made(str):
    """An Idempotency-Key that nobody asked for: made in the SDK's place, so that it can be told from a caller's own."""

    __slots__ = ()


def inside(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Check the client of a request, and make its Idempotency-Key where the SDK would make one by chance."""
    handler = context.deciding()
    try:
        check(instance)
    except ConfigurationError as error:
        if handler is None or not handler.tolerates(error):
            raise
    method, options = str(args[0] if args else kwargs["method"]), args[3] if len(args) > 3 else kwargs.get("options")
    if not (method == "post" or (method == "delete" and kwargs.get("api_mode") == "V2")) or _has_key(options):
        return instance, args, kwargs
    options = {**(options or {}), "idempotency_key": Made(os.urandom(16).hex())}
    if len(args) > 3:
        return instance, (*args[:3], options, *args[4:]), kwargs
    return instance, args, {**kwargs, "options": options}


def _has_key(options: Mapping[str, Any] | None) -> bool:
    if not options:
        return False
    return bool(options.get("idempotency_key")) or any(str(name).lower() == "idempotency-key" for name in options.get("headers") or ())


def check(instance: Any) -> None:
    """
    Refuse a client whose requests would not pass the guarded method.

    Raises:
        ConfigurationError: names the class.
    """
    client = instance._get_http_client()  # noqa: SLF001 -- the only way to the client that the request will use
    own = type(client)
    if _is_bypassing(client, own):
        raise ConfigurationError(
            f"the Stripe client {own.__module__}.{own.__qualname__} does not send through stripe.HTTPClient's own retry methods, "
            "so keyguard cannot guard it; nothing was sent. Subclass stripe.HTTPClient and override request() instead."
        )


def _is_bypassing(client: Any, own: type[Any]) -> bool:
    """Say whether a retry method of this client is found anywhere before Stripe's own base class."""
    base = sys.modules[_CLIENTS].HTTPClient
    for kind in own.__mro__:
        if kind is base:
            # A method set on the object itself goes round the class as well.
            return not vars(client).keys().isdisjoint(_RETRY_METHODS)
        if not vars(kind).keys().isdisjoint(_RETRY_METHODS):
            return True
    return True


def read(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outgoing:
    """Read one logical call from (method, url, headers, post_data, …)."""
    return _outgoing(args, kwargs, lambda url, headers: instance.request("get", url, headers, None))


def aread(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outgoing:
    """Read one logical call; its quote reads go through the same async client, on the event loop that waits for them."""
    return _outgoing(args, kwargs, lambda url, headers: anyio.from_thread.run(instance.request_async, "get", url, headers, None))


def _outgoing(args: tuple[Any, ...], kwargs: dict[str, Any], get: Callable[[str, Mapping[str, str]], Any]) -> Outgoing:
    # Four in their order: how Stripe's own methods call it, in every version.
    method, url, headers, post_data = args if len(args) == 4 else _arguments(args, kwargs)
    scheme, host, base, path, query = _address(url)
    said = {wanted: value for name, value in (headers or {}).items() if (wanted := lowered(name)) in _READ_HEADERS}
    own_key = said.get("idempotency-key")
    said = {name: str(value) for name, value in said.items()}
    account, context_of = said.get("stripe-account"), said.get("stripe-context")
    body, document = read_body(post_data or "", said.get("content-type", _FORM))
    call = Call(
        "stripe", method.upper(), scheme, host, path,
        query=query,
        body=body,
        document=document,
        account=f"{account}/{context_of}" if account and context_of else account or context_of or "",
        idempotency_key=said.get("idempotency-key"),
    )  # fmt: skip

    def ask(path: str, ticket: context.Ticket) -> Reply:
        """GET a path with the same client, base and credentials."""
        kept = {name: value for name, value in (headers or {}).items() if name.lower() not in {"idempotency-key", "content-type"}}
        with context.own_traffic():
            content, status, received = get(_routed(f"{base}{path}", ticket), _with(kept, ticket.secret))
        return _reply(content, status, received)

    # Text that was read as a form; what is uploaded in parts is bytes, and not read.
    is_writable = body is not None and document is None and (post_data is None or isinstance(post_data, str))
    has_own_key = own_key is not None and type(own_key) is not Made
    return Outgoing(call, credential_of(said.get("authorization", "")), ask, is_writable, takes_key=True, has_own_key=has_own_key)


@lru_cache(maxsize=1024)
def _address(url: str) -> tuple[str, str, str, str, tuple[tuple[str, str], ...]]:
    """Return scheme, host, base, path and query of a URL; remembered, because most calls go to a few of them."""
    parts = urlsplit(url)
    path = _vendor_path(parts.path)
    base = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix(path)}"
    return parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower(), base, path, form_pairs(parts.query)


def send(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run Stripe's own retry loop, with each attempt seen."""
    method: Any = wrapped
    return method.__func__(_Watched(instance, ticket), *args, **kwargs)


async def asend(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run Stripe's own async retry loop, with each attempt seen."""
    method: Any = wrapped
    return await method.__func__(_Watched(instance, ticket), *args, **kwargs)


class _Watched(wrapt.ObjectProxy[Any]):
    """A stand-in for a Stripe HTTP client that reports the attempts of one ticket."""

    def __init__(self, client: Any, ticket: context.Ticket) -> None:
        super().__init__(client)
        self._self_ticket = ticket

    def request(self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None, **more: Any) -> Any:
        """Make one attempt."""
        return self._self_attempt("request", method, url, headers, post_data, more, is_stream=False)

    def request_stream(self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None, **more: Any) -> Any:
        """Make one attempt whose body belongs to the caller."""
        return self._self_attempt("request_stream", method, url, headers, post_data, more, is_stream=True)

    async def request_async(self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None, **more: Any) -> Any:
        """Make one awaited attempt."""
        return await self._self_aattempt("request_async", method, url, headers, post_data, more, is_stream=False)

    async def request_stream_async(self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None, **more: Any) -> Any:
        """Make one awaited attempt whose body belongs to the caller."""
        return await self._self_aattempt("request_stream_async", method, url, headers, post_data, more, is_stream=True)

    def _self_attempt(self, name: str, method: str, url: str, headers: Mapping[str, str], data: Any, more: Any, *, is_stream: bool) -> Any:
        ticket, client, handled = self._self_ticket, self.__wrapped__, sys.exc_info()[1]
        if ticket.must_ask and ticket.again is not None:
            ticket.again(ticket)
        headers, url = _sent(headers, ticket), _routed(url, ticket)
        data = _completed(data, ticket) if ticket.is_writable and ticket.added else data
        with ticket.attempt() as ended:
            try:
                answer = getattr(client, name)(method, url, headers, data, **more)
            except Exception as error:
                ended(Attempt(error=type(error).__name__, unsent=_tries_once(client, name, method) and is_unsent(error, handled)))
                raise_refusal(error, handled)
                raise
            reply = _reply(None if is_stream else answer[0], answer[1], answer[2])
            stop(ticket, ended, reply.status, reply.headers, reply.body)
            ended(Attempt(reply=reply))
            return answer

    async def _self_aattempt(
        self, name: str, method: str, url: str, headers: Mapping[str, str], data: Any, more: Any, *, is_stream: bool
    ) -> Any:
        ticket, client, handled = self._self_ticket, self.__wrapped__, sys.exc_info()[1]
        if ticket.must_ask and ticket.again is not None:
            await ticket.again(ticket)
        headers, url = _sent(headers, ticket), _routed(url, ticket)
        data = _completed(data, ticket) if ticket.is_writable and ticket.added else data
        with ticket.attempt() as ended:
            try:
                answer = await getattr(client, name)(method, url, headers, data, **more)
            except Exception as error:
                ended(Attempt(error=type(error).__name__, unsent=_tries_once(client, name, method) and is_unsent(error, handled)))
                raise_refusal(error, handled)
                raise
            reply = _reply(None if is_stream else answer[0], answer[1], answer[2])
            stop(ticket, ended, reply.status, reply.headers, reply.body)
            ended(Attempt(reply=reply))
            return answer


def _routed(url: str, ticket: context.Ticket) -> str:
    """Return where a request goes: to its vendor, or to the proxy that it goes through."""
    found: str = url if ticket.route is None else ticket.route.url(url)
    return found


def _completed(form: str | None, ticket: context.Ticket) -> str:
    """Return a form with what the policy adds to it."""
    return "&".join(filter(None, (form, urlencode(ticket.added))))


def _tries_once(client: Any, name: str, method: str) -> bool:
    """Say whether one attempt of this client is one try on the wire, so that its error tells all that happened."""
    fallback = getattr(client, "_async_fallback_client", None) if name.endswith("_async") else None
    sender = client if fallback is None else fallback
    # Of the object itself: asked in the other way, the client over aiohttp would make one.
    session = vars(sender).get("_cached_session") or vars(sender).get("_session")
    # What somebody else wrote may try again unseen; so may the user's own session under Stripe's client.
    is_stripes_own = all(_is_stripes_own(one, name) for one in (client, sender))
    return is_stripes_own and (session is None or sends_once(session, method))


def _is_stripes_own(client: Any, name: str) -> bool:
    return name not in vars(client) and getattr(getattr(type(client), name, None), "__module__", "") == _CLIENTS


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str, Mapping[str, str] | None, Any]:
    names = ("method", "url", "headers", "post_data")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return str(given["method"]), str(given["url"]), given.get("headers"), given.get("post_data")


def _vendor_path(path: str) -> str:
    """Cut the base's own path off (`http://proxy/stripe/v1/…`): the vendor's begins at its version."""
    found = _BASE.match(path)
    return path if found is None else path[found.end() :]


def _sent(headers: Mapping[str, str], ticket: context.Ticket) -> Mapping[str, str]:
    """Return the headers as they leave: with the real secret, and the derived key."""
    found, made = _with(headers, ticket.secret), headers.get("Idempotency-Key")
    if ticket.idempotency_key is None:
        # Plain text to whoever sends or records it.
        return found if type(made) is not Made else {**found, "Idempotency-Key": str(made)}
    kept = {name: value for name, value in found.items() if name.lower() != "idempotency-key"}
    return {**kept, "Idempotency-Key": ticket.idempotency_key}


def _with(headers: Mapping[str, str], secret: str | None) -> Mapping[str, str]:
    """Return the headers with the real secret, in a copy: the caller's mapping never holds it."""
    if secret is None:
        return headers
    return {**{name: value for name, value in headers.items() if name.lower() != "authorization"}, "Authorization": f"Bearer {secret}"}


def _reply(content: Any, status: int, headers: Mapping[str, str]) -> Reply:
    body = content.encode() if isinstance(content, str) else content if isinstance(content, bytes) else None
    return Reply(status, Lowered(headers), body)


patch = StripePatch()
