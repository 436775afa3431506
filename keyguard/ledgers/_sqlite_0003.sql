-- Version 3: a reservation may count units of the vendor's own besides (e-mails), against a budget of theirs.
-- Of the units there is one figure, `spent`: counted from the reserve on, given back where nothing was bought.

ALTER TABLE holds ADD COLUMN unit_leg INTEGER;
ALTER TABLE holds ADD COLUMN units INTEGER NOT NULL DEFAULT 0;
INSERT INTO budget SELECT 'emails:' || scope, 'email', NULL, 0 FROM keys;

CREATE TRIGGER holds_reserve_units AFTER INSERT ON holds WHEN NEW.unit_leg IS NOT NULL BEGIN
  UPDATE bucket SET spent = spent + NEW.units, peak = max(peak, spent + NEW.units), loose = max(loose, NOT NEW.enforce)
    WHERE id = NEW.unit_leg AND (NOT NEW.enforce OR cap IS NULL OR spent + NEW.units <= cap);
  SELECT RAISE(ABORT, 'kg:cap') WHERE changes() <> 1;
END;
CREATE TRIGGER holds_change_units AFTER UPDATE OF units ON holds WHEN NEW.units <> OLD.units BEGIN
  UPDATE bucket SET spent = spent + NEW.units - OLD.units WHERE id = NEW.unit_leg;
END;
