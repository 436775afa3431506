-- Version 6: what may come to light later. What is settled at a price of our own, until the vendor says its price; and what was
-- released because the vendor did not show it.

CREATE TABLE estimates (hold TEXT PRIMARY KEY, object TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE presumed (hold TEXT PRIMARY KEY, at REAL NOT NULL) STRICT, WITHOUT ROWID;
