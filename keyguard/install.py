"""The public verbs, and (with context.py) the only module state: what is armed, for whom, on which backend."""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import wrapt

from keyguard import context, patches, vendors
from keyguard.backends._ledgered import LedgerBackend
from keyguard.drivers import whole
from keyguard.errors import BackendError, ConfigurationError, Refused, UnknownKey
from keyguard.handler import CallHandler
from keyguard.inheriting import is_same
from keyguard.interpreter import check_interpreter
from keyguard.model import Child, show
from keyguard.payer import Armed, finder_for, identity, only_observes, payer_of, payer_of_run
from keyguard.settings import load_policy, load_settings, pinned_rates, put_in_force
from keyguard.threads import copy_contexts, leave_contexts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keyguard.backends import Backend
    from keyguard.fx import Rates
    from keyguard.ledgers import Ledger
    from keyguard.model import Policy, Usage, VaultKey

_logger = logging.getLogger("keyguard")
_OLD_RATES_DAYS = 31


_armed = Armed()


def _renew_locks() -> None:
    """Give a forked child locks of its own: the parent's may be held by a thread that the child does not have."""
    _armed.lock = threading.RLock()
    _armed.slots.renew_lock()
    context.renew_lock()
    patches.renew_lock()


os.register_at_fork(after_in_child=_renew_locks)


class Installation:
    """
    A key at work: its figures, its end, and which seams guard this process now.

    As a context manager it closes the key at the end of the block.
    """

    def __init__(self, key: VaultKey, backend: Backend) -> None:
        self._key_id = key.key_id
        self._first = key
        self._backend = backend

    def __repr__(self) -> str:
        return f"<Installation key={self._key_id} run={self._first.run_id} on {self._backend.name}>"

    @property
    def key(self) -> VaultKey:
        """The key as it is now: policy in force, expiry, state."""
        return self._backend.find(key_id=self._key_id, fresh=True) or self._first

    @property
    def seams(self) -> dict[str, bool]:
        """Which seams are in place now, looked up on each read: name → live."""
        return patches.live_seams()

    def usage(self) -> Usage:
        """Return cap, spent, held, in doubt, remaining (micro-USD) and open intents."""
        found = self._backend.usage(self._first.budget)
        if found is None:
            raise UnknownKey(f"key {self._key_id} is not in {self._backend.url} any more")
        return found

    def revoke(self) -> None:
        """Revoke the key: once this returns, no process can reserve with it; calls on the wire settle."""
        self._backend.revoke(key_id=self._key_id, by=_person())

    def close(self) -> None:
        """End the key's life; the seams stay armed, so later calls of the run are refused, not unguarded."""
        self._backend.revoke(key_id=self._key_id, state="closed", by=_person())

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def install(
    url: str | None = None,
    *,
    policy: str | os.PathLike[str] | Mapping[str, Any] | Policy | None = None,
    fx: str | os.PathLike[str] | Mapping[str, Any] | Rates | None = None,
    **policy_fields: Any,
) -> Installation:
    """
    Arm the seams and issue, or find again, the current run's key.

    Args:
        url: The backend: None = `KEYGUARD_URL`, else the user's default SQLite file; `sqlite:///…`.
        policy: A Policy, a mapping, or the path of a TOML file with the same fields.
        fx: A dated table of exchange rates (`keyguard.fx.Rates`, or its fields, or a file): None = `KEYGUARD_FX_FILE`, else what this
            process has pinned, else only US dollars are priced. It holds for the whole process.
        **policy_fields: Single fields of `Policy`; they win over `policy`.

    Returns:
        The run's installation. In a subflow with arguments of its own it is the subflow's: a budget within its caller's, which can only
        be narrower, and everything that the subflow and what it calls spend is charged to both. Outside any run it is the process's own,
        and its policy is the default for each run that appears.

    Raises:
        ConfigurationError: unknown or bad field, rates, URL scheme or client version; a subflow whose root run has no key, or is in
            another ledger; a subinterpreter.
        LedgerUnavailable: the ledger cannot be opened.
    """
    check_interpreter()
    asked = load_policy(policy, policy_fields)
    with _armed.lock:
        _armed.settings = load_settings()
        _pin(pinned_rates(_armed.settings, fx))
        _watch_prefect()
    # An orchestrator may have to be asked, before and after: not while other threads wait for the lock.
    run = context.resolved_run()
    with _armed.lock:
        run = run or _run_of_environment()
        backend = _armed.open(url) if run is None or run.is_root else _backend_of_root(run, url)
        _arm()
        installed = _install_process(backend, asked) if run is None else _install_run(backend, asked, run)
    _tell_prefect()
    return installed


