"""The identity of a logical charge: pure hashing, and the counting of identical requests.

Identity = (root run, vendor, account scope, method, path, canonical parameters, n), where n is the number
of the identical request within one *execution* of the run (one entry of its body). There is no host in
it, so that the local enforcer and a proxy agree, and no task id, which changes from one retry of a flow to
the next. So an SDK retry, a task retry, a flow retry and a second process of the same run give the same
identity; two intended identical charges in one execution do not.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyguard.context import RunRef
    from keyguard.model import Call

_EXECUTIONS_KEPT = 256


def canonical(call: Call) -> bytes:
    """Return the part of an identity that the request alone gives; equal for requests that mean the same."""
    pairs = sorted((*call.query, *(call.body or ())))
    fields = (call.vendor, call.account, call.method, call.path, *(part for pair in pairs for part in pair))
    # Each part carries its length, so that no two different lists of parts give the same bytes.
    return b"".join(b"%d:%s" % (len(part), part) for part in (field.encode("utf-8", "surrogatepass") for field in fields))


def identity_of(scope: str, request: bytes, n: int) -> str:
    """Hash an identity: 32 hex digits."""
    digest = hashlib.blake2b(request, digest_size=16, key=b"keyguard identity")
    digest.update(b"\0%d\0%s" % (n, scope.encode()))
    return digest.hexdigest()


class Slots:
    """
    Counts identical requests of an execution, so that the n-th one has a number. Thread-safe.

    A retry of a task run replays the numbers that its first attempt took, in order: identical requests
    are interchangeable, so which of them gets which number does not matter.
    """

    def __init__(self) -> None:
        self.renew_lock()
        # execution → request → how many numbers were given out
        self._given: OrderedDict[tuple[str, str], dict[bytes, int]] = OrderedDict()
        # (execution, unit) → request → numbers this unit holds, and where its current attempt stands
        self._units: dict[tuple[str, str, str], dict[bytes, list[int]]] = {}
        self._position: dict[tuple[str, str, str], tuple[int, dict[bytes, int]]] = {}

    def renew_lock(self) -> None:
        """Take a new lock: in a forked child nobody is left to release the old one."""
        self._lock = threading.Lock()

    def number(self, scope: str, request: bytes, run: RunRef) -> int:
        """Return n for one request of a run's execution, from 0."""
        execution = (scope, run.execution)
        digest = hashlib.blake2b(request, digest_size=16).digest()
        with self._lock:
            given = self._given.setdefault(execution, {})
            self._given.move_to_end(execution)
            self._forget_old()
            if not run.unit:
                return self._next(given, digest)
            return self._replayed((*execution, run.unit), run.attempt, given, digest)

    def _replayed(self, unit: tuple[str, str, str], attempt: int, given: dict[bytes, int], digest: bytes) -> int:
        held = self._units.setdefault(unit, {}).setdefault(digest, [])
        known_attempt, taken = self._position.get(unit, (attempt, {}))
        if attempt != known_attempt:
            taken = {}
        index = taken.get(digest, 0)
        taken[digest] = index + 1
        self._position[unit] = (attempt, taken)
        if index == len(held):
            held.append(self._next(given, digest))
        return held[index]

    @staticmethod
    def _next(given: dict[bytes, int], digest: bytes) -> int:
        n = given.get(digest, 0)
        given[digest] = n + 1
        return n

    def _forget_old(self) -> None:
        # A long-lived worker sees many executions; the oldest cannot be retried in this process any more.
        while len(self._given) > _EXECUTIONS_KEPT:
            old, _ = self._given.popitem(last=False)
            for unit in [unit for unit in self._units if unit[:2] == old]:
                del self._units[unit]
                self._position.pop(unit, None)
