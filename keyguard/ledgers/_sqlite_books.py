"""The books of a SQLite ledger: what each operation reads and writes inside one transaction. Opens and locks nothing.

Every change is a row of `entries` (chained by hash) beside the cached rows it folds into. `holds` carries the three
parts of each reservation; triggers of the schema keep `bucket` equal to their sums and refuse what does not fit.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
from base64 import urlsafe_b64encode
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import apsw

from keyguard.errors import ConfigurationError
from keyguard.ledgers._sqlite_proof import refold
from keyguard.model import TOKEN_PREFIX, Decision, Fact, Intent, Memory, Policy, Receipt, Usage, VaultKey
from keyguard.narrowing import narrowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Closing, Money, Order, Outcome

_logger = logging.getLogger("keyguard")
_KEY = "key_id, run_id, policy, expires_at, state, version"
_HOLD = (
    "id, key_id, scope, legs, count_leg, vendor, account, method, pot, object_id, adopts, prior, amount, adopted, "
    "spent, held, doubt, overrun, state, operation, refundable"
)
_HOLD_NAMES = _HOLD.split(", ")
_BACKWARDS_SECONDS = 3600
_FIELDS = ("seq", "at", "kind", "hold", "key_id", "scope", "operation", "legs", "amount", "spent", "held", "doubt", "detail", "hash")


class Books:
    """
    The operations of one connection. Not thread-safe: the queue runs one batch at a time.

    Attributes:
        at: The ledger's time in the current batch: POSIX seconds, never below the last entry's.
    """

    def __init__(self, db: apsw.Connection, clock: Callable[[], float], owner: str, mark_owner: Callable[[str], None]) -> None:
        self._db, self._clock, self._owner, self._mark_owner = db, clock, owner, mark_owner
        self._is_marked = self._has_warned = False
        ((secret,),) = db.execute("SELECT v FROM meta WHERE k = 'secret'")
        self._secret = bytes(secret)
        self._seq, self._hash, self.at, self._day, self._day_number = 0, b"", 0.0, "", -1
        self._buckets: dict[tuple[str, str], int] = {}
        self._suppressed: dict[tuple[str, str], tuple[float, int]] = {}

    # -- transactions -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the batch's transaction; read where the log stands and what time it is."""
        if self._db.in_transaction:
            # An interrupt struck while the last batch was being undone.
            self._db.execute("ROLLBACK")
        self._db.execute("BEGIN IMMEDIATE")
        head = self._db.execute("SELECT seq, at, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        self._seq, last, self._hash = head or (0, 0.0, b"")
        now = self._clock()
        if last - now > _BACKWARDS_SECONDS and not self._has_warned:
            self._has_warned = True
            _logger.warning("the clock is %.0f s behind the ledger's last entry; windows and expiry stay at the ledger's time", last - now)
        self.at = max(now, last, self.at)
        number = int(self.at // 86_400)
        if number != self._day_number:
            self._day_number, self._day = number, datetime.fromtimestamp(self.at, timezone.utc).strftime("%Y-%m-%d")

    def commit(self) -> None:
        """Commit the batch."""
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the batch; what was cached of it is forgotten."""
        self._buckets.clear()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _enter(
        self, kind: str, *, hold: str | None = None, key_id: str | None = None, scope: str | None = None, operation: str | None = None,
        legs: str | None = None, amount: Money | None = None, spent: Money | None = None, held: Money | None = None,
        doubt: Money | None = None, detail: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Append one row to the log."""
        self._seq += 1
        text = json.dumps(detail) if detail else "{}"
        row = [self._seq, self.at, kind, hold, key_id, scope, operation, legs, amount, spent, held, doubt, text]
        self._hash = chained(self._hash, row)
        self._db.execute("INSERT INTO entries VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)", (*row, self._hash))

    # -- keys -------------------------------------------------------------------------------------

    def issue(self, policy: Policy, run_id: str | None) -> tuple[VaultKey, tuple[str, ...]]:
        """Make a key, or find the run's and narrow it."""
        known = (
            None if run_id is None else self._db.execute(f"SELECT {_KEY}, asked, raised FROM keys WHERE run_id = ?", (run_id,)).fetchone()
        )
        if known is not None:
            return self._narrow(policy, known)
        key_id = os.urandom(8).hex()
        key = VaultKey(key_id, self._token(key_id), policy, run_id, self.at + policy.expires_in if policy.expires_in else None)
        stored = json.dumps(policy.stored())
        self._db.execute(
            "INSERT INTO keys (key_id, run_id, scope, policy_name, asked, policy, expires_at, issued_at) VALUES (?,?,?,?,?,?,?,?)",
            (key_id, run_id, key.scope, key.policy_name, stored, stored, key.expires_at, self.at),
        )
        self._budget(key.scope, "usd", policy.run_usd_cap)
        self._budget(f"refund:{key.scope}", "usd", policy.refund_usd_cap or 0, derived=policy.refund_usd_cap is None)
        self._budget(f"calls:{key.scope}", "call", policy.max_calls)
        self._enter("issue", key_id=key_id, scope=key.scope, detail={"policy": policy.stored(), "expires_at": key.expires_at})
        return key, self._day_budget(key)

    def _day_budget(self, key: VaultKey) -> tuple[str, ...]:
        """Declare the policy's day cap: the least that any of its runs asked for."""
        asked, scope = key.policy.daily_usd_cap, f"policy:{key.policy_name}"
        if asked is None:
            return ()
        known = self._db.execute("SELECT cap FROM budget WHERE scope = ?", (scope,)).fetchone()
        if known is None or known[0] is None or asked < known[0]:
            self._budget(scope, "usd", asked)
            self._enter("day_cap", scope=scope, detail={"cap": asked})
        elif asked > known[0]:
            return (f"daily_usd_cap of policy {key.policy_name!r} stays at {known[0]} micro-USD: an earlier run asked for less",)
        return ()

    def _budget(self, scope: str, unit: str, cap: Money | None, *, derived: bool = False) -> None:
        """Set what a scope may spend in each window, from today's on."""
        self._db.execute(
            "INSERT INTO budget VALUES (?,?,?,?) ON CONFLICT (scope) DO UPDATE SET cap = excluded.cap, derived = excluded.derived",
            (scope, unit, cap, int(derived)),
        )
        self._db.execute(
            "UPDATE bucket SET cap = ?, derived = ?, top = CASE WHEN ? IS NULL OR top IS NULL THEN NULL ELSE max(top, ?) END "
            "WHERE scope = ? AND win IN ('', ?)",
            (cap, int(derived), cap, cap, scope, self._day),
        )
        if not scope.startswith("policy:"):
            self._bucket(scope, "")

    def _narrow(self, again: Policy, row: tuple[Any, ...]) -> tuple[VaultKey, tuple[str, ...]]:
        key, asked, is_raised = self._restored(row), Policy.restored(json.loads(row[6])), bool(row[7])
        force, warnings = narrowed(key.policy, asked, again, is_raised=is_raised)
        if force is key.policy:
            # Nothing narrower was asked; the arguments are kept, so that asking the same again is quiet.
            self._db.execute("UPDATE keys SET asked = ? WHERE key_id = ?", (json.dumps(again.stored()), key.key_id))
            return key, warnings
        expires_at = key.expires_at
        if force.expires_in is not None and force.expires_in != key.policy.expires_in:
            expires_at = min(expires_at or float("inf"), self.at + force.expires_in)
        self._replace(key, force, expires_at, asked=again, raised=is_raised)
        self._enter("narrow", key_id=key.key_id, scope=key.scope, detail={"policy": force.stored(), "expires_at": expires_at})
        found = self.key(key_id=key.key_id)
        assert found is not None
        return found, (*warnings, *self._day_budget(found))

    def _replace(self, key: VaultKey, force: Policy, expires_at: float | None, *, asked: Policy | None, raised: bool) -> None:
        self._db.execute(
            "UPDATE keys SET policy = ?, asked = coalesce(?, asked), expires_at = ?, raised = ?, version = version + 1 WHERE key_id = ?",
            (json.dumps(force.stored()), json.dumps(asked.stored()) if asked else None, expires_at, int(raised), key.key_id),
        )
        self._budget(key.scope, "usd", force.run_usd_cap)
        self._budget(f"calls:{key.scope}", "call", force.max_calls)
        if force.refund_usd_cap is not None:
            self._budget(f"refund:{key.scope}", "usd", force.refund_usd_cap)

    def raise_cap(self, run_id: str, cap: Money, by: str) -> VaultKey:
        """Set a run's cap by a human's decision; its expiry starts again."""
        row = self._db.execute(f"SELECT {_KEY} FROM keys WHERE run_id = ?", (run_id,)).fetchone()
        if row is None:
            raise ConfigurationError(f"no run {run_id!r} in this ledger; `keyguard status` lists the runs")
        key = self._restored(row)
        force = key.policy.model_copy(update={"run_usd_cap": cap})
        expires_at = self.at + force.expires_in if force.expires_in else key.expires_at
        self._replace(key, force, expires_at, asked=None, raised=True)
        detail = {"cap": cap, "before": key.policy.run_usd_cap, "by": by, "expires_at": expires_at}
        self._enter("raise", key_id=key.key_id, scope=key.scope, detail=detail)
        found = self.key(key_id=key.key_id)
        assert found is not None
        return found

    def revoke(self, key_id: str | None, run_id: str | None, policy: str | None, state: str, by: str) -> int:
        """End keys; returns how many of the target's are ended now."""
        column, value = next((c, v) for c, v in (("key_id", key_id), ("run_id", run_id), ("policy_name", policy)) if v is not None)
        rows: list[Any] = self._db.execute(f"SELECT key_id, scope, state FROM keys WHERE {column} = ?", (value,)).fetchall()
        for found, scope, before in rows:
            if before == "active":
                self._db.execute("UPDATE keys SET state = ?, version = version + 1 WHERE key_id = ?", (state, found))
                self._enter("revoke" if state == "revoked" else "close_key", key_id=found, scope=scope, detail={"by": by})
        return len(rows)

    def key(self, *, token: str | None = None, key_id: str | None = None, run_id: str | None = None) -> VaultKey | None:
        """Find a key; a forged token finds none."""
        if token is not None:
            key_id = token.removeprefix(TOKEN_PREFIX).partition("_")[0]
            if not hmac.compare_digest(self._token(key_id).encode("utf-8", "surrogatepass"), token.encode("utf-8", "surrogatepass")):
                return None
        column, value = ("run_id", run_id) if key_id is None else ("key_id", key_id)
        row = self._db.execute(f"SELECT {_KEY} FROM keys WHERE {column} = ?", (value,)).fetchone()
        return None if row is None else self._restored(row)

    def _restored(self, row: tuple[Any, ...]) -> VaultKey:
        key_id, run_id, policy, expires_at, state, version = row[:6]
        return VaultKey(key_id, self._token(key_id), Policy.restored(json.loads(policy)), run_id, expires_at, state, version)

    def _token(self, key_id: str) -> str:
        mac = hmac.new(self._secret, key_id.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        return f"{TOKEN_PREFIX}{key_id}_{urlsafe_b64encode(mac).decode().rstrip('=')}"

    # -- reserve ----------------------------------------------------------------------------------

    def reserve(self, order: Order) -> Decision:
        """Hold on all legs or on none; a refusal leaves everything as it was."""
        if not self._is_marked:
            self._mark_owner(self._owner)
            self._is_marked = True
        if order.quote.adopts:
            return self._adopting(order)
        return self._book(order, order.quote.amount, 0)

    def _again(self, order: Order, known: dict[str, Any]) -> Decision:
        """Answer a reserve whose answer was lost: granted as before, unless it is over or is another order."""
        amount = max(order.quote.amount, known["adopted"])
        same = (known["key_id"], known["operation"], known["amount"]) == (order.key_id, order.operation, amount)
        if known["state"] != "R" or not same:
            return Decision(granted=False, reason="duplicate", requested=order.quote.amount)
        return self._granted(order, known["amount"], known["adopted"])

    def _adopting(self, order: Order) -> Decision:
        """Move the object's open hold to the new reservation; if the whole does not fit, nothing moves."""
        known = self._hold(order.reservation_id)
        if known is not None:
            return self._again(order, known)
        found = self._object(order.scope, order.vendor, order.account, order.quote.object_id or "")
        open_hold = self._hold(found["open_id"]) if found is not None and found["open_id"] else None
        if found is None or open_hold is None or open_hold["state"] != "O":
            return self._book(order, order.quote.amount, 0)
        for leg in order.legs:
            # Outside the savepoint: a day's row that its undoing took away would still be remembered.
            self._bucket(leg.scope, self._day if leg.per == "day" else "")
        before, adopted = (self._seq, self._hash), open_hold["held"]
        self._db.execute("SAVEPOINT adopting")
        self._set(open_hold, "adopt", "A", open_hold["spent"], 0, open_hold["doubt"], {"by": order.reservation_id})
        decision = self._book(order, max(order.quote.amount, adopted), adopted, before=before)
        if decision.granted:
            where = (order.scope, order.vendor, order.account, found["object_id"])
            self._db.execute("UPDATE objects SET open_id = NULL WHERE scope = ? AND vendor = ? AND account = ? AND object_id = ?", where)
            self._db.execute("RELEASE adopting")
        return decision

    def _book(self, order: Order, amount: Money, adopted: Money, *, before: tuple[int, bytes] | None = None) -> Decision:
        legs = [self._bucket(leg.scope, self._day if leg.per == "day" else "") for leg in order.legs if leg.unit == "usd"]
        count_leg = next((self._bucket(leg.scope, "") for leg in order.legs if leg.unit == "call"), None)
        quote = order.quote
        try:
            self._db.execute(
                "INSERT INTO holds VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,0,?,0,0,0,1,'R',?)",
                (
                    order.reservation_id, order.key_id, order.version, order.scope, str(legs), count_leg, order.vendor, order.account,
                    order.operation, order.method, quote.pot, quote.object_id, quote.adopts, quote.prior, order.identity, order.enforce,
                    self._owner, amount, adopted, amount, self.at,
                ),
            )  # fmt: skip
        except apsw.ConstraintError as error:
            if before is not None:
                self._db.execute("ROLLBACK TO adopting")
                self._db.execute("RELEASE adopting")
                self._seq, self._hash = before
            return self._refused(order, amount, str(error))
        detail = {
            key: value for key, value in (("identity", order.identity), ("calls", count_leg), ("observe", not order.enforce)) if value
        }
        self._enter(
            "reserve", hold=order.reservation_id, key_id=order.key_id, scope=order.scope, operation=order.operation, legs=str(legs),
            amount=amount, spent=0, held=amount, doubt=0, detail=detail,
        )  # fmt: skip
        return self._granted(order, amount, adopted)

    def is_worth_a_sync(self, order: Order, decision: Decision) -> bool:
        """Say whether losing this reserve with the power would lose money, or a place of a call cap."""
        if not decision.granted or decision.held_amount:
            return decision.granted
        counts = [self._bucket(leg.scope, "") for leg in order.legs if leg.unit == "call"]
        return any(self._db.execute("SELECT cap FROM bucket WHERE id = ?", (leg,)).fetchone() != (None,) for leg in counts)

    def _granted(self, order: Order, amount: Money, adopted: Money) -> Decision:
        limit, remaining = self._left(order.scope)
        return Decision(granted=True, held_amount=amount, adopted=adopted, requested=amount, limit=limit, remaining=remaining)

    def _left(self, scope: str) -> tuple[Money | None, Money | None]:
        row = self._db.execute("SELECT cap, cap - spent - held - doubt FROM bucket WHERE id = ?", (self._bucket(scope, ""),)).fetchone()
        return (None, None) if row is None or row[0] is None else (row[0], max(0, row[1]))

    def _refused(self, order: Order, amount: Money, message: str) -> Decision:
        """Say why the schema's triggers refused."""
        if "kg:" in message:
            # Triggers run in no promised order: a key's end is the reason also where nothing fits.
            reason = self._why_key(order)
            decision = Decision(granted=False, reason=reason, requested=amount) if reason else self._why_cap(order, amount)
        elif "holds.id" in message:
            return self._again(order, self._hold(order.reservation_id) or {})
        else:
            raise apsw.ConstraintError(message)
        if decision.reason != "stale":
            self.refuse(order, decision.reason, {"scope": decision.scope} if decision.scope else {})
        return decision

    def _why_key(self, order: Order) -> Any:
        row = self._db.execute("SELECT state, expires_at, version FROM keys WHERE key_id = ?", (order.key_id,)).fetchone()
        if row is None:
            return "unknown_key"
        state, expires_at, version = row
        if state != "active":
            return state
        if expires_at is not None and expires_at <= self.at:
            return "expired"
        return "" if version == order.version else "stale"

    def _why_cap(self, order: Order, amount: Money) -> Decision:
        for leg in order.legs:
            wanted = amount if leg.unit == "usd" else 1
            bucket = self._bucket(leg.scope, self._day if leg.per == "day" else "")
            row = self._db.execute("SELECT cap, spent, held, doubt FROM bucket WHERE id = ?", (bucket,)).fetchone()
            if row is None:
                break
            cap, spent, held, doubt = row
            if cap is not None and spent + held + doubt + wanted > cap:
                return Decision(
                    granted=False, reason="cap_exceeded", scope=leg.scope, unit=leg.unit, cap=cap, spent=spent, held=held, doubt=doubt,
                    requested=wanted, resets_at=self._next_day() if leg.per == "day" else None,
                )  # fmt: skip
        raise apsw.ConstraintError("a leg of this order names no budget")

    def _next_day(self) -> float:
        today = datetime.strptime(self._day, "%Y-%m-%d").replace(tzinfo=timezone.utc)
        return (today + timedelta(days=1)).timestamp()

    def refuse(self, order: Order, reason: str, detail: dict[str, Any]) -> None:
        """Log a refusal; a loop of them writes one row a second and counts the rest."""
        name = (order.key_id, reason)
        last, count = self._suppressed.get(name, (float("-inf"), 0))
        if self.at - last < 1:
            self._suppressed[name] = (last, count + 1)
            return
        if len(self._suppressed) > 1000:
            self._suppressed.clear()
        self._suppressed[name] = (self.at, 0)
        self._enter(
            "refuse", key_id=order.key_id, scope=order.scope, operation=order.operation, amount=order.quote.amount,
            detail={"reason": reason, **detail, **({"suppressed": count} if count else {})},
        )  # fmt: skip

    def _bucket(self, scope: str, win: str) -> int:
        """Return the row of a scope's window, made from its budget when it is new."""
        found = self._buckets.get((scope, win))
        if found is None:
            self._db.execute(
                "INSERT OR IGNORE INTO bucket (scope, win, unit, cap, top, derived) "
                "SELECT scope, ?, unit, cap, cap, derived FROM budget WHERE scope = ?",
                (win, scope),
            )
            row = self._db.execute("SELECT id FROM bucket WHERE scope = ? AND win = ?", (scope, win)).fetchone()
            # -1 is no row: a scope nobody issued cannot be booked on, and the key's check says why.
            found = -1 if row is None else int(row[0])
            if row is not None and len(self._buckets) < 10_000:
                self._buckets[scope, win] = found
        return found

    # -- close ------------------------------------------------------------------------------------

    def close(self, closing: Closing) -> Receipt:
        """Book how a reservation ended; what is already settled or released stays."""
        hold = self._hold(closing.reservation_id)
        if hold is None:
            return Receipt(closing.reservation_id, found=False)
        outcome = closing.outcome
        if hold["state"] == "R" or (hold["state"] == "U" and outcome.ending != "doubt"):
            self._end(hold, outcome, unsent=closing.unsent)
        return Receipt(hold["id"], spent=hold["spent"], held=hold["held"], doubt=hold["doubt"], overrun=hold["overrun"])

    def _end(self, hold: dict[str, Any], outcome: Outcome, *, unsent: bool) -> None:
        detail: dict[str, Any] = {"unsent": True} if unsent else {}
        if outcome.request_id:
            detail["request_id"] = outcome.request_id
        if outcome.ending == "doubt":
            self._set(hold, "doubt", "U", 0, 0, hold["amount"], detail)
        elif outcome.ending == "released":
            self._release(hold, detail)
        else:
            self._settle(hold, outcome, detail)

    def _release(self, hold: dict[str, Any], detail: dict[str, Any]) -> None:
        """Give back what this call itself reserved; an adopted hold is an open intent again."""
        adopted = hold["adopted"]
        self._set(hold, "release", "O" if adopted else "X", 0, adopted, 0, detail)
        if adopted:
            self._db.execute(
                "UPDATE objects SET open_id = ? WHERE scope = ? AND vendor = ? AND account = ? AND object_id = ?",
                (hold["id"], hold["scope"], hold["vendor"], hold["account"], self._root(hold, hold["object_id"] or "")),
            )

    def _root(self, hold: dict[str, Any], name: str) -> str:
        """Return the object whose money it is, by any of its names."""
        found = self._object(hold["scope"], hold["vendor"], hold["account"], name)
        return str(found["object_id"]) if found is not None else name

    def _settle(self, hold: dict[str, Any], outcome: Outcome, detail: dict[str, Any]) -> None:
        bought = self._bought(hold, outcome)
        if bought is None:
            self._set(hold, "settle", "S", outcome.cost, 0, 0, detail)
        else:
            self._buy(hold, bought, detail)
        for fact in outcome.facts:
            if fact is not bought:
                self._observe(hold, fact)
        if outcome.refund_of is not None:
            self._db.execute(
                "UPDATE objects SET refunded = refunded + ? WHERE scope = ? AND vendor = ? AND account = ? AND object_id = ?",
                (outcome.cost, hold["scope"], hold["vendor"], hold["account"], self._root(hold, outcome.refund_of)),
            )

    def _bought(self, hold: dict[str, Any], outcome: Outcome) -> Fact | None:
        """Return the fact about what this write bought: the object it made, or whose hold it adopted."""
        if hold["method"] in {"GET", "HEAD", "OPTIONS"} or not outcome.facts or (hold["object_id"] is not None and not hold["adopts"]):
            return None
        return outcome.facts[0]

    def _buy(self, hold: dict[str, Any], fact: Fact, detail: dict[str, Any]) -> None:
        known = self._find(hold, fact)
        if known is not None and known["open_id"] not in {None, hold["id"]}:
            # A replay of a create: its object is open under the first reservation, which learns of it instead.
            self._set(hold, "settle", "S", 0, 0, 0, detail)
            self._observe(hold, fact)
            return
        before = known["total"] if known is not None else hold["prior"]
        spent = max(0, fact.spent - before)
        held = fact.held
        is_replay = known is not None and known["last_id"] not in {None, hold["id"]} and not hold["adopts"]
        if is_replay:
            held = 0
        self._set(hold, "settle", "O" if held else "S", spent, held, 0, {**detail, "object": fact.object_id}, bought=spent)
        self._learn(hold, fact, known, own=spent, total=max(before, fact.spent), open_id=hold["id"] if held else None, last_id=hold["id"])

    def _observe(self, hold: dict[str, Any], fact: Fact) -> None:
        """Let a reply about an object of this scope update the reservation that holds its money."""
        known = self._find(hold, fact)
        if known is None or not (known["open_id"] or known["last_id"]):
            return
        target = self._hold(known["open_id"] or known["last_id"])
        spent = max(0, fact.spent - known["total"])
        if target is None or target["state"] not in {"O", "S"} or (known["open_id"] is None and not spent):
            return
        held = fact.held if known["open_id"] is not None else target["held"]
        if spent or held != target["held"]:
            detail: dict[str, Any] = {"object": known["object_id"], "status": fact.status, "by": hold["id"]}
            self._set(target, "observe", "O" if held else "S", target["spent"] + spent, held, 0, detail, bought=spent)
        open_id = known["open_id"] if held else None
        self._learn(hold, fact, known, own=spent, total=max(known["total"], fact.spent), open_id=open_id, last_id=known["last_id"])

    def _find(self, hold: dict[str, Any], fact: Fact) -> dict[str, Any] | None:
        names = (fact.object_id, *fact.aliases)
        return next(filter(None, (self._object(hold["scope"], hold["vendor"], hold["account"], name) for name in names)), None)

    def _learn(
        self,
        hold: dict[str, Any],
        fact: Fact,
        known: dict[str, Any] | None,
        *,
        own: Money,
        total: Money,
        open_id: str | None,
        last_id: str | None,
    ) -> None:
        where = (hold["scope"], hold["vendor"], hold["account"])
        root = known["object_id"] if known is not None else fact.object_id
        rows: list[tuple[Any, ...]] = [(*where, root, None, own, total, fact.amount, fact.status, open_id, last_id)]
        rows += [(*where, alias, root, 0, 0, 0, "", None, None) for alias in {fact.object_id, *fact.aliases} - {root}]
        self._db.execute(
            f"INSERT INTO objects (scope, vendor, account, object_id, alias_of, own, total, amount, status, open_id, last_id) "
            f"VALUES {', '.join(['(?,?,?,?,?,?,?,?,?,?,?)'] * len(rows))} ON CONFLICT (scope, vendor, account, object_id) DO UPDATE SET "
            "own = own + excluded.own, total = excluded.total, amount = excluded.amount, status = excluded.status, "
            "open_id = excluded.open_id, last_id = excluded.last_id WHERE excluded.alias_of IS NULL",
            [value for row in rows for value in row],
        )

    def _set(
        self,
        hold: dict[str, Any],
        kind: str,
        state: str,
        spent: Money,
        held: Money,
        doubt: Money,
        detail: dict[str, Any],
        *,
        bought: Money = 0,
    ) -> None:
        """Give a reservation new parts; the schema moves the differences to its own windows. `bought` may be refunded."""
        overrun = max(0, spent + held + doubt - hold["amount"])
        refundable = hold["refundable"] + (bought if hold["pot"] == "run" else 0)
        self._db.execute(
            "UPDATE holds SET state = ?, spent = ?, held = ?, doubt = ?, overrun = ?, refundable = ?, sent = ? WHERE id = ?",
            (state, spent, held, doubt, overrun, refundable, "unsent" not in detail, hold["id"]),
        )
        hold.update(state=state, spent=spent, held=held, doubt=doubt, overrun=overrun, refundable=refundable)
        self._enter(
            kind, hold=hold["id"], key_id=hold["key_id"], scope=hold["scope"], operation=hold["operation"], legs=hold["legs"],
            amount=hold["amount"], spent=spent, held=held, doubt=doubt, detail=detail,
        )  # fmt: skip

    # -- reading ----------------------------------------------------------------------------------

    def _hold(self, reservation_id: str) -> dict[str, Any] | None:
        row = self._db.execute(f"SELECT {_HOLD} FROM holds WHERE id = ?", (reservation_id,)).fetchone()
        return None if row is None else dict(zip(_HOLD_NAMES, row, strict=True))

    def _object(self, scope: str, vendor: str, account: str, object_id: str) -> dict[str, Any] | None:
        names = ("object_id", "alias_of", "own", "total", "amount", "refunded", "status", "open_id", "last_id")
        row = self._db.execute(
            f"SELECT {', '.join(names)} FROM objects WHERE scope = ? AND vendor = ? AND account = ? AND object_id = ?",
            (scope, vendor, account, object_id),
        ).fetchone()
        found: dict[str, Any] | None = None if row is None else dict(zip(names, row, strict=True))
        if found is not None and found["alias_of"] is not None:
            return self._object(scope, vendor, account, found["alias_of"])
        return found

    def recall(self, scope: str, vendor: str, account: str, object_id: str) -> Memory | None:
        """Return what is remembered of an object, by any of its names."""
        found = self._object(scope, vendor, account, object_id)
        if found is None:
            return None
        open_hold = self._hold(found["open_id"]) if found["open_id"] else None
        return Memory(
            found["object_id"], own=found["own"], spent=found["total"], held=open_hold["held"] if open_hold is not None else 0,
            amount=found["amount"], refunded=found["refunded"], status=found["status"],
        )  # fmt: skip

    def usage(self, scope: str) -> Usage | None:
        """Return a scope's figures; a policy's are today's."""
        win = self._day if scope.startswith("policy:") else ""
        row = self._db.execute("SELECT cap, spent, held, doubt, overrun FROM bucket WHERE scope = ? AND win = ?", (scope, win)).fetchone()
        if row is None:
            budget = self._db.execute("SELECT cap FROM budget WHERE scope = ?", (scope,)).fetchone()
            return None if budget is None else Usage(scope, cap=budget[0])
        cap, spent, held, doubt, overrun = row
        refunded = self._db.execute("SELECT spent FROM bucket WHERE scope = ?", (f"refund:{scope}",)).fetchone()
        calls = self._db.execute("SELECT spent + held FROM bucket WHERE scope = ?", (f"calls:{scope}",)).fetchone()
        return Usage(
            scope, cap, spent, held, doubt, refunded=refunded[0] if refunded else 0, overrun=overrun, calls=calls[0] if calls else 0,
            intents=self._intents(scope),
        )  # fmt: skip

    def _intents(self, scope: str) -> tuple[Intent, ...]:
        rows = self._db.execute(
            "SELECT coalesce((SELECT o.object_id FROM objects o WHERE o.scope = h.scope AND o.open_id = h.id), h.object_id, h.id), h.held, "
            "h.operation, h.at FROM holds h WHERE h.scope = ? AND h.state = 'O' ORDER BY h.at, h.id",
            (scope,),
        )
        return tuple(Intent(*row) for row in rows)

    def runs(self, limit: int) -> list[tuple[VaultKey, Usage]]:
        """Return the latest keys with their figures, newest first."""
        rows = self._db.execute(f"SELECT {_KEY} FROM keys ORDER BY issued_at DESC, key_id LIMIT ?", (limit,)).fetchall()
        keys = [self._restored(row) for row in rows]
        return [(key, self.usage(key.scope) or Usage(key.scope)) for key in keys]

    def page(self, scope: str | None, after: int, size: int) -> list[dict[str, Any]]:
        """Return the next rows of the log."""
        where = "" if scope is None else "AND scope = ?"
        arguments = (after, size) if scope is None else (after, scope, size)
        rows = self._db.execute(f"SELECT * FROM entries WHERE seq > ? {where} ORDER BY seq LIMIT ?", arguments)
        return [{**dict(zip(_FIELDS, row, strict=True)), "detail": json.loads(row[12])} for row in rows]

    def verify(self) -> list[str]:
        """Refold the log and compare it with the balances."""
        return refold(self._db, chained)


def chained(previous: bytes, row: list[Any]) -> bytes:
    """Return the hash of a row of the log after the one before it; `repr` of plain values is exact and unambiguous."""
    return hashlib.sha256(previous + repr(row).encode()).digest()
