-- Version 1 of the ledger's schema. Amounts are micro-USD, instants POSIX seconds (UTC), windows UTC dates.

CREATE TABLE meta (k TEXT PRIMARY KEY, v ANY NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
  key_id TEXT PRIMARY KEY, run_id TEXT UNIQUE, scope TEXT NOT NULL, policy_name TEXT NOT NULL,
  asked TEXT NOT NULL, policy TEXT NOT NULL, raised INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT 'active', expires_at REAL, version INTEGER NOT NULL DEFAULT 1, issued_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_by_policy ON keys (policy_name);

-- What a scope may spend in each of its windows; NULL = no cap. `derived`: the cap grows with what the run charged.
CREATE TABLE budget (
  scope TEXT PRIMARY KEY, unit TEXT NOT NULL, cap INTEGER, derived INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- A scope in a window. `top` is the largest cap ever in force, `loose` says that an observing key booked here.
CREATE TABLE bucket (
  id INTEGER PRIMARY KEY, scope TEXT NOT NULL, win TEXT NOT NULL, unit TEXT NOT NULL, cap INTEGER, top INTEGER,
  derived INTEGER NOT NULL DEFAULT 0, loose INTEGER NOT NULL DEFAULT 0,
  spent INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0, doubt INTEGER NOT NULL DEFAULT 0,
  peak INTEGER NOT NULL DEFAULT 0, overrun INTEGER NOT NULL DEFAULT 0, UNIQUE (scope, win)
) STRICT;

-- A reservation. States: R reserved, O open intent, U in doubt, S settled, X released, A adopted by a later one.
-- Its budgets are columns, not a list: reading JSON in the triggers would cost more than their updates.
CREATE TABLE holds (
  id TEXT PRIMARY KEY, key_id TEXT NOT NULL, version INTEGER NOT NULL, scope TEXT NOT NULL,
  leg0 INTEGER, leg1 INTEGER, leg2 INTEGER, count_leg INTEGER,
  vendor TEXT NOT NULL, account TEXT NOT NULL, operation TEXT NOT NULL, method TEXT NOT NULL, pot TEXT NOT NULL,
  object_id TEXT, adopts INTEGER NOT NULL, prior INTEGER NOT NULL, identity TEXT NOT NULL, enforce INTEGER NOT NULL,
  owner TEXT NOT NULL, amount INTEGER NOT NULL, adopted INTEGER NOT NULL DEFAULT 0,
  spent INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL, doubt INTEGER NOT NULL DEFAULT 0, overrun INTEGER NOT NULL DEFAULT 0,
  refundable INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 1, state TEXT NOT NULL, at REAL NOT NULL,
  CHECK (amount >= 0 AND spent >= 0 AND held >= 0 AND doubt >= 0)  -- a negative hold would widen the cap
) STRICT, WITHOUT ROWID;
-- Not for R: each index costs every reserve a page of the write-ahead log.
CREATE INDEX holds_open ON holds (scope, state) WHERE state IN ('O', 'U');

-- What is known of a vendor object that costs this scope money; `alias_of` names the object whose money it is.
-- `filed` is the object's id with its prefix at the end (`3Mtw…_pi`): the ids of one payment's objects lie side by side then.
CREATE TABLE objects (
  scope TEXT NOT NULL, vendor TEXT NOT NULL, account TEXT NOT NULL, filed TEXT NOT NULL, alias_of TEXT,
  own INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0, amount INTEGER NOT NULL DEFAULT 0,
  refunded INTEGER NOT NULL DEFAULT 0, status TEXT NOT NULL DEFAULT '', open_id TEXT, last_id TEXT,
  PRIMARY KEY (scope, vendor, account, filed)
) STRICT, WITHOUT ROWID;

-- The log: append-only, chained by hash, folds into every balance.
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, hold TEXT, key_id TEXT, scope TEXT, operation TEXT, legs TEXT,
  amount INTEGER, spent INTEGER, held INTEGER, doubt INTEGER, detail TEXT NOT NULL, hash BLOB NOT NULL
) STRICT;

-- A reservation is booked on all its budgets or on none; whoever writes, this rule is the file's own.
CREATE TRIGGER holds_reserve AFTER INSERT ON holds BEGIN
  SELECT RAISE(ABORT, 'kg:key') WHERE NEW.enforce AND NOT EXISTS (
    SELECT 1 FROM keys WHERE key_id = NEW.key_id AND state = 'active' AND version = NEW.version AND (expires_at IS NULL OR expires_at > NEW.at));
  UPDATE bucket SET held = held + NEW.held, peak = max(peak, spent + held + doubt + NEW.held), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.leg0 AND (NOT NEW.enforce OR cap IS NULL OR spent + held + doubt + NEW.held <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> (NEW.leg0 IS NOT NULL);
  UPDATE bucket SET held = held + 1, peak = max(peak, spent + held + 1), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.count_leg AND (NOT NEW.enforce OR cap IS NULL OR spent + held + 1 <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> (NEW.count_leg IS NOT NULL);
END;
CREATE TRIGGER holds_reserve_more AFTER INSERT ON holds WHEN NEW.leg1 IS NOT NULL BEGIN
  UPDATE bucket SET held = held + NEW.held, peak = max(peak, spent + held + doubt + NEW.held), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.leg1 AND (NOT NEW.enforce OR cap IS NULL OR spent + held + doubt + NEW.held <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> 1;
  UPDATE bucket SET held = held + NEW.held, peak = max(peak, spent + held + doubt + NEW.held), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.leg2 AND (NOT NEW.enforce OR cap IS NULL OR spent + held + doubt + NEW.held <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> (NEW.leg2 IS NOT NULL);
END;
-- A call counts for good once the vendor may have seen it.
CREATE TRIGGER holds_change AFTER UPDATE OF state, spent, held, doubt ON holds BEGIN
  UPDATE bucket SET spent = spent + NEW.spent - OLD.spent, held = held + NEW.held - OLD.held, doubt = doubt + NEW.doubt - OLD.doubt,
      overrun = overrun + NEW.overrun - OLD.overrun,
      peak = max(peak, spent + held + doubt + NEW.spent - OLD.spent + NEW.held - OLD.held + NEW.doubt - OLD.doubt)
    WHERE id = NEW.leg0;
  UPDATE bucket SET held = held - 1, spent = spent + NEW.sent WHERE id = NEW.count_leg AND OLD.state = 'R' AND NEW.state <> 'R';
END;
CREATE TRIGGER holds_change_more AFTER UPDATE OF spent, held, doubt ON holds WHEN NEW.leg1 IS NOT NULL BEGIN
  UPDATE bucket SET spent = spent + NEW.spent - OLD.spent, held = held + NEW.held - OLD.held, doubt = doubt + NEW.doubt - OLD.doubt,
      overrun = overrun + NEW.overrun - OLD.overrun,
      peak = max(peak, spent + held + doubt + NEW.spent - OLD.spent + NEW.held - OLD.held + NEW.doubt - OLD.doubt)
    WHERE id = NEW.leg1;
  UPDATE bucket SET spent = spent + NEW.spent - OLD.spent, held = held + NEW.held - OLD.held, doubt = doubt + NEW.doubt - OLD.doubt,
      overrun = overrun + NEW.overrun - OLD.overrun,
      peak = max(peak, spent + held + doubt + NEW.spent - OLD.spent + NEW.held - OLD.held + NEW.doubt - OLD.doubt)
    WHERE id = NEW.leg2;
END;
-- What was charged may be refunded, where the refund cap is what the run charged.
CREATE TRIGGER holds_refundable AFTER UPDATE OF refundable ON holds WHEN NEW.refundable <> OLD.refundable BEGIN
  UPDATE bucket SET cap = cap + NEW.refundable - OLD.refundable, top = top + NEW.refundable - OLD.refundable
    WHERE scope = 'refund:' || NEW.scope AND win = '' AND derived;
END;
CREATE TRIGGER holds_keep BEFORE DELETE ON holds BEGIN SELECT RAISE(ABORT, 'kg:append-only'); END;
CREATE TRIGGER entries_keep BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'kg:append-only'); END;
CREATE TRIGGER entries_fixed BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'kg:append-only'); END;
