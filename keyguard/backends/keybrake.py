"""The remote backend: calls go through a proxy that keeps the vendors' secrets, with a ledger of this machine's in front.

The ledger in front counts every call, names its charges, and keeps the doubts and the proxy's keys, so that worker processes use them too.
It also judges the caps, unless the proxy says that it judges those of runs itself: then its word holds, and the totals are compared.

What differs from calls without a proxy: an answer that is lost between vendor and proxy is the proxy's 502, and no broken connection.
Of an error that the vendor keeps under a key, the SDK's own next try is told `AlreadyCharged`, because the proxy asks in between. A read
that finds out what a call costs must be on the proxy's allowlist: who could say that his read is one would read anything. And what
other machines spend of a run is counted there alone.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from keyguard import context
from keyguard.backends._keybrake_api import Api
from keyguard.backends._ledgered import LedgerBackend
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.model import show, to_money, to_usd
from keyguard.remote import asked_of, duration, issued
from keyguard.routing import Route, misplaced, netloc_of
from keyguard.vendors import claimant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from keyguard.context import Ticket
    from keyguard.ledgers import Ledger
    from keyguard.model import Call, Decision, Money, Order, Usage, VaultKey
    from keyguard.remote import RemoteKey
    from keyguard.settings import Settings

_logger = logging.getLogger("keyguard")
# A key that ends within this time may end before its call arrives.
_MARGIN = 5.0
_OF_NO_USE = "vault_key_of_a_key_that_has_ended"


def open_proxy(url: str, ledger: Ledger, settings: Settings) -> KeybrakeBackend:
    """
    Make the backend of a proxy.

    Raises:
        ConfigurationError: as `check_url`.
    """
    check_url(url)
    return KeybrakeBackend(ledger, url.rstrip("/"), api_of(url.rstrip("/"), settings))


def check_url(url: str) -> None:
    """
    Let the URL of a proxy pass.

    Raises:
        ConfigurationError: it is none, or vault keys would go over the network in clear.
    """
    parts = urlsplit(url)
    if not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ConfigurationError(f"the URL of a proxy is scheme, host, port and path alone, such as https://proxy.example.com; got {url!r}")
    if parts.scheme == "http" and not _is_here(parts.hostname):
        raise ConfigurationError(f"vault keys would go to {parts.netloc} in clear: use https (http is for proxies on this machine)")


def api_of(base: str, settings: Settings) -> Api:
    """Return the management calls of a proxy, with the secret that the settings have."""
    dialect = None if settings.dialect == "auto" else settings.dialect
    secret = "" if settings.api_key is None else settings.api_key.get_secret_value()
    return Api(base, secret, dialect=dialect, keys_url=settings.keys_url, seconds=settings.remote_seconds)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class KeybrakeBackend(LedgerBackend):
    """
    Decides with a proxy.

    Args:
        ledger: In front.
        base: The proxy's URL, without a slash at its end.
        api: Its management calls.
        clock: POSIX seconds.
    """

    name = "keybrake"

    def __init__(self, ledger: Ledger, base: str, api: Api, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(ledger)
        self.url, self._api, self._clock = base, api, clock
        self._remotes: dict[tuple[str, str], tuple[int, RemoteKey]] = {}
        context.add_proxy(netloc_of(base))

    # -- the way of a call --------------------------------------------------------------------------

    def route(self, key: VaultKey, call: Call, *, is_theirs: bool) -> Route:
        """Return the way through the proxy, with the vault key of the call's run, issued now where it is the first of its vendor."""
        is_there = call.host == netloc_of(self.url)
        if not is_there and (call.scheme != "https" or claimant(call.host.removesuffix(":443")) != call.vendor):
            raise misplaced(call.vendor, f"{call.scheme}://{call.host}", self.url)
        if is_theirs:
            return Route(self.url, call.vendor, marks=self._marks())
        if any(not self._is_alive(one) for one in key.chain):
            # The ledger refuses it in a moment: no key is issued for that, and no credential of the caller's would go to the proxy.
            return Route(self.url, call.vendor, _OF_NO_USE)
        # A child's calls are its run's to the proxy: what it may spend is counted here.
        return Route(self.url, call.vendor, self._remote(key.chain[-1], call.vendor).token, marks=self._marks())

    def _is_alive(self, key: VaultKey) -> bool:
        return key.state == "active" and (key.expires_at is None or key.expires_at > self._clock())

    def _marks(self) -> bool:
        if not self._api.is_known:
            context.check_may_block()
        return self._api.dialect == "keyguard"

    def _remote(self, key: VaultKey, vendor: str) -> RemoteKey:
        known = self._remotes.get((key.key_id, vendor))
        if known is not None and known[0] == key.version and self._is_good(known[1]):
            return known[1]
        context.check_may_block()
        found = self._found(key, vendor)
        self._remotes[key.key_id, vendor] = (key.version, found)
        return found

    def _is_good(self, remote: RemoteKey) -> bool:
        return remote.expires_at is None or remote.expires_at > self._clock() + _MARGIN

    def _found(self, key: VaultKey, vendor: str) -> RemoteKey:
        """Find the key that another process was given, or ask for one; of two that ask at once the first one's is used by both."""
        asked = json.dumps(asked_of(key, vendor, self._api.dialect), sort_keys=True)
        kept = next((one for one in self.ledger.remote_keys(key_id=key.key_id) if one.vendor == vendor), None)
        if kept is not None and kept.proxy == self.url and kept.asked == asked and self._is_good(kept):
            return kept
        made = self._issued(key, vendor, asked)
        found = self.ledger.keep_remote(key.key_id, made, instead="" if kept is None else kept.token)
        for unused in (made, kept):
            if unused is not None and unused.remote_id not in {"", found.remote_id} and unused.proxy == self.url:
                self._end(unused)
        return found

    def _issued(self, key: VaultKey, vendor: str, asked: str) -> RemoteKey:
        body: dict[str, Any] = json.loads(asked)
        if key.expires_at is not None:
            body["expires_in"] = duration(key.expires_at - self._clock())
        said = self._api.issue(body)
        for warning in said.get("warnings") or ():
            _logger.warning("the proxy at %s: %s", self.url, warning)
        return issued(said, self.url, vendor, asked, dialect=self._api.dialect, until=key.expires_at)

    def _end(self, remote: RemoteKey) -> None:
        try:
            self._api.revoke(remote.remote_id)
        except KeyguardError as error:
            _logger.warning("the proxy's key %s could not be revoked, and ends when it expires: %s", remote.remote_id, error)

    # -- money ----------------------------------------------------------------------------------------

    def reserve(self, order: Order, ticket: Ticket) -> Decision:
        """Hold money here; the caps of a run are the proxy's to judge where it does, those of a child are nobody else's."""
        known = self._remotes.get((order.key_id, order.vendor))
        if known is not None and known[1].judges and not order.budgets:
            order = replace(order, is_capped=False)
        return super().reserve(order, ticket)

    def usage(self, scope: str) -> Usage | None:
        """Return a budget's figures: the proxy's where it judges the caps, which counts what other machines spend too."""
        own = super().usage(scope)
        key = None if own is None else self._key_of(scope)
        remote = None if key is None else next((one for one in self.ledger.remote_keys(key_id=key.key_id) if one.judges), None)
        if own is None or remote is None:
            return own
        theirs = _figures(own, self._api.show(remote.remote_id))
        if theirs is None:
            return own
        self._compare(scope, own, theirs)
        return theirs

    def _key_of(self, scope: str) -> VaultKey | None:
        kind, _, name = scope.partition(":")
        found = self.ledger.key(run_id=name) if kind == "run" else self.ledger.key(key_id=name) if kind == "key" else None
        # A child's budget is known here alone.
        return None if found is None or found.parent is not None else found

    def _compare(self, scope: str, own: Usage, theirs: Usage) -> None:
        ours, said = (one.spent + one.held + one.doubt for one in (own, theirs))
        _difference(self.url, said - ours)
        if said != ours:
            _logger.warning(
                "%s: the proxy at %s counts %s (spent %s, held %s, in doubt %s), this machine's ledger %s (%s, %s, %s). "
                "Other machines' calls are counted there alone; doubts are resolved in each: keyguard reconcile",
                scope, self.url, show(said), show(theirs.spent), show(theirs.held), show(theirs.doubt),
                show(ours), show(own.spent), show(own.held), show(own.doubt),
            )  # fmt: skip

    # -- keys -----------------------------------------------------------------------------------------

    def revoke(
        self,
        *,
        key_id: str | None = None,
        run_id: str | None = None,
        policy: str | None = None,
        state: Literal["revoked", "closed"] = "revoked",
        by: str = "",
    ) -> int:
        """
        Revoke keys: here at once, and at the proxy.

        Raises:
            ProxyUnavailable: here it holds, and there it could not be said.
        """
        count = super().revoke(key_id=key_id, run_id=run_id, policy=policy, state=state, by=by)
        self._remotes.clear()
        failed: KeyguardError | None = None
        for remote_id in _handles(self.ledger.remote_keys(key_id=key_id, run_id=run_id, policy=policy), self.url):
            try:
                self._api.revoke(remote_id)
            except KeyguardError as error:
                # Of many keys one that cannot be revoked leaves no other alive.
                failed = error
        if failed is not None:
            raise failed
        self._look_back(key_id, run_id)
        return count

    def _look_back(self, key_id: str | None, run_id: str | None) -> None:
        """Compare the totals of a run that ends, as far as the proxy can be asked."""
        key = None if key_id is None and run_id is None else self.ledger.key(key_id=key_id, run_id=run_id)
        if key is None or key.parent is not None:
            return
        try:
            self.usage(key.scope)
        except KeyguardError as error:
            _logger.warning("%s has ended, and its totals could not be compared with the proxy's: %s", key.scope, error)

    def raise_cap(self, run_id: str, cap: Money, *, by: str) -> VaultKey:
        """Set a run's cap by a human's decision, at the proxy first where that judges it."""
        judged = [one for one in self.ledger.remote_keys(run_id=run_id) if one.judges]
        for remote_id in _handles(judged, self.url):
            self._api.change(remote_id, {"run_usd_cap": to_usd(cap)})
        return super().raise_cap(run_id, cap, by=by)

    def shut(self) -> None:
        """Close what dead tickets left, and the ledger's handles; keys are found again."""
        self._remotes.clear()
        super().shut()


