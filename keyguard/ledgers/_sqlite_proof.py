"""The proof of a SQLite ledger: everything that is cached, folded anew from the log alone and compared. Writes nothing."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from keyguard.ledgers._sqlite_holds import legs_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw


# Of each reservation: legs, spent, held, doubt, amount, units.
Folded: TypeAlias = "dict[str, tuple[str, int, int, int, int, int]]"


def refold(db: apsw.Connection, chained: Callable[[bytes, list[Any]], bytes]) -> list[str]:
    """Return what is wrong, in words; nothing means that log, reservations, budgets and caps agree."""
    wrong: list[str] = []
    holds, unsent = _fold(db, chained, wrong)
    _compare_holds(db, holds, wrong)
    _compare_buckets(db, holds, unsent, wrong)
    _compare_caps(db, wrong)
    _compare_recurring(db, wrong)
    _compare_children(db, wrong)
    return wrong


def _fold(db: apsw.Connection, chained: Callable[[bytes, list[Any]], bytes], wrong: list[str]) -> tuple[Folded, set[str]]:
    """Walk the chain; returns each reservation as its last row left it, and those that are no calls."""
    previous, expected = b"", 1
    holds: Folded = {}
    unsent: set[str] = set()
    for *row, digest in db.execute("SELECT * FROM entries ORDER BY seq"):
        seq, _, kind, hold, _, _, _, legs, amount, spent, held, doubt, text = row
        if seq != expected:
            wrong.append(f"entry {expected} is missing: the next one is {seq}")
        if chained(previous, row) != digest:
            wrong.append(f"entry {seq} ({kind}) does not continue the chain: it or one before it was changed, removed or reordered")
        previous, expected = digest, seq + 1
        detail = _read(text)
        if detail.get("unsent") or detail.get("moved"):
            unsent.add(hold)
        if hold is not None:
            holds[hold] = (legs, spent, held, doubt, amount, detail.get("units", 0))
    return holds, unsent


def _read(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        # Somebody's pen; the chain says which row.
        return {}
    return found if isinstance(found, dict) else {}


def _compare_holds(db: apsw.Connection, holds: Folded, wrong: list[str]) -> None:
    columns = "id, leg0, leg1, leg2, count_leg, unit_leg, above, spent, held, doubt, amount, units"
    kept = {row[0]: (legs_text(*row[1:7]), *row[7:]) for row in db.execute(f"SELECT {columns} FROM holds")}
    for name in sorted(kept.keys() | holds.keys()):
        if kept.get(name) != holds.get(name):
            wrong.append(f"reservation {name}: the log says {holds.get(name)}, the books say {kept.get(name)}")


def _compare_buckets(db: apsw.Connection, holds: Folded, unsent: set[str], wrong: list[str]) -> None:
    sums: dict[int, list[int]] = {}
    calls: Counter[int] = Counter()
    emails: Counter[int] = Counter()
    for hold, (legs, spent, held, doubt, amount, units) in holds.items():
        for leg in json.loads(legs):
            calls[leg] += hold not in unsent
            emails[leg] += units
            found = sums.setdefault(leg, [0, 0, 0, 0])
            for index, part in enumerate((spent, held, doubt, max(0, spent + held + doubt - amount))):
                found[index] += part
    columns = "id, scope, win, unit, top, loose, spent, held, doubt, overrun, peak"
    for number, scope, win, unit, top, loose, spent, held, doubt, overrun, peak in db.execute(f"SELECT {columns} FROM bucket"):
        name = f"budget {scope} {win}".strip()
        if unit in {"call", "email"}:
            counted = (calls if unit == "call" else emails)[number]
            if spent + held != counted:
                wrong.append(f"{name}: the log counts {counted} {unit}s, the books {spent + held}")
        elif [spent, held, doubt, overrun] != sums.get(number, [0, 0, 0, 0]):
            wrong.append(f"{name}: the log says {sums.get(number)}, the books say {[spent, held, doubt, overrun]}")
        if top is not None and not loose and peak > top + overrun:
            wrong.append(f"{name}: {peak} was counted at its peak, above the largest cap {top} and the overrun {overrun}")


def _compare_caps(db: apsw.Connection, wrong: list[str]) -> None:
    """Compare the caps in force with what installs, raises and day budgets say in the log."""
    caps = _folded_caps(db)
    for scope, cap, derived in db.execute("SELECT scope, cap, derived FROM budget"):
        if not derived and cap != caps.get(scope):
            wrong.append(f"budget {scope}: the log sets the cap {caps.get(scope)}, the books have {cap}")
    for scope, win, cap, top, derived in db.execute("SELECT scope, win, cap, top, derived FROM bucket"):
        name = f"budget {scope} {win}".strip()
        if derived:
            paid = scope.removeprefix("refund:")
            charged = sum(part for (part,) in db.execute("SELECT refundable FROM holds WHERE scope = ?", (paid,)))
            if cap != charged:
                wrong.append(f"{name}: the run charged {charged}, but may refund {cap}")
        elif not win and cap != caps.get(scope):
            wrong.append(f"{name}: the log sets the cap {caps.get(scope)}, the books have {cap}")
        elif cap is not None and top is not None and cap > top:
            wrong.append(f"{name}: its cap {cap} is above the largest it ever had, {top}")


def _folded_caps(db: apsw.Connection) -> dict[str, int | None]:
    caps: dict[str, int | None] = {}
    for kind, scope, text in db.execute(
        "SELECT kind, scope, detail FROM entries WHERE kind IN ('issue', 'narrow', 'raise', 'day_cap') ORDER BY seq"
    ):
        detail = _read(text)
        if kind in {"raise", "day_cap"}:
            caps[scope] = detail.get("cap")
            continue
        policy = detail.get("policy", {})
        caps[scope], caps[f"calls:{scope}"] = policy.get("run_usd_cap"), policy.get("max_calls")
        caps[f"emails:{scope}"], caps[f"refund:{scope}"] = policy.get("max_emails"), policy.get("refund_usd_cap")
    return caps


def _compare_recurring(db: apsw.Connection, wrong: list[str]) -> None:
    """Compare which reservations the vendor will charge again for with what their rows of the log say."""
    rows = db.execute("SELECT hold, detail FROM entries WHERE kind = 'reserve' AND detail LIKE '%recurring%'")
    logged = {hold for hold, text in rows if _read(text).get("recurring")}
    kept = {name for (name,) in db.execute("SELECT id FROM holds WHERE recurring = 1")}
    wrong += [f"reservation {name}: whether its charge recurs differs between the log and the books" for name in sorted(logged ^ kept)]


def _compare_children(db: apsw.Connection, wrong: list[str]) -> None:
    """Compare who lies in whose budget with the log, and look for money of a child that is not on each budget that it lies in."""
    names = dict(db.execute("SELECT key_id, coalesce(run_id, key_id) FROM keys"))
    parents = dict(db.execute("SELECT key_id, parent FROM keys WHERE parent IS NOT NULL"))
    issued = db.execute("SELECT key_id, detail FROM entries WHERE kind = 'issue' AND detail LIKE '%\"parent\"%'")
    logged = {key: parent for key, text in issued if (parent := _read(text).get("parent")) is not None}
    for child in sorted(parents.keys() | logged.keys()):
        kept = names.get(parents.get(child, ""))
        if kept != logged.get(child):
            wrong.append(f"key {child}: the log says its budget lies in that of {logged.get(child)}, the books say {kept}")
    scopes = dict(db.execute("SELECT key_id, scope FROM keys"))
    rows = dict(db.execute("SELECT id, scope FROM bucket WHERE unit = 'usd'"))
    columns = "id, key_id, leg0, leg1, leg2, count_leg, unit_leg, above, pot"
    for name, payer, *legs, pot in db.execute(f"SELECT {columns} FROM holds WHERE amount + spent + held + doubt > 0"):
        booked = {rows.get(leg) for leg in json.loads(legs_text(*legs))}
        key: Any = payer
        while key is not None:
            if (scope := f"refund:{scopes.get(key)}" if pot == "refund" else scopes.get(key)) not in booked:
                wrong.append(f"reservation {name} is not booked on {scope}, whose money it is")
            key = parents.get(key)
