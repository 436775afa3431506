"""What exceptions of HTTP libraries and SDKs say: that no byte of a request left, that we refused it. Imports none of the libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.errors import KeyguardError

if TYPE_CHECKING:
    from collections.abc import Iterator

_HTTPX = ("httpx", "httpx2")
# By module and name, so that no library is loaded for the question. Each says that no connection was made, or that the
# server's certificate was refused before the request was written; read and run November 2026 (urllib3 2, httpx 0.28, aiohttp 3.14).
_PROOF = {
    ("urllib3.exceptions", "NewConnectionError"), ("urllib3.exceptions", "NameResolutionError"),
    ("urllib3.exceptions", "ConnectTimeoutError"), ("requests.exceptions", "ConnectTimeout"),
    *((library, name) for library in _HTTPX for name in ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")),
    ("aiohttp.client_exceptions", "ClientConnectorError"), ("aiohttp.client_exceptions", "ConnectionTimeoutError"),
    ("ssl", "SSLCertVerificationError"), ("socket", "gaierror"), ("builtins", "ConnectionRefusedError"),
}  # fmt: skip
# Their presence anywhere means that something was, or may have been, written.
_DOUBT = {
    ("urllib3.exceptions", "ReadTimeoutError"), ("urllib3.exceptions", "ProtocolError"), ("requests.exceptions", "ReadTimeout"),
    *((library, name) for library in _HTTPX for name in ("ReadTimeout", "ReadError", "WriteError", "WriteTimeout", "RemoteProtocolError")),
    ("builtins", "ConnectionResetError"), ("builtins", "BrokenPipeError"), ("builtins", "ConnectionAbortedError"),
    # A proxy answered, so something was sent somewhere.
    ("urllib3.exceptions", "ProxyError"), ("requests.exceptions", "ProxyError"), *((library, "ProxyError") for library in _HTTPX),
}  # fmt: skip

_SENT_AGAIN = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


def is_unsent(error: BaseException, handled: BaseException | None = None) -> bool:
    """
    Say whether an exception of a client proves that nothing was sent; what is not proven is not.

    Args:
        error: What the attempt raised.
        handled: What the caller was handling when the attempt began (`sys.exc_info()[1]`). Python chains it to whatever
            is raised meanwhile, and a connection that somebody else was refused proves nothing about this one.
    """
    kinds = {(kind.__module__, kind.__name__) for found in _chain(error, handled) for kind in type(found).__mro__}
    return not kinds & _DOUBT and bool(kinds & _PROOF)


def raise_refusal(error: BaseException, handled: BaseException | None) -> None:
    """
    Raise what a seam below has refused (a redirect's hop to another call), which an SDK has made an error of its own from.

    Raises:
        KeyguardError: itself.
    """
    for found in _chain(error, handled):
        if isinstance(found, KeyguardError):
            raise found from None


def sends_once(session: Any, method: str) -> bool:
    """Say whether a session of requests or aiohttp tries such a request once: of several tries an error shows only the last."""
    kind = (type(session).__module__, type(session).__name__)
    if kind == ("requests.sessions", "Session"):
        return all(getattr(getattr(adapter, "max_retries", None), "total", None) in (0, False) for adapter in session.adapters.values())
    if kind == ("aiohttp.client", "ClientSession"):
        # Where a kept connection turns out to be closed, aiohttp sends these again (its IDEMPOTENT_METHODS, 3.14, read November 2026).
        return method.upper() not in _SENT_AGAIN and not getattr(session, "_middlewares", ())
    return False


def _chain(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and all that it was made from: causes, contexts, and what urllib3 and requests keep in attributes."""
    todo: list[BaseException] = [error]
    seen: set[int] = {id(handled)}
    while todo:
        found = todo.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = (found.__cause__, found.__context__, getattr(found, "reason", None), *found.args)
        todo += [other for other in inner if isinstance(other, BaseException)]
