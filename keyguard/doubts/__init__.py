"""Calls of which nobody knows whether the vendor executed them: what is listed, asked, settled and released. The public verbs.

    from keyguard import doubts

    for answer in doubts.reconcile().left:
        print(answer.doubt.operation, answer.words)

What vendors are asked is theirs (keyguard.vendors), what follows is `_verdicts.py`, how they are asked `_asking.py`.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keyguard import context
from keyguard.doubts import _late as late
from keyguard.doubts._verdicts import Asked, Verdict, rivals, verdicts
from keyguard.errors import ConfigurationError
from keyguard.guard import new_id
from keyguard.model import Closing, Order, Outcome, Quote, show, to_money
from keyguard.settings import load_settings, pinned_rates
from keyguard.vendors import vendor_named
from keyguard.vendors._inquiry import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from decimal import Decimal

    from keyguard.doubts._asking import Questions
    from keyguard.ledgers import Ledger, Question
    from keyguard.model import Doubt, Money, Policy, Receipt
    from keyguard.settings import Settings
    from keyguard.vendors import Inquiring

__all__ = ["Answer", "Reconciled", "listed", "reconcile", "release", "settle"]

_INQUIRY = "keyguard.inquiry"
_LATER: tuple[Question, ...] = ("open", "estimate")
_LONGEST_REASON = 500
# One read each: what is left is read at the next pass.
_MOST_READ = 1000
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What was found out about one doubt.

    Attributes:
        doubt: As it was before.
        ending: `settled`, `released`, or `doubt` where nobody knows yet.
        words: Why, and what to do next.
        cost: What it is counted at now, micro-USD.
    """

    doubt: Doubt
    ending: str
    words: str
    cost: Money


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

    Open intents are read again too, and what was settled at an estimate takes the price that the vendor says now, up or down.

    `run`, `vendor` and `ledger` are as of `listed`; `dry_run` only says what would be booked; `by` is who asks, for the audit.

    Raises:
        ConfigurationError: a setting that cannot be read.
        LedgerUnavailable: the ledger cannot be read or written.
    """
    # An HTTP client: loaded only where something is asked.
    from keyguard.doubts._asking import Questions

    with _opened(ledger) as found:
        wanted, settings = _listed(found, run, vendor), load_settings()
        before = sum(doubt.amount for doubt in wanted)
        with _counting(settings), Questions(settings.vendor_hosts, lambda key_id: _policy_of(found, key_id)) as questions:
            decided = _decided(found, wanted, questions)
            answers = [_booked(found, doubt, decided[doubt.reservation_id], by, dry_run=dry_run) for doubt in wanted]
            late = [
                answer
                for kind in _LATER
                for answer in _learned(found, _listed(found, run, vendor, kind), kind, questions, by, dry_run=dry_run)
            ]
        after = sum(answer.cost for answer in answers if answer.ending == "doubt")
        return Reconciled(tuple(answers), before, after, tuple(late), dry_run)


def settle(
    reservation_id: str, *, cost_usd: float | Decimal | str, reason: str, by: str = "", ledger: Ledger | str | None = None
) -> Receipt:
    """
    Settle by hand what a human found out: the call was executed, and cost this much. Audited.

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

    The arguments are as of `settle`.

    Raises:
        ConfigurationError: no such doubt, or several; no reason.
    """
    with _opened(ledger) as found:
        return found.resolve(_one(found, reservation_id), Outcome("released", source="local"), by=_by(by), reason=_said(reason))


# -- asking ----------------------------------------------------------------------------------------


def _decided(ledger: Ledger, wanted: Sequence[Doubt], questions: Questions) -> dict[str, Verdict]:
    """Ask about doubts, and about others that could be taken for them, and decide them together."""
    # Read before the first question: what is not shown then was not there then.
    now = ledger.now()
    asked = [_inquired(doubt, questions, now) for doubt in (*wanted, *rivals(wanted, ledger.doubts()))]
    for doubt in wanted:
        _audit(ledger, doubt)
    return verdicts(asked, _claimed(ledger, asked))


def _audit(ledger: Ledger, doubt: Doubt) -> None:
    """Write into the log that a vendor was asked about a doubt, as a read that costs nothing."""
    asking = new_id()
    order = Order(asking, doubt.key_id, 0, doubt.scope, doubt.vendor, doubt.account, _INQUIRY, "GET", Quote(0), (), enforce=False)
    if ledger.reserve(order).granted:
        ledger.close(Closing(asking, Outcome("settled", source="local")))


def _learned(ledger: Ledger, doubts: Sequence[Doubt], kind: Question, questions: Questions, by: str, *, dry_run: bool) -> Iterator[Answer]:
    """Book what open intents, or estimates, have come to; nothing where there is nothing new."""
    now = ledger.now()
    for doubt in doubts[:_MOST_READ]:
        inquiring = _inquiring(doubt.vendor)
        if inquiring is None or now - doubt.at > inquiring.history:
            # Given up: what nobody priced by then stays at its estimate.
            continue
        try:
            plug = vendor_named(doubt.vendor)
            outcome = questions.drive(late.read(doubt, plug, inquiring, is_open=kind == "open"), doubt, inquiring)
        except ConfigurationError:
            # Nothing is in doubt here, so nothing is missed but a figure that may be too high.
            continue
        if outcome is not None:
            yield _known_now(ledger, doubt, outcome, by, dry_run=dry_run)


def _known_now(ledger: Ledger, doubt: Doubt, outcome: Outcome, by: str, *, dry_run: bool) -> Answer:
    fact = outcome.facts[0]
    parts = f"{show(fact.spent)} spent, {show(fact.held)} held; it was {show(doubt.amount)}"
    words = _shown(f"{fact.object_id} is {fact.status or 'priced'}: {parts}")
    if dry_run:
        return Answer(doubt, "settled", words, fact.spent + fact.held)
    receipt = ledger.resolve(doubt.reservation_id, outcome, by=by, reason=f"{doubt.vendor}: {words}")
    return Answer(doubt, "settled", words, receipt.spent + receipt.held)


def _inquiring(vendor: str) -> Inquiring | None:
    """Return how a vendor is asked; None where nobody knows how, or only the program that registered it knows the vendor at all."""
    try:
        found: Inquiring | None = getattr(vendor_named(vendor), "inquiring", None)
    except ConfigurationError:
        return None
    return found


def _inquired(doubt: Doubt, questions: Questions, now: float) -> Asked:
    inquiring = _inquiring(doubt.vendor)
    if inquiring is None:
        words = "nobody knows how to ask it: look there, then keyguard settle or release"
        return Asked(doubt, Finding(words=words), now, None, 0.0, is_owner=False)
    try:
        is_owner = questions.is_owner(doubt, inquiring)
        finding = questions.drive(inquiring.inquire(doubt, now), doubt, inquiring)
        finding = replace(finding, words=_shown(finding.words))
    except ConfigurationError as error:
        is_owner, finding = False, Finding(words=str(error))
    return Asked(doubt, finding, now, inquiring.absence_margin, inquiring.history, is_owner)


@contextmanager
def _counting(settings: Settings) -> Iterator[None]:
    """Count amounts by the settings' rates and prices, unless this process has its own already."""
    if context.handler() is not None:
        yield
        return
    before = context.rates(), context.unit_prices(), context.price_files()
    context.set_rates(pinned_rates(settings, None))
    context.set_unit_prices(settings.unit_prices)
    context.set_price_files(settings.price_files)
    try:
        yield
    finally:
        context.set_rates(before[0])
        context.set_unit_prices(before[1])
        context.set_price_files(before[2])


