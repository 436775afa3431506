"""The way of a call through a proxy instead of to its vendor: URL, credential, and what the proxy itself answers. Pure; sends nothing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from keyguard._values import frozen
from keyguard.errors import (
    ConfigurationError,
    EndpointNotAllowed,
    KeyExpired,
    KeyguardError,
    KeyRevoked,
    ProxyUnavailable,
    Refused,
    SpendCapExceeded,
    UnknownKey,
)
from keyguard.model import to_money
from keyguard.refusals import ERROR_HEADER, FORWARDED_HEADER, HEADER, refusal_of, said_in
from keyguard.vendors import claimant, vendor_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.vendors import Inquiring

# By which a proxy of ours names what it says itself; no vendor's answer gets through it with one.
MARKS = (HEADER, ERROR_HEADER)
# Statuses by which Keybrake's public pages block a call (401 revoked, 402, 403 and 429 by policy), and those of what breaks.
_BLOCKS = frozenset({401, 402, 403, 429})
_SERVER_ERROR = 500
_PORTS = {"https": ":443", "http": ":80"}
_NUMBER = re.compile(r"\$?([0-9]+(?:\.[0-9]{1,6})?)")


@frozen
class Denial:
    """
    What a proxy said in the vendor's place.

    Attributes:
        error: To be raised.
        unsent: The vendor never got the request.
    """

    error: KeyguardError
    unsent: bool


@frozen
class Route:
    """
    How the calls of one key to one vendor go through a proxy.

    Attributes:
        base: The proxy's URL, without a slash at its end.
        vendor: The plug's name.
        token: The vault key that the proxy has issued; None = the caller carries one of the proxy's himself.
        marks: The proxy marks what it says itself by a header, as `keyguard proxy` does; without, it is known by its form alone.
    """

    base: str
    vendor: str
    token: str | None = None
    marks: bool = True

    def __repr__(self) -> str:
        return f"Route(base={self.base!r}, vendor={self.vendor!r})"

    @property
    def netloc(self) -> str:
        """Host and port of the proxy, as a request's URL has them."""
        return netloc_of(self.base)

    def url(self, url: str) -> str:
        """
        Return where a request goes instead of to its vendor; what is for the proxy already goes on as it is.

        Raises:
            EndpointNotAllowed: it is for neither.
        """
        parts = urlsplit(url)
        # A name with the root's dot is the same host.
        host = netloc_of(url).removesuffix(".")
        if host == self.netloc:
            return url
        if parts.scheme.lower() != "https" or claimant(host) != self.vendor:
            raise misplaced(self.vendor, f"{parts.scheme}://{host}", self.base)
        query = f"?{parts.query}" if parts.query else ""
        return f"{self.base}{prefix_of(self.vendor, host)}{parts.path or '/'}{query}"

    def wants_body(self, status: int, headers: Mapping[str, str]) -> bool:
        """Say whether only an answer's body tells who speaks."""
        if self.marks:
            return False
        kind = headers.get("content-type", "")
        return "html" in kind or ((status in _BLOCKS or status >= _SERVER_ERROR) and "json" in kind)

    def denied(self, status: int, headers: Mapping[str, str], body: bytes | None) -> Denial | None:
        """
        Say what an answer means that is the proxy's own; None = it is the vendor's, and passes untouched.

        Args:
            status: HTTP status.
            headers: Found by lower-cased names.
            body: Where `wants_body`; else it may be None.
        """
        is_known = FORWARDED_HEADER in headers if self.marks else "html" not in headers.get("content-type", "") or said_in(body) is not None
        found = _marked(headers) or (None if self.marks or not is_known else _by_form(self.vendor, status, body))
        if found is None and not is_known and not any(name in headers for name in MARKS):
            # This is of something else on the way, and nobody knows what it did with the request. (Every vendor's API answers JSON.)
            return Denial(ProxyUnavailable(f"what {self.netloc} answered (HTTP {status}) is not {self.vendor}'s answer, and no "
                                           "proxy's; whether the call was executed is not known. Try again"), unsent=False)  # fmt: skip
        return found


def netloc_of(url: str) -> str:
    """Return the host of a URL, with its port where that is not the scheme's own, in lower case."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2].lower().removesuffix(_PORTS.get(parts.scheme.lower(), ":"))


def prefix_of(vendor: str, host: str) -> str:
    """Return what stands before a vendor's own path at a proxy: `/stripe`; of a host beside the main one `/stripe/files.stripe.com`."""
    # Of a vendor whose hosts are not listed one by one (Twilio) the host always says which product it is.
    is_plain = host == main_host(vendor) and host in vendor_named(vendor).hosts
    return f"/{vendor}" if is_plain else f"/{vendor}/{host}"


