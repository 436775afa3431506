"""The Twilio SDK's seams: the one method that every request of a client passes, blocking and awaited. Translates only.

`ClientBase.request` is one logical call. It runs with a proxy in place of `self`, so that what it hands to its HTTP client is
seen whole: final credentials and form. Twilio executes each send, and the awaited client sends a message again on any 5xx:
so attempts are reported by the wire seam that sees them, and here only where none did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import wrapt

from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.model import TOKEN_PREFIX, Attempt, Call, Reply
from keyguard.patches import Outgoing, Seam, is_live, is_passed
from keyguard.patches import _twilio_reading as reading
from keyguard.patches._headers import Lowered, is_carrying, pair_with_secret, pair_with_vault_key, with_credential, with_vault_key
from keyguard.patches._wire import stop
from keyguard.vendors import account_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyguard import context

_FIRST_MAJOR = 8
_ARGUMENTS = ("method", "uri", "params", "data", "headers", "auth", "timeout", "allow_redirects")
_PLAIN_WRITES = frozenset({"POST", "PUT", "PATCH"})
# The SDK's own clients, and the seam that each of their sends passes.
_CLIENTS = {
    "twilio.http.http_client": "requests.sync",
    "twilio.http.validation_client": "requests.sync",
    "twilio.http.async_http_client": "aiohttp.async",
}
# It signs the credentials that it is given.
_SIGNING = "twilio.http.validation_client"
# The awaited client's `max_retries`.
_RETRYING = "aiohttp_retry.client"
_SESSIONS = frozenset({("requests.sessions", "Session"), ("aiohttp.client", "ClientSession")})


class TwilioPatch:
    """The plug: twilio from 8 on, whose names here are the same up to 9.13 (read and run November 2026)."""

    client = "twilio"
    distribution = "twilio"
    supported = f">={_FIRST_MAJOR}"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The blocking and the awaited request, in the class that defines them for `Client`."""
        return (
            Seam("twilio.sync", "twilio.rest", "Client.request", read, send),
            Seam("twilio.async", "twilio.rest", "Client.request_async", aread, asend, is_async=True),
        )

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has these seams."""
        major = installed.partition(".")[0]
        return major.isdigit() and int(major) >= _FIRST_MAJOR


def read(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outgoing | None:
    """
    Read one logical call.

    Raises:
        ConfigurationError: the client can only be awaited: what it returns would be sent when nobody guards it any more.
    """
    if reading.is_awaited(instance.http_client):
        raise ConfigurationError(
            "this twilio client has an asynchronous http_client, so its requests must be awaited: use request_async or the methods "
            "that end in _async. Nothing was sent."
        )
    return aread(instance, args, kwargs)


def aread(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outgoing | None:
    """
    Read one logical call from (method, uri, params, data, headers, auth, …); what is none is the SDK's own error.

    Raises:
        ConfigurationError: what cannot be read goes to an HTTP client that nobody guards.
    """
    given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
    method, uri = given.get("method"), given.get("uri")
    try:
        if not isinstance(method, str) or not isinstance(uri, str):
            raise TypeError
        final = urlsplit(instance.get_hostname(uri))
        path, query = reading.address(uri, given.get("params"), is_async=reading.is_awaited(instance.http_client))
    except (ValueError, TypeError):
        if _is_seen(instance.http_client):
            # Whatever the library makes of it passes the wire's own seam.
            return None
        raise ConfigurationError(
            "this request of twilio's client cannot be read: its method and URL must be text, the URL whole, and params a dictionary. "
            "Its http_client is one whose sends nobody else sees, so nothing was sent."
        ) from None
    headers: Mapping[str, str] = given.get("headers") or {}
    body, document = reading.body_of(instance, given.get("data"), headers.get("Content-Type"))
    call = Call(
        "twilio", method.upper(), final.scheme.lower(), final.netloc.rpartition("@")[2].lower(), path,
        query=query,
        body=body,
        document=document,
        # A subaccount is billed for what its path names, whoever authenticates.
        account=account_of("twilio", path) or str(instance.account_sid or ""),
    )  # fmt: skip
    is_writable = call.method in _PLAIN_WRITES and body is not None and headers.get("Content-Type") not in reading.JSON
    return Outgoing(call, reading.credential(instance, given.get("auth"), headers), is_writable=is_writable)


def send(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the SDK's own method, with what its HTTP client does seen."""
    method: Any = wrapped
    return method.__func__(_Watched(instance, _Sending(instance.http_client, ticket)), *args, **kwargs)