def _claimed(ledger: Ledger, asked: Sequence[Asked]) -> frozenset[str]:
    """Return which of the objects that were found a reservation has bought already."""
    found: set[str] = set()
    for vendor, account in {(one.doubt.vendor, one.doubt.account) for one in asked}:
        of = [one for one in asked if (one.doubt.vendor, one.doubt.account) == (vendor, account)]
        names = {name for one in of for name in (*one.finding.objects, *(each.object_id for each in one.finding.candidates))}
        if names:
            found |= ledger.claimed(vendor, account, names)
    return frozenset(found)


def _booked(ledger: Ledger, doubt: Doubt, verdict: Verdict, by: str, *, dry_run: bool) -> Answer:
    outcome = verdict.outcome
    if outcome is None:
        return Answer(doubt, "doubt", verdict.words, doubt.amount)
    if dry_run:
        cost = 0 if outcome.ending == "released" else outcome.facts[0].spent if outcome.facts else outcome.cost
        return Answer(doubt, outcome.ending, verdict.words, cost)
    try:
        receipt = ledger.resolve(doubt.reservation_id, outcome, by=by, reason=f"{doubt.vendor}: {verdict.words}"[:_LONGEST_REASON])
    except ConfigurationError as error:
        # Its call goes on again: a retry of it is on its way.
        return Answer(doubt, "doubt", str(error), doubt.amount)
    if receipt.doubt:
        return Answer(doubt, "doubt", f"{verdict.words}, but that is counted for another reservation already", receipt.doubt)
    return Answer(doubt, outcome.ending, verdict.words, receipt.spent + receipt.held)


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
    if vendor is not None and all(doubt.vendor != vendor for doubt in found):
        # A misspelt one would have nothing in doubt; one that only another program has registered may have.
        vendor_named(vendor)
    return [doubt for doubt in found if vendor in {None, doubt.vendor}]


def _policy_of(ledger: Ledger, key_id: str) -> Policy | None:
    key = ledger.key(key_id=key_id)
    return None if key is None else key.policy


def _one(ledger: Ledger, name: str) -> str:
    """Return the id that a beginning stands for; what is not in doubt any more is found by its whole id."""
    found = [doubt for doubt in ledger.doubts() if doubt.reservation_id.startswith(name)] if name else []
    if len(found) > 1:
        some = ", ".join(f"{doubt.reservation_id} ({show(doubt.amount)})" for doubt in found[:_SHOWN])
        raise ConfigurationError(
            f"{len(found)} doubts begin with {name!r}: {some}{', …' if len(found) > _SHOWN else ''}; give more of the id"
        )
    if not name:
        raise ConfigurationError("give the id of a doubt, as `keyguard doubts` shows it")
    return found[0].reservation_id if found else name


def _shown(words: str) -> str:
    """Return words that may hold what a vendor answered, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:_LONGEST_REASON]


def _said(reason: str) -> str:
    if not reason.strip() or len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise ConfigurationError(
            f"give a reason, of at most {_LONGEST_REASON} characters on one line: how it is known what became of the call"
        )
    return reason.strip()


def _by(by: str) -> str:
    if by:
        return by
    from keyguard.cli.figures import person

    return person()
