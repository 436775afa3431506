"""What a child's budget takes over from the one that it lies in, and what it asks for in vain: pure comparison, used by every ledger.

A child can only narrow. What is counted (caps, calls, e-mails) it has a budget of its own for, and everything it spends counts on its
parent's too, so that the narrower of both holds. What is not counted must be allowed by both (keyguard.policy walks up the chain), or is
merged here. How a run behaves as a whole is its root's to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.model import show
from keyguard.narrowing import doubt_width, ignored, met_rules, mode_width, unpriced_width

if TYPE_CHECKING:
    from keyguard.model import Policy, VaultKey

# A run enforces or observes, names its charges and marks its objects as a whole: whether a request is a retry must not depend on the child.
_OF_THE_RUN = ("mode", "idempotency", "tag_objects")
_COUNTED = ("run_usd_cap", "daily_usd_cap", "call_usd_cap", "refund_usd_cap", "max_calls", "max_emails", "expires_in")


def inherited(own: Policy, parent: Policy) -> Policy:
    """Return a child's policy with what it takes over: the run's ways, the stricter of both answers, and the rules of both."""
    rules = met_rules(parent.rules or {}, own.rules or {}) or None
    return own.model_copy(
        update={
            **{field: getattr(parent, field) for field in _OF_THE_RUN},
            "vendor": own.vendor or parent.vendor,
            "secret": own.secret or parent.secret,
            "unpriced": min(own.unpriced, parent.unpriced, key=unpriced_width),
            "on_doubt": min(own.on_doubt, parent.on_doubt, key=doubt_width),
            "rules": rules,
        }
    )


def is_same(asked: Policy, earlier: Policy) -> bool:
    """Say whether a child run asks for nothing but what an outer install asked for: then it shares that one's budget."""
    # Without a name of its own it would be called after its flow.
    known = earlier if asked.name is not None else earlier.model_copy(update={"name": None})
    return asked.stored() == known.stored()


def in_vain(asked: Policy, parent: VaultKey, covers: list[str]) -> tuple[str, ...]:
    """
    Return a warning for each field that a child asks to be wider than what it lies in.

    Args:
        asked: The child's arguments.
        parent: The key it lies in.
        covers: Which of the asked endpoints the parent lets through.
    """
    found: list[str] = []
    for field in _COUNTED:
        least = min((cap for key in parent.chain if (cap := getattr(key.policy, field)) is not None), default=None)
        wish = getattr(asked, field)
        if wish is not None and least is not None and wish > least:
            word = show if field.endswith("_usd_cap") else repr
            found.append(_narrower(f"{field}={word(wish)}", word(least), parent))
    for field, width in (("mode", mode_width), ("unpriced", unpriced_width), ("on_doubt", doubt_width)):
        if field in asked.model_fields_set and width(getattr(asked, field)) > width(getattr(parent.policy, field)):
            found.append(_narrower(f"{field}={getattr(asked, field)!r}", repr(getattr(parent.policy, field)), parent))
    for field in _OF_THE_RUN[1:]:
        if field in asked.model_fields_set and getattr(asked, field) != getattr(parent.policy, field):
            found.append(ignored(field, getattr(parent.policy, field), getattr(asked, field), "it is the whole run's"))
    extra = [item for item in asked.allowed_endpoints or () if item not in covers]
    if extra:
        found.append(_narrower(f"allowed_endpoints {', '.join(extra)}", "its own list", parent))
    return tuple(found)


def _narrower(wish: str, force: str, parent: VaultKey) -> str:
    return f"install() in a subflow asked for {wish}, but the budget of {parent.run_id} that it lies in has {force}: the narrower holds"
