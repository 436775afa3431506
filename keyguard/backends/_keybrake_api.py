"""The management calls of a proxy, over HTTP: what it can do, and its keys. Bounded in time and size; keyguard's own traffic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from keyguard import context
from keyguard.errors import ConfigurationError, ProxyUnavailable
from keyguard.refusals import said_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.remote import Dialect

_MOST_BYTES = 1024 * 1024
_PATHS: Mapping[str, str] = {"keyguard": "/vault/keys", "vault": "/vault/keys", "v1": "/v1/keys"}
_UNAUTHORIZED, _NOT_FOUND, _BAD, _SERVER_ERROR = frozenset({401, 403}), 404, frozenset({400, 409, 413, 415, 422}), 500


class Api:
    """
    One proxy's management calls.

    Args:
        base: The proxy's URL, without a slash at its end.
        admin: Returns the management secret (`KEYBRAKE_API_KEY`), "" where there is none.
        dialect: What is spoken; None = what the proxy says that it speaks.
        keys_url: Where keys are issued, where that is not below `base`.
        seconds: For each call.
    """

    def __init__(self, base: str, admin: str, *, dialect: Dialect | None = None, keys_url: str = "", seconds: float = 10.0) -> None:
        self._dialect: Dialect | None = dialect
        self._base, self._admin, self._keys_url, self._seconds = base, admin, keys_url.rstrip("/"), seconds

    @property
    def is_known(self) -> bool:
        """Whether `dialect` is known without asking."""
        return self._dialect is not None

    @property
    def dialect(self) -> Dialect:
        """
        What the proxy speaks; asked once.

        Raises:
            ProxyUnavailable: it cannot be asked now.
        """
        found = self._dialect
        if found is None:
            status, said = self._call("GET", f"{self._base}/healthz", None, is_open=True)
            if status >= _SERVER_ERROR:
                raise ProxyUnavailable(f"the proxy at {self._base} is not well (HTTP {status}); nothing was sent, try again")
            found = "keyguard" if said.get("proxy") == "keyguard" else "vault"
            self._dialect = found
        return found

    def issue(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a key, or find a run's again."""
        return self._checked("POST", self._keys(), body)

    def revoke(self, key_id: str) -> None:
        """End a key; one that is gone already is no error."""
        self._checked("DELETE", f"{self._keys()}/{quote(key_id, safe='')}", None, may_miss=True)

    def show(self, key_id: str) -> dict[str, Any]:
        """Return a key's policy and figures; {} where the proxy shows none."""
        return self._checked("GET", f"{self._keys()}/{quote(key_id, safe='')}", None, may_miss=True)

    def change(self, key_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change what a key may do."""
        return self._checked("PATCH", f"{self._keys()}/{quote(key_id, safe='')}", body)

    def _keys(self) -> str:
        return self._keys_url or self._base + _PATHS[self.dialect]

    def _checked(self, method: str, url: str, body: Mapping[str, Any] | None, *, may_miss: bool = False) -> dict[str, Any]:
        """
        Make a call.

        Raises:
            ConfigurationError: the proxy does not take the secret, the body or the path.
            ProxyUnavailable: it cannot be reached, or answers what is no JSON object.
        """
        status, said = self._call(method, url, body)
        if status < 300 or (may_miss and status == _NOT_FOUND):
            return said if status < 300 else {}
        told = _told(said)
        if status in _UNAUTHORIZED:
            raise ConfigurationError(
                f"the proxy at {self._base} does not take this KEYBRAKE_API_KEY (HTTP {status}{told}); nothing was sent"
            )
        if status in _BAD:
            raise ConfigurationError(f"the proxy at {self._base} issues no such key (HTTP {status}{told}); nothing was sent")
        if status == _NOT_FOUND:
            raise ConfigurationError(
                f"there is nothing at {url} (HTTP 404{told}); nothing was sent. Set KEYGUARD_DIALECT (vault or v1) or KEYGUARD_KEYS_URL"
            )
        raise ProxyUnavailable(f"the proxy at {self._base} could not answer (HTTP {status}{told}); nothing was sent, try again")

    def _call(self, method: str, url: str, body: Mapping[str, Any] | None, *, is_open: bool = False) -> tuple[int, dict[str, Any]]:
        headers = {"accept": "application/json"}
        if not is_open:
            if not self._admin:
                raise ConfigurationError(
                    f"no management secret for the proxy at {self._base}: set KEYBRAKE_API_KEY to one of its admin tokens; nothing was sent"
                )
            headers["authorization"] = f"Bearer {self._admin}"
        try:
            status, content = self._read(method, url, body, headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ProxyUnavailable(
                f"the proxy at {self._base} could not be asked ({type(error).__name__}); nothing was sent, try again"
            ) from None
        said = said_in(content)
        if said is None and status < 300 and not is_open and method != "DELETE":
            raise ProxyUnavailable(
                f"what the proxy at {self._base} answered (HTTP {status}) is no JSON object; nothing was sent, try again"
            )
        return status, said or {}

    def _read(self, method: str, url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Make one request; a redirect is not followed: the secret is for this host."""
        content, until = b"", time.monotonic() + self._seconds
        with (
            context.own_traffic(),
            httpx.Client(timeout=self._seconds, follow_redirects=False, trust_env=_is_far(self._base)) as client,
            client.stream(method, url, json=body, headers=dict(headers)) as answer,
        ):
            for part in answer.iter_bytes():
                content += part
                if len(content) > _MOST_BYTES:
                    raise ProxyUnavailable(f"what the proxy at {self._base} answered is too long; nothing was sent")
                if time.monotonic() > until:
                    raise ProxyUnavailable(f"the proxy at {self._base} took longer than {self._seconds:g} s; nothing was sent, try again")
            return answer.status_code, content


def _told(said: Mapping[str, Any]) -> str:
    """Return what an error body says, in whichever form."""
    error: Any = said.get("error")
    message = error.get("message") if isinstance(error, dict) else error if isinstance(error, str) else said.get("message")
    return f": {str(message)[:300]}" if message else ""


def _is_far(base: str) -> bool:
    """Say whether a proxy of the environment's may be on the way: not to this machine."""
    return httpx.URL(base).host not in {"127.0.0.1", "localhost", "::1"}
