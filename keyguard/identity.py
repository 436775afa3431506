"""The identity of a logical charge: pure hashing, the numbering of identical requests, and what a further request of a charge is.

Identity = (root run, vendor, account scope, credential's owner, method, path, canonical parameters, n), where n is the number
of the identical request within one *execution* of the run (one entry of its body). There is no host in
it, so that the local enforcer and a proxy agree, and no task id, which changes from one retry of a flow to
the next. So an SDK retry, a task retry, a flow retry and a second process of the same run give the same
identity; two intended identical charges in one execution do not.

The Idempotency-Key that is derived from it changes with the *generation*: after the vendor has refused a try for good, its key
would only repeat the refusal.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from keyguard.context import RunRef
    from keyguard.model import Call, Identity

_EXECUTIONS_KEPT = 256

Verdict: TypeAlias = Literal["attempt", "next", "already_charged", "doubt_pending", "conflict"]


def canonical(call: Call) -> bytes:
    """Return the part of an identity that the request alone gives; equal for requests that mean the same."""
    pairs = sorted((*call.query, *(call.body or ())))
    return ascii((call.vendor, call.account, call.method, call.path, pairs)).encode()


def fingerprint(call: Call) -> str:
    """Hash a request as a whole: 32 hex digits, for charges that are named by something else."""
    return hashlib.blake2b(canonical(call), digest_size=16).hexdigest()


def _parts(*fields: str) -> bytes:
    # Quoted, so that no two different lists of parts give the same bytes; in ASCII, which is the same in every version of Python.
    return ascii(fields).encode()


def request_of(scope: str, principal: str, request: bytes) -> str:
    """Name a logical charge without its number: 32 hex digits of the run's scope, the credential's owner and the request."""
    digest = hashlib.blake2b(request, digest_size=12, key=b"keyguard identity")
    digest.update(b"\0" + _parts(scope, principal))
    return _run_of(scope) + digest.hexdigest()


# First, so that the charges of a run lie side by side in a ledger's tables, however many there are of others.
@lru_cache(maxsize=1024)
def _run_of(scope: str) -> str:
    return hashlib.blake2b(scope.encode("utf-8", "surrogatepass"), digest_size=4, key=b"keyguard run").hexdigest()


def request_in_scope(scope: str, principal: str, call: Call, name: str) -> str:
    """Name a charge by the `idempotency_scope` that it is made in: without its parameters, which must not differ then."""
    return request_of(scope, principal, b"scope" + _parts(call.vendor, call.account, call.method, call.path, name))


def request_of_key(scope: str, principal: str, vendor: str, account: str, key: str) -> str:
    """Name a charge by the Idempotency-Key that the caller gave it."""
    return request_of(scope, principal, b"key" + _parts(vendor, account, key))


def key_for(request: str, n: int, generation: int) -> str:
    """Derive the Idempotency-Key: 41 characters (Stripe takes 255, Resend 256); another for each generation."""
    digest = hashlib.blake2b(b"%s.%d.%d" % (request.encode(), n, generation), digest_size=16, key=b"keyguard idempotency key")
    return f"keyguard-{digest.hexdigest()}"


def principal_of(credential: str) -> str:
    """Hash the owner of a credential: 16 hex digits; "" where there is none."""
    return (
        hashlib.blake2b(credential.encode("utf-8", "surrogatepass"), digest_size=8, key=b"keyguard owner").hexdigest() if credential else ""
    )


def payee_of(scope: str, payee: str) -> str:
    """Hash whom a call pays or writes to, apart for each run: 16 hex digits; "" where nobody is named."""
    return hashlib.blake2b(_parts(scope, payee), digest_size=8, key=b"keyguard payee").hexdigest() if payee else ""


def verdict(identity: Identity, first: str, state: str, at: float, now: float) -> Verdict:
    """
    Say what a further request of a charge is, from the state of the reservation that the charge has.

    Args:
        identity: The request's.
        first: The fingerprint that the charge was first asked with.
        state: `open` (its call has not ended), `doubt`, `settled`, or `released`.
        at: When the reservation was made, POSIX seconds; the first byte left later, so the vendor's window began later.
        now: The ledger's time.
    """
    if state == "released":
        return "next"
    if identity.fingerprint != first:
        return "conflict"
    if not identity.window:
        # Executed again at each send.
        return "next" if identity.resends or state == "settled" else "doubt_pending"
    if now - at < identity.window:
        return "attempt"
    if identity.is_own:
        # Forgotten by the vendor, it may have been meant for another charge: counted as one.
        return "next"
    return "already_charged" if state == "settled" else "doubt_pending"


class Slots:
    """
    Counts identical requests of an execution, so that the n-th one has a number. Thread-safe.

    A retry of a task run replays the numbers that its first attempt took, in order: identical requests
    are interchangeable, so which of them gets which number does not matter. So does a further try of what task runs lie in (a subflow, a
    task that calls tasks), though all of its task runs are new. A request that ended without a known charge gives its
    number back to its unit: whoever sends the same again has lost an answer, or was refused.
    """

    def __init__(self) -> None:
        self.renew_lock()
        # execution → request → how many numbers were given out
        self._given: OrderedDict[tuple[str, str], dict[str, int]] = OrderedDict()
        # (execution, unit) → request → the numbers that the unit holds
        self._units: dict[tuple[str, str, str], dict[str, list[int]]] = {}
        # (execution, unit) → its attempt, and request → which of the held numbers are taken in it
        self._taken: dict[tuple[str, str, str], tuple[int, dict[str, set[int]]]] = {}
        # (execution, what units lie in) → what its tries have taken
        self._passes: dict[tuple[str, str, str], _Pass] = {}

    def renew_lock(self) -> None:
        """Take a new lock: in a forked child nobody is left to release the old one."""
        self._lock = threading.Lock()

    def number(self, scope: str, request: str, run: RunRef) -> int:
        """Return n for one request of a run's execution, from 0."""
        execution, unit = (scope, run.execution), (scope, run.execution, run.unit)
        with self._lock:
            given = self._given.get(execution)
            if given is None:
                given = self._given[execution] = {}
                self._forget_old()
            else:
                self._given.move_to_end(execution)
            held = self._units.setdefault(unit, {}).setdefault(request, [])
            taken = self._taken_in(unit, run.attempt).setdefault(request, set())
            free = next((n for n in held if n not in taken), None)
            passes = [self._pass(scope, run, name, number) for name, number in run.passes]
            if free is None:
                free = _replayed(passes, request)
            if free is None:
                free = given.get(request, 0)
                given[request] = free + 1
            if free not in held:
                held.append(free)
            for one in passes:
                one.take(request, free)
            taken.add(free)
            return free

    def _pass(self, scope: str, run: RunRef, name: str, number: int) -> _Pass:
        found = self._passes.setdefault((scope, run.execution, name), _Pass(number))
        found.begin(number)
        return found

    def moved(self, scope: str, request: str, run: RunRef, n: int, to: int) -> None:
        """Learn that a number belongs to a unit of another process, and which one the ledger gave instead."""
        unit = (scope, run.execution, run.unit)
        with self._lock:
            given, held = self._given.setdefault(unit[:2], {}), self._units.setdefault(unit, {}).setdefault(request, [])
            taken = self._taken_in(unit, run.attempt).setdefault(request, set())
            given[request] = max(given.get(request, 0), to + 1)
            taken.discard(n)
            taken.add(to)
            held[:] = [*(one for one in held if one not in {n, to}), to]
            for name, number in run.passes:
                self._pass(scope, run, name, number).move(request, n, to)

    def give_back(self, scope: str, request: str, run: RunRef, n: int) -> None:
        """Let the unit's next identical request have this number."""
        with self._lock:
            attempt, taken = self._taken.get((scope, run.execution, run.unit), (0, {}))
            if attempt == run.attempt and request in taken:
                taken[request].discard(n)

    def _taken_in(self, unit: tuple[str, str, str], attempt: int) -> dict[str, set[int]]:
        known, taken = self._taken.get(unit, (attempt, {}))
        if attempt != known:
            taken = {}
        self._taken[unit] = (attempt, taken)
        return taken

    def _forget_old(self) -> None:
        # A long-lived worker sees many executions; the oldest cannot be retried in this process any more.
        while len(self._given) > _EXECUTIONS_KEPT:
            old, _ = self._given.popitem(last=False)
            for unit in [unit for unit in self._units if unit[:2] == old]:
                del self._units[unit]
                self._taken.pop(unit, None)
            for name in [name for name in self._passes if name[:2] == old]:
                del self._passes[name]


class _Pass:
    """
    What the tries of a subflow, or of a task that calls tasks, have taken.

    Attributes:
        held: Request → the numbers of all tries.
        left: Those of earlier tries that nobody has asked for in this one.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.held: dict[str, list[int]] = {}
        self.left: dict[str, list[int]] = {}

    def begin(self, number: int) -> None:
        """Begin a further try, if this is one."""
        if number != self._number:
            self._number, self.left = number, {request: [*numbers] for request, numbers in self.held.items()}

    def take(self, request: str, n: int) -> None:
        """Learn that a number is taken in this try."""
        held, left = self.held.setdefault(request, []), self.left.get(request, ())
        if n not in held:
            held.append(n)
        if n in left:
            self.left[request].remove(n)

    def move(self, request: str, n: int, to: int) -> None:
        """Learn which number the ledger gave instead."""
        held = self.held.setdefault(request, [])
        held[:] = [*(one for one in held if one not in {n, to}), to]


def _replayed(passes: list[_Pass], request: str) -> int | None:
    """Return a number that an earlier try took and this one has not yet; of the innermost, which has taken no more than those round it."""
    left = [one for one in passes if one.left.get(request)]
    return min(left, key=lambda one: len(one.held[request])).left[request][0] if left else None