def _backend_of_root(run: context.RunRef, url: str | None) -> Backend:
    """Return the backend of a subflow's root run, where that was met in this process; else open what is asked for."""
    known = _armed.runs.get(run.run_id or "")
    if known is None:
        return _armed.open(url)
    backend = _armed.backends[known[0]]
    if url is not None and _armed.open(url) is not backend:
        raise ConfigurationError(
            f"install() in a subflow names the ledger {url}, but its run ({run.run_id}) is in {backend.url}; leave it out"
        )
    return backend


def _pin(rates: Rates | None) -> None:
    """Pin exchange rates; without new ones the process keeps what it has."""
    if rates is None or rates == context.rates():
        return
    context.set_rates(rates)
    days = (datetime.now(timezone.utc).date() - rates.date).days
    level = logging.WARNING if days > _OLD_RATES_DAYS else logging.INFO
    _logger.log(
        level,
        "exchange rates of %s (%d days old, haircut %s) are pinned for %s",
        rates.date,
        days,
        rates.haircut,
        ", ".join(rates.usd_per_unit),
    )


def _install_run(backend: Backend, asked: Policy, run: context.RunRef) -> Installation:
    if run.run_id is None:
        raise ConfigurationError("install() was called inside a run whose root is not known in this process; call it in the root flow")
    if not run.is_root:
        return _install_child(backend, asked, run)
    return _issued(backend, _named(asked, run), run.run_id)


def _install_child(backend: Backend, asked: Policy, run: context.RunRef) -> Installation:
    """Make, or find again, the budget of a subflow within its caller's; without arguments of its own it shares that one."""
    place = context.current_place()
    above = run.budget if place is None else place.above
    try:
        backend, outer = payer_of_run(_armed, replace(run, budget=above))
    except Refused as error:
        raise ConfigurationError(f"install() in a subflow makes a budget within that of its root run. {error}") from error
    if place is None:
        return _shared(backend, asked, outer, run)
    key, is_new = _armed.issue_child(backend, asked, Child(outer.key_id, place.subflow, _named(asked, run).name or "default"))
    if key.key_id != outer.key_id:
        assert key.run_id is not None
        place.pays_from(key.run_id)
    if is_new:
        _announce(key, backend)
    return Installation(key, backend)


def _shared(backend: Backend, asked: Policy, outer: VaultKey, run: context.RunRef) -> Installation:
    """Share the outer budget, where nothing else is asked: a subflow that nobody can name has none that could be found again."""
    earlier = _armed.asked.get(run.run_id or "")
    if asked.model_fields_set and not (earlier is not None and is_same(asked, earlier)):
        raise ConfigurationError(
            f"install() in a subflow has other arguments than its root run's ({run.run_id}), and {run.engine} cannot say here which "
            "subflow it is, so that its budget could be found again. Call it in the subflow's own body, or leave the arguments out."
        )
    return Installation(outer, backend)


def _install_process(backend: Backend, asked: Policy) -> Installation:
    asked = _named(asked, None)
    _armed.default = (backend.url, asked)
    if _armed.process_run is None:
        _armed.process_run = f"process-{secrets.token_hex(16)}"
        _logger.warning(
            "keyguard was installed outside any run: this process has a budget of its own, and a restart gets a fresh cap. "
            "Name the run (KEYGUARD_RUN_ID or `with keyguard.run(id=...)`) to keep one cap over restarts."
        )
    return _issued(backend, asked, _armed.process_run)


def _issued(backend: Backend, asked: Policy, run_id: str) -> Installation:
    key, is_new = _armed.issue(backend, asked, run_id)
    if is_new:
        _announce(key, backend)
    return Installation(key, backend)


def _announce(key: VaultKey, backend: Backend) -> None:
    """Write the one start line: mode, cap, run, ledger, expiry, seams."""
    policy = key.policy
    caps = [f"{show(cap)} {word}" for cap, word in ((policy.run_usd_cap, "a run"), (policy.daily_usd_cap, "a day")) if cap is not None]
    live = [name for name, is_live in patches.live_seams().items() if is_live]
    level = logging.INFO if policy.mode == "enforce" else logging.WARNING
    _logger.log(
        level, "keyguard %s: cap %s, run %s, ledger %s, expires %s, seams %s",
        "enforces" if policy.mode == "enforce" else "OBSERVES ONLY (nothing is refused)", " and ".join(caps) or "none",
        key.run_id, backend.url, f"in {policy.expires_in:g} s" if policy.expires_in else "never",
        ", ".join(live) or "none yet (armed when a client is imported)",
    )  # fmt: skip


