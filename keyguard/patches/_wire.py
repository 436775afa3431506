"""What the wire seams share: whose host a request goes to, what its headers and body say. Knows no client, decides nothing.

A wire seam sees every request of the process; `FOREIGN` is the look-up that those pay which nobody guards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyguard import context
from keyguard.errors import EndpointNotAllowed, Refused
from keyguard.model import TOKEN_PREFIX, Attempt, Call
from keyguard.patches._headers import credential_of, form_pairs, is_carrying, read_body, with_credential, with_vault_key
from keyguard.vendors import account_of, claimant, known_vendors, vendor_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from keyguard.context import Ticket

# What belongs to a write and not to the question about it.
BODY_HEADERS = ("idempotency-key", "content-type", "content-length", "content-encoding", "transfer-encoding")
_AUTHORIZATION = ("authorization",)
_IDEMPOTENCY_KEY = "Idempotency-Key"
# One live mapping, filled by `install()`: netloc → vendor.
LISTED = context.vendor_hosts()
# And the proxies that are in use, by netloc.
_PROXIES = context.proxies()


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
            known = {urlsplit(f"//{netloc}").hostname for netloc in (*LISTED, *_PROXIES)}
            found = self[asked] = claimant(host) is None and host not in known
        return found


def _ascii(host: str) -> str:
    """Return a host as it is looked up, in lower case: `encoded=True` keeps a URL of aiohttp as it was written."""
    return host.lower() if host.isascii() else host.encode("idna").decode()


# A crawler's requests go to many.
_MOST_HOSTS = 4096
# By host. Every request of the process asks this, so it is a dictionary, which costs half of a function of ours.
FOREIGN = Foreign(_ascii)


def vendor_of(host: str, netloc: str, path: str) -> str | None:
    """
    Return the vendor of a request; None = nobody guards it.

    Args:
        host: Lower case, without a port.
        netloc: The same with the port that the URL names.
        path: As it will be sent: of a proxy it says whose request it is.
    """
    return claimant(host) or LISTED.get(netloc) or _expected(netloc) or (_named_in(path) if netloc in _PROXIES else None)


def _expected(netloc: str) -> str | None:
    """Return the vendor of the host that an SDK seam guards a call to, whose attempts are ours to report, or of the call's proxy."""
    ticket = context.open_ticket()
    if ticket is None or ticket.is_over:
        return None
    is_ours = ticket.call.host == netloc and not ticket.in_attempt
    return ticket.call.vendor if is_ours or (ticket.route is not None and ticket.route.netloc == netloc) else None


def reported(vendor: str, method: str, path: str) -> Ticket | None:
    """
    Return the ticket of the outer seam whose attempt a request is: that seam has read the call, and reports how the attempt ends.

    Args:
        vendor: Whose host it goes to.
        method: In any case.
        path: The vendor's own path (`split_path`).
    """
    ticket = context.open_ticket()
    return ticket if ticket is not None and ticket.in_attempt and ticket.covers(vendor, method.upper(), path) else None


def _named_in(path: str) -> str | None:
    named = path.split("/", 2)[1:2]
    return named[0] if named and named[0] in known_vendors() else None


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


def with_key(headers: Mapping[str, str], vendor: str, token: str) -> dict[str, str]:
    """Return the credential headers with a proxy's vault key, whatever they carried: no secret of a vendor's goes there."""
    said = {name: value for name in _credential_headers(vendor) if (value := headers.get(name))}
    return {name: with_vault_key(value, token) for name, value in said.items()} or {"authorization": f"Bearer {token}"}


def with_secret(headers: Mapping[str, str], vendor: str, secret: str) -> dict[str, str]:
    """Return the credential headers that carry a vault token, with the real secret in its place; names in lower case."""
    said = {name: headers.get(name) or "" for name in _credential_headers(vendor)}
    return {name: with_credential(value, secret) for name, value in said.items() if is_carrying(value, TOKEN_PREFIX)}


class Swapped:
    """
    Puts the real secret in the place of the vault token into a request's headers while it is sent, and the token back afterwards.

    So with an Idempotency-Key: the request is its caller's, who may send it again as another charge. Through a proxy its vault key stands
    in the place of every credential.

    Args:
        headers: The request's own.
        ticket: Under which it leaves.
        is_asked: It is a question of ours, without the call's key.
    """

    def __init__(self, headers: Any, ticket: Ticket, *, is_asked: bool = False) -> None:
        self._headers, route = headers, ticket.route
        self._sent: dict[str, str] = {}
        if ticket.secret is not None or route is not None:
            said = {str(name).lower(): text(value) for name, value in headers.items()}
            if ticket.secret is not None:
                self._sent = (with_secret if route is None else with_key)(said, ticket.call.vendor, ticket.secret)
            if route is not None and "host" in said:
                self._sent["Host"] = route.netloc
        if ticket.idempotency_key is not None and not is_asked:
            self._sent[_IDEMPOTENCY_KEY] = ticket.idempotency_key
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


class Routed(Swapped):
    """
    The same, and the request's URL leads to the ticket's proxy meanwhile, where it has one.

    Args:
        request: With `url` and `headers`.
        ticket: Under which it leaves.
        url: Makes a URL of the library's kind from text.
        is_asked: As of `Swapped`.
    """

    def __init__(self, request: Any, ticket: Ticket, url: Callable[[str], Any], *, is_asked: bool = False) -> None:
        super().__init__(request.headers, ticket, is_asked=is_asked)
        self._request, self._meant = request, request.url
        self._goes_to = request.url if ticket.route is None else url(ticket.route.url(str(request.url)))

    def __enter__(self) -> None:
        super().__enter__()
        if self._goes_to is not self._meant:
            self._request.url = self._goes_to

    def __exit__(self, *_: object) -> None:
        if self._goes_to is not self._meant:
            self._request.url = self._meant
        super().__exit__()


def wants_body(ticket: Ticket, status: int, headers: Mapping[str, str]) -> bool:
    """Say whether only the body of an answer tells whether the vendor or a proxy gave it."""
    return ticket.route is not None and ticket.route.wants_body(status, headers)


def stop(ticket: Ticket, ended: Callable[[Attempt], None], status: int, headers: Mapping[str, str], body: bytes | None) -> bool:
    """
    Let a vendor's answer pass; where a proxy said something in its place, report the attempt so.

    Args:
        ticket: Under which the request left.
        ended: Reports the attempt. An inner seam's reports nothing, and leaves the answer to the one that does.
        status: Of the answer.
        headers: Found by lower-cased names.
        body: Where `wants_body`; else it may be None.

    Returns:
        Whether the attempt is reported: the answer of a proxy to a client that wants a refusal as an answer (`on_refused="response"`).

    Raises:
        KeyguardError: what the proxy said.
    """
    if ticket.route is None or context.is_silent(ended):
        return False
    denial = ticket.route.denied(status, headers, body)
    if denial is None:
        return False
    ended(Attempt(error=type(denial.error).__name__, unsent=denial.unsent))
    ticket.refusal = denial.error
    if isinstance(denial.error, Refused) and getattr(vendor_named(ticket.call.vendor), "on_refused", "raise") == "response":
        return True
    raise denial.error


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
        cut = len(vendor) + 1
        named = path[cut + 1 :].partition("/")[0]
        if "." in named and claimant(named) == vendor:
            # Which of the vendor's hosts it is for.
            cut += len(named) + 1
        return path[:cut], path[cut:]
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
