"""How a key is shown to those who may see it: as JSON values, with amounts in dollars. Never its token."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from keyguard.model import to_usd

if TYPE_CHECKING:
    from keyguard.model import Usage, VaultKey

# What a client may rely on beyond Keybrake's own contract.
CAPABILITIES: dict[str, Any] = {
    "run_caps": True, "call_caps": True, "refund_caps": True, "call_counts": True, "email_counts": True, "rules": True, "doubts": True,
    "usage": True, "audit": True, "raise": True, "revoke_by": ["key_id", "run_id", "label", "policy"], "dialects": ["vault", "v1"],
    "streams": True,
}  # fmt: skip
# Of one answer's list, and the last place in the audit log that can be asked for.
MOST_ROWS, LAST_ROW = 500, 2**62
# Of the policy, in dollars.
_AMOUNTS = frozenset({"run_usd_cap", "daily_usd_cap", "call_usd_cap", "refund_usd_cap"})


def handle(key: VaultKey, now: float) -> dict[str, Any]:
    """Return a key's names and policy, as every answer about it has them."""
    state = "expired" if key.state == "active" and key.expires_at is not None and key.expires_at <= now else key.state
    stored = key.policy.stored()
    policy = {
        name: to_usd(value) if name in _AMOUNTS or (name == "unpriced" and isinstance(value, int)) else value
        for name, value in stored.items()
    }
    expires_at = None if key.expires_at is None else datetime.fromtimestamp(key.expires_at, timezone.utc).isoformat(timespec="seconds")
    return {
        "key_id": key.key_id, "id": key.key_id, "run_id": key.run_id, "vendor": key.policy.vendor, "state": state,
        "expires_at": None if expires_at is None else expires_at.replace("+00:00", "Z"), "agent_run_label": key.policy.agent_run_label,
        "daily_usd_cap": policy.get("daily_usd_cap"), "run_usd_cap": policy.get("run_usd_cap"), "policy_in_force": policy,
    }  # fmt: skip


def day_of(usage: Usage) -> dict[str, Any]:
    """Return the figures of a policy's day."""
    cap, remaining = usage.cap, usage.remaining
    return {
        "cap_usd": None if cap is None else to_usd(cap), "spent_usd": to_usd(usage.spent), "held_usd": to_usd(usage.held),
        "in_doubt_usd": to_usd(usage.doubt), "remaining_usd": None if remaining is None else to_usd(remaining),
    }  # fmt: skip
