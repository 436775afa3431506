"""Whose key pays for a call, in the order of DESIGN §2. No module state: everything is asked of an `Armed`."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keyguard import context
from keyguard.backends.local import LocalBackend
from keyguard.errors import BackendError, ConfigurationError, EndpointNotAllowed, Refused, Unattributed, UnknownKey, told_while_observing
from keyguard.identity import canonical, fingerprint, principal_of, request_in_scope, request_of, request_of_key
from keyguard.joining import joined
from keyguard.ledgers import open_ledger
from keyguard.model import TOKEN_PREFIX, Identity
from keyguard.settings import Settings, default_url, is_proxy
from keyguard.slots import Slot, Slots
from keyguard.vendors import claimant, vendor_named

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.backends import Backend
    from keyguard.guard import Finder
    from keyguard.model import Child, Policy, VaultKey
    from keyguard.patches import Outgoing

_logger = logging.getLogger("keyguard")
# What proxies' vault keys begin with: ours and the two forms that Keybrake's pages show.
_VAULT_KEYS = (TOKEN_PREFIX, "vk_")


@dataclass(slots=True)
class Armed:
    """
    Everything that lives as long as keyguard is armed.

    Attributes:
        backends: By URL; one handle each per process.
        runs: run id → (URL, key id) of each run, and each child's budget, armed or met in this process.
        asked: run id → the arguments of its last install here, for subflows.
        default: (URL, policy) for runs that appear and for the process itself.
        process_run: The run id of the process itself, once it has a default policy.
        secrets: Gives the real secret of a vendor, or raises; without it secrets are in the environment.
    """

    backends: dict[str, Backend] = field(default_factory=dict[str, "Backend"])
    runs: dict[str, tuple[str, str]] = field(default_factory=dict[str, "tuple[str, str]"])
    asked: dict[str, Policy] = field(default_factory=dict[str, "Policy"])
    default: tuple[str, Policy] | None = None
    process_run: str | None = None
    lock: Any = field(default_factory=threading.RLock)
    settings: Settings = field(default_factory=Settings.model_construct)
    slots: Slots = field(default_factory=Slots)
    secrets: Callable[[str], str] | None = None

    def open(self, url: str | None) -> Backend:
        """Return the backend of a URL, opened once."""
        wanted = url or self.settings.url or default_url()
        if wanted not in self.backends:
            context.check_may_block()
            backend = self._opened(wanted)
            self.backends[wanted] = self.backends[backend.url] = backend
        return self.backends[wanted]

    def _opened(self, url: str) -> Backend:
        durability = self.settings.durability
        if not is_proxy(url):
            return LocalBackend(open_ledger(url, durability=durability))
        # It brings an HTTP client.
        from keyguard.backends.keybrake import open_proxy

        return open_proxy(url, open_ledger(self.settings.front_ledger or default_url(), durability=durability), self.settings)

    def forget(self) -> None:
        """Put every field back to its default, in place; the lock stays (its holder calls this)."""
        self.backends, self.runs, self.asked, self.default, self.process_run = {}, {}, {}, None, None
        self.settings, self.slots = Settings.model_construct(), Slots()

    def in_use(self) -> tuple[Backend, ...]:
        """Return every open backend, or the default one."""
        return tuple(dict.fromkeys(self.backends.values())) or (self.open(None),)

    def issue(self, backend: Backend, asked: Policy, run_id: str) -> tuple[VaultKey, bool]:
        """Issue a run's key, or find it again; the second value says whether this process met the run first here."""
        key, warnings = backend.issue(asked, run_id)
        self.asked[run_id] = asked
        return key, self._met(backend, key, warnings)

    def issue_child(self, backend: Backend, asked: Policy, child: Child) -> tuple[VaultKey, bool]:
        """Issue the key of a child's budget, or find it again; as `issue`."""
        key, warnings = backend.issue(asked, None, child)
        return key, self._met(backend, key, warnings)

    def _met(self, backend: Backend, key: VaultKey, warnings: tuple[str, ...]) -> bool:
        assert key.run_id is not None
        is_new = key.run_id not in self.runs
        self.runs[key.run_id] = (backend.url, key.key_id)
        for warning in warnings:
            _logger.warning("%s", warning)
        return is_new


