"""What a second install() of a run does to its policy: pure comparison, used by every ledger.

The cap in force is the last audited raise by a human, else the least that was asked. A wider wish is
never an error (a resumed run repeats its first install), it is ignored with a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.model import show

if TYPE_CHECKING:
    from keyguard.model import Policy
    from keyguard.rules import Rule, Rules

_CAPS = ("run_usd_cap", "daily_usd_cap", "call_usd_cap", "refund_usd_cap", "max_calls", "max_emails", "expires_in")
_FIXED = ("name", "vendor", "secret", "agent_run_label", "tag_objects", "idempotency")


def narrowed(force: Policy, asked: Policy, again: Policy, *, is_raised: bool) -> tuple[Policy, tuple[str, ...]]:
    """
    Compare a later install's arguments with the earlier ones.

    Args:
        force: The policy in force.
        asked: The earlier install's arguments.
        again: The later install's arguments.
        is_raised: A human set the run's cap; it stays.

    Returns:
        The policy in force from now on, and a warning for each wish that was ignored.
    """
    if asked.stored() == again.stored():
        return force, ()
    changes: dict[str, Any] = {}
    warnings: list[str] = []
    for field in _CAPS:
        _least(
            field, force, again, changes, warnings, is_fixed=is_raised and field == "run_usd_cap" and again.run_usd_cap != asked.run_usd_cap
        )
    if is_raised:
        changes.pop("run_usd_cap", None)
    _fewest_endpoints(force, again, changes, warnings)
    _all_rules(force, asked, again, changes, warnings)
    _strictest(force, again, changes, warnings)
    for field in _FIXED:
        if getattr(again, field) != getattr(asked, field):
            warnings.append(ignored(field, getattr(force, field), getattr(again, field), "cannot change within a run"))
    return (force.model_copy(update=changes) if changes else force), tuple(warnings)


def _least(field: str, force: Policy, again: Policy, changes: dict[str, Any], warnings: list[str], *, is_fixed: bool) -> None:
    old, new = getattr(force, field), getattr(again, field)
    if is_fixed:
        warnings.append(ignored(field, old, new, "a person set this cap; `keyguard raise` changes it"))
    elif new is not None and (old is None or new < old):
        changes[field] = new
    elif new != old and not (old is not None and new is not None and new == old):
        warnings.append(ignored(field, old, new, "a later install cannot widen; `keyguard raise` can"))


def _fewest_endpoints(force: Policy, again: Policy, changes: dict[str, Any], warnings: list[str]) -> None:
    old, new = force.allowed_endpoints, again.allowed_endpoints
    if new is None or old is None:
        if new != old and old is not None:
            warnings.append(ignored("allowed_endpoints", old, new, "a later install cannot widen"))
        elif new != old:
            changes["allowed_endpoints"] = new
        return
    extra = tuple(item for item in new if item not in old)
    if extra:
        warnings.append(ignored("allowed_endpoints", old, extra, "a later install cannot add endpoints"))
    if set(old) - set(new):
        changes["allowed_endpoints"] = tuple(item for item in old if item in new)


def _all_rules(force: Policy, asked: Policy, again: Policy, changes: dict[str, Any], warnings: list[str]) -> None:
    """What any install asked for must hold; leaving a rule out, or a wider one, takes nothing back."""
    old, new = force.rules or {}, again.rules or {}
    met = met_rules(old, new)
    if met != old:
        changes["rules"] = met
    if new not in (met, asked.rules or {}):
        warnings.append(ignored("rules", met, new or None, "a later install cannot widen"))


def met_rules(old: Rules, new: Rules) -> dict[str, dict[str, Rule]]:
    """Return what lets through only what both let through."""
    met: dict[str, dict[str, Rule]] = {name: dict(rules) for name, rules in old.items()}
    for name, rules in new.items():
        for field, rule in rules.items():
            earlier = met.setdefault(name, {}).get(field)
            met[name][field] = rule if earlier is None else earlier.both(rule)
    return met


def _strictest(force: Policy, again: Policy, changes: dict[str, Any], warnings: list[str]) -> None:
    for field, width in (("mode", mode_width), ("unpriced", unpriced_width), ("on_doubt", doubt_width)):
        old, new = getattr(force, field), getattr(again, field)
        if width(new) < width(old):
            changes[field] = new
        elif width(new) > width(old):
            warnings.append(ignored(field, old, new, "a later install cannot widen"))


def mode_width(mode: str) -> tuple[int, int]:
    """Order modes by what they let through."""
    return (int(mode == "observe"), 0)


def doubt_width(on_doubt: str) -> tuple[int, int]:
    """Order the answers to a doubt by what they let through."""
    return (int(on_doubt == "resend"), 0)


def unpriced_width(unpriced: str | int) -> tuple[int, int]:
    """Order the answers to a write without a price by what they let through."""
    # A larger flat amount counts more, so it is the narrower wish.
    return {"refuse": (0, 0), "allow": (2, 0)}.get(str(unpriced), (1, -unpriced if isinstance(unpriced, int) else 0))


def ignored(field: str, old: Any, new: Any, why: str) -> str:
    """Say that a wish was ignored."""

    def word(value: Any) -> str:
        if value is None:
            return "no limit" if field not in _FIXED else "nothing"
        if field == "rules":
            return ", ".join(f"{name}.{one} {rule}" for name, rules in value.items() for one, rule in rules.items())
        return show(value) if field.endswith("_usd_cap") else repr(value)

    return f"install() asked for {field}={word(new)}, but {word(old)} stays in force: {why}"