async def asend(ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the SDK's own awaited method, with what its HTTP client does seen."""
    method: Any = wrapped
    return await method.__func__(_Watched(instance, _ASending(instance.http_client, ticket)), *args, **kwargs)


class _Watched(wrapt.ObjectProxy[Any]):
    """A stand-in for a Twilio client, with another HTTP client."""

    def __init__(self, client: Any, http_client: Any) -> None:
        super().__init__(client)
        self._self_http_client = http_client

    @property
    def http_client(self) -> Any:
        """What the SDK's method sends with."""
        return self._self_http_client


class _Sending(wrapt.ObjectProxy[Any]):
    """A stand-in for a Twilio HTTP client that sends what was decided."""

    def __init__(self, http_client: Any, ticket: context.Ticket) -> None:
        super().__init__(http_client)
        self._self_ticket = ticket

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Send one request."""
        url, options = _decided(self.__wrapped__, url, options, self._self_ticket)
        with _Unseen(self.__wrapped__, self._self_ticket) as unseen:
            unseen.answer = self.__wrapped__.request(method, url, **options)
        return unseen.answer


class _ASending(_Sending):
    """The same, awaited."""

    async def request(self, method: str, url: str, **options: Any) -> Any:
        """Send one awaited request."""
        _check_tries(self.__wrapped__)
        url, options = _decided(self.__wrapped__, url, options, self._self_ticket)
        with _Unseen(self.__wrapped__, self._self_ticket) as unseen:
            unseen.answer = await self.__wrapped__.request(method, url, **options)
        return unseen.answer


class _Unseen:
    """Reports an attempt of which no wire seam has told the ticket: a client of the user's own, over some other library."""

    def __init__(self, http_client: Any, ticket: context.Ticket) -> None:
        self._client, self._ticket, self._begun = http_client, ticket, ticket.begun
        self.answer: Any = None

    def __enter__(self) -> _Unseen:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        ticket = self._ticket
        # The SDK has read what it will read: an answer that it left for another try is nobody's.
        ticket.tail = None
        if ticket.begun > self._begun or isinstance(error, KeyguardError):
            return
        with ticket.attempt() as ended:
            if error is None and isinstance(getattr(self.answer, "status_code", None), int):
                reply = _reply(self.answer)
                stop(ticket, ended, reply.status, reply.headers, reply.body)
                ended(Attempt(reply=reply))
            elif isinstance(error, Exception):
                # A client whose sends are seen did not come to one; what another one has tried before its error, nobody knows.
                ended(Attempt(error=type(error).__name__, unsent=_is_seen(self._client)))


def _reply(answer: Any) -> Reply:
    """Return the reply that the SDK's answer was made from."""
    text, headers = getattr(answer, "text", None), getattr(answer, "headers", None)
    return Reply(answer.status_code, Lowered(headers or {}), text.encode("utf-8", "replace") if isinstance(text, str) else None)


def _check_tries(http_client: Any) -> None:
    """
    Let a client that sends again go on only where each of its sends is seen.

    Raises:
        ConfigurationError: the seam of aiohttp is not there: somebody has taken it away.
    """
    if type(getattr(http_client, "session", None)).__module__ == _RETRYING and not is_live("aiohttp.async"):
        raise ConfigurationError(
            "this twilio client sends again on its own (max_retries), and keyguard cannot see each send of aiohttp, so what it sends "
            "twice would be counted once: somebody has taken its guard away. Nothing was sent. Make the client without max_retries."
        )


def _is_seen(http_client: Any) -> bool:
    """Say whether a wire seam sees each send of an HTTP client: one of the SDK's own, over a plain session."""
    seam = _CLIENTS.get(type(http_client).__module__)
    if seam is None or "request" in vars(http_client):
        return False
    session = http_client.session
    # The awaited client's way to try again is a session around the session.
    session = getattr(session, "_client", session) if type(session).__module__ == _RETRYING else session
    is_plain = session is None or (type(session).__module__, type(session).__name__) in _SESSIONS
    # The seam of aiohttp is in the connector, which a session may have from its user.
    connector = getattr(session, "connector", None)
    return is_plain and (is_live(seam) if connector is None else is_passed(seam, connector))


def _decided(http_client: Any, url: str, options: dict[str, Any], ticket: context.Ticket) -> tuple[str, dict[str, Any]]:
    """
    Return where a request goes, and its options with the secret and the fields that were decided: the caller's objects never hold them.

    Raises:
        ConfigurationError: a credential provider has given a vault token.
    """
    if ticket.is_writable and ticket.added:
        options = {**options, "data": reading.completed(options.get("data"), ticket.added)}
    headers: Mapping[str, str] = options.get("headers") or {}
    is_seen = _is_seen(http_client)
    if ticket.route is not None and not is_seen:
        url = ticket.route.url(url)
    if ticket.secret is None:
        if any(name.lower() == "authorization" and is_carrying(reading.text(value), TOKEN_PREFIX) for name, value in headers.items()):
            raise ConfigurationError(
                "this twilio client's credential_provider has given a vault token, which keyguard reads only as the client's username or "
                "password, so nobody knows whose key pays. Nothing was sent. Use Client(account_sid, token)."
            )
        return url, options
    if is_seen and type(http_client).__module__ != _SIGNING:
        # It is put in on the wire: the SDK's clients keep the last request that they were given.
        return url, options
    written, halves = (with_credential, pair_with_secret) if ticket.route is None else (with_vault_key, pair_with_vault_key)
    swapped = {name: written(value, ticket.secret) if name.lower() == "authorization" else value for name, value in headers.items()}
    pair = reading.basic(options.get("auth"))
    auth = options.get("auth") if pair is None else halves(*pair, ticket.secret)
    return url, {**options, "headers": swapped, "auth": auth}


patch = TwilioPatch()
