"""What the commands ask of a ledger, as plain JSON values with amounts in dollars. Prints nothing."""

from __future__ import annotations

import getpass
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyguard.errors import ConfigurationError
from keyguard.ledgers import open_ledger
from keyguard.model import Money, show, to_money, to_usd
from keyguard.settings import default_url, is_proxy, load_settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from keyguard.backends import Backend
    from keyguard.demo import Plan
    from keyguard.ledgers import Ledger
    from keyguard.model import Usage, VaultKey
    from keyguard.remote import RemoteKey
    from keyguard.settings import Settings


@contextmanager
def opened(url: str | None) -> Generator[Ledger]:
    """
    Open the ledger that is asked for: `--ledger`, else `KEYGUARD_URL`, else the user's default.

    Raises:
        ConfigurationError: there is no ledger at that place; looking must not make one.
    """
    settings = load_settings()
    wanted = ledger_url(settings, url)
    parts = urlsplit(wanted)
    if parts.scheme.startswith("sqlite"):
        _check_file(wanted, parts.path)
    ledger = open_ledger(wanted, durability=settings.durability)
    try:
        yield ledger
    finally:
        ledger.shut()


def ledger_url(settings: Settings, url: str | None) -> str:
    """Return where the ledger is that is asked for; of a proxy the one in front of it, which has the runs of this machine."""
    wanted = url or settings.url or default_url()
    return settings.front_ledger or default_url() if is_proxy(wanted) else wanted


def _check_file(url: str, path: str) -> None:
    if not path.strip("/"):
        raise ConfigurationError(f"{url} is in memory, so no other process can see it; name a file with --ledger sqlite:///path")
    # As in SQLAlchemy, `sqlite:///x` is relative and `sqlite:////x` absolute.
    if not Path(path[1:]).exists():
        raise ConfigurationError(f"there is no ledger at {url}; name another one with --ledger, or set KEYGUARD_URL")


def amount_of(option: str, text: str) -> Money:
    """
    Read dollars.

    Raises:
        ConfigurationError: not an amount; names the option.
    """
    try:
        return to_money(text)
    except ValueError as error:
        raise ConfigurationError(f"{option}: {error}") from None


def cap_of(option: str, text: str) -> Money:
    """
    Read dollars above zero.

    Raises:
        ConfigurationError: not such an amount; names the option.
    """
    amount = amount_of(option, text)
    if amount <= 0:
        raise ConfigurationError(f"{option}: expected an amount above 0 US dollars; to allow nothing, revoke the key")
    return amount


def plan(cap: str, customers: int, amount: str, *, guarded: bool) -> Plan:
    """Read the demo's options."""
    from keyguard.demo import Plan

    return Plan(cap_of("--cap", cap), customers, cap_of("--amount", amount), guarded)


def one_target(**given: str | None) -> tuple[str, str]:
    """
    Return the one option that was given, with its value.

    Raises:
        ConfigurationError: none, or more than one.
    """
    found = [(name, value) for name, value in given.items() if value]
    if len(found) != 1:
        raise ConfigurationError(f"give exactly one of {', '.join('--' + name for name in given)}")
    return found[0]


def rows(ledger: Ledger, *, run: str | None, limit: int) -> list[dict[str, Any]]:
    """
    Return a row for each run, newest first, and behind it one for each child's budget in it; or those of the one that was asked for.

    Raises:
        ConfigurationError: the run is not in this ledger.
    """
    found = ledger.runs(limit, run_id=run)
    if run is not None and not found:
        raise _no_run(ledger, run)
    return [row(key, usage, ledger.now()) for key, usage in found]


def row(key: VaultKey, usage: Usage, now: float) -> dict[str, Any]:
    """Return one key's figures."""
    expired = key.expires_at is not None and key.expires_at <= now
    return {
        "run_id": key.run_id,
        "key_id": key.key_id,
        # Whose budget a child's lies in; what is spent of it is spent of that one too.
        "parent": None if key.parent is None else key.parent.run_id or key.parent.key_id,
        "depth": len(key.chain) - 1,
        "policy": key.policy_name,
        "mode": key.policy.mode,
        "state": "expired" if expired and key.state == "active" else key.state,
        "expires_at": None
        if key.expires_at is None
        else datetime.fromtimestamp(key.expires_at, timezone.utc).isoformat(timespec="seconds"),
        "cap_usd": _usd(usage.cap),
        "spent_usd": _usd(usage.spent),
        "held_usd": _usd(usage.held),
        "in_doubt_usd": _usd(usage.doubt),
        "remaining_usd": _usd(usage.remaining),
        "refunded_usd": _usd(usage.refunded),
        "overrun_usd": _usd(usage.overrun),
        # The vendor will charge again by itself after these, outside of the cap.
        "recurring": usage.recurring,
        # A ledger counts calls only where they are limited; elsewhere 0 would be a false figure.
        "calls": None if key.policy.max_calls is None else usage.calls,
        "emails": None if key.policy.max_emails is None else usage.emails,
        "open_intents": [
            {"object_id": intent.object_id, "held_usd": _usd(intent.held), "operation": intent.operation} for intent in usage.intents
        ],
    }


