"""Which headers pass through the proxy, in each direction. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.refusals import FORWARDED_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable

    Headers = list[tuple[bytes, bytes]]

# RFC 9110, 7.6.1, and what older proxies made of it.
_HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
# The vendor is told about the request, and not about who stands before us: no trace of ours, no address, no cookie of this host.
_OURS = frozenset({
    b"accept-encoding", b"baggage", b"content-length", b"cookie", b"expect", b"forwarded", b"host", b"traceparent", b"tracestate", b"via",
    b"x-agent-run-id", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-real-ip",
})  # fmt: skip
# By these a client knows that keyguard refused a call and nothing was sent: no vendor may say that of one that it charged for.
_RESERVED = b"x-keyguard-"
# Not the vendor's to say about the proxy's host and connection.
_THEIRS = frozenset({b"alt-svc", b"date", b"server", b"set-cookie", b"strict-transport-security"})


def upwards(headers: Headers) -> Headers:
    """
    Return the headers of a request as the vendor gets them, without `Host` and `Content-Length`, which are made anew.

    The answer is asked for as it is, uncompressed: what it cost is read from it, and whether it says a secret.
    """
    drop = _HOP_BY_HOP | _OURS | _named(headers)
    return [*((name, value) for name, value in headers if name not in drop), (b"accept-encoding", b"identity")]


def downwards(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of an answer as the client gets them, and one by which it knows that the vendor has given it."""
    lowered = [(name.lower(), value) for name, value in headers]
    drop = _HOP_BY_HOP | _THEIRS | _named(lowered)
    kept = [(name, value) for name, value in lowered if name not in drop and not name.startswith(_RESERVED)]
    return [*kept, (FORWARDED_HEADER.encode(), b"1")]


def _named(headers: Headers) -> set[bytes]:
    """Return what `Connection` says is for this connection alone."""
    return {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
