-- Version 5: the requests of one logical charge have one reservation, and are attempts of it.
-- `n` is the charge's number among the identical ones of its run, -1 where no later request can be another attempt of it.

ALTER TABLE holds ADD COLUMN n INTEGER NOT NULL DEFAULT -1;
ALTER TABLE holds ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE holds ADD COLUMN tries INTEGER NOT NULL DEFAULT 1;
ALTER TABLE holds ADD COLUMN payee TEXT NOT NULL DEFAULT '';
ALTER TABLE holds ADD COLUMN principal TEXT NOT NULL DEFAULT '';
-- Who asked for the charge first.
ALTER TABLE holds ADD COLUMN execution TEXT NOT NULL DEFAULT '';
ALTER TABLE holds ADD COLUMN unit TEXT NOT NULL DEFAULT '';
ALTER TABLE holds ADD COLUMN task TEXT NOT NULL DEFAULT '';
ALTER TABLE holds ADD COLUMN persists INTEGER NOT NULL DEFAULT 0;
ALTER TABLE holds ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';
-- One reservation for each try of a charge: a further request finds out by this that it is none of the first.
CREATE UNIQUE INDEX holds_charge ON holds (identity, n, generation) WHERE n >= 0;

-- Who asked for a charge in each execution of the run, and the reservation that the charge has now; NULL once that was released.
-- Begun with the second request of a charge, or with its first release: most charges are asked for once, and have no row here.
CREATE TABLE slots (
  identity TEXT NOT NULL, n INTEGER NOT NULL, execution TEXT NOT NULL, unit TEXT NOT NULL, task TEXT NOT NULL,
  persists INTEGER NOT NULL, fingerprint TEXT NOT NULL, hold TEXT, generation INTEGER NOT NULL, PRIMARY KEY (identity, n, execution)
) STRICT, WITHOUT ROWID;

-- The calls of a reservation that has more than one; the first has its id. States: R open, U in doubt, S settled, X not executed.
CREATE TABLE attempts (
  id TEXT PRIMARY KEY, hold TEXT NOT NULL, owner TEXT NOT NULL, state TEXT NOT NULL, at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_of ON attempts (hold);
CREATE INDEX attempts_open ON attempts (owner) WHERE state = 'R';

-- Truth that comes late is booked by a row of its own, which reserved nothing: no cap and no key can refuse it.
DROP TRIGGER holds_reserve;
CREATE TRIGGER holds_reserve AFTER INSERT ON holds WHEN NEW.state = 'R' BEGIN
  SELECT RAISE(ABORT, 'kg:key') WHERE NEW.enforce AND NOT EXISTS (
    SELECT 1 FROM keys WHERE key_id = NEW.key_id AND state = 'active' AND version = NEW.version AND (expires_at IS NULL OR expires_at > NEW.at));
  UPDATE bucket SET held = held + NEW.held, peak = max(peak, spent + held + doubt + NEW.held), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.leg0 AND (NOT NEW.enforce OR cap IS NULL OR spent + held + doubt + NEW.held <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> (NEW.leg0 IS NOT NULL);
  UPDATE bucket SET held = held + 1, peak = max(peak, spent + held + 1), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.count_leg AND (NOT NEW.enforce OR cap IS NULL OR spent + held + 1 <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> (NEW.count_leg IS NOT NULL);
END;
DROP TRIGGER holds_reserve_more;
CREATE TRIGGER holds_reserve_more AFTER INSERT ON holds WHEN NEW.leg1 IS NOT NULL AND NEW.state = 'R' BEGIN
  UPDATE bucket SET held = held + NEW.held, peak = max(peak, spent + held + doubt + NEW.held), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.leg1 AND (NOT NEW.enforce OR cap IS NULL OR spent + held + doubt + NEW.held <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> 1;
  UPDATE bucket SET held = held + NEW.held, peak = max(peak, spent + held + doubt + NEW.held), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.leg2 AND (NOT NEW.enforce OR cap IS NULL OR spent + held + doubt + NEW.held <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> (NEW.leg2 IS NOT NULL);
END;
