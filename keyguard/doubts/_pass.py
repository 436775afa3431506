"""One pass over what a ledger does not know for sure: its vendors are asked, and what they show is booked. Opens no ledger."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from keyguard import context
from keyguard.doubts import _late
from keyguard.doubts._verdicts import Asked, Verdict, rivals, verdicts
from keyguard.errors import ConfigurationError
from keyguard.guard import new_id
from keyguard.model import Closing, Order, Outcome, Quote, show
from keyguard.settings import pinned_rates
from keyguard.vendors import vendor_named
from keyguard.vendors._inquiry import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from keyguard.doubts._asking import Questions
    from keyguard.ledgers import Ledger
    from keyguard.model import Doubt, Fact, Money, Policy
    from keyguard.remote import RemoteKey
    from keyguard.settings import Settings
    from keyguard.vendors import Inquiring
    from keyguard.vendors._inquiry import Asking

_T = TypeVar("_T")
LONGEST = 500
_INQUIRY = "keyguard.inquiry"
# Open intents are read one by one: what is left is read at the next pass.
_MOST_READ = 1000
_NOBODY = "nobody knows how to ask it: look there, then keyguard settle or keyguard release"


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
class Pass:
    """
    One pass.

    Attributes:
        ledger: Whose doubts they are.
        questions: Asks the vendors.
        by: Who asks, for the audit.
        is_dry: Nothing is booked.
        now: The ledger's time before the first question: what is not shown was not there then.
    """

    ledger: Ledger
    questions: Questions
    by: str
    is_dry: bool
    now: float

    # -- doubts -----------------------------------------------------------------------------------

    def resolved(self, wanted: Sequence[Doubt]) -> list[Answer]:
        """Ask about doubts, and about others that could be taken for them; decide them together, and book what was wanted."""
        asked = self._asked((*wanted, *rivals(wanted, self.ledger.doubts() if wanted else [])))
        for doubt in wanted:
            self._audit(doubt)
        decided = verdicts(asked, self._claimed(asked))
        return [self._booked(doubt, decided[doubt.reservation_id]) for doubt in wanted]

    def _asked(self, doubts: Sequence[Doubt]) -> list[Asked]:
        return [self._inquired(doubt) for doubt in doubts]

    def _inquired(self, doubt: Doubt) -> Asked:
        inquiring = _inquiring(doubt.vendor)
        if inquiring is None:
            return Asked(doubt, Finding(words=_NOBODY), self.now, None, 0.0, is_owner=False)
        try:
            is_owner = self.questions.is_owner(doubt, inquiring)
            finding = self.questions.drive(inquiring.inquire(doubt, self.now, self.questions.owners(doubt)), doubt, inquiring)
        except ConfigurationError as error:
            is_owner, finding = False, Finding(words=str(error))
        finding = replace(finding, words=_shown(finding.words))
        return Asked(doubt, finding, self.now, inquiring.absence_margin, inquiring.history, is_owner)

    def _audit(self, doubt: Doubt) -> None:
        """Write into the log that a vendor was asked about a doubt, as a read that costs nothing and no cap counts."""
        name = new_id()
        order = Order(name, doubt.key_id, 0, doubt.scope, doubt.vendor, doubt.account, _INQUIRY, "GET", Quote(0), (), enforce=False)
        if self.ledger.reserve(order).granted:
            self.ledger.close(Closing(name, Outcome("settled", source="local")))

    def _claimed(self, asked: Sequence[Asked]) -> frozenset[str]:
        """Return which of the objects that were found a reservation has bought already."""
        names: dict[tuple[str, str], set[str]] = {}
        for one in asked:
            found = (*one.finding.objects, *(each.object_id for each in one.finding.candidates))
            names.setdefault((one.doubt.vendor, one.doubt.account), set()).update(found)
        return frozenset(name for place, of in names.items() if of for name in self.ledger.claimed(*place, of))

    def _booked(self, doubt: Doubt, verdict: Verdict) -> Answer:
        outcome = verdict.outcome
        if outcome is None:
            return Answer(doubt, "doubt", verdict.words, doubt.amount)
        if self.is_dry:
            return Answer(doubt, outcome.ending, verdict.words, _cost(outcome))
        try:
            reason = _reason(doubt, verdict.words)
            receipt = self.ledger.resolve(doubt.reservation_id, outcome, by=self.by, reason=reason, attempts=doubt.attempts)
        except ConfigurationError as error:
            # Its call goes on again: a retry of it is on its way, or was made meanwhile.
            return Answer(doubt, "doubt", str(error), doubt.amount)
        if receipt.doubt:
            return Answer(doubt, "doubt", f"{verdict.words}, but that is counted for another reservation already", receipt.doubt)
        return Answer(doubt, outcome.ending, verdict.words, receipt.spent + receipt.held)

    # -- what comes to light later ------------------------------------------------------------------

    def opened(self, doubts: Sequence[Doubt]) -> Iterator[Answer]:
        """Read open intents again, one by one, and book what they have come to."""
        for doubt, inquiring in self._askable(doubts)[:_MOST_READ]:
            fact = self._read(_late.read(doubt, vendor_named(doubt.vendor), inquiring), doubt, inquiring)
            if fact is not None and fact.held != doubt.amount:
                answer = self._known(doubt, fact)
                # An answer that the ledger took for an older one has changed nothing.
                if self.is_dry or answer.cost != doubt.amount or fact.spent:
                    yield answer

    def priced(self, doubts: Sequence[Doubt]) -> Iterator[Answer]:
        """Put the vendor's prices, where they are known by now, in the place of estimates: also where they are the same."""
        groups: dict[tuple[str, str], list[tuple[Doubt, Inquiring]]] = {}
        for doubt, inquiring in self._askable(doubts):
            groups.setdefault((doubt.vendor, doubt.account), []).append((doubt, inquiring))
        for group in groups.values():
            first, inquiring = group[0]
            found = self._read(inquiring.prices([doubt for doubt, _ in group]), first, inquiring) or {}
            for doubt, _ in group:
                fact = found.get(doubt.object_id or "")
                if fact is not None:
                    yield self._known(doubt, fact)

    def _askable(self, doubts: Sequence[Doubt]) -> list[tuple[Doubt, Inquiring]]:
        """Return what its vendor can be asked about, and surely shows yet; what nobody priced by then stays at its estimate."""
        pairs = ((doubt, _inquiring(doubt.vendor)) for doubt in doubts)
        return [(doubt, found) for doubt, found in pairs if found is not None and self.now - doubt.at <= found.history]

    def _read(self, asking: Asking[_T], doubt: Doubt, inquiring: Inquiring) -> _T | None:
        try:
            return self.questions.drive(asking, doubt, inquiring)
        except ConfigurationError:
            # Nothing is in doubt here, so nothing is missed but a figure that may be too high.
            return None

    def _known(self, doubt: Doubt, fact: Fact) -> Answer:
        parts = f"{show(fact.spent)} spent, {show(fact.held)} held; it was {show(doubt.amount)}"
        return self._late(doubt, Outcome("settled", facts=(fact,)), f"{fact.object_id} is {fact.status or 'priced'}: {parts}")

    def presumed(self, doubts: Sequence[Doubt]) -> Iterator[Answer]:
        """Book, as overrun, what was presumed absent and bears the mark of its call at the vendor after all."""
        asked = [one for one in self._asked(doubts) if one.finding.outcome is not None]
        decided = verdicts(asked, self._claimed(asked))
        for one in asked:
            outcome = decided[one.doubt.reservation_id].outcome
            if outcome is not None and outcome.ending == "settled":
                yield self._late(one.doubt, outcome, f"executed after all: {one.finding.words}")

    def _late(self, doubt: Doubt, outcome: Outcome, said: str) -> Answer:
        words = _shown(said)
        if self.is_dry:
            return Answer(doubt, "settled", words, _cost(outcome))
        receipt = self.ledger.resolve(doubt.reservation_id, outcome, by=self.by, reason=_reason(doubt, words))
        return Answer(doubt, "settled", words, receipt.spent + receipt.held)


