"""What `keyguard doctor` looks at: clients and seams, doors that nobody watches, ledger, mode, secrets, prices. Prints nothing."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

from keyguard import context, patches
from keyguard.cli.figures import ledger_url, opened
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.model import TOKEN_PREFIX
from keyguard.settings import is_proxy, load_policy, load_settings, pinned_rates
from keyguard.vendors import brought_by, claimed_hosts, known_vendors, vendor_named

if TYPE_CHECKING:
    from keyguard.model import Policy
    from keyguard.patches import Patch
    from keyguard.settings import Settings
    from keyguard.vendors import Dated, Vendor

Level = Literal["ok", "note", "warning", "problem"]
# Ways to a vendor that no seam stands in; by distribution, "" = always there.
_UNWATCHED = {
    "urllib.request, http.client and sockets": "",
    "subprocesses (curl, the vendors' own CLIs)": "",
    "pycurl": "pycurl",
    "urllib3 used directly": "urllib3",
    "httpcore used directly": "httpcore",
    "an adapter of requests or a transport of httpx used by itself": "",
    "httplib2": "httplib2",
    "tornado's client": "tornado",
    "niquests": "niquests",
    "curl_cffi": "curl_cffi",
}
_FOR_TESTS = re.compile(r"(?<![a-z])(test|tests|testing|dev|staging|sandbox|ci)(?![a-z])", re.IGNORECASE)
_OLD_DAYS = 180
_OLD_RATES_DAYS = 31
_KEYS_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that was looked at.

    Attributes:
        level: `ok`; `note` (good to know); `warning` (look at it); `problem` (calls would be refused or not guarded).
        about: What it is: `client stripe`, `ledger`.
        text: How it is, and what to do about it.
    """

    level: Level
    about: str
    text: str


Findings: TypeAlias = Iterator[Finding]


def examine(policy_file: str | None, ledger: str | None, *, is_verified: bool, today: Callable[[], date] | None = None) -> list[Finding]:
    """Look at everything, in the order in which a call meets it."""
    day = today() if today is not None else datetime.now(timezone.utc).date()
    found = [*_clients(), *_unwatched(), *_vendors()]
    try:
        settings = load_settings()
        found.append(Finding("ok", "settings", _set_in_environment()))
        found += _stand_ins(settings)
    except ConfigurationError as error:
        return [*found, Finding("problem", "settings", str(error))]
    policy, said = _policy(policy_file)
    found += said
    found += _ledger(settings, ledger, is_verified=is_verified)
    if any(finding.level == "problem" for finding in found if finding.about == "vendors"):
        return found
    found += _secrets(_policies_for_tests(policy, settings, ledger))
    context.set_price_files(settings.price_files)
    return [*found, *_prices(day), *_rates(settings, day)]


# -- clients ---------------------------------------------------------------------------------------


def _clients() -> Findings:
    """Arm every seam of every installed client in this process, look, and disarm."""
    try:
        plugs = patches.known_patches()
    except ConfigurationError as error:
        yield Finding("problem", "clients", str(error))
        return
    try:
        for plug in plugs:
            yield _client(plug)
    finally:
        patches.disarm()


def _client(plug: Patch) -> Finding:
    about = f"client {plug.client}"
    try:
        installed = version(plug.distribution)
    except PackageNotFoundError:
        return Finding("ok", about, "not installed")
    if not plug.supports(installed):
        text = f"{installed} is not supported: install() fails beside it. Use {plug.distribution}{plug.supported}"
        return Finding("problem", about, text)
    names = [seam.name for seam in plug.seams]
    try:
        for module in dict.fromkeys(seam.module for seam in plug.seams):
            importlib.import_module(module)
        patches.arm()
    except (ImportError, ConfigurationError) as error:
        return Finding("problem", about, f"{installed}: its seams cannot be armed: {error}")
    live = patches.live_seams()
    dead = [name for name in names if not live[name]]
    if dead:
        return Finding("problem", about, f"{installed}: not in place after arming: {', '.join(dead)}")
    return Finding("ok", about, f"{installed}, seams {', '.join(names)}")


