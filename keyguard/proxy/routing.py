"""Where a request to the proxy is meant to go: a vendor, one of its own hosts, and a path. Pure; knows no client and no policy.

`/stripe/v1/charges` goes to the vendor's main host; `/twilio/verify.twilio.com/v2/Services` to the one that is named. A host that
the vendor's plug does not claim is no host here, so that there is nowhere else to go.
"""

from __future__ import annotations

import re

from keyguard._values import frozen
from keyguard.model import METHODS
from keyguard.routing import main_host
from keyguard.vendors import claimant, known_vendors

# What RFC 3986 lets stand in a path; a request target with anything else is nobody's honest work.
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*)+")
_QUERY = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]|{}^`\"<>\\]|%[0-9A-Fa-f]{2})*")
_HIDDEN = re.compile(r"%(?:2e|2f|5c|00)", re.IGNORECASE)


class Misdirected(Exception):
    """
    What was asked for is nothing that this proxy answers or forwards; never leaves the proxy but as an answer.

    Attributes:
        status: HTTP status: 400 for what no client should send, 404 for a vendor that is not served, 405 for a method.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@frozen
class Destination:
    """
    Where a request goes.

    Attributes:
        vendor: The plug's name.
        host: One of its own, lower case.
        path: As it will be sent.
        query: As it will be sent, "" = none.
    """

    vendor: str
    host: str
    path: str
    query: str

    @property
    def url(self) -> str:
        """The vendor's own URL."""
        return f"https://{self.host}{self.path}{'?' if self.query else ''}{self.query}"


def destination(method: str, raw_path: bytes, raw_query: bytes) -> Destination:
    """
    Read the target of a request, as its bytes arrived.

    Raises:
        Misdirected: a target in another form than `/path?query`, a path that two readers could take for two, or no vendor of ours.
    """
    if method not in METHODS or method == "*":
        raise Misdirected(f"the method {method[:20]!r} is not forwarded", status=405)
    try:
        path, query = raw_path.decode("ascii"), raw_query.decode("ascii")
    except UnicodeDecodeError:
        raise Misdirected("a request's target is ASCII", status=400) from None
    if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        raise Misdirected("a request's target is a path, and a query, with everything else percent-encoded", status=400)
    if _HIDDEN.search(path) or any(segment in {".", ".."} for segment in path.split("/")):
        raise Misdirected("a path with dot segments, or encoded dots or slashes, can be read in two ways", status=400)
    _, vendor, *rest = path.split("/")
    if vendor not in known_vendors():
        raise Misdirected(f"no vendor is served under /{vendor[:40]}; there are {', '.join(known_vendors())}", status=404)
    first = rest[0] if rest else ""
    if first == first.lower() and not first.endswith(".") and _claims(vendor, first):
        return Destination(vendor, first, "/" + "/".join(rest[1:]), query)
    return Destination(vendor, _main_host(vendor), "/" + "/".join(rest), query)


def _claims(vendor: str, host: str) -> bool:
    return "." in host and claimant(host) == vendor


def _main_host(vendor: str) -> str:
    found = main_host(vendor)
    if not found:
        raise Misdirected(f"{vendor} has several hosts: put the one that is meant into the path, /{vendor}/HOST/...", status=404)
    return found