def finder_for(armed: Armed, outgoing: Outgoing) -> Finder:
    """Make the function that finds a call's payer; the ticket learns backend, key, run and secret."""

    def find(ticket: context.Ticket, fresh: bool) -> VaultKey | None:  # noqa: FBT001 -- the Finder signature
        ticket.run, is_theirs = context.current_run(), _is_of_proxy(armed, outgoing)
        credential = "" if is_theirs else outgoing.credential
        try:
            ticket.backend, ticket.key = _payer(armed, credential, ticket.run, fresh=fresh)
            ticket.route = ticket.backend.route(ticket.key, outgoing.call, is_theirs=is_theirs)
        except (Refused, BackendError) as error:
            ticket.refusal = error
            if not only_observes(armed) or credential.startswith(TOKEN_PREFIX):
                raise
            _logger.warning("observe mode: enforcing would have stopped this call: %s", told_while_observing(error))
            return None
        if ticket.route is not None:
            # Whose the secret is, which the proxy keeps, is said by its usual name: so a charge is called as it would be without a proxy.
            ticket.principal, ticket.secret = principal_of(f"env:{_secret_name(outgoing, ticket.key)}"), ticket.route.token
        elif credential.startswith(TOKEN_PREFIX):
            # By the variable's name, so that a new secret of the same account is the same owner.
            ticket.principal = principal_of(f"env:{_secret_name(outgoing, ticket.key)}")
            ticket.secret = _secret(armed, outgoing, ticket.key)
        elif outgoing.call.is_write:
            ticket.principal = principal_of(outgoing.credential)
        return ticket.key

    return find


def _is_of_proxy(armed: Armed, outgoing: Outgoing) -> bool:
    """Say whether a call carries a vault key that a proxy in use has issued itself: its user has pointed an SDK there by hand."""
    if outgoing.call.host not in context.proxies() or not outgoing.credential.startswith(_VAULT_KEYS):
        return False
    return all(backend.find(token=outgoing.credential) is None for backend in armed.in_use())


def _payer(armed: Armed, credential: str, run: context.RunRef | None, *, fresh: bool) -> tuple[Backend, VaultKey]:
    """Say whose key pays, in the order of DESIGN §2; where nobody can say, refuse."""
    if credential.startswith(TOKEN_PREFIX):
        return _travelling(armed, _by_token(armed, credential, fresh=fresh), run, fresh=fresh)
    in_use = context.key_in_use()
    if in_use is not None:
        return _travelling(armed, _by_token(armed, in_use.token, fresh=fresh), run, fresh=fresh)
    if run is not None:
        return _of_run(armed, run, fresh=fresh)
    settings = armed.settings
    if settings.key is not None:
        return _by_token(armed, settings.key.get_secret_value(), fresh=fresh)
    if settings.run_id:
        return _of_run(armed, context.RunRef(settings.run_id, "env"), fresh=fresh)
    return _of_process(armed, fresh=fresh)


def _by_token(armed: Armed, token: str, *, fresh: bool) -> tuple[Backend, VaultKey]:
    for backend in armed.in_use():
        key = backend.find(token=token, fresh=fresh)
        if key is not None:
            return backend, key
    raise UnknownKey("the vault token of this call was not issued by any ledger in use here; nothing was sent. Is KEYGUARD_URL the same?")


def _travelling(armed: Armed, found: tuple[Backend, VaultKey], run: context.RunRef | None, *, fresh: bool) -> tuple[Backend, VaultKey]:
    """Refuse a key that is bound to a run inside another one: `stripe.api_key` is global, two runs would swap payers."""
    _, key = found
    if key.run_id is None or run is None:
        return found
    if run.run_id != key.root_id:
        raise Unattributed(
            f"key {key.key_id} belongs to run {key.run_id}, but this call is made in run {run.run_id}; nothing was sent. "
            "A key that several runs may use is made with keyguard.issue() outside any run.",
            key_id=key.key_id, run_id=run.run_id,
        )  # fmt: skip
    return found if not run.budget or run.budget == key.run_id else _innermost(found, _of_run(armed, run, fresh=fresh), run)