def _unwatched() -> Findings:
    doors = [name for name, distribution in _UNWATCHED.items() if not distribution or _is_installed(distribution)]
    yield Finding("note", "not watched", f"calls through {'; '.join(doors)} go out unguarded, as does a process that never calls install()")


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _vendors() -> Findings:
    """Name every vendor that is known here; what a program registers, only that program knows."""
    try:
        claimed_hosts()
        for name in known_vendors():
            brought = brought_by(name)
            text = f"{', '.join(sorted(vendor_named(name).hosts))}{f' (of {brought})' if brought else ''}"
            yield Finding("ok", f"vendor {name}", text)
    except ConfigurationError as error:
        yield Finding("problem", "vendors", f"install() fails: {error}")


def _stand_ins(settings: Settings) -> Findings:
    for host, name in settings.vendor_hosts.items():
        if name not in known_vendors():
            text = f"KEYGUARD_VENDOR_HOSTS lists {host} for {name!r}; a program must register that vendor, or its calls to it are refused"
            yield Finding("warning", f"vendor {name}", text)


# -- settings, policy, ledger ----------------------------------------------------------------------


def _set_in_environment() -> str:
    names = sorted(name for name in os.environ if name.startswith("KEYGUARD_"))
    return f"set: {', '.join(names)}" if names else "no KEYGUARD_* variable is set"


def _policy(path: str | None) -> tuple[Policy | None, list[Finding]]:
    if path is None:
        return None, []
    try:
        policy = load_policy(path, {})
    except ConfigurationError as error:
        return None, [Finding("problem", "policy", str(error))]
    caps = [field for field in ("run_usd_cap", "daily_usd_cap", "call_usd_cap") if getattr(policy, field) is not None]
    found = [Finding("ok", "policy", f"{policy.name or 'without a name'}, {', '.join(caps) or 'no dollar cap'}, mode {policy.mode}")]
    if policy.mode == "observe":
        found.append(Finding("warning", "mode", "observe: nothing is refused; mode = 'enforce' makes the caps hold"))
    if not caps:
        found.append(Finding("warning", "policy", "it has no dollar cap: set run_usd_cap"))
    return policy, found


def _proxy(settings: Settings, url: str) -> Findings:
    """Say whether a proxy answers, and whether keys can be asked for."""
    # It brings an HTTP client.
    from keyguard.backends.keybrake import api_of, check_url

    try:
        check_url(url)
        dialect = api_of(url.rstrip("/"), settings).dialect
    except KeyguardError as error:
        yield Finding("problem", "proxy", f"{url}: {error}")
        return
    words = "a keyguard proxy, which judges the caps of runs" if dialect == "keyguard" else "Keybrake's public form: caps are judged here"
    yield Finding("ok", "proxy", f"{url} answers; {words}")
    if settings.api_key is None:
        yield Finding("problem", "proxy", "KEYBRAKE_API_KEY is not set, so no key can be asked for")


def _ledger(settings: Settings, ledger: str | None, *, is_verified: bool) -> Findings:
    asked, url = ledger or settings.url, ledger_url(settings, ledger)
    if is_proxy(asked):
        yield from _proxy(settings, asked)
    missing = _missing_file(url)
    if missing is not None:
        yield missing
        return
    try:
        with opened(ledger) as found:
            runs = found.runs(limit=_KEYS_LOOKED_AT)
            yield Finding("ok", "ledger", f"{url}, durability {settings.durability}")
            modes = [key.policy.mode for key, _ in runs if key.state == "active"]
            observing = modes.count("observe")
            text = f"of {len(modes)} active keys {len(modes) - observing} enforce and {observing} only observe"
            yield Finding("warning" if observing else "ok", "mode", text + (": nothing of theirs is refused" if observing else ""))
            doubts = sum(usage.doubt > 0 for _, usage in runs)
            if doubts:
                yield Finding(
                    "note", "doubt", f"{doubts} keys have money in doubt: keyguard doubts lists it, keyguard reconcile asks the vendors"
                )
            if is_verified:
                wrong = found.verify()
                yield Finding("problem" if wrong else "ok", "books", "; ".join(wrong) or "the log alone gives every balance")
    except KeyguardError as error:
        yield Finding("problem", "ledger", f"{url}: {error}")


