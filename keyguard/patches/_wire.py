"""What the wire seams share: whose host a request goes to, what its headers and body say. Knows no client, decides nothing.

A wire seam sees every request of the process; `FOREIGN` is the look-up that those pay which nobody guards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyguard import context
from keyguard.errors import EndpointNotAllowed
from keyguard.model import TOKEN_PREFIX, Call
from keyguard.patches._headers import credential_of, form_pairs, is_carrying, read_body, with_credential
from keyguard.vendors import account_of, claimant, vendor_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from keyguard.context import Ticket

# What belongs to a write and not to the question about it.
BODY_HEADERS = ("idempotency-key", "content-type", "content-length", "content-encoding", "transfer-encoding")
_AUTHORIZATION = ("authorization",)
_IDEMPOTENCY_KEY = "Idempotency-Key"
# One live mapping, filled by `install()`: netloc → vendor.
LISTED = context.vendor_hosts()


class Foreign(dict[str, bool]):
    """
    Whether nobody guards a host, of each that was asked for; forgotten when a vendor is registered, or a stand-in listed.

    Args:
        host_in: Reads a host, lower case and without a port, from what is asked for. What it raises is raised, and not remembered.
    """

    def __init__(self, host_in: Callable[[str], str]) -> None:
        self._host_in = host_in
        context.remembers_hosts(self)

    def __missing__(self, asked: str) -> bool:
        host = self._host_in(asked)
        # Before the lock: this imports plugs, and another thread's import may wait for the lock, to register a vendor.
        claimant(host)
        with context.registering():
            if len(self) >= _MOST_HOSTS:
                self.clear()
            # Of a stand-in at any port: such a request is read with care.
            found = self[asked] = claimant(host) is None and host not in {urlsplit(f"//{netloc}").hostname for netloc in LISTED}
        return found


def _ascii(host: str) -> str:
    """Return a host as it is looked up, in lower case: `encoded=True` keeps a URL of aiohttp as it was written."""
    return host.lower() if host.isascii() else host.encode("idna").decode()


# A crawler's requests go to many.
_MOST_HOSTS = 4096
# By host. Every request of the process asks this, so it is a dictionary, which costs half of a function of ours.
FOREIGN = Foreign(_ascii)


def vendor_of(host: str, netloc: str) -> str | None:
    """
    Return the vendor of a request; None = nobody guards it.

    Args:
        host: Lower case, without a port.
        netloc: The same with the port that the URL names.
    """
    return claimant(host) or LISTED.get(netloc) or _expected(netloc)


def _expected(netloc: str) -> str | None:
    """Return the vendor of the host that an SDK seam guards a call to, whose attempts are ours to report."""
    ticket = context.open_ticket()
    is_ours = ticket is not None and not ticket.in_attempt and not ticket.is_over
    return ticket.call.vendor if ticket is not None and is_ours and ticket.call.host == netloc else None


def netloc_of(url: str) -> tuple[str, str]:
    """Return the host of a URL in lower case, and its netloc without what stands before an `@`."""
    parts = urlsplit(url)
    return _ascii(parts.hostname or ""), parts.netloc.rpartition("@")[2].lower()


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


def credential_in(headers: Mapping[str, str], vendor: str, netloc: str) -> str:
    """
    Return the vault token in a vendor's credential headers, else the credential in the first of them that is there.

    Raises:
        EndpointNotAllowed: a vault token is in another header, where nobody would put the real secret in its place.
        ConfigurationError: nobody has made this vendor known yet.
    """
    found = [credential_of(value) for name in _credential_headers(vendor) if (value := headers.get(name))]
    if not found:
        stray = next((name for name, value in headers.items() if is_carrying(value, TOKEN_PREFIX)), None)
        if stray is not None:
            raise EndpointNotAllowed(
                f"this request to {netloc} carries a vault token in its header {stray!r}, which is none of {vendor}'s credential headers "
                f"({', '.join(_credential_headers(vendor))}); nothing was sent."
            )
        return ""
    return next((one for one in found if one.startswith(TOKEN_PREFIX)), found[0])


def with_secret(headers: Mapping[str, str], vendor: str, secret: str) -> dict[str, str]:
    """Return the credential headers that carry a vault token, with the real secret in its place; names in lower case."""
    said = {name: headers.get(name) or "" for name in _credential_headers(vendor)}
    return {name: with_credential(value, secret) for name, value in said.items() if is_carrying(value, TOKEN_PREFIX)}


class Swapped:
    """
    Puts the real secret in the place of the vault token into a request's headers while it is sent, and the token back afterwards.

    So with an Idempotency-Key: the request is its caller's, who may send it again as another charge.
    """

    def __init__(self, headers: Any, vendor: str, secret: str | None, key: str | None = None) -> None:
        self._headers = headers
        said = {} if secret is None else {str(name).lower(): text(value) for name, value in headers.items()}
        self._sent = {} if secret is None else with_secret(said, vendor, secret)
        if key is not None:
            self._sent[_IDEMPOTENCY_KEY] = key
        self._before = {name: headers[name] if name in headers else None for name in self._sent}  # noqa: SIM401 -- not every mapping's `get` is any-case

    def __enter__(self) -> None:
        for name, value in self._sent.items():
            self._headers[name] = value

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is not None:
                self._headers[name] = value
            elif name in self._headers:
                del self._headers[name]


def text(value: Any) -> str:
    """Return a header's name or value as text; requests takes bytes too."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _credential_headers(vendor: str) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(vendor_named(vendor), "credential_headers", _AUTHORIZATION)
    return found


def split_path(path: str, vendor: str, netloc: str) -> tuple[str, str]:
    """Cut off what a listed proxy puts before the vendor's own path: the vendor's name, or what an SDK above has cut."""
    ticket = context.open_ticket()
    is_standing_in = claimant(netloc.partition(":")[0]) is None
    if is_standing_in and ticket is not None and not ticket.is_over and path.endswith(ticket.call.path):
        return path.removesuffix(ticket.call.path), ticket.call.path
    if is_standing_in and path.startswith(f"/{vendor}/"):
        return f"/{vendor}", path[len(vendor) + 1 :]
    return "", path


def is_telling(ticket: Ticket, content_type: str) -> bool:
    """Say whether an answer's body is needed: it is JSON, or whatever it says it is where money is held (a replay may be called text)."""
    return ticket.reservation_id is not None and ("json" in content_type or (ticket.quote is not None and ticket.quote.amount > 0))


def is_events(headers: Mapping[str, str]) -> bool:
    """Say whether an answer is a stream of events, each of which can be read without the others."""
    return "event-stream" in headers.get("content-type", "") and "content-encoding" not in headers


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
        account="/".join(headers[name] for name in ("stripe-account", "stripe-context") if headers.get(name)) or account_of(vendor, path),
        idempotency_key=headers.get("idempotency-key"),
    )


def _size(content: str | bytes) -> str:
    return str(len(content.encode() if isinstance(content, str) else content))