def _innermost(used: tuple[Backend, VaultKey], current: tuple[Backend, VaultKey], run: context.RunRef) -> tuple[Backend, VaultKey]:
    """Of a key that is used in a child of its run, and the child's own, let the one pay that lies in the other's budget."""
    for inner, outer in ((current, used), (used, current)):
        if outer[1].key_id in {key.key_id for key in inner[1].chain}:
            return inner
    key = used[1]
    raise Unattributed(
        f"key {key.key_id} belongs to the child budget {key.run_id}, but this call is made in {run.budget}; nothing was sent.",
        key_id=key.key_id, run_id=run.run_id,
    )  # fmt: skip


def _of_run(armed: Armed, run: context.RunRef, *, fresh: bool) -> tuple[Backend, VaultKey]:
    """Find the key of a run that a provider named: its own, one in the ledger, or one from the process's default policy."""
    if run.run_id is None:
        raise Unattributed(
            f"this call runs in {run.name or 'a run'} of {run.engine}, whose root run is not known in this process; nothing was sent. "
            "Call keyguard.install() in the root flow."
        )
    payer = run.budget or run.run_id
    known = armed.runs.get(payer)
    if known is not None:
        backend = armed.backends[known[0]]
        key = backend.find(key_id=known[1], fresh=fresh)
        if key is None:
            raise UnknownKey(f"key {known[1]} of run {payer} is not in {known[0]} any more; nothing was sent")
        return backend, key
    for backend in dict.fromkeys(armed.backends.values()):
        key = backend.find(run_id=payer)
        if key is not None:
            armed.runs.setdefault(payer, (backend.url, key.key_id))
            armed.asked.setdefault(payer, key.policy)
            return backend, key
    if run.ledger:
        return joined(armed, run, payer)
    if run.budget:
        # Never the run's own instead, which would pay past what its child may spend.
        raise UnknownKey(
            f"the child budget {run.budget} of run {run.run_id} is in no ledger in use here; nothing was sent. Is KEYGUARD_URL the same?"
        )
    return _from_default(armed, run, run.run_id)


def payer_of(armed: Armed, run: context.RunRef | None) -> tuple[Backend, VaultKey]:
    """
    Say who pays for a call that the calling code might make now with the vendor's own credentials.

    Raises:
        Refused: nobody does. BackendError: the ledger cannot be asked.
    """
    return _payer(armed, "", run, fresh=False)


def payer_of_run(armed: Armed, run: context.RunRef) -> tuple[Backend, VaultKey]:
    """
    Return whose key pays in a run, issued now where the process's default policy holds for it.

    Raises:
        Refused: nobody's.
    """
    return _of_run(armed, run, fresh=True)


def _from_default(armed: Armed, run: context.RunRef, run_id: str) -> tuple[Backend, VaultKey]:
    context.check_may_block()
    with armed.lock:
        if armed.default is None:
            raise Unattributed(
                f"run {run_id}{f' ({run.flow_name})' if run.flow_name else ''} has no key: it never called keyguard.install(), and this "
                "process has no default policy. Nothing was sent. Call keyguard.install(...) at the start of the flow.",
                run_id=run_id,
            )
        url, asked = armed.default
        own = asked.model_copy(update={"name": run.flow_name}) if run.flow_name and asked.name == "default" else asked
        armed.issue(armed.backends[url], own, run_id)
    return _of_run(armed, run, fresh=False)


def _of_process(armed: Armed, *, fresh: bool) -> tuple[Backend, VaultKey]:
    """Find who pays where no run is known: the only run ever armed here, else the process itself."""
    others = [run_id for run_id in armed.runs if run_id != armed.process_run]
    is_main = threading.current_thread() is threading.main_thread()
    if len(others) == 1 and not (is_main and armed.process_run is not None):
        # The main thread outside a run is the process's own code, where the process has a budget of its own.
        return _of_run(armed, context.RunRef(others[0], "process"), fresh=fresh)
    if armed.process_run is not None:
        return _of_run(armed, context.RunRef(armed.process_run, "process"), fresh=fresh)
    raise Unattributed(
        f"this call belongs to no run ({len(others)} runs and children's budgets were met in this process), so nobody can pay "
        "for it; nothing was sent. "
        "In a thread or executor, carry the run with keyguard.wrap(fn); elsewhere use `with keyguard.run(id=...)` or keyguard.use(key)."
    )