def revoke(ledger: Ledger, target: tuple[str, str]) -> int:
    """
    Revoke by run, key or policy name, here and at the proxies that calls go through; returns how many keys that is.

    Raises:
        ConfigurationError: no key has that name in this ledger; no management secret of the proxy, where here it is revoked already.
        ProxyUnavailable: as much.
    """
    kind, name = target
    names: dict[str, Any] = {"policy" if kind == "policy" else f"{kind}_id": name}
    count = ledger.revoke(**names, by=person())
    if not count:
        raise ConfigurationError(f"no key of {kind} {name!r} in {ledger.url}; `keyguard status` lists what there is")
    if ledger.remote_keys(**names):
        # It brings an HTTP client.
        from keyguard.backends.keybrake import revoke_at_proxies

        revoke_at_proxies(ledger, load_settings(), **names, by=person())
    return count


def _proxies(remotes: Iterable[RemoteKey]) -> list[str]:
    """Return the proxies by which calls go."""
    return list(dict.fromkeys(remote.proxy for remote in remotes))


def proxied(proxy: str, ledger: Ledger) -> Backend:
    """Return the backend of a proxy with a ledger in front of it."""
    # It brings an HTTP client.
    from keyguard.backends.keybrake import open_proxy

    return open_proxy(proxy, ledger, load_settings())


def raise_day_cap(ledger: Ledger, policy: str, cap: Money) -> dict[str, Any]:
    """
    Set what a policy's runs may spend in a day, by a human's decision.

    Raises:
        ConfigurationError: no run of that name in this ledger has a cap of the day, or a proxy counts their days.
    """
    judging = _proxies(one for one in ledger.remote_keys(policy=policy) if one.judges)
    if judging:
        raise ConfigurationError(
            f"the days of policy {policy!r} are counted by the proxy {judging[0]}: PATCH one of its keys there, with daily_usd_cap"
        )
    before = ledger.usage(f"policy:{policy}")
    ledger.raise_day_cap(policy, cap, by=person())
    return {"policy": policy, "cap_usd": _usd(cap), "before_usd": None if before is None else _usd(before.cap), "by": person()}


def raise_cap(ledger: Ledger, run: str, cap: Money) -> dict[str, Any]:
    """
    Set a run's cap by a human's decision.

    Raises:
        ConfigurationError: the run is not in this ledger.
    """
    before = ledger.key(run_id=run)
    if before is None:
        raise _no_run(ledger, run)
    judging = _proxies(one for one in ledger.remote_keys(run_id=run) if one.judges)
    key = (proxied(judging[0], ledger) if judging else ledger).raise_cap(run, cap, by=person())
    outer = [one.policy.run_usd_cap for one in key.chain[1:] if one.policy.run_usd_cap is not None]
    return {
        "run_id": run,
        "cap_usd": _usd(key.policy.run_usd_cap),
        "before_usd": _usd(before.policy.run_usd_cap),
        # Of a child: the least cap of what its budget lies in, where that is less.
        "held_to_usd": _usd(min(outer)) if outer and min(outer) < cap else None,
        "by": person(),
    }


def person() -> str:
    """Return who types, for the audit."""
    try:
        return getpass.getuser()
    # A container's user may have neither a name nor an entry in the password file.
    except (OSError, KeyError, ImportError):
        return "unknown"


def dollars(value: float | None) -> str:
    """Write a figure of these rows for people."""
    return "-" if value is None else show(to_money(value))


def _usd(amount: Money | None) -> float | None:
    return None if amount is None else to_usd(amount)


def _no_run(ledger: Ledger, run: str) -> ConfigurationError:
    return ConfigurationError(f"no run {run!r} in {ledger.url}; `keyguard status` lists what there is")
