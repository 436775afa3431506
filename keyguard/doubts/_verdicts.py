"""What follows from what vendors showed: which doubts are settled, which released, which stay. Pure: asks nobody, books nothing.

Presence settles; a vendor object settles one reservation at most. Absence releases only where everything was read to the end, for the
right account, later than the vendor's margin after the last send. This is the one place where safety rests on the vendor
(a request may be executed later than it can answer), so the words say "presumed absent". Age alone frees nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from keyguard.model import Outcome
from keyguard.vendors._inquiry import SKEW

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from keyguard.model import Doubt
    from keyguard.vendors._inquiry import Candidate, Finding

_ANOTHER = (
    "it was asked with another credential than the call was sent with, so what it shows proves nothing; reconcile with the one that sent "
    "it, or look in that account"
)
_ABSENT = Outcome("released", is_presumed=True)


@dataclass(frozen=True, slots=True)
class Asked:
    """
    One doubt that a vendor was asked about.

    Attributes:
        doubt, finding: What was asked about, and what was found.
        now: The ledger's time before the first question.
        margin: The vendor's `absence_margin`; `history`, for how long it shows what it made: seconds.
        is_owner: The credential that asked is the one that the call was sent with, or the path says whose calls it is about.
    """

    doubt: Doubt
    finding: Finding
    now: float
    margin: float | None
    history: float
    is_owner: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    How a doubt ends: settled, released, or (None) not at all.

    Attributes:
        outcome: What the ledger is told.
        words: Why, for people; what to do next where it stays.
        objects: The vendor objects that it is settled by.
    """

    outcome: Outcome | None
    words: str
    objects: tuple[str, ...] = ()


@dataclass(slots=True)
class _Group:
    """
    Doubts that some vendor objects could belong to, each of them to any.

    Attributes:
        earlier: What looks like it and was made before it was asked for, as far as the two clocks agree: it settles nothing, and while it
            is there nothing is taken for absent.
    """

    asked: list[Asked] = field(default_factory=list["Asked"])
    candidates: dict[str, Candidate] = field(default_factory=dict[str, "Candidate"])
    earlier: list[str] = field(default_factory=list[str])


def verdicts(asked: Sequence[Asked], claimed: Collection[str]) -> dict[str, Verdict]:
    """
    Decide doubts together, because one object must not settle two of them.

    Args:
        asked: All that may be about the same objects.
        claimed: Of the objects in the findings, those that a reservation has bought already.

    Returns:
        A verdict for each, by the reservation's id.
    """
    taken = set(claimed)
    found: dict[str, Verdict] = {}
    # Those that bear a mark of their call come first: what is theirs is nobody's candidate.
    for one in asked:
        if one.finding.outcome is not None:
            found[one.doubt.reservation_id] = _marked(one, one.finding.outcome, taken)
    for group in _groups([one for one in asked if one.finding.outcome is None], taken):
        found.update(_alike(group, [one for one in asked if not one.finding.is_whole and one.finding.outcome is None]))
    return found


def _marked(one: Asked, outcome: Outcome, taken: set[str]) -> Verdict:
    """Let an object settle the doubt whose mark it bears, unless it is counted already; one that was known before the call is its own."""
    if one.finding.needs_owner and not one.is_owner:
        return Verdict(None, _ANOTHER)
    objects = set(one.finding.objects)
    if outcome.ending == "settled" and one.doubt.object_id not in objects:
        if objects & taken:
            name = min(objects & taken)
            return Verdict(
                None, f"{one.finding.words}, but {name} is counted for another reservation already; settle or release it by hand"
            )
        taken |= objects
    return Verdict(outcome, one.finding.words, one.finding.objects)


def _groups(asked: list[Asked], taken: set[str]) -> Iterator[_Group]:
    """Put together what has a candidate in common; a doubt without any is a group of its own."""
    groups: list[_Group] = []
    for one in asked:
        free = [each for each in one.finding.candidates if each.object_id not in taken]
        begin = one.doubt.at - SKEW
        mine = _Group(
            [one], {each.object_id: each for each in free if each.at >= begin}, [each.object_id for each in free if each.at < begin]
        )
        for group in [group for group in groups if group.candidates.keys() & mine.candidates.keys()]:
            groups.remove(group)
            mine.asked += group.asked
            mine.candidates |= group.candidates
            mine.earlier += group.earlier
        groups.append(mine)
    yield from groups