def main_host(vendor: str) -> str:
    """Return the host that is meant where a request names none: the one at which a vendor is asked, or its only one; "" of several."""
    plug = vendor_named(vendor)
    inquiring: Inquiring | None = getattr(plug, "inquiring", None)
    if inquiring is not None:
        return urlsplit(inquiring.base).hostname or ""
    own = [host for host in plug.hosts if not host.startswith("*.")]
    return own[0] if len(own) == 1 else ""


def misplaced(vendor: str, where: str, base: str) -> EndpointNotAllowed:
    """Return what refuses a call to a host that is neither the vendor's nor the proxy's."""
    return EndpointNotAllowed(
        f"calls of this run go through the proxy at {base}, and this one is for {where}, which is neither {vendor}'s own host over https "
        "nor the proxy's. Nothing was sent. Leave the vendor's own address in the SDK's settings (stripe.api_base and the like)."
    )


# -- what a proxy says ---------------------------------------------------------------------------------


def _marked(headers: Mapping[str, str]) -> Denial | None:
    """Read the header by which a proxy of ours says that nothing was sent, and why."""
    if HEADER in headers:
        refusal = refusal_of(_Answered(headers))
        return None if refusal is None else Denial(refusal, unsent=True)
    said = said_in(headers.get(ERROR_HEADER))
    if said is None or said.get("error") == "InDoubt":
        # Which is as the vendor's own lost answer is: the client's to report, and to send again where that is safe.
        return None
    message = str(said.get("message", ""))
    if said.get("error") == "Misdirected" and not said.get("retry"):
        return Denial(ConfigurationError(f"the proxy does not forward this call: {message}"), unsent=True)
    return Denial(ProxyUnavailable(f"the proxy could not decide: {message}"), unsent=True)


@frozen
class _Answered:
    """An answer, as `refusal_of` reads one."""

    headers: Mapping[str, str]


def _by_form(vendor: str, status: int, body: bytes | None) -> Denial | None:
    """
    Tell Keybrake's own answers from a vendor's: a text in the place of `error`, or one of the fields that its pages show.

    (keybrake.com's pages, read November 2026: `{"error": "Daily spend cap of $50 reached", "spent_today_...`, and 403 with
    `allowed_endpoints` and `attempted`. 401, 402, 403 and 429 are all seen.)
    """
    said = said_in(body)
    if said is None:
        return None
    message, names = said.get("error"), set(said)
    is_known = bool(names & {"attempted", "allowed_endpoints"}) or any(name.startswith("spent_today") for name in names)
    if not isinstance(message, str) and not is_known:
        return None
    words = message if isinstance(message, str) else json.dumps(said)
    if status >= _SERVER_ERROR:
        return Denial(
            ProxyUnavailable(f"the proxy failed (HTTP {status}): {words}; whether the call was executed is not known"), unsent=False
        )
    return Denial(_worded(status, words, said, vendor), unsent=True)


def _worded(status: int, words: str, said: Mapping[str, Any], vendor: str) -> KeyguardError:
    lower, text = words.lower(), f"refused by the proxy: {words}. Nothing was sent to {vendor}"
    spent = next((value for name, value in said.items() if name.startswith("spent_today")), None)
    if "attempted" in said or "allowed_endpoints" in said or "not permitted" in lower:
        attempted = said.get("attempted")
        return EndpointNotAllowed(text, operation=attempted if isinstance(attempted, str) else None)
    if spent is not None or status == 402 or " cap " in f" {lower} ":
        return SpendCapExceeded(text, scope="day", cap=_money(words), spent=_money(spent))
    if status == 401:
        return KeyExpired(text) if "expired" in lower else KeyRevoked(text) if "revoked" in lower else UnknownKey(text)
    if status == 429:
        # Too fast, and not too much: the same call may be let through a little later.
        return ProxyUnavailable(f"the proxy has no room now: {words}; nothing was sent, try again later")
    return Refused(text)


def _money(said: object) -> int | None:
    """Return dollars, as a number or in a sentence, as micro-USD."""
    if isinstance(said, bool) or said is None:
        return None
    found = _NUMBER.search(str(said).replace(",", ""))
    return None if found is None else to_money(cast("str", found[1]))
