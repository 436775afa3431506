"""What the wire seams share: whose host a request goes to, what its headers and body say. Knows no client, decides nothing.

A wire seam sees every request of the process; `is_guarded` is what those pay that nobody guards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keyguard import context
from keyguard.errors import EndpointNotAllowed
from keyguard.model import TOKEN_PREFIX, Call
from keyguard.patches._headers import form_pairs, is_carrying, read_body
from keyguard.vendors import claimant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyguard.context import Ticket

# What belongs to a write and not to the question about it.
BODY_HEADERS = ("idempotency-key", "content-type", "content-length", "content-encoding", "transfer-encoding")
# One live mapping, filled by `install()`: netloc → vendor.
LISTED = context.vendor_hosts()


def vendor_of(host: str, netloc: str) -> str | None:
    """
    Return the vendor of a request; None = nobody guards it.

    Args:
        host: Lower case, without a port.
        netloc: The same with the port that the URL names.
    """
    return claimant(host) or LISTED.get(netloc)


def netloc_of(url: str) -> tuple[str, str]:
    """Return the host of a URL in lower case, and its netloc without what stands before an `@`."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.netloc.rpartition("@")[2].lower()


def check_token(headers: Iterable[tuple[str, str]], netloc: str) -> None:
    """
    Let a request to a foreign host pass.

    Raises:
        EndpointNotAllowed: it carries a vault token.
    """
    for name, value in headers:
        if name.lower() != "host" and is_carrying(value, TOKEN_PREFIX):
            raise EndpointNotAllowed(
                f"this request carries a vault token to {netloc}, which is no vendor's host; nothing was sent. If it is a "
                f"stand-in or proxy of yours, set KEYGUARD_VENDOR_HOSTS=VENDOR={netloc}"
            )


def split_path(path: str, vendor: str, netloc: str) -> tuple[str, str]:
    """Cut off what a listed proxy puts before the vendor's own path: the vendor's name, or what an SDK above has cut."""
    ticket = context.open_ticket()
    is_listed = netloc in LISTED
    if is_listed and path.startswith(f"/{vendor}/"):
        return f"/{vendor}", path[len(vendor) + 1 :]
    if is_listed and ticket is not None and not ticket.is_over and path.endswith(ticket.call.path):
        return path.removesuffix(ticket.call.path), ticket.call.path
    return "", path


def is_telling(ticket: Ticket, content_type: str) -> bool:
    """Say whether an answer's body is needed: it is JSON, or whatever it says it is where money is held (a replay may be called text)."""
    return ticket.reservation_id is not None and ("json" in content_type or (ticket.quote is not None and ticket.quote.amount > 0))


def call_of(vendor: str, method: str, url: str, path: str, headers: Mapping[str, str], content: str | bytes | None) -> Call:
    """
    Read one request as the vendor will see it.

    Args:
        vendor: Whose host it goes to.
        method: In any case.
        url: As it will be sent.
        path: The vendor's own path (`split_path`).
        headers: Found by lower-cased names.
        content: The body that is loaded already; None = one that only the transport can read.
    """
    parts = urlsplit(url)
    # Said to be shorter than it is, a body is cut by whoever sends or reads it, and nobody knows what is left of it.
    is_whole = content is not None and headers.get("content-length") in {None, _size(content)}
    body, document = read_body(content if is_whole else None, headers.get("content-type", ""))
    return Call(
        vendor=vendor,
        method=method.upper(),
        scheme=parts.scheme,
        host=parts.netloc.rpartition("@")[2].lower(),
        path=path,
        query=form_pairs(parts.query),
        body=body,
        document=document,
        account="/".join(headers[name] for name in ("stripe-account", "stripe-context") if headers.get(name)),
        idempotency_key=headers.get("idempotency-key"),
    )


def _size(content: str | bytes) -> str:
    return str(len(content.encode() if isinstance(content, str) else content))