def _missing_file(url: str) -> Finding | None:
    """Say what becomes of a file that is not there yet: looking must not make it."""
    parts = urlsplit(url)
    if not parts.scheme.startswith("sqlite"):
        return None
    if not parts.path.strip("/"):
        return Finding("warning", "ledger", f"{url} is in memory: its caps end with the process, and no other process shares them")
    path = Path(parts.path[1:])
    if path.exists():
        return None
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if os.access(folder, os.W_OK):
        return Finding("ok", "ledger", f"{url} is made at the first install()")
    return Finding("problem", "ledger", f"{url} cannot be made: {folder} is not writable for this user")


# -- secrets ---------------------------------------------------------------------------------------


def _policies_for_tests(policy: Policy | None, settings: Settings, ledger: str | None) -> list[str]:
    """Return the names of policies that are meant for tests, by their name or label: the file's, and those of active keys."""
    found = [policy] if policy is not None else []
    if _missing_file(ledger_url(settings, ledger)) is None:
        try:
            with opened(ledger) as book:
                found += [key.policy for key, _ in book.runs(limit=_KEYS_LOOKED_AT) if key.state == "active"]
        except KeyguardError:
            # Said already, where the ledger was looked at.
            pass
    names = [(one.name or "", one.agent_run_label or "") for one in found]
    return sorted({name or label for name, label in names if _FOR_TESTS.search(name) or _FOR_TESTS.search(label)})


def _secrets(for_tests: list[str]) -> Findings:
    for name in known_vendors():
        vendor = vendor_named(name)
        secret = os.environ.get(vendor.secret_env, "") if vendor.secret_env else ""
        about = f"secret {name}"
        if not secret:
            yield Finding("ok", about, f"{vendor.secret_env or 'no variable'} is not set (needed only for calls that carry a vault token)")
        elif secret.startswith(TOKEN_PREFIX):
            yield Finding("problem", about, f"{vendor.secret_env} holds a vault token, where the vendor's real secret belongs")
        elif for_tests and not _live_prefixes(vendor):
            text = f"{vendor.secret_env} is set, and nobody can see from it whether it is a live one; these policies are for tests by"
            yield Finding("note", about, f"{text} their names: {', '.join(for_tests)}")
        elif for_tests and secret.startswith(_live_prefixes(vendor)):
            text = f"{vendor.secret_env} holds a live secret, and these policies are for tests by their names: {', '.join(for_tests)}"
            yield Finding("problem", about, f"{text}. Use a test secret beside them")
        else:
            yield Finding("ok", about, f"{vendor.secret_env} is set")


def _live_prefixes(vendor: Vendor) -> tuple[str, ...]:
    """Return how a vendor's live secrets begin; () where they look like those for tests (Twilio's tokens, Resend's keys)."""
    found: tuple[str, ...] = getattr(vendor, "live_prefixes", ())
    return found


# -- prices ----------------------------------------------------------------------------------------


def _prices(today: date) -> Findings:
    for name in known_vendors():
        dated: Dated | None = getattr(vendor_named(name), "prices", None)
        if dated is None:
            continue
        day, source = dated()
        age = (today - day).days
        is_old = age > _OLD_DAYS
        text = f"of {day} ({age} days old), {source}"
        yield Finding("warning" if is_old else "ok", f"prices {name}", text + ("; compare them with the vendor's" if is_old else ""))


def _rates(settings: Settings, today: date) -> Findings:
    try:
        rates = pinned_rates(settings, None)
    except ConfigurationError as error:
        yield Finding("problem", "exchange rates", str(error))
        return
    if rates is None:
        yield Finding(
            "ok",
            "exchange rates",
            "none pinned by KEYGUARD_FX_FILE: other currencies than USD are refused, unless install(fx=...) pins them",
        )
        return
    age = (today - rates.date).days
    text = f"of {rates.date} ({age} days old) for {', '.join(rates.usd_per_unit)}"
    yield Finding("warning" if age > _OLD_RATES_DAYS else "ok", "exchange rates", text)
