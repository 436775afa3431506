"""How `keyguard doubts`, `reconcile`, `settle` and `release` show what they do: lines for people, JSON for machines. Asks nobody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from keyguard.model import show, to_usd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyguard.doubts import Answer, Reconciled
    from keyguard.model import Doubt, Receipt

_SHORTEST = 8
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def show_doubts(doubts: Sequence[Doubt], now: float, url: str, *, as_json: bool) -> None:
    """Print what is in doubt, oldest first, and what to type next."""
    if as_json:
        print(json.dumps([_row(doubt, now) for doubt in doubts], indent=2))
        return
    if not doubts:
        print(f"nothing is in doubt in {url}")
        return
    print(f"{_count(doubts)} in doubt in {url}, {show(sum(doubt.amount for doubt in doubts))} in all, oldest first")
    names = short_names([doubt.reservation_id for doubt in doubts])
    for doubt in doubts:
        print(_line(doubt, names[doubt.reservation_id], now))
        print(f"    {_known(doubt)}")
    print("next: keyguard reconcile   asks the vendors, by reads alone")
    _print_by_hand()


def show_reconciled(done: Reconciled, now: float, url: str, *, as_json: bool) -> int:
    """Print what vendors showed and what was booked of it; returns the exit code: 1 while something is left in doubt."""
    code = int(bool(done.left))
    if as_json:
        rows = [_answer(answer, now) for answer in done.answers]
        late = [_answer(answer, now) for answer in done.late]
        said = {"before_usd": to_usd(done.before), "after_usd": to_usd(done.after), "dry_run": done.is_dry, "doubts": rows, "late": late}
        print(json.dumps(said, indent=2))
        return code
    if done.late:
        print(f"{'would be' if done.is_dry else 'is'} counted as the vendors show it now:")
    for answer in done.late:
        print(f"    {answer.doubt.vendor} {answer.doubt.operation} of {_whose(answer.doubt)}: {answer.words}")
    if not done.answers:
        print(f"nothing is in doubt in {url}")
        return code
    names = short_names([answer.doubt.reservation_id for answer in done.answers])
    for answer in done.answers:
        print(_line(answer.doubt, names[answer.doubt.reservation_id], now))
        print(f"    {_ended(answer, is_dry=done.is_dry)}: {answer.words}")
    print(f"in doubt: {show(done.before)} before, {show(done.after)} {'would be left' if done.is_dry else 'now'}")
    if done.left:
        print("next: keyguard reconcile   again later")
        _print_by_hand()
    return code


def _print_by_hand() -> None:
    print("  or: keyguard settle ID --cost USD --reason TEXT   /   keyguard release ID --reason TEXT   by what you found out yourself")


def show_resolved(verb: str, receipt: Receipt, *, as_json: bool) -> None:
    """Print what a person settled or released."""
    counted = receipt.spent + receipt.held
    if receipt.replayed and not as_json:
        print(f"nothing changed: {receipt.reservation_id} is not in doubt any more, and as much is counted for it already")
        return
    if as_json:
        print(
            json.dumps(
                {
                    "reservation_id": receipt.reservation_id,
                    verb: not receipt.replayed,
                    "counted_usd": to_usd(counted),
                    "overrun_usd": to_usd(receipt.overrun),
                }
            )
        )
        return
    overrun = f", {show(receipt.overrun)} of it above what was held" if receipt.overrun else ""
    print(f"{verb} {receipt.reservation_id}: {show(counted)} is counted for it now{overrun}")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return the shortest beginning of each that names it alone, of eight characters at least."""
    found: dict[str, str] = {}
    for name in names:
        length = _SHORTEST
        while length < len(name) and sum(other.startswith(name[:length]) for other in names) > 1:
            length += 1
        found[name] = name[:length]
    return found


def age_of(seconds: float) -> str:
    """Write an age for people: `3 h 12 min`."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, word in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {word}")
    return " ".join(parts[:2]) or "less than a minute"


def _count(doubts: Sequence[Doubt]) -> str:
    return f"{len(doubts)} call{'' if len(doubts) == 1 else 's'}"


def _line(doubt: Doubt, name: str, now: float) -> str:
    about = f" of {doubt.object_id}" if doubt.object_id else ""
    return f"{name}  {show(doubt.amount)}  {doubt.vendor} {doubt.operation}{about}  {age_of(now - doubt.at)} old  {_whose(doubt)}"


def _whose(doubt: Doubt) -> str:
    return f"run {doubt.run_id}" if doubt.run_id else f"key {doubt.key_id}"


def _known(doubt: Doubt) -> str:
    """Say what is known of it besides."""
    known = [f"{doubt.attempts} attempt{'' if doubt.attempts == 1 else 's'}"]
    known.append(f"identity {doubt.identity[-8:]}" if doubt.identity else "no identity of its own: found by what it looks like")
    known += [f"account {doubt.account}"] if doubt.account else []
    known += [f"request {doubt.request_id}"] if doubt.request_id else []
    known.append(f"{doubt.ended} ended before the answer" if doubt.ended else "its call ended without an answer that says")
    return ", ".join(known)


def _ended(answer: Answer, *, is_dry: bool) -> str:
    if answer.ending == "doubt":
        return "stays in doubt"
    word = f"would be {answer.ending}" if is_dry else answer.ending
    return f"{word} at {show(answer.cost)}" if answer.ending == "settled" else word


def _row(doubt: Doubt, now: float) -> dict[str, Any]:
    return {
        "id": doubt.reservation_id,
        "run_id": doubt.run_id,
        "key_id": doubt.key_id,
        "vendor": doubt.vendor,
        "account": doubt.account,
        "operation": doubt.operation,
        "object_id": doubt.object_id,
        "amount_usd": to_usd(doubt.amount),
        "age_seconds": round(max(0.0, now - doubt.at), 3),
        "attempts": doubt.attempts,
        "identity": doubt.identity,
        "request_id": doubt.request_id,
        "ended": bool(doubt.ended),
    }


def _answer(answer: Answer, now: float) -> dict[str, Any]:
    return {**_row(answer.doubt, now), "ending": answer.ending, "counted_usd": to_usd(answer.cost), "words": answer.words}
