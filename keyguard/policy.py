"""Pure rules: may this key make this call, and which budgets does it touch. No I/O, no clock, no counting.

This is the one place that decides allow or deny from a policy; the ledger only adds up. It also
turns a ledger's answer into the typed error, so that its words stand beside the rules.
"""

from __future__ import annotations

import re
import shlex
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING

from keyguard.errors import (
    AlreadyCharged,
    AmbiguousIdentity,
    DoubtPending,
    EndpointNotAllowed,
    IdentityConflict,
    KeyExpired,
    KeyRevoked,
    Refused,
    RuleViolated,
    SpendCapExceeded,
    UnknownKey,
    UnpricedCall,
)
from keyguard.model import Leg, Quote, show
from keyguard.rules import additions as additions_of
from keyguard.rules import problem

if TYPE_CHECKING:
    from keyguard.model import Call, Decision, Operation, Pairs, Policy, Unbounded, VaultKey

# Why a further request of a logical charge was stopped, and what to do.
_DUPLICATES: dict[str, tuple[type[Refused], str]] = {
    "conflict": (
        IdentityConflict,
        (
            "its Idempotency-Key, or its place in idempotency_scope(), belongs to an earlier request with other parameters (reservation "
            "{hold}, {when}). Send the same parameters to repeat that one, or use another key or scope for another charge."
        ),
    ),
    "ambiguous": (
        AmbiguousIdentity,
        (
            "an identical request was charged at {when} (reservation {hold}) by a task of an earlier execution of this run, whose result "
            "may be kept, so that it is skipped now. Whether this is the same charge again or another one cannot be told. Give each "
            "charge a name: with keyguard.idempotency_scope('order-42'): ..."
        ),
    ),
    "already_charged": (
        AlreadyCharged,
        (
            "this charge was made (reservation {hold}, {when}), and the vendor has forgotten its Idempotency-Key since, so it would be "
            "made twice. Another charge is made in a new run, or under a name: with keyguard.idempotency_scope('order-43'): ..."
        ),
    ),
    "unanswerable": (
        AlreadyCharged,
        (
            "this charge was made (reservation {hold}, {when}), but the vendor keeps an error as its answer to it, and would give it to "
            "every further request. The row of the ledger's log that settled it names what it bought, which can be read at the vendor."
        ),
    ),
    "doubt_pending": (
        DoubtPending,
        (
            "an earlier attempt of it, or one that differs from it only in other parameters, is in doubt (reservation {hold}, {when}): "
            "it may have been executed. Ask the vendor: keyguard reconcile  or decide by hand: keyguard settle|release {hold}"
        ),
    ),
}
_PERSONAL = re.compile(r"[^/]*(?:@|%40)[^/]*|(?<=/)(?:\+|%2b)?[0-9]{7,15}(?=/|$)", re.IGNORECASE)


@lru_cache(maxsize=1024)
def _allowed(items: tuple[str, ...]) -> re.Pattern[str]:
    """Compile an allowlist; it is matched against `vendor:METHOD /path` and `vendor:operation`."""
    return re.compile("|".join(f"(?:{_endpoint_pattern(item)})" for item in items) or r"(?!)", re.DOTALL)


def _endpoint_pattern(item: str) -> str:
    vendor, _, rest = item.rpartition(":")
    method, space, path = rest.partition(" ")
    prefix = f"{re.escape(vendor) if vendor else '[^:]*'}:"
    if not space:
        return prefix + _globbed(method, one="[a-z0-9_]+", many="[a-z0-9_.]+")
    return prefix + request_pattern(method, path)


def request_pattern(method: str, path: str) -> str:
    """Return what matches `METHOD /path` in a regular expression: `*` is any method or one segment of a path, `**` any number of them."""
    verb = "[A-Z]+" if method == "*" else re.escape(method)
    return f"{verb} {_globbed(path, one='[^/]+', many='.*')}"


def _globbed(text: str, *, one: str, many: str) -> str:
    # `**` first: its two stars must not be read as two single ones.
    return many.join(one.join(re.escape(piece) for piece in part.split("*")) for part in text.split("**"))


def is_allowed(policy: Policy, call: Call, operation: Operation) -> bool:
    """Say whether the allowlist and the vendor restriction let the call through."""
    if policy.vendor is not None and policy.vendor != call.vendor:
        return False
    if policy.allowed_endpoints is None:
        return True
    fits = _allowed(tuple(policy.allowed_endpoints)).fullmatch
    # A URL without a path asks for the root.
    return fits(f"{call.vendor}:{call.method} {call.path or '/'}") is not None or fits(f"{call.vendor}:{operation.name}") is not None


