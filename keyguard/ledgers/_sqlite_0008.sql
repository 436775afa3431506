-- Version 8: a child's budget lies in another one, and a reservation of a child's call is booked on all of them, or on none.

-- `parent` is the key whose budget it lies in, `home` the scope of the run that its charges are of; `child` says what asked for it.
-- A child's state and `expires_at` are never better than its parent's, so that a reserve needs to look at its own row only.
ALTER TABLE keys ADD COLUMN parent TEXT;
ALTER TABLE keys ADD COLUMN home TEXT;
ALTER TABLE keys ADD COLUMN child TEXT;
ALTER TABLE keys ADD COLUMN own_expires_at REAL;
CREATE INDEX keys_of_parent ON keys (parent) WHERE parent IS NOT NULL;

-- By which child runs a child's budget was asked for; the columns as of keyguard.model.Subflow.
CREATE TABLE subflows (
  key_id TEXT NOT NULL, run TEXT NOT NULL, call TEXT NOT NULL, caller TEXT NOT NULL, entry TEXT NOT NULL, execution TEXT NOT NULL,
  PRIMARY KEY (key_id, run, entry)
) STRICT, WITHOUT ROWID;

-- The budgets of a reservation for which it has no column, as a JSON list of rows of `bucket`; NULL where there are none.
ALTER TABLE holds ADD COLUMN above TEXT;

CREATE TRIGGER holds_reserve_above AFTER INSERT ON holds WHEN NEW.above IS NOT NULL AND NEW.state = 'R' BEGIN
  UPDATE bucket SET
      held = held + iif(unit = 'usd', NEW.held, 0),
      spent = spent + CASE unit WHEN 'usd' THEN 0 WHEN 'call' THEN 1 ELSE NEW.units END,
      peak = max(peak, spent + held + doubt + CASE unit WHEN 'usd' THEN NEW.held WHEN 'call' THEN 1 ELSE NEW.units END),
      loose = max(loose, NOT NEW.enforce)
    WHERE id IN (SELECT value FROM json_each(NEW.above)) AND (NOT NEW.enforce OR cap IS NULL
      OR spent + held + doubt + CASE unit WHEN 'usd' THEN NEW.held WHEN 'call' THEN 1 ELSE NEW.units END <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> json_array_length(NEW.above);
END;
CREATE TRIGGER holds_change_above AFTER UPDATE OF spent, held, doubt ON holds WHEN NEW.above IS NOT NULL BEGIN
  UPDATE bucket SET spent = spent + NEW.spent - OLD.spent, held = held + NEW.held - OLD.held, doubt = doubt + NEW.doubt - OLD.doubt,
      overrun = overrun + NEW.overrun - OLD.overrun,
      peak = max(peak, spent + held + doubt + NEW.spent - OLD.spent + NEW.held - OLD.held + NEW.doubt - OLD.doubt)
    WHERE unit = 'usd' AND id IN (SELECT value FROM json_each(NEW.above));
END;
CREATE TRIGGER holds_uncount_above AFTER UPDATE OF sent, units ON holds WHEN NEW.above IS NOT NULL BEGIN
  UPDATE bucket SET spent = spent + iif(unit = 'call', NEW.sent - OLD.sent, NEW.units - OLD.units)
    WHERE unit <> 'usd' AND id IN (SELECT value FROM json_each(NEW.above));
END;
