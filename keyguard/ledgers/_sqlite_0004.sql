-- Version 4: calls after which the vendor charges again by itself, outside of every cap.

ALTER TABLE holds ADD COLUMN recurring INTEGER NOT NULL DEFAULT 0;
-- Costs the others nothing: a reservation that is not one has no place in it.
CREATE INDEX holds_recurring ON holds (scope) WHERE recurring = 1;