def check_endpoint(key: VaultKey, call: Call, operation: Operation) -> None:
    """
    Refuse what the allowlist does not name.

    Raises:
        EndpointNotAllowed: with what was attempted and what is allowed.
    """
    if is_allowed(key.policy, call, operation):
        if key.parent is not None:
            check_endpoint(key.parent, call, operation)
        return
    allowed = ", ".join(key.policy.allowed_endpoints or (f"any {key.policy.vendor} endpoint",))
    raise EndpointNotAllowed(
        f"{call.method} {_shown(call.path)} ({call.vendor} {operation.name}) is not allowed by policy {key.policy_name!r}. "
        f"Allowed: {allowed}. Nothing was sent. Add it to allowed_endpoints if the run should make this call.",
        **_who(key, operation),
    )


def covered(policy: Policy, items: tuple[str, ...]) -> list[str]:
    """Return which items of another allowlist this one lets through whole, by their text: what a `**` stands for is not looked into."""
    if policy.allowed_endpoints is None:
        return list(items)
    fits = _allowed(tuple(policy.allowed_endpoints)).fullmatch
    return [item for item in items if item in policy.allowed_endpoints or fits(item if ":" in item else f":{item}") is not None]


def additions(key: VaultKey, call: Call, operation: Operation) -> Pairs:
    """Return what the rules of the policy add to a form that leaves a field out, so that its cost is bounded; nothing when observing."""
    rules, body = key.policy.rules, call.body
    if not rules or body is None or call.document is not None or call.method != "POST" or key.policy.mode == "observe":
        return ()
    names = (operation.name, f"{call.vendor}:{operation.name}")
    return tuple(pair for name in names if name in rules for pair in additions_of(rules[name], (*call.query, *body)))


def check_rules(key: VaultKey, call: Call, operation: Operation) -> None:
    """
    Refuse what the policy's rules for this operation do not let through.

    Raises:
        RuleViolated: names the field, what it may say, and the rule.
    """
    rules = key.policy.rules
    if not rules:
        return
    pairs = None if call.body is None else (*call.query, *call.body)
    for name in (operation.name, f"{call.vendor}:{operation.name}"):
        said = problem(rules[name], pairs) if name in rules else None
        if said is not None:
            raise RuleViolated(
                f"{operation.name}: {said}, by rules[{name!r}] of policy {key.policy_name!r}. Nothing was sent.", **_who(key, operation)
            )


def _shown(path: str) -> str:
    """Return a path as it may stand in a message: some vendors have addresses and phone numbers in theirs."""
    return _PERSONAL.sub("*", path)


def unpriced_quote(key: VaultKey, call: Call, operation: Operation, why: Unbounded | None) -> Quote:
    """
    Say what a write that nobody can price may cost, by the policy's `unpriced`.

    Raises:
        UnpricedCall: the policy says `refuse` (the default), or does not name an operation that no cap can express.
    """
    unpriced = key.policy.unpriced
    if why is not None and why.is_by_design and (unpriced == "refuse" or not _is_named(key, call, operation)):
        raise UnpricedCall(
            f"{operation.name} is a write that no cap can express: it {why.reason}. Policy {key.policy_name!r} refuses it, and nothing "
            f"was sent. To let it through, name {operation.name!r} itself in allowed_endpoints, beside all else that the run may call "
            f"('* /**' is everything; no wildcard names this one), and set unpriced='allow' or a flat amount.",
            **_who(key, operation),
        )
    if unpriced == "refuse":
        because = f" (it {why.reason})" if why is not None else ""
        raise UnpricedCall(
            f"{operation.name} is a write whose cost keyguard cannot bound{because}, so policy {key.policy_name!r} refuses it. Nothing was "
            f"sent. If it is harmless, set unpriced='allow', or unpriced=<dollars> to count a flat amount for each such call.",
            **_who(key, operation),
        )
    return Quote(0 if unpriced == "allow" else int(unpriced))


def _is_named(key: VaultKey, call: Call, operation: Operation) -> bool:
    """Say whether each allowlist has this very operation, or this very method and path, without a wildcard; and that there is one."""
    own = {operation.name, f"{call.method} {call.path}"}
    own |= {f"{call.vendor}:{name}" for name in own}
    lists = [one.policy.allowed_endpoints for one in key.chain if one.policy.allowed_endpoints is not None]
    return bool(lists) and not any(own.isdisjoint(items) for items in lists)


