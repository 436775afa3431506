"""How vendors are asked through a proxy: with a short-lived key of our own that may only read. Nothing else may be done with it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from keyguard._values import frozen
from keyguard.backends.keybrake import api_of
from keyguard.errors import KeyguardError
from keyguard.remote import issued
from keyguard.routing import netloc_of, prefix_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from keyguard.backends._keybrake_api import Api
    from keyguard.model import Doubt
    from keyguard.remote import RemoteKey
    from keyguard.settings import Settings

_logger = logging.getLogger("keyguard")
# The key of the run may have ended, or may not read: these are the questions of whoever holds the management secret. Nobody says
# whether a `*` of Keybrake's crosses a slash, so both forms are asked for; a cap must be above nothing.
_READING = {"allowed_endpoints": ["GET /*", "GET /**"], "expires_in": "10m", "agent_run_label": "keyguard-reconcile", "daily_usd_cap": 0.01}


@frozen
class Way:
    """
    Where a vendor is asked, and with what.

    Attributes:
        base: Stands before the vendor's own paths.
        token: The reading key.
    """

    base: str
    token: str


class Through:
    """
    The proxies of one pass of questions.

    Args:
        remote_of: Returns the proxy's key that a doubt's call went with; None = it went straight to its vendor.
        settings: Where the management secret is.
    """

    def __init__(self, remote_of: Callable[[Doubt], RemoteKey | None], settings: Settings) -> None:
        self._remote_of, self._settings = remote_of, settings
        self._ways: dict[tuple[str, str], Way] = {}
        self._made: list[tuple[Api, str]] = []

    def __enter__(self) -> Through:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        for api, key_id in self._made:
            try:
                api.revoke(key_id)
            except KeyguardError as error:
                _logger.warning("a key for questions could not be revoked, and ends within ten minutes: %s", error)

    def goes(self, doubt: Doubt) -> bool:
        """Say whether a doubt's call went through a proxy."""
        return self._remote_of(doubt) is not None

    def way(self, doubt: Doubt, base: str) -> Way | None:
        """
        Return how to ask about a call; None = the vendor itself.

        Args:
            doubt: About which.
            base: Where the vendor would be asked.

        Raises:
            ConfigurationError: no management secret. ProxyUnavailable: no key can be had now.
        """
        remote = self._remote_of(doubt)
        if remote is None:
            return None
        name = (remote.proxy, doubt.vendor)
        if name not in self._ways:
            api = api_of(remote.proxy, self._settings)
            key = issued(api.issue({"vendor": doubt.vendor, **_READING}), remote.proxy, doubt.vendor, "", dialect=api.dialect, until=None)
            if key.remote_id:
                self._made.append((api, key.remote_id))
            self._ways[name] = Way(remote.proxy + prefix_of(doubt.vendor, netloc_of(base)), key.token)
        return self._ways[name]
