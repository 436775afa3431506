"""A vault key that a proxy has issued: what is asked for, in each of Keybrake's dialects, and what is read of the answer. Pure.

The contract is known from public text alone (keybrake.com's pages, read November 2026), which disagrees with itself: one form is sent,
and many are read. A proxy of our own says what it can do besides, and is asked for all of a policy.
"""

from __future__ import annotations

from dataclasses import field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from keyguard._values import frozen
from keyguard.errors import ProxyUnavailable
from keyguard.model import METHODS, to_usd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.model import Policy, VaultKey

Dialect = Literal["keyguard", "vault", "v1"]
# Of a policy, what a proxy of ours takes: amounts in dollars, and the rest as it is kept.
_AMOUNTS = ("run_usd_cap", "daily_usd_cap", "call_usd_cap", "refund_usd_cap")
_PLAIN = ("max_calls", "max_emails", "allowed_endpoints", "rules", "agent_run_label", "mode", "vendor")
_HOUR, _MINUTE = 3600, 60
# A proxy's key has a cap; a policy without one, or that only observes, is to be stopped by none.
_UNCAPPED = 1_000_000_000.0


@frozen
class RemoteKey:
    """
    A vault key of a proxy, as it is kept in the local ledger.

    Attributes:
        proxy: The proxy's URL.
        vendor: Whose calls it is for.
        token: What its calls carry.
        remote_id: By which it is revoked; "" = the proxy has not said one, and it ends when it expires.
        expires_at: POSIX seconds; None = never, or nobody said.
        asked: What was asked for, as JSON: a key of another policy is asked for anew.
        judges: The proxy keeps the caps of runs itself.
    """

    proxy: str
    vendor: str
    token: str = field(repr=False)
    remote_id: str = ""
    expires_at: float | None = None
    asked: str = ""
    judges: bool = False


def asked_of(key: VaultKey, vendor: str, dialect: Dialect) -> dict[str, Any]:
    """Return what is asked for, but for the time that is left: the same for as long as the policy is."""
    return _own(key) if dialect == "keyguard" else _public(key.policy, vendor)


def _own(key: VaultKey) -> dict[str, Any]:
    """Return a policy in the words of `keyguard proxy`. Its keys are for all vendors: a run has one budget there, as here."""
    policy = key.policy
    stored = policy.stored()
    found: dict[str, Any] = {name: to_usd(stored[name]) for name in _AMOUNTS if stored.get(name) is not None}
    found |= {name: stored[name] for name in _PLAIN if stored.get(name) is not None}
    unpriced = stored.get("unpriced", "refuse")
    if not found.keys() & {"run_usd_cap", "daily_usd_cap"}:
        found["run_usd_cap"] = _UNCAPPED
    found |= {"unpriced": to_usd(unpriced) if isinstance(unpriced, int) else unpriced, "name": key.policy_name}
    # Only what a later install narrows it to; a key that travels has a budget of its own there too.
    return found if key.run_id is None else {**found, "run_id": key.run_id}


def _public(policy: Policy, vendor: str) -> dict[str, Any]:
    """Return the five fields of the public form, of which one is the vendor and one the time."""
    found: dict[str, Any] = {"vendor": vendor}
    caps = [cap for cap in (policy.run_usd_cap, policy.daily_usd_cap) if cap is not None and policy.mode == "enforce"]
    # Of this key alone, which is the run's: on no day can it be more than the run has. What the day's runs share is counted here.
    found["daily_usd_cap"] = to_usd(min(caps)) if caps else _UNCAPPED
    if policy.allowed_endpoints is not None and policy.mode == "enforce":
        found["allowed_endpoints"] = [item for entry in policy.allowed_endpoints for item in _endpoint(entry, vendor)]
    if policy.agent_run_label is not None:
        found["agent_run_label"] = policy.agent_run_label
    return found


def _endpoint(entry: str, vendor: str) -> list[str]:
    """Return an item of an allowlist as Keybrake writes it; none where it is another vendor's."""
    named, colon, rest = entry.partition(":")
    item = rest if colon and " " not in named and "/" not in named else entry
    if item is not entry and named != vendor:
        return []
    method, blank, path = item.strip().partition(" ")
    # Whether a `*` of theirs crosses a slash is nowhere said; one of ours does not, `**` does.
    return [f"{method.upper()} {path.strip()}"] if blank and method.upper() in METHODS else [item.strip()]


def duration(seconds: float) -> str:
    """Write a time as Keybrake's pages do: `4h`, else `30m`, else `45s`; at least a second."""
    whole = max(1, int(seconds))
    for unit, letter in ((_HOUR, "h"), (_MINUTE, "m")):
        if whole % unit == 0:
            return f"{whole // unit}{letter}"
    return f"{whole}s"


def issued(said: Mapping[str, Any], proxy: str, vendor: str, asked: str, *, dialect: Dialect, until: float | None) -> RemoteKey:
    """
    Read a proxy's answer to the request for a key.

    Args:
        said: The JSON object.
        proxy: Its URL.
        vendor: Whose calls the key is for.
        asked: What was asked for, as JSON.
        dialect: In which; by the public ones no cap of a run was asked for.
        until: When it ends by what was asked for, where the answer does not say.

    Raises:
        ProxyUnavailable: there is no key in it.
    """
    token = said.get("vault_key") or said.get("token")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ProxyUnavailable(f"the proxy at {proxy} answered without a vault key (no 'vault_key' and no 'token'); nothing was sent")
    remote_id = said.get("key_id") or said.get("id") or ""
    expires_at = _instant(said.get("expires_at"))
    return RemoteKey(
        proxy,
        vendor,
        token,
        str(remote_id),
        until if expires_at is None else expires_at,
        asked,
        judges=dialect == "keyguard" and _judges(said),
    )


def _judges(said: Mapping[str, Any]) -> bool:
    capabilities: Any = said.get("capabilities")
    return isinstance(capabilities, dict) and capabilities.get("run_caps") is True


def _instant(said: object) -> float | None:
    """Read ISO 8601 or POSIX seconds; None for what is neither."""
    if isinstance(said, int | float) and not isinstance(said, bool):
        return float(said)
    if not isinstance(said, str):
        return None
    try:
        found = datetime.fromisoformat(said.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)).timestamp()
