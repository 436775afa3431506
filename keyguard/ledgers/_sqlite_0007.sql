-- Version 7: a call counts from its reserve on, as units do, and no more once no byte of it has left, or once it is counted elsewhere.
-- Whom a call pays is kept while that may be asked of the vendor, and no longer.

ALTER TABLE presumed ADD COLUMN payee TEXT NOT NULL DEFAULT '';
UPDATE presumed SET payee = (SELECT payee FROM holds WHERE id = hold);
UPDATE holds SET payee = '' WHERE state NOT IN ('R', 'U');
UPDATE bucket SET spent = spent + held, held = 0 WHERE unit = 'call';

-- Charges to each further request of which the vendor gives an error that it keeps, whatever became of them.
CREATE TABLE unanswered (hold TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

DROP TRIGGER holds_reserve;
CREATE TRIGGER holds_reserve AFTER INSERT ON holds WHEN NEW.state = 'R' BEGIN
  SELECT RAISE(ABORT, 'kg:key') WHERE NEW.enforce AND NOT EXISTS (
    SELECT 1 FROM keys WHERE key_id = NEW.key_id AND state = 'active' AND version = NEW.version AND (expires_at IS NULL OR expires_at > NEW.at));
  UPDATE bucket SET held = held + NEW.held, peak = max(peak, spent + held + doubt + NEW.held), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.leg0 AND (NOT NEW.enforce OR cap IS NULL OR spent + held + doubt + NEW.held <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> (NEW.leg0 IS NOT NULL);
  UPDATE bucket SET spent = spent + 1, peak = max(peak, spent + 1), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.count_leg AND (NOT NEW.enforce OR cap IS NULL OR spent + 1 <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> (NEW.count_leg IS NOT NULL);
END;
DROP TRIGGER holds_change;
CREATE TRIGGER holds_change AFTER UPDATE OF spent, held, doubt ON holds BEGIN
  UPDATE bucket SET spent = spent + NEW.spent - OLD.spent, held = held + NEW.held - OLD.held, doubt = doubt + NEW.doubt - OLD.doubt,
      overrun = overrun + NEW.overrun - OLD.overrun,
      peak = max(peak, spent + held + doubt + NEW.spent - OLD.spent + NEW.held - OLD.held + NEW.doubt - OLD.doubt)
    WHERE id = NEW.leg0;
END;
CREATE TRIGGER holds_uncount AFTER UPDATE OF sent ON holds WHEN NEW.sent <> OLD.sent BEGIN
  UPDATE bucket SET spent = spent + NEW.sent - OLD.sent WHERE id = NEW.count_leg;
END;