def check_call_cap(key: VaultKey, operation: Operation, quote: Quote) -> None:
    """
    Refuse a single call above `call_usd_cap`; refunds of own charges have a cap of their own.

    Raises:
        SpendCapExceeded: scope `call`.
    """
    cap = key.policy.call_usd_cap
    if cap is None or quote.pot == "refund" or quote.amount <= cap:
        if key.parent is not None:
            check_call_cap(key.parent, operation, quote)
        return
    raise SpendCapExceeded(
        f"{operation.name} for {show(quote.amount)} is above call_usd_cap {show(cap)} of policy {key.policy_name!r}. Nothing was sent.",
        **_who(key, operation), scope="call", cap=cap, spent=0, held=0, doubt=0, requested=quote.amount, remaining=cap,
    )  # fmt: skip


def legs(key: VaultKey, quote: Quote) -> tuple[Leg, ...]:
    """
    Name the budgets that a call draws on, in the order in which they are checked.

    Run money, calls and e-mails are named even without a cap, so that usage is always counted. Refunds of the run's own
    charges draw on the refund pot instead and never on run or day (DESIGN §5). A child's call draws on the child's and on all that its
    budget lies in, innermost first; a day's budget that several of them have is drawn on once.
    """
    found = _legs(key.budget, quote.pot, key.policy_name if key.policy.daily_usd_cap is not None else None, quote.units > 0)
    return found if key.parent is None else tuple(dict.fromkeys((*found, *legs(key.parent, quote))))


# The same for every call of a run; by its words, because hashing a whole key costs more than making its legs.
@lru_cache(maxsize=1024)
def _legs(scope: str, pot: str, day: str | None, has_units: bool) -> tuple[Leg, ...]:  # noqa: FBT001 -- a cache wants positions
    found = [Leg(f"refund:{scope}")] if pot == "refund" else [Leg(scope)]
    if pot == "run" and day is not None:
        found.append(Leg(f"policy:{day}", per="day"))
    found.append(Leg(f"calls:{scope}", unit="call"))
    if has_units:
        found.append(Leg(f"emails:{scope}", unit="email"))
    return tuple(found)


def refusal(decision: Decision, key: VaultKey, operation: Operation) -> Refused:
    """Turn a ledger's refusal into the typed error, with the numbers and the command that helps."""
    who = {**_who(key, operation), "decision": decision}
    if decision.reason == "cap_exceeded":
        remaining = max(0, decision.cap - decision.spent - decision.held - decision.doubt)
        return SpendCapExceeded(
            _cap_message(decision, key, operation, remaining), **who, scope=decision.scope, cap=decision.cap,
            spent=decision.spent, held=decision.held, doubt=decision.doubt, requested=decision.requested,
            remaining=remaining, resets_at=decision.resets_at,
        )  # fmt: skip
    if decision.reason in {"revoked", "closed"}:
        return revoked(key, operation, decision.reason)
    if decision.reason == "expired":
        error = expired(key, operation)
        error.decision = decision
        return error
    if decision.reason == "unknown_key":
        return UnknownKey(f"key {key.key_id} is not in this ledger; nothing was sent. Was the ledger file replaced?", **who)
    if decision.reason in _DUPLICATES:
        kind, words = _DUPLICATES[decision.reason]
        when = _instant(decision.at)
        return kind(f"{operation.name} was not sent: {words.format(hold=decision.hold, when=when)}", **who)
    return Refused(f"{operation.name} was refused ({decision.reason}); nothing was sent.", **who)


def check_again(key: VaultKey, operation: Operation, good_until: float, now: float) -> None:
    """
    Refuse one more attempt of a call that was decided before.

    Args:
        key: As it is now.
        operation: The call's.
        good_until: When the vendor may forget the call's Idempotency-Key, POSIX seconds; 0 = nothing rests on it.
        now: The present, POSIX seconds.

    Raises:
        KeyRevoked, KeyExpired: since it was decided.
        DoubtPending: the vendor may execute the attempt anew.
    """
    if key.state != "active":
        raise revoked(key, operation, key.state)
    if key.expires_at is not None and key.expires_at <= now:
        raise expired(key, operation)
    if 0 < good_until <= now:
        raise DoubtPending(
            f"{operation.name} was not sent once more: its Idempotency-Key is so old that the vendor may have forgotten it, and would "
            "execute it again. Ask the vendor what became of it: keyguard reconcile",
            **_who(key, operation),
        )


