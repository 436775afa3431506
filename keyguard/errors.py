"""Every exception keyguard raises, and nothing else.

    KeyguardError                      base of all
    ├─ Refused                         the call was stopped; nothing was sent; do not retry
    │  ├─ SpendCapExceeded             a cap would be passed
    │  ├─ EndpointNotAllowed           not on the allowlist, or not a host the secret may go to
    │  ├─ RuleViolated                 a parameter rule says no
    │  ├─ UnpricedCall                 a write whose cost nobody can bound
    │  ├─ MalformedCall                money parameters or a path that cannot be read strictly
    │  ├─ KeyRevoked · KeyExpired · UnknownKey · Unattributed
    │  └─ IdentityConflict · AmbiguousIdentity · AlreadyCharged · DoubtPending
    ├─ BackendError                    nobody could decide; nothing was sent; a retry may help
    │  ├─ LedgerUnavailable
    │  └─ ProxyUnavailable
    └─ ConfigurationError              what was asked for cannot be; says what can
       └─ MissingExtra                 an optional library is not installed

Each survives pickle, cloudpickle and copy with its fields, and `cls(message)` with the message
alone (which is how Prefect's JSON serializer rebuilds an exception). None derives from a
vendor's error. Fields are plain data: amounts in micro-USD, instants in POSIX seconds.
"""

from __future__ import annotations

from typing import Any, ClassVar


def _rebuild(cls: type[KeyguardError], message: str, fields: dict[str, Any]) -> KeyguardError:
    error = cls(message)
    error.__dict__.update(fields)
    return error


class KeyguardError(Exception):
    """
    Base of all errors that keyguard raises. Picklable, and `cls(message)` works for every subclass.

    Attributes:
        reason: One word for spans and metrics; the same for all errors of a class.
    """

    reason: ClassVar[str] = "error"
    _fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str = "", **fields: Any) -> None:
        unknown = sorted(set(fields) - set(self._fields))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(unknown)}")
        super().__init__(message)
        for name in self._fields:
            setattr(self, name, fields.get(name))

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Return the names of the fields that an error of this class has beside its message."""
        return cls._fields

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), dict(self.__dict__))


class Refused(KeyguardError):
    """
    The call was stopped before a byte left; trying again cannot help.

    Attributes:
        decision: The ledger's answer, where it was the ledger that refused.
        key_id: The key that would have paid.
        run_id: Its run.
        operation: The vendor's operation, `payment_intents.create`.
    """

    reason = "refused"
    _fields: ClassVar[tuple[str, ...]] = ("decision", "key_id", "run_id", "operation")
    decision: Any
    key_id: str | None
    run_id: str | None
    operation: str | None


class SpendCapExceeded(Refused):
    """
    A cap would be passed by this call.

    Attributes:
        scope: Which budget: `run:…`, `policy:…` (a day cap), `refund:…`, `calls:…`, `call`.
        cap, spent, held, doubt, requested, remaining: Micro-USD (calls for `calls:…`).
        resets_at: POSIX seconds, for day caps.
    """

    reason = "cap_exceeded"
    _fields = (*Refused._fields, "scope", "cap", "spent", "held", "doubt", "requested", "remaining", "resets_at")
    scope: str | None
    cap: int | None
    spent: int | None
    held: int | None
    doubt: int | None
    requested: int | None
    remaining: int | None
    resets_at: float | None


class EndpointNotAllowed(Refused):
    """The endpoint is not on the key's allowlist, or a vault token would go to a host that no vendor owns."""

    reason = "not_allowed"


class RuleViolated(Refused):
    """A parameter rule of the policy says no."""

    reason = "rule"


class UnpricedCall(Refused):
    """A write whose cost nobody can bound; the policy's `unpriced` decides otherwise."""

    reason = "unpriced"


class MalformedCall(Refused):
    """The path or a money parameter cannot be read strictly, so its cost cannot be bounded."""

    reason = "malformed"


class KeyRevoked(Refused):
    """The key was revoked, or closed by its owner."""

    reason = "revoked"


class KeyExpired(Refused):
    """The key's `expires_in` has passed."""

    reason = "expired"


class UnknownKey(Refused):
    """A vault token that this ledger never issued."""

    reason = "unknown_key"


class Unattributed(Refused):
    """Nobody can say which run should pay, or a run's token was used inside another run."""

    reason = "no_run"


class IdentityConflict(Refused):
    """The same logical charge came again with other parameters."""

    reason = "duplicate"


class AmbiguousIdentity(Refused):
    """Two tasks of a re-execution claim the same logical charge."""

    reason = "duplicate"


class AlreadyCharged(Refused):
    """This logical charge was made, and the vendor would make it again by now, or answer nothing but an error that it keeps."""

    reason = "duplicate"


class DoubtPending(Refused):
    """An earlier attempt of this charge is still in doubt."""

    reason = "duplicate"


class BackendError(KeyguardError):
    """Nobody could decide, so nothing was sent; a later try may succeed."""

    reason = "backend_unavailable"


class LedgerUnavailable(BackendError):
    """The ledger could not be read or written; the message says why and what to do."""

    reason = "ledger_unavailable"


class ProxyUnavailable(BackendError):
    """The remote proxy did not answer sensibly in time."""

    reason = "proxy_unavailable"


class ConfigurationError(KeyguardError):
    """What was asked for cannot be done; the message lists what can."""

    reason = "configuration"


class MissingExtra(ConfigurationError, ImportError):
    """An optional library is not installed; the message is the line that installs it."""

    reason = "configuration"


def told_while_observing(error: Exception) -> str:
    """Return what a refusal says where observe mode lets the call pass: not that nothing was sent."""
    return str(error).replace("Nothing was sent", "It is sent all the same").replace("nothing was sent", "it is sent all the same")