def _named(asked: Policy, run: context.RunRef | None) -> Policy:
    """Fill in the policy's name: given, else the flow's, else the label before "/"."""
    if asked.name is not None:
        return asked
    label = (asked.agent_run_label or "").partition("/")[0]
    name = (run.flow_name if run is not None else "") or label or "default"
    return asked.model_copy(update={"name": name})


def _arm() -> None:
    # Now, and not at the first request of the process: a plug that cannot be loaded is found where it can be mended.
    vendors.claimed_hosts()
    _warn_of_unknown(_armed.settings.vendor_hosts)
    put_in_force(_armed.settings)
    patches.arm()
    if _armed.settings.copy_context:
        copy_contexts()
    if context.handler() is None:
        context.set_handler(CallHandler(partial(finder_for, _armed), partial(identity, _armed), partial(only_observes, _armed)))


def _warn_of_unknown(listed: Mapping[str, str]) -> None:
    for host, name in listed.items():
        if name not in vendors.known_vendors():
            _logger.warning(
                "KEYGUARD_VENDOR_HOSTS lists %s for the vendor %r, which nobody has made known (known: %s). Calls to it are refused until "
                "keyguard.vendors.register(%r, ...) is called.",
                host, name, ", ".join(vendors.known_vendors()), name,
            )  # fmt: skip


def _watch_prefect() -> None:
    """Ask Prefect for runs as soon as it is there; never import it for the user."""
    if "prefect" in sys.modules:
        _activate_prefect(None)
    else:
        wrapt.register_post_import_hook(_activate_prefect, "prefect")


def _activate_prefect(_module: Any) -> None:
    from keyguard import prefect

    prefect.activate()
    prefect.mark_root()


def _leave_prefect() -> None:
    if "keyguard.prefect" in sys.modules:
        from keyguard import prefect

        prefect.deactivate()


def _tell_prefect() -> None:
    """Let what Prefect sends to other processes say where the current run's key is."""
    if "keyguard.prefect" in sys.modules and "prefect" in sys.modules:
        from keyguard import prefect

        prefect.tell(paying_ledger())


def _run_of_environment() -> context.RunRef | None:
    run_id = _armed.settings.run_id
    return context.RunRef(run_id, "env") if run_id else None


def ledgers_in_use() -> tuple[Ledger, ...]:
    """Return the ledgers by which this process decides, with what ended calls left in them closed; none while nothing is armed."""
    backends = [backend for backend in dict.fromkeys(_armed.backends.values()) if isinstance(backend, LedgerBackend)]
    for backend in backends:
        backend.sweep(always=True)
    return tuple(backend.ledger for backend in backends)


# -- for processes in which nobody has called install() -----------------------------------------------


def stand_guard() -> None:
    """Arm the seams without giving anybody a budget: from now on a call is paid by whoever is known to pay for it, or refused."""
    check_interpreter()
    with _armed.lock:
        if context.handler() is None:
            _armed.settings = load_settings()
            _watch_prefect()
            _arm()


def require_payer() -> None:
    """
    Make sure that what the calling code does now is guarded: arm this process by what came along with the run, or by its environment.

    Raises:
        Refused: nobody pays for the calling code here; the process is then as it was. BackendError: its ledger cannot be asked.
            Neither where everything armed only observes.
    """
    is_armed = context.handler() is not None
    if not is_armed:
        check_interpreter()
        context.check_may_block()
        with _armed.lock:
            _armed.settings = load_settings()
            _watch_prefect()
            if _armed.settings.url or _armed.settings.key or _armed.settings.run_id:
                _armed.open(None)
    try:
        payer_of(_armed, context.resolved_run())
    except (Refused, BackendError) as error:
        handler = context.handler()
        if handler is None or not handler.tolerates(error):
            raise
    if not is_armed:
        with _armed.lock:
            _arm()


async def arequire_payer() -> None:
    """Do what `require_payer` does, in a worker thread where it has to wait."""
    try:
        with context.without_blocking():
            return require_payer()
    except context.WouldBlock:
        await whole(require_payer)