def only_observes(armed: Armed) -> bool:
    """Say whether everything armed in this process only observes."""
    policies = [*armed.asked.values(), *([armed.default[1]] if armed.default else [])]
    return bool(policies) and all(policy.mode == "observe" for policy in policies)


def _secret_name(outgoing: Outgoing, key: VaultKey) -> str:
    return key.policy.secret.partition(":")[2] if key.policy.secret else vendor_named(outgoing.call.vendor).secret_env


def _secret(armed: Armed, outgoing: Outgoing, key: VaultKey) -> str:
    """Return the vendor's real secret for a vault token, for the vendor's own hosts only."""
    call = outgoing.call
    is_own = call.scheme == "https" and claimant(call.host.removesuffix(":443")) == call.vendor
    if not is_own and context.vendor_hosts().get(call.host) != call.vendor:
        raise EndpointNotAllowed(
            f"a vault token may not go to {call.scheme}://{call.host}: it is not {call.vendor}'s own host over https. Nothing was sent. "
            f"If it is a stand-in or proxy of yours, set KEYGUARD_VENDOR_HOSTS={call.vendor}={call.host}",
            key_id=key.key_id, run_id=key.run_id,
        )  # fmt: skip
    if armed.secrets is not None:
        return armed.secrets(call.vendor)
    name = _secret_name(outgoing, key)
    if not name:
        raise ConfigurationError(
            f"the call carries a vault token, and nobody said where {call.vendor}'s real secret is; nothing was sent. "
            "Set the policy's secret='env:NAME', or secret_env where the vendor is registered."
        )
    secret = os.environ.get(name, "")
    if not secret or secret.startswith(TOKEN_PREFIX):
        raise ConfigurationError(
            f"the call carries a vault token, but the environment variable {name} does not hold {call.vendor}'s real secret. "
            "Nothing was sent."
        )
    return secret


def identity(armed: Armed, ticket: context.Ticket, key: VaultKey) -> Identity | None:
    """Name the logical charge that a write is for, where somebody says what a retry of it would be."""
    call, run, scope, policy = ticket.call, ticket.run, context.idempotency_scope(), key.policy
    if policy.mode == "observe":
        return None
    if ticket.has_own_key and call.idempotency_key is not None:
        named = request_of_key(key.scope, ticket.principal, call.vendor, call.account, call.idempotency_key)
        return Identity(named, fingerprint=fingerprint(call), window=ticket.window, is_own=True)
    is_kept = ticket.window > 0 and ticket.takes_key and policy.idempotency == "derive"
    is_told = call.body is not None and (scope is not None or (run is not None and bool(run.execution)))
    if is_told and (is_kept or (not ticket.window and policy.on_doubt == "refuse")):
        return _numbered(armed, ticket, key, scope, is_kept=is_kept)
    if call.idempotency_key is None:
        return None
    # A key of the SDK's own making: nothing will be sent with it again, but the vendor can be asked for it.
    return Identity(request_of_key(key.scope, ticket.principal, call.vendor, call.account, call.idempotency_key))


def _numbered(armed: Armed, ticket: context.Ticket, key: VaultKey, scope: context.IdempotencyScope | None, *, is_kept: bool) -> Identity:
    call, run, of_run = ticket.call, ticket.run, key.scope
    window, resends = (ticket.window, True) if is_kept else (0.0, False)
    if scope is not None:
        request = request_in_scope(of_run, ticket.principal, call, scope.name)
        # Apart from what the run sends outside of the scope; the same whatever runs it.
        of_scope = context.RunRef(key.root_id, "keyguard", execution=scope.entry)
        ticket.slot = slot = Slot(armed.slots, of_run, request, of_scope)
        return Identity(request, slot.n, fingerprint=fingerprint(call), window=window, resends=resends)
    assert run is not None
    request = request_of(of_run, ticket.principal, canonical(call))
    ticket.slot = slot = Slot(armed.slots, of_run, request, run)
    return Identity(request, slot.n, run.entry, run.unit, run.attempt, run.task, run.persists, "", window, resends)