def revoke_at_proxies(
    ledger: Ledger, settings: Settings, *, by: str, key_id: str | None = None, run_id: str | None = None, policy: str | None = None
) -> None:
    """
    Revoke what a ledger's keys have at proxies, where the ledger is in front of some.

    Raises:
        ConfigurationError: there is no management secret. ProxyUnavailable: a proxy could not be told.
    """
    remotes = ledger.remote_keys(key_id=key_id, run_id=run_id, policy=policy)
    for proxy in dict.fromkeys(remote.proxy for remote in remotes):
        open_proxy(proxy, ledger, settings).revoke(key_id=key_id, run_id=run_id, policy=policy, by=by)


def _handles(remotes: Iterable[RemoteKey], proxy: str) -> list[str]:
    return list(dict.fromkeys(one.remote_id for one in remotes if one.remote_id and one.proxy == proxy))


def _figures(own: Usage, said: dict[str, Any]) -> Usage | None:
    """Return a proxy's figures of a key, with what only this ledger knows; None where it shows none."""
    names = {
        "cap": "cap_usd", "spent": "spent_usd", "held": "held_usd", "doubt": "in_doubt_usd", "refunded": "refunded_usd",
        "overrun": "overrun_usd",
    }  # fmt: skip
    if not said.keys() >= set(names.values()):
        return None
    try:
        found: dict[str, Any] = {name: None if said[key] is None else to_money(said[key]) for name, key in names.items()}
        return replace(own, **{**found, "cap": None if own.cap is None else found["cap"]})
    except ValueError:
        return None


def _difference(proxy: str, amount: Money) -> None:
    """Record by how much a proxy's total and ours differ; nothing that a metrics SDK raises may break a call."""
    from opentelemetry import metrics

    try:
        gauge = metrics.get_meter("keyguard").create_gauge(
            "keyguard.proxy.difference", unit="USD", description="What the proxy counts of a run above what the ledger in front of it does."
        )
        gauge.set(to_usd(amount), {"server.address": netloc_of(proxy)})
    except Exception as error:
        _logger.warning("a metric could not be recorded (%s)", type(error).__name__)