def _alike(group: _Group, unread: list[Asked]) -> Iterator[tuple[str, Verdict]]:
    """Decide doubts that can be told from others only by what they look like."""
    asked = sorted(group.asked, key=lambda one: (one.doubt.at, one.doubt.reservation_id))
    reasons = {one.doubt.reservation_id: _why_it_stays(one) for one in asked}
    stays = next(filter(None, reasons.values()), "")
    if not group.candidates:
        (one,) = asked
        stays = stays or _too_early(one) or _earlier(group)
        words = f"presumed absent: {one.finding.words}, {_since(one)} after it was sent"
        yield one.doubt.reservation_id, Verdict(None, stays) if stays else Verdict(_ABSENT, words)
        return
    if not stays and any(_is_rival(one, other) for one in asked for other in unread):
        stays = "another call in doubt looks the same, and could not be looked for; try again later"
    pairs = {} if stays or (group.earlier and len(group.candidates) < len(asked)) else _paired(asked, group.candidates)
    for one in asked:
        name, candidate = one.doubt.reservation_id, pairs.get(one.doubt.reservation_id)
        if stays or (not pairs and group.candidates):
            yield name, Verdict(None, reasons[name] or stays or _ambiguous(asked, group.candidates))
        elif candidate is not None:
            yield name, Verdict(candidate.outcome, f"{one.finding.words}: {candidate.object_id}", (candidate.object_id,))
        else:
            yield (
                name,
                Verdict(_ABSENT, f"presumed absent: {one.finding.words}, and each is another call's, {_since(one)} after it was sent"),
            )


def _why_it_stays(one: Asked) -> str:
    """Return why likeness proves nothing here; "" where it does."""
    if not one.finding.is_whole:
        return one.finding.words
    if not one.is_owner:
        return _ANOTHER
    return ""


def _too_early(one: Asked) -> str:
    """Return why what is not shown may still have been executed; "" where that is presumed not to be so."""
    words, now = one.finding.words, one.now
    if one.margin is None:
        return f"{words}; what is not shown may have been executed all the same, so a person decides"
    if now - one.doubt.sent_at <= one.margin:
        when = datetime.fromtimestamp(one.doubt.sent_at + one.margin, timezone.utc)
        return f"{words}; it may still be executed: ask again after {when:%Y-%m-%d %H:%M} UTC"
    if now - one.doubt.at > one.history:
        return f"{words}, but it need not show any more what is so old; look there by hand"
    return ""


def _earlier(group: _Group) -> str:
    """Return why an object that seems too old may be of the call all the same; "" where there is none."""
    if not group.earlier:
        return ""
    return f"{group.earlier[0]} looks like it and seems to be older; if the clocks differed then it may be of it: look, and decide by hand"


def _is_rival(one: Asked, other: Asked) -> bool:
    mine, its = one.doubt, other.doubt
    same = (mine.vendor, mine.account, mine.operation, mine.amount) == (its.vendor, its.account, its.operation, its.amount)
    # Whom another run's call pays is hashed apart, so that it may be the same.
    return same and mine.reservation_id != its.reservation_id and (mine.scope != its.scope or mine.payee == its.payee)


def _paired(asked: list[Asked], candidates: dict[str, Candidate]) -> dict[str, Candidate]:
    """
    Give each object to one doubt; {} where that is a guess.

    As many objects as doubts: all were executed. More: nobody knows whose the others are. Fewer: only where the doubts are the same in
    everything that counts, and whatever has none is surely no more to come, so that it does not matter which of them was executed.
    """
    if len(candidates) < len(asked) and not _are_interchangeable(asked):
        return {}
    pairs: dict[str, Candidate] = {}
    free = sorted(candidates.values(), key=lambda each: (each.at, each.object_id))
    for one in sorted(asked, key=lambda one: len(one.finding.candidates)):
        own = {each.object_id for each in one.finding.candidates}
        candidate = next((each for each in free if each.object_id in own), None)
        if candidate is not None:
            free.remove(candidate)
            pairs[one.doubt.reservation_id] = candidate
    return {} if free else pairs


def _are_interchangeable(asked: list[Asked]) -> bool:
    kinds = {(one.doubt.scope, one.doubt.operation, one.doubt.amount, frozenset(one.finding.candidates)) for one in asked}
    return len(kinds) == 1 and not any(_too_early(one) for one in asked)


def _ambiguous(asked: list[Asked], candidates: dict[str, Candidate]) -> str:
    names = ", ".join(sorted(candidates)[:3])
    count = f"{len(candidates)} object{'' if len(candidates) == 1 else 's'} ({names}{', …' if len(candidates) > 3 else ''})"
    calls = "this call" if len(asked) == 1 else f"{len(asked)} calls in doubt"
    return f"{count} may be of {calls}: it is not said which; look at them and settle or release by hand"


def _since(one: Asked) -> str:
    seconds = one.now - one.doubt.sent_at
    return f"{seconds / 86_400:.0f} days" if seconds >= 2 * 86_400 else f"{seconds / 3600:.1f} hours"


def rivals(doubts: Sequence[Doubt], all_doubts: Sequence[Doubt]) -> list[Doubt]:
    """Return the other doubts whose object one of these could be taken for."""
    wanted: dict[tuple[str, str, str, int], set[str]] = defaultdict(set)
    for doubt in doubts:
        wanted[doubt.vendor, doubt.account, doubt.operation, doubt.amount].add(doubt.reservation_id)
    known = {doubt.reservation_id for doubt in doubts}
    return [
        doubt for doubt in all_doubts
        if doubt.reservation_id not in known and (doubt.vendor, doubt.account, doubt.operation, doubt.amount) in wanted
    ]  # fmt: skip