def policy_of(ledger: Ledger, key_id: str) -> Policy | None:
    """Return the policy of a key, which may say where the vendor's secret is."""
    key = ledger.key(key_id=key_id)
    return None if key is None else key.policy


def asking(ledger: Ledger, settings: Settings, seconds_left: Callable[[], float] | None = None) -> Questions:
    """Return the questions of one pass over a ledger, of whose calls each is asked about on the way that it took."""
    # An HTTP client: loaded only where something is asked.
    from keyguard.doubts._asking import Questions
    from keyguard.doubts._through import Through

    known: dict[tuple[str, str], RemoteKey | None] = {}

    def remote_of(doubt: Doubt) -> RemoteKey | None:
        name = (doubt.key_id, doubt.vendor)
        if name not in known:
            key = ledger.key(key_id=doubt.key_id)
            # A child's calls go with the key of its run.
            remotes = [] if key is None else ledger.remote_keys(key_id=key.chain[-1].key_id)
            known[name] = next((one for one in remotes if one.vendor == doubt.vendor), None)
        return known[name]

    return Questions(
        settings.vendor_hosts, lambda key_id: policy_of(ledger, key_id), seconds_left=seconds_left, through=Through(remote_of, settings)
    )


@contextmanager
def counting(settings: Settings) -> Iterator[None]:
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


def _inquiring(vendor: str) -> Inquiring | None:
    """Return how a vendor is asked; None where nobody knows how, or only the program that registered it knows the vendor at all."""
    try:
        found: Inquiring | None = getattr(vendor_named(vendor), "inquiring", None)
    except ConfigurationError:
        return None
    return found


def _cost(outcome: Outcome) -> Money:
    return outcome.facts[0].spent + outcome.facts[0].held if outcome.facts else outcome.cost


def _shown(words: str) -> str:
    """Return words that may hold what a vendor answered, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:LONGEST]


def _reason(doubt: Doubt, words: str) -> str:
    return f"{doubt.vendor}: {words}"[:LONGEST]
