"""The identity of a logical charge: pure hashing, and what a further request of a charge is. Its number is `keyguard.slots`' to give.

Identity = (root run, vendor, account scope, credential's owner, method, path, canonical parameters, n), where n is the number
of the identical request within one *execution* of the run (one entry of its body). There is no host in
it, so that the local enforcer and a proxy agree, and no task id, which changes from one retry of a flow to
the next. So an SDK retry, a task retry, a flow retry and a second process of the same run give the same
identity; two intended identical charges in one execution do not.

The Idempotency-Key that is derived from it changes with the *generation*: after the vendor has refused a try for good, its key
would only repeat the refusal.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from keyguard.model import Call, Identity

Verdict: TypeAlias = Literal["attempt", "next", "already_charged", "doubt_pending", "conflict"]

# Keyed once: a copy costs a quarter of what a new one does.
_OF_RUN = blake2b(digest_size=4, key=b"keyguard run")
_OF_CHARGE = blake2b(digest_size=12, key=b"keyguard identity")
_OF_KEY = blake2b(digest_size=16, key=b"keyguard idempotency key")
_OF_OWNER = blake2b(digest_size=8, key=b"keyguard owner")


def canonical(call: Call) -> bytes:
    """Return the part of an identity that the request alone gives; equal for requests that mean the same."""
    pairs = sorted((*call.query, *(call.body or ())))
    return ascii((call.vendor, call.account, call.method, call.path, pairs)).encode()


def fingerprint(call: Call) -> str:
    """Hash a request as a whole: 32 hex digits, for charges that are named by something else."""
    return blake2b(canonical(call), digest_size=16).hexdigest()


def _parts(*fields: str) -> bytes:
    # Quoted, so that no two different lists of parts give the same bytes; in ASCII, which is the same in every version of Python.
    return ascii(fields).encode()


def request_of(scope: str, principal: str, request: bytes) -> str:
    """Name a logical charge without its number: 32 hex digits of the run's scope, the credential's owner and the request."""
    run, payer = _payer(scope, principal)
    return run + _hashed(_OF_CHARGE, request + payer)


@lru_cache(maxsize=1024)
def _payer(scope: str, principal: str) -> tuple[str, bytes]:
    # The run's hash comes first, so that its charges lie side by side in a ledger's tables, however many there are of others.
    return _hashed(_OF_RUN, scope.encode("utf-8", "surrogatepass")), b"\0" + _parts(scope, principal)


def _hashed(keyed: blake2b, text: bytes) -> str:
    digest = keyed.copy()
    digest.update(text)
    return digest.hexdigest()


def request_in_scope(scope: str, principal: str, call: Call, name: str) -> str:
    """Name a charge by the `idempotency_scope` that it is made in: without its parameters, which must not differ then."""
    return request_of(scope, principal, b"scope" + _parts(call.vendor, call.account, call.method, call.path, name))


def request_of_key(scope: str, principal: str, vendor: str, account: str, key: str) -> str:
    """Name a charge by the Idempotency-Key that the caller gave it."""
    return request_of(scope, principal, b"key" + _parts(vendor, account, key))


def key_for(request: str, n: int, generation: int) -> str:
    """Derive the Idempotency-Key: 41 characters (Stripe takes 255, Resend 256); another for each generation."""
    return f"keyguard-{_hashed(_OF_KEY, f'{request}.{n}.{generation}'.encode())}"


def principal_of(credential: str) -> str:
    """Hash the owner of a credential: 16 hex digits; "" where there is none."""
    return _hashed(_OF_OWNER, credential.encode("utf-8", "surrogatepass")) if credential else ""


def payee_of(scope: str, payee: str) -> str:
    """Hash whom a call pays or writes to, apart for each run: 16 hex digits; "" where nobody is named."""
    return blake2b(_parts(scope, payee), digest_size=8, key=b"keyguard payee").hexdigest() if payee else ""


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
