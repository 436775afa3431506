"""The seam of httpx: the one method that every request of a client passes with its final URL. Translates only.

`Client._send_single_request` sees redirects hop by hop, SDK retries, streams, mock and foreign transports; the
transports below it are blind under recorders, `Client.send` above it does not see the hops. The module is a
parameter, because httpx2 has the same classes under another name.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from keyguard import context
from keyguard.errors import EndpointNotAllowed
from keyguard.model import TOKEN_PREFIX, Attempt, Call, Reply
from keyguard.patches import Outgoing, Seam
from keyguard.patches._proof import is_unsent
from keyguard.vendors import claimed_hosts

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKEN = TOKEN_PREFIX.encode()
_FORM = "application/x-www-form-urlencoded"
_PREFECT_CLIENTS = {"PrefectHttpxSyncClient", "PrefectHttpxAsyncClient", "PrefectHttpxSyncEphemeralClient"}


class HttpxPatch:
    """The plug: httpx from 0.27 on; `_send_single_request` has stood in both clients since 0.14 (7 versions checked)."""

    client = "httpx"
    distribution = "httpx"
    supported = ">=0.27"

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The blocking and the awaiting client."""
        return seams_for("httpx")

    def supports(self, installed: str) -> bool:
        """Say whether an installed version has these seams."""
        major, _, rest = installed.partition(".")
        minor = rest.partition(".")[0]
        return major.isdigit() and minor.isdigit() and (int(major), int(minor)) >= (0, 27)


def seams_for(module: str) -> tuple[Seam, ...]:
    """Return the seams of httpx, or of a library with the same classes."""
    defined = f"{module}._client"
    return (
        Seam(f"{module}.sync", defined, "Client._send_single_request", read, send),
        Seam(f"{module}.async", defined, "AsyncClient._send_single_request", read, asend, is_async=True),
    )


def read(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outgoing | None:
    """
    Read one request; None where no vendor plug claims its host.

    Raises:
        EndpointNotAllowed: it carries a vault token to a host that nobody claims.
    """
    request = args[0] if args else kwargs["request"]
    # `raw_host` is a plain attribute of the parsed URL; building a Call for each foreign request would cost 10 µs.
    host = request.url.raw_host.decode("ascii")
    vendor = claimed_hosts().get(host) or (_listed(request) if context.vendor_hosts() else None)
    if vendor is None:
        _check_token(request, host)
        return None
    if type(instance).__name__ in _PREFECT_CLIENTS and type(instance).__module__.startswith("prefect.") and host not in claimed_hosts():
        return None
    return _outgoing(instance, request, vendor)


def _listed(request: Any) -> str | None:
    return context.vendor_hosts().get(request.url.netloc.decode("ascii"))


def _check_token(request: Any, host: str) -> None:
    for name, value in request.headers.raw:
        if _TOKEN in value and name.lower() != b"host":
            raise EndpointNotAllowed(
                f"this request carries a vault token to {host}, which is no vendor's host; nothing was sent. If it is a stand-in or proxy "
                f"of yours, set KEYGUARD_VENDOR_HOSTS=VENDOR={request.url.netloc.decode('ascii')}"
            )


def _outgoing(instance: Any, request: Any, vendor: str) -> Outgoing:
    headers = request.headers
    parts = urlsplit(str(request.url))
    call = Call(
        vendor=vendor,
        method=request.method.upper(),
        scheme=parts.scheme,
        host=request.url.netloc.decode("ascii"),
        path=request.url.raw_path.partition(b"?")[0].decode("ascii"),
        query=tuple(parse_qsl(parts.query, keep_blank_values=True)),
        body=_body(request),
        account="/".join(headers[name] for name in ("stripe-account", "stripe-context") if headers.get(name)),
        idempotency_key=headers.get("idempotency-key"),
    )

    def ask(path: str, secret: str | None) -> Reply:
        """GET a path with a plain client of the same library and the same credentials."""
        authorization = f"Bearer {secret}" if secret is not None else headers.get("authorization", "")
        with context.own_traffic(), _library_of(instance).Client() as client:
            found = client.get(f"{parts.scheme}://{parts.netloc}{path}", headers={"authorization": authorization})
        return Reply(found.status_code, {name.lower(): value for name, value in found.headers.items()}, found.content)

    return Outgoing(call, credential=headers.get("authorization", "").partition(" ")[2].strip(), ask=ask)


def _library_of(instance: Any) -> Any:
    """Return the library that a client's class comes from, whatever it was subclassed to."""
    base = next(base for base in type(instance).__mro__ if "_send_single_request" in vars(base))
    return sys.modules[base.__module__.partition(".")[0]]


def _body(request: Any) -> tuple[tuple[str, str], ...] | None:
    """Return the pairs of a form that is loaded already; a generator's body is the transport's to read, once."""
    content = getattr(request, "_content", None)
    if content is None:
        return None
    if not content:
        return ()
    if not request.headers.get("content-type", "").startswith(_FORM):
        return None
    return tuple(parse_qsl(content.decode("utf-8", "replace"), keep_blank_values=True))


def send(ticket: context.Ticket, wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send one request; a write's answer is read here, because its cost is in it."""
    request = args[0] if args else kwargs["request"]
    with ticket.attempt() as ended, _Swapped(request, ticket.secret):
        try:
            response = wrapped(*args, **kwargs)
        except Exception as error:
            ended(Attempt(error=type(error).__name__, unsent=is_unsent(error)))
            raise
        body = response.read() if ticket.call.is_write else None
        ended(Attempt(reply=_reply(response, body)))
        return response


async def asend(ticket: context.Ticket, wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Send one awaited request."""
    request = args[0] if args else kwargs["request"]
    with ticket.attempt() as ended, _Swapped(request, ticket.secret):
        try:
            response = await wrapped(*args, **kwargs)
        except Exception as error:
            ended(Attempt(error=type(error).__name__, unsent=is_unsent(error)))
            raise
        body = await response.aread() if ticket.call.is_write else None
        ended(Attempt(reply=_reply(response, body)))
        return response


def _reply(response: Any, body: bytes | None) -> Reply:
    return Reply(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


class _Swapped:
    """Puts the real secret into a request while it is sent, and the token back afterwards."""

    def __init__(self, request: Any, secret: str | None) -> None:
        self._request, self._secret = request, secret
        self._token = request.headers.get("authorization") if secret is not None else None

    def __enter__(self) -> None:
        if self._secret is not None:
            self._request.headers["authorization"] = f"Bearer {self._secret}"

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            self._request.headers["authorization"] = self._token


patch = HttpxPatch()
