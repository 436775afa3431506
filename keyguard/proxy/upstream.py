"""The way to the vendors: one pooled client, and stand-ins in the place of hosts. Follows nothing, keeps nothing of what it is told."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.proxy.settings import ProxySettings


class StandingIn(httpx.AsyncHTTPTransport):
    """
    Sends the requests for a vendor's hosts to a stand-in; to everybody above it they go to the vendor.

    The host that was meant stays in the `Host` header. Tries once, as httpx's own transport does.
    """

    tries_once = True

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(**options)
        self._base = httpx.URL(url)
        self._prefix = self._base.raw_path.rstrip(b"/")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        meant = request.url
        # In its place for as long as it is sent: a second request would be all its headers and its body once more.
        request.url = self._base.copy_with(raw_path=self._prefix + meant.raw_path)
        try:
            return await super().handle_async_request(request)
        finally:
            request.url = meant


def client_for(settings: ProxySettings, hosts: Mapping[str, str]) -> httpx.AsyncClient:
    """
    Make the client of one worker.

    Args:
        settings: Stand-ins, timeouts and limits.
        hosts: Every host that is claimed, as it was written (`*.example.com`), with its vendor.
    """
    limits = httpx.Limits(max_connections=settings.max_upstream_connections, max_keepalive_connections=settings.max_upstream_connections)
    # Of the environment only the certificates that it trusts: a proxy named there is another's, and `.netrc` has credentials of its own.
    verify = httpx.create_ssl_context(trust_env=True)
    standing_in = {vendor: StandingIn(url, verify=verify, limits=limits, trust_env=False) for vendor, url in settings.upstreams.items()}
    mounts = {f"all://{host}": standing_in[vendor] for host, vendor in hosts.items() if vendor in standing_in}
    client = httpx.AsyncClient(verify=verify, limits=limits, trust_env=False, follow_redirects=False, mounts=mounts)
    # A vendor's cookies are nobody's: of a hundred callers none may get those of another.
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


def timeouts(settings: ProxySettings) -> dict[str, float | None]:
    """Return a request's timeouts as httpx keeps them: seconds."""
    return httpx.Timeout(
        connect=settings.connect_seconds, read=settings.answer_seconds, write=settings.write_seconds, pool=settings.connect_seconds
    ).as_dict()
