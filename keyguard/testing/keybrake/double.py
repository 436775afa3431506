"""
The double itself: its keys, its routes, and what it did. Reconstructed from public pages of keybrake.com, read in November 2026;
this is not Keybrake. Bytes on a socket are in `_serving`, what is decided is in `contract`.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from keyguard.testing.keybrake._serving import Listener
from keyguard.testing.keybrake.contract import Answer, IssuedKey, Unreadable, denied, read_key, usd_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from decimal import Decimal

# The two forms that the pages show: paths, and the names of secret and handle in what is answered.
_FORMS = {"/vault/keys": ("vault", "vault_key", "key_id"), "/v1/keys": ("v1", "token", "id")}
_HOSTS = {"stripe": ".stripe.com", "twilio": ".twilio.com", "resend": ".resend.com"}


@dataclass(frozen=True, slots=True)
class Forwarded:
    """
    A call that went to a vendor.

    Attributes:
        vendor, method: Whose it is, and how.
        path: As the vendor got it, with its query.
        status: What the vendor answered; 502 where no answer came.
        key_id: Of the key that it carried.
        host: The one that the path named (`/twilio/verify.twilio.com/...`); "" = none.
    """

    vendor: str
    method: str
    path: str
    status: int
    key_id: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class Sending:
    """A call on its way to a vendor: where to (`host:port`), with which headers, and what it was counted with."""

    vendor: str
    upstream: str
    host: str
    path: str
    authorization: str
    key: IssuedKey
    usd: Decimal


class KeybrakeDouble:
    """
    Runs from `with` to its end.

    Args:
        admin: The management secret, of the header `Authorization: Bearer ...`.
        vendor_secret: Each vendor's real secret, which takes the vault key's place.
        upstreams: Each vendor's stand-in, `http://127.0.0.1:PORT`; no other host is ever called.
        cap_status: How a cap is refused: the pages say 429, 402 and 403.
        dialects: Which forms of issuing and revoking there are: `vault` (`/vault/keys`), `v1` (`/v1/keys`).
        key_prefix: What a vault key begins with: the pages show `vault_key_` and `vk_`.
        says_handle: Whether the handle is answered; without it no key can be revoked.
        says_expiry: Whether `expires_at` is answered, which no page shows.
        clock: POSIX seconds.

    Attributes:
        keys: What was issued, in order.
        calls: What was forwarded, in the order of the answers.
        denials: What calls were answered instead, in order.

    Raises:
        ValueError: an upstream that is not http on loopback.
    """

    def __init__(
        self, *, admin: str, vendor_secret: Mapping[str, str], upstreams: Mapping[str, str], cap_status: Literal[402, 403, 429] = 429,
        dialects: Collection[Literal["vault", "v1"]] = ("vault", "v1"), key_prefix: str = "vault_key_", says_handle: bool = True,
        says_expiry: bool = False, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._admin, self._secrets, self._upstreams = admin, dict(vendor_secret), {name: _place(url) for name, url in upstreams.items()}
        self._cap_status, self._dialects, self._prefix = cap_status, frozenset(dialects), key_prefix
        self._says_handle, self._says_expiry, self._clock = says_handle, says_expiry, clock
        self.keys: list[IssuedKey] = []
        self.calls: list[Forwarded] = []
        self.denials: list[Answer] = []
        self._broken: list[BaseException] = []
        # Keys are counted on and calls are booked by many connections' threads.
        self._lock = threading.Lock()

    def __enter__(self) -> KeybrakeDouble:
        self._listener = Listener(self, self._broken)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()
        self._listener.wait_until_ended()
        if self._broken:
            raise self._broken[0]

    @property
    def host(self) -> str:
        """Where it listens: `127.0.0.1:port`."""
        return f"127.0.0.1:{self._listener.server_port}"

    @property
    def url(self) -> str:
        """Its base: for management, and, with `/stripe` behind it, for `stripe.api_base`."""
        return f"http://{self.host}"

    def asked(self, method: str, target: str, authorization: str, content: bytes) -> Answer | Sending:
        """Decide about one request: an answer of its own (not only refusals), or where it goes."""
        path = target.partition("?")[0]
        for keys, (dialect, secret, handle) in _FORMS.items():
            if path == keys or path.startswith(keys + "/"):
                managed = self._managed(method, path.removeprefix(keys).strip("/"), authorization, content, (dialect, secret, handle))
                return Answer(404, {"error": "Not found"}) if managed is None or dialect not in self._dialects else managed
        vendor = target.split("/")[1].partition("?")[0] if target.startswith("/") else ""
        if vendor not in self._upstreams:
            return Answer(404, {"error": "Not found"})
        found = self._call(vendor, method, target.removeprefix(f"/{vendor}"), authorization, content)
        if isinstance(found, Answer):
            with self._lock:
                self.denials.append(found)
        return found

    def answered(self, sending: Sending, method: str, status: int) -> None:
        """Book what a vendor answered to a call."""
        with self._lock:
            self.calls.append(Forwarded(sending.vendor, method, sending.path, status, sending.key.key_id, sending.host))
            if status >= 400:
                sending.key.count(-sending.usd, self._clock())

    def _managed(self, method: str, handle: str, authorization: str, content: bytes, form: tuple[str, str, str]) -> Answer | None:
        if authorization != f"Bearer {self._admin}":
            return Answer(401, {"error": "Invalid API key"})
        if method == "DELETE" and handle:
            return self._revoked(handle)
        if method != "POST" or handle:
            return None
        try:
            key = read_key(content, form[0], secrets.token_hex(8), self._prefix + secrets.token_urlsafe(24), self._clock())
        except Unreadable as error:
            return Answer(400, {"error": str(error)})
        with self._lock:
            self.keys.append(key)
        said: dict[str, Any] = {form[1]: key.token}
        if self._says_handle:
            said[form[2]] = key.key_id
        if self._says_expiry and key.expires_at is not None:
            said["expires_at"] = datetime.fromtimestamp(key.expires_at, timezone.utc).isoformat()
        return Answer(201, said)

    def _revoked(self, handle: str) -> Answer:
        with self._lock:
            found = next((key for key in self.keys if key.key_id == handle), None)
            if found is None:
                return Answer(404, {"error": "No such vault key"})
            found.is_revoked = True
        return Answer(200, {"revoked": True})

    def _call(self, vendor: str, method: str, target: str, authorization: str, content: bytes) -> Answer | Sending:
        first = target.split("/")[1] if target.count("/") > 1 else ""
        host = first if first.endswith(_HOSTS.get(vendor, "/")) else ""
        target = target.removeprefix(f"/{host}") if host else target
        path = target.partition("?")[0] or "/"
        usd, now = usd_of(vendor, method, path, content), self._clock()
        with self._lock:
            key, carrying = self._carried(authorization)
            if key is None:
                return Answer(401, {"error": "Unknown vault key"})
            denial = denied(key, vendor, method, path, usd, now, self._cap_status)
            if denial is not None:
                return denial
            # Before it is sent and under the lock: "checked and decremented atomically before every proxied call".
            key.count(usd, now)
        return Sending(vendor, self._upstreams[vendor], host, target or "/", carrying(self._secrets[vendor]), key, usd)

    def _carried(self, authorization: str) -> tuple[IssuedKey | None, Callable[[str], str]]:
        """Return the key that a header carries, and what makes that header of a secret; Twilio's SDK sends Basic, Stripe's may."""
        scheme, _, said = authorization.partition(" ")
        known = {key.token: key for key in self.keys}
        if scheme.lower() != "basic":
            return known.get(said), _bearer
        try:
            user, _, password = base64.b64decode(said, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None, _bearer
        if password in known:
            return known[password], partial(_basic, user)
        return known.get(user), _bearer


def _bearer(secret: str) -> str:
    return f"Bearer {secret}"


def _basic(user: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


def _place(url: str) -> str:
    parts = urlsplit(url)
    is_here = parts.hostname == "localhost" or (parts.hostname is not None and _is_loopback(parts.hostname))
    if parts.scheme != "http" or not is_here or parts.path.strip("/"):
        raise ValueError(f"{url} is not the http base of a stand-in on loopback")
    return parts.netloc


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
