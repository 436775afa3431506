"""What the identity of a charge costs: naming it and deriving its key, and a ledger that finds it again."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from keyguard.context import RunRef, Ticket
from keyguard.identity import key_for, principal_of
from keyguard.ledgers.sqlite import SqliteLedger
from keyguard.model import Call, Closing, Identity, Outcome
from keyguard.payer import Armed, identity
from tests.bench.bench_ledger import Caller
from tests.bench.measure import Row, medians, one_by_one, repeated

if TYPE_CHECKING:
    from keyguard.model import Order
    from tests.bench.measure import Case

_FORM = (
    ("amount", "2000"), ("currency", "usd"), ("customer", "cus_1"), ("payment_method", "pm_1"), ("confirm", "true"),
)  # fmt: skip
# As long as Prefect's own: two ids, and a name with a hash.
_FIRST = Identity("", execution="e" * 32, unit="t" * 36, task="charge-01234567", window=82_800.0)


class _Naming:
    """Names one charge after the other as the guard does, and derives the key that it leaves with."""

    def __init__(self) -> None:
        self._armed, self._numbers = Armed(), count()
        self._key = Caller(SqliteLedger(None)).key

    def __call__(self) -> str:
        """Name a charge of another customer."""
        ticket = _ticket(next(self._numbers))
        ticket.principal = principal_of("sk_test_51Habcdefghijklmnopqrstuvwxyz")
        found = identity(self._armed, ticket, self._key)
        assert found is not None
        return key_for(found.request, found.n, 0)

    def bare(self) -> Ticket:
        """Make the ticket alone, which every call has."""
        return _ticket(next(self._numbers))


def _ticket(number: int) -> Ticket:
    form = (*_FORM, ("metadata[order]", str(number)))
    ticket = Ticket(Call("stripe", "POST", "https", "api.stripe.com", "/v1/payment_intents", body=form))
    ticket.run = RunRef("bench", "prefect", execution="e1", unit=f"t{number}")
    ticket.takes_key, ticket.window = True, 82_800.0
    return ticket


class _Named(Caller):
    """A caller whose every call is a charge of its own, with an identity."""

    def _asked(self) -> tuple[Order, Closing]:
        order, closing = super()._asked()
        return replace(order, identity=replace(_FIRST, request=os.urandom(16).hex())), closing


class _Replayed(Caller):
    """A caller whose every call is a further attempt of one charge that was settled."""

    def __init__(self, ledger: SqliteLedger) -> None:
        super().__init__(ledger)
        self._identity = Identity(os.urandom(16).hex(), execution="e1", window=82_800.0)
        order, closing = self._asked()
        ledger.reserve(order)
        ledger.close(Closing(closing.reservation_id, Outcome("settled", 1)))

    def _asked(self) -> tuple[Order, Closing]:
        order, closing = super()._asked()
        return replace(order, identity=self._identity), closing


def run(short: bool) -> list[Row]:
    """Measure everything."""
    naming = _Naming()
    with tempfile.TemporaryDirectory() as name:
        path = partial(SqliteLedger, durability="process")
        cases: dict[str, Case] = {
            "bare": repeated(naming.bare),
            "naming": repeated(naming),
            "plain": Caller(path(Path(name) / "plain.db")),
            "named": _Named(path(Path(name) / "named.db")),
            "replayed": _Replayed(path(Path(name) / "replayed.db")),
        }
        for case in ("plain", "named", "replayed"):
            # Until the write-ahead log is used for the second time.
            cases[case](1000)()
        times = medians(one_by_one(cases, 15 if short else 60, 50))
    named, replayed = (f"{times[name] / times['plain']:.2f} × without" for name in ("named", "replayed"))
    return [
        Row("identity and key derivation", times["naming"] - times["bare"], "µs", 15),
        Row("reserve + settle, process, of a named charge", times["named"], "µs", 60, note=named),
        Row("reserve + settle, process, of a further attempt", times["replayed"], "µs", note=replayed),
    ]