def has_default() -> bool:
    """Say whether runs that appear get a key under the process's default policy."""
    return _armed.default is not None


def paying_ledger() -> str:
    """Return the URL of the ledger on which the current run's key is, issued now where the process's default policy holds; "" = none."""
    run = context.current_run()
    if run is None:
        return ""
    try:
        return payer_of(_armed, run)[0].url
    except (Refused, BackendError):
        return ""


# -- other verbs -----------------------------------------------------------------------------------


def uninstall() -> None:
    """Disarm every seam and forget what was armed; ledgers keep everything."""
    with _armed.lock:
        context.set_handler(None)
        context.end_stops()
        context.set_rates(None)
        context.set_unit_prices({})
        context.set_price_files({})
        patches.disarm()
        leave_contexts()
        _leave_prefect()
        for backend in dict.fromkeys(_armed.backends.values()):
            backend.shut()
        context.forget_proxies()
        _armed.forget()


def issue(
    url: str | None = None, *, policy: str | os.PathLike[str] | Mapping[str, Any] | Policy | None = None, **policy_fields: Any
) -> VaultKey:
    """
    Issue a key with a budget of its own, bound to no run, for `use()` or as a client's credential.

    Raises:
        ConfigurationError, LedgerUnavailable: as `install()`.
    """
    check_interpreter()
    asked = _named(load_policy(policy, policy_fields), None)
    with _armed.lock:
        _armed.settings = load_settings()
        _pin(pinned_rates(_armed.settings, None))
        backend = _armed.open(url)
        key, _ = backend.issue(asked, None)
        _arm()
    return key


@contextmanager
def use(key: VaultKey) -> Iterator[VaultKey]:
    """Let a key pay for the block's calls; refused if the key is bound to a run and another run is current."""
    with context.using(key) as used:
        yield used


@contextmanager
def run(id: str, *, name: str = "", replay: bool = False) -> Iterator[context.RunRef]:  # noqa: A002 -- the public keyword is `id`
    """
    Name the run that the block belongs to, outside an orchestrator.

    Args:
        id: 1 to 200 characters on one line; the same id is the same run, with the same budget.
        name: For people.
        replay: Each entry of the block makes the same charges over again, as a retry does: the n-th identical request of an entry is the
            n-th of every other, has the same derived Idempotency-Key and is counted once. Without it every request is a charge of its own.

    Raises:
        ConfigurationError: an id of another form.
    """
    if not id or "\n" in id or len(id) > 200:
        raise ConfigurationError(f"expected a run id of 1 to 200 characters on one line, got {id!r}")
    execution = secrets.token_hex(16) if replay else ""
    with context.named_run(context.RunRef(id, "keyguard", name=name, execution=execution)) as named:
        yield named


@contextmanager
def idempotency_scope(name: str) -> Iterator[None]:
    """
    Name the charges of the block, so that each is made once in the run however often the block is entered.

    >>> with keyguard.idempotency_scope("order-42"):
    ...     pass  # the n-th call of each endpoint in here is the same charge at every entry

    A call in it whose parameters differ from those of the first entry is refused as `IdentityConflict`. Where nothing names the run
    (an orchestrator, `keyguard.run(id=...)`), the scope is as long as the process.

    Args:
        name: 1 to 200 characters on one line: an order's number, not a person's.

    Raises:
        ConfigurationError: a name of another form.
    """
    if not name or "\n" in name or len(name) > 200:
        raise ConfigurationError(f"expected a name of 1 to 200 characters on one line for an idempotency scope, got {name!r}")
    with context.scoped(context.IdempotencyScope(name, secrets.token_hex(16))):
        yield


def revoke(key: VaultKey | str | Installation, *, by: str = "") -> int:
    """
    Revoke a key (VaultKey, Installation) or every key of a run (its id).

    Returns:
        How many keys it was. When it returns, no process can reserve with them.

    Raises:
        UnknownKey: nobody here knows it.
    """
    run_id = key if isinstance(key, str) else None
    key_id = None if isinstance(key, str) else (key.key if isinstance(key, Installation) else key).key_id
    with _armed.lock:
        backends = _armed.in_use()
    count = sum(backend.revoke(run_id=run_id, key_id=key_id, by=by or _person()) for backend in backends)
    if not count:
        raise UnknownKey(f"no key of {run_id or key_id!r} in {', '.join(backend.url for backend in backends)}")
    return count


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # No login name for this uid (common in containers).
        return f"uid {os.getuid()}"