def expired(key: VaultKey, operation: Operation) -> KeyExpired:
    """Return the error for a key whose time is over; it names the outermost one that ended it."""
    key = next((one for one in reversed(key.chain) if one.expires_at == key.expires_at), key)
    when = _instant(key.expires_at) if key.expires_at is not None else "an unknown time"
    return KeyExpired(
        f"key {key.key_id} of {_run_words(key)} expired at {when}; nothing was sent. "
        f"A raise renews it: keyguard raise --run {_quoted(key.run_id)} --to DOLLARS",
        **_who(key, operation),
    )


def revoked(key: VaultKey, operation: Operation, state: str) -> KeyRevoked:
    """Return the error for a key that is no longer active; it names the outermost one that was ended."""
    key = next((one for one in reversed(key.chain) if one.state != "active"), key)
    return KeyRevoked(
        f"key {key.key_id} of {_run_words(key)} was {state}; {operation.name} was not sent. "
        f"See: keyguard status{_run_option(key)}. A revoked key stays revoked: start a new run.",
        **_who(key, operation),
    )


def stopped(key: VaultKey, operation: Operation, why: str) -> KeyRevoked:
    """Return the error for a call of a run that its orchestrator has stopped; `why` is a clause with a remedy (`context.StopSign`)."""
    return KeyRevoked(f"{operation.name} was not sent: {why} See: keyguard status{_run_option(key)}", **_who(key, operation))


def _cap_message(decision: Decision, key: VaultKey, operation: Operation, remaining: int) -> str:
    amount = {"usd": show, "call": "{} calls".format, "email": "{} e-mails".format}[decision.unit]
    kind, _, which = decision.scope.partition(":")
    # By the budget that is full, and not by the key: of a child's call it may be any that the child's lies in.
    whose, run_id = _whose(decision.scope, key)
    name, remedy = {
        "policy": (f"daily_usd_cap of policy {which!r}", f"keyguard raise --policy {shlex.quote(which)} --to USD"),
        "refund": (f"refund cap of {whose}", "set refund_usd_cap in the policy"),
        "calls": (f"max_calls of {whose}", "set a larger max_calls in the policy"),
        "emails": (f"max_emails of {whose}", "set a larger max_emails in the policy"),
    }.get(kind, (f"run_usd_cap of {whose}", ""))
    parts = [f"{amount(decision.spent)} spent", f"{amount(decision.held)} held", f"{amount(decision.doubt)} in doubt"]
    message = (
        f"{operation.name} for {amount(decision.requested)} would pass the {name}: cap {amount(decision.cap)}, {', '.join(parts)}, "
        f"{amount(remaining)} remaining. Nothing was sent."
    )
    if decision.resets_at is not None:
        message += f" The day's budget opens again at {_instant(decision.resets_at)}."
    if not remedy and run_id is not None:
        target = (decision.spent + decision.held + decision.doubt + decision.requested + 999_999) // 1_000_000
        # What is in doubt may turn out never to have been executed.
        first = "keyguard reconcile  or " if decision.doubt and decision.unit == "usd" else ""
        option = f" --run {_quoted(run_id)}"
        return f"{message} See: keyguard status{option}  To let it go on: {first}keyguard raise{option} --to {target}"
    return f"{message} To let it go on: {remedy or 'issue a key with a larger run_usd_cap'}."


def _whose(scope: str, key: VaultKey) -> tuple[str, str | None]:
    """Return whose budget a scope is, in words, and the run's or child's id that commands know it by; None = a key of its own."""
    before, mark, run_id = scope.partition("run:")
    if not mark or before not in {"", "refund:", "calls:", "emails:"}:
        return _run_words(key), key.run_id
    return (f"run {run_id}" if run_id == key.root_id else f"the child budget {run_id}"), run_id


def _who(key: VaultKey, operation: Operation) -> dict[str, str | None]:
    return {"key_id": key.key_id, "run_id": key.root_id, "operation": operation.name}


def _run_words(key: VaultKey) -> str:
    if key.parent is not None:
        return f"the child budget {key.run_id}"
    return f"run {key.run_id}" if key.run_id is not None else f"key {key.key_id}"


def _run_option(key: VaultKey) -> str:
    return f" --run {_quoted(key.run_id)}" if key.run_id is not None else ""


def _quoted(run_id: str | None) -> str:
    return shlex.quote(run_id or "RUN")


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
