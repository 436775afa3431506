"""Calls of which nobody knows whether the vendor executed them: what is listed, asked, settled and released. The public verbs.

    from keyguard import doubts

    for answer in doubts.reconcile().left:
        print(answer.doubt.operation, answer.words)

What vendors are asked is theirs (keyguard.vendors), how they are asked is `_asking.py`, what follows `_verdicts.py`, and what is booked
`_pass.py`.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyguard.doubts._pass import LONGEST, Answer, Pass, asking, counting
from keyguard.errors import ConfigurationError
from keyguard.model import Outcome, show, to_money
from keyguard.settings import load_settings
from keyguard.vendors import vendor_named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from keyguard.ledgers import Ledger, Question
    from keyguard.model import Doubt, Money, Receipt

__all__ = ["Answer", "Reconciled", "listed", "reconcile", "release", "settle"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Reconciled:
    """
    What a pass did.

    Attributes:
        answers: One for each doubt that was there, oldest first.
        before, after: Micro-USD in doubt before and after it.
        late: What open intents came to, and what the vendor said later than we had to know it, where that is new.
        is_dry: Nothing was booked; `after` is what would be left.
    """

    answers: tuple[Answer, ...]
    before: Money
    after: Money
    late: tuple[Answer, ...] = ()
    is_dry: bool = False

    @property
    def left(self) -> tuple[Answer, ...]:
        """What is still in doubt."""
        return tuple(answer for answer in self.answers if answer.ending == "doubt")


def listed(run: str | None = None, *, vendor: str | None = None, ledger: Ledger | str | None = None) -> list[Doubt]:
    """
    Return what is in doubt, oldest first.

    Args:
        run: Only this run's.
        vendor: Only this vendor's.
        ledger: A ledger or its URL; None = the one that this process uses, else `KEYGUARD_URL`, else the user's default.

    Raises:
        LedgerUnavailable: it cannot be read.
    """
    with _opened(ledger) as found:
        return _listed(found, run, vendor)


def reconcile(
    run: str | None = None, *, vendor: str | None = None, dry_run: bool = False, ledger: Ledger | str | None = None, by: str = "reconcile"
) -> Reconciled:
    """
    Ask the vendors, by reads alone, what became of the calls in doubt, and book what they show.

    Open intents are read again too, what was settled at an estimate takes the price that the vendor says now, up or down, and what
    was presumed absent within the last two days is looked for once more.

    `run`, `vendor` and `ledger` are as of `listed`; `dry_run` only says what would be booked; `by` is who asks, for the audit.

    Raises:
        ConfigurationError: a setting that cannot be read.
        LedgerUnavailable: the ledger cannot be read or written.
    """
    with _opened(ledger) as found:
        wanted, settings = _listed(found, run, vendor), load_settings()
        before = sum(doubt.amount for doubt in wanted)
        with counting(settings), asking(found, settings) as questions:
            one = Pass(found, questions, by, dry_run, found.now())
            late = [
                *one.presumed(_listed(found, run, vendor, "presumed")),
                *one.opened(_listed(found, run, vendor, "open")),
                *one.priced(_listed(found, run, vendor, "estimate")),
            ]
            answers = one.resolved(wanted)
        after = sum(answer.cost for answer in answers if answer.ending == "doubt")
        return Reconciled(tuple(answers), before, after, tuple(late), dry_run)


def settle(
    reservation_id: str, *, cost_usd: float | Decimal | str, reason: str, by: str = "", ledger: Ledger | str | None = None
) -> Receipt:
    """
    Settle by hand what a human found out: the call was executed, and cost this much. Audited.

    Of what is not in doubt any more only a cost above what is counted for it is booked, as overrun (`replayed` = there was none).

    Args:
        reservation_id: Its id, or the beginning of it where that names one alone.
        cost_usd: What it cost, in dollars.
        reason: How that is known; kept in the audit.
        by: Who says so; "" = the user of this process.
        ledger: As of `listed`.

    Raises:
        ConfigurationError: no such doubt, or several; no reason; no amount.
    """
    try:
        cost = to_money(cost_usd)
    except ValueError as error:
        raise ConfigurationError(f"the cost: {error}") from None
    with _opened(ledger) as found:
        return found.resolve(_one(found, reservation_id), Outcome("settled", cost=cost, source="local"), by=_by(by), reason=_said(reason))


def release(reservation_id: str, *, reason: str, by: str = "", ledger: Ledger | str | None = None) -> Receipt:
    """
    Release by hand what a human found out: the call was not executed, and will not be. Audited.

    The arguments are as of `settle`. What is counted already is never given back by hand.

    Raises:
        ConfigurationError: it is not in doubt, or several doubts are meant; no reason.
    """
    with _opened(ledger) as found:
        name = _one(found, reservation_id)
        if all(doubt.reservation_id != name for doubt in found.doubts()):
            raise ConfigurationError(f"{name!r} is not in doubt in {found.url}; `keyguard doubts` lists what is")
        return found.resolve(name, Outcome("released", source="local"), by=_by(by), reason=_said(reason))


# -- the ledger ------------------------------------------------------------------------------------


@contextmanager
def _opened(ledger: Ledger | str | None) -> Iterator[Ledger]:
    """Use a ledger that is open, or open one for the block."""
    with ExitStack() as stack:
        found = _in_use() if ledger is None else ledger
        if found is None or isinstance(found, str):
            # Refuses to make a ledger by looking for one. Loaded here, because it brings the command line with it.
            from keyguard.cli.figures import opened

            found = stack.enter_context(opened(found))
        yield found


def _in_use() -> Ledger | None:
    """Return the ledger by which this process decides."""
    from keyguard.install import ledgers_in_use

    found = ledgers_in_use()
    if len(found) > 1:
        raise ConfigurationError(f"this process uses {len(found)} ledgers ({', '.join(one.url for one in found)}): say which, by ledger=…")
    return found[0] if found else None


def _listed(ledger: Ledger, run: str | None, vendor: str | None, kind: Question = "doubt") -> list[Doubt]:
    if run is not None and ledger.key(run_id=run) is None:
        raise ConfigurationError(f"no run {run!r} in {ledger.url}; `keyguard status` lists what there is")
    found = ledger.doubts(None if run is None else f"run:{run}", kind=kind)
    if vendor is not None and kind == "doubt" and all(doubt.vendor != vendor for doubt in found):
        # A misspelt one would have nothing in doubt; one that only another program has registered may have.
        vendor_named(vendor)
    return [doubt for doubt in found if vendor in {None, doubt.vendor}]


def _one(ledger: Ledger, name: str) -> str:
    """Return the id that a beginning stands for; what is not in doubt any more is found by its whole id."""
    found = [doubt for doubt in ledger.doubts() if doubt.reservation_id.startswith(name)] if name else []
    if len(found) > 1 and all(doubt.reservation_id != name for doubt in found):
        some = ", ".join(f"{doubt.reservation_id} ({show(doubt.amount)})" for doubt in found[:_SHOWN])
        raise ConfigurationError(
            f"{len(found)} doubts begin with {name!r}: {some}{', …' if len(found) > _SHOWN else ''}; give more of the id"
        )
    if not name:
        raise ConfigurationError("give the id of a doubt, as `keyguard doubts` shows it")
    return found[0].reservation_id if len(found) == 1 else name


def _said(reason: str) -> str:
    if not reason.strip() or len(reason) > LONGEST or not reason.isprintable():
        raise ConfigurationError(f"give a reason, of at most {LONGEST} characters on one line: how it is known what became of the call")
    return reason.strip()


def _by(by: str) -> str:
    if by:
        return by
    from keyguard.cli.figures import person

    return person()
