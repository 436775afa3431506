"""The keys of a SQLite ledger: issue, narrow, raise, revoke, find. Their caps become budgets; a child's lies in its parent's."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any

from keyguard.errors import ConfigurationError
from keyguard.inheriting import in_vain, inherited, is_same
from keyguard.ledgers._sqlite_children import Children
from keyguard.model import TOKEN_PREFIX, Policy, VaultKey
from keyguard.narrowing import narrowed
from keyguard.policy import covered

if TYPE_CHECKING:
    from keyguard.ledgers._sqlite_budgets import Budgets
    from keyguard.ledgers._sqlite_log import Log
    from keyguard.model import Child, Money, Order

_KEY = "key_id, run_id, policy, expires_at, state, version, parent"


class Keys:
    """The rows of `keys`."""

    def __init__(self, log: Log, budgets: Budgets) -> None:
        self._log, self._budgets, self._children = log, budgets, Children(log)
        ((secret,),) = log.execute("SELECT v FROM meta WHERE k = 'secret'")
        self._secret = bytes(secret)

    def issue(self, policy: Policy, run_id: str | None, child: Child | None = None) -> tuple[VaultKey, tuple[str, ...]]:
        """Make a key, or find the run's (or the child's) and narrow it."""
        if child is not None:
            return self._issue_child(policy, child)
        known = None if run_id is None else self._asked("run_id", run_id)
        if known is not None:
            if known[6] is not None:
                raise ConfigurationError(f"{run_id!r} is the name of a child's budget in this ledger; give the run another id")
            return self._narrow(policy, known)
        key_id, at = os.urandom(8).hex(), self._log.at
        key = VaultKey(key_id, self._token(key_id), policy, run_id, at + policy.expires_in if policy.expires_in else None)
        self._add(key, policy)
        self._budgets.declare(f"refund:{key.scope}", "usd", policy.refund_usd_cap or 0, derived=policy.refund_usd_cap is None)
        self._log.enter("issue", key_id=key_id, scope=key.scope, detail={"policy": policy.stored(), "expires_at": key.expires_at})
        return key, self._day_budget(key)

    def _add(self, key: VaultKey, asked: Policy) -> None:
        stored = json.dumps(asked.stored())
        self._log.execute(
            "INSERT INTO keys (key_id, run_id, scope, policy_name, asked, policy, expires_at, issued_at, state) VALUES (?,?,?,?,?,?,?,?,?)",
            (key.key_id, key.run_id, key.budget, key.policy_name, stored, stored, key.expires_at, self._log.at, key.state),
        )
        self._budgets.declare(key.budget, "usd", asked.run_usd_cap)
        self._budgets.declare(f"calls:{key.budget}", "call", asked.max_calls)
        self._budgets.declare(f"emails:{key.budget}", "email", asked.max_emails)

    # -- children ---------------------------------------------------------------------------------

    def _issue_child(self, asked: Policy, child: Child) -> tuple[VaultKey, tuple[str, ...]]:
        """Make a child's key or find it again; the parent's, where nothing else is asked than an outer install asked for."""
        parent = self.find(key_id=child.parent)
        if parent is None:
            raise ConfigurationError(f"key {child.parent}, in whose budget a child's was to lie, is not in this ledger")
        own = self._children.of_run(child)
        outer = parent if own is None else self.find(key_id=own)
        assert outer is not None
        if self._is_nothing_new(asked, outer):
            return outer, ()
        named = asked if asked.name is not None else asked.model_copy(update={"name": child.policy_name})
        known = own or self._children.known(child)
        if known is None:
            return self._new_child(named, child, parent)
        self._children.entered(known, child.subflow)
        row = self._asked("key_id", known)
        assert row is not None
        return self._narrow(named, row)

    def _is_nothing_new(self, asked: Policy, outer: VaultKey) -> bool:
        if not asked.model_fields_set:
            return True
        earlier = [row for one in outer.chain if (row := self._asked("key_id", one.key_id)) is not None]
        return any(is_same(asked, Policy.restored(json.loads(row[7]))) for row in earlier)

    def _new_child(self, asked: Policy, child: Child, parent: VaultKey) -> tuple[VaultKey, tuple[str, ...]]:
        key_id, own = os.urandom(8).hex(), self._log.at + asked.expires_in if asked.expires_in else None
        run_id = self._children.new_name(parent, child.subflow.name)
        policy = inherited(asked, parent.policy)
        key = VaultKey(
            key_id,
            self._token(key_id),
            policy,
            run_id,
            min(filter(None, (own, parent.expires_at)), default=None),
            parent.state,
            parent=parent,
        )
        self._add(key, asked)
        self._children.add(key, child.subflow, own)
        # Of a child's refunds without a cap of their own nothing is asked but that they fit into its run's.
        self._budgets.declare(f"refund:{key.budget}", "usd", asked.refund_usd_cap)
        detail = {"policy": asked.stored(), "expires_at": key.expires_at, "parent": parent.run_id or parent.key_id}
        self._log.enter("issue", key_id=key_id, scope=key.budget, detail=detail)
        warnings = in_vain(asked, parent, covered(parent.policy, asked.allowed_endpoints or ()))
        return key, (*warnings, *self._day_budget(key))

    # -- changes ----------------------------------------------------------------------------------

    def _day_budget(self, key: VaultKey) -> tuple[str, ...]:
        """Declare the policy's day cap: the least that any of its runs asked for."""
        asked, scope = key.policy.daily_usd_cap, f"policy:{key.policy_name}"
        if asked is None:
            return ()
        known = self._one("SELECT cap, raised FROM budget WHERE scope = ?", scope)
        if known is None or known[0] is None or (asked < known[0] and not known[1]):
            self._budgets.declare(scope, "usd", asked)
            self._log.enter("day_cap", scope=scope, detail={"cap": asked})
        elif asked > known[0]:
            why = "a human has set it" if known[1] else "an earlier run asked for less"
            return (f"daily_usd_cap of policy {key.policy_name!r} stays at {known[0]} micro-USD: {why}",)
        return ()

    def _narrow(self, again: Policy, row: tuple[Any, ...]) -> tuple[VaultKey, tuple[str, ...]]:
        key, asked, is_raised = self._restored(row), Policy.restored(json.loads(row[7])), bool(row[8])
        # Its own, and not what a child takes over besides.
        before = Policy.restored(json.loads(row[2]))
        force, warnings = narrowed(before, asked, again, is_raised=is_raised)
        if force is before:
            # Nothing narrower was asked; the arguments are kept, so that asking the same again is quiet.
            self._log.execute("UPDATE keys SET asked = ? WHERE key_id = ?", (json.dumps(again.stored()), key.key_id))
            return key, warnings
        expires_at = self._children.own_expiry(key)
        if force.expires_in is not None and force.expires_in != before.expires_in:
            expires_at = min(expires_at or float("inf"), self._log.at + force.expires_in)
        self._replace(key, force, expires_at, asked=again, raised=is_raised)
        self._log.enter("narrow", key_id=key.key_id, scope=key.budget, detail={"policy": force.stored(), "expires_at": expires_at})
        found = self.find(key_id=key.key_id)
        assert found is not None
        return found, (*warnings, *self._day_budget(found))

    def _replace(self, key: VaultKey, force: Policy, expires_at: float | None, *, asked: Policy | None, raised: bool) -> None:
        expiry = "expires_at" if key.parent is None else "own_expires_at"
        self._log.execute(
            f"UPDATE keys SET policy = ?, asked = coalesce(?, asked), {expiry} = ?, raised = ?, version = version + 1 WHERE key_id = ?",
            (json.dumps(force.stored()), json.dumps(asked.stored()) if asked else None, expires_at, int(raised), key.key_id),
        )
        self._children.changed(key.key_id)
        self._budgets.declare(key.budget, "usd", force.run_usd_cap)
        self._budgets.declare(f"calls:{key.budget}", "call", force.max_calls)
        self._budgets.declare(f"emails:{key.budget}", "email", force.max_emails)
        if force.refund_usd_cap is not None:
            self._budgets.declare(f"refund:{key.budget}", "usd", force.refund_usd_cap)

    def raise_cap(self, run_id: str | None, cap: Money, by: str, key_id: str | None) -> VaultKey:
        """Set a run's cap, or that of a key, by a human's decision; its expiry starts again."""
        column, value = ("run_id", run_id) if key_id is None else ("key_id", key_id)
        row = self._one(f"SELECT {_KEY} FROM keys WHERE {column} = ?", value)
        if row is None:
            raise ConfigurationError(f"no {'run' if key_id is None else 'key'} {value!r} in this ledger; `keyguard status` lists the runs")
        key = self._restored(row)
        force = Policy.restored(json.loads(row[2])).model_copy(update={"run_usd_cap": cap})
        expires_at = self._log.at + force.expires_in if force.expires_in else self._children.own_expiry(key)
        self._replace(key, force, expires_at, asked=None, raised=True)
        detail = {"cap": cap, "before": key.policy.run_usd_cap, "by": by, "expires_at": expires_at}
        self._log.enter("raise", key_id=key.key_id, scope=key.budget, detail=detail)
        found = self.find(key_id=key.key_id)
        assert found is not None
        return found

    def raise_day_cap(self, policy_name: str, cap: Money, by: str) -> None:
        """Set what all runs of a policy name may spend in a day, by a human's decision, from today on."""
        scope = f"policy:{policy_name}"
        known = self._one("SELECT cap FROM budget WHERE scope = ?", scope)
        if known is None or known[0] is None:
            raise ConfigurationError(
                f"no key of policy {policy_name!r} has a daily_usd_cap in this ledger; `keyguard status` lists the runs"
            )
        self._budgets.declare(scope, "usd", cap)
        self._log.execute("UPDATE budget SET raised = 1 WHERE scope = ?", (scope,))
        self._log.enter("day_cap", scope=scope, detail={"cap": cap, "before": known[0], "by": by})

    def revoke(self, key_id: str | None, run_id: str | None, policy: str | None, label: str | None, state: str, by: str) -> int:
        """End keys, and with each what lies in its budget; returns how many of the target's are ended now."""
        names = (("key_id", key_id), ("run_id", run_id), ("policy_name", policy), ("policy ->> 'agent_run_label'", label))
        column, value = next((c, v) for c, v in names if v is not None)
        rows: list[Any] = self._log.execute(f"SELECT key_id FROM keys WHERE {column} = ?", (value,)).fetchall()
        for (found,) in rows:
            for one in (found, *self._children.below(found)):
                self._end(one, state, by)
        return len(rows)

    def _end(self, key_id: str, state: str, by: str) -> None:
        row = self._one("SELECT scope FROM keys WHERE key_id = ? AND state = 'active'", key_id)
        if row is not None:
            self._log.execute("UPDATE keys SET state = ?, version = version + 1 WHERE key_id = ?", (state, key_id))
            self._log.enter("revoke" if state == "revoked" else "close_key", key_id=key_id, scope=row[0], detail={"by": by})

    def find(self, *, token: str | None = None, key_id: str | None = None, run_id: str | None = None) -> VaultKey | None:
        """Find a key; a forged token finds none."""
        if token is not None:
            key_id = token.removeprefix(TOKEN_PREFIX).partition("_")[0]
            if not hmac.compare_digest(self._token(key_id).encode("utf-8", "surrogatepass"), token.encode("utf-8", "surrogatepass")):
                return None
        column, value = ("run_id", run_id) if key_id is None else ("key_id", key_id)
        row = self._one(f"SELECT {_KEY} FROM keys WHERE {column} = ?", value)
        return None if row is None else self._restored(row)

    def mint(self, key_id: str, by: str) -> str:
        """Make a further token of a key: 256 random bits, of which only the hash is kept."""
        row = self._one("SELECT scope FROM keys WHERE key_id = ?", key_id)
        if row is None:
            raise ConfigurationError(f"no key {key_id!r} in this ledger")
        token = f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}"
        self._log.execute("INSERT INTO minted VALUES (?, ?)", (_digest(token), key_id))
        self._log.enter("mint", key_id=key_id, scope=row[0], detail={"by": by})
        return token

    def minted(self, token: str) -> VaultKey | None:
        """Find the key of a token that was minted; those that `issue` gives are none of them."""
        digest = _digest(token)
        row: tuple[Any, ...] | None = self._log.execute("SELECT digest, key_id FROM minted WHERE digest = ?", (digest,)).fetchone()
        # The look-up may take a time of its own for each hash, of which nobody can choose the beginning; the comparison does not.
        return self.find(key_id=row[1]) if row is not None and hmac.compare_digest(bytes(row[0]), digest) else None

    def latest(self, limit: int, run_id: str | None) -> list[VaultKey]:
        """Return the latest runs' keys, or one's, newest first, behind each those of its children, the deeper behind what they lie in."""
        if run_id is not None:
            found = self.find(run_id=run_id)
            return [] if found is None else self._with_children(found)
        rows: list[Any] = self._log.execute(
            f"SELECT {_KEY} FROM keys WHERE parent IS NULL ORDER BY issued_at DESC, key_id LIMIT ?", (limit,)
        ).fetchall()
        return [key for row in rows for key in self._with_children(self._restored(row))]

    def _with_children(self, key: VaultKey) -> list[VaultKey]:
        rows = self._log.execute(f"SELECT {_KEY} FROM keys WHERE parent = ? ORDER BY issued_at, length(run_id), run_id", (key.key_id,))
        found = [self._restored(row, key) for row in rows.fetchall()]
        return [key, *(below for child in found for below in self._with_children(child))]

    def why(self, order: Order) -> Any:
        """Say why an order's key does not hold money; "" where it does."""
        row = self._one("SELECT state, expires_at, version FROM keys WHERE key_id = ?", order.key_id)
        if row is None:
            return "unknown_key"
        state, expires_at, version = row
        if state != "active":
            return state
        if expires_at is not None and expires_at <= self._log.at:
            return "expired"
        return "" if version == order.version else "stale"

    def _one(self, query: str, value: str | None) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._log.execute(query, (value,)).fetchone()
        return row

    def _asked(self, column: str, value: str) -> tuple[Any, ...] | None:
        return self._one(f"SELECT {_KEY}, asked, raised FROM keys WHERE {column} = ?", value)

    def _restored(self, row: tuple[Any, ...], parent: VaultKey | None = None) -> VaultKey:
        key_id, run_id, stored, expires_at, state, version, parent_id = row[:7]
        policy = Policy.restored(json.loads(stored))
        if parent_id is not None:
            parent = parent or self.find(key_id=parent_id)
            assert parent is not None
            policy = inherited(policy, parent.policy)
        return VaultKey(key_id, self._token(key_id), policy, run_id, expires_at, state, version, parent)

    def _token(self, key_id: str) -> str:
        mac = hmac.new(self._secret, key_id.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        return f"{TOKEN_PREFIX}{key_id}_{urlsafe_b64encode(mac).decode().rstrip('=')}"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
